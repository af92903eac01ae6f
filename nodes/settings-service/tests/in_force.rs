//! Settings of the cluster for services to the outside, changed while a node runs: what its parts get, and when.

use std::{net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use twinbox_alarms::{Alarm, Alarms, Channel, Code, Outbound};
use twinbox_calls::{CallsConfig, CallsDeps, CallsService};
use twinbox_clock::{BootClock, BootInstant};
use twinbox_cluster_settings::{FileValues, Key, Property, Rows, TrunkChange, TrunkRows, schema, set_edit};
use twinbox_config::{AlarmSecrets, FileTrunks, NodeConfig, OwnServices};
use twinbox_gate::Gate;
use twinbox_ids::{Epoch, Incarnation};
use twinbox_mailstore::{MailError, NewMailbox, UserAddress, UserAddresses};
use twinbox_media::{Engine, MediaConfig};
use twinbox_mta::MailOut;
use twinbox_pki::{CertificateAuthority, MemberKind};
use twinbox_prompts::Prompts;
use twinbox_replication_store::Filled;
use twinbox_roles_core::Duty;
use twinbox_settings_service::{SettingsParts, SettingsService, SharedSettings};
use twinbox_store_kit::{Node, eventually, name};
use twinbox_testkit::{Loopback, WebReceiver};
use twinbox_wire::settings::{SettingListRequest, settings_server::Settings};

/// A node that follows the settings of its cluster.
struct Following {
    node: Node,
    settings: SharedSettings,
    alarms: Alarms,
    stop: CancellationToken,
    /// Its store, and files with secrets.
    dir: TempDir,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The part of a node's file about services to the outside: it answers links, and has no secrets.
fn own_services(dir: &Path) -> OwnServices {
    let cluster = "00112233445566778899aabbccddeeff".parse().expect("an id");
    let authority = CertificateAuthority::create(cluster, "example").expect("an authority");
    authority.issue(&name("a"), MemberKind::Node).expect("a certificate").save(dir).expect("saved");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/node.example.toml");
    let text = std::fs::read_to_string(example).expect("the example");
    let text = text
        .replace("/var/lib/twinbox/tls", &dir.display().to_string())
        .replace("\n[links]\n", "\n[links]\nbind = \"127.0.0.1:8443\"\nplain = true\n");
    let file = dir.join("node.toml");
    std::fs::write(&file, text).expect("written");
    NodeConfig::load(&file).unwrap_or_else(|error| panic!("{error}")).services
}

impl Following {
    async fn start() -> Self {
        let dir = TempDir::new().expect("a folder");
        let node = Node::alone(&dir.path().join("store"), "a");
        let media = MediaConfig::new(Ipv4Addr::LOCALHOST.into(), 21_000..=21_099);
        let deps = CallsDeps {
            node: name("a"),
            incarnation: Incarnation::random(),
            mailstore: node.mailstore.clone(),
            prompts: Arc::new(Prompts::load(None, "en").expect("the embedded prompts")),
            media: Engine::start(media).expect("a media engine"),
            clock: BootClock::default(),
        };
        let own = dir.path().join("own");
        std::fs::create_dir(&own).expect("a folder");
        let alarms = Alarms::open(node.store.clone(), node.peers.clone()).await.expect("alarms");
        tokio::spawn({
            let alarms = alarms.clone();
            async move { alarms.serve(None, CancellationToken::new()).await }
        });
        let settings = SharedSettings::open(SettingsParts {
            name: name("a"),
            file: FileValues::default(),
            trunks: FileTrunks::default(),
            wan: false,
            secrets: AlarmSecrets::default(),
            services: own_services(&own),
            mailstore: node.mailstore.clone(),
            peers: node.peers.clone(),
            calls: CallsService::new(CallsConfig::default(), deps),
            alarms: alarms.clone(),
        });
        let (settings, stop) = (settings.expect("settings"), CancellationToken::new());
        tokio::spawn(settings.clone().follow(stop.clone()));
        Self { node, settings, alarms, stop, dir }
    }

    /// Changes settings as another node does: without a look at the files of this one. `None` unsets.
    async fn change(&self, changes: &[(Key, Option<&str>)]) {
        let changes: Vec<_> = changes.iter().map(|(key, value)| (*key, value.map(str::to_owned))).collect();
        let changed = self.node.mailstore.commit(move |draft| {
            let stored = draft.scan(schema::SETTING, &[])?;
            let rows = Rows::of(stored.iter().map(|(key, record)| (key, record)));
            for (register, entries) in rows.changed(&FileValues::default(), &changes).expect("they go together") {
                draft.edit(schema::row_key(register), vec![set_edit(&entries)])?;
            }
            Ok::<(), MailError>(())
        });
        changed.await.expect("committed");
    }

    fn path(&self, file: &str) -> String {
        self.dir.path().join(file).display().to_string()
    }

    async fn wait(&self, what: &str, is_so: impl Fn(&SharedSettings) -> bool) {
        eventually(what, async || is_so(&self.settings)).await;
    }
}

#[tokio::test]
async fn mail_out_follows_the_settings_and_waits_for_a_secret_that_this_node_lacks() {
    let node = Following::start().await;
    let mail_out = node.settings.current(|services| services.mail_out.clone());
    let is_off = || matches!(mail_out(), MailOut::Off);
    let domain = || mail_out().sender().map(|sender| sender.domain.clone());
    assert!(is_off());
    let mut seen = node.settings.watch_services();
    seen.mark_unchanged();

    let route = [
        (Key::MailDomain, Some("vm.example")),
        (Key::MailSmarthost, Some("127.0.0.1:2525")),
        (Key::MailTls, Some("off")),
    ];
    node.change(&route).await;
    node.wait("the sender", |_| domain().as_deref() == Some("vm.example")).await;
    assert!(seen.has_changed().expect("it is open"), "those who watch are told");
    node.change(&[(Key::MailDomain, Some("new.example"))]).await;
    node.wait("another domain", |_| domain().as_deref() == Some("new.example")).await;

    // The other nodes have the file: what this one would send waits, and is no dead letter.
    let password = node.path("password");
    node.change(&[(Key::MailUser, Some("twinbox")), (Key::MailPasswordFile, Some(&password))]).await;
    let waits = || matches!(mail_out(), MailOut::Unusable(reason) if reason.contains(&password));
    node.wait("the reason", |_| waits()).await;
    std::fs::write(&password, "secret\n").expect("written");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    tokio::time::resume();
    node.wait("the sender again", |_| domain().is_some()).await;

    let keys = [Key::MailUser, Key::MailPasswordFile, Key::MailSmarthost, Key::MailTls, Key::MailDomain];
    node.change(&keys.map(|key| (key, None))).await;
    node.wait("no mail out", |_| is_off()).await;
    for key in keys {
        assert_eq!(node.settings.values().text(key), key.default(false), "{}", key.name());
    }
}

#[tokio::test]
async fn trunk_whose_password_this_node_lacked_is_used_once_its_file_is_there() {
    let node = Following::start().await;
    let password = node.path("password");
    let file = format!("password_file={password}");
    let properties = ["addresses=192.0.2.1", "proxy=192.0.2.1", "username=vm", &file];
    let properties = properties.map(|text| Property::setting(text).expect("a property")).to_vec();
    let added = node.node.mailstore.commit(move |draft| {
        let rows = TrunkRows::of([]);
        let (key, edits) = rows.change(&[], "pbx", &TrunkChange::Add(properties.clone())).expect("a trunk");
        draft.edit(key, edits)?;
        Ok::<(), MailError>(())
    });
    added.await.expect("committed");
    let drift = || {
        let alarms = node.alarms.list().expect("a list");
        let of_trunk = |alarm: &Alarm| alarm.code == Some(Code::ConfigDrift) && alarm.detail.contains(&password);
        alarms.into_iter().find(of_trunk)
    };
    node.wait("the reason", |_| drift().is_some_and(|alarm| alarm.cleared.is_none())).await;
    std::fs::write(&password, "secret\n").expect("written");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    tokio::time::resume();
    node.wait("its end", |_| drift().is_none_or(|alarm| alarm.cleared.is_some())).await;
}

#[tokio::test]
async fn a_bucket_is_reached_by_the_settings_of_the_moment_and_refused_while_a_secret_is_missing() {
    let node = Following::start().await;
    let refused = || {
        let services = node.settings.services();
        services.backup_folder("s3://backups/voicemail").err().map(|error| error.to_string())
    };
    assert!(refused().is_some_and(|reason| reason.contains("needs the settings backup.s3")));
    let (id, secret) = (node.path("id"), node.path("secret"));
    std::fs::write(&id, "id").expect("written");
    let changes = [
        (Key::S3Endpoint, Some("http://127.0.0.1:9")),
        (Key::S3AccessKeyFile, Some(id.as_str())),
        (Key::S3SecretKeyFile, Some(secret.as_str())),
    ];
    node.change(&changes).await;
    node.wait("the reason", |_| refused().is_some_and(|reason| reason.contains(&secret))).await;
    assert!(node.settings.services().backup_folder("/srv/backups").is_ok(), "a folder needs no secret");
    std::fs::write(&secret, "secret").expect("written");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    tokio::time::resume();
    node.wait("access", |_| refused().is_none()).await;
    node.change(&changes.map(|(key, _)| (key, None))).await;
    node.wait("no access", |_| refused().is_some()).await;
}

#[tokio::test]
async fn links_begin_with_the_url_of_the_moment() {
    let node = Following::start().await;
    let base = node.settings.current(|services| services.links.as_ref().map(ToString::to_string));
    assert_eq!(base(), None);
    for url in ["https://links.example", "https://new.example/voicemail"] {
        node.change(&[(Key::LinksUrl, Some(url))]).await;
        node.wait(url, |_| base().as_deref() == Some(url)).await;
    }
    node.change(&[(Key::LinksUrl, None)]).await;
    node.wait("no links", |_| base().is_none()).await;
}

#[tokio::test]
async fn lack_of_a_mailbox_for_postmaster_is_reported_while_mail_has_a_domain() {
    let node = Following::start().await;
    let service = SettingsService::new(node.settings.clone());
    let is_lacking = async || {
        let reply = service.setting_list(Request::new(SettingListRequest {})).await;
        reply.expect("a list").into_inner().no_postmaster
    };
    node.node.store.set_filled(Filled::Complete).await.expect("a mark");
    assert!(!is_lacking().await, "no mail is taken");
    node.change(&[(Key::MailDomain, Some("vm.example"))]).await;
    node.wait("the domain", |settings| settings.services().identity.is_some()).await;
    assert!(is_lacking().await);
    let aliases = vec![UserAddress::alias("postmaster").expect("an alias")];
    let addresses = UserAddresses { mail: None, aliases };
    let new = NewMailbox { addresses, ..NewMailbox::new("1001", "284617") };
    node.node.mailstore.create(new).await.expect("a mailbox");
    assert!(!is_lacking().await);
}

#[tokio::test]
async fn alarms_go_to_the_receiver_that_is_set() {
    let node = Following::start().await;
    // This node holds the duty throughout.
    let gate = Gate::new(Duty::Notifier);
    let epoch = Epoch { generation: 0, number: 1, node: name("a") };
    gate.open(&epoch, BootInstant::now() + Duration::from_secs(3_600));
    let outbound = Outbound::new("example", node.alarms.clone(), gate);
    tokio::spawn(node.settings.clone().deliver_alarms(outbound, node.stop.clone()));
    let loopback = Loopback::claim();
    let receivers = [1, 2].map(|last| {
        let place = loopback.place(last);
        (format!("http://{}/alarms", place.port(8080)), WebReceiver::open(&place, 8080))
    });
    let subjects = ["first", "second"];
    for ((url, _), subject) in receivers.iter().zip(subjects) {
        node.change(&[(Key::WebhookUrl, Some(url))]).await;
        node.wait("the receiver", |settings| settings.values().text(Key::WebhookUrl) == url).await;
        node.alarms.raise(Code::Clock, subject, "an hour ahead");
        let delivered = |alarm: &Alarm| alarm.subject == subject && alarm.due(Channel::Webhook).is_empty();
        node.wait("its delivery", |_| node.alarms.list().expect("a list").iter().any(delivered)).await;
    }
    for ((_, receiver), subject) in receivers.iter().zip(subjects) {
        let alarms = receiver.got().into_iter().map(|(_, body)| body["alarm"].clone());
        let got: Vec<_> =
            alarms.filter(|alarm| alarm["code"] == "clock").map(|alarm| alarm["subject"].clone()).collect();
        assert_eq!(got, [subject], "each alarm went to the receiver that was set then");
    }
    node.change(&[(Key::WebhookUrl, None)]).await;
    node.wait("no receiver", |settings| settings.channels().is_empty()).await;
}
