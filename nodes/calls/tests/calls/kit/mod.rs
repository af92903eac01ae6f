//! The SIP server of a real node on loopback, with a real store in a temporary directory, and a raw SIP socket for
//! exact messages.
#![allow(unused, reason = "each test file uses its part")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};
use twinbox_calls::{Calls, CallsConfig, CallsDeps, CallsError, ListenerConfig, RtpConfig, Transport, TrunkConfig};
use twinbox_clock::{BootClock, BootInstant};
use twinbox_ids::{ClusterId, Incarnation, MailboxId, NodeName};
use twinbox_mailstore::{Mailstore, MailstoreSettings, NewMailbox};
use twinbox_media::{Engine, MediaConfig};
use twinbox_pki::{CertificateAuthority, MemberKind, NodeIdentity};
use twinbox_prompts::Prompts;
use twinbox_replication_peer::{PeerConfig, Peers};
use twinbox_replication_store::{Filled, Store, StoreConfig};
use twinbox_sip::{
    Request, Response,
    framing::{Frame, Framer},
    strict::{MessageVerdict, read, read_framed},
};

/// Timeout for a loaded machine; a successful test never waits for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The PIN of mailbox 1001: long enough not to occur in a call's ID or a port by chance.
pub const PIN: &str = "2580147036";

pub struct Node {
    pub calls: Calls,
    pub mailstore: Mailstore,
    pub mailbox: MailboxId,
    pub udp: SocketAddr,
    pub tcp: SocketAddr,
    pub incarnation: Incarnation,
    pub store: Store,
    pub media: Engine,
    pub deps: CallsDeps,
    /// Seconds by which its clock is ahead.
    ahead: Arc<AtomicU64>,
    dir: TempDir,
}

/// Settings that a test can change.
pub struct Options {
    pub calls: CallsConfig,
    pub require_two: bool,
    /// The first fill of the node continues.
    pub fills: bool,
    pub rtp_ports: std::ops::RangeInclusive<u16>,
}

impl Node {
    /// A node `a` with the mailbox 1001, whose only trunk is this machine.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// The start error of a node with these options.
    pub async fn refused(change: impl FnOnce(&mut Options)) -> String {
        match Self::open(change).await {
            Ok(_) => panic!("it started"),
            Err(error) => error.to_string(),
        }
    }

    pub async fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::open(change).await.expect("a SIP server")
    }

    async fn open(change: impl FnOnce(&mut Options)) -> Result<Self, CallsError> {
        let mut options = Options { calls: config(), require_two: false, fills: false, rtp_ports: ports() };
        change(&mut options);
        let dir = TempDir::new().expect("a directory");
        let name: NodeName = "a".parse().expect("a name");
        let store = StoreConfig { dir: dir.path().join("store"), node: name.clone(), reserve_bytes: 0 };
        let store = Store::open(store).expect("a store");
        if !options.fills {
            store.set_filled(Filled::Complete).await.expect("a mark");
        }
        let peers = Peers::new(
            PeerConfig {
                node: name.clone(),
                cluster: ClusterId(7),
                peers: vec![],
                ack_timeout: Duration::from_millis(250),
                tls: identity(&dir, &name),
            },
            store.clone(),
        );
        let incarnation = Incarnation::random();
        let mut settings = MailstoreSettings::new(name.clone(), incarnation);
        settings.require_two = options.require_two;
        settings.min_message_ms = options.calls.min_message_ms;
        let mailstore = Mailstore::new(store.clone(), peers, settings);
        let mut new = NewMailbox::new("1001", PIN);
        new.must_change = false;
        let (mailbox, _) = mailstore.create(new).await.expect("a mailbox");
        let media = MediaConfig::new(options.calls.rtp.bind, options.rtp_ports);
        let media = Engine::start(media).expect("a media engine");
        let ahead = Arc::<AtomicU64>::default();
        let clock = ahead.clone();
        let clock = move || BootInstant::now() + Duration::from_secs(clock.load(Ordering::Relaxed));
        let deps = CallsDeps {
            node: name,
            incarnation,
            mailstore: mailstore.clone(),
            prompts: Arc::new(Prompts::load(None, "en").expect("prompts")),
            media: media.clone(),
            clock: BootClock::new(clock),
        };
        let calls = Calls::start(options.calls, deps.clone()).await?;
        let address = |transport| {
            let found = calls.addresses().iter().find(|(t, _)| *t == transport);
            found.expect("a listener").1
        };
        let (udp, tcp) = (address(Transport::Udp), address(Transport::Tcp));
        Ok(Self { calls, mailstore, mailbox: mailbox.id, udp, tcp, incarnation, store, media, deps, ahead, dir })
    }

    pub async fn raw(&self) -> Raw {
        Raw::udp(self.udp).await
    }

    pub fn counter(&self, name: &str) -> u64 {
        *self.calls.stats().counters.get(name).unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// Directory of the store.
    pub fn store_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }

    /// Waits until a counter has reached this value.
    pub async fn until_counted(&self, counter: &str, value: u64) {
        let begun = BootInstant::now();
        while self.counter(counter) < value {
            assert!(begun.elapsed() < PATIENCE, "{counter} is {}", self.counter(counter));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Moves the clock and all timers of the SIP server ahead by this many seconds. Media stay in real time.
    pub async fn pass(&self, seconds: u64) {
        // Messages that have arrived are handled before.
        tokio::time::sleep(Duration::from_millis(1)).await;
        // No task runs between the two: a timer that fires finds the clock moved.
        self.ahead.fetch_add(seconds, Ordering::Relaxed);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    }

    /// Does this work while a second passes in each 10 ms, for the timeouts of the work too.
    pub async fn hurry<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let begun = BootInstant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "it is not done");
            if let Ok(done) = timeout(Duration::from_millis(10), &mut work).await {
                return done;
            }
            self.pass(1).await;
        }
    }

    /// Waits until no call is in progress.
    pub async fn idle(&self) {
        timeout(PATIENCE, self.calls.idle()).await.expect("the calls end");
    }
}

