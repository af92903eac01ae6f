//! A plain SIP caller (RFC 3261, UAC side), one call per socket, in blocking steps.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use twinbox_clock::BootInstant;

use crate::{
    NetPlace,
    endpoint::EVENTS,
    message::{Message, token},
};

/// Transport between caller and node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams, retransmitted until answered.
    Udp,
    /// One connection.
    Tcp,
}

/// Parameters of an INVITE.
#[derive(Debug, Clone)]
pub struct Invite {
    /// The called number: the user part of the Request-URI.
    pub to: String,
    /// The calling number.
    pub from: String,
    /// Further header lines, without line ends.
    pub headers: Vec<String>,
    /// Our session description. With `late_offer` it goes into the ACK, as the answer.
    pub sdp: String,
    /// INVITE without a session description.
    pub late_offer: bool,
    /// The Call-ID; `None` for a new one.
    pub call_id: Option<String>,
}

impl Invite {
    /// An early-offer INVITE to `to` with media at `media`.
    pub fn new(to: &str, from: &str, media: SocketAddr) -> Self {
        let (to, from, sdp) = (to.to_owned(), from.to_owned(), sdp(media, "sendrecv", "0 8"));
        Self { to, from, headers: Vec::new(), sdp, late_offer: false, call_id: None }
    }
}

/// A session description with G.711 (`formats`, such as `0 8`) and telephone events.
pub fn sdp(media: SocketAddr, direction: &str, formats: &str) -> String {
    let (ip, port) = (media.ip(), media.port());
    [
        "v=0",
        &format!("o=- {port} {} IN IP4 {ip}", BootInstant::now().as_nanos()),
        "s=-",
        &format!("c=IN IP4 {ip}"),
        "t=0 0",
        &format!("m=audio {port} RTP/AVP {formats} {EVENTS}"),
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:8 PCMA/8000",
        &format!("a=rtpmap:{EVENTS} telephone-event/8000"),
        &format!("a=fmtp:{EVENTS} 0-15"),
        "a=ptime:20",
        &format!("a={direction}"),
        "",
    ]
    .join("\r\n")
}

/// The media address in an SDP.
pub fn media_of(sdp: &str) -> Option<SocketAddr> {
    let line = |prefix: &str| sdp.lines().find_map(|l| l.trim_end().strip_prefix(prefix));
    let ip = line("c=IN IP4 ")?.split('/').next()?.parse().ok()?;
    let port = line("m=audio ")?.split(' ').next()?.parse().ok()?;
    Some(SocketAddr::new(ip, port))
}

/// A call that was not established.
#[derive(Debug, Clone)]
pub struct Refused {
    /// The final status; 0 when none came in time.
    pub status: u16,
    /// The response, if there was one.
    pub response: Option<Message>,
    /// Time from sending the INVITE to here.
    pub after: Duration,
}

/// The answer to a BYE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByeResult {
    /// The final status; 0 when none came in time.
    pub status: u16,
    /// Time from sending the BYE to the response.
    pub after: Duration,
}

enum Wire {
    Udp(UdpSocket, SocketAddr),
    Tcp(TcpStream, Vec<u8>),
}

impl Wire {
    fn open(place: &NetPlace, to: SocketAddr, transport: Transport) -> std::io::Result<Self> {
        Ok(match transport {
            Transport::Udp => Self::Udp(place.udp(0), to),
            Transport::Tcp => {
                let stream = place.tcp(to)?;
                stream.set_nodelay(true)?;
                Self::Tcp(stream, Vec::new())
            }
        })
    }

    fn local(&self) -> SocketAddr {
        match self {
            Self::Udp(socket, _) => socket.local_addr(),
            Self::Tcp(stream, _) => stream.local_addr(),
        }
        .expect("an open socket has an address")
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Udp(..) => "UDP",
            Self::Tcp(..) => "TCP",
        }
    }

    fn send(&mut self, text: &str) {
        // A dead peer is noticed by the missing answer.
        match self {
            Self::Udp(socket, to) => drop(socket.send_to(text.as_bytes(), *to)),
            Self::Tcp(stream, _) => drop(stream.write_all(text.as_bytes())),
        }
    }

    /// The next message within `limit`.
    fn receive(&mut self, limit: Duration) -> Option<Message> {
        let (begun, mut buffer) = (BootInstant::now(), [0_u8; 65536]);
        loop {
            if let Self::Tcp(_, pending) = self
                && let Some((message, length)) = Message::read(pending)
            {
                pending.drain(..length);
                return Some(message);
            }
            let left = limit.saturating_sub(begun.elapsed()).max(Duration::from_micros(200));
            if begun.elapsed() >= limit {
                return None;
            }
            match self {
                Self::Udp(socket, _) => {
                    socket.set_read_timeout(Some(left)).ok()?;
                    let Ok((length, _)) = socket.recv_from(&mut buffer) else { continue };
                    if let Some((message, _)) = Message::read(&buffer[..length]) {
                        return Some(message);
                    }
                }
                Self::Tcp(stream, pending) => {
                    stream.set_read_timeout(Some(left)).ok()?;
                    match stream.read(&mut buffer) {
                        Ok(0) => return None,
                        Ok(length) => pending.extend(&buffer[..length]),
                        Err(_) => {}
                    }
                }
            }
        }
    }
}

