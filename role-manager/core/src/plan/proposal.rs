//! The part of a plan that is proposed in one log entry.

use crate::{
    Command, State,
    command::{BATCH_LEVEL, LONGEST_BATCH},
};

/// The first proposal of this plan: as much as fits into one entry, or with `singly` its first command. `is_aside`
/// tells which commands were set aside. Such a command is skipped, and then the others go one by one, since parts of a
/// batch may depend on it.
///
/// A rise of the feature level is never part of a batch: the commands after it may be unknown to members that the rise
/// has not reached.
pub fn proposal(
    plan: Vec<Command>,
    state: &State,
    singly: bool,
    is_aside: impl Fn(&Command) -> bool,
) -> Option<Command> {
    let planned = plan.len();
    let mut left = plan.into_iter().filter(|command| !is_aside(command)).collect::<Vec<_>>();
    let goes_with = |command: &&Command| !matches!(command, Command::RaiseLevel { .. });
    let together = match singly || state.feature_level < BATCH_LEVEL || left.len() < planned {
        true => 0,
        false => left.iter().take_while(goes_with).count().min(LONGEST_BATCH),
    };
    if together < 2 {
        return (!left.is_empty()).then(|| left.swap_remove(0));
    }
    left.truncate(together);
    let batch = Command::Batch(left);
    match is_aside(&batch) {
        true => batch.parts().first().cloned(),
        false => Some(batch),
    }
}
