//! Finding the runs again.
//!
//! Blocks are numbered through all files. The blocks of a file end before the first one of any later file: a process that was killed
//! may have left more, and the next one continued from the checkpoint, in a file of its own. Those of the last file end where the
//! checkpoint says. Anything else is damage: flushed rows are missing.

use std::{
    collections::BTreeMap,
    ops::Bound,
    path::Path,
    sync::{Arc, Mutex, RwLock},
};

use twinbox_journal::{Medium, MediumFile};

use super::{
    Appended, Extent, Runs, Sizes, State, Writer, block,
    buckets::{BlockPlace, Buckets},
    damaged, file_name, folder,
};
use crate::{DiskError, Pair};

impl<M: Medium> Runs<M> {
    /// Opens the runs of the store in `dir` as of the last checkpoint. Files that are not of it stay until the next one: if the index
    /// turns out to have lost its last notes, they may have rows that exist nowhere else (rule D2).
    pub(crate) fn open(
        dir: &Path,
        medium: M,
        (rows, sizes): (Appended, Sizes),
        extent: Option<Extent>,
    ) -> Result<Self, DiskError> {
        let io = |what, error: &_| DiskError::io(what, folder(dir), error);
        let found = numbers(&medium).map_err(|error| io("list", &error))?;
        let is_needed = |number: &u32| extent.is_some_and(|extent| (extent.first..=extent.last).contains(number));
        let next = found.last().map_or(1, |last| last + 1);
        let (needed, unneeded): (Vec<u32>, Vec<u32>) = found.into_iter().partition(is_needed);
        let mut files = BTreeMap::new();
        for number in needed {
            let file = medium.open(&file_name(number)).map_err(|error| io("open a file in", &error))?;
            files.insert(number, Arc::new(file));
        }
        let ends = extent.map(|extent| [extent.first, extent.last]);
        if let Some(missing) = ends.into_iter().flatten().find(|number| !files.contains_key(number)) {
            return Err(damaged(dir, &format!("'{}' is missing", file_name(missing))));
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
            next,
            unneeded,
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
    let mut firsts = BTreeMap::new();
    for (number, file) in files {
        let head = block::read_head(&**file, 0).map_err(|error| io(*number, &error))?;
        firsts.insert(*number, head.map(|head| head.number));
    }
    let mut buckets = Buckets::default();
    let mut last_block: Option<u64> = None;
    for (number, file) in files {
        buckets.add_file(*number, file.length().map_err(|error| io(*number, &error))?);
        let later = firsts.range(number + 1..).filter_map(|(_, first)| *first);
        let end = later.min().unwrap_or(extent.block + 1);
        let mut at = 0;
        loop {
            if last_block.is_some_and(|block| block + 1 >= end) {
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
            if let Some(place) = BlockPlace::of(*number, at, &head) {
                buckets.add_block(&head.stem, &head.entries, place);
            }
            at += head.block_length() as u64;
        }
        if *number == extent.last && at != u64::from(extent.end) {
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
/// is passed too. The last failure is returned at the end.
pub(crate) fn salvage(
    dir: &Path,
    medium: &impl Medium,
    prefixes: &[&[u8]],
    take: &mut impl FnMut(Pair),
) -> Result<(), DiskError> {
    let failed = |number, error: &_| DiskError::io("read", folder(dir).join(file_name(number)), error);
    let is_damaged =
        |number, at| damaged(dir, &format!("the block at byte {at} of '{}' is damaged", file_name(number)));
    let (mut buckets, mut files, mut outcome) = (Buckets::default(), BTreeMap::new(), Ok(()));
    for number in numbers(medium).map_err(|error| DiskError::io("list", folder(dir), &error))? {
        // One file at a time is in memory.
        let read = medium.open(&file_name(number)).and_then(|file| {
            let length = usize::try_from(file.length()?).unwrap_or(usize::MAX);
            Ok((file.read_new(length, 0)?, file))
        });
        match read {
            Ok((bytes, file)) => {
                if let Some(at) = find_blocks(&mut buckets, number, &bytes) {
                    outcome = Err(is_damaged(number, at as u64));
                }
                files.insert(number, file);
            }
            Err(error) => outcome = Err(failed(number, &error)),
        }
    }
    for (stem, bucket) in buckets.range(Bound::Unbounded, Bound::Unbounded) {
        if !prefixes.iter().any(|prefix| stem.starts_with(prefix)) {
            continue;
        }
        let mut rows = BTreeMap::new();
        for place in &bucket.blocks {
            let Some(file) = files.get(&place.file) else { continue };
            match block::read(file, place.at.into(), place.length as usize) {
                Ok(Some(found)) => rows.extend(found),
                Ok(None) => outcome = Err(is_damaged(place.file, u64::from(place.at))),
                Err(error) => outcome = Err(failed(place.file, &error)),
            }
        }
        for (last, value) in rows.into_iter().filter(|(last, _)| bucket.has(*last)) {
            value.into_iter().for_each(|value| take(([stem, &[last]].concat(), value)));
        }
    }
    outcome
}

/// Adds the blocks of a file whose heads are whole; the place of the last bytes that are part of no block.
fn find_blocks(buckets: &mut Buckets, number: u32, bytes: &[u8]) -> Option<usize> {
    let (mut at, mut unknown) = (0, None);
    loop {
        let found = block::find_head(bytes, at);
        let between = bytes.get(at..found.as_ref().map_or(bytes.len(), |(place, _)| *place)).unwrap_or_default();
        // The rest of a file that is not full has zeros only.
        if between.iter().any(|byte| *byte != 0) {
            unknown = Some(at);
        }
        let Some((place, head)) = found else { return unknown };
        if let Some(place) = BlockPlace::of(number, place as u64, &head) {
            buckets.add_block(&head.stem, &head.entries, place);
        }
        at = place + head.block_length();
    }
}
