//! Probe of one address during a round: over UDP with repeats, over TCP with one connection after another until one
//! holds. A refusal counts neither as an answer nor as silence (rule R1): the probe is repeated until the round
//! ends.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{sleep, timeout},
};
use twinbox_calls::Transport;
use twinbox_sip::{
    framing::{Frame, Framer},
    strict::MAX_MESSAGE,
};

use super::{
    request::ProbeRequest,
    rounds::{ProbeOutcome, ROUND},
    targets::SipTarget,
};

/// Interval of repeats (RFC 3261 section 17.1.2.2, T1).
const AGAIN: Duration = Duration::from_millis(500);

/// Probes until an answer arrives or the round ends.
pub async fn probe_target(target: &SipTarget, probe: &ProbeRequest) -> ProbeOutcome {
    let mut seen = ProbeTrace::default();
    let answered = timeout(ROUND, async {
        match target.transport {
            Transport::Udp => over_udp(target, probe, &mut seen).await,
            Transport::Tcp => over_tcp(target, probe, &mut seen).await,
        }
    });
    match answered.await {
        Ok(()) => ProbeOutcome::Answered,
        Err(_) if seen.another => ProbeOutcome::OtherNode,
        Err(_) if seen.sent => ProbeOutcome::Silent,
        Err(_) => ProbeOutcome::NotProbed,
    }
}

/// Observations other than an answer.
#[derive(Default)]
struct ProbeTrace {
    /// The request, or a connection attempt, has left this machine.
    sent: bool,
    /// Another node has answered.
    another: bool,
}

impl ProbeTrace {
    /// Records whether the request has left this machine, as far as the result shows: these errors come from the
    /// other machine, or from no host at that address.
    fn note<T>(&mut self, sent: &io::Result<T>) {
        let back = [ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset, ErrorKind::HostUnreachable];
        let late = [ErrorKind::TimedOut, ErrorKind::BrokenPipe];
        let left = |error: &io::Error| back.iter().chain(&late).any(|kind| *kind == error.kind());
        self.sent |= sent.as_ref().err().is_none_or(left);
    }

    /// Whether this message answers the request.
    fn is_answer(&mut self, probe: &ProbeRequest, message: &[u8]) -> bool {
        let outcome = probe.judge(message);
        self.another |= outcome == Some(ProbeOutcome::OtherNode);
        outcome == Some(ProbeOutcome::Answered)
    }
}

/// Ends with an answer only.
async fn over_udp(target: &SipTarget, probe: &ProbeRequest, seen: &mut ProbeTrace) {
    let any: IpAddr = if target.address.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let open = async || {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(target.address).await?;
        io::Result::Ok((socket.local_addr()?, socket))
    };
    let (local, socket) = loop {
        match open().await {
            Ok(opened) => break opened,
            // This machine has no route to the address now.
            Err(_) => sleep(AGAIN).await,
        }
    };
    let request = probe.to_bytes(target, local);
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        seen.note(&socket.send(&request).await);
        let again = sleep(AGAIN);
        tokio::pin!(again);
        loop {
            tokio::select! {
                // Received messages take precedence over the timer.
                biased;
                received = socket.recv(&mut buffer) => {
                    let message = received.ok().and_then(|length| buffer.get(..length));
                    if message.is_some_and(|message| seen.is_answer(probe, message)) {
                        return;
                    }
                }
                () = &mut again => break,
            }
        }
    }
}

async fn over_tcp(target: &SipTarget, probe: &ProbeRequest, seen: &mut ProbeTrace) {
    let mut buffer = vec![0; 4_096];
    loop {
        // A host that does not react to a connection attempt counts as probed.
        let connected = match timeout(ROUND.saturating_sub(AGAIN), TcpStream::connect(target.address)).await {
            Ok(connected) => connected,
            Err(_) => Err(ErrorKind::TimedOut.into()),
        };
        seen.note(&connected);
        if let Ok(mut stream) = connected
            && exchange(&mut stream, target, probe, seen, &mut buffer).await.is_ok()
        {
            return;
        }
        sleep(AGAIN).await;
    }
}

