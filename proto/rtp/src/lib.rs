//! RTP for telephone audio, without sockets and without a clock: packets, G.711, WAV, digits, and the [`recorder`],
//! which places packets by RTP timestamp.
//!
//! Network input is parsed with strict bounds and never causes a panic; the time is passed in where needed.

pub mod codec;
pub mod dtmf;
pub mod g711;
pub mod packet;
pub mod recorder;
pub mod rtcp;
pub mod sequence;
pub mod wav;

pub use codec::{Codec, FRAME, SAMPLE_RATE, SAMPLES_PER_MS, UnknownCodec};
