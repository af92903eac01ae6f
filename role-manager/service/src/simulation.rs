//! Rules that a simulation breaks on purpose, to see that it would notice (rule P4).

use std::cell::Cell;

/// A rule that members on this thread break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A new leader waits for no lease of the leader before it (rule R4).
    NewLeaderWait,
    /// A leader that hears nobody goes on extending leases (rule R3).
    Quorum,
    /// A store takes part before another has confirmed that it is the latest (rule R8).
    Confirmation,
}

thread_local! {
    static BROKEN: Cell<Option<Broken>> = const { Cell::new(None) };
}

/// From now on members on this thread break this rule.
pub fn break_rule(rule: Broken) {
    BROKEN.set(Some(rule));
}

pub(crate) fn breaks(rule: Broken) -> bool {
    BROKEN.get() == Some(rule)
}
