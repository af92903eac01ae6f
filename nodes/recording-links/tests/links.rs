//! Links over a real store and real sockets.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use twinbox_clock::wall;
use twinbox_devices::{Device, DeviceChange, KindName, LinkBase, LinkKey, link};
use twinbox_ids::{CallId, ClusterId, DeviceId, Incarnation, MessageId, NodeName, Timestamp};
use twinbox_mailstore::{Codec, Mailstore, MailstoreSettings, Mark, NewMailbox, RecordingMeta, Rule, time};
use twinbox_pki::{CertificateAuthority, MemberKind, NodeIdentity};
use twinbox_recording_links::{LinkListener, RecordingLinks};
use twinbox_replication_peer::{PeerConfig, Peers};
use twinbox_replication_store::{Filled, Store, StoreConfig};

const SOON: Duration = Duration::from_secs(20);
const HOUR_MS: u64 = 3_600 * 1_000;
/// Connections that a node takes at the same time.
const CONNECTIONS: usize = 256;

/// A node that serves links, with a message of a mailbox that has a webhook.
struct Rig {
    store: Store,
    mailstore: Mailstore,
    device: Device,
    key: LinkKey,
    message: MessageId,
    address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<()>,
    _dir: TempDir,
}

/// An answer: status, head in lower case, body.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Rig {
    async fn new() -> Self {
        let dir = TempDir::new().expect("a folder");
        let (name, tls): (NodeName, _) = ("a".parse().expect("a name"), dir.path().join("tls"));
        std::fs::create_dir(&tls).expect("a folder");
        let authority = CertificateAuthority::create(ClusterId(7), "test").expect("an authority");
        authority.issue(&name, MemberKind::Node).expect("a certificate").save(&tls).expect("saved");
        let config = StoreConfig { dir: dir.path().join("store"), node: name.clone(), reserve_bytes: 0 };
        let store = Store::open(config).expect("a store");
        let config = PeerConfig {
            node: name.clone(),
            cluster: ClusterId(7),
            peers: vec![],
            ack_timeout: Duration::from_millis(250),
            tls: Arc::new(NodeIdentity::load(&tls).expect("loaded")),
        };
        let peers = Peers::new(config, store.clone());
        let mailstore = Mailstore::new(store.clone(), peers, MailstoreSettings::new(name, Incarnation::random()));

        let new = NewMailbox { pin: None, ..NewMailbox::new("1001", "") };
        let mailbox = mailstore.create(new).await.expect("a mailbox").0.id;
        let setting = |text: &&str| DeviceChange::parse(text, KindName::Webhook, &[]).expect(text);
        let settings: Vec<_> =
            ["url=https://example.com/hook", "secret=0123456789abcdef", "link=yes"].iter().map(setting).collect();
        let device = Device::new(mailbox, DeviceId::random(), "hook", KindName::Webhook, &settings);
        let device = device.expect("a device");
        mailstore.add_device(device.clone()).await.expect("added");
        assert_eq!(mailstore.link_key(mailbox, device.id).expect("readable"), None);
        let key = mailstore.link_key_or_new(mailbox, device.id).await.expect("made").expect("a key");
        let meta =
            RecordingMeta { mailbox, caller: None, caller_name: None, codec: Codec::Pcmu, call: CallId::random() };
        let live = mailstore.begin_recording(meta).await.expect("a recording");
        live.append(0, Bytes::from(audio())).expect("taken");
        let message = live.file().await.expect("filed").message;

        let listener = LinkListener::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
        let (address, stop) = (listener.address(), CancellationToken::new());
        let server = tokio::spawn(RecordingLinks::new(mailstore.clone(), None).serve(listener, stop.clone()));
        Self { store, mailstore, device, key, message, address, stop, server, _dir: dir }
    }

    /// Path and query of the link in a notification that was sent this many hours ago.
    fn link(&self, hours_ago: u64) -> String {
        let base: LinkBase = "http://links.test".parse().expect("a base");
        let at = time(Timestamp(wall().0 - hours_ago * HOUR_MS));
        let url = link::url(&base, &self.device, &self.key, self.message, at).expect("a link").into_revealed();
        url.strip_prefix("http://links.test").expect("the base").to_owned()
    }

    async fn try_ask(&self, method: &str, target: &str, headers: &str) -> io::Result<Answer> {
        let mut stream = TcpStream::connect(self.address).await?;
        let request = format!("{method} {target} HTTP/1.1\r\nHost: links.test\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("the node closes the connection")?;
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        Ok(Answer { status, head, body: bytes[end + 4..].to_vec() })
    }

    async fn get(&self, target: &str, headers: &str) -> Answer {
        self.try_ask("GET", target, headers).await.expect("an answer")
    }

    async fn allow(&self, audio_out: u64) {
        let rules = vec![(Rule::AudioOut, Some(audio_out))];
        self.mailstore.change_class("default", rules).await.expect("changed");
    }
}

/// Two seconds.
fn audio() -> Vec<u8> {
    (0..16_000_u32).map(|i| (i % 251) as u8 ^ (i / 251) as u8).collect()
}

