//! Types of the engine's interface: configuration, commands, events and counters.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use twinbox_rtp::Codec;

/// Configuration of the media engine.
#[derive(Debug, Clone)]
pub struct MediaConfig {
    /// The address that RTP sockets are bound to.
    pub bind: IpAddr,
    /// UDP ports, both bounds included: RTP uses the even ports, RTCP the next (RFC 3550 section 11). A range of 100
    /// ports carries 50 calls.
    pub ports: RangeInclusive<u16>,
    /// DSCP (RFC 2474) of sent packets, 0 to 63.
    pub dscp: u8,
    /// Number of media threads. A session stays on its thread. One thread carries thousands of calls.
    pub threads: usize,
    /// Time without a packet, while [`Remote::receive`] is set, after which a session reports
    /// [`MediaEvent::MediaTimeout`]. Zero switches the timeout off.
    pub media_timeout: Duration,
}

impl MediaConfig {
    /// Defaults: one thread, expedited forwarding (RFC 3246), media timeout 30 s.
    pub fn new(bind: IpAddr, ports: RangeInclusive<u16>) -> Self {
        Self { bind, ports, dscp: 46, threads: 1, media_timeout: Duration::from_secs(30) }
    }
}

/// Error of the media engine.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The range has no even port, or the number of threads is zero.
    #[error("invalid media settings: {problem}; {remedy}")]
    Config {
        /// The problem.
        problem: String,
        /// The remedy.
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
        /// Ports held by sessions of this engine.
        in_use: usize,
    },
    /// A system call failed.
    #[error("{what} failed: {source}")]
    Io {
        /// The operation.
        what: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The engine's threads have ended.
    #[error("the media engine has stopped: restart the process")]
    Stopped,
}

/// The peer of a session, as negotiated by SDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// Address of the peer's SDP. Packets go there until the session latches to a source (symmetric RTP, RFC 4961;
    /// rules in `source`). `None`: no packets are sent until then.
    pub address: Option<SocketAddr>,
    /// RTCP address of the peer's SDP (RFC 3605). `None`: the port above that of `address`.
    pub rtcp: Option<SocketAddr>,
    /// RTCP uses the RTP ports in both directions (RFC 5761).
    pub rtcp_mux: bool,
    /// Source host of the peer's signalling: packets from this host are accepted, too.
    pub signalling: Option<IpAddr>,
    /// Accept packets from any host when none come from the hosts above. A sender that guesses the port can then
    /// be heard before the caller (RFC 7362 section 5).
    pub any_host: bool,
    /// Codec that is sent, and received.
    pub codec: Codec,
    /// RTP payload type of `codec`, both directions.
    pub payload_type: u8,
    /// The other codec and its payload type, if the peer may send that, too.
    pub other: Option<(u8, Codec)>,
    /// Payload type of `telephone-event` (RFC 4733), if negotiated.
    pub dtmf: Option<u8>,
    /// Another one that the peer may send, since the description of this side names it (RFC 3264 section 6.1).
    pub own_dtmf: Option<u8>,
    /// This side sends (SDP direction as seen from this side).
    pub send: bool,
    /// This side receives. While false, the silence timers stop and a recording does not grow.
    pub receive: bool,
}

impl Remote {
    /// A peer at this address: both directions, this codec with its static payload type, no telephone-event.
    pub fn new(address: Option<SocketAddr>, codec: Codec) -> Self {
        Self {
            address,
            rtcp: None,
            rtcp_mux: false,
            signalling: None,
            any_host: false,
            codec,
            payload_type: codec.payload_type(),
            other: None,
            dtmf: None,
            own_dtmf: None,
            send: true,
            receive: true,
        }
    }

    /// Whether a received packet of this payload type is a key.
    pub(crate) fn is_dtmf(&self, payload_type: u8) -> bool {
        [self.dtmf, self.own_dtmf].contains(&Some(payload_type))
    }

