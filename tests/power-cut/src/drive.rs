//! The drive: a medium and its volatile cache, the power, and the cut.

use std::{fmt, fs::File, io, os::unix::fs::FileExt, str::FromStr};

use crate::cache::{Cache, SECTOR};

/// Result of a power cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The seed that chose the sectors.
    pub seed: u64,
    /// Sectors that were not flushed.
    pub unflushed: u64,
    /// Those of them that reached the medium.
    pub kept: u64,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.seed, self.unflushed, self.kept)
    }
}

impl FromStr for Cut {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut numbers = text.split(' ').map(|number| number.parse().map_err(drop));
        let mut next = || numbers.next().ok_or(())?;
        Ok(Self { seed: next()?, unflushed: next()?, kept: next()? })
    }
}

/// A drive with power, or without.
#[derive(Debug)]
pub struct Drive {
    medium: File,
    length: u64,
    cache: Cache,
    seed: u64,
    power: bool,
    /// Writes and flushes until the power fails.
    remaining: Option<u64>,
    /// The next flush fails.
    fails: bool,
}

impl Drive {
    /// A drive on an image file; `seed` chooses what a cut keeps.
    pub fn new(medium: File, seed: u64) -> io::Result<Self> {
        let length = medium.metadata()?.len();
        Ok(Self { medium, length, cache: Cache::default(), seed, power: true, remaining: None, fails: false })
    }

    /// Size in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The power fails before the write or flush that follows this many others.
    pub fn cut_after(&mut self, operations: u64) {
        self.remaining = Some(operations);
    }

    /// Makes all durable that was written. The next flush fails, and what is written until then is forgotten.
    pub fn fail_next_flush(&mut self) -> io::Result<()> {
        self.flush()?;
        self.fails = true;
        Ok(())
    }

    /// Cuts the power; `None` if there is none.
    pub fn cut(&mut self) -> io::Result<Option<Cut>> {
        if !std::mem::replace(&mut self.power, false) {
            return Ok(None);
        }
        let unflushed = self.cache.len() as u64;
        let kept = self.cache.cut(self.seed);
        let cut = Cut { seed: self.seed, unflushed, kept: kept.len() as u64 };
        self.store(&kept)?;
        Ok(Some(cut))
    }

    /// Counts a write or flush; the cut, if it is the one before which the power fails.
    pub fn count(&mut self) -> io::Result<Option<Cut>> {
        match &mut self.remaining {
            Some(0) => self.cut(),
            Some(remaining) => {
                *remaining -= 1;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Reads whole sectors, as last written.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.powered()?;
        let within = self.length.saturating_sub(offset).min(length as u64) as usize;
        let mut found = vec![0; within];
        self.medium.read_exact_at(&mut found, offset)?;
        self.cache.overlay(offset, &mut found);
        Ok(found)
    }

    /// Writes whole sectors to the cache.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.powered()?;
        let fits = offset.checked_add(bytes.len() as u64).is_some_and(|end| end <= self.length);
        if fits && self.cache.write(offset, bytes) { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Makes all that was written durable.
    pub fn flush(&mut self) -> io::Result<()> {
        self.powered()?;
        let all = self.cache.flush();
        if std::mem::take(&mut self.fails) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.store(&all)
    }

    fn powered(&self) -> io::Result<()> {
        if self.power { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
    }

    fn store(&self, sectors: &[(u64, [u8; SECTOR])]) -> io::Result<()> {
        sectors.iter().try_for_each(|(number, bytes)| self.medium.write_all_at(bytes, number * SECTOR as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(seed: u64) -> Drive {
        let medium = tempfile::tempfile().expect("a file");
        medium.set_len(1 << 20).expect("its length");
        Drive::new(medium, seed).expect("a drive")
    }

    #[test]
    fn flushed_sectors_survive_a_cut_and_others_may_not() {
        let mut lost = 0;
        for seed in 0..40 {
            let mut drive = drive(seed);
            drive.write(8192, &[1; 1024]).expect("a write");
            drive.flush().expect("a flush");
            drive.write(8192, &[2; 512]).expect("a write");
            drive.write(16384, &[3; 512]).expect("a write");
            assert_eq!(drive.read(8192, 1024).expect("a read"), [[2; 512], [1; 512]].concat());
            let cut = drive.cut().expect("a cut").expect("power until now");
            assert_eq!((cut.unflushed, cut.seed), (2, seed));
            assert_eq!(cut.to_string().parse(), Ok(cut.clone()));
            lost += cut.unflushed - cut.kept;
            let mut found = [0; 1024];
            drive.medium.read_exact_at(&mut found, 8192).expect("the medium");
            assert!(found[512..] == [1; 512] && (found[..512] == [1; 512] || found[..512] == [2; 512]));
            for refused in [drive.read(0, 512).map(drop), drive.write(0, &[0; 512]), drive.flush()] {
                assert_eq!(refused.map_err(|error| error.raw_os_error()), Err(Some(libc::EIO)));
            }
            assert_eq!(drive.cut().expect("no second cut"), None);
        }
        assert!((1..80).contains(&lost), "{lost} of 80 sectors were lost");
    }

    #[test]
    fn failed_flush_forgets_what_was_written_and_the_next_one_succeeds() {
        let mut drive = drive(1);
        drive.write(0, &[1; 512]).expect("a write");
        drive.fail_next_flush().expect("armed");
        drive.write(0, &[2; 512]).expect("a write");
        assert_eq!(drive.read(0, 512).expect("a read"), [2; 512]);
        assert_eq!(drive.flush().expect_err("a failure").raw_os_error(), Some(libc::EIO));
        assert_eq!(drive.read(0, 512).expect("a read"), [1; 512]);
        drive.write(512, &[3; 512]).expect("a write");
        drive.flush().expect("a flush");
        drive.cut().expect("a cut");
        let mut found = [0; 1024];
        drive.medium.read_exact_at(&mut found, 0).expect("the medium");
        assert!(found[..512] == [1; 512] && found[512..] == [3; 512]);
    }

    #[test]
    fn power_fails_after_the_set_number_of_operations() {
        let mut drive = drive(1);
        assert_eq!(drive.count().expect("not armed"), None);
        drive.cut_after(2);
        assert_eq!([drive.count().expect("one"), drive.count().expect("two")], [None, None]);
        assert!(drive.count().expect("three").is_some());
    }
}
