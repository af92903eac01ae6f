//! The source's side of a stream: new changes go to the follower immediately, older ones that it lacks go on a separate
//! lane, and its acknowledgements come back.
//!
//! Three tasks: the reader takes the follower's frames, runs the prober and never blocks; the writer fills the stream
//! and waits when the follower is slow; the history lane reads the log. New changes and chunks come from the store's feed,
//! in one order. When the writer waits for too long, the feed overtakes it: the changes are then read from the log, the
//! audio from the recordings.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::info;
use twinbox_clock::BootInstant;
use twinbox_replication_core::{
    Vector,
    ack::Input,
    state_fill::begins_for,
    tails::{Tails, Take},
};
use twinbox_replication_feed::{FeedEntry, FeedReader, Overtaken};
use twinbox_wire::replication::{
    self as wire, FollowerFrame, SourceFrame, follower_frame::Frame as FromFollower, source_frame::Frame,
};

use crate::{
    config::limits,
    error::StreamError,
    frames::{self, Hello},
    history::HistoryLane,
    link::{Link, StreamNumber},
    log_cut,
    peers::Inner,
    stream_prober::{ProberAction, StreamProber},
};

/// The frames to the follower.
pub(crate) type Outgoing = mpsc::Sender<Result<SourceFrame, Status>>;

/// Begins to serve an admitted follower.
pub(crate) fn start(
    inner: &Arc<Inner>,
    link: &Arc<Link>,
    hello: Hello,
    frames: Streaming<FollowerFrame>,
) -> mpsc::Receiver<Result<SourceFrame, Status>> {
    let (out, outgoing) = mpsc::channel(limits::OUTGOING);
    let ended = inner.stop.child_token();
    let store = &inner.store;
    // Before the vector is read: a change is in the feed, the vector, or both.
    let feed = store.feed().reader();
    let number = link.open(hello.origin, &hello.vector, ended.clone());
    link.set_lacks_data(hello.lacks_data);
    info!(peer = %link.name, stream = number, "stream to peer open");

    begin_counting(inner, link);

    let (probe, probes) = mpsc::channel(1);
    let (taken, taken_seen) = watch::channel(0);
    let (behind, behind_seen) = watch::channel(());
    let (history, batches) = mpsc::channel(1);
    let mut log_begins = store.log_begins();
    if hello.fills_by_state && hello.lacks_data && !frames::lacks_records(store) {
        log_begins = begins_for(&log_begins, &store.vector(), &hello.vector);
    }
    if hello.fills_by_state {
        inner.tasks.spawn(log_cut::note_filler(inner.clone(), link.name.clone()));
    }
    let lane = HistoryLane {
        store: store.clone(),
        link: link.clone(),
        number,
        behind: behind_seen,
        taken: taken_seen,
        out: history,
        log_begins: log_begins.clone(),
        fills_by_state: hello.fills_by_state,
    };
    let mut writer = Writer {
        inner: inner.clone(),
        link: link.clone(),
        number,
        feed,
        tails: Tails::default(),
        batches,
        probes,
        behind: behind.clone(),
        out: out.clone(),
        log_begins,
    };
    writer.open_tails(&hello);
    let reader = Reader { inner: inner.clone(), link: link.clone(), number, probe, taken, behind, out };

    inner.tasks.spawn({
        let (ended, inner, link, out) = (ended.clone(), inner.clone(), link.clone(), reader.out.clone());
        async move {
            if let Some(Err(end)) = ended.run_until_cancelled(lane.run()).await {
                inner.report(&link.name, &end, "history for peer ended");
                // The follower gets the reason, unless it takes nothing.
                let _ = timeout(limits::SILENCE, out.send(Err(end.into()))).await;
                ended.cancel();
            }
        }
    });
    inner.tasks.spawn({
        let ended = ended.clone();
        async move {
            ended.run_until_cancelled(writer.run()).await;
            ended.cancel();
        }
    });
    inner.tasks.spawn(reader.run(frames, ended));
    outgoing
}

/// Notes that the peer answers, and the changes of this node that it is known to have.
fn begin_counting(inner: &Inner, link: &Link) {
    let peer = || link.name.clone();
    let acked = link.has_of(inner.store.origin()).into_iter();
    let acked = acked.map(|seqs| Input::Acked { peer: peer(), first: *seqs.start(), last: *seqs.end() });
    inner.acks.inputs([Input::Up { peer: peer() }].into_iter().chain(acked));
}

/// Takes the follower's frames.
struct Reader {
    inner: Arc<Inner>,
    link: Arc<Link>,
    number: StreamNumber,
    probe: mpsc::Sender<u64>,
    taken: watch::Sender<u64>,
    behind: watch::Sender<()>,
    out: Outgoing,
}

