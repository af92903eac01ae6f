//! Checksums of the beginnings of a pack: two of them give the checksum of the bytes between, without another read of these.
//!
//! The search for frames asks for them after a wrong checksum. Damage, or a payload full of headers, would otherwise let it read
//! the same megabyte from every sixteenth byte on.

use crc32fast::Hasher;

/// Bytes from one sum to the next; a checksum reads at most as many at each of its ends.
const STEP: usize = 1024;

/// The checksums of the bytes before each multiple of [`STEP`].
pub(crate) struct Sums(Vec<u32>);

impl Sums {
    pub(crate) fn new(file: &[u8]) -> Self {
        let (mut sums, mut sum) = (vec![0], Hasher::new());
        for part in file.chunks_exact(STEP) {
            sum.update(part);
            sums.push(sum.clone().finalize());
        }
        Self(sums)
    }

    /// The checksum of `length` bytes at `start`, to be combined with the checksum of the bytes before them. `file` is the same as
    /// before, and has these bytes.
    pub(crate) fn of(&self, file: &[u8], start: usize, length: usize) -> Hasher {
        let end = start + length;
        // CRC-32 is linear: the bytes before, followed by as many zeros, are the difference.
        let mut before = Hasher::new_with_initial(self.before(file, start));
        before.combine(&Hasher::new_with_initial_len(0, length as u64));
        Hasher::new_with_initial_len(before.finalize() ^ self.before(file, end), length as u64)
    }

    /// The checksum of the bytes before `end`.
    fn before(&self, file: &[u8], end: usize) -> u32 {
        let steps = end / STEP;
        let mut sum = Hasher::new_with_initial(self.0.get(steps).copied().unwrap_or_default());
        sum.update(file.get(steps * STEP..end).unwrap_or_default());
        sum.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_that_of_the_bytes_wherever_they_lie() {
        let file: Vec<u8> = (0..10 * STEP + 5).map(|at| (at * at % 251) as u8).collect();
        let sums = Sums::new(&file);
        let ends = [0, 1, STEP - 1, STEP, STEP + 1, 3 * STEP, 7 * STEP + 9, 10 * STEP, file.len()];
        for (start, end) in ends.iter().flat_map(|start| ends.map(|end| (*start, end))).filter(|(s, e)| s <= e) {
            let mut whole = Hasher::new();
            whole.update(b"before");
            whole.combine(&sums.of(&file, start, end - start));
            let expected = crc32fast::hash(&[&b"before"[..], &file[start..end]].concat());
            assert_eq!(whole.finalize(), expected, "{start}..{end}");
        }
    }
}
