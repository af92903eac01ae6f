//! Voters: the changes that the leader makes to Raft's members, one step at a time. Pure.
//!
//! Nodes vote, and the witness votes while the number of nodes is even: with an odd number an additional vote would
//! lower the number of tolerated failures. A leaving member first stops voting (rule R10) and still receives the log,
//! so that it learns of its removal.

use std::collections::BTreeSet;

use twinbox_ids::NodeName;
use twinbox_roles_core::{MemberKind, State, Status};

use crate::raft::{Peer, Pulse};

/// Maximum number of missing log entries of a follower that may become a voter.
const NEARLY_CAUGHT_UP: u64 = 50;

/// One change of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
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
    Gone { id: u64, name: NodeName },
    /// Removed members get no more log entries, after they have had time to learn of their removal.
    Forget { ids: BTreeSet<u64> },
}

/// Whether this store's member is leaving or removed.
fn leaves(state: &State, id: u64, peer: &Peer) -> bool {
    let leaving = |m: &twinbox_roles_core::Member| m.raft_id == id && m.status == Status::Leaving;
    state.was_removed(id) || state.members.get(&peer.name).is_some_and(leaving)
}

/// The next step for the leader `own`; none if nothing is to change.
pub(crate) fn next_step(
    pulse: &Pulse,
    state: &State,
    own: u64,
    has_handed_over: impl Fn(u64) -> bool,
) -> Option<Step> {
    let peer = |id: &u64| pulse.peer(*id).map(|peer| (*id, peer));
    if pulse.joint {
        // A former voter still receives the log, but not a store that another of its name replaces.
        let names: Vec<_> = pulse.voters.iter().filter_map(peer).map(|(_, peer)| &peer.name).collect();
        let replaces = names.iter().collect::<BTreeSet<_>>().len() < names.len();
        return Some(Step::FinishJoint { keep: !replaces });
    }
    // At least one entry: a store without any takes another Raft id at its next start, and this one could never vote.
    let caught_up =
        |id: u64| pulse.matched.get(&id).is_some_and(|m| *m > 0 && m + NEARLY_CAUGHT_UP >= pulse.last_index);
    let voters: Vec<_> = pulse.voters.iter().filter_map(peer).collect();
    // The ended change removed this member's own vote: it leads until another does, and must change nothing more.
    if !pulse.voters.contains(&own) {
        let fit = |(id, peer): &&(u64, &Peer)| caught_up(*id) && !leaves(state, *id, peer);
        return voters.iter().find(fit).map(|(to, _)| Step::HandOver { to: *to });
    }
    let ready: Vec<_> = pulse.learners.iter().filter_map(peer).filter(|(id, _)| caught_up(*id)).collect();
    let older = |name: &NodeName| {
        voters.iter().filter(|(_, p)| p.name == *name).map(|(id, _)| *id).collect::<BTreeSet<_>>()
    };

    let may_vote = |(id, peer): &&(u64, &Peer)| !leaves(state, *id, peer);
    let is_new = |(id, peer): &&(u64, &Peer)| state.members.get(&peer.name).is_none_or(|m| m.raft_id != *id);
    let admit = |(id, peer): &(u64, &Peer)| Step::Admit { id: *id, peer: (*peer).clone() };
    // Every voter becomes a member before another may vote: until then it is unknown whether that voter acts solo.
    if let Some(voter) = voters.iter().filter(may_vote).find(is_new) {
        return Some(admit(voter));
    }
    for (id, peer) in ready.iter().filter(may_vote) {
        let instead_of = older(&peer.name);
        if peer.kind == MemberKind::Node || !instead_of.is_empty() {
            return Some(Step::Promote { id: *id, instead_of });
        }
    }
    let nodes = voters.iter().filter(|(_, peer)| peer.kind == MemberKind::Node).count();
    let is_witness = |(_, peer): &&(u64, &Peer)| peer.kind == MemberKind::Witness;
    let voting_witness = voters.iter().find(is_witness).map(|(id, _)| *id);
    let ready_witness = ready.iter().filter(may_vote).find(is_witness).map(|(id, _)| *id);
    // The witness's vote changes together with that of a leaving member: in between, one failure fewer would be
    // tolerated.
    if let Some((id, peer)) = voters.iter().find(|(id, peer)| leaves(state, *id, peer)) {
        let left = if peer.kind == MemberKind::Node { nodes - 1 } else { nodes };
        let goes_too = voting_witness.filter(|_| !wants_witness(left));
        let instead = ready_witness.filter(|_| voting_witness.is_none() && wants_witness(left));
        return without(pulse, state, own, *id, goes_too, instead);
    }
    if let Some(id) = voting_witness.filter(|_| !wants_witness(nodes) && nodes > 0) {
        return without(pulse, state, own, id, None, None);
    }
    if let Some(id) = ready_witness.filter(|_| wants_witness(nodes)) {
        return Some(Step::Promote { id, instead_of: BTreeSet::new() });
    }
    if let Some(witness) = ready.iter().filter(is_witness).filter(may_vote).find(is_new) {
        return Some(admit(witness));
    }
    let out = |(name, m): &(&NodeName, &twinbox_roles_core::Member)| {
        let holds = state.duties.values().any(|duty| duty.epoch.node == **name) || state.publisher() == Some(*name);
        let done = m.kind == MemberKind::Witness || has_handed_over(m.raft_id);
        m.status == Status::Leaving && !pulse.voters.contains(&m.raft_id) && done && !holds
    };
    if let Some((name, member)) = state.members.iter().find(out) {
        return Some(Step::Gone { id: member.raft_id, name: name.clone() });
    }
    let gone: BTreeSet<u64> = pulse.learners.iter().copied().filter(|id| state.was_removed(*id)).collect();
    (!gone.is_empty()).then_some(Step::Forget { ids: gone })
}

