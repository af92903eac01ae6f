//! Trunks that change while the SIP server runs.

use std::{net::SocketAddr, time::Duration};

use futures::future::join_all;
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use twinbox_calls::{CallsService, ListenerConfig, NotifyError, Registration, Transport, TrunkConfig};
use twinbox_clock::BootInstant;
use twinbox_sip::{
    Method,
    strict::{MessageVerdict, read},
};

use crate::kit;
use crate::kit::{Node, PATIENCE, Raw, establish, hang_up, trunk};

/// A SIP server with these trunks, and its UDP address.
async fn service(node: &Node, trunks: Vec<TrunkConfig>) -> (CallsService, SocketAddr) {
    let mut config = kit::config();
    config.trunks = trunks;
    let service = CallsService::new(config, node.deps.clone());
    service.restart().await.expect("it starts");
    let running = service.running().expect("it runs");
    let (_, address) = *running.addresses().iter().find(|(t, _)| *t == Transport::Udp).expect("a listener");
    (service, address)
}

#[tokio::test]
async fn an_added_trunk_may_call_and_a_removed_one_may_not_while_its_call_goes_on() {
    let node = Node::start().await;
    let (pbx, sbc) = (trunk("pbx", "127.0.0.1"), trunk("sbc", "127.0.0.7"));
    let (service, address) = service(&node, vec![pbx.clone()]).await;
    let (mut of_pbx, mut of_sbc) = (Raw::udp(address).await, Raw::udp_from("127.0.0.7", address).await);
    let stranger = of_sbc.dialog("s1").request("OPTIONS", "", "");
    assert_eq!(of_sbc.ask(stranger).await.code, 403);
    service.reconfigure(|calls| calls.trunks = vec![pbx, sbc.clone()]);
    let mut call = of_pbx.dialog("c1");
    establish(&mut of_pbx, &mut call).await;
    let mut other = of_sbc.dialog("c2");
    establish(&mut of_sbc, &mut other).await;
    hang_up(&mut of_sbc, &mut other).await;

    service.reconfigure(|calls| calls.trunks = vec![sbc]);
    let again = of_pbx.dialog("c3").invite();
    assert_eq!(of_pbx.ask(again).await.code, 403);
    // The call in progress keeps its trunk, also where its media go.
    let elsewhere = kit::offer(9).replace("c=IN IP4 127.0.0.1", "c=IN IP4 127.0.0.9");
    let renewed = call.request("INVITE", "application/sdp", &elsewhere);
    let ok = of_pbx.ask(renewed).await;
    let ack = call.answered(&ok);
    of_pbx.send(ack.as_bytes()).await;
    hang_up(&mut of_pbx, &mut call).await;
    service.running().expect("it runs").shutdown().await;
}

/// The next REGISTER at the registrar, answered with `200`: its address of record and its duration. Its Contact has the same user,
/// and names the node without its process: that of a later process replaces it.
async fn registered(registrar: &UdpSocket) -> (String, String) {
    let mut buffer = vec![0; 65_536];
    loop {
        let received = tokio::time::timeout(PATIENCE, registrar.recv_from(&mut buffer)).await.expect("a REGISTER");
        let (length, from) = received.expect("received");
        let MessageVerdict::Request(request) = read(&buffer[..length]) else { continue };
        assert_eq!(request.method, Method::Register);
        registrar.send_to(&request.respond(200).to_bytes(), from).await.expect("sent");
        let header = |name: &str| request.headers.get(name).unwrap_or_default().to_owned();
        let (to, contact) = (header("To"), header("Contact"));
        let user = to.split('@').next().expect("an address");
        assert!(contact.starts_with(&format!("{user}@")) && contact.contains(";twinbox-node="), "{contact}");
        assert!(!contact.contains("twinbox-incarnation"), "{contact}");
        return (to, header("Expires"));
    }
}

#[tokio::test]
async fn registrations_follow_the_trunks_and_a_former_one_is_removed_before_the_next_begins() {
    let node = Node::start().await;
    let registrar = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let proxy = registrar.local_addr().expect("an address").to_string();
    let as_user = |user: &str| TrunkConfig {
        proxy: Some(proxy.clone()),
        transport: Some(Transport::Udp),
        register: Some(Registration { aor: format!("sip:{user}@127.0.0.1"), seconds: 600 }),
        ..trunk("pbx", "127.0.0.1")
    };
    let (service, _) = service(&node, Vec::new()).await;
    let expected = |user: &str, seconds: &str| (format!("<sip:{user}@127.0.0.1>"), seconds.to_owned());
    service.reconfigure(|calls| calls.trunks = vec![as_user("one")]);
    assert_eq!(registered(&registrar).await, expected("one", "600"));
    service.reconfigure(|calls| calls.trunks = vec![as_user("two")]);
    assert_eq!(registered(&registrar).await, expected("one", "0"));
    assert_eq!(registered(&registrar).await, expected("two", "600"));
    service.reconfigure(|calls| calls.trunks.clear());
    assert_eq!(registered(&registrar).await, expected("two", "0"));
    service.running().expect("it runs").shutdown().await;
}

