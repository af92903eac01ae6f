//! The PBX side of MWI: it receives NOTIFYs, records the time of each, and subscribes.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use twinbox_clock::BootInstant;

use crate::{
    NetPlace, holds,
    message::{Message, token},
};

/// A NOTIFY with a message summary (RFC 3842).
#[derive(Debug, Clone)]
pub struct MwiNotify {
    /// Time of arrival.
    pub at: BootInstant,
    /// Address of the node.
    pub source: SocketAddr,
    /// The user part of its Request-URI: the mailbox.
    pub mailbox: String,
    /// Whether it came in a dialog of one of our subscriptions.
    pub subscribed: bool,
    /// `Messages-Waiting: yes`.
    pub waiting: bool,
    /// The new and old voice messages of `Voice-Message: n/m`.
    pub counts: Option<(u32, u32)>,
    /// CSeq.
    pub cseq: u32,
    /// The whole message.
    pub message: Message,
}

#[derive(Default)]
struct State {
    notifies: Vec<MwiNotify>,
    responses: Vec<Message>,
    silent: bool,
}

/// A socket with a thread that answers every request `200`.
pub struct Pbx {
    socket: UdpSocket,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pbx {
    /// A PBX at `place` on this port.
    pub fn open(place: &NetPlace, port: u16) -> Self {
        let socket = place.udp(port);
        let address = socket.local_addr().expect("a bound socket has an address");
        let (state, stop) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let (receiver, shared, stopped) =
            (socket.try_clone().expect("a socket can be cloned"), state.clone(), stop.clone());
        let thread = Some(thread::spawn(move || run(&receiver, &shared, &stopped)));
        Self { socket, address, state, stop, thread }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All NOTIFYs so far.
    pub fn notifies(&self) -> Vec<MwiNotify> {
        self.state.lock().expect("the PBX does not panic").notifies.clone()
    }

    /// Forgets the NOTIFYs so far.
    pub fn forget(&self) {
        self.state.lock().expect("the PBX does not panic").notifies.clear();
    }

    /// Stops answering (`true`), or answers again.
    pub fn set_silent(&self, silent: bool) {
        self.state.lock().expect("the PBX does not panic").silent = silent;
    }

    /// The first NOTIFY for `mailbox` with these counts that has come or comes within `limit`.
    pub fn wait_for_mwi(&self, mailbox: &str, new: u32, limit: Duration) -> Option<MwiNotify> {
        holds(limit, || {
            let fits = |l: &MwiNotify| l.mailbox == mailbox && l.counts.is_some_and(|(n, _)| n == new);
            self.notifies().into_iter().find(fits)
        })
    }

    /// Sends SUBSCRIBE for a mailbox's MWI to `node` and returns the final status, 0 for none in 5 s.
    pub fn subscribe(&self, node: SocketAddr, mailbox: &str, expires: u32) -> u16 {
        let (call_id, us) = (token(), self.address);
        let text = [
            format!("SUBSCRIBE sip:{mailbox}@{node} SIP/2.0"),
            format!("Via: SIP/2.0/UDP {us};branch=z9hG4bK{};rport", token()),
            "Max-Forwards: 70".to_owned(),
            format!("From: <sip:{mailbox}@{us}>;tag={}", token()),
            format!("To: <sip:{mailbox}@{node}>"),
            format!("Call-ID: {call_id}"),
            "CSeq: 1 SUBSCRIBE".to_owned(),
            format!("Contact: <sip:{mailbox}@{us}>"),
            "Event: message-summary".to_owned(),
            "Accept: application/simple-message-summary".to_owned(),
            format!("Expires: {expires}"),
            "Content-Length: 0\r\n\r\n".to_owned(),
        ]
        .join("\r\n");
        self.socket.send_to(text.as_bytes(), node).expect("datagrams can be sent");
        let found = holds(Duration::from_secs(5), || {
            let state = self.state.lock().expect("the PBX does not panic");
            let ours = |m: &&Message| m.header("call-id") == Some(&call_id) && m.status() >= Some(200);
            state.responses.iter().find(ours).and_then(Message::status)
        });
        found.unwrap_or(0)
    }
}

impl Drop for Pbx {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(socket: &UdpSocket, state: &Mutex<State>, stop: &AtomicBool) {
    let mut buffer = [0_u8; 65536];
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, source)) = socket.recv_from(&mut buffer) else { continue };
        let at = BootInstant::now();
        let Some((message, _)) = Message::read(&buffer[..length]) else { continue };
        let mut state = state.lock().expect("nobody panics with the PBX's state");
        if state.silent {
            continue;
        }
        match message.method() {
            None => state.responses.push(message),
            Some(method) => {
                let _ = socket.send_to(message.answer("200 OK", &[], "").as_bytes(), source);
                if method == "NOTIFY" {
                    state.notifies.push(mwi_notify(at, source, message));
                }
            }
        }
    }
}

fn mwi_notify(at: BootInstant, source: SocketAddr, message: Message) -> MwiNotify {
    let line = |name: &str| {
        let found = message.body.lines().find(|l| l.to_ascii_lowercase().starts_with(name));
        found.and_then(|l| l.split_once(':')).map(|(_, v)| v.trim().to_owned())
    };
    let counts = line("voice-message").and_then(|v| {
        let (new, rest) = v.split_once('/')?;
        let old = rest.split([' ', '(']).next()?;
        Some((new.trim().parse().ok()?, old.trim().parse().ok()?))
    });
    let uri = message.start.split(' ').nth(1).unwrap_or_default();
    MwiNotify {
        at,
        source,
        mailbox: uri.trim_start_matches("sip:").split('@').next().unwrap_or_default().to_owned(),
        subscribed: message.tag("to").is_some(),
        waiting: line("messages-waiting").is_some_and(|v| v.eq_ignore_ascii_case("yes")),
        counts,
        cseq: message.cseq().map_or(0, |(n, _)| n),
        message,
    }
}
