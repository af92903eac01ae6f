use std::{
    ffi::{OsStr, OsString},
    io::Write,
    os::unix::ffi::OsStrExt,
    path::Path,
};

use twinbox_cluster_settings::{Key, Property, TrunkChange, TrunkRows, Values, schema};
use twinbox_ids::{Origin, Stamp};
use twinbox_pki::{CertificateAuthority, MemberKind};
use twinbox_replication_core::Record;

use super::*;

pub(super) fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(super) fn load_node(text: &str) -> Result<NodeConfig, ConfigError> {
    let tls = certificates("a", MemberKind::Node);
    NodeConfig::from_table(Path::new("node.toml"), with_certificates(text, tls.path()))
}

/// A folder with the certificate of this member of the example cluster.
fn certificates(name: &str, kind: MemberKind) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let id = "00112233445566778899aabbccddeeff".parse().expect("an id");
    let ca = CertificateAuthority::create(id, "example").expect("an authority");
    ca.issue(&name.parse().expect("a name"), kind).expect("a certificate").save(dir.path()).expect("saved");
    dir
}

fn with_certificates(text: &str, dir: &Path) -> toml::Table {
    let dir = dir.display().to_string();
    text.replace("/var/lib/twinbox/tls", &dir).replace("/var/lib/twinbox-witness/tls", &dir).parse().expect("TOML")
}