impl Reader {
    async fn run(self, mut frames: Streaming<FollowerFrame>, ended: CancellationToken) {
        let end = ended.run_until_cancelled(self.read(&mut frames)).await.unwrap_or(StreamError::Stopped);
        ended.cancel();
        if self.link.close(self.number) {
            self.inner.acks.input(Input::Down { peer: self.link.name.clone() });
        }
        self.inner.report(&self.link.name, &end, "stream to peer ended");
        // The follower gets the reason, unless its queue is full.
        let _ = self.out.try_send(Err(end.into()));
    }

    async fn read(&self, frames: &mut Streaming<FollowerFrame>) -> StreamError {
        let mut prober = StreamProber::new(self.inner.acks.timeout());
        loop {
            prober.set_timeout(self.inner.acks.timeout());
            let pause = prober.pause(BootInstant::now());
            let frame = tokio::select! {
                biased;
                () = sleep(pause) => {
                    self.inner.acks.input(Input::Tick);
                    prober.tick(BootInstant::now()).into_iter().for_each(|action| self.act(action));
                    continue;
                }
                frame = frames.message() => frame,
            };
            let frame = match frame {
                Ok(Some(frame)) => frame,
                Ok(None) => return StreamError::Closed,
                Err(status) => return status.into(),
            };
            self.link.received(frame.encoded_len(), BootInstant::now());
            match frame.frame {
                Some(FromFollower::Acked(acked)) => {
                    if let Err(error) = self.acked(acked) {
                        return error;
                    }
                }
                Some(FromFollower::HistoryTaken(taken)) => {
                    self.taken.send_replace(taken.batch);
                }
                Some(FromFollower::ProbeAnswer(answer)) => {
                    self.link.set_lacks_data(answer.lacks_data);
                    self.link.told_time(self.number, answer.now_ms, BootInstant::now());
                    if let Some(report) = answer.report
                        && let Err(error) = self.reported(report)
                    {
                        return error;
                    }
                    let now = BootInstant::now();
                    prober.answer(answer.number, now).into_iter().for_each(|action| self.act(action));
                }
                Some(FromFollower::Behind(_)) => {
                    self.behind.send_replace(());
                }
                Some(FromFollower::Hello(_)) | None => {
                    return StreamError::Frame("a Hello in the middle, or a frame of a later protocol".into());
                }
            }
        }
    }

    fn acked(&self, acked: wire::Acked) -> Result<(), StreamError> {
        let (runs, vector) = frames::acked(acked)?;
        let store = &self.inner.store;
        let own = store.origin();
        let mut inputs = Vec::new();
        for (origin, seqs) in &runs {
            if *origin != own {
                frames::check_here(store, *origin, seqs)?;
                continue;
            }
            frames::check_own(store, *seqs.end())?;
            inputs.push(Input::Acked { peer: self.link.name.clone(), first: *seqs.start(), last: *seqs.end() });
        }
        frames::check_own(store, vector.get(own))?;
        if self.link.acked(self.number, &runs, &vector) {
            self.inner.acks.inputs(inputs);
        }
        Ok(())
    }

    fn reported(&self, report: wire::Report) -> Result<(), StreamError> {
        let lost = frames::read_lost(&report)?;
        let (report, fill_missed) = frames::read_report(report)?;
        let store = &self.inner.store;
        frames::check_own(store, report.vector().get(store.origin()))?;
        let (report, link, blobs) = (Arc::new(report), self.link.clone(), store.blobs().clone());
        if link.reported(self.number, report.clone(), fill_missed) {
            let look = async move {
                // A full list may lack some.
                let mut found = u64::from(lost.len() == limits::REPORTED_AUDIO);
                // Until a later report has replaced this one.
                for hash in lost.into_iter().take_while(|_| Arc::strong_count(&report) > 1) {
                    found += u64::from(blobs.read(&hash).await.is_ok());
                }
                link.found_lost(&report, found);
            };
            self.inner.spawn(look);
        }
        Ok(())
    }

    fn act(&self, action: ProberAction) {
        let peer = self.link.name.clone();
        match action {
            // There is room: a probe is sent only when the one before it was answered.
            ProberAction::Send(number) => drop(self.probe.try_send(number)),
            ProberAction::Lost => self.inner.acks.input(Input::Down { peer }),
            ProberAction::Back => begin_counting(&self.inner, &self.link),
            ProberAction::Answered { sent, took } => self.inner.acks.answered(peer, sent, took),
        }
    }
}

/// Fills the stream.
struct Writer {
    inner: Arc<Inner>,
    link: Arc<Link>,
    number: StreamNumber,
    feed: FeedReader,
    tails: Tails,
    batches: mpsc::Receiver<wire::History>,
    probes: mpsc::Receiver<u64>,
    behind: watch::Sender<()>,
    out: Outgoing,
    /// Beginning of the log when the stream began.
    log_begins: Vector,
}

/// The receiver of the stream's frames has been dropped.
struct StreamClosed;

impl Writer {
    async fn run(mut self) {
        // The end of the stream also ends the reader, which reports the reason.
        let _ = self.write().await;
    }

