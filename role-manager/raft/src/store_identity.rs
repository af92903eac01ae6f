//! Identity of this member in the Raft group, and whether it may take part (rules R4 and R8).
//!
//! A store has a random Raft id, and records its starts. The others remember the latest that they have received. A store
//! that has no record of it has been rolled back (a restored disk) and could vote twice: it takes no part until an
//! administrator removes it and the member joins again. A store that Raft has never written to begins each start with a
//! new id: it may be an image from before its member joined, and voted, under the old one.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use bytes::Bytes;
use tokio::sync::watch;
use twinbox_clock::BootInstant;
use twinbox_disk::{Disk, DiskError, TransactError, Transaction};
use twinbox_ids::Incarnation;
use twinbox_roles_core::{SoloRecord, Timing};

use super::{RaftConfig, Start, StoreError, store};

const OWNER: &[u8] = b"member/name";
const RAFT_ID: &[u8] = b"member/raft-id";
const RUN: &[u8] = b"member/run";
/// The last starts of this store ([`Start::to_record`]).
const STARTS: &[u8] = b"member/starts";
const GROUP: &[u8] = b"member/group";
const REMEMBERED: &[u8] = b"seen/";
/// Notice, as text, that this store's member was removed from its cluster.
const REMOVED: &[u8] = b"member/removed";

/// Notice, as text, that this store was rolled back: without it the next start would count one more, and pass for a
/// later one.
const QUARANTINE: &[u8] = b"member/set-back";

/// Solo record of this node (rule R7), as JSON.
const SOLO: &[u8] = b"member/solo";

/// Length of a group's id, in bytes.
const GROUP_BYTES: usize = 16;

/// A new store of a new group, in place of the present one.
#[derive(Debug, Clone)]
pub(crate) struct NewGroupStore {
    pub(crate) raft_id: u64,
    pub(crate) group: Bytes,
    start: Start,
}

impl NewGroupStore {
    /// Writes it, in the transaction that removes the log of the former group.
    pub(crate) fn write(&self, t: &mut Transaction<'_>) -> Result<(), DiskError> {
        t.put(RAFT_ID, self.raft_id.to_be_bytes())?;
        write_start(t, &self.start)?;
        t.put(GROUP, self.group.to_vec())
    }
}

/// Comparison with another member's remembered start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remembered {
    /// The start is remembered now.
    Confirmed,
    /// A start is known that the store has no record of.
    Behind {
        /// The known run number.
        known: u64,
    },
}

/// Store identity of this member, and whether it may take part.
pub struct StoreIdentity {
    disk: Disk,
    timing: Timing,
    incarnation: Incarnation,
    stopped: AtomicBool,
    /// It takes no part for a while: it is about to leave its group.
    held: AtomicBool,
    inner: Mutex<Inner>,
    /// Counts changes of [`Self::obstacle`] and [`Self::may_take_part`].
    changed: watch::Sender<u64>,
}

struct Inner {
    /// This store in its group, and its last start.
    raft_id: u64,
    start: Start,
    group: Option<Bytes>,
    /// Start of this process, or of the Raft core in it.
    since: BootInstant,
    confirmed: bool,
    quarantine: Option<String>,
    removed: Option<String>,
}

