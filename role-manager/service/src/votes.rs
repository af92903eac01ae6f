//! Voters: the changes that the leader makes to Raft's members, one step at a time. Pure.
//!
//! Nodes vote, and the witness votes while the number of nodes is even: with an odd number an additional vote would
//! lower the number of tolerated failures. A leaving member first stops voting (rule R10) and still receives the log,
//! so that it learns of its removal.

use std::collections::BTreeSet;

use twinbox_ids::NodeName;
use twinbox_raft::{Peer, RaftStatus};
use twinbox_roles_core::{MemberKind, State, Status};

/// Maximum number of missing log entries of a follower that may become a voter.
const NEARLY_CAUGHT_UP: u64 = 50;

/// One change of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VoterStep {
    /// End a change that an earlier leader left unfinished; a voter removed by it stays as a follower if `keep`.
    FinishJoint { keep: bool },
    /// A caught-up follower becomes a voter, in place of older stores of its name.
    Promote { id: u64, instead_of: BTreeSet<u64> },
    /// Voters become followers; the voter `instead`, if any, is added in the same change.
    Demote { ids: BTreeSet<u64>, instead: Option<u64> },
    /// Another voter should lead, since this one must not vote.
    HandOver { to: u64 },
    /// A Raft member becomes a member of the cluster.
    Admit { id: u64, peer: Peer },
    /// A leaving member that has handed over all its data is removed.
    Remove { id: u64, name: NodeName },
    /// Removed members get no more log entries, after they have had time to learn of their removal.
    Forget { ids: BTreeSet<u64> },
}

/// Whether this store's member is leaving or removed.
fn is_leaving(state: &State, id: u64, peer: &Peer) -> bool {
    let leaving = |m: &twinbox_roles_core::Member| m.raft_id == id && m.status == Status::Leaving;
    state.was_removed(id) || state.members.get(&peer.name).is_some_and(leaving)
}

/// The next step for the leader `own`; none if nothing is to change.
pub(crate) fn next_step(
    status: &RaftStatus,
    state: &State,
    own: u64,
    has_handed_over: impl Fn(u64) -> bool,
) -> Option<VoterStep> {
    let peer = |id: &u64| status.peer(*id).map(|peer| (*id, peer));
    if status.joint {
        // A former voter still receives the log, but not a store that another of its name replaces.
        let names: Vec<_> = status.voters.iter().filter_map(peer).map(|(_, peer)| &peer.name).collect();
        let replaces = names.iter().collect::<BTreeSet<_>>().len() < names.len();
        return Some(VoterStep::FinishJoint { keep: !replaces });
    }
    // At least one entry: a store without any takes another Raft id at its next start, and this one could never vote.
    let caught_up =
        |id: u64| status.matched.get(&id).is_some_and(|m| *m > 0 && m + NEARLY_CAUGHT_UP >= status.last_index);
    let voters: Vec<_> = status.voters.iter().filter_map(peer).collect();
    // The ended change removed this member's own vote: it leads until another does, and must change nothing more.
    if !status.voters.contains(&own) {
        let fit = |(id, peer): &&(u64, &Peer)| caught_up(*id) && !is_leaving(state, *id, peer);
        return voters.iter().find(fit).map(|(to, _)| VoterStep::HandOver { to: *to });
    }
    let ready: Vec<_> = status.learners.iter().filter_map(peer).filter(|(id, _)| caught_up(*id)).collect();
    let older = |name: &NodeName| {
        voters.iter().filter(|(_, p)| p.name == *name).map(|(id, _)| *id).collect::<BTreeSet<_>>()
    };

    let may_vote = |(id, peer): &&(u64, &Peer)| !is_leaving(state, *id, peer);
    let is_new = |(id, peer): &&(u64, &Peer)| state.members.get(&peer.name).is_none_or(|m| m.raft_id != *id);
    let admit = |(id, peer): &(u64, &Peer)| VoterStep::Admit { id: *id, peer: (*peer).clone() };
    // Every voter becomes a member before another may vote: until then it is unknown whether that voter acts solo.
    if let Some(voter) = voters.iter().filter(may_vote).find(is_new) {
        return Some(admit(voter));
    }
    for (id, peer) in ready.iter().filter(may_vote) {
        let instead_of = older(&peer.name);
        if peer.kind == MemberKind::Node || !instead_of.is_empty() {
            return Some(VoterStep::Promote { id: *id, instead_of });
        }
    }
    let nodes = voters.iter().filter(|(_, peer)| peer.kind == MemberKind::Node).count();
    let is_witness = |(_, peer): &&(u64, &Peer)| peer.kind == MemberKind::Witness;
    let voting_witness = voters.iter().find(is_witness).map(|(id, _)| *id);
    let ready_witness = ready.iter().filter(may_vote).find(is_witness).map(|(id, _)| *id);
    // The witness's vote changes together with that of a leaving member: in between, one failure fewer would be
    // tolerated.
    if let Some((id, peer)) = voters.iter().find(|(id, peer)| is_leaving(state, *id, peer)) {
        let left = if peer.kind == MemberKind::Node { nodes - 1 } else { nodes };
        let goes_too = voting_witness.filter(|_| !wants_witness(left));
        let instead = ready_witness.filter(|_| voting_witness.is_none() && wants_witness(left));
        return without(status, state, own, *id, goes_too, instead);
    }
    if let Some(id) = voting_witness.filter(|_| !wants_witness(nodes) && nodes > 0) {
        return without(status, state, own, id, None, None);
    }
    if let Some(id) = ready_witness.filter(|_| wants_witness(nodes)) {
        return Some(VoterStep::Promote { id, instead_of: BTreeSet::new() });
    }
    if let Some(witness) = ready.iter().filter(is_witness).filter(may_vote).find(is_new) {
        return Some(admit(witness));
    }
    let out = |(name, m): &(&NodeName, &twinbox_roles_core::Member)| {
        let holds = state.duties.values().any(|duty| duty.epoch.node == **name) || state.publisher() == Some(*name);
        let done = m.kind == MemberKind::Witness || has_handed_over(m.raft_id);
        m.status == Status::Leaving && !status.voters.contains(&m.raft_id) && done && !holds
    };
    if let Some((name, member)) = state.members.iter().find(out) {
        return Some(VoterStep::Remove { id: member.raft_id, name: name.clone() });
    }
    let removed: BTreeSet<u64> = status.learners.iter().copied().filter(|id| state.was_removed(*id)).collect();
    (!removed.is_empty()).then_some(VoterStep::Forget { ids: removed })
}

