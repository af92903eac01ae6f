//! Setting aside of a store that cannot be opened, and the rows that can still be read from it.
//!
//! Nothing is deleted (rule D2), and the rows are no state of the store: the index may be older than a value read from
//! the journal, and either may lack any row. A caller takes only values that stand on their own, such as replicated
//! changes, and never marks of completeness.

use std::path::{Path, PathBuf};

use twinbox_journal::Salvaged;

use crate::{
    DiskError, Pair, batch::Reader, disk::lock, file, medium::Folder, range::KeyRange, replacement, runs,
    sled_index::AsItIs,
};

/// Between the name of a store's directory and the time at which it was set aside.
const MARK: &str = ".unreadable-";

/// Findings in a store that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// The failure that ended reading the index; `None` if all of it was read.
    pub index: Option<String>,
    /// Findings in the journal.
    pub journal: Salvaged,
}

/// Gives the directory of a store another name, durably: `<name>.unreadable-<time>`, where `now_ms` is the time in
/// milliseconds since 1970. Returns the new path. Refused while the store is open.
pub fn set_aside(dir: &Path, now_ms: u64) -> Result<PathBuf, DiskError> {
    let _lock = lock(dir)?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let path = |suffix: String| dir.with_file_name(format!("{name}{MARK}{}{suffix}", name_of(now_ms)));
    // Only a start sets a store aside, and only one process has the lock of the directory.
    let mut aside = path(String::new());
    for n in 2.. {
        if !aside.exists() {
            break;
        }
        aside = path(format!("-{n}"));
    }
    file::rename_durably(dir, &aside)?;
    Ok(aside)
}

/// A time as it stands in the name of a directory, in UTC.
fn name_of(now_ms: u64) -> String {
    let time = i64::try_from(now_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| now_ms.to_string(), |time| time.strftime("%Y%m%dT%H%M%SZ").to_string())
}

/// The directories that were set aside from `dir` and are still there, by name.
pub fn set_asides(dir: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let Some((parent, name)) = dir.parent().zip(dir.file_name()) else { return Ok(Vec::new()) };
    if !parent.is_dir() {
        return Ok(Vec::new());
    }
    let begin = format!("{}{MARK}", name.to_string_lossy());
    let ours = |path: &PathBuf| {
        path.is_dir() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&begin))
    };
    let mut found: Vec<_> = file::list(parent)?.into_iter().filter(ours).collect();
    found.sort();
    Ok(found)
}

/// Passes the pairs whose key begins with one of `prefixes` to `take`, as far as they can be read: those of the index and its
/// runs, then those that the journal has, in its order. A key may come many times. Values that the journal removed are not
/// passed, and do not take back what the index has.
pub fn salvage(dir: &Path, prefixes: &[&[u8]], mut take: impl FnMut(Pair)) -> Findings {
    let index = of_index(dir, prefixes, &mut take).and(of_runs(dir, prefixes, &mut take));
    let index = index.err().map(|error| error.to_string());
    // A journal that cannot be opened is not an empty one.
    let unreadable = Salvaged { unreadable: 1, ..Salvaged::default() };
    let journal = of_journal(&dir.join("journal"), prefixes, &mut take).unwrap_or(unreadable);
    Findings { index, journal }
}

fn of_journal(dir: &Path, prefixes: &[&[u8]], take: &mut impl FnMut(Pair)) -> Result<Salvaged, DiskError> {
    if !exists(dir)? {
        return Ok(Salvaged::default());
    }
    let (folder, mut reader) = (Folder::of_journal(dir)?, Reader::default());
    Ok(twinbox_journal::salvage(&folder, |content, gap| {
        if gap {
            // The rest of a group whose beginning is missing is left out.
            reader = Reader::default();
        }
        let Ok(group) = reader.read(content) else {
            reader = Reader::default();
            return;
        };
        for (key, value) in group.into_iter().flatten() {
            if let Some(value) = value.filter(|_| prefixes.iter().any(|prefix| key.starts_with(prefix))) {
                take((key, value));
            }
        }
    }))
}

/// False only for a folder that is missing: one that the disk cannot read exists.
fn exists(dir: &Path) -> Result<bool, DiskError> {
    dir.try_exists().map_err(|error| DiskError::io("read", dir, &error))
}

fn of_runs(dir: &Path, prefixes: &[&[u8]], take: &mut impl FnMut(Pair)) -> Result<(), DiskError> {
    let folder = runs::folder(dir);
    if !exists(&folder)? {
        return Ok(());
    }
    runs::salvage(dir, &Folder::of_index(&folder)?, prefixes, take)
}

/// Passes the rows from the start to the first unreadable place, and from the end back to the last one.
fn of_index(dir: &Path, prefixes: &[&[u8]], take: &mut impl FnMut(Pair)) -> Result<(), DiskError> {
    replacement::settle(dir)?;
    if !exists(&replacement::index(dir))? {
        return Ok(());
    }
    let index = AsItIs::open(dir)?;
    let mut failed = Ok(());
    for prefix in prefixes {
        let range = KeyRange::prefix(prefix);
        let mut last = None;
        let read = index.ascending(&range).try_for_each(|pair| {
            let pair = pair?;
            last = Some(pair.0.clone());
            take(pair);
            Ok(())
        });
        let Err(error) = read else { continue };
        failed = Err(error);
        let back = index.descending(&range).map_while(Result::ok);
        for pair in back.take_while(|(key, _)| last.as_ref().is_none_or(|last| key > last)) {
            take(pair);
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_times_in_utc() {
        assert_eq!(name_of(1_795_352_400_000), "20261122T130000Z");
        assert_eq!(name_of(u64::MAX), u64::MAX.to_string());
    }
}