impl StoreIdentity {
    /// Reads the identity from the store, and counts the start.
    pub async fn open(config: &RaftConfig, disk: Disk) -> Result<Self, StoreError> {
        let unreadable = |what| {
            let dir = disk.dir().to_owned();
            StoreError::Unreadable { dir, what, detail: "it has the wrong length".to_owned() }
        };
        if let Some(owner) = disk.get(OWNER)?.filter(|owner| *owner != config.node.as_str().as_bytes()) {
            return Err(StoreError::ForeignStore {
                dir: disk.dir().to_owned(),
                owner: String::from_utf8_lossy(&owner).into_owned(),
                node: config.node.clone(),
            });
        }
        if let Some(reason) = disk.get(REMOVED)? {
            let reason = String::from_utf8_lossy(&reason).into_owned();
            return Err(StoreError::Removed { dir: disk.dir().to_owned(), reason });
        }
        let number = |value: Option<Vec<u8>>, what| match value {
            None => Ok::<_, StoreError>(None),
            Some(bytes) => Ok(Some(u64::from_be_bytes(bytes.try_into().map_err(|_| unreadable(what))?))),
        };
        let known = number(disk.get(RAFT_ID)?, "Raft id")?;
        let unused = store::is_unused(&disk)?;
        let (raft_id, start, group) = match known.filter(|_| !unused) {
            Some(raft_id) => {
                let run = number(disk.get(RUN)?, "run number")?.unwrap_or(0);
                let start = Start::after(run, disk.get(STARTS)?.as_deref(), config.incarnation);
                (raft_id, start, disk.get(GROUP)?.map(Bytes::from))
            }
            // This store has promised nothing: it counts as new, whichever group was about to admit it.
            None => (new_raft_id(), Start::first(config.incarnation), None),
        };
        let quarantine = disk.get(QUARANTINE)?.map(|reason| String::from_utf8_lossy(&reason).into_owned());
        let (owner, present) = (config.node.as_str().to_owned(), start.clone());
        let written = disk.transact(move |t: &mut Transaction<'_>| -> Result<(), DiskError> {
            t.put(OWNER, owner)?;
            if unused {
                t.remove(GROUP);
            }
            t.put(RAFT_ID, raft_id.to_be_bytes())?;
            write_start(t, &present)
        });
        written.await.map_err(disk_error)?;
        Ok(Self {
            timing: config.timing,
            incarnation: config.incarnation,
            stopped: AtomicBool::new(false),
            held: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                raft_id,
                start,
                group,
                since: BootInstant::now(),
                confirmed: false,
                quarantine,
                removed: None,
            }),
            changed: watch::Sender::new(0),
            disk,
        })
    }

    /// The Raft id of this store.
    pub fn raft_id(&self) -> u64 {
        self.inner().raft_id
    }

    /// Number of starts of this store, this one included.
    pub fn run(&self) -> u64 {
        self.inner().start.run
    }

    /// This start of this store, as it is announced.
    pub fn start(&self) -> Start {
        self.inner().start.clone()
    }

    /// The incarnation of this process.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Timing of the cluster.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// The group that this store belongs to, if any.
    pub fn group(&self) -> Option<Bytes> {
        self.inner().group.clone()
    }

    pub(crate) fn group_and_id(&self) -> (Bytes, u64) {
        let inner = self.inner();
        (inner.group.clone().unwrap_or_default(), inner.raft_id)
    }

    /// Assigns this store to a group; durable when it returns. The store leaves it only to go on alone, as another
    /// store.
    pub async fn adopt(&self, group: Bytes) -> Result<(), DiskError> {
        if group.len() != GROUP_BYTES || self.group().is_some() {
            return Ok(());
        }
        let value = group.to_vec();
        self.disk.transact(move |t| t.put(GROUP, value)).await.map_err(disk_error)?;
        self.inner().group = Some(group);
        self.note_change();
        Ok(())
    }

    /// Id of a new group.
    pub fn new_group() -> Bytes {
        Bytes::copy_from_slice(&rand::random::<u128>().to_be_bytes())
    }

    /// A new store of a new group, in place of this one.
    pub(crate) fn new_group_store(&self) -> NewGroupStore {
        let start = Start::first(self.incarnation);
        NewGroupStore { raft_id: new_raft_id(), group: Self::new_group(), start }
    }

    /// The store written by [`NewGroupStore::write`] is on disk: from here on this is that store. No other member can
    /// know a later start.
    pub(crate) fn switch_to(&self, store: NewGroupStore) {
        let mut inner = self.inner();
        (inner.raft_id, inner.start, inner.group, inner.confirmed) =
            (store.raft_id, store.start, Some(store.group), true);
        drop(inner);
        self.note_change();
    }

    /// Suspends or resumes this member's part in its group: while held, it has no leases and does no work.
    pub fn hold(&self, held: bool) {
        self.held.store(held, SeqCst);
        self.note_change();
    }

    /// Whether this member's part is suspended.
    pub fn is_held(&self) -> bool {
        self.held.load(SeqCst)
    }

    /// Reason, as text, that makes this store unfit to go on with, even on an administrator's order.
    pub fn unfit(&self) -> Option<String> {
        let inner = self.inner();
        let not_joined = || inner.group.is_none().then(|| "this node has not joined the cluster yet".to_owned());
        inner.removed.clone().or_else(|| inner.quarantine.clone()).or_else(not_joined)
    }

    /// Remembers the start that another member announces of its store. Durable when confirmed.
    pub async fn remember(&self, raft_id: u64, start: Start) -> Result<Remembered, DiskError> {
        let key = [REMEMBERED, &raft_id.to_be_bytes()].concat();
        let remembering = self.disk.transact(move |t| -> Result<Remembered, DiskError> {
            let announced = start.to_memory();
            match t.get(&key)? {
                Some(known) if known == announced => {}
                Some(known) if !start.follows(&known) => {
                    return Ok(Remembered::Behind { known: Start::remembered_run(&known) });
                }
                _ => t.put(key, announced)?,
            }
            Ok(Remembered::Confirmed)
        });
        remembering.await.map_err(disk_error)
    }

    /// The stored solo record of this or an earlier incarnation. An unreadable record counts as if it had acted in
    /// every epoch: the node must not go on then.
    pub fn solo(&self) -> Result<Option<SoloRecord>, StoreError> {
        let Some(bytes) = self.disk.get(SOLO)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| StoreError::Unreadable {
            dir: self.disk.dir().to_owned(),
            what: "solo record",
            detail: error.to_string(),
        })
    }

    /// Stores the solo record. Durable when it returns.
    pub async fn save_solo(&self, record: &SoloRecord) -> Result<(), String> {
        let bytes = serde_json::to_vec(record).map_err(|error| error.to_string())?;
        let writing =
            self.disk.transact(move |t: &mut Transaction<'_>| -> Result<(), DiskError> { t.put(SOLO, bytes) });
        writing.await.map_err(|error| disk_error(error).to_string())
    }

    /// A majority has confirmed the run number, or nothing was promised in this store.
    pub fn confirm(&self) {
        let mut inner = self.inner();
        if !std::mem::replace(&mut inner.confirmed, true) {
            drop(inner);
            self.note_change();
        }
    }

    /// Another member knows a start that this store has no record of. Takes effect immediately, and is stored for later starts.
    pub async fn quarantine(&self, reason: String) {
        if self.inner().quarantine.is_some() {
            return;
        }
        tracing::error!(%reason, "this member takes no part in its group");
        self.inner().quarantine = Some(reason.clone());
        self.note_change();
        if let Err(error) = self.disk.transact(move |t| t.put(QUARANTINE, reason)).await.map_err(disk_error) {
            tracing::warn!(%error, "cannot store the notice that this store was rolled back; check the disk");
        }
    }

    /// The cluster has removed this member. Stored: this store takes part in nothing any more, and no later process
    /// starts with it.
    pub async fn remove(&self, reason: String) {
        if self.is_removed() {
            return;
        }
        tracing::error!(%reason, "this member has been removed");
        let notice = reason.clone();
        if let Err(error) = self.disk.transact(move |t| t.put(REMOVED, notice)).await.map_err(disk_error) {
            tracing::warn!(%error, "cannot store the notice that this member was removed; check the disk");
        }
        self.inner().removed = Some(reason);
        self.note_change();
    }

    /// Whether the cluster has removed this member.
    pub fn is_removed(&self) -> bool {
        self.inner().removed.is_some()
    }

    /// Whether this member may answer Raft calls and make them.
    pub fn may_take_part(&self) -> bool {
        let inner = self.inner();
        #[cfg(feature = "simulation")]
        if crate::simulation::breaks(crate::simulation::Broken::Confirmation) {
            return !self.stopped.load(SeqCst);
        }
        let excluded = inner.quarantine.is_some() || inner.removed.is_some();
        inner.confirmed && !excluded && !self.is_held() && !self.stopped.load(SeqCst)
    }

    /// Whether this voter may vote and stand: not before E(1+ρ) after its start (rule R4).
    pub fn may_vote(&self) -> bool {
        self.may_take_part() && self.inner().since.elapsed() >= self.timing.silence_after_start()
    }

    /// The Raft core in this process starts again, and knows no more than a new process would.
    pub(crate) fn core_started(&self) {
        self.inner().since = BootInstant::now();
    }

    /// Reason, as text, that keeps this member out; empty if there is none.
    pub fn obstacle(&self) -> String {
        let inner = self.inner();
        match (inner.removed.as_ref().or(inner.quarantine.as_ref()), &inner.group, inner.confirmed) {
            (Some(reason), ..) => reason.clone(),
            (None, None, _) => "it has not joined the cluster yet".to_owned(),
            (None, Some(_), false) => "no majority has confirmed yet that its store is the latest".to_owned(),
            _ if self.is_held() => "it is about to go on alone by an administrator's order".to_owned(),
            _ => String::new(),
        }
    }

    /// Ends this process's part.
    pub fn stop(&self) {
        self.stopped.store(true, SeqCst);
        self.note_change();
    }

    /// Whether this process's part has ended.
    pub fn stopped(&self) -> bool {
        self.stopped.load(SeqCst)
    }

    /// Changes with [`Self::obstacle`], [`Self::may_take_part`] and [`Self::stopped`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn note_change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_start(t: &mut Transaction<'_>, start: &Start) -> Result<(), DiskError> {
    t.put(RUN, start.run.to_be_bytes())?;
    t.put(STARTS, start.to_record())
}

/// Zero is protobuf's default and would be omitted.
fn new_raft_id() -> u64 {
    rand::random::<u64>().max(1)
}

fn disk_error(error: TransactError<DiskError>) -> DiskError {
    match error {
        TransactError::Refused(error) | TransactError::Disk(error) => error,
    }
}
