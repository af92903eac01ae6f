//! RTP for telephone audio, without sockets and without a clock: packets, G.711, WAV, digits, and the
//! [`recorder`] that puts packets in their place by RTP timestamp.
//!
//! Everything that comes from the network is parsed with strict bounds and never panics; time, where it
//! matters, is handed in.

pub mod codec;
pub mod dtmf;
pub mod g711;
pub mod packet;
pub mod recorder;
pub mod rtcp;
pub mod sequence;
pub mod wav;

pub use codec::{Codec, FRAME, SAMPLE_RATE, SAMPLES_PER_MS, UnknownCodec};
