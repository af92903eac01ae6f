//! Voters: the changes that the leader makes to Raft's members, one step at a time.
//!
//! Nodes vote, and the witness votes while the number of nodes is even: with an odd number an additional vote would
//! lower the number of tolerated failures. A leaving member first stops voting (rule R10) and still receives the log,
//! so that it learns of its removal.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::NodeName;
use twinbox_roles_core::{Member, MemberKind, State, Status};

/// Maximum number of missing log entries of a follower that may become a voter.
const NEARLY_CAUGHT_UP: u64 = 50;

/// A voter or follower of Raft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftPeer {
    /// Its name.
    pub name: NodeName,
    /// Node or witness.
    pub kind: MemberKind,
}

/// Raft's group, as its leader knows it. All ids are Raft ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RaftGroup {
    /// The voters.
    pub voters: BTreeSet<u64>,
    /// The followers that do not vote.
    pub learners: BTreeSet<u64>,
    /// Whether the voters are changing.
    pub joint: bool,
    /// Voters and learners.
    pub peers: BTreeMap<u64, RaftPeer>,
    /// Log index up to which each other member is known to match the leader.
    pub matched: BTreeMap<u64, u64>,
    /// Log index after the last entry; 0 when there is none.
    pub last_index: u64,
}

impl RaftGroup {
    fn peer(&self, id: u64) -> Option<&RaftPeer> {
        self.peers.get(&id)
    }
}

/// One change of the members. All ids are Raft ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoterStep {
    /// End a change that an earlier leader left unfinished.
    FinishJoint {
        /// Whether a voter removed by it stays as a follower.
        keep: bool,
    },
    /// A caught-up follower becomes a voter.
    Promote {
        /// The follower.
        id: u64,
        /// Older stores of its name, which it replaces.
        instead_of: BTreeSet<u64>,
    },
    /// Voters become followers.
    Demote {
        /// The voters.
        ids: BTreeSet<u64>,
        /// A follower that becomes a voter in the same change.
        instead: Option<u64>,
    },
    /// Another voter should lead, since this one must not vote.
    HandOver {
        /// That voter.
        to: u64,
    },
    /// A Raft member becomes a member of the cluster.
    Admit {
        /// Its store.
        id: u64,
    },
    /// A leaving member that has handed over all its data is removed.
    Remove {
        /// Its store.
        id: u64,
        /// Its name.
        name: NodeName,
    },
    /// Removed members get no more log entries, after they have had time to learn of their removal.
    Forget {
        /// Their stores.
        ids: BTreeSet<u64>,
    },
}

/// Whether this store's member is leaving or removed.
fn is_leaving(state: &State, id: u64, peer: &RaftPeer) -> bool {
    let leaving = |m: &Member| m.raft_id == id && m.status == Status::Leaving;
    state.was_removed(id) || state.members.get(&peer.name).is_some_and(leaving)
}