#[test]
fn the_commented_examples_load() {
    let node = load_node(&example("node.example.toml")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(node.name.as_str(), "a");
    assert_eq!(node.calls.trunks[0].mwi.as_deref(), Some("sip:{mailbox}@10.0.0.10"));
    let tls = certificates("w", MemberKind::Witness);
    let table = with_certificates(&example("witness.example.toml"), tls.path());
    let witness = WitnessConfig::from_table(Path::new("w"), table).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(witness.clusters.len(), 1);
}

#[test]
fn new_mailboxes_have_the_settings_of_voicemail() {
    let text = example("node.example.toml")
        .replace("timezone = \"UTC\"", "timezone = \"Europe/Berlin\"")
        .replace("max_messages = 200", "max_messages = 7")
        .replace("max_message_seconds = 300", "max_message_seconds = 9");
    let node = load_node(&text).unwrap_or_else(|e| panic!("{e}"));
    let usual = usual_mailbox(&node.shared_values());
    assert_eq!((usual.timezone.as_str(), usual.language.as_str()), ("Europe/Berlin", "en"));
    assert_eq!((usual.quota.max_messages, usual.quota.max_message_ms), (7, 9_000));
    assert!(usual.pin.is_none());
}

/// Calls have one set of defaults, and the example shows it.
#[test]
fn calls_have_the_same_defaults_in_the_program_the_file_and_the_example() {
    let defaults = twinbox_calls::CallsConfig::default();
    let text = example("node.example.toml");
    let shown = load_node(&text).unwrap_or_else(|e| panic!("{e}")).calls;
    let as_by_default = |calls: &twinbox_calls::CallsConfig| {
        let (listeners, trunks, rtp) = (calls.listeners.clone(), calls.trunks.clone(), calls.rtp.clone());
        twinbox_calls::CallsConfig { listeners, trunks, rtp, ..defaults.clone() }
    };
    assert_eq!(shown, as_by_default(&shown));
    let bare: String = ["sip", "voicemail"].iter().fold(text, |text, section| {
        let (before, rest) = text.split_once(&format!("\n[{section}]\n")).expect("the section is there");
        let (_, after) = rest.split_once("\n[").expect("another follows");
        format!("{before}\n[{after}")
    });
    let bare = load_node(&bare).unwrap_or_else(|e| panic!("{e}")).calls;
    assert_eq!(bare, as_by_default(&bare));
}

/// Every key that the reader knows is in the example, so that each new key is documented.
#[test]
fn the_example_has_every_key() {
    let text = example("node.example.toml");
    for source in [
        include_str!("node.rs"),
        include_str!("calls.rs"),
        include_str!("shared.rs"),
        include_str!("witness.rs"),
        include_str!("alarms.rs"),
        include_str!("mail.rs"),
        include_str!("links.rs"),
        include_str!("backup.rs"),
        include_str!("services.rs"),
    ] {
        for call in [
            "text(\"",
            "path(\"",
            "parse(\"",
            "require(\"",
            "word(\"",
            "number(\"",
            "flag(\"",
            "String>(\"",
            "Addr>(\"",
        ] {
            for found in source.split(call).skip(1) {
                let key = found.split('"').next().unwrap_or_default();
                assert!(text.contains(&format!("{key} = ")), "'{key}' is not in deploy/node.example.toml");
            }
        }
    }
}

#[test]
fn all_mistakes_are_reported_together_each_with_its_key_and_remedy() {
    let text = example("node.example.toml")
        .replace("name = \"a\"\n# Messages", "name = \"A!\"\n# Messages")
        .replace("drain_seconds = 30", "drain_secnds = 30")
        .replace("bind = \"127.0.0.1:9090\"", "bind = 9090")
        .replace("timezone = \"UTC\"", "timezone = \"Mars/Base\"")
        .replace("# dir = \"/usr/share/asterisk/sounds\"", "dir = \"/nowhere/at-all\"")
        .replace("/var/lib/twinbox/tls", "/nowhere/tls")
        .replace("redirect = \"first\"", "redirect = \"middle\"")
        .replace("10.0.1.0/24", "10.0.1.0/99")
        .replace("ports = \"10000-19999\"", "ports = \"20-10\"");
    let error = load_node(&text).expect_err("nine mistakes");
    let report = error.to_string();
    for part in [
        "cluster.tls_dir: ",
        "prompts.dir: ",
        "node.name: 'A!'",
        "node.drain_secnds: is not a key of this section; did you mean 'drain_seconds'?",
        "metrics.bind: '9090' will not do",
        "voicemail.timezone: 'Mars/Base'",
        "sip.redirect: 'middle' is not one of first, last",
        "trunk[0].addresses: '10.0.1.0/99'",
        "rtp.ports: '20-10'",
    ] {
        assert!(report.contains(part), "no '{part}' in:\n{report}");
    }
    assert!(report.lines().all(|line| line.starts_with("node.toml: ")), "{report}");
}

#[test]
fn empty_paths_and_addresses_of_no_host_are_refused() {
    let text = example("node.example.toml");
    let (data_dir, seal_secret) =
        ("data_dir = \"/var/lib/twinbox\"", "seal_secret = \"/var/lib/twinbox/seal.key\"");
    for (from, to, expected) in [
        (data_dir, "data_dir = \"\"", "node.data_dir: is empty: write the folder for this node's data"),
        (seal_secret, "seal_secret = \" \"", "node.seal_secret: is empty: write a path, or leave"),
        (
            "\"10.0.0.2:7070\"",
            "\"0.0.0.0:7070\"",
            "cluster.member[1].address: '0.0.0.0:7070' is no address of one machine",
        ),
        (
            "\"10.0.0.2:7070\"",
            "\"[::]:7070\"",
            "cluster.member[1].address: '[::]:7070' is no address of one machine",
        ),
        ("\"10.0.0.2:7070\"", "\"10.0.0.2\"", "cluster.member[1].address: '10.0.0.2' is not HOST:PORT"),
    ] {
        assert!(text.contains(from), "no '{from}' in the example");
        let report = load_node(&text.replace(from, to)).expect_err(to).to_string();
        assert!(report.contains(expected), "no '{expected}' in:\n{report}");
    }
}

#[test]
fn rtp_serves_the_families_of_the_listeners() {
    let text = example("node.example.toml");
    let with = |listener: &str, rtp: &str| {
        let listener = format!("bind = \"{listener}\"");
        load_node(&text.replace("bind = \"0.0.0.0:5060\"", &listener).replace("bind = \"0.0.0.0\"\n", rtp))
    };
    for (listener, rtp, bound) in [
        ("0.0.0.0:5060", "", Some("0.0.0.0")),
        ("[::]:5060", "", Some("::")),
        ("[2001:db8::1]:5060", "", Some("::")),
        ("[::]:5060", "bind = \"10.0.0.1\"\n", Some("10.0.0.1")),
        ("[2001:db8::1]:5060", "bind = \"10.0.0.1\"\n", None),
    ] {
        match (with(listener, rtp), bound) {
            (Ok(node), Some(bound)) => assert_eq!(node.calls.rtp.bind.to_string(), bound, "{listener} {rtp}"),
            (Err(error), None) => assert!(error.to_string().contains("rtp.bind: is an IPv4 address"), "{error}"),
            (loaded, _) => panic!("{listener} {rtp}: {:?}", loaded.map(|node| node.calls.rtp)),
        }
    }
}

/// Builds for tests accept seconds, all others a day at least.
#[test]
fn grace_that_is_too_short_for_audio_on_its_way_is_refused() {
    let least = if cfg!(debug_assertions) { 1 } else { 86_400 };
    let with = |seconds: i64| {
        let grace = format!("deleted_grace_seconds = {seconds}");
        load_node(&example("node.example.toml").replace("deleted_grace_seconds = 2592000", &grace))
    };
    let report = with(least - 1).expect_err("too short").to_string();
    let text = format!("voicemail.deleted_grace_seconds: is {}, expected a whole number from {least}", least - 1);
    assert!(report.contains(&text), "{report}");
    let config = with(least).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.shared_values().number(Key::DeletedGraceSeconds), u64::try_from(least).expect("positive"));
}

