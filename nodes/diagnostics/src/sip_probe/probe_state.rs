//! Nodes whose SIP addresses a member reads now, and the rounds of probes that begin now. Pure: no clock, no socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_ids::{Backoff, Incarnation, NodeName};

use super::{
    rounds::{ProbeOutcome, Round, RoundResult, Rounds},
    targets::SipTargets,
};

/// Waits before a node is asked again for its SIP addresses, if it has not reported them or does not answer there: members
/// may never reach it there.
const LEARN_AGAIN: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(60));

/// Another node, as one look finds it.
#[derive(Debug, Clone, Copy)]
pub struct NodeContact {
    /// Incarnation that the cluster agreed on.
    pub incarnation: Incarnation,
    /// This member has heard the node more recently than any of its leases can run.
    pub is_heard: bool,
    /// There is an exit proof of the node.
    pub has_exited: bool,
}

/// Knowledge of one member. Bounded by the number of members.
#[derive(Debug, Default)]
pub struct ProbeState {
    known: BTreeMap<NodeName, SipTargets>,
    /// Nodes that were asked for their SIP addresses, with the time of the next request and the waits after that.
    asked: BTreeMap<NodeName, (BootInstant, Backoff)>,
    rounds: Rounds,
    /// Latest conclusive results for lost nodes.
    shown: BTreeMap<NodeName, RoundResult>,
}

impl ProbeState {
    /// Forgets nodes that are members no more.
    pub fn retain(&mut self, is_member: impl Fn(&NodeName) -> bool) {
        self.known.retain(|node, _| is_member(node));
        self.asked.retain(|node, _| is_member(node));
        self.shown.retain(|node, _| is_member(node));
    }

    /// Nodes to ask for their SIP addresses now: those that are heard and whose addresses in this incarnation are
    /// unknown. Counts each as asked.
    pub fn take_unasked(
        &mut self,
        now: BootInstant,
        nodes: &BTreeMap<NodeName, NodeContact>,
    ) -> Vec<(NodeName, Incarnation)> {
        let mut asked = Vec::new();
        for (node, NodeContact { incarnation, is_heard, .. }) in nodes {
            let knows = self.known.get(node).is_some_and(|known| known.incarnation == *incarnation);
            let (again, mut waits) = self.asked.get(node).copied().unwrap_or((now, LEARN_AGAIN));
            if knows || now < again || !is_heard {
                continue;
            }
            self.asked.insert(node.clone(), (now + waits.failed(), waits));
            asked.push((node.clone(), *incarnation));
        }
        asked
    }

    /// Notes the addresses of a node, at each of which it has answered.
    pub fn learned(&mut self, node: NodeName, targets: SipTargets) {
        self.asked.remove(&node);
        self.known.insert(node, targets);
    }

    /// Rounds that begin now, with the addresses to be probed: of nodes that are silent without an exit proof.
    pub fn begin_rounds(
        &mut self,
        now: BootInstant,
        nodes: &BTreeMap<NodeName, NodeContact>,
        members: usize,
    ) -> Vec<(Round, SipTargets)> {
        // In a pair the survivor inherits by exit proof alone (rule C4): no probe is needed.
        let is_pair = members < 3;
        let lost = |(node, contact): (&NodeName, &NodeContact)| {
            let known = self.known.get(node).filter(|known| known.incarnation == contact.incarnation)?;
            let is_silent = !is_pair && !contact.is_heard && !contact.has_exited;
            is_silent.then(|| (node.clone(), (known.incarnation, known.targets.len())))
        };
        let lost: BTreeMap<_, _> = nodes.iter().filter_map(lost).collect();
        self.shown.retain(|node, _| lost.contains_key(node));
        let begun = self.rounds.look(now, &lost).into_iter();
        begun.filter_map(|round| self.known.get(&round.node).cloned().map(|known| (round, known))).collect()
    }

    /// Records the result of one address. Returns the result of the round, if it ends, and whether it is news: another
    /// conclusive result than the last one.
    pub fn note(&mut self, now: BootInstant, round: &Round, outcome: ProbeOutcome) -> Option<(RoundResult, bool)> {
        let result = self.rounds.note(now, round, outcome)?;
        let is_news =
            result != RoundResult::Inconclusive && self.shown.insert(round.node.clone(), result) != Some(result);
        Some((result, is_news))
    }

    /// Nodes that answer at none of their addresses.
    pub fn unanswered(&self) -> BTreeSet<NodeName> {
        self.rounds.unanswered()
    }
}

