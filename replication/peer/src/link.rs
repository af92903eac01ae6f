//! State of one peer on this node: the stream on which it follows, and the changes that it has.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use twinbox_clock::BootInstant;
use twinbox_ids::{NodeName, Origin};
use twinbox_replication_core::{Holdings, Vector};

use crate::{config::limits, fill::Source, frames::Runs};

/// The number of a stream, counted in this process.
pub(crate) type StreamNumber = u64;

pub(crate) struct Link {
    pub(crate) name: NodeName,
    address: watch::Sender<String>,
    /// True while this node follows the peer.
    pub(crate) following: AtomicBool,
    /// The peer, by its last report, lacks data from before its first fill.
    pub(crate) lacks_data: AtomicBool,
    /// The peer, by its last report, still fills, or lacks changes of a member that was away in its first fill.
    pub(crate) fill_missed: AtomicBool,
    /// The next probe is to ask the peer for a report of all its changes.
    pub(crate) report_wanted: AtomicBool,
    /// Number of the peer's latest scan of all rows.
    pub(crate) scan: AtomicU64,
    /// The peer has connected to this node, or has another address: it can be reached again.
    pub(crate) back: Notify,
    /// Bytes of frames to the peer, and from it.
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    /// Slots of the answers to this peer, for blobs and comparisons. Each peer has its own: none waits for answers to another,
    /// which may read slowly or not at all.
    pub(crate) serving: Semaphore,
    /// Slots of the repairs for this peer. They wait for changes and audio: in slots of their own they hold up no delivery.
    pub(crate) repairing: Semaphore,
    /// The peer is no member any more.
    retired: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The stream on which the peer follows, while it does.
    stream: Option<Stream>,
    last_number: StreamNumber,
    /// The changes that the peer is known to have. Outlives the stream, to show the lag of an absent peer.
    has: Holdings,
    last_heard: Option<BootInstant>,
    /// All changes that the peer, by its own report, had at one moment of its latest stream.
    report: Option<Arc<Holdings>>,
    /// The latest report whose lost audio was looked for here, and the number of these blobs that are whole here.
    looked: Option<(Arc<Holdings>, u64)>,
    /// That of the latest report is being looked for.
    is_looking: bool,
    /// The incarnation of the peer's store by its latest greeting as a source.
    welcomed: Option<Origin>,
    /// The incarnation of the peer's store, and the number of changes that it has reported as made.
    made: Option<(Origin, u64)>,
    /// The peer's wall clock as last reported on its latest stream, and the time of that report here.
    clock: Option<(u64, BootInstant)>,
    /// The peer's state for the fill of this node, while this node follows it.
    source: Option<Source>,
    /// Reason for which the fill of this node continues without the peer, if it does.
    stuck: Option<String>,
}

struct Stream {
    number: StreamNumber,
    /// The incarnation of the peer's store that opened the stream.
    origin: Origin,
    /// Changes that have been sent to the peer, or need not be sent.
    sent: Holdings,
    ended: CancellationToken,
}

impl State {
    /// See [`Link::report`].
    fn report(&self) -> Option<&Arc<Holdings>> {
        let stream = self.stream.as_ref()?;
        self.report.as_ref().filter(|_| self.welcomed.is_none_or(|origin| origin == stream.origin))
    }
}

impl Link {
    pub(crate) fn new(name: NodeName, address: String) -> Self {
        Self {
            name,
            address: watch::Sender::new(address),
            following: AtomicBool::new(false),
            lacks_data: AtomicBool::new(false),
            fill_missed: AtomicBool::new(false),
            report_wanted: AtomicBool::new(false),
            scan: AtomicU64::new(0),
            back: Notify::new(),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            serving: Semaphore::new(limits::SERVED),
            repairing: Semaphore::new(limits::REPAIRS),
            retired: CancellationToken::new(),
            state: Mutex::default(),
        }
    }

    /// The address to which this node connects.
    pub(crate) fn address(&self) -> String {
        self.address.borrow().clone()
    }

    /// Watches that address.
    pub(crate) fn watch_address(&self) -> watch::Receiver<String> {
        self.address.subscribe()
    }

    /// Sets the address of the peer; true when it is another one. Then both streams end: a replaced peer is another
    /// process with another disk. The link stays, since the peer is a member all the time: its known state holds until
    /// its next stream, as after a restart.
    pub(crate) fn move_to(&self, address: &str) -> bool {
        let has_moved = self.address.send_if_modified(|now| {
            let differs = *now != address;
            if differs {
                address.clone_into(now);
            }
            differs
        });
        if has_moved {
            if let Some(stream) = &self.lock().stream {
                stream.ended.cancel();
            }
            self.back.notify_one();
        }
        has_moved
    }