/// `twinbox setting set` and the file have one check; what the file leaves out is no first value of the cluster.
#[test]
fn shared_settings_of_the_file_are_those_that_it_names() {
    let text = example("node.example.toml");
    let full = load_node(&text).unwrap_or_else(|e| panic!("{e}"));
    for key in Key::ALL {
        assert!(
            text.contains(&format!("{} = ", key.name().rsplit('.').next().unwrap_or_default())),
            "{}",
            key.name()
        );
    }
    assert_eq!(full.shared.get(Key::TrapReceivers), Some("10.0.0.20,10.0.0.21:162"));
    assert_eq!(full.shared.get(Key::WebhookUrl), Some("http://10.0.0.20:8080/twinbox"));
    let short = load_node(&text.replace("pin_tries = 3\n", "\n")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(short.shared.get(Key::PinTries), None);
    assert_eq!(short.shared_values().number(Key::PinTries), 3);
    let report = load_node(&text.replace("pin_tries = 3", "pin_tries = 99")).expect_err("too many").to_string();
    let checked = Key::PinTries.check("99").expect_err("too many").to_string();
    assert!(report.contains(&format!("voicemail.pin_tries: {checked}")), "{report}");
    let report = load_node(&text.replace("pin_tries = 3", "pin_trys = 3")).expect_err("a typing error").to_string();
    assert!(
        report.contains("voicemail.pin_trys: is not a key of this section; did you mean 'pin_tries'?"),
        "{report}"
    );
    let both = text.replace("pilot_ask = [\"*98\"]", "pilot_ask = [\"*97\"]");
    assert!(load_node(&both).expect_err("one number, two menus").to_string().contains("'*97' is in sip.pilot and"));
}

/// A section whose receivers moved into the cluster keeps its secrets, and they are not printed.
#[test]
fn secrets_of_receivers_stay_in_the_file_without_them() {
    let text = example("node.example.toml");
    let bare = text
        .replace("url = \"http://10.0.0.20:8080/twinbox\"", "authorization = \"Bearer s3cret\"")
        .replace("community = \"public\"", "community = \"c0mmunity\"")
        .replace("receivers = [\"10.0.0.20\", \"10.0.0.21:162\"]\n", "\n");
    let config = load_node(&bare).unwrap_or_else(|e| panic!("{e}"));
    let printed = format!("{config:?}");
    assert!(!printed.contains("s3cret") && !printed.contains("c0mmunity"), "{printed}");
    let none = config.alarms.secrets.receivers(&config.shared_values(), &config.name);
    assert!(none.0.channels().is_empty() && none.1.is_empty(), "{none:?}");
    let set = Values::of([(Key::TrapReceivers, "10.0.0.9")], false);
    assert_eq!(config.alarms.secrets.receivers(&set, &config.name).0.channels().len(), 1, "the community is here");
    let (found, mistakes) = AlarmSecrets::default().receivers(&set, &config.name);
    assert!(
        found.traps.is_none() && mistakes.first().is_some_and(|mistake| mistake.key == "alarms.trap.community")
    );
}

/// The `[[trunk]]` of the example with these lines instead of its account.
fn with_account(lines: &str) -> String {
    example("node.example.toml").replace("username = \"twinbox\"\npassword = \"change me\"", lines)
}

#[test]
fn a_trunks_password_is_the_nodes_own_before_it_is_the_clusters() {
    let mut secret = tempfile::NamedTempFile::new().expect("a file");
    writeln!(secret, "s3cret").expect("written");
    let path = secret.path().display().to_string();
    let shared = |file: &str| format!("username = \"shared\"\npassword_file = \"{file}\"");
    // The cluster's trunk, as another node's file brought it.
    let trunk =
        |lines: &str| load_node(&with_account(lines)).unwrap_or_else(|e| panic!("{e}")).trunks.trunks()[0].clone();
    let (account, none) = (trunk(&shared(&path)), trunk(""));
    assert_eq!(account.get(Property::PasswordFile), Some(path.as_str()));
    assert!(trunk("password = \"change me\"").settings().all(|setting| !setting.contains("change")));
    let mut lost = account.clone();
    lost.set(Property::PasswordFile, Some("/nowhere/pbx".to_owned()));
    let own = "username = \"node-a\"\npassword = \"own\"";
    for (what, lines, of_cluster, username, password, part) in [
        ("of the cluster", "", &account, "shared", Some("s3cret"), ""),
        ("of this node", own, &account, "node-a", Some("own"), ""),
        ("of this node, where the cluster's is lost", own, &lost, "node-a", Some("own"), ""),
        ("the password alone", "password = \"own\"", &lost, "shared", Some("own"), ""),
        ("lost", "", &lost, "", None, "password_file '/nowhere/pbx'"),
        ("no account", "", &none, "", None, ""),
    ] {
        let config = load_node(&with_account(lines)).unwrap_or_else(|e| panic!("{e}"));
        let key = schema::trunk_key("pbx");
        let mut row = Record::new();
        let change =
            TrunkRows::default().change(std::slice::from_ref(of_cluster), "pbx", &TrunkChange::Set(vec![]));
        for (edit, wall) in change.expect("a change").1.into_iter().zip(1..) {
            let stamp = Stamp { wall, counter: 0, origin: Origin(1) };
            row.merge(edit.delta(&row, stamp, &config.name));
        }
        let found = config.trunks.in_force(&TrunkRows::of([(&key, &row)]));
        let trunk = found.trunks.first().unwrap_or_else(|| panic!("{what}: {found:?}"));
        assert_eq!(trunk.username.as_deref().unwrap_or_default(), username, "{what}");
        assert_eq!(trunk.password.as_ref().map(|password| password.reveal().as_str()), password, "{what}");
        let mistake = found.mistakes.get("pbx").map_or("", String::as_str);
        assert!(mistake.contains(part) && mistake.is_empty() == part.is_empty(), "{what}: {mistake}");
    }
}

/// The rest of a trunk whose other keys are the cluster's is no trunk that a node offers.
#[test]
fn a_trunk_with_a_password_alone_is_only_that() {
    let text = example("node.example.toml");
    let (before, rest) = text.split_once("[[trunk]]").expect("a trunk");
    let (_, after) = rest.split_once("\n[voicemail]").expect("what follows");
    let with = |trunk: &str| load_node(&format!("{before}[[trunk]]\n{trunk}\n[voicemail]{after}"));
    let config = with("name = \"pbx\"\nusername = \"a\"\npassword = \"p\"").unwrap_or_else(|e| panic!("{e}"));
    assert!(config.trunks.trunks().is_empty() && config.calls.trunks.is_empty());
    for (trunk, part) in [
        ("name = \"pbx\"", "trunk[0].addresses: is empty"),
        ("name = \"pbx\"\naddresses = [\"10.0.0.1\"]\nmwi = \"sip:x\"", "trunk[0].mwi: is not a SIP URI"),
        (
            "name = \"pbx\"\naddresses = [\"10.0.0.1\"]\nregister = 5",
            "trunk[0].register: is 5, expected true or false",
        ),
        ("name = \"pbx\"\nadress = \"10.0.0.1\"", "trunk[0].adress: is not a key of this section"),
    ] {
        let report = with(trunk).expect_err(trunk).to_string();
        assert!(report.contains(part), "{report}");
    }
}

#[test]
fn more_calls_than_ports_are_refused() {
    let text = example("node.example.toml").replace("ports = \"10000-19999\"", "ports = \"10000-10099\"");
    let report = load_node(&text).expect_err("500 calls in 50 ports").to_string();
    assert!(report.contains("sip.max_calls: is 500, but rtp.ports has room for 50"), "{report}");
}

#[test]
fn the_environment_overrides_and_a_secret_comes_from_its_file() {
    let mut secret = tempfile::NamedTempFile::new().expect("a file");
    writeln!(secret, "s3cret").expect("written");
    let tls = certificates("b", MemberKind::Node);
    let text = example("node.example.toml")
        .replace("/var/lib/twinbox/tls", &tls.path().display().to_string())
        .replace("password = \"change me\"", &format!("password_file = \"{}\"", secret.path().display()));
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    let env =
        [("TWINBOX_SIP__MAX_CALLS", "7"), ("TWINBOX_NODE__NAME", "b"), ("TWINBOX_SOCKET", "/x"), ("HOME", "/")];
    let mut env: Vec<(OsString, OsString)> = env.map(|(name, value)| (name.into(), value.into())).into();
    // A shell in a folder with a Latin-1 name has such a variable.
    env.push(("OLDPWD".into(), OsStr::from_bytes(b"/srv/caf\xe9").into()));
    let table = read(file.path(), env.into_iter()).expect("read");
    let config = NodeConfig::from_table(file.path(), table).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((config.calls.max_calls, config.name.as_str()), (7, "b"));
    let password = config.calls.trunks[0].password.clone().expect("a password");
    assert_eq!(password.reveal(), "s3cret");

    let bytes = [("TWINBOX_NODE__NAME".into(), OsStr::from_bytes(b"caf\xe9").into())];
    let report = read(file.path(), bytes.into_iter()).expect_err("no text").to_string();
    assert!(report.contains("TWINBOX_NODE__NAME is not UTF-8"), "{report}");
}

#[test]
fn missing_values_are_named() {
    let report = load_node("").expect_err("empty").to_string();
    for key in ["node.name: is missing", "node.data_dir: is missing", "cluster.id: is missing", "sip.listener"] {
        assert!(report.contains(key), "no '{key}' in:\n{report}");
    }
}

/// Every key of a node's file is in exactly one row of the planes table of ARCHITECTURE.md.
#[test]
fn every_setting_is_in_one_plane() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let table: String = text
        .split("## Planes")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .into_iter()
        .flat_map(str::lines)
        .filter(|line| line.starts_with('|'))
        .collect();
    let example: toml::Table = example("node.example.toml").parse().expect("TOML");
    let mut keys = Vec::new();
    for (section, value) in &example {
        match value {
            // Its keys are comments in the example.
            toml::Value::Table(entries) if entries.is_empty() => {
                assert!(
                    table.contains(&format!("`{section}.")),
                    "[{section}] in the planes table of ARCHITECTURE.md"
                );
            }
            toml::Value::Table(entries) => keys.extend(entries.keys().map(|key| format!("{section}.{key}"))),
            _ => keys.push(section.clone()),
        }
    }
    assert!(keys.len() > 30, "{keys:?}");
    for key in keys {
        assert_eq!(table.matches(&format!("`{key}`")).count(), 1, "'{key}' in the planes table of ARCHITECTURE.md");
    }
}

