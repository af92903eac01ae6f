//! Segments of a store's journal that were recycled, as its files show it.
//!
//! The first block of each file (proto/journal/DESIGN.md) has the number of its segment, which rises by one with each
//! segment; a new file gets the next number as its name, a recycled one keeps its name. So the segments that were made
//! in a time, less the files that were made in it, are the recycled ones.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// First bytes of a segment.
const MAGIC: &[u8] = b"TwbJrnl\n";
/// Ending of the names of a journal's files.
const ENDING: &str = ".segment";
/// Place of the segment's number in the first block, little-endian.
const NUMBER: usize = 16;

/// The highest numbers seen in a journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Highest {
    segment: u64,
    file: u64,
}

/// The journal of a store.
pub struct Segments {
    dir: PathBuf,
    highest: Highest,
}

impl Segments {
    /// The journal of the store in `store`.
    pub fn of(store: &Path) -> Self {
        Self { dir: store.join("db/journal"), highest: Highest::default() }
    }

    /// Looks at all files. Call it often: a file may be removed again.
    pub fn look(&mut self) -> Highest {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(ENDING)?.parse::<u64>().ok());
            let (Some(number), Some(segment)) = (number, segment(&entry.path())) else { continue };
            self.highest.file = self.highest.file.max(number);
            self.highest.segment = self.highest.segment.max(segment);
        }
        self.highest
    }
}

impl Highest {
    /// Segments that were written into recycled files since an earlier look.
    pub fn recycled_since(self, earlier: Self) -> u64 {
        (self.segment - earlier.segment).saturating_sub(self.file - earlier.file)
    }
}

/// Number of the segment in a file.
fn segment(path: &Path) -> Option<u64> {
    let mut header = [0; NUMBER + 8];
    File::open(path).ok()?.read_exact(&mut header).ok()?;
    let number = header.strip_prefix(MAGIC)?.last_chunk::<8>()?;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_in_files_that_are_not_new_are_recycled() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("db/journal");
        fs::create_dir_all(&journal).unwrap();
        let write = |file: u64, segment: u64| {
            let header = [MAGIC, &[0; 8], &segment.to_le_bytes()].concat();
            fs::write(journal.join(format!("{file:08}{ENDING}")), header).unwrap();
        };
        let mut segments = Segments::of(dir.path());
        write(1, 5);
        write(2, 6);
        let before = segments.look();
        // Segment 7 is in the file of 5, 8 in a new one, 9 in the file of 6.
        write(1, 7);
        write(3, 8);
        write(2, 9);
        assert_eq!(segments.look().recycled_since(before), 2);
    }
}