#[cfg(test)]
mod tests {
    use twinbox_calls::Transport;

    use super::{ProbeOutcome::*, *};
    use crate::sip_probe::{
        rounds::tests::{at, name},
        targets::SipTarget,
    };

    fn contact(incarnation: u128, is_heard: bool, has_exited: bool) -> NodeContact {
        NodeContact { incarnation: Incarnation(incarnation), is_heard, has_exited }
    }

    fn only_b(contact: NodeContact) -> BTreeMap<NodeName, NodeContact> {
        [(name("b"), contact)].into()
    }

    /// Knowledge of node b in its first incarnation, at one address.
    fn knows_b() -> ProbeState {
        let mut state = ProbeState::default();
        let address = "192.0.2.2:5060".parse().expect("an address");
        let targets = vec![SipTarget { transport: Transport::Udp, address }];
        state.learned(name("b"), SipTargets { incarnation: Incarnation(1), targets });
        state
    }

    #[test]
    fn heard_node_is_asked_again_with_growing_waits_until_its_addresses_are_known() {
        let (mut state, b) = (ProbeState::default(), only_b(contact(1, true, false)));
        let silent = only_b(contact(1, false, false));
        assert!(state.take_unasked(at(0), &silent).is_empty(), "nothing is read from a silent node");
        let mut asked = Vec::new();
        for ms in (0..200_000).step_by(500) {
            asked.extend(state.take_unasked(at(ms), &b).iter().map(|_| ms / 1_000));
        }
        assert_eq!(asked, [0, 2, 6, 14, 30, 62, 122, 182]);

        let mut state = knows_b();
        assert!(state.take_unasked(at(0), &b).is_empty());
        let again = only_b(contact(2, true, false));
        assert_eq!(state.take_unasked(at(0), &again), [(name("b"), Incarnation(2))], "its next incarnation");
        let mut state = knows_b();
        state.retain(|node| *node != name("b"));
        assert_eq!(state.take_unasked(at(0), &b).len(), 1, "it was removed, and joined again");
    }

    #[test]
    fn round_begins_for_a_silent_node_with_known_addresses_unless_its_exit_is_proved_or_the_other_is_alone() {
        for (incarnation, is_heard, has_exited, members, begins) in [
            (1, false, false, 3, true),
            (1, true, false, 3, false),
            (1, false, true, 3, false),
            (1, false, false, 2, false),
            // Its addresses were read in an earlier incarnation.
            (2, false, false, 3, false),
        ] {
            let b = only_b(contact(incarnation, is_heard, has_exited));
            let rounds = knows_b().begin_rounds(at(0), &b, members);
            let probed: Vec<usize> = rounds.iter().map(|(_, known)| known.targets.len()).collect();
            assert_eq!(probed, [1_usize].repeat(usize::from(begins)), "{b:?}, {members} members");
        }
        let unknown = ProbeState::default().begin_rounds(at(0), &only_b(contact(1, false, false)), 3);
        assert!(unknown.is_empty());
    }

    #[test]
    fn result_is_news_when_it_differs_from_the_last_conclusive_one_of_the_same_silence() {
        let (mut state, silent) = (knows_b(), only_b(contact(1, false, false)));
        let mut round = |from: u64, nodes: &BTreeMap<NodeName, NodeContact>, outcome| {
            let begun = state.begin_rounds(at(from), nodes, 3);
            let (round, _) = begun.first()?;
            let noted = state.note(at(from + 100), round, outcome);
            Some((noted.expect("the only address"), state.unanswered().len()))
        };
        for (seconds, outcome, expected) in [
            (0, Silent, ((RoundResult::Silent, true), 1)),
            (5, Silent, ((RoundResult::Silent, false), 1)),
            (10, NotProbed, ((RoundResult::Inconclusive, false), 1)),
            (15, Silent, ((RoundResult::Silent, false), 1)),
            (20, Answered, ((RoundResult::Answers, true), 0)),
            (25, Silent, ((RoundResult::Silent, true), 1)),
        ] {
            assert_eq!(round(seconds * 1_000, &silent, outcome), Some(expected), "after {seconds} seconds");
        }
        // Heard meanwhile: the next silence is another one.
        assert_eq!(round(30_000, &only_b(contact(1, true, false)), Silent), None);
        assert_eq!(round(31_000, &silent, Silent), Some(((RoundResult::Silent, true), 1)));
    }
}
