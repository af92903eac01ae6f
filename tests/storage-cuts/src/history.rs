//! A history: processes that start, work and end, by the seed.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use twinbox_disk::simulation::{ProcessEnd, Upkeep};
use twinbox_ids::{Origin, Timestamp};
use twinbox_replication_core::{
    Edit, Key, Record, Value,
    ack::{Acknowledgement, Input},
};
use twinbox_replication_store::{Removal, Store};

use crate::{
    clock,
    content::{self, BODY, MESSAGES, RowId, TABLES, TAKE},
    finding::Finding,
    judge::judge,
    link::Link,
    mistake::Mistake,
    model::{Message, Tried, Write},
    node::{Node, TIMEOUT_MS, settle},
};

/// Steps of a history for each node.
const STEPS: usize = 180;
/// Rows that a node overwrites.
const ROWS: u8 = 4;
/// Maximum bytes of a recording, and those of a chunk.
const LONGEST: usize = 20_000;
const CHUNK: usize = 2_000;
/// Packs that a compaction looks at.
const PACKS: usize = 8;

/// Events of a history, to see that it tries what it is meant to try.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Writes that were acknowledged *alone*.
    pub alone: u64,
    /// Writes that were acknowledged *on two*.
    pub on_two: u64,
    /// Processes that ended in a call, those that were opening their store among them.
    pub ended: u64,
    /// Processes that ended while they opened their store.
    pub ended_opening: u64,
    /// Moments at which both nodes lost power.
    pub both: u64,
    /// Bytes that compaction moved.
    pub moved: u64,
    /// Packs that compaction removed.
    pub packs: u64,
    /// Checksum of the calls of all disks, in their order.
    pub trace: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.alone += other.alone;
        self.on_two += other.on_two;
        self.ended += other.ended;
        self.ended_opening += other.ended_opening;
        self.both += other.both;
        self.moved += other.moved;
        self.packs += other.packs;
        self.trace ^= other.trace;
    }
}

pub(crate) struct History {
    random: StdRng,
    pub(crate) mistake: Mistake,
    pub(crate) nodes: Vec<Node>,
    pub(crate) link: Option<Link>,
    tried: Tried,
    counts: Counts,
    _root: TempDir,
}

impl History {
    pub(crate) fn new(nodes: usize, seed: u64, mistake: Mistake) -> Self {
        let root = TempDir::new().expect("a folder");
        let seeds = (0..).map(|place: u64| seed.wrapping_mul(2).wrapping_add(place));
        let names = ["a", "b"].into_iter().take(nodes).zip(seeds);
        let nodes: Vec<Node> = names.map(|(name, seed)| Node::new(name, root.path(), seed)).collect();
        nodes.iter().for_each(|node| node.platter.set_fault(mistake.fault()));
        let (random, tried, counts) = (StdRng::seed_from_u64(seed), Tried::default(), Counts::default());
        Self { random, mistake, nodes, link: None, tried, counts, _root: root }
    }

    /// The whole history; the first violation, if there is one.
    pub(crate) async fn play(mut self) -> Result<Counts, Finding> {
        for _ in 0..STEPS * self.nodes.len() {
            clock::advance(1);
            let at = self.random.random_range(0..self.nodes.len());
            if self.nodes[at].store.is_none() {
                self.start(at).await?;
            } else {
                let done = self.act(at).await;
                self.settle(done).await?;
            }
        }
        self.end().await?;
        for node in &self.nodes {
            let (calls, trace) = node.platter.trace();
            self.counts.trace = self.counts.trace.rotate_left(1) ^ trace ^ calls;
        }
        Ok(self.counts)
    }

    /// Starts a process, whose end is chosen now, and compares its store with what its disk must have.
    async fn start(&mut self, at: usize) -> Result<(), Finding> {
        let limits = [20, 120, 500];
        let most = limits[self.random.random_range(0..limits.len())];
        let end = if self.random.random_bool(0.7) { ProcessEnd::PowerCut } else { ProcessEnd::Killed };
        let ends = self.random.random_bool(0.8).then(|| (self.random.random_range(0..most), end));
        self.nodes[at].start(ends)?;
        let judged = match self.nodes[at].store.clone() {
            Some(store) => {
                let settled = settle(&store).await;
                let judged = self.judge(at, &store).await;
                settled.and(judged)
            }
            None => Ok(()),
        };
        if self.nodes[at].platter.is_dead() {
            self.counts.ended += 1;
            self.counts.ended_opening += 1;
            return self.nodes[at].close();
        }
        judged?;
        let done = self.end_recordings(at).await;
        self.settle(done).await
    }

