//! The one ordered channel from a store to its streams: chunks, discards and changes in the order in which they were
//! recorded and became durable, so that the chunks of a recording come before the change that files it.
//!
//! Entries are held until every reader has taken them, up to a limit of bytes. A reader that falls behind the oldest one
//! gets [`Overtaken`], and reads the rest from the log and from the recordings.
//!
//! Entries are gathered for [`GATHERED`], unless a caller waits until the peers have them ([`Feed::urge`]): nothing waits for chunks, nor
//! for the change that begins a recording.
//!
//! [`Queue`] is the way into the store for such chunks: to the thread that appends them. [`LiveChanges`] are the changes for the
//! parts of the process.

mod live;
mod queue;

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::Notify,
    time::{Sleep, sleep},
};
use twinbox_ids::Origin;
use twinbox_replication_codec as codec;
use twinbox_replication_core::{Change, tails::Take};

pub use self::{
    live::{LiveChanges, LiveError, LiveReader},
    queue::{Batches, Ended, Queue},
};

/// Maximum bytes that a store holds for readers that are behind: five seconds of 400 recordings.
pub const HELD_BYTES: usize = 16 * 1024 * 1024;

/// Time for which a reader gathers entries. Each waking of a stream costs more than the audio of one: a wake-up, a record of TLS and
/// a packet on both nodes. A node that dies loses this much more of a recording.
pub const GATHERED: Duration = Duration::from_millis(20);

/// Bytes that an entry counts in addition to its audio or change.
const ENTRY_BYTES: usize = 128;

/// An entry of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedEntry {
    /// A chunk was recorded here (not received from a peer) and is written, though not yet durable. After a failure of the disk
    /// this node lacks it, and only its peers get it (rule A4).
    Chunk {
        /// The recording and its take.
        take: Take,
        /// Offset of the chunk, in bytes.
        offset: u64,
        /// The audio.
        bytes: Bytes,
    },
    /// A take that was in progress here was discarded, by this node or by a peer through this node.
    Discarded {
        /// The recording and its take.
        take: Take,
    },
    /// A change that was made or applied here is durable.
    Change(Arc<FeedChange>),
}

/// A change as the streams need it, encoded once for all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedChange {
    /// The incarnation of the store that made it.
    pub origin: Origin,
    /// Its number in that incarnation.
    pub seq: u64,
    /// The takes whose audio it names.
    pub takes: Vec<Take>,
    /// The encoded change.
    pub bytes: Bytes,
}

impl FeedEntry {
    fn size(&self) -> usize {
        ENTRY_BYTES
            + match self {
                Self::Chunk { bytes, .. } => bytes.len(),
                Self::Discarded { .. } => 0,
                Self::Change(change) => change.bytes.len() + change.takes.len() * size_of::<Take>(),
            }
    }
}

impl From<&Change> for FeedEntry {
    fn from(change: &Change) -> Self {
        let takes = change.delta.blobs().filter_map(|blob| blob.recording).collect();
        let bytes = codec::change_to_bytes(change).into();
        Self::Change(Arc::new(FeedChange { origin: change.origin, seq: change.seq, takes, bytes }))
    }
}

/// Entries were dropped before the reader took them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reader fell behind the oldest entry of the feed")]
pub struct Overtaken;

/// The entries of a store in their order. Clones share them.
#[derive(Clone)]
pub struct Feed(Arc<Inner>);

struct Inner {
    /// Maximum bytes of all entries.
    limit: usize,
    state: Mutex<State>,
    /// Notified when entries were appended.
    appended: Notify,
    /// Notified when a caller waits for the peers.
    urged: Notify,
}

/// The entries with their positions: the position of an entry is the number of entries before it.
#[derive(Default)]
struct State {
    entries: VecDeque<FeedEntry>,
    /// Position of the first entry that is held.
    first: u64,
    /// Bytes of the entries.
    bytes: usize,
    /// Position behind the last entry for which a caller waits.
    urgent: u64,
    /// For each reader the position of the next entry that it takes.
    positions: BTreeMap<u64, u64>,
    last_reader: u64,
}

