//! Requests of this node: their guard, their room, and their outcomes.

use std::{io, net::UdpSocket};

use tokio::sync::Semaphore;
use twinbox_sip::{
    Headers, Method,
    strict::{MessageVerdict, read},
};
use twinbox_sip_transport::UdpEndpoint;

use super::*;

/// Transactions, a flow, and its other side.
struct Setup {
    transactions: Transactions,
    flow: Flow,
    other: UdpSocket,
    stop: CancellationToken,
}

impl Setup {
    fn new() -> Self {
        let other = UdpSocket::bind("127.0.0.1:0").expect("bound");
        other.set_nonblocking(true).expect("set");
        let endpoint = UdpEndpoint::bind("127.0.0.1:0".parse().expect("an address"), None, 0).expect("bound");
        let flow = Flow::Udp(Arc::new(endpoint), other.local_addr().expect("an address"));
        let stop = CancellationToken::new();
        let transactions = Transactions::new(Arc::default(), Arc::default(), stop.clone(), BootClock::default());
        Self { transactions, flow, other, stop }
    }

    /// Sends an OPTIONS with this guard, room and timeout.
    async fn request(
        &self,
        guard: bool,
        room: Room,
        timeout: Option<Duration>,
    ) -> Result<(ClientId, Response), SendError> {
        let mut headers = Headers::default();
        for (name, value) in [
            ("Max-Forwards", "70"),
            ("From", "<sip:a@vm.example>;tag=1"),
            ("To", "<sip:b@pbx.example>"),
            ("Call-ID", "a"),
            ("CSeq", "1 OPTIONS"),
        ] {
            headers.push(name, value);
        }
        let uri = "sip:b@pbx.example".to_owned();
        let mut request = Request { method: Method::Options, uri, headers, body: Bytes::new() };
        let guard = Some(Guard(Arc::new(move || guard)));
        self.transactions.request(&mut request, &self.flow, guard, room, timeout).await
    }

    /// The next datagram at the other side.
    fn received(&self) -> io::Result<Request> {
        let mut buffer = [0; 4_096];
        let length = self.other.recv(&mut buffer)?;
        match read(&buffer[..length]) {
            MessageVerdict::Request(request) => Ok(request),
            other => panic!("no request but {other:?}"),
        }
    }

    fn is_empty(&self) -> bool {
        lock(&self.transactions.pending).is_empty() && self.transactions.count() == 0
    }
}

#[tokio::test]
async fn request_whose_guard_refuses_does_not_leave_and_returns_its_room() {
    let (setup, room) = (Setup::new(), Arc::new(Semaphore::new(1)));
    let taken = room.clone().try_acquire_owned().expect("room");
    let outcome = setup.request(false, Some(taken), None).await;
    assert!(matches!(outcome, Err(SendError::Withdrawn)), "{outcome:?}");
    assert_eq!(setup.received().map_err(|error| error.kind()).err(), Some(io::ErrorKind::WouldBlock));
    assert!(setup.is_empty());
    assert_eq!(room.available_permits(), 1);
}

#[tokio::test]
async fn request_gets_its_response() {
    let setup = Setup::new();
    let answer = async {
        let request = loop {
            match setup.received() {
                Ok(request) => break request,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        setup.transactions.response_received(request.respond(200));
    };
    let (outcome, ()) = tokio::join!(setup.request(true, None, None), answer);
    assert_eq!(outcome.expect("an answer").1.code, 200);
    assert!(lock(&setup.transactions.pending).is_empty());
}

#[tokio::test]
async fn request_ends_at_its_timeout_and_with_the_server() {
    let setup = Setup::new();
    let outcome = setup.request(true, None, Some(Duration::from_millis(10))).await;
    assert!(matches!(outcome, Err(SendError::TimedOut)), "{outcome:?}");
    assert!(setup.is_empty(), "it is not repeated");
    let (outcome, ()) = tokio::join!(setup.request(true, None, None), async { setup.stop.cancel() });
    assert!(matches!(outcome, Err(SendError::Withdrawn)), "{outcome:?}");
    assert!(lock(&setup.transactions.pending).is_empty());
}
