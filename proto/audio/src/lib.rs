//! Audio of mail: G.726 of other voicemail systems (VPIM), and uploads of users as G.711.
//!
//! ```text
//! audio/32KADPCM ─► g726 ─────────────────────────────────────────────────► G.711
//! attachment ─► content ─► wav | compressed (MP3, M4A, AAC) ─► resample ─► G.711
//! ```
//!
//! Everything is a function of its input: no clock, no file, no socket. Input comes from strangers: it never causes a
//! panic, and memory grows with the sound that was decoded, not with a length that a header states.

mod compressed;
mod content;
pub mod error;
pub mod g726;
pub mod resample;
mod sink;
pub mod upload;
mod wav;

pub use error::AudioError;
use twinbox_rtp::{Codec, g711};
pub use upload::{Recording, to_g711};

/// G.711 bytes of an `audio/32KADPCM` body, two for each of its bytes.
pub fn g726_to_g711(data: &[u8], codec: Codec) -> Vec<u8> {
    g711::encode(codec, &g726::decode(data))
}

/// An `audio/32KADPCM` body of G.711 bytes, half as long.
pub fn g711_to_g726(data: &[u8], codec: Codec) -> Vec<u8> {
    g726::encode(&g711::decode(codec, data))
}