/// Whether the witness votes with this number of nodes.
fn wants_witness(nodes: usize) -> bool {
    nodes > 0 && nodes.is_multiple_of(2)
}

/// The step that ends this voter's vote, with the other changes; none while no other node could vote.
fn without(
    status: &RaftStatus,
    state: &State,
    own: u64,
    id: u64,
    goes_too: Option<u64>,
    instead: Option<u64>,
) -> Option<VoterStep> {
    let stays =
        |other: &u64| *other != id && status.peer(*other).is_some_and(|peer| !is_leaving(state, *other, peer));
    let nodes = |other: &u64| status.peer(*other).is_some_and(|peer| peer.kind == MemberKind::Node);
    let mut others = status.voters.iter().copied().filter(stays);
    if !others.clone().any(|other| nodes(&other)) {
        return None;
    }
    let ids: BTreeSet<u64> = goes_too.into_iter().chain([id]).collect();
    if !ids.contains(&own) {
        return Some(VoterStep::Demote { ids, instead });
    }
    let caught_up = |other: &u64| status.matched.get(other).is_some_and(|matched| *matched == status.last_index);
    others.find(|other| !ids.contains(other) && caught_up(other)).map(|to| VoterStep::HandOver { to })
}

#[cfg(test)]
mod tests {
    use twinbox_roles_core::Member;

    use super::*;

    struct Group {
        status: RaftStatus,
        state: State,
    }

    fn name(text: &str) -> NodeName {
        text.parse().expect("a name")
    }

    fn peer(text: &str) -> Peer {
        let kind = if text == "w" { MemberKind::Witness } else { MemberKind::Node };
        Peer { name: name(text), kind, address: format!("{text}:1") }
    }

    /// Members named by one letter, which is also their Raft id; all have the full log.
    fn group(voters: &str, learners: &str) -> Group {
        let mut group =
            Group { status: RaftStatus { last_index: 100, ..RaftStatus::default() }, state: State::default() };
        for letter in voters.chars().chain(learners.chars()) {
            let (id, text) = (u64::from(letter), letter.to_string());
            group.status.peers.insert(id, peer(&text));
            group.status.matched.insert(id, 100);
            let Peer { name, kind, address } = peer(&text);
            let admitted = Member {
                raft_id: id,
                kind,
                address,
                activated: true,
                status: Status::InService,
                reason: String::new(),
                incarnation: None,
                drain_ms: None,
                revision: 1,
            };
            group.state.members.insert(name, admitted);
        }
        group.status.voters = voters.chars().map(u64::from).collect();
        group.status.learners = learners.chars().map(u64::from).collect();
        group
    }

