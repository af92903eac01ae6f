//! Decision about effects whose attempt has no outcome when a node begins the duty (rules E1, R11).

use twinbox_ids::{Epoch, Incarnation};
use twinbox_replication_core::Edit;

use crate::{Effect, effect::set, schema};

/// Decision of a node that begins the duty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TakeOver {
    /// Attempt it when it is due.
    Attempt,
    /// Its process died during attempt `attempt`: count the death, and attempt it with no other beside it.
    Suspect {
        /// The attempt.
        attempt: u32,
        /// Count of deaths with this one.
        deaths: u32,
    },
    /// Give it up, with this reason.
    GiveUp {
        /// Reason for administrators.
        reason: String,
    },
}

/// Decides about an effect that is not at its end. `own` is the process that begins the duty: its own attempts ended
/// with the lease, not by a death.
///
/// An attempt of another process without an outcome means that the process died or was cut off during it. The first
/// time, the effect is retried alone, since many others were under way that did not kill anything. If that attempt ends
/// the same way, it is given up.
pub fn take_over(effect: &Effect, own: Incarnation) -> TakeOver {
    let Some(attempt) = effect.unfinished() else { return TakeOver::Attempt };
    if effect.new.channel.at_most_once() {
        let reason = format!(
            "the result of attempt {} is unknown, and the receiver could not tell a repeat",
            attempt.number
        );
        return TakeOver::GiveUp { reason };
    }
    if attempt.incarnation == own {
        return TakeOver::Attempt;
    }
    let failed = effect.failure.as_ref().map_or(0, |(number, _)| *number);
    match effect.deaths {
        // Counted already, by a node that lost the duty before it could attempt it.
        Some((counted, _)) if counted == attempt.number => TakeOver::Attempt,
        // This was the attempt with no other beside it. If the outcome of the one before arrived late, that process had
        // only lost the duty. Or another node, which had not seen that attempt, failed in one of the same number: the records
        // cannot tell, and the effect gets one more attempt, alone.
        Some((counted, deaths)) if counted.saturating_add(1) == attempt.number && failed < counted => {
            let deaths = deaths.saturating_add(1);
            TakeOver::GiveUp { reason: format!("{deaths} processes ended while they attempted it, the last alone") }
        }
        // An attempt alone since then harmed nothing.
        deaths => {
            TakeOver::Suspect { attempt: attempt.number, deaths: deaths.map_or(0, |(_, n)| n).saturating_add(1) }
        }
    }
}

/// The edits with which a holder asks the other members for the attempts of earlier holders, in this epoch.
pub fn asks_for_attempts(epoch: &Epoch) -> Vec<Edit> {
    vec![set(schema::ASKED, epoch.to_string().into_bytes())]
}

/// Whether a new holder knows each attempt of the holders before it, so that it may attempt what receivers cannot tell from a
/// repeat. `nodes` is the number of members that hold data, this one included; `heard` is the number of others whose changes
/// are all here as they were after this epoch began.
///
/// An attempt is on two of the nodes before its act. If this node has the changes of all but one, it has those of one of the
/// two. The one that is left out may be the earlier holder, which died. One answer is needed in any case: a cluster that has
/// two nodes now may have had three when the attempt was made.
pub fn knows_all_attempts(nodes: usize, heard: usize) -> bool {
    nodes < 2 || heard >= nodes.saturating_sub(2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair of nodes that an attempt may be on, and every set of nodes that the new holder may have heard.
    #[test]
    fn a_holder_that_knows_all_attempts_has_heard_one_of_any_two_nodes() {
        for nodes in 1..=6_u32 {
            for heard in (0..1_u32 << nodes).filter(|heard| heard & 1 == 1) {
                let others = heard.count_ones() as usize - 1;
                let misses = |pair: u32| pair.count_ones() == 2 && pair & heard == 0;
                let missed = (0..1_u32 << nodes).any(misses);
                let expected = !missed && (nodes == 1 || others > 0);
                assert_eq!(knows_all_attempts(nodes as usize, others), expected, "{heard:b} of {nodes} nodes");
            }
        }
    }
}
