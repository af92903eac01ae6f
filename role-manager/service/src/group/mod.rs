//! The group: possible and agreed members, who joins, votes and leaves, and other groups of this cluster.

pub(crate) mod go_on_alone;
pub(crate) mod members;
pub(crate) mod membership_reconciler;
pub(crate) mod other_group_members;
pub(crate) mod roster;
