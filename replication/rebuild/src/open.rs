//! Opening a store, and building it again when its index is damaged.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use tokio::runtime::Handle;
use twinbox_clock::wall;
use twinbox_disk::{Disk, DiskError, Findings, salvage, set_aside};
use twinbox_ids::ClusterId;
use twinbox_replication_core::{Change, CommitAssembly};
use twinbox_replication_store::{
    Store, StoreConfig, StoreError,
    salvage::{PREFIXES, Salvage, put_floor, read},
};

use crate::{audio, folder};

/// Changes that are applied together.
const TOGETHER: usize = 512;

/// The store is neither opened nor built again.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store is damaged, and cannot be set aside.
    #[error("{damage}; it cannot be set aside either ({source}): move '{}' to another place, and start again", index.display())]
    Stuck {
        /// The damage.
        damage: Box<StoreError>,
        /// The folder of its index.
        index: PathBuf,
        /// The reason.
        source: DiskError,
    },
    /// The index was set aside, and what it still has cannot be taken over.
    #[error("changes of '{}' cannot be taken over: {source}; the next start tries again", folder.display())]
    Unsalvaged {
        /// The folder that was set aside.
        folder: PathBuf,
        /// The reason.
        source: StoreError,
    },
    /// Data that is to be overwritten is not there.
    #[error("'{}' does not exist: there is no data to overwrite", index.display())]
    NoData {
        /// The folder of the index.
        index: PathBuf,
    },
    /// Data that is to be overwritten is of another cluster: nothing of it belongs to this one.
    #[error("the data is of cluster {found}, not of {expected}: nothing was changed")]
    OtherCluster {
        /// The cluster of the data.
        found: ClusterId,
        /// The cluster of the node.
        expected: ClusterId,
    },
    /// The runtime has ended.
    #[error("the start was interrupted")]
    Interrupted,
}

/// Data taken over from a folder that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenOver {
    /// Number of changes.
    pub changes: u64,
    /// Number of recordings, or other pieces of audio, that were found in the packs.
    pub audio: u64,
    /// Readable parts.
    pub findings: Findings,
}

impl TakenOver {
    /// True when nothing of the index and its journal was unreadable.
    pub fn is_whole(&self) -> bool {
        let Findings { index, journal } = &self.findings;
        index.is_none() && journal.gaps == 0 && journal.unreadable == 0
    }
}

impl fmt::Display for TakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { changes, audio, findings: Findings { index, journal } } = self;
        let index = index.as_ref().map_or("the index was read".to_owned(), |error| format!("index: {error}"));
        let missing = match (journal.gaps, journal.unreadable) {
            (0, 0) => String::new(),
            (gaps, files) => format!(", with {gaps} gaps and {files} unreadable files"),
        };
        let batches = journal.batches;
        write!(
            f,
            "{changes} changes taken over; journal: {batches} batches{missing}; {audio} recordings found; {index}"
        )
    }
}

/// Data that was set aside by order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overwritten {
    /// The folder of the old index.
    pub folder: PathBuf,
    /// Its data in the new store.
    pub taken_over: TakenOver,
    /// Number of older changes that had left the log: what no other node has of them is in the old folder only. `None` if the
    /// old index could not be opened.
    pub cut: Option<u64>,
}

/// Opens a store. If its index is damaged, sets it aside, opens a new one, and takes over the changes that the old one and
/// its journal still have, and the audio in the packs. The new store is not complete: it fills from the other nodes.
/// [`crate::find`] names the folders that were set aside. Runs within a runtime of several threads.
pub async fn open(config: StoreConfig) -> Result<Store, RebuildError> {
    let runtime = Handle::current();
    let opened = tokio::task::spawn_blocking(move || open_blocking(&config, &runtime)).await;
    opened.unwrap_or(Err(RebuildError::Interrupted))
}

fn open_blocking(config: &StoreConfig, runtime: &Handle) -> Result<Store, RebuildError> {
    let index = config.dir.join("db");
    let opened = match attempt(config, &index, runtime) {
        Err(RebuildError::Store(damage)) if damage.is_damage() => {
            tracing::error!(error = %damage, "the store cannot be opened: it is built again");
            set_aside(&index, wall().0).map_err(|source| RebuildError::Stuck {
                damage: Box::new(damage),
                index: index.clone(),
                source,
            })?;
            attempt(config, &index, runtime)
        }
        opened => opened,
    };
    opened.map(|(store, _)| store)
}

