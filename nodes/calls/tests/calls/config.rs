//! Configuration as text: valid settings, and error messages for invalid ones.

use twinbox_calls::{CallsConfig, Transport};

use crate::kit;

#[test]
fn all_mistakes_are_reported_together_with_their_remedies() {
    let mut config = kit::config();
    assert_eq!(config.mistakes(), []);
    config.listeners[0].advertise = Some("a b".to_owned());
    config.trunks[0].mwi = Some("sip:pbx.example.com".to_owned());
    config.trunks.push(config.trunks[0].clone());
    config.trunks[1].addresses.clear();
    config.min_se_s = 30;
    config.max_message_ms = 10;
    config.dscp = 64;
    let keys: Vec<_> = config.mistakes().into_iter().map(|m| m.key).collect();
    for key in [
        "listeners[0].advertise",
        "trunks[0].mwi",
        "trunks[1].name",
        "trunks[1].addresses",
        "min_se_s",
        "max_message_ms",
        "dscp",
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
async fn bind_error_names_the_port() {
    let node = kit::Node::start().await;
    let second = tokio::net::TcpListener::bind(node.tcp).await;
    assert!(second.is_err(), "the port is ours");
    let error = kit::Node::refused(|o| {
        o.calls.listeners[0].bind = node.udp;
    })
    .await;
    assert!(error.contains(&node.udp.to_string()) && error.contains("[[sip.listener]]"), "{error}");
}

#[test]
fn listener_on_all_addresses_is_advertised_per_trunk_route() {
    // By the system's routing; without a default route there is none.
    let way_out = || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    };
    let own: Vec<String> = way_out().map(|own| format!("udp {}:5060", own.ip())).into_iter().collect();
    for (bind, advertise, network, expected) in [
        ("0.0.0.0:5060", None, "192.0.2.0/24", own.as_slice()),
        ("0.0.0.0:5060", None, "192.0.2.1", own.as_slice()),
        ("0.0.0.0:5060", Some("192.0.2.9"), "192.0.2.0/24", &[]),
        ("192.0.2.9:5060", None, "192.0.2.0/24", &[]),
        ("0.0.0.0:5060", None, "127.0.0.0/8", &[]),
        ("0.0.0.0:5060", None, "2001:db8::/32", &[]),
    ] {
        let mut config = kit::config();
        config.listeners.truncate(1);
        (config.listeners[0].transport, config.listeners[0].bind) = (Transport::Udp, bind.parse().unwrap());
        config.listeners[0].advertise = advertise.map(str::to_owned);
        config.trunks = vec![kit::trunk("pbx", network)];
        assert_eq!(config.external_addresses(), expected, "{bind} {advertise:?} {network}");
    }
}