#[tokio::test]
async fn link_gives_the_recording_or_a_range_of_it() {
    let rig = Rig::new().await;
    let link = rig.link(0);
    let lacking = rig.get(&link, "").await;
    assert_eq!(lacking.status, 503, "the node may lack records");
    assert!(lacking.head.contains("\r\nretry-after: "), "{}", lacking.head);
    rig.store.set_filled(Filled::Complete).await.expect("set");

    let whole = rig.get(&link, "").await;
    assert_eq!(whole.status, 200);
    for header in [
        "content-type: audio/wav",
        "cache-control: no-store",
        "referrer-policy: no-referrer",
        "x-content-type-options: nosniff",
        "accept-ranges: bytes",
        "connection: close",
        &format!("content-length: {}", whole.body.len()),
    ] {
        assert!(whole.head.contains(&format!("\r\n{header}")), "no {header}: {}", whole.head);
    }
    assert!(whole.body.starts_with(b"RIFF") && whole.body.windows(16_000).any(|part| part == audio()));
    let head = rig.try_ask("HEAD", &link, "").await.expect("an answer");
    assert!(head.status == 200 && head.body.is_empty());
    assert!(head.head.contains(&format!("\r\ncontent-length: {}", whole.body.len())), "{}", head.head);

    let part = rig.get(&link, "Range: bytes=100-199\r\n").await;
    assert_eq!((part.status, part.body.as_slice()), (206, &whole.body[100..200]));
    let range = format!("\r\ncontent-range: bytes 100-199/{}", whole.body.len());
    assert!(part.head.contains(&range), "{}", part.head);
    assert_eq!(rig.get(&link, "Range: bytes=999999-\r\n").await.status, 416);
    assert_eq!(rig.get(&link, "Range: bytes=100-199\r\nIf-Range: \"x\"\r\n").await.status, 200);
    let post = rig.try_ask("POST", &link, "Content-Length: 0\r\n").await.expect("an answer");
    assert!(post.status == 405 && post.head.contains("\r\nallow: get, head"), "{}", post.head);
}

#[tokio::test]
async fn every_link_that_gives_nothing_has_the_same_answer() {
    let rig = Rig::new().await;
    rig.store.set_filled(Filled::Complete).await.expect("set");
    let (link, mailbox) = (rig.link(0), rig.device.mailbox);
    let (start, last) = link.split_at(link.len() - 1);
    let forged = format!("{start}{}", if last == "0" { "1" } else { "0" });
    let refused = rig.get(&forged, "").await;
    assert_eq!(refused.status, 404);
    let same = async |target: &str, what: &str| {
        let answer = rig.get(target, "").await;
        let without_date = |head: &str| -> Vec<String> {
            head.lines().filter(|line| !line.starts_with("date: ")).map(str::to_owned).collect()
        };
        assert_eq!(without_date(&answer.head), without_date(&refused.head), "{what}");
        assert_eq!(answer.body, refused.body, "{what}");
    };
    let given = async |what: &str| assert_eq!(rig.get(&link, "").await.status, 200, "{what}");
    given("as sent").await;
    same(&rig.link(25), "expired").await;
    same("/", "no link").await;
    same(&link.replace(&rig.message.to_string(), &MessageId(1).to_string()), "another message").await;
    // All that the receiver of a webhook knows is the device's secret.
    let secret: [u8; 32] = *b"0123456789abcdef0123456789abcdef";
    let base: LinkBase = "http://links.test".parse().expect("a base");
    let own = link::url(&base, &rig.device, &LinkKey::new(secret), rig.message, time(wall())).expect("a link");
    same(own.reveal().strip_prefix("http://links.test").expect("the base"), "signed by its receiver").await;
    let again = rig.mailstore.link_key_or_new(mailbox, rig.device.id).await.expect("readable");
    assert_eq!(again, Some(rig.key.clone()), "one key for a device");

    rig.allow(0).await;
    same(&link, "audio stays in the cluster").await;
    rig.allow(1).await;
    given("audio may leave").await;
    rig.mailstore.mark(mailbox, rig.message, Mark::Deleted).await.expect("marked");
    same(&link, "deleted message").await;
    rig.mailstore.mark(mailbox, rig.message, Mark::Undeleted).await.expect("marked");
    given("undeleted message").await;
    rig.mailstore.remove_device(mailbox, rig.device.id).await.expect("removed");
    same(&link, "removed device").await;
    assert_eq!(rig.mailstore.link_key_or_new(mailbox, rig.device.id).await.expect("readable"), None);
}

#[tokio::test]
async fn connections_are_limited_and_end_at_a_stop() {
    let rig = Rig::new().await;
    rig.store.set_filled(Filled::Complete).await.expect("set");
    let link = rig.link(0);
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(TcpStream::connect(rig.address).await.expect("connected"));
    }
    assert!(rig.try_ask("GET", &link, "").await.is_err(), "closed without an answer");
    silent.truncate(CONNECTIONS / 2);
    timeout(SOON, async {
        while !rig.try_ask("GET", &link, "").await.is_ok_and(|answer| answer.status == 200) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("there is room again");
    rig.stop.cancel();
    timeout(SOON, rig.server).await.expect("it ends in time").expect("it ends well");
    let mut rest = Vec::new();
    // An end or a reset: either way the connection is closed.
    let _ = timeout(SOON, silent[0].read_to_end(&mut rest)).await.expect("closed");
    assert!(rest.is_empty());
}