    async fn judge(&mut self, at: usize, store: &Store) -> Result<(), Finding> {
        let is_alone = self.nodes.len() == 1;
        let name = self.nodes[at].name.clone();
        let judged = judge(store, &mut self.nodes[at].owed, &self.tried, is_alone).await;
        judged.map_err(|finding| finding.with_place(&format!("node {name}")))
    }

    /// Waits for the threads of the stores, and closes the stores of processes that have ended. The result of a step counts only if
    /// all processes still run.
    async fn settle(&mut self, done: Result<(), Finding>) -> Result<(), Finding> {
        let mut outcome = done;
        for node in &self.nodes {
            let settled = node.settle().await;
            outcome = outcome.and(settled);
        }
        if !self.nodes.iter().any(Node::has_ended) {
            return outcome;
        }
        if self.nodes.len() > 1 && self.random.random_bool(0.4) {
            // Both have one power supply.
            self.nodes.iter().for_each(|node| node.platter.end(ProcessEnd::PowerCut));
            self.counts.both += 1;
        }
        self.disconnect();
        for node in self.nodes.iter_mut().filter(|node| node.has_ended()) {
            node.close()?;
            self.counts.ended += 1;
        }
        Ok(())
    }

    /// A step of a node that is up.
    async fn act(&mut self, at: usize) -> Result<(), Finding> {
        match self.random.random_range(0..100) {
            0..22 => self.write(at).await,
            22..42 => self.record(at).await,
            42..47 => self.finish(at).await,
            47..53 => self.delete(at).await,
            53..59 => self.clean(at).await,
            59..62 => self.cut_log(at).await,
            62..68 => self.tend(at, Upkeep::Apply),
            68..74 => self.tend(at, Upkeep::Checkpoint),
            74..77 => self.tend(at, Upkeep::Prepare),
            77..80 => self.end_process(at).await,
            _ if self.nodes.len() == 1 => self.write(at).await,
            80..82 => {
                clock::advance(TIMEOUT_MS);
                (0..self.nodes.len()).for_each(|at| self.input(at, Input::Tick));
                Ok(())
            }
            82..84 => self.answer(at),
            _ => self.stream(at).await,
        }
    }

    async fn write(&mut self, at: usize) -> Result<(), Finding> {
        let row = RowId { author: at, row: self.random.random_range(0..ROWS) };
        let version = self.tried.versions.get(&row).copied().unwrap_or(0) + 1;
        self.tried.versions.insert(row, version);
        self.tried.counted += 1;
        self.commit(at, Write::Version(row, version), row.edits(version)).await
    }

    async fn commit(&mut self, at: usize, write: Write, edits: Vec<(Key, Vec<Edit>)>) -> Result<(), Finding> {
        let store = self.nodes[at].store()?;
        let committed = store
            .commit(move |draft| edits.into_iter().try_for_each(|(key, edits)| draft.edit(key, edits)))
            .await?
            .1;
        let acknowledged = self.nodes[at].acks.written(write, &committed);
        self.note(at, acknowledged);
        Ok(())
    }

    /// An event for the writers of a node.
    pub(crate) fn input(&mut self, at: usize, input: Input) {
        let acknowledged = self.nodes[at].acks.input(input);
        self.note(at, acknowledged);
    }

    /// From now on the disks must have these writes.
    fn note(&mut self, at: usize, acknowledged: Vec<(Write, Acknowledgement)>) {
        for (write, acknowledgement) in acknowledged {
            let count = match acknowledgement {
                Acknowledgement::Alone => &mut self.counts.alone,
                Acknowledgement::OnTwo { .. } => {
                    self.nodes[1 - at].owed.add(write, &self.tried);
                    &mut self.counts.on_two
                }
            };
            *count += 1;
            self.nodes[at].owed.add(write, &self.tried);
        }
    }