    /// Opens the stream on which the peer follows, with the changes that it reports. An earlier stream of the same peer
    /// ends: the peer itself has lost it.
    pub(crate) fn open(&self, origin: Origin, vector: &Vector, ended: CancellationToken) -> StreamNumber {
        let mut state = self.lock();
        self.back.notify_one();
        state.last_number += 1;
        let number = state.last_number;
        state.has = Holdings::of(vector);
        // Its disk may be another, or an older one.
        (state.report, state.looked, state.is_looking) = (None, None, false);
        state.clock = None;
        let sent = state.has.clone();
        if self.retired.is_cancelled() {
            ended.cancel();
        }
        if let Some(earlier) = state.stream.replace(Stream { number, origin, sent, ended }) {
            earlier.ended.cancel();
        }
        number
    }

    /// Closes a stream; true when no newer one replaced it.
    pub(crate) fn close(&self, number: StreamNumber) -> bool {
        let mut state = self.lock();
        let current = state.stream.as_ref().is_some_and(|stream| stream.number == number);
        if current {
            state.stream = None;
        }
        current
    }

    /// Ends the streams with a peer that is no member any more, both ways.
    pub(crate) fn retire(&self) {
        self.retired.cancel();
        if let Some(stream) = &self.lock().stream {
            stream.ended.cancel();
        }
    }

    /// Cancelled when the peer is no member any more.
    pub(crate) fn retired(&self) -> CancellationToken {
        self.retired.clone()
    }

    /// The gap-free prefixes of the changes that the peer is known to have.
    pub(crate) fn has(&self) -> Vector {
        self.lock().has.vector()
    }

    /// Notes that the peer's store, in this incarnation, has made changes up to `head`.
    pub(crate) fn has_made(&self, origin: Origin, head: u64) {
        let mut state = self.lock();
        if head > 0 {
            state.made = Some((origin, head));
        }
        // A stale stream of an earlier incarnation does not show what the peer has now.
        if head > 0 && state.stream.as_ref().is_none_or(|stream| stream.origin == origin) {
            state.has.add(origin, 1..=head);
        }
    }

    /// The peer's incarnation and the number of changes that it has made, by its latest report, while this node follows it or
    /// opens its stream again.
    pub(crate) fn made(&self) -> Option<(Origin, u64)> {
        let state = self.lock();
        state.made.filter(|(origin, _)| state.welcomed == Some(*origin))
    }

    /// Notes whether the peer lacks data from before its first fill. No report of such a time tells what it covers.
    pub(crate) fn set_lacks_data(&self, lacks_data: bool) {
        self.lacks_data.store(lacks_data, Relaxed);
        if lacks_data {
            self.lock().looked = None;
        }
    }

    /// Adds the changes of the peer's latest report, and returns the number of blobs here that it has applied changes without. Asks
    /// the peer for another report.
    pub(crate) fn add_to(&self, held: &mut Holdings) -> u64 {
        let state = self.lock();
        // Another report would begin that again.
        if !state.is_looking {
            self.report_wanted.store(true, Relaxed);
        }
        let Some((report, lost)) = state.looked.as_ref().filter(|_| state.report().is_some()) else { return 0 };
        report.iter().for_each(|(origin, seqs)| held.add(origin, seqs));
        *lost
    }

    pub(crate) fn followed(&self) -> bool {
        self.lock().stream.is_some()
    }

    /// Notes that the peer acknowledged changes that are here, with the prefixes of their origins; false when the stream is
    /// no longer the present one.
    pub(crate) fn acked(&self, number: StreamNumber, runs: &Runs, vector: &Vector) -> bool {
        let mut state = self.lock();
        if state.stream.as_ref().is_none_or(|stream| stream.number != number) {
            return false;
        }
        for (origin, seqs) in runs {
            state.has.add(*origin, seqs.clone());
            // Only of these origins: a lying peer could name any number of others, and all are remembered.
            state.has.add(*origin, 1..=vector.get(*origin));
        }
        true
    }

    /// Notes a report on this stream: all changes that the peer has, and whether its fill missed a member. True if it counts.
    pub(crate) fn reported(&self, number: StreamNumber, report: Arc<Holdings>, fill_missed: bool) -> bool {
        let mut state = self.lock();
        let counts = state.stream.as_ref().is_some_and(|stream| stream.number == number);
        if counts {
            self.fill_missed.store(fill_missed, Relaxed);
            (state.report, state.is_looking) = (Some(report), true);
        }
        counts
    }

    /// Notes the number of blobs that are whole here and that the peer, by this report, lacks.
    pub(crate) fn found_lost(&self, report: &Arc<Holdings>, found: u64) {
        let mut state = self.lock();
        if state.report.as_ref().is_some_and(|latest| Arc::ptr_eq(latest, report)) {
            state.is_looking = false;
            state.looked = Some((report.clone(), found)).filter(|_| !self.lacks_data.load(Relaxed));
        }
    }

