//! The words of the engine: what callers hand in, what they are told.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use twinbox_rtp::Codec;

/// How the media engine is set up.
#[derive(Debug, Clone)]
pub struct MediaConfig {
    /// The address that RTP sockets are bound to.
    pub bind: IpAddr,
    /// UDP ports, both ends included: RTP on the even ones, RTCP on the next (RFC 3550 section 11), so that a range of 100
    /// ports carries 50 calls.
    pub ports: RangeInclusive<u16>,
    /// The DSCP (RFC 2474) of what is sent, 0 to 63.
    pub dscp: u8,
    /// Media threads; a session stays on its thread. One carries thousands of calls.
    pub threads: usize,
    /// After this long without a packet, while [`Remote::receive`] is set, a session reports
    /// [`MediaEvent::MediaTimeout`]. Zero switches it off.
    pub media_timeout: Duration,
}

impl MediaConfig {
    /// One thread, expedited forwarding (RFC 3246), and half a minute until a silent line counts as dead.
    pub fn new(bind: IpAddr, ports: RangeInclusive<u16>) -> Self {
        Self { bind, ports, dscp: 46, threads: 1, media_timeout: Duration::from_secs(30) }
    }
}

/// Why the engine does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The range has no even port, or there are to be no threads.
    #[error("the media settings cannot work: {problem}; {remedy}")]
    Config {
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Every port of the range is in use.
    #[error(
        "no RTP port is free in {}-{}: {in_use} are in use by calls; widen the range or lower max_calls",
        range.start(), range.end()
    )]
    NoPort {
        /// The configured range.
        range: RangeInclusive<u16>,
        /// Ports that our own sessions hold.
        in_use: usize,
    },
    /// The system refused.
    #[error("{what} failed: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The engine's threads have ended.
    #[error("the media engine has stopped: start the process anew")]
    Stopped,
}

/// The other side of a session, as negotiated by SDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// The address of their SDP. Packets go there until a source is latched to (symmetric RTP, RFC 4961; the rules
    /// stand in `source`). `None`: they go nowhere until then.
    pub address: Option<SocketAddr>,
    /// Where SDP says that their RTCP is (RFC 3605). `None`: on the port above that of `address`.
    pub rtcp: Option<SocketAddr>,
    /// RTCP goes over the ports of RTP, both ways (RFC 5761).
    pub rtcp_mux: bool,
    /// The host that their signalling comes from: packets from there are taken, too.
    pub signalling: Option<IpAddr>,
    /// Packets from any host are taken when none come from the hosts above. It lets whoever guesses the port speak
    /// before the caller does (RFC 7362 section 5).
    pub any_host: bool,
    /// The codec, both ways.
    pub codec: Codec,
    /// Its RTP payload type, both ways.
    pub payload_type: u8,
    /// The payload type of `telephone-event` (RFC 4733), if it was negotiated.
    pub dtmf: Option<u8>,
    /// We send (SDP's direction as seen from us).
    pub send: bool,
    /// We receive. While false the silence timers stand still and a recording does not grow.
    pub receive: bool,
}

impl Remote {
    /// A peer at this address, both ways in this codec with its static payload type, without telephone-event.
    pub fn new(address: Option<SocketAddr>, codec: Codec) -> Self {
        Self {
            address,
            rtcp: None,
            rtcp_mux: false,
            signalling: None,
            any_host: false,
            codec,
            payload_type: codec.payload_type(),
            dtmf: None,
            send: true,
            receive: true,
        }
    }
}

/// A piece of what is played.
#[derive(Debug, Clone)]
pub enum Clip {
    /// Raw G.711. Transcoded where the session has the other law.
    Audio {
        /// The law of `data`.
        codec: Codec,
        /// A byte a sample.
        data: Bytes,
    },
    /// A pause, in milliseconds.
    Silence(u32),
}

/// What to record, and until when.
#[derive(Clone)]
pub struct RecordSpec {
    /// The longest recording; rounded down to whole samples.
    pub max: Duration,
    /// Silence after which the recording stops by itself; also when nothing was said at all.
    pub end_silence: Option<Duration>,
    /// Where the audio goes.
    pub sink: Arc<dyn ChunkSink>,
}

/// Takes recorded audio.
pub trait ChunkSink: Send + Sync {
    /// Raw G.711 in the session's codec, about every 250 ms, without gap or overlap: `offset` is the number of
    /// bytes before. Called on the media thread, which carries all other calls too: it must not block.
    fn chunk(&self, offset: u64, bytes: Bytes);
}

/// Why a recording stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopCause {
    /// It was told to, or its session was closed.
    Stopped,
    /// [`RecordSpec::end_silence`] was reached.
    Silence,
    /// [`RecordSpec::max`] was reached.
    Limit,
}

/// What a session tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaEvent {
    /// A key was pressed: `0`-`9`, `*`, `#`, `A`-`D`. Reported when it goes down.
    Digit(char),
    /// The clips of this [`crate::Session::play`] have been heard to their end. A play that was replaced or
    /// stopped does not report.
    PlayFinished(u64),
    /// A recording is complete: its last chunk has been handed to the sink.
    RecordStopped {
        /// Why.
        cause: StopCause,
        /// Bytes handed to the sink in all.
        length_bytes: u64,
        /// Their codec: the one that was negotiated when the recording began.
        codec: Codec,
        /// Silence at its end.
        trailing_silence_ms: u64,
    },
    /// Nothing has been received for [`MediaConfig::media_timeout`]. Reported once, and again only after
    /// something was received in between.
    MediaTimeout,
}

/// The packets of one session so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionCounters {
    /// RTP packets taken.
    pub received: u64,
    /// RTP packets sent.
    pub sent: u64,
    /// Packets that the sequence numbers say were sent and that have not come.
    pub lost: u64,
    /// Packets that came again.
    pub duplicates: u64,
    /// Packets that were dropped, whatever the cause.
    pub dropped: u64,
}

/// How the engine does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MediaHealth {
    /// All threads serve their sessions in time.
    pub ok: bool,
    /// What is wrong, in words that stay the same while it is; empty when nothing is.
    pub detail: String,
}

/// The engine's totals since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MediaStats {
    /// Sessions open now.
    pub sessions: usize,
    /// RTP packets taken.
    pub received: u64,
    /// RTP packets sent.
    pub sent: u64,
    /// RTP packets that the system did not send.
    pub send_errors: u64,
    /// What was thrown away.
    pub dropped: Dropped,
    /// How late audio packets were handled.
    pub lateness: crate::Lateness,
    /// What RTCP tells.
    pub quality: crate::Quality,
}

impl MediaStats {
    /// Adds another thread's.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.received += other.received;
        self.sent += other.sent;
        self.send_errors += other.send_errors;
        self.dropped.strangers += other.dropped.strangers;
        self.dropped.malformed += other.dropped.malformed;
        self.dropped.codec += other.dropped.codec;
        self.dropped.held += other.dropped.held;
        self.dropped.events += other.dropped.events;
        self.lateness.merge(&other.lateness);
        self.quality.merge(&other.quality);
    }
}

/// Packets and events thrown away, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// From an address that the session is not locked to.
    pub strangers: u64,
    /// Not RTP.
    pub malformed: u64,
    /// A payload type that was not negotiated.
    pub codec: u64,
    /// Received while the session does not receive, or before it has a remote.
    pub held: u64,
    /// Events for a receiver that does not keep up.
    pub events: u64,
}
