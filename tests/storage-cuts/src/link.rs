//! The streams of a pair: one ordered channel each way, which ends with either process. As in the product, a stream begins with the
//! recordings in progress and the changes that the follower lacks, and goes on with the feed. A change is applied together with its
//! commit, once its audio is there, and then acknowledged.

use std::collections::VecDeque;

use bytes::Bytes;
use twinbox_replication_core::{BlobRef, CommitAssembly, ack::Input, tails::Take};
use twinbox_replication_feed::{FeedEntry, FeedReader};
use twinbox_replication_store::{Store, codec};

use crate::{finding::Finding, history::History, mistake::Mistake, node::settle};

/// A message from one node to the other.
enum Frame {
    Chunk {
        take: Take,
        offset: u64,
        bytes: Bytes,
    },
    Discarded(Take),
    Change(Bytes),
    /// A change of the receiver is durable at the sender.
    Acked(u64),
}

/// The streams, each by the place of its source, and the frames, by the place of their receiver.
pub(crate) struct Link {
    feeds: Vec<FeedReader>,
    frames: [VecDeque<Frame>; 2],
    /// Changes of commits that have not come as a whole.
    assemblies: [CommitAssembly; 2],
}

impl History {
    /// Opens the streams, if both nodes are up.
    pub(crate) async fn connect(&mut self) -> Result<(), Finding> {
        let stores = [self.nodes[0].store()?, self.nodes[1].store()?];
        // Before the changes and recordings that are there are read: what comes meanwhile is in both, and sent once more.
        let feeds = stores.iter().map(|store| store.feed().reader()).collect();
        let mut link = Link { feeds, frames: Default::default(), assemblies: Default::default() };
        for (from, to) in [(0, 1), (1, 0)] {
            let recordings = stores[from].recordings();
            for (id, take, _) in recordings.open() {
                for range in recordings.coverage(id, take).unwrap_or_default().iter() {
                    let bytes = recordings.read(id, take, range.clone()).await?;
                    link.frames[to].push_back(Frame::Chunk { take: (id, take), offset: range.start, bytes });
                }
            }
            let missing = stores[from].changes_after(&stores[to].vector(), usize::MAX)?;
            let missing = missing.iter().map(|change| Frame::Change(codec::change_to_bytes(change).into()));
            link.frames[to].extend(missing);
        }
        self.link = Some(link);
        for (at, other) in [(0, 1), (1, 0)] {
            let peer = self.nodes[other].name.clone();
            self.input(at, Input::Up { peer: peer.clone() });
            self.input(at, Input::Answered { peer, took: 1 });
        }
        Ok(())
    }

    /// Ends the streams. A node that is up waits for the other one no longer.
    pub(crate) fn disconnect(&mut self) {
        if self.link.take().is_none() {
            return;
        }
        for (at, other) in [(0, 1), (1, 0)] {
            let peer = self.nodes[other].name.clone();
            self.input(at, Input::Down { peer });
        }
    }

    /// Sends the next entries of a node's feed.
    pub(crate) fn send(&mut self, from: usize) -> Result<(), Finding> {
        let origin = self.nodes[from].store()?.origin();
        let Some(link) = &mut self.link else { return Ok(()) };
        let mut entries = Vec::new();
        link.feeds[from].take(usize::MAX, &mut entries).map_err(Finding::unexpected)?;
        let mut sent = Vec::new();
        for entry in entries {
            link.frames[1 - from].push_back(match entry {
                FeedEntry::Chunk { take, offset, bytes } => Frame::Chunk { take, offset, bytes },
                FeedEntry::Discarded { take } => Frame::Discarded(take),
                FeedEntry::Change(change) => {
                    sent.extend((change.origin == origin).then_some(change.seq));
                    Frame::Change(change.bytes.clone())
                }
            });
        }
        if self.mistake == Mistake::AcknowledgedWhenSent {
            sent.into_iter().for_each(|seq| self.acked(from, seq));
        }
        Ok(())
    }

    /// Lets a node take the next frame that was sent to it; false if there is none.
    pub(crate) async fn receive(&mut self, at: usize) -> Result<bool, Finding> {
        let Some(frame) = self.link.as_mut().and_then(|link| link.frames[at].pop_front()) else { return Ok(false) };
        let store = self.nodes[at].store()?;
        match frame {
            Frame::Chunk { take: (id, take), offset, bytes } => {
                store.recordings().insert(id, take, offset, bytes)?;
            }
            Frame::Discarded((id, take)) => store.recordings().discard(id, take).await?,
            Frame::Change(bytes) => self.take_change(at, &store, &bytes).await?,
            Frame::Acked(seq) => self.acked(at, seq),
        }
        Ok(true)
    }

    async fn take_change(&mut self, at: usize, store: &Store, bytes: &[u8]) -> Result<(), Finding> {
        let source = self.nodes[1 - at].store()?;
        let change = codec::change_from_bytes(bytes).map_err(Finding::unexpected)?;
        let (origin, seq) = (change.origin, change.seq);
        let mut applied = vec![(origin, seq)];
        if !store.has(origin, seq) {
            let Some(link) = &mut self.link else { return Ok(()) };
            let missing = |origin, from| store.first_missing(origin, from);
            let Some(commit) = link.assemblies[at].take(change, bytes.len(), missing) else { return Ok(()) };
            applied = commit.iter().map(|change| (change.origin, change.seq)).collect();
            let audio: Vec<BlobRef> = commit.iter().flat_map(|change| change.delta.blobs()).copied().collect();
            if self.mistake != Mistake::AcknowledgedWithoutAudio {
                for blob in audio {
                    get(store, &source, blob).await?;
                }
            }
            store.apply(commit).await?;
        }
        let Some(link) = &mut self.link else { return Ok(()) };
        for (origin, seq) in applied {
            if origin == source.origin() && store.is_applied(origin, seq) {
                link.frames[1 - at].push_back(Frame::Acked(seq));
            }
        }
        Ok(())
    }

    /// A change of this node is on both disks.
    fn acked(&mut self, at: usize, seq: u64) {
        let peer = self.nodes[1 - at].name.clone();
        self.input(at, Input::Acked { peer, first: seq, last: seq });
    }
}

/// Makes audio of the chunks that came, or else fetches it.
async fn get(store: &Store, source: &Store, blob: BlobRef) -> Result<(), Finding> {
    if !store.recordings().seal_from_chunks(blob).await? {
        let bytes = source.blobs().read(&blob.hash).await?;
        store.blobs().put_as(blob.hash, bytes).await?;
        store.recordings().seal_from_chunks(blob).await?;
    }
    settle(store).await
}
