//! How much of a plan is proposed in one entry of the log.

use crate::{
    Command, State,
    command::{BATCH_LEVEL, LONGEST_BATCH},
};

/// What is proposed first of this plan: as much of it as fits into one entry, or with `singly` its first command. `is_aside`
/// says which commands were set aside; one that was is passed over, and the others go one by one then, since parts of a
/// batch may rely on it.
///
/// A rise of the feature level is never part of a batch: what is planned behind it may be unknown to members that the rise
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