/// A separate port range for each test process and node: tests run concurrently.
fn ports() -> std::ops::RangeInclusive<u16> {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let slot = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let first = 20_000 + (std::process::id() as u16 % 38) * 1_000 + slot % 4 * 250;
    first..=first + 249
}

pub fn config() -> CallsConfig {
    let listener =
        |transport| ListenerConfig { transport, bind: SocketAddr::from(([127, 0, 0, 1], 0)), advertise: None };
    CallsConfig {
        listeners: vec![listener(Transport::Udp), listener(Transport::Tcp)],
        trunks: vec![trunk("pbx", "127.0.0.1")],
        rtp: RtpConfig { bind: Ipv4Addr::LOCALHOST.into(), advertise: None },
        min_message_ms: 500,
        // Tests run beside others: the limit for the answer to BYE is only where a test is about it.
        ack_timeout_ms: 5_000,
        ..CallsConfig::default()
    }
}

pub fn trunk(name: &str, address: &str) -> TrunkConfig {
    TrunkConfig {
        name: name.to_owned(),
        addresses: vec![address.parse().expect("a network")],
        transport: None,
        username: None,
        password: None,
        proxy: None,
        register: None,
        mwi: None,
        transfer: None,
        media_from_any_host: false,
    }
}

fn identity(dir: &TempDir, node: &NodeName) -> Arc<NodeIdentity> {
    let authority = CertificateAuthority::create(ClusterId(7), "test").expect("an authority");
    let path = dir.path().join("tls");
    std::fs::create_dir_all(&path).expect("a directory");
    authority.issue(node, MemberKind::Node).expect("a certificate").save(&path).expect("saved");
    Arc::new(NodeIdentity::load(&path).expect("an identity"))
}

/// A raw SIP socket towards the node.
pub enum Raw {
    Udp(UdpSocket, SocketAddr),
    Tcp(Box<(TcpStream, Framer)>),
}

impl Raw {
    pub async fn udp(node: SocketAddr) -> Self {
        Self::Udp(UdpSocket::bind("127.0.0.1:0").await.expect("a socket"), node)
    }

    /// A socket at another address of this machine.
    pub async fn udp_from(address: &str, node: SocketAddr) -> Self {
        Self::Udp(UdpSocket::bind((address, 0)).await.expect("a socket"), node)
    }