/// The next step for the leader `own`; none if nothing is to change.
pub(crate) fn next_step(
    group: &RaftGroup,
    state: &State,
    own: u64,
    has_handed_over: impl Fn(u64) -> bool,
) -> Option<VoterStep> {
    let peer = |id: &u64| group.peer(*id).map(|peer| (*id, peer));
    if group.joint {
        // A former voter still receives the log, but not a store that another of its name replaces.
        let names: Vec<_> = group.voters.iter().filter_map(peer).map(|(_, peer)| &peer.name).collect();
        let replaces = names.iter().collect::<BTreeSet<_>>().len() < names.len();
        return Some(VoterStep::FinishJoint { keep: !replaces });
    }
    // At least one entry: a store without any takes another Raft id at its next start, and this one could never vote.
    let caught_up =
        |id: u64| group.matched.get(&id).is_some_and(|m| *m > 0 && m + NEARLY_CAUGHT_UP >= group.last_index);
    let voters: Vec<_> = group.voters.iter().filter_map(peer).collect();
    // The ended change removed this member's own vote: it leads until another does, and must change nothing more.
    if !group.voters.contains(&own) {
        let fit = |(id, peer): &&(u64, &RaftPeer)| caught_up(*id) && !is_leaving(state, *id, peer);
        return voters.iter().find(fit).map(|(to, _)| VoterStep::HandOver { to: *to });
    }
    let ready: Vec<_> = group.learners.iter().filter_map(peer).filter(|(id, _)| caught_up(*id)).collect();
    let older = |name: &NodeName| {
        voters.iter().filter(|(_, p)| p.name == *name).map(|(id, _)| *id).collect::<BTreeSet<_>>()
    };

    let may_vote = |(id, peer): &&(u64, &RaftPeer)| !is_leaving(state, *id, peer);
    let is_new = |(id, peer): &&(u64, &RaftPeer)| state.members.get(&peer.name).is_none_or(|m| m.raft_id != *id);
    let admit = |(id, _): &(u64, &RaftPeer)| VoterStep::Admit { id: *id };
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
    let is_witness = |(_, peer): &&(u64, &RaftPeer)| peer.kind == MemberKind::Witness;
    let voting_witness = voters.iter().find(is_witness).map(|(id, _)| *id);
    let ready_witness = ready.iter().filter(may_vote).find(is_witness).map(|(id, _)| *id);
    // The witness's vote changes together with that of a leaving member: in between, one failure fewer would be
    // tolerated.
    if let Some((id, peer)) = voters.iter().find(|(id, peer)| is_leaving(state, *id, peer)) {
        let left = if peer.kind == MemberKind::Node { nodes - 1 } else { nodes };
        let goes_too = voting_witness.filter(|_| !wants_witness(left));
        let instead = ready_witness.filter(|_| voting_witness.is_none() && wants_witness(left));
        return without(group, state, own, *id, goes_too, instead);
    }
    if let Some(id) = voting_witness.filter(|_| !wants_witness(nodes) && nodes > 0) {
        return without(group, state, own, id, None, None);
    }
    if let Some(id) = ready_witness.filter(|_| wants_witness(nodes)) {
        return Some(VoterStep::Promote { id, instead_of: BTreeSet::new() });
    }
    if let Some(witness) = ready.iter().filter(is_witness).filter(may_vote).find(is_new) {
        return Some(admit(witness));
    }
    let out = |(name, m): &(&NodeName, &Member)| {
        let holds = state.duties.values().any(|duty| duty.epoch.node == **name) || state.publisher() == Some(*name);
        let done = m.kind == MemberKind::Witness || has_handed_over(m.raft_id);
        m.status == Status::Leaving && !group.voters.contains(&m.raft_id) && done && !holds
    };
    if let Some((name, member)) = state.members.iter().find(out) {
        return Some(VoterStep::Remove { id: member.raft_id, name: name.clone() });
    }
    let removed: BTreeSet<u64> = group.learners.iter().copied().filter(|id| state.was_removed(*id)).collect();
    (!removed.is_empty()).then_some(VoterStep::Forget { ids: removed })
}

/// Whether the witness votes with this number of nodes.
fn wants_witness(nodes: usize) -> bool {
    nodes > 0 && nodes.is_multiple_of(2)
}

