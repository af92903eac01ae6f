//! A small UAS for the phone to call; its behaviour depends on the called user. Echoes RTP.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};
use twinbox_rtp::packet::{Header, Packet};
use twinbox_sip::{
    Method, Request, Response,
    addr::NameAddr,
    framing::{Frame, Framer},
    strict::{self, MessageVerdict},
    uri::Uri,
};

/// Messages and RTP packets received by the UAS.
#[derive(Default)]
pub struct Received {
    pub requests: Vec<Request>,
    pub responses: Vec<Response>,
    pub rtp: Vec<(Header, Vec<u8>)>,
}

pub struct Uas {
    pub address: SocketAddr,
    seen: Arc<Mutex<Received>>,
}

struct Side {
    address: SocketAddr,
    transport: &'static str,
    seen: Arc<Mutex<Received>>,
    rtp: [SocketAddr; 2],
    dropped: bool,
    /// Answer to retransmit after its ACK, as if the ACK were lost.
    again: Option<Bytes>,
}

impl Uas {
    pub async fn udp() -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (mut side, uas) = Self::new(socket.local_addr().unwrap(), "UDP").await;
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                for bytes in side.handle(&buffer[..length]) {
                    socket.send_to(&bytes, from).await.unwrap();
                }
            }
        });
        uas
    }

    pub async fn tcp() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut side, uas) = Self::new(listener.local_addr().unwrap(), "TCP").await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut framer, mut buffer) = (Framer::default(), vec![0; 65_536]);
            loop {
                let length = stream.read(&mut buffer).await.unwrap();
                framer.push(&buffer[..length]);
                while let Some(Frame::Message(bytes)) = framer.next_frame() {
                    for bytes in side.handle(&bytes) {
                        stream.write_all(&bytes).await.unwrap();
                    }
                }
                if length == 0 {
                    return;
                }
            }
        });
        uas
    }

    async fn new(address: SocketAddr, transport: &'static str) -> (Side, Self) {
        let seen = Arc::<Mutex<Received>>::default();
        let rtp = [echo(seen.clone()).await, echo(seen.clone()).await];
        let side = Side { address, transport, seen: seen.clone(), rtp, dropped: false, again: None };
        (side, Self { address, seen })
    }

    /// Waits until `look` finds something in the received messages.
    pub async fn seen<R>(&self, mut look: impl FnMut(&Received) -> Option<R>) -> R {
        let wait = async {
            loop {
                if let Some(found) = look(&self.seen.lock().unwrap()) {
                    return found;
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), wait).await.expect("to be seen in time")
    }

    /// Waits for the last of at least `count` requests of a method.
    pub async fn request(&self, method: Method, count: usize) -> Request {
        self.seen(|seen| {
            let of_method: Vec<_> = seen.requests.iter().filter(|r| r.method == method).collect();
            of_method.get(count.max(1) - 1).map(|r| (*r).clone())
        })
        .await
    }

    /// Waits for a response to a request of the UAS.
    pub async fn response(&self, method: Method) -> Response {
        self.seen(|seen| seen.responses.iter().find(|r| r.headers.cseq_method() == method).cloned()).await
    }
}

/// An RTP socket that stores and returns its packets.
async fn echo(seen: Arc<Mutex<Received>>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2_048];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let packet = Packet::parse(&buffer[..length]).unwrap();
            seen.lock().unwrap().rtp.push((packet.header, packet.payload.to_vec()));
            socket.send_to(&buffer[..length], from).await.unwrap();
        }
    });
    address
}

impl Side {
    fn handle(&mut self, bytes: &[u8]) -> Vec<Bytes> {
        match strict::read(bytes) {
            MessageVerdict::Request(request) => {
                let out = self.request(&request);
                self.seen.lock().unwrap().requests.push(request);
                out
            }
            MessageVerdict::Response(response) => {
                let answer_again = response.headers.cseq_method() == Method::Invite;
                let ack = answer_again.then(|| self.ours(&response_as_request(&response), Method::Ack, 7, ""));
                self.seen.lock().unwrap().responses.push(response);
                ack.into_iter().collect()
            }
            other => panic!("the phone sent {other:?}"),
        }
    }

