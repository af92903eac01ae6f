//! The outcome of an attempt, as edits of the effect and as the result for the effects that it covers.

use twinbox_ids::Timestamp;
use twinbox_replication_core::Edit;

use crate::{Effect, GatheredEnd, covers, dead, done, failed, not_taken};

/// An outcome of an attempt, or a decision without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EffectOutcome {
    /// Done; the text is the receiver's receipt.
    Done(String),
    /// Done as with [`Self::Done`]; the message of the cause is deleted in the same commit.
    DoneDeleting(String),
    /// Not wanted any more, for this reason: it counts as done, and the receiver has got nothing now.
    Unwanted(String),
    /// The attempt failed with this reason, and the receiver may have it; the next is at that time.
    Failed(String, Timestamp),
    /// The attempt failed with this reason, and the receiver has nothing of it; the next is at that time.
    NotTaken(String, Timestamp),
    /// Given up for this reason.
    Dead(String),
    /// Given up because the receiver refused it, for this reason: it has nothing of this attempt.
    Refused(String),
}

impl EffectOutcome {
    /// The receipt or reason.
    pub fn reason(&self) -> &str {
        match self {
            Self::Done(text) | Self::DoneDeleting(text) | Self::Unwanted(text) => text,
            Self::Failed(text, _) | Self::NotTaken(text, _) | Self::Dead(text) | Self::Refused(text) => text,
        }
    }

    /// True if another attempt follows.
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(..) | Self::NotTaken(..))
    }

    /// True if the secret of an effect is not needed after this outcome.
    pub fn forgets_secret(&self, effect: &Effect, now: Timestamp) -> bool {
        match self {
            Self::Done(_) | Self::DoneDeleting(_) | Self::Unwanted(_) => true,
            Self::Failed(..) | Self::NotTaken(..) => false,
            // An administrator may correct the cause and retry it.
            Self::Dead(_) | Self::Refused(_) => effect.new.expires < now,
        }
    }

    /// The edits of the effect, and the result for those that it covers. `elsewhere`: another process attempts it by now,
    /// perhaps with other messages.
    pub fn edits(&self, effect: &Effect, elsewhere: bool, now: Timestamp) -> (Vec<Edit>, GatheredEnd) {
        let number = effect.attempts();
        let unknown = number > effect.not_taken;
        match self {
            Self::Done(receipt) | Self::DoneDeleting(receipt) => {
                let taken = if elsewhere { GatheredEnd::Over { unknown: true } } else { GatheredEnd::Taken };
                (done(now, receipt), taken)
            }
            Self::Unwanted(reason) => (done(now, reason), GatheredEnd::Over { unknown }),
            Self::Failed(reason, next) => (failed(number, *next, reason), GatheredEnd::Again(*next)),
            Self::NotTaken(reason, next) => {
                let nothing_left = not_taken(effect);
                if nothing_left.is_empty() {
                    return (failed(number, *next, reason), GatheredEnd::Again(*next));
                }
                let set = if effect.covers.is_empty() { Vec::new() } else { covers(&[]) };
                ([failed(number, *next, reason), nothing_left, set].concat(), GatheredEnd::Apart(*next))
            }
            Self::Dead(reason) => (dead(now, reason), GatheredEnd::Over { unknown }),
            Self::Refused(reason) => {
                let earlier = number > effect.not_taken.saturating_add(1);
                (dead(now, reason), GatheredEnd::Over { unknown: earlier || elsewhere })
            }
        }
    }
}
