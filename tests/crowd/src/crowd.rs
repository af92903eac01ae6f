//! Many concurrent callers on one SIP socket and one RTP socket: floods and loads.
//!
//! Steps do not block longer than requested; the caller of the functions keeps the time. Retransmission is left out on
//! purpose: on a link without loss an unanswered request is a finding.

use std::{
    collections::HashMap,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_testkit::{Message, NetPlace, Speech, media_of, readable, sdp, token};

use crate::datagrams::{Datagrams, PACKET};

/// Payload type of telephone events in the session description of these callers.
const EVENTS: u8 = 101;
/// Samples of a packet.
const SAMPLES: usize = 160;
/// Length of the speech in samples; then it begins again. Each caller begins elsewhere: equal messages would be stored once.
const SPOKEN: usize = 80_000;
/// Distance of the beginnings of two callers who follow each other, in samples.
const APART: usize = 7_979;

/// One caller of the crowd.
#[derive(Debug, Clone)]
pub struct Caller {
    to: String,
    from: String,
    call_id: String,
    tag: String,
    remote: String,
    target: String,
    node: SocketAddr,
    /// Time of its INVITE.
    pub called: BootInstant,
    /// Final status of the INVITE and its time.
    pub answer: Option<(u16, BootInstant)>,
    /// The final response to the INVITE had a Retry-After.
    pub retry_after: bool,
    /// The node's address for its media.
    pub media: Option<SocketAddr>,
    /// Time of its BYE.
    pub left: Option<BootInstant>,
    /// Final status of the BYE and its time.
    pub bye: Option<(u16, BootInstant)>,
    /// The node hung up.
    pub ended: bool,
    /// Packets sent so far: sequence number and RTP time.
    pub packets: u32,
    /// Offset in the speech at which it begins, in samples.
    begins: usize,
}

/// The crowd.
pub struct Crowd {
    sip: UdpSocket,
    rtp: UdpSocket,
    sip_address: SocketAddr,
    rtp_address: SocketAddr,
    by_call_id: HashMap<String, usize>,
    /// The speech of the last packets, and its bytes, with the first ones again behind the last ones.
    said: Option<(Speech, Vec<u8>)>,
    waiting: Datagrams,
    /// Number of callers, those that were forgotten too.
    called: usize,
    /// All callers so far, in the order of their calls.
    pub callers: Vec<Caller>,
}

impl Crowd {
    /// A crowd at `place`.
    pub fn open(place: &NetPlace) -> Self {
        let (sip, rtp) = (place.udp(0), place.udp(0));
        for socket in [&sip, &rtp] {
            widen(socket);
        }
        rtp.set_nonblocking(true).expect("a socket can be non-blocking");
        let address = |s: &UdpSocket| s.local_addr().expect("a bound socket has an address");
        let (sip_address, rtp_address) = (address(&sip), address(&rtp));
        let (by_call_id, waiting, callers) = (HashMap::new(), Datagrams::new(), Vec::new());
        Self { sip, rtp, sip_address, rtp_address, by_call_id, said: None, waiting, called: 0, callers }
    }

    fn request(&self, caller: &Caller, method: &str, cseq: u32, body: &str) -> String {
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let (us, rest) = (self.sip_address, format!("{kind}Content-Length: {}\r\n\r\n{body}", body.len()));
        let to = if caller.remote.is_empty() {
            format!("<sip:{}@{}>", caller.to, caller.node)
        } else {
            caller.remote.clone()
        };
        format!(
            "{method} {} SIP/2.0\r\nVia: SIP/2.0/UDP {us};branch=z9hG4bK{};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:{}@{us}>;tag={}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:{}@{us}>\r\n{rest}",
            caller.target,
            token(),
            caller.from,
            caller.tag,
            caller.call_id,
            caller.from,
        )
    }

    /// Sends one INVITE; returns the caller's index.
    pub fn call(&mut self, node: SocketAddr, to: &str, from: &str) -> usize {
        let caller = Caller {
            to: to.to_owned(),
            from: from.to_owned(),
            call_id: token(),
            tag: token(),
            remote: String::new(),
            target: format!("sip:{to}@{node}"),
            node,
            called: BootInstant::now(),
            answer: None,
            retry_after: false,
            media: None,
            left: None,
            bye: None,
            ended: false,
            packets: 0,
            begins: self.called * APART % SPOKEN,
        };
        self.called += 1;
        let text = self.request(&caller, "INVITE", 1, &sdp(self.rtp_address, "sendrecv", "0"));
        self.by_call_id.insert(caller.call_id.clone(), self.callers.len());
        self.callers.push(caller);
        self.send(&text, node);
        self.callers.len() - 1
    }

    /// Sends one BYE.
    pub fn hang_up(&mut self, n: usize) {
        let text = self.request(&self.callers[n], "BYE", 2, "");
        let node = self.callers[n].node;
        self.callers[n].left = Some(BootInstant::now());
        self.send(&text, node);
    }

    fn send(&self, text: &str, to: SocketAddr) {
        // A datagram refused by the system is an unanswered request, which the test counts.
        let _ = self.sip.send_to(text.as_bytes(), to);
    }

    /// Takes in the received messages, for at most `limit`; returns once nothing is waiting.
    pub fn take(&mut self, limit: Duration) {
        let mut buffer = [0_u8; 8192];
        let begun = BootInstant::now();
        loop {
            if !readable(&self.sip, limit.saturating_sub(begun.elapsed())) {
                return;
            }
            let Ok((length, from)) = self.sip.recv_from(&mut buffer) else { return };
            let at = BootInstant::now();
            if let Some((message, _)) = Message::read(&buffer[..length]) {
                self.handle(&message, from, at);
            }
            if begun.elapsed() >= limit {
                return;
            }
        }
    }

    /// Takes in messages for `limit` or until `done` holds for all callers; returns whether it does.
    pub fn take_until(&mut self, limit: Duration, done: impl Fn(&Caller) -> bool) -> bool {
        let begun = BootInstant::now();
        while begun.elapsed() < limit {
            if self.callers.iter().all(&done) {
                return true;
            }
            self.take(Duration::from_millis(20));
        }
        self.callers.iter().all(&done)
    }

    fn handle(&mut self, message: &Message, from: SocketAddr, at: BootInstant) {
        let Some(&n) = message.header("call-id").and_then(|id| self.by_call_id.get(id)) else { return };
        let Some(status) = message.status() else {
            self.callers[n].ended |= message.method() == Some("BYE");
            if message.method() != Some("ACK") {
                self.send(&message.answer("200 OK", &[], ""), from);
            }
            return;
        };
        match message.cseq() {
            Some((_, "INVITE")) if status >= 200 => {
                let caller = &mut self.callers[n];
                caller.answer.get_or_insert((status, at));
                caller.retry_after = message.header("retry-after").is_some();
                caller.remote = message.header("to").unwrap_or_default().to_owned();
                if status < 300 {
                    caller.target = message.uri("contact").unwrap_or(&caller.target).to_owned();
                    caller.media = media_of(&message.body);
                    let ack = self.request(&self.callers[n], "ACK", 1, "");
                    self.send(&ack, from);
                } else {
                    // Same branch as the INVITE: it is in the response's Via.
                    let via = message.header("via").unwrap_or_default().to_owned();
                    let ack = self.request(&self.callers[n], "ACK", 1, "");
                    let ours = ack.lines().nth(1).unwrap_or_default().to_owned();
                    self.send(&ack.replace(&ours, &format!("Via: {via}")), from);
                }
            }
            Some((_, "BYE")) if status >= 200 => {
                self.callers[n].bye.get_or_insert((status, at));
            }
            _ => {}
        }
    }

    /// Sends the next 20 ms of `speech` for these callers, and drops received media.
    pub fn speak(&mut self, callers: impl Iterator<Item = usize>, speech: Speech) {
        if self.said.as_ref().is_none_or(|(said, _)| *said != speech) {
            let mut bytes = speech.bytes(0, SPOKEN);
            bytes.extend_from_within(..SAMPLES);
            self.said = Some((speech, bytes));
        }
        let Some((_, said)) = &self.said else { return };
        let mut packet = [0_u8; PACKET];
        (packet[0], packet[1]) = (0x80, 0);
        for n in callers {
            let caller = &mut self.callers[n];
            let Some(media) = caller.media else { continue };
            packet[2..4].copy_from_slice(&(caller.packets as u16).to_be_bytes());
            packet[4..8].copy_from_slice(&caller.packets.wrapping_mul(160).to_be_bytes());
            packet[8..12].copy_from_slice(&(n as u32 + 1).to_be_bytes());
            let from = (caller.begins + caller.packets as usize * SAMPLES) % SPOKEN;
            packet[12..].copy_from_slice(&said[from..from + SAMPLES]);
            caller.packets += 1;
            self.waiting.add(&self.rtp, media, &packet);
        }
        self.waiting.send(&self.rtp);
        let mut sink = [0_u8; 2048];
        while self.rtp.recv_from(&mut sink).is_ok() {}
    }

    /// Presses `#` for this caller: one complete event.
    pub fn press_pound(&mut self, n: usize) {
        let caller = &mut self.callers[n];
        let Some(media) = caller.media else { return };
        let timestamp = caller.packets.wrapping_mul(160);
        for end in [0, 1, 1, 1_u8] {
            let mut packet = vec![0x80, EVENTS | u8::from(end == 0) << 7];
            packet.extend((caller.packets as u16).to_be_bytes());
            packet.extend(timestamp.to_be_bytes());
            packet.extend((n as u32 + 1).to_be_bytes());
            packet.extend([11, end << 7 | 10, 3, 0x20]);
            caller.packets += 1;
            let _ = self.rtp.send_to(&packet, media);
        }
    }

    /// Forgets all callers so far: later messages for them are ignored, and the next caller has index 0.
    pub fn forget_callers(&mut self) {
        self.callers.clear();
        self.by_call_id.clear();
    }

    /// The callers with this final status.
    pub fn answered(&self, status: u16) -> Vec<usize> {
        let is = |c: &Caller| c.answer.is_some_and(|(s, _)| s == status);
        (0..self.callers.len()).filter(|n| is(&self.callers[*n])).collect()
    }
}

/// A large buffer: the crowd must not lose answers to its requests.
fn widen(socket: &UdpSocket) {
    use std::os::fd::AsRawFd;
    let size: libc::c_int = 8 << 20;
    // SAFETY: the option's value is an int that lives across the call; without the privilege nothing changes.
    unsafe {
        let value = std::ptr::from_ref(&size).cast();
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, length);
        }
    }
}
