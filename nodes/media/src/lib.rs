//! Real-time media: plays and records audio and detects digits, for thousands of calls on a thread.
//!
//! [`Engine::open`] returns a [`Session`] with its own RTP port. Commands go through a queue to the session's media
//! thread; events return as [`MediaEvent`]s. The thread polls each socket once in 20 ms, or in 80 ms while its session
//! only records (see `thread`): no task, lock, wake-up or allocation per packet. A recording is delivered as chunks of
//! 250 ms to a [`ChunkSink`], placed by RTP timestamp, bit for bit as received.

mod api;
mod engine;
mod lateness;
mod outgoing;
mod playback;
mod poll_phase;
mod ports;
mod quality;
mod reports;
mod rtp_session;
mod session;
mod socket;
mod source;
mod thread;

pub use api::{
    ChunkSink, Clip, Dropped, MediaConfig, MediaError, MediaEvent, MediaHealth, MediaStats, RecordSpec, Remote,
    SessionCounters, StopCause,
};
pub use engine::{Engine, recent_lateness};
pub use lateness::{BOUNDS_US, Lateness};
pub use quality::{Quality, StreamQuality};
pub use session::Session;
pub use twinbox_rtp::Codec;
