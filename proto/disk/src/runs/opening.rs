//! Finding the runs again.
//!
//! Blocks are numbered through all files, so the blocks of a file end before the first one of the next file, and those of the
//! last file where the checkpoint says. Anything else is damage: flushed rows are missing. A file is never written by
//! another process than the one that began it.

use std::{
    collections::BTreeMap,
    ops::Bound,
    path::Path,
    sync::{Arc, Mutex, RwLock},
};

use twinbox_journal::{Medium, MediumFile};

use super::{
    Appended, Extent, Runs, Sizes, State, Writer, block,
    buckets::{Buckets, Place},
    damaged, file_name, folder,
};
use crate::{DiskError, Pair};

impl<M: Medium> Runs<M> {
    /// Opens the runs of the store in `dir` as of the last checkpoint, and removes the files that are not of it.
    pub(crate) fn open(
        dir: &Path,
        medium: M,
        (rows, sizes): (Appended, Sizes),
        extent: Option<Extent>,
    ) -> Result<Self, DiskError> {
        let io = |what, error: &_| DiskError::io(what, folder(dir), error);
        let found = numbers(&medium).map_err(|error| io("list", &error))?;
        let needed = extent.map(|extent| extent.first..=extent.last);
        for number in found {
            if needed.as_ref().is_none_or(|needed| !needed.contains(&number)) {
                medium.remove(&file_name(number)).map_err(|error| io("remove a file in", &error))?;
            }
        }
        let mut files = BTreeMap::new();
        for number in needed.into_iter().flatten() {
            let file = medium.open(&file_name(number)).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => damaged(dir, &format!("'{}' is missing", file_name(number))),
                _ => io("open a file in", &error),
            })?;
            files.insert(number, Arc::new(file));
        }
        let buckets = match extent {
            Some(extent) => read_all(dir, &files, extent)?,
            None => Buckets::default(),
        };
        let extent = extent.unwrap_or(Extent { first: 1, last: 0, end: 0, block: 0 });
        let writer = Writer {
            file: extent.last,
            length: None,
            end: extent.end.into(),
            block: extent.block,
            unsynced: Vec::new(),
            moves_nothing: false,
        };
        Ok(Self {
            dir: dir.to_owned(),
            medium,
            prefix: rows.prefix,
            stem_length: rows.key_length.saturating_sub(1),
            sizes,
            state: RwLock::new(State { buckets, files }),
            writer: Mutex::new(writer),
        })
    }
}

/// The buckets of these files, which are all of the extent.
fn read_all<F: MediumFile>(
    dir: &Path,
    files: &BTreeMap<u32, Arc<F>>,
    extent: Extent,
) -> Result<Buckets, DiskError> {
    let io = |number, error: &_| DiskError::io("read", folder(dir).join(file_name(number)), error);
    let mut buckets = Buckets::default();
    let mut last_block = None;
    for (number, file) in files {
        buckets.add_file(*number, file.length().map_err(|error| io(*number, &error))?);
        let next = match files.get(&(number + 1)) {
            Some(next) => {
                block::read_head(&**next, 0).map_err(|error| io(*number + 1, &error))?.map(|head| head.number)
            }
            None => Some(extent.block + 1),
        };
        let mut at = 0;
        loop {
            if last_block.is_some() && last_block.map(|block| block + 1) == next {
                break;
            }
            let head = block::read_head(&**file, at).map_err(|error| io(*number, &error))?;
            let is_next = |number: &u64| last_block.is_none_or(|block| *number == block + 1);
            let Some(head) = head.filter(|head| is_next(&head.number)) else {
                return Err(damaged(
                    dir,
                    &format!("the block at byte {at} of '{}' is damaged", file_name(*number)),
                ));
            };
            last_block = Some(head.number);
            if let Some(place) = Place::of(*number, at, &head) {
                buckets.add_block(&head.stem, &head.entries, place);
            }
            at += head.block_length() as u64;
        }
        if files.get(&(number + 1)).is_none() && at != u64::from(extent.end) {
            return Err(damaged(dir, &format!("the blocks of '{}' end at byte {at}", file_name(*number))));
        }
    }
    Ok(buckets)
}

/// Numbers of the files, ascending.
fn numbers(medium: &impl Medium) -> std::io::Result<Vec<u32>> {
    let number = |name: &String| name.strip_suffix(".run")?.parse().ok();
    let mut numbers: Vec<u32> = medium.list()?.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Passes the rows with one of these prefixes that can be read, those behind the end included. A row whose removal cannot be read
/// is passed too. The first failure is returned at the end.
pub(crate) fn salvage(
    dir: &Path,
    medium: &impl Medium,
    prefixes: &[&[u8]],
    take: &mut impl FnMut(Pair),
) -> Result<(), DiskError> {
    let failed = |number, error: &_| DiskError::io("read", folder(dir).join(file_name(number)), error);
    let (mut buckets, mut files, mut outcome) = (Buckets::default(), BTreeMap::new(), Ok(()));
    for number in numbers(medium).map_err(|error| DiskError::io("list", folder(dir), &error))? {
        let file = medium.open(&file_name(number)).map_err(|error| failed(number, &error))?;
        let mut at = 0;
        while let Some(head) = block::read_head(&file, at).map_err(|error| failed(number, &error))? {
            if let Some(place) = Place::of(number, at, &head) {
                buckets.add_block(&head.stem, &head.entries, place);
            }
            at += head.block_length() as u64;
        }
        files.insert(number, file);
    }
    for (stem, bucket) in buckets.range(Bound::Unbounded, Bound::Unbounded) {
        if !prefixes.iter().any(|prefix| stem.starts_with(prefix)) {
            continue;
        }
        let mut rows = BTreeMap::new();
        for place in &bucket.blocks {
            let Some(file) = files.get(&place.file) else { continue };
            let read = block::read(file, place.at.into(), place.length as usize);
            match read.map_err(|error| failed(place.file, &error)) {
                Ok(Some(found)) => rows.extend(found),
                Ok(None) => {
                    let file = file_name(place.file);
                    outcome = Err(damaged(dir, &format!("the block at byte {} of '{file}' is damaged", place.at)));
                }
                Err(error) => outcome = Err(error),
            }
        }
        for (last, value) in rows.into_iter().filter(|(last, _)| bucket.has(*last)) {
            value.into_iter().for_each(|value| take(([stem, &[last]].concat(), value)));
        }
    }
    outcome
}
