//! Acknowledgement of writes (rules A1 to A3). A pure tracker: the streams feed it their events with the
//! time; it reports the writers that may continue and the peers that no longer count.
//!
//! A peer counts while its live tail answers within the timeout, also while it is still refilling. After the timeout
//! the peer is dropped immediately, and the writes that waited for it alone are acknowledged *alone*. A writer with less
//! time is acknowledged *alone* earlier; the peer goes on to count. The tracker remembers these writes, to be sent first when a
//! peer is back (rule A2). Each node decides for itself which peers count.

use std::collections::{BTreeMap, VecDeque};

use twinbox_ids::NodeName;

use crate::Ranges;

/// The durability of an acknowledged write (rule A3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acknowledgement {
    /// Durable here and on `peer`: survives the loss of any one disk.
    OnTwo {
        /// The other node that has the write.
        peer: NodeName,
    },
    /// Durable here, and no peer answered: survives kill and power cut; lost only with this disk.
    Alone,
}

/// A waiting writer, by the number that the caller gave it.
pub type WriteId = u64;

/// An event of the streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A live tail to `peer` is up. It counts from its first answer in time.
    Up {
        /// The peer.
        peer: NodeName,
    },
    /// The live tail to `peer` is down.
    Down {
        /// The peer.
        peer: NodeName,
    },
    /// `peer` answered a probe (or a change) on its live tail.
    Answered {
        /// The peer.
        peer: NodeName,
        /// Response time in milliseconds.
        took: u64,
    },
    /// Changes `first..=last` of this node's origin are durable here, and a writer waits for them. A peer may have
    /// acknowledged them before.
    Written {
        /// The writer.
        id: WriteId,
        /// The first change.
        first: u64,
        /// The last change; below `first` when the write changed nothing.
        last: u64,
        /// Time that the writer has, in milliseconds: it waits no longer, and no longer than the timeout.
        within: u64,
    },
    /// Changes `first..=last` of this node's origin are durable at `peer`.
    Acked {
        /// The peer.
        peer: NodeName,
        /// The first change.
        first: u64,
        /// The last change.
        last: u64,
    },
    /// Time has passed.
    Tick,
}

/// An action for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The writer may continue.
    Acknowledged {
        /// The writer.
        id: WriteId,
        /// The durability of the write.
        acknowledgement: Acknowledgement,
    },
    /// `peer` counts from now on.
    Counts {
        /// The peer.
        peer: NodeName,
    },
    /// `peer` no longer counts: it was late, or its tail is down.
    Dropped {
        /// The peer.
        peer: NodeName,
    },
}

#[derive(Debug, Default)]
struct Peer {
    counts: bool,
    acked: Ranges,
    /// Written changes that the peer has not acknowledged, with the times of the writes; filled only while the peer
    /// counts.
    pending: VecDeque<WaitingWrite>,
}

#[derive(Debug, Clone, Copy)]
struct WaitingWrite {
    first: u64,
    last: u64,
    /// Time at which the wait ends.
    until: u64,
}

impl WaitingWrite {
    fn had_by(&self, peer: &Peer) -> bool {
        self.first > self.last || peer.acked.covers(span(self.first, self.last))
    }
}

/// The tracker. Times are milliseconds on any clock that does not go back.
#[derive(Debug)]
pub struct Tracker {
    timeout: u64,
    peers: BTreeMap<NodeName, Peer>,
    waiting: BTreeMap<WriteId, WaitingWrite>,
    alone: Ranges,
}

impl Tracker {
    /// A tracker with `ack_timeout` in milliseconds.
    pub fn new(timeout: u64) -> Self {
        Self { timeout, peers: BTreeMap::new(), waiting: BTreeMap::new(), alone: Ranges::new() }
    }

    /// Changes `ack_timeout`, in milliseconds. Writes that wait keep theirs.
    pub fn set_timeout(&mut self, timeout: u64) {
        self.timeout = timeout;
    }