/// Exchanges messages on one connection. Error: the connection ended without an answer.
async fn exchange(
    stream: &mut TcpStream,
    target: &SipTarget,
    probe: &ProbeRequest,
    seen: &mut ProbeTrace,
    buffer: &mut [u8],
) -> io::Result<()> {
    let request = probe.to_bytes(target, stream.local_addr()?);
    stream.write_all(&request).await?;
    let mut framer = Framer::default();
    loop {
        let length = stream.read(buffer).await?;
        let read = buffer.get(..length).filter(|read| !read.is_empty()).ok_or(ErrorKind::UnexpectedEof)?;
        framer.push(read);
        while let Some(frame) = framer.next_frame() {
            let (Frame::Message(message) | Frame::Lost(message)) = frame else { continue };
            if seen.is_answer(probe, &message) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::net::{TcpListener, TcpSocket};
    use twinbox_ids::Incarnation;
    use twinbox_sip::{
        Request,
        strict::{MessageVerdict, read},
    };

    use super::*;

    fn probe() -> ProbeRequest {
        ProbeRequest::new(&"b".parse().expect("a name"), Incarnation(7), 5)
    }

    fn request(bytes: &[u8]) -> Request {
        match read(bytes) {
            MessageVerdict::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    fn answer(bytes: &[u8], server: &str) -> Bytes {
        request(bytes).respond(503).with_to_tag("t").with("Server", server).to_bytes()
    }

    /// Probes a socket that ignores `left` messages and then answers as `server`.
    async fn udp(left: usize, server: &'static str) -> ProbeOutcome {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let target = SipTarget { transport: Transport::Udp, address: socket.local_addr().expect("bound") };
        let answering = tokio::spawn(async move {
            let mut buffer = vec![0; MAX_MESSAGE];
            for n in 0.. {
                let (length, from) = socket.recv_from(&mut buffer).await.expect("a probe");
                if n >= left {
                    socket.send_to(b"noise", from).await.expect("sent");
                    socket.send_to(&answer(&buffer[..length], server), from).await.expect("sent");
                }
            }
        });
        let outcome = probe_target(&target, &probe()).await;
        answering.abort();
        outcome
    }

    #[tokio::test]
    async fn over_udp_the_request_is_repeated_until_an_answer() {
        let cases = tokio::join!(
            udp(0, "twinbox-node/b"),
            udp(2, "another make"),
            udp(usize::MAX, "nobody"),
            udp(0, "twinbox-node/a"),
        );
        assert_eq!(
            cases,
            (ProbeOutcome::Answered, ProbeOutcome::Answered, ProbeOutcome::Silent, ProbeOutcome::OtherNode)
        );
    }

    #[tokio::test]
    async fn a_refusal_is_no_answer_and_another_answer_meanwhile_counts() {
        let closed =
            std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        let shut = SipTarget { transport: Transport::Udp, address: closed };
        // Bound but not listening: connections are refused, and no other process gets the port.
        let port = TcpSocket::new_v4().expect("a socket");
        port.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let address = port.local_addr().expect("bound");
        let late = async {
            sleep(AGAIN).await;
            let listener = port.listen(1).expect("a listener");
            let (mut stream, _) = listener.accept().await.expect("asked");
            let mut buffer = vec![0; MAX_MESSAGE];
            let length = stream.read(&mut buffer).await.expect("a probe");
            stream.write_all(&answer(&buffer[..length], "twinbox-node/b")).await.expect("sent");
            listener
        };
        let tcp = SipTarget { transport: Transport::Tcp, address };
        let probe = probe();
        let (refused, answered, _listener) =
            tokio::join!(probe_target(&shut, &probe), probe_target(&tcp, &probe), late);
        assert_eq!((refused, answered), (ProbeOutcome::Silent, ProbeOutcome::Answered));
    }

    #[tokio::test]
    async fn a_connection_that_is_taken_and_left_alone_is_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let target = SipTarget { transport: Transport::Tcp, address: listener.local_addr().expect("bound") };
        assert_eq!(probe_target(&target, &probe()).await, ProbeOutcome::Silent);
    }

    #[tokio::test]
    async fn an_address_without_a_route_was_not_probed() {
        // The system refuses to send to the broadcast address.
        for transport in [Transport::Udp, Transport::Tcp] {
            let address = "255.255.255.255:5060".parse().expect("an address");
            assert_eq!(probe_target(&SipTarget { transport, address }, &probe()).await, ProbeOutcome::NotProbed);
        }
    }
}
