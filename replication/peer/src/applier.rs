//! Applies the changes of a stream, many in one round, and acknowledges those that are durable and in their rows.
//!
//! While one apply is in progress the next frames gather, and are applied as one. The changes of a commit are applied
//! together: a part of one waits for the rest. A commit that names a blob waits separately until the blob is here; others do
//! not wait for it. A probe is answered when every live change before it is
//! durable, blobs included, so that its answer has the meaning of an acknowledgement.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::sleep,
};
use tracing::warn;
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::Origin;
use twinbox_replication_core::{BlobRef, Change, CommitAssembly, Holdings};
use twinbox_replication_fetch::TooLarge;
use twinbox_replication_store::codec;
use twinbox_wire::replication::{Behind, FollowerFrame, HistoryTaken, ProbeAnswer, follower_frame::Frame};

use crate::{config::limits, error::StreamError, frames, link::Link, peers::Inner};

/// The live lane.
pub(crate) enum Live {
    /// Each with its length in bytes.
    Changes(Vec<(Change, usize)>),
    /// A probe; with `report` the answer reports all changes that are here.
    Probe { number: u64, report: bool },
}

/// The history lane.
pub(crate) struct FromHistory {
    pub(crate) batch: u64,
    /// Each with its length in bytes.
    pub(crate) changes: Vec<(Change, usize)>,
    /// The source has now sent all changes that it had at the beginning.
    pub(crate) all: bool,
}

/// Numbers live changes that wait for blobs, in the order of arrival.
type Ticket = u64;

/// A commit that waited for blobs, the blobs that it is applied without, and a ticket if it came on the live lane.
type Parked = Result<(Vec<Change>, Vec<BlobRef>, Option<Ticket>), TooLarge>;

pub(crate) struct Applier {
    inner: Arc<Inner>,
    link: Arc<Link>,
    origin_of_peer: Origin,
    /// The newest change of that origin when the stream opened. A writer at the peer may wait for a later one.
    newest_at_begin: u64,
    live: mpsc::Receiver<Live>,
    history: mpsc::Receiver<FromHistory>,
    out: mpsc::Sender<FollowerFrame>,
    /// Changes of commits that have not come as a whole; dropped with this stream, and then sent again.
    assembly: CommitAssembly,
    /// Commits that wait for blobs; dropped with this stream, and then sent again.
    parked: JoinSet<Parked>,
    /// The live ones among them, with their arrival times: they hold back the answers to later probes.
    holding: BTreeMap<Ticket, BootInstant>,
    next_ticket: Ticket,
    /// Probes to be answered when no change before their ticket is in `holding`.
    probes: VecDeque<(u64, bool, Ticket)>,
    /// Changes were dropped for lack of room, and must be requested again.
    let_go: bool,
    /// Changes that the store has set aside: they are acknowledged when they are in their rows.
    owed: BTreeSet<(Origin, u64)>,
}

/// The changes applied in one round.
#[derive(Default)]
struct Round {
    ready: Vec<Change>,
    /// Blobs that these changes are applied without.
    lost: Vec<BlobRef>,
    taken: Option<u64>,
    /// With this round all changes that the source had at the beginning are here.
    all: bool,
}

impl Applier {
    pub(crate) fn new(
        inner: Arc<Inner>,
        link: Arc<Link>,
        (origin_of_peer, newest_at_begin): (Origin, u64),
        live: mpsc::Receiver<Live>,
        history: mpsc::Receiver<FromHistory>,
        out: mpsc::Sender<FollowerFrame>,
    ) -> Self {
        Self {
            inner,
            link,
            origin_of_peer,
            newest_at_begin,
            live,
            history,
            out,
            assembly: CommitAssembly::default(),
            parked: JoinSet::new(),
            holding: BTreeMap::new(),
            next_ticket: 0,
            probes: VecDeque::new(),
            let_go: false,
            owed: BTreeSet::new(),
        }
    }