    /// Codec of a received packet of this payload type; `None` if it was not negotiated.
    pub(crate) fn codec_of(&self, payload_type: u8) -> Option<Codec> {
        let known = [Some((self.payload_type, self.codec)), self.other];
        known.into_iter().flatten().find_map(|(known, codec)| (known == payload_type).then_some(codec))
    }
}

/// One element of a playlist.
#[derive(Debug, Clone)]
pub enum Clip {
    /// Raw G.711. Transcoded if the session uses the other law.
    Audio {
        /// The law of `data`.
        codec: Codec,
        /// One byte per sample.
        data: Bytes,
    },
    /// A pause, in milliseconds.
    Silence(u32),
}

/// Parameters of a recording.
#[derive(Clone)]
pub struct RecordSpec {
    /// Maximum length, rounded down to whole samples.
    pub max: Duration,
    /// Silence after which the recording stops automatically, also if the caller never spoke.
    pub end_silence: Option<Duration>,
    /// Receiver of the audio.
    pub sink: Arc<dyn ChunkSink>,
}

/// Receiver of recorded audio.
pub trait ChunkSink: Send + Sync {
    /// Receives raw G.711 in the session's codec, about every 250 ms, without gap or overlap. `offset`: number of
    /// bytes before this chunk. Runs on the media thread, which carries all other calls too: must not block.
    fn chunk(&self, offset: u64, bytes: Bytes);
}

/// Reason why a recording stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopCause {
    /// Stopped by command, or the session was closed.
    Stopped,
    /// [`RecordSpec::end_silence`] was reached.
    Silence,
    /// [`RecordSpec::max`] was reached.
    Limit,
}

/// Event reported by a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaEvent {
    /// A key was pressed: `0`-`9`, `*`, `#`, `A`-`D`. Reported at the start of the key press.
    Digit(char),
    /// The clips of this [`crate::Session::play`] have been played to their end. A replaced or stopped play does not
    /// report.
    PlayFinished(u64),
    /// A recording is complete: its last chunk has been handed to the sink.
    RecordStopped {
        /// Reason.
        cause: StopCause,
        /// Total bytes handed to the sink.
        length_bytes: u64,
        /// Codec of the recording: the codec negotiated when the recording began.
        codec: Codec,
        /// Silence at the end of the recording, in milliseconds.
        trailing_silence_ms: u64,
    },
    /// No packet received for [`MediaConfig::media_timeout`]. Reported once, then again only after a packet was
    /// received in between.
    MediaTimeout,
}

/// Packet counters of one session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionCounters {
    /// RTP packets accepted.
    pub received: u64,
    /// RTP packets sent.
    pub sent: u64,
    /// Packets missing by their sequence numbers.
    pub lost: u64,
    /// Duplicate packets.
    pub duplicates: u64,
    /// Packets dropped, for any cause.
    pub dropped: u64,
}

/// Health of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MediaHealth {
    /// All threads serve their sessions in time.
    pub ok: bool,
    /// Description of the fault as text, unchanged while the fault lasts; empty if there is none.
    pub detail: String,
}

/// The engine's totals since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MediaStats {
    /// Open sessions.
    pub sessions: usize,
    /// RTP packets accepted.
    pub received: u64,
    /// RTP packets sent.
    pub sent: u64,
    /// RTP packets that the system failed to send.
    pub send_errors: u64,
    /// Dropped packets and events.
    pub dropped: Dropped,
    /// Time from the reception of audio packets to their handling, beyond the time that visits of their session are apart by plan.
    pub lateness: crate::Lateness,
    /// Call quality measured by RTCP.
    pub quality: crate::Quality,
}

impl MediaStats {
    /// Adds the totals of another thread.
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

/// Dropped packets and events, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Packets from an address that the session is not latched to.
    pub strangers: u64,
    /// Packets that are not RTP.
    pub malformed: u64,
    /// Packets with a payload type that was not negotiated.
    pub codec: u64,
    /// Packets received while the session does not receive, or before it has a remote.
    pub held: u64,
    /// Events dropped because their receiver did not keep up.
    pub events: u64,
}
