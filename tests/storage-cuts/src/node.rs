//! A node: its disk, its store while a process runs, and its writers that wait for an acknowledgement.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use twinbox_disk::simulation::{NodePlatter, ProcessEnd};
use twinbox_ids::NodeName;
use twinbox_replication_core::ack::{Acknowledgement, Input, Output, Tracker, WriteId};
use twinbox_replication_store::{Committed, Store, StoreConfig};

use crate::{
    clock,
    finding::Finding,
    model::{Owed, Write},
};

/// Time after which a writer does not wait for the other node any more, in milliseconds.
pub(crate) const TIMEOUT_MS: u64 = 250;

pub(crate) struct Node {
    pub(crate) name: NodeName,
    dir: PathBuf,
    pub(crate) platter: NodePlatter,
    /// `None` while no process runs.
    pub(crate) store: Option<Store>,
    pub(crate) acks: Acks,
    pub(crate) owed: Owed,
    /// The pack with which compaction goes on.
    pub(crate) cursor: u32,
}

impl Node {
    pub(crate) fn new(name: &str, root: &Path, seed: u64) -> Self {
        let dir = root.join(name);
        // The store asks its file system for free space. Its files are simulated.
        fs::create_dir(&dir).expect("a folder");
        let platter = NodePlatter::new(seed);
        platter.mount(&dir);
        let name = name.parse().expect("a node name");
        Self { name, dir, platter, store: None, acks: Acks::new(), owed: Owed::default(), cursor: 0 }
    }

    /// The store of the process that runs.
    pub(crate) fn store(&self) -> Result<Store, Finding> {
        self.store.clone().ok_or_else(|| Finding::unexpected(format!("node {} is down", self.name)))
    }

    /// The process has ended, and its store is still there.
    pub(crate) fn has_ended(&self) -> bool {
        self.store.is_some() && self.platter.is_dead()
    }

    /// Starts a process, which may end in any call. There is no store if it ended before that was open.
    pub(crate) fn start(&mut self, ends: Option<(u64, ProcessEnd)>) -> Result<(), Finding> {
        self.platter.start(ends);
        let config = StoreConfig { dir: self.dir.clone(), node: self.name.clone(), reserve_bytes: 1 };
        match Store::open(config) {
            Ok(store) => self.store = Some(store),
            Err(_) if self.platter.is_dead() => self.close()?,
            Err(error) => {
                return Err(Finding::from(error).with_place(&format!("node {} does not open", self.name)));
            }
        }
        Ok(())
    }

    /// Drops the store of the process, and waits until its disk is closed.
    pub(crate) fn close(&mut self) -> Result<(), Finding> {
        (self.store, self.acks, self.cursor) = (None, Acks::new(), 0);
        if self.platter.wait_closed() {
            Ok(())
        } else {
            Err(Finding::unexpected(format!("the store of node {} does not close", self.name)))
        }
    }

    /// Lets the thread of the recordings do all that it has to do.
    pub(crate) async fn settle(&self) -> Result<(), Finding> {
        match &self.store {
            Some(store) => settle(store).await,
            None => Ok(()),
        }
    }
}

/// Lets the thread of the recordings do all that it has to do: it does some of it behind its answers, and the next commit stores the
/// first pack that a start must scan as that thread has set it. Then a seed determines the calls of the disk.
pub(crate) async fn settle(store: &Store) -> Result<(), Finding> {
    for _ in 0..2 {
        store.recordings().written().await?;
    }
    Ok(())
}

/// The writers of a node that wait for the other one.
pub(crate) struct Acks {
    tracker: Tracker,
    waiting: BTreeMap<WriteId, Write>,
    last: WriteId,
}

impl Acks {
    fn new() -> Self {
        Self { tracker: Tracker::new(TIMEOUT_MS), waiting: BTreeMap::new(), last: 0 }
    }

    /// A write is durable here. Returns the writes that are acknowledged now.
    pub(crate) fn written(&mut self, write: Write, committed: &Committed) -> Vec<(Write, Acknowledgement)> {
        self.last += 1;
        self.waiting.insert(self.last, write);
        let Committed { first, last, .. } = *committed;
        self.input(Input::Written { id: self.last, first, last, within: TIMEOUT_MS })
    }

    /// The same after another event.
    pub(crate) fn input(&mut self, input: Input) -> Vec<(Write, Acknowledgement)> {
        let outputs = self.tracker.handle(input, clock::now_ms());
        let acknowledged = outputs.into_iter().filter_map(|output| match output {
            Output::Acknowledged { id, acknowledgement } => Some((self.waiting.remove(&id)?, acknowledgement)),
            Output::Counts { .. } | Output::Dropped { .. } => None,
        });
        acknowledged.collect()
    }
}
