//! The outside world, which sees and remembers every effect.

use std::{collections::BTreeMap, fmt};

use twinbox_ids::{Epoch, Incarnation, NodeName};

/// A rule was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// An effect of an epoch arrived after one of a later epoch: two members acted at the same time.
    Overlap {
        /// Time in microseconds of global time.
        at: u64,
        /// The epoch that should have ended.
        late: Epoch,
        /// The epoch that had begun.
        begun: Epoch,
    },
    /// Two incarnations of a process acted in one epoch.
    TwoLives {
        /// Time in microseconds of global time.
        at: u64,
        /// The epoch.
        epoch: Epoch,
    },
    /// No faults for long enough, and still no member acted or a status was wrong.
    Stuck {
        /// The missing condition.
        what: String,
    },
    /// Nodes are alive, and none of them was in service (rule R9).
    Unserved,
    /// The planner repeated a plan that had just been carried out.
    Restless {
        /// The repeated plan.
        what: String,
    },
    /// The record does not match the events.
    Untrue {
        /// The difference.
        what: String,
    },
}

impl Violation {
    /// Whether the receiver has seen it.
    pub fn is_seen_outside(&self) -> bool {
        matches!(self, Self::Overlap { .. } | Self::TwoLives { .. })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap { at, late, begun } => write!(f, "at {at} µs {late} acts, after {begun} has begun"),
            Self::TwoLives { at, epoch } => write!(f, "at {at} µs a second process acts in {epoch}"),
            Self::Stuck { what } => write!(f, "long after everything was healed: {what}"),
            Self::Unserved => f.write_str("long after everything was healed: nodes live and none is in service"),
            Self::Restless { what } => write!(f, "the planner is not content with what it planned: {what}"),
            Self::Untrue { what } => write!(f, "what is recorded is not true: {what}"),
        }
    }
}

/// One effect.
#[derive(Debug, Clone)]
pub struct Effect {
    /// The epoch.
    pub epoch: Epoch,
    /// The incarnation of the process.
    pub life: Incarnation,
    /// Whether its epoch is a solo epoch (rule R7).
    pub solo: bool,
    /// It was checked before a pause that its process could not notice, and sent after it.
    pub paused: bool,
}

/// The receiver of the effects of both simulations; it judges them.
#[derive(Debug, Clone, Default)]
pub struct Receiver {
    /// The highest agreed epoch.
    last: Option<(Epoch, Incarnation)>,
    /// The highest solo epoch of each node.
    alone: BTreeMap<NodeName, (Epoch, Incarnation)>,
    /// Late writes after a pause, recognized by their epoch and ignored.
    pub told: u64,
    /// Time in microseconds of global time, and epoch, of the last effect.
    pub latest: Option<(u64, Epoch)>,
    /// Effects that arrived.
    pub effects: u64,
    /// Agreed epochs in which a member acted.
    pub epochs: u64,
    /// Solo epochs in which a node acted.
    pub solo_epochs: u64,
}

impl Receiver {
    /// Accepts an effect at this microsecond of global time.
    pub fn accept(&mut self, at: u64, effect: &Effect) -> Result<(), Violation> {
        let Effect { epoch, life, solo, paused } = effect;
        self.effects += 1;
        if let Some(begun) = self.later_than(effect) {
            if *paused {
                // Any receiver can recognize it by its epoch.
                self.told += 1;
                return Ok(());
            }
            return Err(Violation::Overlap { at, late: epoch.clone(), begun });
        }
        self.latest = Some((at, epoch.clone()));
        let known = match solo {
            true => self.alone.get(&epoch.node),
            false => self.last.as_ref(),
        };
        match known {
            Some((begun, other)) if begun == epoch && other != life => {
                return Err(Violation::TwoLives { at, epoch: epoch.clone() });
            }
            Some((begun, _)) if begun == epoch => return Ok(()),
            _ => {}
        }
        let begun = (epoch.clone(), *life);
        match solo {
            true => {
                self.solo_epochs += 1;
                self.alone.insert(epoch.node.clone(), begun);
            }
            false => {
                self.epochs += 1;
                self.last = Some(begun);
            }
        }
        Ok(())
    }

    /// An epoch that has begun and should have ended this one. Two concurrent solo epochs are permitted by `assume`.
    fn later_than(&self, effect: &Effect) -> Option<Epoch> {
        let agreed = self.last.iter().map(|(begun, _)| begun).filter(|begun| **begun > effect.epoch);
        let own = self.alone.get(&effect.epoch.node).into_iter().filter(|_| effect.solo);
        let others = self.alone.values().filter(|_| !effect.solo);
        let alone = own.chain(others).map(|(begun, _)| begun).filter(|begun| **begun > effect.epoch);
        agreed.chain(alone).next().cloned()
    }
}
