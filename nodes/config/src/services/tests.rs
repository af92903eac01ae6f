use std::io::Write;

use super::*;
use crate::tests::{example, load_node};

/// The services of a node whose file has these lines in `[mail]`, by these settings of the cluster.
fn services(lines: &str, cluster: &[(Key, &str)]) -> (Services, Vec<SettingMistake>) {
    let text = example("node.example.toml").replace("\n[mail]\n", &format!("\n[mail]\n{lines}\n"));
    let config = load_node(&text).unwrap_or_else(|e| panic!("{lines}: {e}"));
    config.services.in_force(&Values::of(cluster.iter().copied(), false), &config.name)
}

#[test]
fn mail_out_is_of_the_cluster_and_its_secrets_are_of_the_node() {
    let mut password = tempfile::NamedTempFile::new().expect("a file");
    writeln!(password, "s3cret").expect("written");
    let path = password.path().display().to_string();
    let (domain, host) = ((Key::MailDomain, "vm.example"), (Key::MailSmarthost, "mail.example:2525"));
    let (user, file) = ((Key::MailUser, "twinbox"), (Key::MailPasswordFile, path.as_str()));
    let lost = (Key::MailPasswordFile, "/nowhere/password");
    let tls = (Key::MailTls, "off");
    for (lines, cluster, key) in [
        ("", &[domain, host, tls][..], None),
        ("", &[domain, host, tls, user, file], None),
        ("password = \"own\"", &[domain, host, tls, user], None),
        ("password = \"own\"", &[domain, host, tls, user, lost], None),
        ("", &[domain, host, tls, user], Some("mail.password_file")),
        ("", &[domain, host, tls, user, lost], Some("mail.password_file")),
        ("", &[host, tls], Some("mail.domain")),
        ("", &[domain, host, tls, (Key::MailFrom, "nobody")], Some("mail.from")),
        ("", &[domain, host, tls, (Key::DkimSelector, "s")], Some("mail.dkim.key_file")),
        (
            "",
            &[domain, host, tls, (Key::DkimSelector, "s"), (Key::DkimKeyFile, path.as_str())],
            Some("mail.dkim.key_file"),
        ),
        ("", &[domain, host, (Key::MailTls, "tls"), (Key::MailCaFile, "/nowhere/ca.pem")], Some("mail.ca_file")),
        ("hello = \"a b\"", &[domain, host, tls], Some("mail.hello")),
    ] {
        let (found, mistakes) = services(lines, cluster);
        let keys: Vec<&str> = mistakes.iter().map(|mistake| mistake.key.as_str()).collect();
        assert_eq!(keys, key.into_iter().collect::<Vec<_>>(), "{lines} {cluster:?}: {mistakes:?}");
        assert_eq!(found.mail_out.sender().is_some(), key.is_none(), "{lines} {cluster:?}");
        // Mails wait for a remedy: only without mail out they are dead letters.
        assert!(found.mail_out.is_configured());
        let printed = format!("{found:?}{mistakes:?}");
        assert!(!printed.contains("s3cret") && !printed.contains("\"own\""), "{printed}");
    }
    let (none, mistakes) = services("", &[domain]);
    assert!(!none.mail_out.is_configured() && mistakes.is_empty());
    let identity = none.identity.expect("a domain");
    assert_eq!((identity.from.to_string().as_str(), none.hello.as_str()), ("voicemail@vm.example", "vm.example"));
    assert_eq!(services("", &[]).0.hello, "a", "a node without a domain has its own name");

    // The file's values are the first ones, and are checked as such.
    let own = format!(
        "domain = \"VM.example\"\nsmarthost = \"h\"\ntls = \"off\"\nuser = \"u\"\npassword_file = \"{path}\""
    );
    let text = example("node.example.toml").replace("\n[mail]\n", &format!("\n[mail]\n{own}\n"));
    let config = load_node(&text).unwrap_or_else(|e| panic!("{e}"));
    let first = |key| config.shared.get(key);
    assert_eq!(
        [Key::MailDomain, Key::MailSmarthost, Key::MailUser, Key::MailPasswordFile].map(first),
        [Some("vm.example"), Some("h"), Some("u"), Some(path.as_str())]
    );
    for (lines, part) in [
        ("domain = \"a b\"", "mail.domain: 'a b' is no domain"),
        ("domain = \"d\"\nsmarthost = \"h:0\"", "mail.smarthost: 'h:0' is no server"),
        ("domain = \"d\"\nsmarthost = \"h\"\ndirect = true", "mail.direct is true beside mail.smarthost = h"),
        (
            "domain = \"d\"\ndirect = true\ntls = \"starttls\"",
            "mail.tls 'starttls' is not one of opportunistic, required",
        ),
        ("domain = \"d\"\nfrom = \"x\"", "mail.from: "),
        ("password = \"p\"\npassword_file = \"/p\"\nuser = \"u\"", "mail.password: is given twice"),
        ("smarthsot = \"h\"", "mail.smarthsot: is not a key of this section; did you mean 'smarthost'?"),
    ] {
        let text = example("node.example.toml").replace("\n[mail]\n", &format!("\n[mail]\n{lines}\n"));
        let report = load_node(&text).expect_err(lines).to_string();
        assert!(report.contains(part), "no '{part}' in:\n{report}");
    }
    // Keys that a file leaves to the cluster are no mistake of the file.
    services("smarthost = \"h\"", &[]);
    let text = example("node.example.toml").replace("\n[mail.in]\n", "\n[mail.in]\nsmtp = [\"127.0.0.1:2525\"]\n");
    let config = load_node(&text).unwrap_or_else(|e| panic!("{e}"));
    let mistakes = config.services.in_force(&config.shared_values(), &config.name).1;
    assert!(mistakes[0].to_string().contains("mail.domain: is missing"), "{mistakes:?}");
    let with_domain = Values::of([domain], false);
    assert!(config.services.in_force(&with_domain, &config.name).1.is_empty());
}
