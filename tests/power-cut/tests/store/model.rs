//! The data that a store must have, by what its processes wrote on their standard output.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// The data that a store must have. Found data counts as acknowledged: a reader has seen it.
#[derive(Default)]
pub struct Model {
    /// Rows that are overwritten, with the newest version that was acknowledged or found.
    rows: BTreeMap<String, u64>,
    /// Filed recordings, with their length in bytes.
    audio: BTreeMap<String, u64>,
    /// Recordings whose deletion was begun: they are there or not.
    deleting: BTreeSet<String>,
    /// Recordings that were deleted.
    deleted: BTreeSet<String>,
    /// Purged records, removed blobs, removed packs, and moved bytes.
    cleaned: [u64; 4],
    /// Data that the present process has found so far.
    found: Found,
    acknowledged: usize,
    /// Number of processes that ended since the last comparison. Each may have committed a version more than it could
    /// acknowledge.
    ended: u64,
    /// One of them was not read to its end.
    unread: bool,
}

#[derive(Default)]
struct Found {
    rows: BTreeMap<String, u64>,
    audio: BTreeMap<String, u64>,
    open: Vec<String>,
}

/// True for the line of an acknowledgement.
pub fn is_acknowledgement(line: &str) -> bool {
    ["committed ", "filed ", "deleted "].iter().any(|begin| line.starts_with(begin))
}

/// True for a line that counts whether its process is acknowledged to the end or not.
pub fn is_announcement(line: &str) -> bool {
    ["deleting ", "cleaned "].iter().any(|begin| line.starts_with(begin))
}

impl Model {
    /// Takes a line of a process; a loss, if the line shows one.
    pub fn take(&mut self, line: &str) -> Result<(), String> {
        let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{line}: {error}"));
        match *line.split(' ').collect::<Vec<_>>() {
            ["committed", id, version] => {
                self.acknowledged += 1;
                self.rows.insert(id.to_owned(), number(version)?);
            }
            ["filed", id, length] => {
                self.acknowledged += 1;
                self.audio.insert(id.to_owned(), number(length)?);
            }
            ["deleting", id] => {
                self.audio.remove(id);
                self.deleting.insert(id.to_owned());
            }
            ["deleted", id] => {
                self.acknowledged += 1;
                self.deleting.remove(id);
                self.deleted.insert(id.to_owned());
            }
            ["cleaned", ref counts @ ..] => {
                for (sum, &count) in self.cleaned.iter_mut().zip(counts) {
                    *sum += number(count)?;
                }
            }
            ["row", id, version] => {
                self.found.rows.insert(id.to_owned(), number(version)?);
            }
            ["audio", id, length] => {
                self.found.audio.insert(id.to_owned(), number(length)?);
            }
            ["in-progress", id] => self.found.open.push(id.to_owned()),
            ["open"] => return self.compare(),
            ["damaged", ..] | ["refused", ..] => return Err(line.to_owned()),
            // Other lines are those of the test program.
            _ => {}
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<(), String> {
        let found = std::mem::take(&mut self.found);
        for (id, version) in &self.rows {
            match found.rows.get(id) {
                None => return Err(format!("{id} is lost; version {version} was acknowledged")),
                Some(found) if (*version..=version + self.ended).contains(found) => {}
                Some(found) if self.unread && found > version => {}
                Some(found) => return Err(format!("{id} has version {found}, acknowledged was {version}")),
            }
        }
        for (id, length) in &self.audio {
            match found.audio.get(id) {
                Some(found) if found == length => {}
                other => return Err(format!("{id} of {length} bytes was filed; found is {other:?}")),
            }
        }
        if let Some(id) = self.deleted.iter().find(|id| found.audio.contains_key(*id)) {
            return Err(format!("{id} was deleted and is here again"));
        }
        let deleting = std::mem::take(&mut self.deleting);
        self.deleted.extend(deleting.into_iter().filter(|id| !found.audio.contains_key(id)));
        if let Some(id) = found.open.iter().find(|id| self.audio.contains_key(*id)) {
            return Err(format!("{id} was filed and is in progress again"));
        }
        (self.rows, self.audio) = (found.rows, found.audio);
        (self.ended, self.unread) = (0, false);
        Ok(())
    }

    /// A process has ended: all its acknowledgements were taken, or not. A report that it did not finish does not count.
    pub fn ended(&mut self, all_taken: bool) {
        self.ended += 1;
        self.unread |= !all_taken;
        self.found = Found::default();
    }

    /// Number of acknowledgements.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// Purged records, removed blobs, removed packs, and moved bytes.
    pub fn cleaned(&self) -> [u64; 4] {
        self.cleaned
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rows and {} recordings, {} deleted, {} acknowledgements",
            self.rows.len(),
            self.audio.len(),
            self.deleted.len(),
            self.acknowledged
        )
    }
}
