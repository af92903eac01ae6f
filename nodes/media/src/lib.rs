//! Real-time media: plays, records and takes digits, thousands of calls on a thread.
//!
//! [`Engine::open`] gives a [`Session`] with an RTP port of its own; what it is told goes through a queue to its
//! media thread, and what happens comes back as [`MediaEvent`]s. The thread sweeps its sockets on a wheel of
//! 20 ms (see `thread`): no task, lock, wake-up or allocation per packet. A recording leaves as chunks of 250 ms to
//! a [`ChunkSink`], placed by RTP timestamp, bit for bit as received.

mod api;
mod engine;
mod lateness;
mod line;
mod outgoing;
mod pace;
mod playback;
mod ports;
mod quality;
mod reports;
mod session;
mod socket;
mod source;
mod thread;

pub use api::{
    ChunkSink, Clip, Dropped, MediaConfig, MediaError, MediaEvent, MediaHealth, MediaStats, RecordSpec, Remote,
    SessionCounters, StopCause,
};
pub use engine::Engine;
pub use lateness::{BOUNDS_US, Lateness};
pub use quality::{Quality, StreamQuality};
pub use session::Session;
pub use twinbox_rtp::Codec;