    pub(crate) async fn run(mut self) -> Result<Infallible, StreamError> {
        loop {
            let mut round = Round::default();
            let set_aside_timeout = self.set_aside_timeout();
            tokio::select! {
                biased;
                Some(item) = self.live.recv() => self.take_live(item, &mut round)?,
                Some(done) = self.parked.join_next() => self.unpark(done, &mut round),
                Some(batch) = self.history.recv(), if self.parked.len() < limits::PARKED => {
                    self.take_history(batch, &mut round)?;
                }
                () = sleep(set_aside_timeout), if !self.holding.is_empty() => {}
                else => return Err(StreamError::Closed),
            }
            self.gather(&mut round)?;
            self.set_aside();
            self.finish(round).await?;
        }
    }

    /// Adds the other frames that have come: all live ones, then one batch of history, which would otherwise starve under
    /// load.
    fn gather(&mut self, round: &mut Round) -> Result<(), StreamError> {
        while round.ready.len() < limits::APPLY {
            match self.live.try_recv() {
                Ok(item) => self.take_live(item, round)?,
                Err(_) => break,
            }
        }
        while let Some(done) = self.parked.try_join_next() {
            self.unpark(done, round);
        }
        if round.taken.is_none()
            && self.parked.len() < limits::PARKED
            && let Ok(batch) = self.history.try_recv()
        {
            self.take_history(batch, round)?;
        }
        Ok(())
    }

    fn take_live(&mut self, item: Live, round: &mut Round) -> Result<(), StreamError> {
        match item {
            Live::Changes(changes) => self.take(changes, true, round)?,
            Live::Probe { number, report } => self.probes.push_back((number, report, self.next_ticket)),
        }
        Ok(())
    }

    fn take_history(&mut self, batch: FromHistory, round: &mut Round) -> Result<(), StreamError> {
        round.taken = Some(batch.batch);
        round.all |= batch.all;
        self.take(batch.changes, false, round)
    }

    fn may_be_awaited(&self, change: &Change) -> bool {
        change.origin == self.origin_of_peer && change.seq > self.newest_at_begin
    }

    fn take(&mut self, changes: Vec<(Change, usize)>, live: bool, round: &mut Round) -> Result<(), StreamError> {
        let store = self.inner.store.clone();
        // In a first fill records come first, and their audio follows.
        let fills = !live && frames::lacks_records(&store);
        // Before they are applied: applied changes are passed on to all followers of this node.
        let names = changes.iter().map(|(change, _)| (change.origin, change.seq));
        self.link.came_from(self.origin_of_peer, names);
        for (change, bytes) in changes {
            if change.origin == store.origin() {
                frames::check_own(&store, change.seq)?;
            }
            if store.has(change.origin, change.seq) {
                // Acknowledged at the end of this round, if it is in its row.
                self.owed.insert((change.origin, change.seq));
                continue;
            }
            let missing = |origin, from| store.first_missing(origin, from);
            let Some(commit) = self.assembly.take(change, bytes, missing) else {
                if self.assembly.waiting() > limits::INCOMPLETE
                    || self.assembly.waiting_bytes() > limits::INCOMPLETE_BYTES
                {
                    return Err(frames::bad("a commit that does not end"));
                }
                continue;
            };
            let blobs = commit.iter().flat_map(|change| change.delta.blobs());
            let missing: Vec<BlobRef> = blobs.filter(|blob| self.inner.fetcher.wants(blob)).copied().collect();
            // A change for which a writer may wait is acknowledged with its audio only, whichever lane brings it (rule A1).
            let audio_follows = fills && commit.iter().all(|change| !self.may_be_awaited(change));
            if missing.is_empty() || audio_follows {
                round.ready.extend(commit);
            } else if live && self.parked.len() >= limits::PARKED {
                self.let_go = true;
            } else {
                let ticket = live.then(|| {
                    let ticket = self.next_ticket;
                    self.next_ticket += 1;
                    self.holding.insert(ticket, BootInstant::now());
                    ticket
                });
                self.park(commit, missing, ticket);
            }
        }
        Ok(())
    }

