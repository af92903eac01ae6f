//! Choice of the Raft leader (rule R10).

use std::time::Duration;

use twinbox_ids::NodeName;
use twinbox_roles_core::{FeatureLevels, MemberKind, State};

/// Facts about a voter that might lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    /// Name of the voter.
    pub name: NodeName,
    /// Whether it is in contact and its log is complete.
    pub fit: bool,
    /// Time that a majority takes to answer it, if known.
    pub round_trip: Option<Duration>,
    /// The feature levels that it knows.
    pub feature_levels: FeatureLevels,
}

/// Round trips that differ by less count as equal: on one network the difference is only load.
const SAME: Duration = Duration::from_millis(20);

/// Voter that should lead instead of `own`, if any: not the publisher, so that one failure does not take both; then the
/// one with the shortest round trip to a majority; then a witness before a node; then by name. Leadership moves only
/// off the publisher or off a member being removed: every new leader has to wait before it moves anything.
pub fn better_leader(state: &State, own: &NodeName, voters: &[Voter]) -> Option<NodeName> {
    let leaving = |name: &NodeName| !state.members.get(name).is_some_and(|member| member.activated);
    let publishes = |name: &NodeName| state.publisher() == Some(name);
    if !publishes(own) && !leaving(own) {
        return None;
    }
    let rank = |voter: &&Voter| {
        let trip = voter.round_trip.map_or(u128::MAX, |trip| trip.as_millis() / SAME.as_millis());
        let witness = state.members.get(&voter.name).is_some_and(|member| member.kind == MemberKind::Witness);
        (publishes(&voter.name), trip, !witness, voter.name.clone())
    };
    voters
        .iter()
        .filter(|voter| voter.name != *own && voter.fit && voter.feature_levels.supports(state.feature_level))
        .filter(|voter| !leaving(&voter.name))
        .min_by_key(rank)
        .map(|voter| voter.name.clone())
}