    impl Group {
        fn leaving(mut self, text: &str) -> Self {
            self.state.members.get_mut(&name(text)).expect("a member").status = Status::Leaving;
            self
        }

        fn removed(mut self, text: &str) -> Self {
            let member = self.state.members.remove(&name(text)).expect("a member");
            self.state.removed.push((member.raft_id, name(text)));
            self
        }

        fn behind(mut self, letter: char) -> Self {
            self.status.matched.insert(u64::from(letter), 3);
            self
        }

        fn step(&self, own: char) -> Option<VoterStep> {
            next_step(&self.status, &self.state, u64::from(own), |_| false)
        }
    }

    fn id(letter: char) -> u64 {
        u64::from(letter)
    }

    fn promote(letter: char) -> Option<VoterStep> {
        Some(VoterStep::Promote { id: id(letter), instead_of: BTreeSet::new() })
    }

    fn demote(letters: &str, instead: Option<char>) -> Option<VoterStep> {
        Some(VoterStep::Demote { ids: letters.chars().map(id).collect(), instead: instead.map(id) })
    }

    #[test]
    fn nodes_vote_and_the_witness_votes_with_an_even_number_of_nodes() {
        let cases = [
            (group("a", ""), None),
            (group("a", "b"), promote('b')),
            (group("a", "b").behind('b'), None),
            (group("a", "w"), None),
            (group("ab", "w"), promote('w')),
            (group("ab", "w").behind('w'), None),
            (group("abw", ""), None),
            (group("abw", "c"), promote('c')),
            (group("abcw", ""), demote("w", None)),
            (group("abc", "w"), None),
            (group("abc", "dw"), promote('d')),
            (group("abcd", "w"), promote('w')),
        ];
        for (group, expected) in cases {
            assert_eq!(group.step('a'), expected, "{:?} {:?}", group.status.voters, group.status.learners);
        }
    }

    #[test]
    fn a_follower_without_log_entries_is_not_promoted_even_with_a_short_log() {
        let mut young = group("a", "b");
        young.status.last_index = 5;
        young.status.matched.insert(id('b'), 0);
        assert_eq!(young.step('a'), None);
        young.status.matched.insert(id('b'), 1);
        assert_eq!(young.step('a'), promote('b'));
    }

    #[test]
    fn a_new_voter_is_admitted_before_the_next_promotion() {
        let mut joined = group("ab", "cw");
        let b = joined.state.members.remove(&name("b")).expect("a member");
        assert_eq!(joined.step('a'), Some(VoterStep::Admit { id: id('b'), peer: peer("b") }));
        joined.state.members.insert(name("b"), b);
        assert_eq!(joined.step('a'), promote('c'));
    }

    #[test]
    fn a_leaving_member_first_stops_voting_and_the_last_voter_never_does() {
        assert_eq!(group("ab", "").leaving("b").step('a'), demote("b", None));
        // With the witness in between, both of two votes would be needed.
        assert_eq!(group("abw", "").leaving("b").step('a'), demote("bw", None));
        assert_eq!(group("abcdw", "").leaving("b").step('a'), demote("bw", None));
        assert_eq!(group("abc", "w").leaving("b").step('a'), demote("b", Some('w')));
        assert_eq!(group("abc", "w").leaving("b").behind('w').step('a'), demote("b", None));
        // A leading witness first hands leadership to a node.
        assert_eq!(group("abw", "").leaving("b").step('w'), Some(VoterStep::HandOver { to: id('a') }));
        // A leaving leader first hands leadership to a member that stays.
        assert_eq!(group("abc", "").leaving("a").leaving("b").step('a'), Some(VoterStep::HandOver { to: id('c') }));
        assert_eq!(group("ab", "").leaving("a").behind('b').step('a'), None, "nobody could lead");
        // A witness alone would be a cluster without data.
        assert_eq!(group("aw", "").leaving("a").step('a'), None);
        // The leaving member is not made a voter again.
        assert_eq!(group("a", "b").leaving("b").step('a'), None);
        assert_eq!(group("aw", "b").leaving("b").step('a'), demote("w", None));
    }

