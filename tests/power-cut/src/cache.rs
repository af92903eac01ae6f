//! The volatile cache of a drive: sectors that were written and not flushed, and the choice of those that survive a cut.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::StdRng};

/// Length of a sector in bytes. A drive writes a sector as a whole or not at all.
pub const SECTOR: usize = 512;

/// The superblock of ext4, which its journal does not protect: this block is never torn.
const WHOLE: u64 = 4096;

/// Sectors that were written since the last flush, each with all that was written to it.
#[derive(Debug, Default)]
pub struct Cache {
    sectors: BTreeMap<u64, Vec<Version>>,
    /// Count of writes since the last flush.
    writes: u64,
}

/// The content that one write gave a sector.
#[derive(Debug)]
struct Version {
    write: u64,
    bytes: [u8; SECTOR],
}

/// Sectors with their content, by sector number.
pub type Sectors = Vec<(u64, [u8; SECTOR])>;

impl Cache {
    /// Takes a write of whole sectors; false if it is something else.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> bool {
        if !offset.is_multiple_of(SECTOR as u64) || !bytes.len().is_multiple_of(SECTOR) {
            return false;
        }
        self.writes += 1;
        for (number, sector) in (offset / SECTOR as u64..).zip(bytes.chunks_exact(SECTOR)) {
            let mut version = Version { write: self.writes, bytes: [0; SECTOR] };
            version.bytes.copy_from_slice(sector);
            self.sectors.entry(number).or_default().push(version);
        }
        true
    }

    /// Replaces what a read of whole sectors found on the medium by what was written since.
    pub fn overlay(&self, offset: u64, found: &mut [u8]) {
        let first = offset / SECTOR as u64;
        let sectors = self.sectors.range(first..first + (found.len() / SECTOR) as u64);
        for (number, versions) in sectors {
            let at = (number - first) as usize * SECTOR;
            if let (Some(newest), Some(place)) = (versions.last(), found.get_mut(at..at + SECTOR)) {
                place.copy_from_slice(&newest.bytes);
            }
        }
    }

    /// Number of sectors that are not flushed.
    pub fn len(&self) -> usize {
        self.sectors.len()
    }

    /// Empties the cache: everything goes to the medium.
    pub fn flush(&mut self) -> Sectors {
        self.writes = 0;
        let newest = |(number, versions): (u64, Vec<Version>)| Some((number, versions.last()?.bytes));
        std::mem::take(&mut self.sectors).into_iter().filter_map(newest).collect()
    }

    /// Empties the cache when the power fails; the sectors that reached the medium all the same, as `seed` chooses.
    pub fn cut(&mut self, seed: u64) -> Sectors {
        let mut random = StdRng::seed_from_u64(seed);
        let luck = Luck::choose(&mut random, self.writes);
        self.writes = 0;
        let sectors = std::mem::take(&mut self.sectors);
        let mut survivors = Sectors::new();
        let mut piece = None;
        // Each piece stops at a moment of its own: pieces survive in another order than that of their writes.
        let mut reached = 0;
        for (number, versions) in sectors {
            let offset = number * SECTOR as u64;
            let of = if offset < WHOLE { 0 } else { offset.max(WHOLE) / luck.piece };
            if piece != Some(of) {
                piece = Some(of);
                reached = luck.moment(&mut random, versions.iter().map(|version| version.write));
            }
            let last = versions.iter().rev().find(|version| version.write <= reached);
            survivors.extend(last.map(|version| (number, version.bytes)));
        }
        survivors
    }
}

/// The way in which a cut loses sectors.
struct Luck {
    /// Bytes that survive or are lost together.
    piece: u64,
    kind: Kind,
}

enum Kind {
    /// Nothing reached the medium.
    Nothing,
    /// Writes reached the medium in order, up to this one. Pieces of that one write are there or not.
    Order(u64),
    /// A piece reached the medium with this probability, as of any of its writes.
    Pieces(f64),
}