#[test]
fn the_socket_is_found_whatever_else_is_wrong() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"[node]\nadmin_socket = \"/run/a.sock\"\n[cluster]\ntls_dir = \"/nowhere\"\n")
        .expect("written");
    assert_eq!(Config::admin_socket(file.path()).expect("a node's"), Some("/run/a.sock".into()));
    file.write_all(b"[witness]\n").expect("written");
    assert_eq!(Config::admin_socket(file.path()).expect("a witness's"), None);
}

#[test]
fn links_need_a_certificate_unless_a_proxy_has_one() {
    let text = example("node.example.toml");
    let with = |lines: &str| load_node(&text.replace("\n[links]\n", &format!("\n[links]\n{lines}\n")));
    let (bind, url) = ("bind = \"0.0.0.0:8443\"", "url = \"https://voicemail.example.com/\"");
    for (lines, expected) in [
        (format!("{bind}\n{url}"), "links.certificate_file: is missing"),
        (url.to_owned(), "links.bind: is missing"),
        (format!("{bind}\nplain = true\nurl = \"voicemail.example.com\""), "links.url: is not a URL"),
        (format!("{bind}\nplain = true\nurl = \"https://voicemail.example.com?x\""), "links.url: it is no URL"),
        (format!("{bind}\n{url}\nkey_file = \"/nowhere.key\""), "links.certificate_file: needs key_file"),
    ] {
        let report = with(&lines).expect_err(&lines).to_string();
        assert!(report.contains(expected), "no '{expected}' in:\n{report}");
    }
    let config = with(&format!("{bind}\n{url}\nplain = true")).expect("valid");
    let services = config.services.in_force(&config.shared_values(), &config.name).0;
    assert!(config.links.expect("links").tls.is_none());
    assert_eq!(services.links.expect("a base").to_string(), "https://voicemail.example.com");
    // The cluster may have the URL.
    let config = with(&format!("{bind}\nplain = true")).expect("valid");
    assert!(config.services.in_force(&config.shared_values(), &config.name).0.links.is_none());
    let set = Values::of([(Key::LinksUrl, "https://other.example")], false);
    assert!(config.services.in_force(&set, &config.name).0.links.is_some());
    // A node that answers no links refuses them.
    let (services, mistakes) = OwnServices::default().in_force(&set, &config.name);
    assert!(services.links.is_none() && mistakes[0].key == "links.bind", "{mistakes:?}");
}