/// An answered call. Dropping it sends nothing: the caller vanishes.
pub struct Call {
    wire: Wire,
    invite: Invite,
    call_id: String,
    from: String,
    to: String,
    target: String,
    /// Proxies in the route of the dialog, in our order.
    routes: Vec<String>,
    cseq: u32,
    ack: String,
    over: bool,
    /// The node's BYE, if the node hung up.
    pub farewell: Option<Message>,
    /// Time from sending the INVITE to the `200`.
    pub answered_in: Duration,
    /// The node's media address.
    pub media: SocketAddr,
    /// The `200` to the INVITE.
    pub answer: Message,
}

/// A request that waits for its final response.
struct Pending<'a> {
    text: &'a str,
    cseq: (u32, &'a str),
    limit: Duration,
}

impl Call {
    /// Calls and waits for the answer, at most 32 s.
    pub fn place(at: &NetPlace, node: SocketAddr, transport: Transport, invite: &Invite) -> Result<Self, Refused> {
        Self::place_within(at, node, transport, invite, Duration::from_secs(32))
    }

    /// Calls and waits for the answer, at most `limit`.
    pub fn place_within(
        place: &NetPlace,
        node: SocketAddr,
        transport: Transport,
        invite: &Invite,
        limit: Duration,
    ) -> Result<Self, Refused> {
        let begun = BootInstant::now();
        let refused = |response: Option<Message>| Refused {
            status: response.as_ref().and_then(Message::status).unwrap_or(0),
            response,
            after: begun.elapsed(),
        };
        let wire = Wire::open(place, node, transport).map_err(|_| refused(None))?;
        let local = wire.local();
        let mut call = Self {
            call_id: invite.call_id.clone().unwrap_or_else(|| format!("{}@{}", token(), local.ip())),
            from: format!("<sip:{}@{}>;tag={}", invite.from, local.ip(), token()),
            to: format!("<sip:{}@{node}>", invite.to),
            target: format!("sip:{}@{node}", invite.to),
            routes: Vec::new(),
            invite: invite.clone(),
            wire,
            cseq: 1,
            ack: String::new(),
            over: false,
            farewell: None,
            answered_in: Duration::ZERO,
            media: node,
            answer: Message::default(),
        };
        let body = if invite.late_offer { "" } else { invite.sdp.as_str() };
        let (text, branch) = call.request("INVITE", call.cseq, &invite.headers, "application/sdp", body);
        let response = call.transact(Pending { text: &text, cseq: (1, "INVITE"), limit });
        call.answered_in = begun.elapsed();
        match response {
            Some(response) if response.status().is_some_and(|s| s < 300) => {
                call.established(response);
                Ok(call)
            }
            response => {
                if let Some(response) = &response {
                    // The ACK of a refusal belongs to the INVITE's transaction: same branch, same target.
                    call.to = response.header("to").unwrap_or_default().to_owned();
                    let (ack, _) = call.request_in("ACK", 1, &branch, &[], "", "");
                    call.wire.send(&ack);
                }
                Err(refused(response))
            }
        }
    }

    fn established(&mut self, response: Message) {
        self.to = response.header("to").unwrap_or_default().to_owned();
        if let Some(contact) = response.uri("contact") {
            self.target = contact.to_owned();
        }
        let recorded = response.all("record-route").flat_map(|line| line.split(','));
        self.routes = recorded.map(|route| format!("Route: {}", route.trim())).collect();
        self.routes.reverse();
        if let Some(media) = media_of(&response.body) {
            self.media = media;
        }
        let body = if self.invite.late_offer { self.invite.sdp.clone() } else { String::new() };
        let (ack, _) = self.request("ACK", 1, &[], "application/sdp", &body);
        self.wire.send(&ack);
        self.ack = ack;
        self.answer = response;
    }

    /// A request of this call with a new branch; returns its text and the branch.
    fn request(&self, method: &str, cseq: u32, more: &[String], kind: &str, body: &str) -> (String, String) {
        let branch = format!("z9hG4bK{}", token());
        self.request_in(method, cseq, &branch, more, kind, body)
    }

