//! The store of a simulated node: the product's journal, layers and runs over a simulated index, without threads. A caller commits
//! its own transaction, and the history says when rows go to the index.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    node_files::NodeFolder,
    node_index::NodeIndex,
    node_platter::{Fault, JOURNAL, NodePlatter, RUNS, Upkeep},
};
use crate::{
    DiskError, Options, Transaction,
    committer::Job,
    engine::Parts,
    flow::Limits,
    health::Health,
    index::Index,
    rows::Rows,
    runs::{Runs, Sizes},
};

/// Short segments and files of runs, which are used again and emptied all the time.
const SEGMENT: u64 = 32 * 1024;
const SIZES: Sizes =
    Sizes { block: 4_000, shortest: 8 * 1024, longest: 32 * 1024, slack: 4 * 1024, moved: 8 * 1024 };

/// Never reached: the history says when rows are applied and flushed.
const LIMITS: Limits = Limits {
    group: usize::MAX,
    apply_at: usize::MAX,
    apply_after: Duration::ZERO,
    held: usize::MAX,
    journal: u64::MAX,
    opening: 512,
};

/// Beginning of the keys of records.
const RECORDS: &[u8] = b"r";

type NodeRows = Rows<NodeIndex, NodeFolder>;

/// An open store. It ends without a last checkpoint.
pub(super) struct NodeDisk {
    dir: PathBuf,
    platter: NodePlatter,
    process: u64,
    rows: Arc<NodeRows>,
    health: Arc<Health>,
    parts: Mutex<Parts<NodeIndex, NodeFolder>>,
}

impl NodeDisk {
    pub(super) fn open(platter: &NodePlatter, dir: &Path, options: Options) -> Result<Arc<Self>, DiskError> {
        let process = platter.process();
        let index = NodeIndex::new(platter, process);
        let runs = match options.appended {
            Some(rows) => {
                let folder = NodeFolder::new(platter, process, RUNS);
                Some(Runs::open(dir, folder, (rows, SIZES), index.noted_runs()?)?)
            }
            None => None,
        };
        let health = Arc::new(Health::new(dir.to_owned()));
        let journal = NodeFolder::new(platter, process, JOURNAL);
        let options = Options { journal_segment_bytes: SEGMENT, ..options };
        let parts = Parts::open(Arc::clone(&health), (index, runs), journal, options, LIMITS)?;
        let (platter, rows) = (platter.clone(), Arc::clone(&parts.rows));
        let disk = Self { dir: dir.to_owned(), platter, process, rows, health, parts: Mutex::new(parts) };
        let disk = Arc::new(disk);
        disk.platter.opened(&disk);
        Ok(disk)
    }

    pub(super) fn rows(&self) -> &Arc<NodeRows> {
        &self.rows
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn broken(&self) -> Option<&str> {
        self.health.failure()
    }

    pub(super) fn mark_broken(&self, detail: &str) {
        self.health.fail(detail.to_owned());
    }

    /// Runs and commits a transaction.
    pub(super) fn commit(&self, job: Box<dyn Job>) {
        let is_ahead = self.platter.state().fault == Fault::IndexAhead;
        let job: Box<dyn Job> = match is_ahead {
            true => Box::new(Ahead { job, platter: self.platter.clone(), process: self.process }),
            false => job,
        };
        self.parts().committer.group(&mut VecDeque::from([job]));
    }

    pub(super) fn tend(&self, upkeep: Upkeep) -> Result<(), DiskError> {
        self.health.check()?;
        let mut parts = self.parts();
        let applier = &mut parts.applier;
        let done = match upkeep {
            Upkeep::Apply => applier.apply(),
            Upkeep::Checkpoint => applier.apply().and_then(|()| applier.checkpoint()),
            Upkeep::Prepare => {
                // After a failure the next commit meets it again.
                let _ = applier.journal.prepare();
                Ok(())
            }
        };
        done.map_err(|error| self.health.fail(error.to_string()))
    }

    fn parts(&self) -> MutexGuard<'_, Parts<NodeIndex, NodeFolder>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NodeDisk {
    fn drop(&mut self) {
        self.platter.closed();
    }
}

/// A transaction of which one record is in the index before the journal has it.
struct Ahead {
    job: Box<dyn Job>,
    platter: NodePlatter,
    process: u64,
}

impl Job for Ahead {
    fn run(&mut self, transaction: &mut Transaction<'_>) -> bool {
        let commits = self.job.run(transaction);
        let records = transaction.writes().iter().filter(|(key, _)| key.starts_with(RECORDS));
        for (key, value) in records.take(usize::from(commits)) {
            NodeIndex::write_ahead(&self.platter, self.process, (key.as_slice(), value.as_deref()));
        }
        commits
    }

    fn finish(self: Box<Self>, outcome: Result<(), DiskError>) {
        self.job.finish(outcome);
    }
}