impl Luck {
    fn choose(random: &mut StdRng, writes: u64) -> Self {
        let piece = if random.random() { SECTOR as u64 } else { 4096 };
        let kind = match random.random_range(0..8) {
            0 => Kind::Nothing,
            1 | 2 => Kind::Order(random.random_range(0..=writes)),
            3 => Kind::Pieces(0.1),
            4 | 5 => Kind::Pieces(0.5),
            _ => Kind::Pieces(0.9),
        };
        Self { piece, kind }
    }

    /// The last write that reached a piece, of those that went to its first sector; 0 for none.
    fn moment(&self, random: &mut StdRng, writes: impl Iterator<Item = u64>) -> u64 {
        match self.kind {
            Kind::Nothing => 0,
            Kind::Order(last) => last - u64::from(last > 0 && random.random()),
            Kind::Pieces(kept) if random.random_bool(kept) => {
                let writes: Vec<u64> = writes.collect();
                writes[random.random_range(0..writes.len())]
            }
            Kind::Pieces(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sectors(bytes: &[u8]) -> Vec<u8> {
        bytes.iter().flat_map(|byte| [*byte; SECTOR]).collect()
    }

    /// A cache with forty writes of eight sectors over one another, behind the block that is never torn.
    fn written() -> Cache {
        let mut cache = Cache::default();
        for n in 0..40_u8 {
            assert!(cache.write(WHOLE + u64::from(n % 10) * 1024, &sectors(&[n + 1; 8])));
        }
        cache
    }

    #[test]
    fn reads_see_what_was_written_and_not_flushed() {
        let mut cache = Cache::default();
        assert!(cache.write(1024, &sectors(&[1, 2, 3])) && cache.write(1536, &sectors(&[4])));
        let mut found = sectors(&[9; 6]);
        cache.overlay(512, &mut found);
        assert_eq!(found, sectors(&[9, 1, 4, 3, 9, 9]));
        assert!(!cache.write(100, &sectors(&[1])) && !cache.write(0, &[0; 100]), "sectors are written as a whole");
    }

    #[test]
    fn flush_gives_the_newest_of_each_sector_once() {
        let mut cache = Cache::default();
        assert!(cache.write(0, &sectors(&[1, 2])) && cache.write(512, &sectors(&[3])));
        assert_eq!(cache.flush(), [(0, [1; SECTOR]), (1, [3; SECTOR])]);
        assert_eq!((cache.flush(), cache.len()), (Sectors::new(), 0));
    }

    #[test]
    fn seed_determines_the_survivors() {
        for seed in 0..50 {
            assert_eq!(written().cut(seed), written().cut(seed), "seed {seed}");
        }
    }

    #[test]
    fn seeds_lose_all_or_some_reorder_writes_and_tear_them() {
        let all = written().len();
        let (mut nothing, mut whole, mut some, mut reordered, mut torn) = (0, 0, 0, 0, 0);
        for seed in 0..1000 {
            let kept = written().cut(seed);
            match kept.len() {
                0 => nothing += 1,
                n if n == all => whole += 1,
                _ => some += 1,
            }
            // A sector of write 1 to 10 where a later write has survived elsewhere: only the first round of writes.
            let highest = kept.iter().map(|(_, bytes)| bytes[0]).max().unwrap_or_default();
            let stale = kept.iter().any(|(_, bytes)| bytes[0] <= 10);
            reordered += u32::from(stale && highest > 30);
            let of_last = kept.iter().filter(|(_, bytes)| bytes[0] == 40).count();
            torn += u32::from((1..8).contains(&of_last));
            for (number, bytes) in kept {
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "seed {seed}: sector {number} is torn");
            }
        }
        println!("nothing {nothing}, whole {whole}, some {some}, reordered {reordered}, torn {torn}");
        assert!([nothing, whole, some, reordered, torn].iter().all(|count| *count > 0));
    }

    #[test]
    fn the_first_block_is_never_torn() {
        for seed in 0..300 {
            let mut cache = Cache::default();
            assert!(cache.write(0, &sectors(&[1; 8])) && cache.write(0, &sectors(&[2; 8])));
            let kept: Vec<u8> = cache.cut(seed).iter().map(|(_, bytes)| bytes[0]).collect();
            assert!(kept.is_empty() || kept == [1; 8] || kept == [2; 8], "seed {seed}: {kept:?}");
        }
    }
}