    /// Records a message, or a part of it.
    async fn record(&mut self, at: usize) -> Result<(), Finding> {
        let (store, number) = (self.nodes[at].store()?, self.tried.messages.len() as u64);
        let (id, length) = (content::recording(number), self.random.random_range(1..=LONGEST));
        let message = Message { author: at, length, is_filing: false, is_deleting: false };
        self.tried.messages.insert(number, message);
        let (recordings, audio) = (store.recordings(), content::audio(number, length));
        recordings.begin(id, TAKE).await?;
        for offset in (0..length).step_by(CHUNK) {
            let chunk = audio.slice(offset..length.min(offset + CHUNK));
            recordings.append(id, TAKE, offset as u64, chunk)?;
            // Waits for each chunk: then the store appends as often in each run.
            recordings.written().await?;
        }
        match self.random.random_range(0..6) {
            0 => Ok(()),
            1 => self.seal(at, number).await.map(drop),
            _ => self.file(at, number).await,
        }
    }

    /// Seals a recording; the value that names its audio.
    async fn seal(&mut self, at: usize, number: u64) -> Result<Value, Finding> {
        let store = self.nodes[at].store()?;
        let blob = store.recordings().seal(content::recording(number), TAKE).await?.blob;
        self.nodes[at].owed.sealed.insert(number);
        Ok(Value::Blob(blob))
    }

    async fn file(&mut self, at: usize, number: u64) -> Result<(), Finding> {
        let audio = self.seal(at, number).await?;
        if let Some(message) = self.tried.messages.get_mut(&number) {
            message.is_filing = true;
        }
        let edits = vec![(content::message_key(number), vec![Edit::Set(BODY, audio)])];
        self.commit(at, Write::Filing(number), edits).await
    }

    /// Files a recording that this node has left in progress, or discards it.
    async fn finish(&mut self, at: usize) -> Result<(), Finding> {
        let open = self.open_recordings(at)?;
        if open.is_empty() {
            return self.write(at).await;
        }
        let (number, may_be_filed) = open[self.random.random_range(0..open.len())];
        match may_be_filed && self.random.random_bool(0.7) {
            true => self.file(at, number).await,
            false => self.discard(at, number).await,
        }
    }

    async fn discard(&mut self, at: usize, number: u64) -> Result<(), Finding> {
        let store = self.nodes[at].store()?;
        store.recordings().discard(content::recording(number), TAKE).await.map_err(Finding::from)
    }

    /// The recordings in progress that this node began, by number; true for one that is whole and was never filed. The other node may
    /// have sent one back that has a hole, or that is filed or deleted by now.
    fn open_recordings(&self, at: usize) -> Result<Vec<(u64, bool)>, Finding> {
        let store = self.nodes[at].store()?;
        let own = store.recordings().open().into_iter().filter_map(|(id, take, _)| {
            let number = u64::try_from(id.0).ok()?;
            let message = self.tried.messages.get(&number).filter(|message| message.author == at)?;
            let covered = store.recordings().coverage(id, take)?;
            Some((number, covered.covers(0..message.length as u64) && !message.is_filing))
        });
        Ok(own.collect())
    }

    /// After a start: as the check for orphan recordings, files the recordings whose audio is durable, and discards the others.
    async fn end_recordings(&mut self, at: usize) -> Result<(), Finding> {
        for (number, _) in self.open_recordings(at)? {
            match self.nodes[at].owed.sealed.contains(&number) {
                true => self.file(at, number).await?,
                false => self.discard(at, number).await?,
            }
            self.nodes[at].settle().await?;
        }
        Ok(())
    }

    async fn delete(&mut self, at: usize) -> Result<(), Finding> {
        let filed: Vec<u64> = self.nodes[at].owed.filed.iter().copied().collect();
        if filed.is_empty() {
            return self.write(at).await;
        }
        let number = filed[self.random.random_range(0..filed.len())];
        self.nodes.iter_mut().for_each(|node| node.owed.release(number));
        if let Some(message) = self.tried.messages.get_mut(&number) {
            message.is_deleting = true;
        }
        let edits = vec![(content::message_key(number), vec![Edit::Delete])];
        self.commit(at, Write::Deletion(number), edits).await
    }

