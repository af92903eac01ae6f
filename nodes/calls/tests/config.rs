//! The settings as text: read in full, refused in words.

mod kit;

use twinbox_calls::CallsConfig;

#[test]
fn all_mistakes_are_named_at_once_each_with_its_remedy() {
    let mut config = kit::config();
    assert_eq!(config.mistakes(), []);
    config.listeners[0].advertise = Some("a b".to_owned());
    config.trunks[0].mwi = Some("sip:pbx.example.com".to_owned());
    config.trunks.push(config.trunks[0].clone());
    config.trunks[1].addresses.clear();
    config.min_se_s = 30;
    config.max_message_ms = 10;
    let keys: Vec<_> = config.mistakes().into_iter().map(|m| m.key).collect();
    for key in [
        "listeners[0].advertise",
        "trunks[0].mwi",
        "trunks[1].name",
        "trunks[1].addresses",
        "min_se_s",
        "max_message_ms",
    ] {
        assert!(keys.iter().any(|k| k == key), "{key} is not among {keys:?}");
    }
    let empty = CallsConfig::default().mistakes();
    assert!(empty[0].what.contains("add a listener"), "{empty:?}");
}

#[test]
fn a_password_is_never_printed() {
    let mut config = kit::config();
    config.trunks[0].password = Some("secret".to_owned().into());
    assert!(!format!("{config:?}").contains("secret"));
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let node = kit::Node::start().await;
    let second = tokio::net::TcpListener::bind(node.tcp).await;
    assert!(second.is_err(), "the port is ours");
    let error = kit::Node::refused(|o| {
        o.calls.listeners[0].bind = node.udp;
    })
    .await;
    assert!(error.contains(&node.udp.to_string()) && error.contains("[[sip.listener]]"), "{error}");
}