/// A registrar, a subscriber and a caller that do not answer keep no address from the next server.
#[tokio::test]
async fn restart_has_its_addresses_when_its_peers_are_silent() {
    let node = Node::start().await;
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let registering = TrunkConfig {
        proxy: Some(silent.local_addr().expect("an address").to_string()),
        transport: Some(Transport::Udp),
        register: Some(Registration { aor: "sip:voicemail@127.0.0.1".to_owned(), seconds: 600 }),
        ..trunk("pbx", "127.0.0.1")
    };
    let (service, address) = service(&node, vec![registering]).await;
    // Each listener binds its own address again: another process may use that of the other transport.
    let own = service.running().expect("it runs").addresses().to_vec();
    let bind = |listener: &mut ListenerConfig| {
        let (_, address) = own.iter().find(|(transport, _)| *transport == listener.transport).expect("bound");
        listener.bind = *address;
    };
    service.reconfigure(|calls| calls.listeners.iter_mut().for_each(bind));
    let mut caller = Raw::udp(address).await;
    let invite = caller.dialog("silent").invite();
    assert_eq!(caller.ask(invite).await.code, 200, "it is never acknowledged");
    let mut phone = Raw::udp(address).await;
    let subscription = phone.dialog("mwi").with("Event: message-summary");
    let subscribe = subscription.with("Accept: application/simple-message-summary").request("SUBSCRIBE", "", "");
    assert_eq!(phone.ask(subscribe).await.code, 200);
    assert_eq!(phone.unanswered().await.method, Method::Notify);
    for _ in 0..2 {
        node.hurry(service.restart()).await.expect("its addresses are free");
    }
    let mut another = Raw::udp(address).await;
    let options = another.dialog("again").request("OPTIONS", "", "");
    assert_eq!(another.ask(options).await.code, 200);
}

/// A node whose trunk has this proxy, for unsolicited NOTIFYs by TCP.
async fn node_with_proxy(proxy: SocketAddr) -> Node {
    Node::with(|o| {
        let trunk = &mut o.calls.trunks[0];
        trunk.proxy = Some(proxy.to_string());
        trunk.transport = Some(Transport::Tcp);
        trunk.mwi = Some("sip:{mailbox}@127.0.0.1".to_owned());
    })
    .await
}

/// Sends a NOTIFY to that proxy.
async fn notify(node: &Node) -> Result<(), NotifyError> {
    node.calls.send_unsolicited_notify("pbx", "1001", "", "", || true).await
}

/// The other side of the next connection.
async fn accept(listener: &TcpListener) -> Raw {
    let (stream, _) = listener.accept().await.expect("a connection");
    Raw::connected(stream)
}

#[tokio::test]
async fn concurrent_requests_to_a_proxy_open_one_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let node = node_with_proxy(listener.local_addr().expect("an address")).await;
    let requests = join_all((0..20).map(|_| notify(&node)));
    let proxy = async {
        let mut proxy = accept(&listener).await;
        for _ in 0..20 {
            assert_eq!(proxy.request().await.method, Method::Notify);
        }
    };
    let (outcomes, ()) = tokio::join!(requests, proxy);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}

#[tokio::test]
async fn proxy_that_refused_a_connection_is_not_tried_again_for_a_moment() {
    // Bound and not listening.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let node = node_with_proxy(socket.local_addr().expect("an address")).await;
    let begun = BootInstant::now();
    let refused = notify(&node).await;
    assert!(matches!(refused, Err(NotifyError::Unreachable(_))), "{refused:?}");
    let listener = socket.listen(8).expect("it listens");
    tokio::spawn(async move {
        let mut proxy = accept(&listener).await;
        while proxy.request().await.method == Method::Notify {}
    });
    let is_early = begun.elapsed() < Duration::from_millis(500);
    let again = notify(&node).await;
    assert!(again == refused || !is_early, "{again:?}");
    while notify(&node).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "it is never tried again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