    /// The latest report of the stream that is open. Without a stream there is none: the peer may have another disk by
    /// now; nor when its greeting as a source shows that the stream is one of an earlier incarnation.
    pub(crate) fn report(&self) -> Option<Arc<Holdings>> {
        self.lock().report().cloned()
    }

    /// Notes the greeting of the peer as a source, from this incarnation of its store.
    pub(crate) fn welcomed(&self, origin: Origin) {
        self.lock().welcomed = Some(origin);
    }

    /// Notes the wall clock that the peer reported on this stream; 0: it reports none.
    pub(crate) fn told_time(&self, number: StreamNumber, clock: u64, now: BootInstant) {
        let mut state = self.lock();
        if clock > 0 && state.stream.as_ref().is_some_and(|stream| stream.number == number) {
            state.clock = Some((clock, now));
        }
    }

    /// The peer's wall clock at `now`, by its last report; `None` if this process has none. Also for a peer that is away: a
    /// jump of the clock here shows all the same.
    pub(crate) fn clock(&self, now: BootInstant) -> Option<u64> {
        let (clock, at) = self.lock().clock?;
        Some(clock.saturating_add(u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX)))
    }

    /// Notes changes that came from the peer, from the store incarnation `origin_of_peer`: they need not be sent back.
    pub(crate) fn came_from(&self, origin_of_peer: Origin, changes: impl Iterator<Item = (Origin, u64)>) {
        let mut state = self.lock();
        let State { stream, has, .. } = &mut *state;
        // Another incarnation of the peer may have another disk, and lack the change.
        if let Some(stream) = stream.as_mut().filter(|stream| stream.origin == origin_of_peer) {
            for (origin, seq) in changes {
                has.insert(origin, seq);
                stream.sent.insert(origin, seq);
            }
        }
    }

    /// Marks a change as sent on this stream; false when it is not to be sent: the peer has it, or will get it.
    pub(crate) fn claim(&self, number: StreamNumber, origin: Origin, seq: u64) -> bool {
        let mut state = self.lock();
        let stream = state.stream.as_mut().filter(|stream| stream.number == number);
        stream.is_some_and(|stream| stream.sent.insert(origin, seq))
    }

    /// Begins again from the changes that the peer is known to have, and returns them.
    pub(crate) fn rewind(&self, number: StreamNumber) -> Vector {
        let mut state = self.lock();
        let State { stream, has, .. } = &mut *state;
        if let Some(stream) = stream.as_mut().filter(|stream| stream.number == number) {
            stream.sent = has.clone();
        }
        has.vector()
    }

    /// The peer's changes of one origin.
    pub(crate) fn has_of(&self, origin: Origin) -> Vec<RangeInclusive<u64>> {
        self.lock().has.of_origin(origin).collect()
    }

    /// Number of changes of `vector` that the peer is not known to have.
    pub(crate) fn lag(&self, vector: &Vector) -> u64 {
        self.lock().has.lag(vector)
    }

    /// Time since the last contact on either stream.
    pub(crate) fn since_contact(&self) -> Option<Duration> {
        self.lock().last_heard.map(BootInstant::elapsed)
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Notes a frame that came from the peer, on either stream.
    pub(crate) fn received(&self, bytes: usize, now: BootInstant) {
        self.lock().last_heard = Some(now);
        self.received_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Notes that this node begins to follow the peer.
    pub(crate) fn set_source(&self, source: Source) {
        self.lock().source = Some(source);
    }

    /// Notes that this node does not follow the peer, which is still there if this node only opens the stream again.
    pub(crate) fn end_source(&self, opens_again: bool) {
        let mut state = self.lock();
        state.source = None;
        state.made = state.made.filter(|_| opens_again);
    }

    /// Notes that all changes have come that the peer had when this node began to follow it.
    pub(crate) fn source_sent_all(&self) {
        if let Some(source) = &mut self.lock().source {
            source.sent_all = true;
        }
    }

    /// The peer's state for the fill of this node; `None` while this node does not follow it.
    pub(crate) fn source(&self) -> Option<Source> {
        self.lock().source.clone()
    }

    /// Notes the reason for which the fill of this node continues without the peer; true when it is the first one.
    pub(crate) fn set_stuck(&self, reason: Option<String>) -> bool {
        let (is_set, before) = (reason.is_some(), std::mem::replace(&mut self.lock().stuck, reason));
        is_set && before.is_none()
    }

    /// Reason for which the fill of this node continues without the peer; `None` while it does not.
    pub(crate) fn stuck(&self) -> Option<String> {
        self.lock().stuck.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "../tests/unit/link.rs"]
mod tests;