/// Whether the witness votes with this number of nodes.
fn wants_witness(nodes: usize) -> bool {
    nodes > 0 && nodes.is_multiple_of(2)
}

/// The step that ends this voter's vote, with the other changes; none while no other node could vote.
fn without(
    pulse: &Pulse,
    state: &State,
    own: u64,
    id: u64,
    goes_too: Option<u64>,
    instead: Option<u64>,
) -> Option<Step> {
    let stays = |other: &u64| *other != id && pulse.peer(*other).is_some_and(|peer| !leaves(state, *other, peer));
    let nodes = |other: &u64| pulse.peer(*other).is_some_and(|peer| peer.kind == MemberKind::Node);
    let mut others = pulse.voters.iter().copied().filter(stays);
    if !others.clone().any(|other| nodes(&other)) {
        return None;
    }
    let ids: BTreeSet<u64> = goes_too.into_iter().chain([id]).collect();
    if !ids.contains(&own) {
        return Some(Step::Demote { ids, instead });
    }
    let caught_up = |other: &u64| pulse.matched.get(other).is_some_and(|matched| *matched == pulse.last_index);
    others.find(|other| !ids.contains(other) && caught_up(other)).map(|to| Step::HandOver { to })
}

#[cfg(test)]
mod tests {
    use twinbox_roles_core::Member;

    use super::*;

    struct Group {
        pulse: Pulse,
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
        let mut group = Group { pulse: Pulse { last_index: 100, ..Pulse::default() }, state: State::default() };
        for letter in voters.chars().chain(learners.chars()) {
            let (id, text) = (u64::from(letter), letter.to_string());
            group.pulse.peers.insert(id, peer(&text));
            group.pulse.matched.insert(id, 100);
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
        group.pulse.voters = voters.chars().map(u64::from).collect();
        group.pulse.learners = learners.chars().map(u64::from).collect();
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
            self.pulse.matched.insert(u64::from(letter), 3);
            self
        }

        fn step(&self, own: char) -> Option<Step> {
            next_step(&self.pulse, &self.state, u64::from(own), |_| false)
        }
    }

    fn id(letter: char) -> u64 {
        u64::from(letter)
    }

    fn promote(letter: char) -> Option<Step> {
        Some(Step::Promote { id: id(letter), instead_of: BTreeSet::new() })
    }

    fn demote(letters: &str, instead: Option<char>) -> Option<Step> {
        Some(Step::Demote { ids: letters.chars().map(id).collect(), instead: instead.map(id) })
    }

