//! What a caller of the phone hands in and gets back.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use twinbox_clock::BootInstant;
use twinbox_rtp::Codec;
use twinbox_sip::{Headers, Response, mwi::Summary};

/// The transport that a phone speaks SIP over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// UDP, with the retransmissions of RFC 3261.
    #[default]
    Udp,
    /// TCP; a connection per address called, kept open.
    Tcp,
}

/// How a phone is set up.
#[derive(Debug, Clone)]
pub struct PhoneConfig {
    /// The address for SIP and RTP; must be one that the called side can reach.
    pub local: IpAddr,
    /// The SIP port; 0 takes a free one.
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

/// Whom to call: a SIP URI and, where it is not what the URI says, the address to send to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The Request-URI, as `sip:1001@192.0.2.1:5060`.
    pub uri: String,
    /// Where to send; `None`: what the URI's host and port resolve to.
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

/// Who makes the SDP offer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Offer {
    /// We, in the INVITE.
    #[default]
    Early,
    /// They, in the 200; our answer is in the ACK.
    Late,
}

/// How digits are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Digits {
    /// As RTP telephone-events (RFC 4733).
    #[default]
    Rfc4733,
    /// As SIP INFO with `application/dtmf-relay`.
    Info,
}

/// A call's settings.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// The From header's value, as `"Ann" <sip:5550100@example.net>`; `None`: our address.
    pub from: Option<String>,
    /// The To header's value; `None`: the Request-URI.
    pub to: Option<String>,
    /// More headers for the INVITE, as `("Diversion", "<sip:1001@pbx>;reason=no-answer")`.
    pub headers: Vec<(String, String)>,
    /// Who offers.
    pub offer: Offer,
    /// The codecs that we offer or take, best first.
    pub codecs: Vec<Codec>,
    /// How digits are sent; RFC 4733 is offered in SDP either way.
    pub digits: Digits,
    /// The payload type that we offer for telephone-event.
    pub dtmf_payload_type: u8,
    /// User and password for a digest challenge (RFC 3261 section 22).
    pub auth: Option<(String, String)>,
    /// Send packets of silence while there is nothing to say, as telephones do; `false`: send nothing then.
    pub send_silence: bool,
    /// The Call-ID; `None`: a random one.
    pub call_id: Option<String>,
    /// How long to wait for an answer before CANCEL.
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
    /// The same with one more header.
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
    /// Request sent to answer received.
    pub time: Duration,
}

impl Answer {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

/// A final answer other than 2xx, or none at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the call failed: {status} {reason}")]
pub struct CallError {
    /// The SIP status; ours where there was no answer: 408 for silence, 503 when the transport failed, 488 when
    /// their SDP was of no use, 400 for a target that is no SIP URI or has no address.
    pub status: u16,
    /// The reason phrase, or our own words.
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

/// Headers as a list.
pub(crate) fn list(headers: &Headers) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Who sends audio, as SDP says it from our side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Direction {
    /// Both.
    #[default]
    SendRecv,
    /// Only we: they are on hold.
    SendOnly,
    /// Only they.
    RecvOnly,
    /// Nobody.
    Inactive,
}

/// A call's RTP so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CallStats {
    /// RTP packets sent.
    pub sent: u64,
    /// RTP packets received.
    pub received: u64,
    /// Packets that the sequence numbers say were sent and that have not come.
    pub lost: u64,
    /// Interarrival jitter (RFC 3550 section 6.4.1), in milliseconds.
    pub jitter_ms: f64,
    /// The most that one of our own packets left late, in milliseconds: above 5 the phone, not the other side,
    /// is the limit.
    pub send_late_ms: f64,
}

/// How a call ended from their side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// They sent BYE.
    ByThem,
    /// We sent BYE.
    ByUs,
}

/// A NOTIFY that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// When.
    pub arrived: BootInstant,
    /// Its sender.
    pub source: SocketAddr,
    /// The Request-URI.
    pub uri: String,
    /// The CSeq number.
    pub cseq: u32,
    /// The Call-ID.
    pub call_id: String,
    /// The `Subscription-State`, empty where there is none.
    pub state: String,
    /// All headers, in order.
    pub headers: Vec<(String, String)>,
    /// The body, as an `application/simple-message-summary` (RFC 3842).
    pub body: String,
}

impl Notify {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body as a message summary: how many messages wait.
    pub fn summary(&self) -> Option<Summary> {
        Summary::parse(&self.body)
    }
}