    fn park(&mut self, commit: Vec<Change>, missing: Vec<BlobRef>, ticket: Option<Ticket>) {
        let (inner, peer) = (self.inner.clone(), self.link.name.clone());
        self.parked.spawn(async move {
            let mut lost = Vec::new();
            for blob in missing {
                if !inner.fetcher.ensure(&blob, &peer).await? {
                    lost.push(blob);
                }
            }
            Ok((commit, lost, ticket))
        });
    }

    fn unpark(&mut self, done: Result<Parked, JoinError>, round: &mut Round) {
        match done {
            Ok(Ok((commit, lost, ticket))) => {
                if let Some(ticket) = ticket {
                    self.holding.remove(&ticket);
                }
                round.ready.extend(commit);
                round.lost.extend(lost);
            }
            // Never applied; logged where it was found. Its ticket expires.
            Ok(Err(TooLarge { .. })) => {
                self.inner.counters.set_aside.fetch_add(1, Relaxed);
            }
            Err(error) => warn!(peer = %self.link.name, %error, "change that waited for its blob was lost"),
        }
    }

    /// Time until the oldest waiting live change is set aside.
    fn set_aside_timeout(&self) -> std::time::Duration {
        let oldest = self.holding.first_key_value().map(|(_, since)| since.elapsed());
        limits::SET_ASIDE.saturating_sub(oldest.unwrap_or_default())
    }

    /// An unavailable blob must not keep this node from counting for ever.
    fn set_aside(&mut self) {
        while let Some(entry) = self.holding.first_entry()
            && entry.get().elapsed() >= limits::SET_ASIDE
        {
            entry.remove();
            warn!(peer = %self.link.name, "change set aside until its blob arrives");
        }
    }

    async fn finish(&mut self, round: Round) -> Result<(), StreamError> {
        let Round { ready, lost, taken, all } = round;
        let store = &self.inner.store;
        if !ready.is_empty() {
            self.owed.extend(ready.iter().map(|change| (change.origin, change.seq)));
            store.apply_without(ready, lost.clone()).await?;
            self.inner.lost_audio.add(lost);
        }
        // Those that the store set aside stay, and are looked at again with each probe.
        let mut held = Holdings::default();
        self.owed.retain(|(origin, seq)| {
            let is_applied = store.is_applied(*origin, *seq);
            if is_applied {
                held.insert(*origin, *seq);
            }
            !is_applied
        });
        if !held.is_empty() {
            let acked = frames::ack(store, &held);
            self.send(Frame::Acked(acked)).await?;
        }
        if all {
            self.link.source_sent_all();
        }
        if let Some(batch) = taken {
            self.inner.filling.notify_one();
            self.send(Frame::HistoryTaken(HistoryTaken { batch })).await?;
        }
        let first_held = self.holding.first_key_value().map_or(Ticket::MAX, |(ticket, _)| *ticket);
        while let Some((number, report, ticket)) = self.probes.front().copied()
            && ticket <= first_held
        {
            self.probes.pop_front();
            let lacks_data = frames::lacks_data(&self.inner.store);
            let report = if report { frames::report(&self.inner.store) } else { None };
            let answer = ProbeAnswer { number, lacks_data, report, now_ms: wall().0 };
            self.send(Frame::ProbeAnswer(answer)).await?;
        }
        if self.let_go && self.parked.len() < limits::PARKED / 2 {
            self.let_go = false;
            let vector = Some(codec::vector_to_wire(&self.inner.store.vector()));
            self.send(Frame::Behind(Behind { vector })).await?;
        }
        Ok(())
    }

    async fn send(&self, frame: Frame) -> Result<(), StreamError> {
        use prost::Message;
        let frame = FollowerFrame { frame: Some(frame) };
        self.link.sent(frame.encoded_len());
        self.out.send(frame).await.map_err(|_| StreamError::Closed)
    }
}