    #[test]
    fn nodes_vote_and_the_witness_beside_an_even_number() {
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
            assert_eq!(group.step('a'), expected, "{:?} {:?}", group.pulse.voters, group.pulse.learners);
        }
    }

    #[test]
    fn a_follower_without_an_entry_does_not_vote_however_short_the_log_is() {
        let mut young = group("a", "b");
        young.pulse.last_index = 5;
        young.pulse.matched.insert(id('b'), 0);
        assert_eq!(young.step('a'), None);
        young.pulse.matched.insert(id('b'), 1);
        assert_eq!(young.step('a'), promote('b'));
    }

    #[test]
    fn who_votes_is_a_member_before_another_votes() {
        let mut joined = group("ab", "cw");
        let b = joined.state.members.remove(&name("b")).expect("a member");
        assert_eq!(joined.step('a'), Some(Step::Admit { id: id('b'), peer: peer("b") }));
        joined.state.members.insert(name("b"), b);
        assert_eq!(joined.step('a'), promote('c'));
    }

    #[test]
    fn who_leaves_ceases_to_vote_before_anything_else_and_never_the_last() {
        assert_eq!(group("ab", "").leaving("b").step('a'), demote("b", None));
        // With the witness in between, both of two votes would be needed.
        assert_eq!(group("abw", "").leaving("b").step('a'), demote("bw", None));
        assert_eq!(group("abcdw", "").leaving("b").step('a'), demote("bw", None));
        assert_eq!(group("abc", "w").leaving("b").step('a'), demote("b", Some('w')));
        assert_eq!(group("abc", "w").leaving("b").behind('w').step('a'), demote("b", None));
        // A leading witness first hands leadership to a node.
        assert_eq!(group("abw", "").leaving("b").step('w'), Some(Step::HandOver { to: id('a') }));
        // A leaving leader first hands leadership to a member that stays.
        assert_eq!(group("abc", "").leaving("a").leaving("b").step('a'), Some(Step::HandOver { to: id('c') }));
        assert_eq!(group("ab", "").leaving("a").behind('b').step('a'), None, "nobody could lead");
        // A witness alone would be a cluster without data.
        assert_eq!(group("aw", "").leaving("a").step('a'), None);
        // The leaving member is not made a voter again.
        assert_eq!(group("a", "b").leaving("b").step('a'), None);
        assert_eq!(group("aw", "b").leaving("b").step('a'), demote("w", None));
    }

    #[test]
    fn who_has_handed_over_is_let_go_told_and_forgotten() {
        let leaving = group("a", "b").leaving("b");
        let gone = Step::Gone { id: id('b'), name: name("b") };
        let done = next_step(&leaving.pulse, &leaving.state, id('a'), |store| store == id('b'));
        assert_eq!(done, Some(gone));
        // A witness has nothing to hand over.
        assert_eq!(group("a", "w").leaving("w").step('a'), Some(Step::Gone { id: id('w'), name: name("w") }));
        let removed = group("a", "b").removed("b");
        assert_eq!(removed.step('a'), Some(Step::Forget { ids: BTreeSet::from([id('b')]) }));
        let voted = group("ab", "").removed("b");
        assert_eq!(voted.step('a'), demote("b", None), "given up as lost while it was a voter");
    }

    #[test]
    fn a_new_store_of_a_member_takes_the_place_of_the_old_one() {
        let mut wiped = group("abw", "");
        wiped.pulse.peers.insert(999, peer("b"));
        wiped.pulse.matched.insert(999, 100);
        wiped.pulse.learners.insert(999);
        assert_eq!(wiped.step('a'), Some(Step::Promote { id: 999, instead_of: BTreeSet::from([id('b')]) }));
        wiped.pulse.learners.clear();
        wiped.pulse.voters = [id('a'), id('w'), 999].into();
        assert_eq!(wiped.step('a'), Some(Step::Admit { id: 999, peer: peer("b") }));
        wiped.pulse.voters.insert(id('b'));
        wiped.pulse.joint = true;
        assert_eq!(wiped.step('a'), Some(Step::FinishJoint { keep: false }));
    }

    #[test]
    fn who_takes_its_own_vote_by_ending_a_change_goes_on_to_follow_and_hands_over() {
        let mut half = group("abc", "w").leaving("b");
        half.pulse.joint = true;
        assert_eq!(half.step('b'), Some(Step::FinishJoint { keep: true }));
        half.pulse.joint = false;
        half.pulse.voters = [id('a'), id('c'), id('w')].into();
        half.pulse.learners = [id('b')].into();
        assert_eq!(half.step('b'), Some(Step::HandOver { to: id('a') }));
        let done = group("ac", "bw").leaving("b");
        assert_eq!(done.step('b'), Some(Step::HandOver { to: id('a') }));
        assert_eq!(done.behind('a').step('b'), Some(Step::HandOver { to: id('c') }));
        assert_eq!(group("ac", "bw").leaving("b").step('a'), promote('w'));
    }

    /// The steps end at the wanted voters, from any number of members.
    #[test]
    fn the_steps_end_and_never_leave_nobody() {
        for (voters, leaving) in [("abcdw", "bcd"), ("abw", "b"), ("abcde", "abcd"), ("abw", "w"), ("ab", "a")] {
            let mut now = leaving.chars().fold(group(voters, ""), |g, letter| g.leaving(&letter.to_string()));
            let mut own = voters.chars().next().map(u64::from).expect("somebody");
            for round in 0.. {
                assert!(round < 30, "{voters} without {leaving} goes round in circles");
                assert!(now.pulse.voters.contains(&own), "a leader without a vote");
                match next_step(&now.pulse, &now.state, own, |_| true) {
                    None => break,
                    Some(Step::Promote { id, .. }) => {
                        now.pulse.learners.remove(&id);
                        now.pulse.voters.insert(id);
                    }
                    Some(Step::Demote { ids, instead }) => {
                        now.pulse.voters.retain(|id| !ids.contains(id));
                        now.pulse.voters.extend(instead);
                        now.pulse.learners.retain(|id| Some(*id) != instead);
                        now.pulse.learners.extend(ids);
                    }
                    Some(Step::HandOver { to }) => own = to,
                    Some(Step::Gone { name, .. }) => now = now.removed(name.as_str()),
                    Some(Step::Forget { ids }) => now.pulse.learners.retain(|id| !ids.contains(id)),
                    Some(step @ (Step::Admit { .. } | Step::FinishJoint { .. })) => panic!("{step:?}"),
                }
            }
            let nodes = voters.chars().filter(|letter| !leaving.contains(*letter) && *letter != 'w').count();
            let witness = voters.contains('w') && !leaving.contains('w') && nodes % 2 == 0;
            assert_eq!(now.pulse.voters.len(), nodes + usize::from(witness), "{voters} without {leaving}");
        }
    }
}