    #[test]
    fn a_member_that_has_handed_over_is_removed_notified_and_forgotten() {
        let leaving = group("a", "b").leaving("b");
        let remove = VoterStep::Remove { id: id('b'), name: name("b") };
        let done = next_step(&leaving.status, &leaving.state, id('a'), |store| store == id('b'));
        assert_eq!(done, Some(remove));
        // A witness has nothing to hand over.
        assert_eq!(
            group("a", "w").leaving("w").step('a'),
            Some(VoterStep::Remove { id: id('w'), name: name("w") })
        );
        let removed = group("a", "b").removed("b");
        assert_eq!(removed.step('a'), Some(VoterStep::Forget { ids: BTreeSet::from([id('b')]) }));
        let voted = group("ab", "").removed("b");
        assert_eq!(voted.step('a'), demote("b", None), "given up as lost while it was a voter");
    }

    #[test]
    fn a_new_store_of_a_member_replaces_the_old_one() {
        let mut wiped = group("abw", "");
        wiped.status.peers.insert(999, peer("b"));
        wiped.status.matched.insert(999, 100);
        wiped.status.learners.insert(999);
        assert_eq!(wiped.step('a'), Some(VoterStep::Promote { id: 999, instead_of: BTreeSet::from([id('b')]) }));
        wiped.status.learners.clear();
        wiped.status.voters = [id('a'), id('w'), 999].into();
        assert_eq!(wiped.step('a'), Some(VoterStep::Admit { id: 999, peer: peer("b") }));
        wiped.status.voters.insert(id('b'));
        wiped.status.joint = true;
        assert_eq!(wiped.step('a'), Some(VoterStep::FinishJoint { keep: false }));
    }

    #[test]
    fn a_leader_that_loses_its_vote_by_finishing_a_change_hands_over() {
        let mut half = group("abc", "w").leaving("b");
        half.status.joint = true;
        assert_eq!(half.step('b'), Some(VoterStep::FinishJoint { keep: true }));
        half.status.joint = false;
        half.status.voters = [id('a'), id('c'), id('w')].into();
        half.status.learners = [id('b')].into();
        assert_eq!(half.step('b'), Some(VoterStep::HandOver { to: id('a') }));
        let done = group("ac", "bw").leaving("b");
        assert_eq!(done.step('b'), Some(VoterStep::HandOver { to: id('a') }));
        assert_eq!(done.behind('a').step('b'), Some(VoterStep::HandOver { to: id('c') }));
        assert_eq!(group("ac", "bw").leaving("b").step('a'), promote('w'));
    }

    /// The steps end at the wanted voters, from any number of members.
    #[test]
    fn the_steps_reach_the_wanted_voters_and_always_leave_one() {
        for (voters, leaving) in [("abcdw", "bcd"), ("abw", "b"), ("abcde", "abcd"), ("abw", "w"), ("ab", "a")] {
            let mut now = leaving.chars().fold(group(voters, ""), |g, letter| g.leaving(&letter.to_string()));
            let mut own = voters.chars().next().map(u64::from).expect("somebody");
            for round in 0.. {
                assert!(round < 30, "{voters} without {leaving} goes round in circles");
                assert!(now.status.voters.contains(&own), "a leader without a vote");
                match next_step(&now.status, &now.state, own, |_| true) {
                    None => break,
                    Some(VoterStep::Promote { id, .. }) => {
                        now.status.learners.remove(&id);
                        now.status.voters.insert(id);
                    }
                    Some(VoterStep::Demote { ids, instead }) => {
                        now.status.voters.retain(|id| !ids.contains(id));
                        now.status.voters.extend(instead);
                        now.status.learners.retain(|id| Some(*id) != instead);
                        now.status.learners.extend(ids);
                    }
                    Some(VoterStep::HandOver { to }) => own = to,
                    Some(VoterStep::Remove { name, .. }) => now = now.removed(name.as_str()),
                    Some(VoterStep::Forget { ids }) => now.status.learners.retain(|id| !ids.contains(id)),
                    Some(step @ (VoterStep::Admit { .. } | VoterStep::FinishJoint { .. })) => panic!("{step:?}"),
                }
            }
            let nodes = voters.chars().filter(|letter| !leaving.contains(*letter) && *letter != 'w').count();
            let witness = voters.contains('w') && !leaving.contains('w') && nodes % 2 == 0;
            assert_eq!(now.status.voters.len(), nodes + usize::from(witness), "{voters} without {leaving}");
        }
    }
}