/// The example's file with a section for backups in buckets.
fn with_s3(section: &str) -> String {
    example("node.example.toml").replace("[backup.s3]\n", &format!("[backup.s3]\n{section}\n"))
}

#[test]
fn access_to_a_bucket_has_its_secret_from_a_file_and_shows_it_nowhere() {
    let s3 = |node: &NodeConfig| node.services.in_force(&node.shared_values(), &node.name).0.s3;
    let bare = load_node(&example("node.example.toml")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(s3(&bare), Ok(None));
    let dir = tempfile::tempdir().expect("a folder");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "hush-hush\n").expect("written");
    let keys = format!("access_key = \"AKIA1\"\nsecret_key_file = \"{}\"", secret.display());
    let node = load_node(&with_s3(&format!("{keys}\nendpoint = \"https://s3.example.com\"")));
    let settings = s3(&node.unwrap_or_else(|e| panic!("{e}"))).expect("usable").expect("settings");
    assert_eq!((settings.access_key.as_str(), settings.secret_key.as_str()), ("AKIA1", "hush-hush"));
    assert_eq!((settings.region.as_str(), settings.timeout.as_secs()), ("us-east-1", 60));
    assert!(!format!("{settings:?}").contains("hush"), "{settings:?}");

    for (section, key) in [
        (format!("{keys}\nsecret_key = \"hush\""), "backup.s3.secret_key: is given twice"),
        (format!("{keys}\nendpoint = \"http://10.0.0.1:9000\""), "backup.s3.endpoint"),
        ("access_key = \"AKIA1\"\nsecret_key = \"\"".to_owned(), "backup.s3.secret_key"),
        (format!("{keys}\ntimeout_seconds = 0"), "backup.s3.timeout_seconds"),
        (format!("{keys}\nendpiont = \"https://s3.example.com\""), "did you mean 'endpoint'"),
    ] {
        let error = load_node(&with_s3(&section)).expect_err(key);
        assert!(error.count() == 1 && error.to_string().contains(key), "{error}");
    }
    assert!(
        load_node(&with_s3(&format!("{keys}\nendpoint = \"http://10.0.0.1:9000\"\nallow_http = true"))).is_ok()
    );
}

#[test]
fn a_file_with_this_section_alone_gives_access_to_a_bucket() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"[backup.s3]\naccess_key = \"a\"\nsecret_key = \"b\"\n").expect("written");
    let settings = Config::backup_s3(file.path()).unwrap_or_else(|e| panic!("{e}")).expect("settings");
    assert_eq!(settings.endpoint_url(), "https://s3.us-east-1.amazonaws.com");
    file.write_all(b"[node]\nname = 1\n").expect("written");
    assert!(Config::backup_s3(file.path()).is_ok(), "other sections are not read");

    // Without a node, no cluster has the rest.
    let mut half = tempfile::NamedTempFile::new().expect("a file");
    half.write_all(b"[backup.s3]\naccess_key = \"a\"\n").expect("written");
    let error = Config::backup_s3(half.path()).expect_err("no secret").to_string();
    assert!(error.contains("backup.s3.secret_key_file: is missing"), "{error}");
}
