//! Registrations at a registrar, without the SIP server.

use std::net::SocketAddr;

use tokio::{net::UdpSocket, time::timeout};
use twinbox_clock::{BootClock, BootInstant};
use twinbox_dns::Resolver;
use twinbox_ids::Incarnation;
use twinbox_overload::{Commits, Overload};
use twinbox_sip::strict::{MessageVerdict, read};
use twinbox_sip_transport::{MessageReceiver, UdpEndpoint};

use super::*;
use crate::{CallsConfig, Registration, Transport, TrunkConfig, self_test::SelfTest, transactions::Transactions};

/// Timeout for a loaded machine; a successful test never waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Receiver of responses alone.
struct Responses(Arc<Transactions>);

impl MessageReceiver for Responses {
    fn handle_message(&self, data: &[u8], _: Flow) -> bool {
        if let MessageVerdict::Response(response) = read(data) {
            self.0.response_received(response);
        }
        false
    }

    fn failed(&self, what: String) {
        panic!("{what}");
    }

    fn connection_refused(&self) {}
}

/// Begins to register for 600 s at a registrar with this address.
fn register_at(registrar: SocketAddr) -> Arc<Registrations> {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let clock = BootClock::default();
    let transactions = Arc::new(Transactions::new(Arc::default(), Arc::default(), stop.clone(), clock.clone()));
    let udp = Arc::new(UdpEndpoint::bind(local, None, 0).expect("bound"));
    tasks.spawn(udp.clone().serve(Arc::new(Responses(transactions.clone())), stop.clone()));
    let trunk = TrunkConfig {
        proxy: Some(registrar.to_string()),
        transport: Some(Transport::Udp),
        register: Some(Registration { aor: "sip:vm@pbx.example".to_owned(), seconds: 600 }),
        ..SelfTest::new(&[]).trunk.config.clone()
    };
    let config = CallsConfig { trunks: vec![trunk], ..CallsConfig::default() };
    let overload = Overload::new(config.bye_timeout(), Commits::default(), clock.clone());
    let outgoing = Outgoing {
        node: "a".parse().expect("a name"),
        incarnation: Incarnation::random(),
        resolver: Resolver::new(&[registrar]).expect("a resolver"),
        udp: vec![udp],
        tcp: Vec::new(),
        connections: Arc::default(),
        transactions,
    };
    let registrations = Arc::new(Registrations {
        settings: Arc::new(CallsSettings::new(config)),
        admission: Arc::new(Admission::new(1, 1, overload, clock.now())),
        outgoing: Arc::new(outgoing),
        tasks: tasks.clone(),
        stop,
    });
    tasks.spawn(registrations.clone().follow());
    registrations
}

/// The next REGISTER at the registrar, which gets this answer. A second passes in each 10 ms until it comes.
async fn answered(registrar: &UdpSocket, answer: impl FnOnce(&Request) -> Response) -> Request {
    let (mut buffer, begun) = ([0; 4_096], BootInstant::now());
    let received = loop {
        assert!(begun.elapsed() < PATIENCE, "no REGISTER");
        match timeout(Duration::from_millis(10), registrar.recv_from(&mut buffer)).await {
            Ok(received) => break received,
            Err(_) => {
                tokio::time::pause();
                tokio::time::advance(Duration::from_secs(1)).await;
                tokio::time::resume();
            }
        }
    };
    let (length, from) = received.expect("received");
    let MessageVerdict::Request(request) = read(&buffer[..length]) else { panic!("no request") };
    assert_eq!(request.method, Method::Register);
    registrar.send_to(&answer(&request).to_bytes(), from).await.expect("sent");
    request
}

#[tokio::test]
async fn registration_is_removed_while_the_node_drains_and_made_again_afterwards() {
    let registrar = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let registrations = register_at(registrar.local_addr().expect("an address"));
    for (draining, expires) in [(false, "600"), (true, "0"), (false, "600")] {
        registrations.admission.set_draining(draining);
        let request = answered(&registrar, |request| request.respond(200)).await;
        assert_eq!(request.headers.get("Expires"), Some(expires), "draining: {draining}");
    }
    registrations.stop.cancel();
    registrations.tasks.close();
    timeout(PATIENCE, registrations.tasks.wait()).await.expect("all tasks end");
}

#[tokio::test]
async fn refused_registration_is_tried_again_and_asks_for_the_minimum_of_the_registrar() {
    let registrar = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let registrations = register_at(registrar.local_addr().expect("an address"));
    let refused = answered(&registrar, |request| request.respond(403)).await;
    let brief = answered(&registrar, |request| request.respond(423).with("Min-Expires", "900")).await;
    let last = answered(&registrar, |request| request.respond(200)).await;
    for (request, expires) in [(&refused, "600"), (&brief, "600"), (&last, "900")] {
        assert_eq!(request.headers.get("Expires"), Some(expires));
        assert_eq!(request.headers.call_id(), refused.headers.call_id());
    }
    let numbers = [&refused, &brief, &last].map(|request| request.headers.cseq());
    assert!(numbers.is_sorted_by(|one, other| one < other), "{numbers:?}");
    registrations.stop.cancel();
}