    fn request_in(
        &self,
        method: &str,
        cseq: u32,
        branch: &str,
        more: &[String],
        kind: &str,
        body: &str,
    ) -> (String, String) {
        let local = self.wire.local();
        let tcp = if self.wire.name() == "TCP" { ";transport=tcp" } else { "" };
        let mut lines = vec![
            format!("{method} {} SIP/2.0", self.target),
            format!("Via: SIP/2.0/{} {local};branch={branch};rport", self.wire.name()),
            "Max-Forwards: 70".to_owned(),
            format!("From: {}", self.from),
            format!("To: {}", self.to),
            format!("Call-ID: {}", self.call_id),
            format!("CSeq: {cseq} {method}"),
            format!("Contact: <sip:{}@{local}{tcp}>", self.invite.from),
        ];
        lines.extend_from_slice(&self.routes);
        lines.extend_from_slice(more);
        if !body.is_empty() {
            lines.push(format!("Content-Type: {kind}"));
        }
        lines.push(format!("Content-Length: {}", body.len()));
        (format!("{}\r\n\r\n{body}", lines.join("\r\n")), branch.to_owned())
    }

    /// Sends a request, with retransmissions over UDP (RFC 3261 section 17.1, timers A and E), and waits for its final response.
    fn transact(&mut self, pending: Pending<'_>) -> Option<Message> {
        let begun = BootInstant::now();
        let repeats = matches!(self.wire, Wire::Udp(..));
        let (mut interval, mut next) = (Duration::from_millis(500), Duration::from_millis(500));
        let mut provisional = false;
        self.wire.send(pending.text);
        while begun.elapsed() < pending.limit {
            let until = if repeats && !provisional { next.min(pending.limit) } else { pending.limit };
            let Some(message) = self.wire.receive(until.saturating_sub(begun.elapsed())) else {
                if repeats && !provisional && begun.elapsed() >= next {
                    self.wire.send(pending.text);
                    interval = (interval * 2).min(Duration::from_secs(4));
                    next += interval;
                }
                continue;
            };
            let ours = message.cseq() == Some(pending.cseq) && message.header("call-id") == Some(&self.call_id);
            match message.status() {
                Some(status) if ours && status >= 200 => return Some(message),
                Some(_) if ours => provisional = pending.cseq.1 == "INVITE",
                _ => self.handle(&message),
            }
        }
        None
    }

    /// Answers other incoming messages: requests of the node, a repeated `200`.
    fn handle(&mut self, message: &Message) {
        let answer = match message.method() {
            Some("BYE") => {
                self.over = true;
                self.farewell = Some(message.clone());
                message.answer("200 OK", &[], "")
            }
            Some("INVITE") => {
                let contact = format!("Contact: <sip:{}@{}>", self.invite.from, self.wire.local());
                message.answer("200 OK", &[contact, "Content-Type: application/sdp".to_owned()], &self.invite.sdp)
            }
            Some("ACK") => return,
            Some(_) => message.answer("200 OK", &[], ""),
            None if message.status() == Some(200) && message.cseq().is_some_and(|(_, m)| m == "INVITE") => {
                self.ack.clone()
            }
            None => return,
        };
        self.wire.send(&answer);
    }

    /// Hangs up and waits for the answer, at most 32 s.
    pub fn bye(mut self) -> ByeResult {
        self.cseq += 1;
        let (text, _) = self.request("BYE", self.cseq, &[], "", "");
        let begun = BootInstant::now();
        let cseq = (self.cseq, "BYE");
        let response = self.transact(Pending { text: &text, cseq, limit: Duration::from_secs(32) });
        ByeResult { status: response.and_then(|r| r.status()).unwrap_or(0), after: begun.elapsed() }
    }

    /// Sends BYE and does not wait.
    pub fn bye_without_answer(mut self) {
        self.cseq += 1;
        let (text, _) = self.request("BYE", self.cseq, &[], "", "");
        self.wire.send(&text);
    }

    /// A re-INVITE with this session description, `None` for one without; returns the final response.
    pub fn reinvite(&mut self, sdp: Option<&str>) -> Option<Message> {
        self.cseq += 1;
        let cseq = self.cseq;
        let (text, _) = self.request("INVITE", cseq, &[], "application/sdp", sdp.unwrap_or_default());
        let response =
            self.transact(Pending { text: &text, cseq: (cseq, "INVITE"), limit: Duration::from_secs(10) })?;
        let body = if sdp.is_none() { self.invite.sdp.clone() } else { String::new() };
        let (ack, _) = self.request("ACK", cseq, &[], "application/sdp", &body);
        self.wire.send(&ack);
        self.ack = ack;
        Some(response)
    }

    /// Any other request in the dialog; returns its final status, 0 for none.
    pub fn ask(&mut self, method: &str, headers: &[String], kind: &str, body: &str) -> u16 {
        self.cseq += 1;
        let (text, _) = self.request(method, self.cseq, headers, kind, body);
        let cseq = (self.cseq, method);
        let response = self.transact(Pending { text: &text, cseq, limit: Duration::from_secs(10) });
        response.and_then(|r| r.status()).unwrap_or(0)
    }

    /// Waits until the node hangs up; false when it does not within `limit`.
    pub fn ends(&mut self, limit: Duration) -> bool {
        let begun = BootInstant::now();
        while !self.over && begun.elapsed() < limit {
            if let Some(message) = self.wire.receive(limit.saturating_sub(begun.elapsed())) {
                self.handle(&message);
            }
        }
        self.over
    }
}
