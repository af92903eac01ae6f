//! Settings as administrators type them.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use twinbox_mailbox_sync::{
    AccountSetting, AccountSettings, Auth, AuthKind, OAuthGrant, ServerSetting, ServerSettings, SettingError, Tls,
    Trash, Users, account_change, server_change,
};

type Stored = BTreeMap<u16, String>;

fn stored(texts: &[&str]) -> Result<Stored, SettingError> {
    let mut stored = BTreeMap::new();
    for text in texts {
        let (number, value) = server_change(text)?;
        stored.extend(value.map(|value| (number, value)));
    }
    Ok(stored)
}

pub fn server(texts: &[&str]) -> Result<ServerSettings, SettingError> {
    ServerSettings::from_settings(&stored(texts)?)
}

#[test]
fn defaults_are_safe_and_complete() {
    let settings = server(&["host=imap.example.com"]).expect("a host is enough");
    assert!(settings.enabled && !settings.insecure && settings.ca_file.is_none());
    assert_eq!((settings.host.as_str(), settings.port, settings.tls), ("imap.example.com", 993, Tls::Implicit));
    assert_eq!((settings.timeout, settings.auth), (Duration::from_secs(30), Auth::Password { file: None }));
    assert_eq!((settings.folder.as_str(), settings.trash, settings.users), ("INBOX", None, Users::Listed));
    assert_eq!((settings.connections, settings.watched), (8, 50));
    assert_eq!((settings.poll, settings.idle), (Duration::from_secs(60), Duration::from_secs(1_800)));
    assert_eq!(server(&["host=a", "tls=starttls"]).map(|settings| settings.port), Ok(143));
    assert_eq!(server(&["host=a", "tls=none", "port=1143"]).map(|settings| settings.port), Ok(1_143));
    let disabled = server(&["enabled=no"]).expect("a disabled server needs no host");
    assert_eq!((disabled.enabled, disabled.host.as_str()), (false, ""));
}

#[test]
fn settings_are_read_back_from_their_text() {
    let texts = ["host=imap.example", "trash=Deleted Items", "users=Sales, gold", "idle=0", "account={number}@x"];
    let (settings, stored) = (server(&texts).expect("valid"), stored(&texts).expect("valid"));
    assert_eq!((settings.trash.as_deref(), settings.idle), (Some("Deleted Items"), Duration::ZERO));
    assert_eq!(settings.users, Users::Classes(vec!["sales".to_owned(), "gold".to_owned()]));
    let shown = ServerSetting::ALL.map(|setting| format!("{}={}", setting.word(), setting.text(&stored)));
    assert_eq!(server(&shown.iter().map(String::as_str).collect::<Vec<_>>()), Ok(settings));
    assert_eq!(server(&["host=a", "users=all"]).map(|settings| settings.users), Ok(Users::All));
}

#[test]
fn numbers_and_words_are_permanent_and_unique() {
    assert_eq!(ServerSetting::ALL.map(ServerSetting::number).to_vec(), (1..=24).collect::<Vec<u16>>());
    for setting in ServerSetting::ALL {
        assert_eq!(ServerSetting::find(setting.word()), Ok(setting));
        let text = format!("{}={}", setting.word(), setting.default_text());
        assert!(server_change(&text).is_ok(), "{text}");
        assert_eq!(server_change(&format!("{}=-", setting.word())), Ok((setting.number(), None)));
    }
    assert_eq!(AccountSetting::ALL.map(AccountSetting::number), [1, 2, 3, 4, 5]);
    for setting in AccountSetting::ALL {
        assert_eq!(AccountSetting::find(setting.word()), Ok(setting));
        assert_eq!(account_change(&format!("{}=-", setting.word())), Ok((setting.number(), None)));
    }
    assert_eq!(account_change("account="), Ok((2, None)));
}

#[test]
fn each_kind_of_sign_in_has_its_data() {
    let auth = |texts: &[&str]| {
        let settings = server(&[&["host=a"][..], texts].concat()).unwrap_or_else(|error| panic!("{error}"));
        settings.auth
    };
    let path = |text: &str| Some(PathBuf::from(text));
    assert_eq!(auth(&["password-file=/p"]), Auth::Password { file: path("/p") });
    let master = Auth::MasterUser { user: "vm*admin".to_owned(), file: PathBuf::from("/p") };
    assert_eq!(auth(&["auth=master-user", "master-user=vm*admin", "password-file=/p"]), master);
    let url = "token-url=https://login.example/token";
    let Auth::OAuth(client) = auth(&["auth=client-credentials", url, "client-id=x", "client-secret-file=/s"])
    else {
        panic!("client credentials are OAuth");
    };
    assert_eq!((client.grant, client.client_id.as_str()), (OAuthGrant::ClientCredentials, "x"));
    assert_eq!((client.client_secret_file, client.token_url.as_str()), (path("/s"), "https://login.example/token"));
    assert_eq!(client.scope, "https://outlook.office365.com/.default");
    let refresh = auth(&["auth=refresh-token", url, "client-id=x", "refresh-token-file=/r", "scope=mail"]);
    assert_eq!(refresh.kind(), AuthKind::RefreshToken);
    let Auth::OAuth(refresh) = refresh else { panic!("a refresh token is OAuth") };
    assert_eq!((refresh.grant, refresh.scope.as_str()), (OAuthGrant::RefreshToken { file: path("/r") }, "mail"));
    let Auth::OAuth(service) = auth(&["auth=service-account", "key-file=/k.json"]) else {
        panic!("a service account is OAuth");
    };
    assert_eq!(service.grant, OAuthGrant::ServiceAccount { key_file: PathBuf::from("/k.json") });
    assert_eq!(service.token_url, "https://oauth2.googleapis.com/token");
    let plain = auth(&["auth=service-account", "key-file=/k", "insecure=yes", "token-url=http://a/"]);
    assert_eq!(plain.kind(), AuthKind::ServiceAccount);
}

