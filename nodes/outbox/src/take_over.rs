//! Decision about effects whose attempt has no outcome when a node begins the duty (rules E1, R11).

use twinbox_ids::Incarnation;

use crate::Effect;

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
        // only lost the duty.
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
