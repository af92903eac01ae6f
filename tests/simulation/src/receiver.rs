//! The outside world, which sees and remembers every effect.

use std::{collections::BTreeMap, fmt};

use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::Duty;

/// A rule was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// An effect of an epoch arrived after one of a later epoch: two members acted at the same time.
    Overlap {
        /// Time in microseconds of global time.
        at: u64,
        /// The duty.
        duty: Duty,
        /// The epoch that should have ended.
        late: Epoch,
        /// The epoch that had begun.
        begun: Epoch,
    },
    /// Two incarnations of a process acted in one epoch.
    TwoIncarnations {
        /// Time in microseconds of global time.
        at: u64,
        /// The duty.
        duty: Duty,
        /// The epoch.
        epoch: Epoch,
    },
    /// No faults for long enough, and still no member acted or a status was wrong.
    Stuck {
        /// The missing condition.
        detail: String,
    },
    /// Nodes are live, and none of them was in service (rule R9).
    Unserved,
    /// The planner repeated a plan that had just been carried out.
    Restless {
        /// The repeated plan.
        detail: String,
    },
    /// An effect of the outbox arrived again, and its receiver cannot tell, or nothing excuses it (rule E1).
    Repeated {
        /// Time in microseconds of global time.
        at: u64,
        /// The effect, and the rule.
        detail: String,
    },
    /// An effect of the outbox is done, and never arrived (rule E1).
    Lost {
        /// The effect.
        detail: String,
    },
    /// An effect of the outbox was attempted or given up against rule R11.
    Outbox {
        /// Time in microseconds of global time.
        at: u64,
        /// The effect, and the rule.
        detail: String,
    },
    /// Two incarnations inherited the calls of one (rule C4).
    TwoHeirs {
        /// The heirs, and the node of the ended incarnation.
        detail: String,
    },
    /// The record does not match the events.
    Untrue {
        /// The difference.
        detail: String,
    },
}

impl Violation {
    /// Whether the receiver has seen it.
    pub fn is_seen_outside(&self) -> bool {
        matches!(self, Self::Overlap { .. } | Self::TwoIncarnations { .. })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap { at, duty, late, begun } => {
                write!(f, "at {at} µs {late} acts under {duty}, after {begun} has begun")
            }
            Self::TwoIncarnations { at, duty, epoch } => {
                write!(f, "at {at} µs a second process acts under {duty} in {epoch}")
            }
            Self::Stuck { detail } => write!(f, "long after all faults were healed: {detail}"),
            Self::Unserved => {
                f.write_str("long after all faults were healed: nodes are live and none is in service")
            }
            Self::Repeated { at, detail } | Self::Outbox { at, detail } => write!(f, "at {at} µs {detail}"),
            Self::Lost { detail } | Self::TwoHeirs { detail } => f.write_str(detail),
            Self::Restless { detail } => write!(f, "the planner repeats an applied plan: {detail}"),
            Self::Untrue { detail } => write!(f, "a record does not match the events: {detail}"),
        }
    }
}

/// One effect.
#[derive(Debug, Clone)]
pub struct Effect {
    /// The duty.
    pub duty: Duty,
    /// The epoch.
    pub epoch: Epoch,
    /// The incarnation of the process.
    pub incarnation: Incarnation,
    /// Whether its epoch is a solo epoch (rule R7).
    pub solo: bool,
    /// It was checked before a pause that its process could not notice, and sent after it.
    pub paused: bool,
}

/// The effects of one duty.
#[derive(Debug, Clone, Default)]
struct History {
    /// The highest agreed epoch.
    last: Option<(Epoch, Incarnation)>,
    /// The highest solo epoch of each node.
    solo: BTreeMap<NodeName, (Epoch, Incarnation)>,
    /// Time in microseconds of global time, and epoch, of the last effect.
    latest: Option<(u64, Epoch)>,
}

/// The receiver of the effects of both simulations; it judges them, each duty for itself.
#[derive(Debug, Clone, Default)]
pub struct Receiver {
    duties: BTreeMap<Duty, History>,
    /// Late writes after a pause, recognized by their epoch and ignored.
    pub late_writes: u64,
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
        let Effect { duty, epoch, incarnation, solo, paused } = effect;
        self.effects += 1;
        let history = self.duties.entry(*duty).or_default();
        if let Some(begun) = history.later_epoch(effect) {
            if *paused {
                // Any receiver can recognize it by its epoch.
                self.late_writes += 1;
                return Ok(());
            }
            return Err(Violation::Overlap { at, duty: *duty, late: epoch.clone(), begun });
        }
        history.latest = Some((at, epoch.clone()));
        let known = match solo {
            true => history.solo.get(&epoch.node),
            false => history.last.as_ref(),
        };
        match known {
            Some((begun, other)) if begun == epoch && other != incarnation => {
                return Err(Violation::TwoIncarnations { at, duty: *duty, epoch: epoch.clone() });
            }
            Some((begun, _)) if begun == epoch => return Ok(()),
            _ => {}
        }
        let begun = (epoch.clone(), *incarnation);
        match solo {
            true => {
                self.solo_epochs += 1;
                history.solo.insert(epoch.node.clone(), begun);
            }
            false => {
                self.epochs += 1;
                history.last = Some(begun);
            }
        }
        Ok(())
    }

    /// Time in microseconds of global time, and epoch, of the last effect of this duty.
    pub fn latest(&self, duty: Duty) -> Option<&(u64, Epoch)> {
        self.duties.get(&duty).and_then(|history| history.latest.as_ref())
    }
}

impl History {
    /// An epoch that has begun and should have ended this one. Two concurrent solo epochs are permitted by `assume`.
    fn later_epoch(&self, effect: &Effect) -> Option<Epoch> {
        let agreed = self.last.iter().map(|(begun, _)| begun).filter(|begun| **begun > effect.epoch);
        let own = self.solo.get(&effect.epoch.node).into_iter().filter(|_| effect.solo);
        let others = self.solo.values().filter(|_| !effect.solo);
        let solo = own.chain(others).map(|(begun, _)| begun).filter(|begun| **begun > effect.epoch);
        agreed.chain(solo).next().cloned()
    }
}