impl Feed {
    /// An empty feed that holds at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Inner { limit, state: Mutex::default(), appended: Notify::new(), urged: Notify::new() }))
    }

    /// Appends entries, with one wake-up for each reader that waits. Nothing is held when there are no readers.
    pub fn append(&self, entries: Vec<FeedEntry>) {
        let mut state = self.state();
        if state.positions.is_empty() || entries.is_empty() {
            return;
        }
        for entry in entries {
            state.bytes += entry.size();
            state.entries.push_back(entry);
            while state.bytes > self.0.limit {
                state.drop_first();
            }
        }
        drop(state);
        self.0.appended.notify_waiters();
    }

    /// Ends the gathering of all entries that are here: a caller waits until the peers have them.
    pub fn urge(&self) {
        let mut state = self.state();
        let end = state.end();
        if std::mem::replace(&mut state.urgent, end) < end {
            drop(state);
            self.0.urged.notify_waiters();
        }
    }

    /// Appends durable changes. Without readers they are not even encoded: a later reader reads the store after it has
    /// begun, and finds them there.
    pub fn append_changes(&self, changes: &[Change]) {
        let has_readers = !self.state().positions.is_empty();
        if has_readers {
            self.append(changes.iter().map(FeedEntry::from).collect());
        }
    }

    /// A reader of all entries from now on.
    pub fn reader(&self) -> FeedReader {
        let mut state = self.state();
        state.last_reader += 1;
        let (number, position) = (state.last_reader, state.end());
        state.positions.insert(number, position);
        FeedReader { feed: self.clone(), number, position, gathering: None }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is complete before the lock is released.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Position of the next entry to be appended.
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn untaken(&self, position: u64) -> Untaken {
        match position {
            position if position >= self.end() => Untaken::Nothing,
            position if position >= self.urgent => Untaken::Gathering,
            _ => Untaken::Urgent,
        }
    }

    fn drop_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.size();
            self.first += 1;
        }
    }

    /// Drops the entries that every reader has taken.
    fn release(&mut self) {
        let needed = self.positions.values().copied().min().unwrap_or_else(|| self.end());
        while self.first < needed {
            self.drop_first();
        }
    }
}

/// A reader of a feed.
pub struct FeedReader {
    feed: Feed,
    number: u64,
    /// Position of the next entry.
    position: u64,
    /// The time of the gathering, from the first look that finds entries until all are taken.
    gathering: Option<Pin<Box<Sleep>>>,
}

/// Entries that a reader has not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Untaken {
    Nothing,
    Gathering,
    Urgent,
}

impl FeedReader {
    /// Adds the next entries to `taken`, in order: all that are there, or the first of them that together have `limit`
    /// bytes or more. A reader that was overtaken gets the error once, and continues with the oldest entry that is held.
    pub fn take(&mut self, limit: usize, taken: &mut Vec<FeedEntry>) -> Result<(), Overtaken> {
        let mut state = self.feed.state();
        let Some(skip) = self.position.checked_sub(state.first) else {
            self.position = state.first;
            state.positions.insert(self.number, self.position);
            return Err(Overtaken);
        };
        let mut bytes = 0;
        for entry in state.entries.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX)) {
            if bytes >= limit {
                break;
            }
            bytes += entry.size();
            taken.push(entry.clone());
            self.position += 1;
        }
        if self.position == state.end() {
            self.gathering = None;
        }
        state.positions.insert(self.number, self.position);
        state.release();
        Ok(())
    }

    /// Waits until [`Self::take`] has entries that were gathered, or for which a caller waits. Dropping the future loses nothing: the gathering
    /// continues.
    pub async fn ready(&mut self) {
        loop {
            // Subscribed before the look at the entries, so that no later append is missed.
            let (appended, urged) = (self.feed.0.appended.notified(), self.feed.0.urged.notified());
            let untaken = self.feed.state().untaken(self.position);
            match untaken {
                Untaken::Nothing => appended.await,
                Untaken::Gathering => {
                    let gathering = self.gathering.get_or_insert_with(|| Box::pin(sleep(GATHERED)));
                    tokio::select! {
                        () = urged => {}
                        () = gathering => return,
                    }
                }
                Untaken::Urgent => return,
            }
        }
    }
}

impl Drop for FeedReader {
    fn drop(&mut self) {
        let mut state = self.feed.state();
        state.positions.remove(&self.number);
        state.release();
    }
}
