//! The outside world, which sees every effect and forgets none.

use std::fmt;

use twinbox_ids::{Epoch, Incarnation};

use crate::clock::Micros;

/// A rule was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// An effect of an epoch arrived after one of a later epoch: two acted at once.
    Overlap {
        /// When, in microseconds of global time.
        at: u64,
        /// The epoch that should have been over.
        late: Epoch,
        /// The one that had begun.
        begun: Epoch,
    },
    /// Two lives of a process acted in one epoch.
    TwoLives {
        /// When, in microseconds of global time.
        at: u64,
        /// In which epoch.
        epoch: Epoch,
    },
    /// All was well for long enough, and still nobody acted or a status was wrong.
    Stuck {
        /// What was missing.
        what: String,
    },
    /// The planner wanted something again that had just been done.
    Restless {
        /// What it wanted.
        what: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap { at, late, begun } => write!(f, "at {at} µs {late} acts, after {begun} has begun"),
            Self::TwoLives { at, epoch } => write!(f, "at {at} µs a second process acts in {epoch}"),
            Self::Stuck { what } => write!(f, "long after everything was healed: {what}"),
            Self::Restless { what } => write!(f, "the planner is not content with what it planned: {what}"),
        }
    }
}

/// Who gets the effects.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    last: Option<(Epoch, Incarnation)>,
    pub(crate) effects: u64,
    pub(crate) epochs: u64,
}

impl Receiver {
    /// An effect arrives.
    pub(crate) fn accept(&mut self, at: Micros, epoch: &Epoch, life: Incarnation) -> Result<(), Violation> {
        self.effects += 1;
        match &self.last {
            Some((begun, _)) if epoch < begun => {
                Err(Violation::Overlap { at, late: epoch.clone(), begun: begun.clone() })
            }
            Some((begun, other)) if epoch == begun && life != *other => {
                Err(Violation::TwoLives { at, epoch: epoch.clone() })
            }
            Some((begun, _)) if epoch == begun => Ok(()),
            _ => {
                self.epochs += 1;
                self.last = Some((epoch.clone(), life));
                Ok(())
            }
        }
    }
}