    /// Takes one input at time `now`; call with [`Input::Tick`] at [`Self::next_deadline`].
    pub fn handle(&mut self, input: Input, now: u64) -> Vec<Output> {
        let mut outputs = Vec::new();
        match input {
            Input::Up { peer } => {
                // The peer may have lost a disk since: acknowledgements of an earlier connection do not count.
                self.drop_peer(&peer, &mut outputs);
                self.peers.insert(peer, Peer::default());
            }
            Input::Down { peer } => {
                self.drop_peer(&peer, &mut outputs);
                self.peers.remove(&peer);
            }
            Input::Answered { peer, took } => {
                if took <= self.timeout
                    && let Some(state) = self.peers.get_mut(&peer)
                    && !state.counts
                {
                    state.counts = true;
                    outputs.push(Output::Counts { peer });
                }
            }
            Input::Written { id, first, last, within } => {
                let waiting = WaitingWrite { first, last, until: now.saturating_add(self.timeout) };
                for peer in self.peers.values_mut() {
                    if peer.counts && !waiting.had_by(peer) {
                        peer.pending.push_back(waiting);
                    }
                }
                let until = now.saturating_add(self.timeout.min(within));
                self.waiting.insert(id, WaitingWrite { until, ..waiting });
            }
            Input::Acked { peer, first, last } => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    let span = span(first, last);
                    state.acked.insert(span.clone());
                    self.alone.remove(span);
                    let mut pending = std::mem::take(&mut state.pending);
                    pending.retain(|waiting| !waiting.had_by(state));
                    state.pending = pending;
                }
            }
            Input::Tick => {}
        }
        self.settle(now, &mut outputs);
        outputs
    }

    /// The next time at which a timeout expires, unless an input comes before.
    pub fn next_deadline(&self) -> Option<u64> {
        let pending = self.peers.values().filter_map(|peer| peer.pending.front());
        pending.chain(self.waiting.values()).map(|waiting| waiting.until).min()
    }

    /// True while `peer` counts.
    pub fn counts(&self, peer: &NodeName) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.counts)
    }

    /// Number of peers that count.
    pub fn counting(&self) -> usize {
        self.peers.values().filter(|peer| peer.counts).count()
    }

    /// The changes of this node's origin that were acknowledged *alone* and that no peer has yet: sent first when a
    /// peer is back.
    pub fn alone(&self) -> &Ranges {
        &self.alone
    }

    /// Drops late peers, then acknowledges the writes that need not wait any longer.
    fn settle(&mut self, now: u64, outputs: &mut Vec<Output>) {
        let late = |waiting: &WaitingWrite| now >= waiting.until;
        let late_peers: Vec<NodeName> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.pending.front().is_some_and(late))
            .map(|(name, _)| name.clone())
            .collect();
        late_peers.iter().for_each(|peer| self.drop_peer(peer, outputs));

        let (peers, alone) = (&self.peers, &mut self.alone);
        let anyone = peers.values().any(|peer| peer.counts);
        self.waiting.retain(|&id, waiting| {
            // A peer that was dropped and acknowledged afterwards has the write, whether it counts or not. An empty
            // write is on two only if a peer counts.
            let empty = waiting.first > waiting.last;
            let holder = peers.iter().find(|(_, peer)| waiting.had_by(peer) && (peer.counts || !empty));
            let acknowledgement = match holder {
                Some((peer, _)) => Acknowledgement::OnTwo { peer: peer.clone() },
                None if anyone && !late(waiting) => return true,
                None => {
                    alone.insert(span(waiting.first, waiting.last));
                    Acknowledgement::Alone
                }
            };
            outputs.push(Output::Acknowledged { id, acknowledgement });
            false
        });
    }

    fn drop_peer(&mut self, peer: &NodeName, outputs: &mut Vec<Output>) {
        if let Some(state) = self.peers.get_mut(peer)
            && state.counts
        {
            state.counts = false;
            state.pending.clear();
            outputs.push(Output::Dropped { peer: peer.clone() });
        }
    }
}

fn span(first: u64, last: u64) -> std::ops::Range<u64> {
    first..last.saturating_add(1)
}