/// Sets the index of a node that does not run aside, whether it is damaged or not, and takes over to a new one the changes that it
/// still has, and the audio in the packs. The node fills from the others at its next start, and sends them what they lack of the
/// changes (rule D2). The next start continues what was interrupted. Runs within a runtime of several threads.
pub async fn overwrite(config: StoreConfig, cluster: ClusterId) -> Result<Overwritten, RebuildError> {
    let runtime = Handle::current();
    let done = tokio::task::spawn_blocking(move || overwrite_blocking(&config, cluster, &runtime)).await;
    done.unwrap_or(Err(RebuildError::Interrupted))
}

fn overwrite_blocking(
    config: &StoreConfig,
    cluster: ClusterId,
    runtime: &Handle,
) -> Result<Overwritten, RebuildError> {
    let index = config.dir.join("db");
    if !index.is_dir() {
        return Err(RebuildError::NoData { index });
    }
    // A store that an earlier attempt has set aside comes first: it is a part of this data.
    let cut = match attempt(config, &index, runtime) {
        Ok((store, _)) => {
            if let Some(found) = store.cluster_id().filter(|found| *found != cluster) {
                return Err(RebuildError::OtherCluster { found, expected: cluster });
            }
            Some(store.log_begins().total())
        }
        Err(RebuildError::Store(damage)) if damage.is_damage() => None,
        Err(error) => return Err(error),
    };
    let folder = set_aside(&index, wall().0).map_err(StoreError::from)?;
    let (_, taken_over) = attempt(config, &index, runtime)?;
    let taken_over = taken_over.ok_or(RebuildError::NoData { index })?;
    Ok(Overwritten { folder, taken_over, cut })
}

/// Opens the store, and takes over what was set aside; with what came from the last of these folders.
fn attempt(
    config: &StoreConfig,
    index: &Path,
    runtime: &Handle,
) -> Result<(Store, Option<TakenOver>), RebuildError> {
    let pending = pending(index)?;
    if pending.is_empty() {
        return Ok((Store::open(config.clone())?, None));
    }
    let audio = prepare(config, index, &pending)?;
    let store = Store::open(config.clone())?;
    let mut last = None;
    for folder in pending {
        let taken = take_over(&store, &folder, runtime);
        let (findings, changes) =
            taken.map_err(|source| RebuildError::Unsalvaged { folder: folder.clone(), source })?;
        let taken = TakenOver { changes, audio, findings };
        let text = taken.to_string();
        tracing::warn!(folder = %folder.display(), text, "taken over from the old index");
        folder::note(&folder, &text).map_err(StoreError::from)?;
        last = Some(taken);
    }
    Ok((store, last))
}

/// The folders from which not all was taken over.
fn pending(index: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let found = folder::find(index)?.into_iter().filter(|found| found.taken_over.is_none());
    Ok(found.map(|found| found.folder).collect())
}

/// Writes to the new index, before it is opened as a store, where takes in progress begin and what audio is here; returns
/// the number of pieces of audio.
fn prepare(config: &StoreConfig, index: &Path, pending: &[PathBuf]) -> Result<u64, StoreError> {
    let disk = Disk::open(index)?;
    let mut floor = None;
    for folder in pending {
        salvage(folder, &PREFIXES, |pair| {
            if let Some(Salvage::Floor(pack)) = read(&pair) {
                floor = floor.max(Some(pack));
            }
        });
    }
    if let Some(floor) = floor {
        put_floor(&disk, floor)?;
    }
    audio::find(&config.dir, &disk, wall())
}

/// Applies the changes of a folder to the store, as changes of any origin: a prefix rises only over those that are here.
fn take_over(store: &Store, folder: &Path, runtime: &Handle) -> Result<(Findings, u64), StoreError> {
    let (mut waiting, mut count, mut failure) = (Vec::with_capacity(TOGETHER), 0, None);
    let mut apply = |changes: Vec<Change>| {
        if failure.is_none() {
            count += changes.iter().filter(|change| !store.has(change.origin, change.seq)).count() as u64;
            failure = runtime.block_on(store.apply(changes)).err();
        }
    };
    let mut assembly = CommitAssembly::default();
    let missing = |origin, from| store.first_missing(origin, from);
    let findings = salvage(folder, &PREFIXES, |pair| {
        if let Some(Salvage::Change(change)) = read(&pair)
            && !store.has(change.origin, change.seq)
            && let Some(commit) = assembly.take(*change, pair.1.len(), missing)
        {
            waiting.extend(commit);
        }
        if waiting.len() >= TOGETHER {
            apply(std::mem::take(&mut waiting));
        }
    });
    apply(waiting);
    // The rest of their commits is destroyed here: unless another node has it, they are all that is left.
    apply(assembly.into_remains());
    failure.map_or(Ok((findings, count)), Err)
}