    fn request(&mut self, request: &Request) -> Vec<Bytes> {
        let user = Uri::parse(&request.uri).and_then(|uri| uri.user).unwrap_or_default().to_owned();
        let contact = format!("<sip:{user}@{}>", self.address);
        let respond = |code| request.respond(code).with_to_tag("uas").with("Contact", contact.as_str());
        let sdp = |response: Response, port: u16| response.with_body("application/sdp", sdp(port));
        let bytes = |responses: &[Response]| responses.iter().map(Response::to_bytes).collect::<Vec<_>>();
        let port = self.rtp[0].port();
        let in_dialog = request.headers.tag("To").is_some();
        match (&request.method, user.as_str()) {
            (Method::Invite, "lossy") if !std::mem::replace(&mut self.dropped, true) => vec![],
            (Method::Invite, "busy") => bytes(&[respond(486).with("X-Why", "tests")]),
            (Method::Invite, "ring") => bytes(&[respond(180)]),
            (Method::Invite, "useless") => bytes(&[respond(200)]),
            (Method::Invite, "auth") if request.headers.get("Authorization").is_none() => {
                bytes(&[respond(401).with("WWW-Authenticate", "Digest realm=\"r\", nonce=\"n\", qop=\"auth\"")])
            }
            (Method::Invite, _) if in_dialog => bytes(&[sdp(respond(200), port)]),
            (Method::Invite, "lossy") => {
                let ok = sdp(respond(200), port).to_bytes();
                self.again = Some(ok.clone());
                vec![ok]
            }
            (Method::Ack, "lossy") => self.again.take().into_iter().collect(),
            (Method::Invite, _) => bytes(&[respond(100), respond(180), sdp(respond(200), port)]),
            (Method::Cancel, _) => {
                let mut terminated = respond(487);
                terminated.headers.set("CSeq", format!("{} INVITE", request.headers.cseq()));
                bytes(&[respond(200), terminated])
            }
            (Method::Ack, "hangup") => vec![self.ours(request, Method::Bye, 7, "")],
            (Method::Ack, "move") => vec![self.ours(request, Method::Invite, 7, &sdp_text(self.rtp[1].port()))],
            (Method::Ack, "ask") => vec![self.ours(request, Method::Invite, 7, "")],
            (Method::Ack, "options") => vec![self.ours(request, Method::Options, 7, "")],
            (Method::Subscribe, _) => {
                let mut notify = self.ours(request, Method::Notify, 7, SUMMARY).to_vec();
                notify = String::from_utf8(notify).unwrap().replace("tag=none", "tag=uas").into_bytes();
                vec![respond(202).with("Expires", "60").to_bytes(), notify.into()]
            }
            // The same NOTIFY twice: the second is a retransmission.
            (Method::Message, _) => {
                let notify = self.ours(request, Method::Notify, 9, SUMMARY);
                let notify = String::from_utf8(notify.to_vec()).unwrap();
                let to = notify.lines().find(|l| l.starts_with("To: ")).unwrap();
                let bare = to.split(";tag=").next().unwrap().to_owned();
                let notify = Bytes::from(notify.replace(to, &bare));
                vec![respond(200).to_bytes(), notify.clone(), notify]
            }
            (Method::Ack, _) => vec![],
            _ => bytes(&[respond(200)]),
        }
    }

    /// A request of the UAS in the dialog of `theirs`.
    fn ours(&self, theirs: &Request, method: Method, cseq: u32, body: &str) -> Bytes {
        let headers = &theirs.headers;
        let mut request =
            Request { method: method.clone(), uri: String::new(), headers: Default::default(), body: Bytes::new() };
        let from = headers.get("From").unwrap();
        let to = headers.get("To").unwrap();
        let to = if headers.tag("To").is_some() { to.to_owned() } else { format!("{to};tag=none") };
        request.uri = NameAddr::parse(from).unwrap().uri.to_owned();
        let transport = self.transport;
        let address = self.address;
        request.headers.push("Via", format!("SIP/2.0/{transport} {address};branch=z9hG4bK{cseq}{method};rport"));
        request.headers.push("Max-Forwards", "70");
        request.headers.push("From", to);
        request.headers.push("To", from);
        request.headers.push("Call-ID", headers.call_id());
        request.headers.push("CSeq", format!("{cseq} {method}"));
        request.headers.push("Contact", format!("<sip:moved@{address}>"));
        if method == Method::Notify {
            request.headers.push("Event", "message-summary");
            request.headers.push("Subscription-State", "active;expires=60");
        }
        if !body.is_empty() {
            let kind =
                if method == Method::Notify { "application/simple-message-summary" } else { "application/sdp" };
            request.headers.push("Content-Type", kind);
            request.body = Bytes::copy_from_slice(body.as_bytes());
        }
        request.to_bytes()
    }
}

/// The dialog headers of the UAS's request, reconstructed from the response to it.
fn response_as_request(response: &Response) -> Request {
    let mut headers = response.headers.clone();
    let (from, to) = (headers.get("To").unwrap().to_owned(), headers.get("From").unwrap().to_owned());
    headers.set("From", from);
    headers.set("To", to);
    Request { method: Method::Ack, uri: String::new(), headers, body: Bytes::new() }
}

pub const SUMMARY: &str = "Messages-Waiting: yes\r\nVoice-Message: 2/1 (0/0)\r\n";

fn sdp(port: u16) -> Bytes {
    sdp_text(port).into()
}

fn sdp_text(port: u16) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 8 96\r\n\
         a=rtpmap:96 telephone-event/8000\r\n"
    )
}