    /// Removes what is deleted, if there is no other node that may not know of it yet, and compacts the packs.
    async fn clean(&mut self, at: usize) -> Result<(), Finding> {
        let store = self.nodes[at].store()?;
        if self.nodes.len() == 1 {
            let deleted = store.deleted_rows(MESSAGES, None, 1_000)?;
            let deleted = deleted.into_iter().map(|row| (row, Removal::Whole)).collect();
            store.purge(deleted).await?;
            // All of it is old enough.
            let (grace, now) = (Duration::ZERO, Timestamp(u64::MAX));
            store.remove_unreferenced(&mut None, grace, now, 1_000).await?;
        }
        let node = &mut self.nodes[at];
        node.platter.set_fault(self.mistake.fault_in_compaction());
        let compacted = store.compact(&mut node.cursor, PACKS).await;
        node.platter.set_fault(self.mistake.fault());
        let compacted = compacted?;
        self.counts.moved += compacted.moved_bytes;
        self.counts.packs += compacted.removed;
        Ok(())
    }

    /// Cuts a part of the log; that of a pair is needed.
    async fn cut_log(&mut self, at: usize) -> Result<(), Finding> {
        let store = self.nodes[at].store()?;
        let (vector, begins) = (store.vector(), store.log_begins());
        let all = vector.iter().filter(|(origin, upto)| begins.get(*origin) < *upto);
        let all: Vec<(Origin, u64)> = all.collect();
        if all.is_empty() || self.nodes.len() > 1 {
            return self.write(at).await;
        }
        let (origin, upto) = all[self.random.random_range(0..all.len())];
        let first = begins.get(origin) + 1;
        let last = self.random.random_range(first..=upto);
        store.cut_log(origin, first..=last).await.map(drop).map_err(Finding::from)
    }

    fn tend(&mut self, at: usize, upkeep: Upkeep) -> Result<(), Finding> {
        self.nodes[at].platter.tend(upkeep).map_err(Finding::from)
    }

    /// Ends a process between two calls: killed, or closed in order, with or without a power cut after that.
    async fn end_process(&mut self, at: usize) -> Result<(), Finding> {
        if self.random.random_bool(0.3) {
            self.nodes[at].platter.end(ProcessEnd::Killed);
            return Ok(());
        }
        self.clean(at).await?;
        self.nodes[at].settle().await?;
        self.disconnect();
        self.nodes[at].close()?;
        if self.random.random_bool(0.8) {
            self.nodes[at].platter.end(ProcessEnd::PowerCut);
        }
        Ok(())
    }

    /// The other node answers a probe: it counts again.
    fn answer(&mut self, at: usize) -> Result<(), Finding> {
        if self.link.is_some() {
            let peer = self.nodes[1 - at].name.clone();
            self.input(at, Input::Answered { peer, took: 1 });
        }
        Ok(())
    }

    /// Lets the streams between the nodes go on, or opens them.
    async fn stream(&mut self, at: usize) -> Result<(), Finding> {
        if self.nodes.iter().any(|node| node.store.is_none()) {
            return Ok(());
        }
        if self.link.is_none() {
            return self.connect().await;
        }
        self.send(at)?;
        for _ in 0..self.random.random_range(1..30) {
            let to = self.random.random_range(0..2);
            self.receive(to).await?;
            self.nodes[to].settle().await?;
        }
        Ok(())
    }

    /// Starts all nodes for the last time; a pair gets all from each other.
    async fn end(&mut self) -> Result<(), Finding> {
        self.disconnect();
        for at in 0..self.nodes.len() {
            if self.nodes[at].store.is_some() {
                self.nodes[at].platter.end(ProcessEnd::PowerCut);
                self.nodes[at].close()?;
            }
            self.nodes[at].start(None)?;
            let store = self.nodes[at].store()?;
            settle(&store).await?;
            self.judge(at, &store).await?;
        }
        if self.nodes.len() == 1 {
            return Ok(());
        }
        let stores = [self.nodes[0].store()?, self.nodes[1].store()?];
        for _ in 0..20 {
            self.connect().await?;
            while self.receive(0).await? || self.receive(1).await? {
                self.nodes[0].settle().await?;
                self.nodes[1].settle().await?;
            }
            self.disconnect();
            if stores[0].vector() == stores[1].vector() {
                break;
            }
        }
        let rows = |store: &Store| -> Result<Vec<(Key, Record)>, Finding> {
            let all = TABLES.into_iter().map(|table| store.scan(table, b""));
            Ok(all.collect::<Result<Vec<_>, _>>()?.concat())
        };
        if rows(&stores[0])? != rows(&stores[1])? {
            return Err(Finding::unexpected("the nodes do not agree in the end"));
        }
        for (at, store) in stores.iter().enumerate() {
            self.judge(at, store).await?;
        }
        Ok(())
    }
}