    async fn write(&mut self) -> Result<(), StreamClosed> {
        self.send(Frame::Welcome(frames::welcome(&self.inner, &self.log_begins))).await?;
        loop {
            tokio::select! {
                biased;
                Some(number) = self.probes.recv() => {
                    let store = &self.inner.store;
                    let head = store.vector().get(store.origin());
                    let lacks_records = frames::lacks_records(store);
                    let report = self.link.report_wanted.swap(false, Relaxed);
                    self.send(Frame::Probe(wire::Probe { number, head, lacks_records, report })).await?;
                }
                () = self.feed.ready() => self.follow_feed().await?,
                () = std::future::ready(()), if self.tails.is_behind() => self.catch_up().await?,
                Some(batch) = self.batches.recv() => self.send(Frame::History(batch)).await?,
            }
        }
    }

    /// Sends the entries of the feed. A change is never sent before chunks that precede it in the feed, so that the audio of
    /// a recording is there before the change that files it. It may follow later chunks, in one frame with later changes.
    async fn follow_feed(&mut self) -> Result<(), StreamClosed> {
        let mut entries = Vec::new();
        if let Err(Overtaken) = self.feed.take(limits::FRAME_BYTES, &mut entries) {
            self.overtaken();
            return Ok(());
        }
        let mut frame = frames::Batch::default();
        for entry in entries {
            match entry {
                FeedEntry::Chunk { take, offset, bytes } => self.chunk(take, offset, bytes).await?,
                FeedEntry::Discarded { take } => {
                    self.tails.close(take);
                    self.send(Frame::Discarded(frames::discarded(take))).await?;
                }
                FeedEntry::Change(change) => {
                    if self.link.claim(self.number, change.origin, change.seq) {
                        frame.push(change.bytes.clone());
                        change.takes.iter().for_each(|take| self.tails.close(*take));
                    }
                    if frame.is_full() {
                        self.send(Frame::Live(wire::Live { change: frame.take() })).await?;
                    }
                }
            }
        }
        match frame.is_empty() {
            true => Ok(()),
            false => self.send(Frame::Live(wire::Live { change: frame.take() })).await,
        }
    }

    async fn chunk(&mut self, take: Take, offset: u64, bytes: Bytes) -> Result<(), StreamClosed> {
        if self.tails.is_crowded() {
            self.forget_closed();
        }
        let Some(skip) = self.tails.chunk(take, offset, bytes.len() as u64) else { return Ok(()) };
        let data = bytes.slice(usize::try_from(skip).unwrap_or(0)..);
        self.send(Frame::Chunk(frames::chunk(take, offset + skip, data))).await
    }

    /// Handles entries that the feed dropped before they were sent: the history lane reads the changes from the log, and
    /// the audio is read from the recordings.
    fn overtaken(&mut self) {
        self.behind.send_replace(());
        let open = self.forget_closed();
        for take in open {
            self.tails.open(take, 0, frames::here_from_start(&self.inner.store, take));
        }
    }

    /// Sends a piece of a recording of which the follower has missed some bytes.
    async fn catch_up(&mut self) -> Result<(), StreamClosed> {
        let Some((take, range)) = self.tails.behind(limits::PIECE) else { return Ok(()) };
        let recordings = self.inner.store.recordings();
        let written = recordings.coverage(take.0, take.1).map(|ranges| ranges.run_end(range.start));
        let data = match written {
            Some(end) if end > range.start => {
                recordings.read(take.0, take.1, range.start..end.min(range.end)).await.ok()
            }
            Some(_) => Some(Bytes::new()),
            None => None,
        };
        match data {
            // Filed meanwhile: the follower fetches the blob.
            None => self.tails.close(take),
            Some(data) => {
                self.tails.caught_up(take, range.start + data.len() as u64);
                if !data.is_empty() {
                    self.send(Frame::Chunk(frames::chunk(take, range.start, data))).await?;
                }
            }
        }
        Ok(())
    }

    /// At the beginning: the bytes that the follower has of the recordings in progress.
    fn open_tails(&mut self, hello: &Hello) {
        let had: HashMap<Take, u64> = hello.recordings.iter().copied().collect();
        let store = &self.inner.store;
        for (id, take, _) in store.recordings().open() {
            let take = (id, take);
            self.tails.open(take, had.get(&take).copied().unwrap_or(0), frames::here_from_start(store, take));
        }
    }

    /// Forgets the recordings that are not in progress any more; returns those that are.
    fn forget_closed(&mut self) -> HashSet<Take> {
        let recordings = self.inner.store.recordings();
        let open = recordings.open().into_iter().map(|(id, take, _)| (id, take)).collect();
        self.tails.retain(&open);
        open
    }

    async fn send(&self, frame: Frame) -> Result<(), StreamClosed> {
        let frame = SourceFrame { frame: Some(frame) };
        let bytes = frame.encoded_len();
        self.out.send(Ok(frame)).await.map_err(|_| StreamClosed)?;
        self.link.sent(bytes);
        Ok(())
    }
}
