//! Types of the phone's interface: settings, results and events.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use twinbox_clock::BootInstant;
use twinbox_rtp::Codec;
use twinbox_sip::{Headers, Response, mwi::Summary};

/// SIP transport of a phone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// UDP, with retransmissions by RFC 3261.
    #[default]
    Udp,
    /// TCP: one persistent connection per destination address.
    Tcp,
}

/// Settings of a phone.
#[derive(Debug, Clone)]
pub struct PhoneConfig {
    /// Address for SIP and RTP; must be reachable from the called side.
    pub local: IpAddr,
    /// SIP port; 0 chooses a free one.
    pub port: u16,
    /// UDP or TCP.
    pub transport: Transport,
}

impl PhoneConfig {
    /// A phone on a free port.
    pub fn new(local: IpAddr, transport: Transport) -> Self {
        Self { local, port: 0, transport }
    }
}

/// Call target: a SIP URI and, if it differs from the URI, the destination address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Request-URI, such as `sip:1001@192.0.2.1:5060`.
    pub uri: String,
    /// Destination address; `None`: resolved from the URI's host and port.
    pub address: Option<SocketAddr>,
}

impl Target {
    /// A user at an address.
    pub fn user(user: &str, address: SocketAddr) -> Self {
        Self { uri: format!("sip:{user}@{address}"), address: Some(address) }
    }
}

impl From<&str> for Target {
    fn from(uri: &str) -> Self {
        Self { uri: uri.to_owned(), address: None }
    }
}

/// Side that makes the SDP offer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Offer {
    /// The phone offers, in the INVITE.
    #[default]
    Early,
    /// The called side offers, in the 200; the phone answers in the ACK.
    Late,
}

/// Transport of digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Digits {
    /// As RTP telephone-events (RFC 4733).
    #[default]
    Rfc4733,
    /// As SIP INFO with `application/dtmf-relay`.
    Info,
}

/// Settings of a call.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// Value of the From header, such as `"Ann" <sip:5550100@example.net>`; `None`: the phone's address.
    pub from: Option<String>,
    /// Value of the To header; `None`: the Request-URI.
    pub to: Option<String>,
    /// Additional headers of the INVITE, such as `("Diversion", "<sip:1001@pbx>;reason=no-answer")`.
    pub headers: Vec<(String, String)>,
    /// Side that makes the offer.
    pub offer: Offer,
    /// Codecs to offer or accept, best first.
    pub codecs: Vec<Codec>,
    /// Transport of digits; RFC 4733 is offered in SDP either way.
    pub digits: Digits,
    /// Payload type offered for telephone-event.
    pub dtmf_payload_type: u8,
    /// User and password for a digest challenge (RFC 3261 section 22).
    pub auth: Option<(String, String)>,
    /// Send packets of silence when there is no audio to send, as telephones do; `false`: send nothing.
    pub send_silence: bool,
    /// Call-ID; `None`: a random one.
    pub call_id: Option<String>,
    /// Timeout for the answer; CANCEL follows.
    pub answer_timeout: Duration,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            from: None,
            to: None,
            headers: Vec::new(),
            offer: Offer::Early,
            codecs: vec![Codec::Pcmu, Codec::Pcma],
            digits: Digits::Rfc4733,
            dtmf_payload_type: 101,
            auth: None,
            send_silence: true,
            call_id: None,
            answer_timeout: Duration::from_secs(32),
        }
    }
}

impl CallOptions {
    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A final answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The SIP status.
    pub status: u16,
    /// The reason phrase.
    pub reason: String,
    /// The headers, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// Time from the request to the answer.
    pub time: Duration,
}

impl Answer {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

/// A final answer other than 2xx, or no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the call failed: {status} {reason}")]
pub struct CallError {
    /// The SIP status. Without an answer: 408 for a timeout, 503 if the transport failed, 488 if the peer's SDP was
    /// unusable, 400 if the target is not a SIP URI or has no address.
    pub status: u16,
    /// The reason phrase, or the phone's own text.
    pub reason: String,
    /// The headers of the final answer, in order.
    pub headers: Vec<(String, String)>,
}

impl CallError {
    pub(crate) fn new(status: u16, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), headers: Vec::new() }
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

impl From<&Response> for CallError {
    fn from(response: &Response) -> Self {
        Self { status: response.code, reason: response.reason.clone(), headers: list(&response.headers) }
    }
}

/// The headers as a list.
pub(crate) fn list(headers: &Headers) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Direction of audio, in SDP terms as seen from the phone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Direction {
    /// Both.
    #[default]
    SendRecv,
    /// Only the phone sends: the peer is on hold.
    SendOnly,
    /// Only the peer sends.
    RecvOnly,
    /// Neither side sends.
    Inactive,
}

/// RTP statistics of a call.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CallStats {
    /// RTP packets sent.
    pub sent: u64,
    /// RTP packets received.
    pub received: u64,
    /// Packets missing by their sequence numbers.
    pub lost: u64,
    /// Interarrival jitter (RFC 3550 section 6.4.1), in milliseconds.
    pub jitter_ms: f64,
    /// Maximum delay of a sent packet, in milliseconds: above 5 the phone, not the other side, is the limit.
    pub send_late_ms: f64,
}

/// Side that ended a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The peer sent BYE.
    ByThem,
    /// The phone sent BYE.
    ByUs,
}

/// A received NOTIFY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// Time of reception.
    pub arrived: BootInstant,
    /// Its sender.
    pub source: SocketAddr,
    /// The Request-URI.
    pub uri: String,
    /// The CSeq number.
    pub cseq: u32,
    /// The Call-ID.
    pub call_id: String,
    /// The `Subscription-State`, or empty.
    pub state: String,
    /// All headers, in order.
    pub headers: Vec<(String, String)>,
    /// The body, such as an `application/simple-message-summary` (RFC 3842).
    pub body: String,
}

impl Notify {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body as a message summary.
    pub fn summary(&self) -> Option<Summary> {
        Summary::parse(&self.body)
    }
}