/// The step that ends this voter's vote, with the other changes; none while no other node could vote.
fn without(
    group: &RaftGroup,
    state: &State,
    own: u64,
    id: u64,
    goes_too: Option<u64>,
    instead: Option<u64>,
) -> Option<VoterStep> {
    let stays =
        |other: &u64| *other != id && group.peer(*other).is_some_and(|peer| !is_leaving(state, *other, peer));
    let nodes = |other: &u64| group.peer(*other).is_some_and(|peer| peer.kind == MemberKind::Node);
    let mut others = group.voters.iter().copied().filter(stays);
    if !others.clone().any(|other| nodes(&other)) {
        return None;
    }
    let ids: BTreeSet<u64> = goes_too.into_iter().chain([id]).collect();
    if !ids.contains(&own) {
        return Some(VoterStep::Demote { ids, instead });
    }
    let caught_up = |other: &u64| group.matched.get(other).is_some_and(|matched| *matched == group.last_index);
    others.find(|other| !ids.contains(other) && caught_up(other)).map(|to| VoterStep::HandOver { to })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Group {
        raft: RaftGroup,
        state: State,
    }

    fn name(text: &str) -> NodeName {
        text.parse().expect("a name")
    }

    fn peer(text: &str) -> RaftPeer {
        let kind = if text == "w" { MemberKind::Witness } else { MemberKind::Node };
        RaftPeer { name: name(text), kind }
    }

    /// Members named by one letter, which is also their Raft id; all have the full log.
    fn group(voters: &str, learners: &str) -> Group {
        let mut group =
            Group { raft: RaftGroup { last_index: 100, ..RaftGroup::default() }, state: State::default() };
        for letter in voters.chars().chain(learners.chars()) {
            let (id, text) = (u64::from(letter), letter.to_string());
            group.raft.peers.insert(id, peer(&text));
            group.raft.matched.insert(id, 100);
            let RaftPeer { name, kind } = peer(&text);
            let admitted = Member {
                raft_id: id,
                kind,
                address: format!("{text}:1"),
                activated: true,
                status: Status::InService,
                reason: String::new(),
                incarnation: None,
                drain_ms: None,
                revision: 1,
            };
            group.state.members.insert(name, admitted);
        }
        group.raft.voters = voters.chars().map(u64::from).collect();
        group.raft.learners = learners.chars().map(u64::from).collect();
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
            self.raft.matched.insert(u64::from(letter), 3);
            self
        }

        fn step(&self, own: char) -> Option<VoterStep> {
            next_step(&self.raft, &self.state, u64::from(own), |_| false)
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
            assert_eq!(group.step('a'), expected, "{:?} {:?}", group.raft.voters, group.raft.learners);
        }
    }

    #[test]
    fn a_follower_without_log_entries_is_not_promoted_even_with_a_short_log() {
        let mut young = group("a", "b");
        young.raft.last_index = 5;
        young.raft.matched.insert(id('b'), 0);
        assert_eq!(young.step('a'), None);
        young.raft.matched.insert(id('b'), 1);
        assert_eq!(young.step('a'), promote('b'));
    }

    #[test]
    fn a_new_voter_is_admitted_before_the_next_promotion() {
        let mut joined = group("ab", "cw");
        let b = joined.state.members.remove(&name("b")).expect("a member");
        assert_eq!(joined.step('a'), Some(VoterStep::Admit { id: id('b') }));
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
        let done = next_step(&leaving.raft, &leaving.state, id('a'), |store| store == id('b'));
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
        wiped.raft.peers.insert(999, peer("b"));
        wiped.raft.matched.insert(999, 100);
        wiped.raft.learners.insert(999);
        assert_eq!(wiped.step('a'), Some(VoterStep::Promote { id: 999, instead_of: BTreeSet::from([id('b')]) }));
        wiped.raft.learners.clear();
        wiped.raft.voters = [id('a'), id('w'), 999].into();
        assert_eq!(wiped.step('a'), Some(VoterStep::Admit { id: 999 }));
        wiped.raft.voters.insert(id('b'));
        wiped.raft.joint = true;
        assert_eq!(wiped.step('a'), Some(VoterStep::FinishJoint { keep: false }));
    }

    #[test]
    fn a_leader_that_loses_its_vote_by_finishing_a_change_hands_over() {
        let mut half = group("abc", "w").leaving("b");
        half.raft.joint = true;
        assert_eq!(half.step('b'), Some(VoterStep::FinishJoint { keep: true }));
        half.raft.joint = false;
        half.raft.voters = [id('a'), id('c'), id('w')].into();
        half.raft.learners = [id('b')].into();
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
                assert!(now.raft.voters.contains(&own), "a leader without a vote");
                match next_step(&now.raft, &now.state, own, |_| true) {
                    None => break,
                    Some(VoterStep::Promote { id, .. }) => {
                        now.raft.learners.remove(&id);
                        now.raft.voters.insert(id);
                    }
                    Some(VoterStep::Demote { ids, instead }) => {
                        now.raft.voters.retain(|id| !ids.contains(id));
                        now.raft.voters.extend(instead);
                        now.raft.learners.retain(|id| Some(*id) != instead);
                        now.raft.learners.extend(ids);
                    }
                    Some(VoterStep::HandOver { to }) => own = to,
                    Some(VoterStep::Remove { name, .. }) => now = now.removed(name.as_str()),
                    Some(VoterStep::Forget { ids }) => now.raft.learners.retain(|id| !ids.contains(id)),
                    Some(step @ (VoterStep::Admit { .. } | VoterStep::FinishJoint { .. })) => panic!("{step:?}"),
                }
            }
            let nodes = voters.chars().filter(|letter| !leaving.contains(*letter) && *letter != 'w').count();
            let witness = voters.contains('w') && !leaving.contains('w') && nodes % 2 == 0;
            assert_eq!(now.raft.voters.len(), nodes + usize::from(witness), "{voters} without {leaving}");
        }
    }
}
