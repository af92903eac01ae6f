//! Test speech: a sequence of G.711 bytes in which every position is recognisable.

use std::collections::HashMap;

/// An endless sequence, different for every seed. Loud in both laws (no byte means near silence).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speech {
    seed: u64,
}

/// The position of a speech in heard or stored audio. All counts in samples (1/8000 s).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Start in the searched audio.
    pub at: usize,
    /// Start in the speech.
    pub from: usize,
    /// Length of the bit-exact match.
    pub length: usize,
}

impl Found {
    /// End of the match in the speech.
    pub fn until(&self) -> usize {
        self.from + self.length
    }

    /// Length in seconds.
    pub fn seconds(&self) -> f64 {
        self.length as f64 / 8000.0
    }
}

/// Length of the windows that identify a position: eight bytes with seven free bits each.
const WINDOW: usize = 8;

impl Speech {
    /// The speech of this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// A speech that is unique in this run.
    pub fn unique() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self::new(u64::from(std::process::id()) << 32 | NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Eight bytes of it (splitmix64 of the position).
    fn word(&self, n: u64) -> [u8; 8] {
        let mut z =
            self.seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        // Bit 6 clear is an exponent of four and more in either law: always loud.
        ((z ^ z >> 31) & 0xbfbf_bfbf_bfbf_bfbf).to_le_bytes()
    }

    /// `length` bytes from `start` on.
    pub fn bytes(&self, start: usize, length: usize) -> Vec<u8> {
        let first = start / 8;
        let words = (first..).flat_map(|n| self.word(n as u64));
        words.skip(start - first * 8).take(length).collect()
    }

    /// The longest piece of the speech's first `spoken` bytes that `heard` contains, bit for bit. `None` for less than
    /// 20 ms.
    pub fn find_in(&self, heard: &[u8], spoken: usize) -> Option<Found> {
        self.find_first(spoken, [heard]).map(|(_, found)| found)
    }

    /// The index of the first of `all` that contains a piece of it, and the longest piece as in [`Self::find_in`].
    pub fn find_first(&self, spoken: usize, all: impl IntoIterator<Item: AsRef<[u8]>>) -> Option<(usize, Found)> {
        let said = self.bytes(0, spoken);
        let places: HashMap<&[u8], usize> = said.windows(WINDOW).enumerate().map(|(n, w)| (w, n)).collect();
        all.into_iter().enumerate().find_map(|(n, heard)| Some((n, longest(heard.as_ref(), &said, &places)?)))
    }
}

/// The longest piece of `said`, whose windows are at these positions, in `heard`.
fn longest(heard: &[u8], said: &[u8], places: &HashMap<&[u8], usize>) -> Option<Found> {
    let (mut best, mut at) = (None::<Found>, 0);
    while at + WINDOW <= heard.len() {
        let Some(&from) = places.get(&heard[at..at + WINDOW]) else {
            at += WINDOW;
            continue;
        };
        let back = (0..at.min(from)).take_while(|n| heard[at - n - 1] == said[from - n - 1]).count();
        let forth = heard[at..].iter().zip(&said[from..]).take_while(|(a, b)| a == b).count();
        let found = Found { at: at - back, from: from - back, length: back + forth };
        if best.is_none_or(|b| found.length > b.length) {
            best = Some(found);
        }
        at += forth.max(WINDOW);
    }
    best.filter(|found| found.length >= 160)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::g711::Law;

    #[test]
    fn piece_of_speech_is_found_at_its_position() {
        let (speech, other) = (Speech::new(7), Speech::new(8));
        let mut heard = vec![0xff; 1000];
        heard.extend(speech.bytes(4001, 1600));
        heard.extend(other.bytes(0, 3000));
        assert_eq!(speech.find_in(&heard, 80_000), Some(Found { at: 1000, from: 4001, length: 1600 }));
        heard[1800] ^= 1;
        assert_eq!(speech.find_in(&heard, 80_000), Some(Found { at: 1000, from: 4001, length: 800 }));
        assert_eq!(speech.find_in(&heard[..1100], 80_000), None);
        assert_eq!(Speech::new(9).find_in(&heard, 80_000), None);
    }

    #[test]
    fn speech_is_loud_in_both_laws_and_independent_of_the_start() {
        let speech = Speech::unique();
        assert!(
            speech.bytes(0, 9000).iter().all(|b| Law::Mu.decode(*b).abs() > 1000 && Law::A.decode(*b).abs() > 1000)
        );
        assert_eq!(speech.bytes(13, 100), speech.bytes(0, 113)[13..]);
        assert_ne!(speech, Speech::unique());
    }
}