    /// A connection from another address of this machine.
    pub async fn tcp_from(address: &str, node: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(address.parse().expect("an address"), 0)).expect("bound");
        Self::connected(socket.connect(node).await.expect("a connection"))
    }

    pub async fn tcp(node: SocketAddr) -> Self {
        Self::connected(TcpStream::connect(node).await.expect("a connection"))
    }

    /// A connection with the node. No message waits until the node has acknowledged the one before.
    pub fn connected(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("set");
        Self::Tcp(Box::new((stream, Framer::default())))
    }

    pub fn local(&self) -> SocketAddr {
        match self {
            Self::Udp(socket, _) => socket.local_addr().expect("an address"),
            Self::Tcp(tcp) => tcp.0.local_addr().expect("an address"),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Udp(socket, node) => {
                socket.send_to(bytes, *node).await.expect("sent");
            }
            Self::Tcp(tcp) => tcp.0.write_all(bytes).await.expect("sent"),
        }
    }

    /// The next message of any kind; `None` after `patience` or at the end of a connection.
    pub async fn next(&mut self, patience: Duration) -> Option<MessageVerdict> {
        match self {
            Self::Udp(socket, _) => {
                let mut buffer = vec![0; 65_536];
                let length = timeout(patience, socket.recv(&mut buffer)).await.ok()?.ok()?;
                Some(read(&buffer[..length]))
            }
            Self::Tcp(tcp) => {
                let (stream, framer) = tcp.as_mut();
                loop {
                    if let Some(Frame::Message(data)) = framer.next_frame() {
                        return Some(read_framed(&data));
                    }
                    let mut buffer = [0; 4096];
                    let length = timeout(patience, stream.read(&mut buffer)).await.ok()?.ok()?;
                    if length == 0 {
                        return None;
                    }
                    framer.push(&buffer[..length]);
                }
            }
        }
    }

    /// The next response.
    pub async fn response(&mut self) -> Response {
        loop {
            match self.next(PATIENCE).await {
                Some(MessageVerdict::Response(response)) if response.code == 100 => {}
                Some(MessageVerdict::Response(response)) => return response,
                other => panic!("no response but {other:?}"),
            }
        }
    }

    /// The next request, answered with `200`.
    pub async fn request(&mut self) -> Request {
        match self.next(PATIENCE).await {
            Some(MessageVerdict::Request(request)) => {
                self.send(&request.respond(200).with_to_tag("theirs").to_bytes()).await;
                request
            }
            other => panic!("no request but {other:?}"),
        }
    }

    /// The next request; the test must answer it.
    pub async fn unanswered(&mut self) -> Request {
        match self.next(PATIENCE).await {
            Some(MessageVerdict::Request(request)) => request,
            other => panic!("no request but {other:?}"),
        }
    }

    /// Sends a request and waits for its response.
    pub async fn ask(&mut self, text: impl Into<String>) -> Response {
        self.send(text.into().as_bytes()).await;
        self.response().await
    }

    /// A client-side dialog with this Call-ID.
    pub fn dialog(&self, call_id: &str) -> RawDialog {
        RawDialog {
            transport: if matches!(self, Self::Udp(..)) { "UDP" } else { "TCP" },
            local: self.local(),
            call_id: call_id.to_owned(),
            from_tag: "f1".to_owned(),
            to_tag: None,
            target: "sip:1001@vm.example".to_owned(),
            cseq: 0,
            headers: Vec::new(),
        }
    }
}

/// The client side of a dialog, with raw messages.
#[derive(Clone)]
pub struct RawDialog {
    pub transport: &'static str,
    pub local: SocketAddr,
    pub call_id: String,
    pub from_tag: String,
    pub to_tag: Option<String>,
    pub target: String,
    pub cseq: u32,
    pub headers: Vec<String>,
}

impl RawDialog {
    pub fn with(mut self, header: &str) -> Self {
        self.headers.push(header.to_owned());
        self
    }

    /// The next request, with a new branch.
    pub fn request(&mut self, method: &str, content_type: &str, body: &str) -> String {
        if method != "ACK" && method != "CANCEL" {
            self.cseq += 1;
        }
        self.again(method, content_type, body)
    }

    /// A request with the number of the last one.
    pub fn again(&self, method: &str, content_type: &str, body: &str) -> String {
        let Self { transport, local, call_id, from_tag, target, cseq, .. } = self;
        let kind = match method {
            "CANCEL" => "INVITE",
            other => other,
        };
        let to_tag = self.to_tag.as_ref().map(|t| format!(";tag={t}")).unwrap_or_default();
        let mut lines = vec![
            format!("{method} {target} SIP/2.0"),
            format!("Via: SIP/2.0/{transport} {local};rport;branch=z9hG4bK{call_id}-{from_tag}-{cseq}-{kind}"),
            "Max-Forwards: 70".to_owned(),
            format!("From: <sip:2001@pbx.example>;tag={from_tag}"),
            format!("To: <sip:1001@vm.example>{to_tag}"),
            format!("Call-ID: {call_id}"),
            format!("CSeq: {cseq} {method}"),
            format!("Contact: <sip:2001@{local}>"),
        ];
        lines.extend(self.headers.iter().cloned());
        if !body.is_empty() {
            lines.push(format!("Content-Type: {content_type}"));
        }
        lines.push(format!("Content-Length: {}", body.len()));
        lines.join("\r\n") + "\r\n\r\n" + body
    }

    pub fn invite(&mut self) -> String {
        let offer = offer(9);
        self.request("INVITE", "application/sdp", &offer)
    }

    /// Takes the dialog from a `200`; returns the ACK.
    pub fn answered(&mut self, ok: &Response) -> String {
        assert_eq!(ok.code, 200, "{}", ok.reason);
        self.to_tag = Some(ok.headers.tag("To").expect("a To tag").to_owned());
        let contact = ok.headers.get("Contact").expect("a Contact");
        self.target = contact.trim_start_matches('<').trim_end_matches('>').to_owned();
        self.request("ACK", "", "")
    }
}

/// An offer of G.711 on a port without a receiver.
pub fn offer(port: u16) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 0 8 101\r\n\
         a=rtpmap:101 telephone-event/8000\r\n"
    )
}

/// Establishes a call and returns its `200`.
pub async fn establish(raw: &mut Raw, dialog: &mut RawDialog) -> Response {
    let ok = raw.ask(dialog.invite()).await;
    let ack = dialog.answered(&ok);
    raw.send(ack.as_bytes()).await;
    ok
}

/// Ends a call.
pub async fn hang_up(raw: &mut Raw, dialog: &mut RawDialog) {
    let bye = dialog.request("BYE", "", "");
    assert_eq!(raw.ask(bye).await.code, 200);
}
