//! Many keys in their order: one scan goes from each to the next.

use std::{cmp::Ordering, iter::Peekable};

use crate::{Disk, DiskError, Pair};

/// Pairs that a scan passes on its way to a key. Where more lie between, a search for the key costs less.
const PASSED: usize = 32;

/// Pairs, ascending.
type Pairs = Box<dyn Iterator<Item = Result<Pair, DiskError>> + Send>;

/// Values of keys that are asked for in their order. Where hardly one of them is there, this costs one search for all of them.
pub struct InOrder<'a> {
    disk: &'a Disk,
    end: &'a [u8],
    scan: Option<Peekable<Pairs>>,
}

impl<'a> InOrder<'a> {
    /// For keys before `end`.
    pub fn new(disk: &'a Disk, end: &'a [u8]) -> Self {
        Self { disk, end, scan: None }
    }

    /// The value of a key. Keys must be asked for in ascending order. The value may be as old as an earlier call.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        let mut passed = 0;
        loop {
            let scan = match &mut self.scan {
                Some(scan) if passed < PASSED => scan,
                scan => {
                    passed = 0;
                    let pairs: Pairs = Box::new(self.disk.scan_range(key, self.end));
                    scan.insert(pairs.peekable())
                }
            };
            match scan.peek() {
                Some(Ok((next, value))) => match next.as_slice().cmp(key) {
                    Ordering::Less => passed += 1,
                    Ordering::Equal => return Ok(Some(value.clone())),
                    Ordering::Greater => return Ok(None),
                },
                Some(Err(_)) => {}
                None => return Ok(None),
            }
            if let Some(Err(error)) = scan.next() {
                self.scan = None;
                return Err(error);
            }
        }
    }
}
