//! The speed of the streams: sampled once a second, for administrators.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::{NodeName, Timestamp};
use twinbox_replication_store::{StoreError, codec};

use crate::{Peers, peers::Inner};

/// Time between two samples, and the number of samples that a rate is made of.
const SAMPLE: (Duration, usize) = (Duration::from_secs(1), 11);
/// Changes whose bytes are read to estimate those of all that a peer lacks.
const READ: usize = 1_000;

/// Progress of the stream to one peer.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerProgress {
    /// The peer.
    pub name: NodeName,
    /// Time since when the peer has followed this node; `None` while it does not.
    pub connected_since: Option<Timestamp>,
    /// Seconds since the peer had everything that was here; `None` if it never had in this process's life.
    pub behind_s: Option<u64>,
    /// Changes that the peer confirmed per second, over ten seconds.
    pub rate: f64,
}

/// Progress of this node in getting the changes and rows of the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FillProgress {
    /// Changes here.
    pub here: u64,
    /// Changes that a peer is known to have and that are not here.
    pub missing: u64,
    /// Changes that came per second, over ten seconds.
    pub rate: f64,
    /// The scan of a peer's rows, while there is one.
    pub scan: Option<ScanProgress>,
}

/// Progress of a scan of a peer's rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScanProgress {
    /// Rows that came.
    pub rows: u64,
    /// Rows that the peer has, about; 0 if it did not know.
    pub of: u64,
    /// Rows that came per second, over ten seconds.
    pub rate: f64,
}

/// The samples of all streams.
#[derive(Default)]
pub(crate) struct Samples(Mutex<State>);

#[derive(Default)]
struct State {
    peers: BTreeMap<NodeName, PeerSamples>,
    here: Counted,
    /// Rows of the scan under way.
    scanned: Counted,
}

#[derive(Default)]
struct PeerSamples {
    connected: Option<Timestamp>,
    caught_up: Option<BootInstant>,
    confirmed: Counted,
}

/// A number that rises, at the last few samples.
#[derive(Default)]
struct Counted(VecDeque<(BootInstant, u64)>);

impl Counted {
    fn add(&mut self, now: BootInstant, number: u64) {
        if self.0.len() >= SAMPLE.1 {
            self.0.pop_front();
        }
        self.0.push_back((now, number));
    }

    /// The rise per second.
    fn rate(&self) -> f64 {
        let (Some((from, low)), Some((to, high))) = (self.0.front(), self.0.back()) else { return 0.0 };
        let seconds = to.since(*from).as_secs_f64();
        if seconds > 0.0 { high.saturating_sub(*low) as f64 / seconds } else { 0.0 }
    }
}

impl Samples {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes samples until dropped.
pub(crate) async fn run(inner: Arc<Inner>) {
    loop {
        let (now, vector) = (BootInstant::now(), inner.store.vector());
        let links = inner.links.all();
        {
            let mut state = inner.samples.state();
            state.here.add(now, vector.total());
            match inner.state_fills.current() {
                Some((rows, _)) => state.scanned.add(now, rows),
                None => state.scanned = Counted::default(),
            }
            state.peers.retain(|name, _| links.iter().any(|link| link.name == *name));
            for link in links {
                let samples = state.peers.entry(link.name.clone()).or_default();
                samples.connected = link.followed().then(|| samples.connected.unwrap_or_else(wall));
                if link.followed() && link.lag(&vector) == 0 {
                    samples.caught_up = Some(now);
                }
                samples.confirmed.add(now, link.has().total());
            }
        }
        sleep(SAMPLE.0).await;
    }
}

impl Peers {
    /// Progress of the stream to each peer, by name.
    pub fn progress(&self) -> Vec<PeerProgress> {
        let (state, vector) = (self.inner().samples.state(), self.inner().store.vector());
        let progress = |(name, samples): (&NodeName, &PeerSamples)| {
            let has_all =
                self.inner().links.get(name).is_some_and(|link| link.followed() && link.lag(&vector) == 0);
            PeerProgress {
                name: name.clone(),
                connected_since: samples.connected,
                behind_s: if has_all { Some(0) } else { samples.caught_up.map(|at| at.elapsed().as_secs()) },
                rate: samples.confirmed.rate(),
            }
        };
        state.peers.iter().map(progress).collect()
    }

    /// Progress of this node in getting the changes and rows of the others.
    pub fn fill_progress(&self) -> FillProgress {
        let (here, missing) = (self.inner().store.vector().total(), self.behind());
        let state = self.inner().samples.state();
        let scan = self.inner().state_fills.current();
        let scan = scan.map(|(rows, of)| ScanProgress { rows, of, rate: state.scanned.rate() });
        FillProgress { here, missing, rate: state.here.rate(), scan }
    }

    /// Bytes of the changes that are here and that a peer is not known to have, estimated from the first of them. Reads the
    /// log: not for a thread that serves calls.
    pub fn lag_bytes(&self, peer: &NodeName) -> Result<u64, StoreError> {
        let store = &self.inner().store;
        let Some(link) = self.inner().links.get(peer) else { return Ok(0) };
        let lag = link.lag(&store.vector());
        if lag == 0 {
            return Ok(0);
        }
        let changes = store.changes_after(&link.has(), READ)?;
        let bytes: u64 = changes.iter().map(|change| codec::encode_change(change).len() as u64).sum();
        Ok(bytes.saturating_mul(lag) / (changes.len() as u64).max(1))
    }
}

#[cfg(test)]
#[path = "../tests/unit/progress.rs"]
mod tests;