#[test]
fn wrong_settings_are_refused_with_word_value_and_remedy() {
    let long = format!("scope={}", "a".repeat(5_000));
    for (text, parts) in [
        ("host", &["'host'", "word=value", "host=imap.example.com"][..]),
        ("hots=x", &["'hots'", "did you mean 'host'"]),
        ("host=a b", &["'a b'", "host", "imap.example.com"]),
        ("host=imaps://a", &["'imaps://a'"]),
        ("port=0", &["'0'", "1 to 65535"]),
        ("tls=yes", &["'yes'", "starttls"]),
        ("insecure=maybe", &["'maybe'", "yes or no"]),
        ("ca-file=ca.pem", &["'ca.pem'", "absolute path"]),
        ("timeout=301", &["1 to 300"]),
        ("auth=xoauth2", &["'xoauth2'", "client-credentials"]),
        ("token-url=login.example", &["'login.example'", "https://"]),
        ("token-url=https://u:p@a/", &["token-url"]),
        ("account=voicemail", &["'voicemail'", "one account", "{mail}"]),
        ("account={name}", &["'{name}' is unknown", "{login}"]),
        ("account={mail", &["has no end"]),
        ("folder=a*", &["'a*'", "wildcards"]),
        ("folder= ", &["'' is not a value of folder", "it is empty (- is the default)", "such as INBOX"]),
        ("trash=", &["'' is not a value of trash", "it is empty (- is the default)", "give expunge"]),
        ("users=a b", &["'a b'", "class of service"]),
        ("users=,", &["1 to 64 classes"]),
        ("connections=201", &["1 to 200"]),
        ("poll=9", &["10 to 86400"]),
        ("idle=1441", &["0 to 1440"]),
        ("watched=101", &["0 to 100"]),
        ("master-user=x\u{7}", &["control characters", "\\u{7}"]),
        (&long, &["too long"]),
        ("host=-", &["no host", "host=VALUE"]),
        ("master-user=admin", &["master-user=admin needs auth", "master-user=-"]),
        ("auth=master-user", &["auth=master-user needs master-user"]),
        ("auth=client-credentials", &["auth=client-credentials needs token-url"]),
        ("auth=refresh-token", &["needs token-url"]),
        ("auth=service-account", &["needs key-file", "JSON"]),
        ("token-url=http://login.example/", &["needs insecure", "https://"]),
    ] {
        let host = if text.starts_with("host") { "port=1" } else { "host=a" };
        let error = server(&[host, text]).expect_err(text).to_string();
        for part in parts {
            assert!(error.contains(part), "{text}: {part}: {error}");
        }
    }
    for (texts, part) in [
        (&["auth=master-user", "master-user=x"][..], "needs password-file"),
        (&["auth=client-credentials", "token-url=https://a/"], "needs client-secret-file"),
        (&["auth=client-credentials", "token-url=https://a/", "client-secret-file=/s"], "needs client-id"),
        (&["auth=refresh-token", "token-url=https://a/"], "needs client-id"),
    ] {
        let error = server(&[&["host=a"][..], texts].concat()).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn account_settings_override_or_are_unset() {
    assert_eq!(account_change("folder=Voice"), Ok((3, Some("Voice".to_owned()))));
    for (text, part) in [
        ("folder", "folder=INBOX/Voicemail"),
        ("foldr=x", "did you mean 'folder'"),
        ("folder=%", "wildcards"),
        ("folder=", "it is empty (- is the default); give the name of a folder"),
        ("trash=", "it is empty (- is the default); give expunge"),
        ("password-file=x", "absolute path"),
        ("enabled=2", "yes or no"),
        ("account=a\nb", "control characters"),
    ] {
        let error = account_change(text).expect_err(text).to_string();
        assert!(error.contains(part), "{error}");
    }
    let stored = BTreeMap::from([(4, "expunge".to_owned()), (5, "/p".to_owned()), (99, "later".to_owned())]);
    let settings = AccountSettings::from_settings(&stored).expect("valid");
    assert_eq!((settings.trash, settings.password_file), (Some(Trash::Expunge), Some(PathBuf::from("/p"))));
    assert!(settings.enabled && settings.account.is_none() && settings.folder.is_none());
    assert!(AccountSettings::from_settings(&BTreeMap::from([(5, "p".to_owned())])).is_err());
}
