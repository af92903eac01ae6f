//! Cuts clips into frames.

use twinbox_rtp::{Codec, FRAME, SAMPLES_PER_MS, g711};

use crate::Clip;

/// The clips of a play, and the current position.
pub(crate) struct Playback {
    pub(crate) id: u64,
    clips: std::vec::IntoIter<Clip>,
    current: Option<Clip>,
    /// Bytes of the current clip already played.
    offset: usize,
}

impl Playback {
    pub(crate) fn new(id: u64, clips: Vec<Clip>) -> Self {
        let mut clips = clips.into_iter();
        let current = clips.next();
        Self { id, clips, current, offset: 0 }
    }

    /// Fills the next frame; false when nothing is left. Clips follow each other without a gap. The end of the last
    /// frame is silence.
    pub(crate) fn fill(&mut self, codec: Codec, frame: &mut [u8; FRAME]) -> bool {
        let mut filled = 0;
        while filled < FRAME
            && let Some(clip) = &self.current
        {
            let rest = &mut frame[filled..];
            let (taken, length) = match clip {
                Clip::Audio { codec: from, data } => (copy(*from, codec, &data[self.offset..], rest), data.len()),
                Clip::Silence(ms) => {
                    let length = *ms as usize * SAMPLES_PER_MS as usize;
                    let taken = rest.len().min(length - self.offset);
                    rest[..taken].fill(codec.silence());
                    (taken, length)
                }
            };
            filled += taken;
            self.offset += taken;
            if self.offset == length {
                self.current = self.clips.next();
                self.offset = 0;
            }
        }
        frame[filled..].fill(codec.silence());
        filled > 0
    }
}

/// Copies as much as fits, converted to the wanted law.
fn copy(from: Codec, to: Codec, audio: &[u8], out: &mut [u8]) -> usize {
    let length = audio.len().min(out.len());
    let (audio, out) = (&audio[..length], &mut out[..length]);
    match g711::transcoder(from, to) {
        None => out.copy_from_slice(audio),
        Some(table) => out.iter_mut().zip(audio).for_each(|(o, &a)| *o = table[usize::from(a)]),
    }
    length
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn played(codec: Codec, clips: Vec<Clip>) -> Vec<u8> {
        let mut playback = Playback::new(1, clips);
        let mut frame = [0; FRAME];
        let mut out = Vec::new();
        while playback.fill(codec, &mut frame) {
            out.extend(frame);
        }
        out
    }

    fn clip(codec: Codec, data: &[u8]) -> Clip {
        Clip::Audio { codec, data: Bytes::copy_from_slice(data) }
    }

    #[test]
    fn clips_join_to_the_sample_and_the_end_is_padded() {
        let clips = vec![
            clip(Codec::Pcmu, &[]),
            clip(Codec::Pcmu, &[1; 150]),
            Clip::Silence(0),
            clip(Codec::Pcmu, &[2; 5]),
            Clip::Silence(2),
            clip(Codec::Pcmu, &[3; 200]),
        ];
        let expected = [vec![1; 150], vec![2; 5], vec![0xff; 16], vec![3; 200], vec![0xff; 109]].concat();
        assert_eq!(played(Codec::Pcmu, clips), expected);
        assert_eq!(played(Codec::Pcmu, vec![clip(Codec::Pcmu, &[7; 320])]), [7; 320], "no frame too many");
        assert_eq!(played(Codec::Pcmu, vec![]), []);
    }

    #[test]
    fn the_other_law_is_transcoded() {
        let all: Vec<u8> = (0..160).collect();
        let expected = g711::transcode(Codec::Pcma, Codec::Pcmu, &all);
        assert_eq!(played(Codec::Pcmu, vec![clip(Codec::Pcma, &all)]), expected);
        assert_eq!(played(Codec::Pcma, vec![clip(Codec::Pcma, &all)]), all);
    }
}
