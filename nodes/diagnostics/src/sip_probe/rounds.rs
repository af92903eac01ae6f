//! Schedule of the SIP probes of silent nodes, and their results (rule C3). Pure: no clock, no socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_ids::{Incarnation, NodeName};

/// Maximum duration of one round.
pub const ROUND: Duration = Duration::from_secs(2);
/// Pause between two rounds.
const PAUSE: Duration = Duration::from_secs(3);
/// A round that exceeds its maximum by more than this is void: this process stood still, and answers may be lost.
const LATE: Duration = Duration::from_secs(1);
/// A result that no round has confirmed for this period is withdrawn.
const FRESH: Duration = Duration::from_secs(15);

/// Result of the probe of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// An answer of the node, or an answer that names no node.
    Answered,
    /// No answer in a whole round.
    Silent,
    /// Another node answered: no result for this one.
    OtherNode,
    /// The address could not be probed from here.
    NotProbed,
}

/// Result of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoundResult {
    /// The node answers.
    Answers,
    /// The node answers at none of its addresses.
    Silent,
    /// No result: an address could not be probed, another node answered at all of them, or this process stood
    /// still.
    Inconclusive,
}

/// A round that begins now: every address of that incarnation is to be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// Node to be probed.
    pub node: NodeName,
    /// Number of the round, for [`Rounds::note`].
    pub number: u64,
}

/// All rounds.
#[derive(Debug, Default)]
pub struct Rounds {
    nodes: BTreeMap<NodeName, NodeRounds>,
    number: u64,
}

#[derive(Debug)]
struct NodeRounds {
    incarnation: Incarnation,
    open: Option<Open>,
    /// Time of the next round.
    due: BootInstant,
    /// Time of the latest round without an answer; `None` after an answer.
    silent: Option<BootInstant>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    began: BootInstant,
    /// Number of addresses without a result yet.
    left: usize,
    /// Number of silent addresses.
    silent: usize,
    /// Whether each address could be probed.
    whole: bool,
}

impl Rounds {
    /// Sets the lost nodes, each with its incarnation and number of known addresses, and returns the rounds to
    /// begin. A node that is no longer lost, or that has another incarnation, is forgotten.
    pub fn look(&mut self, now: BootInstant, lost: &BTreeMap<NodeName, (Incarnation, usize)>) -> Vec<Round> {
        self.nodes.retain(|node, course| {
            lost.get(node).is_some_and(|(incarnation, _)| *incarnation == course.incarnation)
        });
        let mut begun = Vec::new();
        for (node, (incarnation, addresses)) in lost.iter().filter(|(_, (_, addresses))| *addresses > 0) {
            let new_rounds = || NodeRounds { incarnation: *incarnation, open: None, due: now, silent: None };
            let course = self.nodes.entry(node.clone()).or_insert_with(new_rounds);
            course.silent = course.silent.filter(|at| now.since(*at) <= FRESH);
            // A round whose end was not reported is given up.
            course.open = course.open.take().filter(|open| now.since(open.began) <= ROUND + LATE);
            if course.open.is_none() && now >= course.due {
                self.number += 1;
                let number = self.number;
                course.open = Some(Open { number, began: now, left: *addresses, silent: 0, whole: true });
                begun.push(Round { node: node.clone(), number });
            }
        }
        begun
    }

    /// Records the result of one address; the first answer, or the last address, ends the round.
    pub fn note(&mut self, now: BootInstant, round: &Round, outcome: ProbeOutcome) -> Option<RoundResult> {
        let course = self.nodes.get_mut(&round.node)?;
        let open = course.open.as_mut().filter(|open| open.number == round.number)?;
        open.left = open.left.saturating_sub(1);
        match outcome {
            ProbeOutcome::Answered => open.left = 0,
            ProbeOutcome::Silent => open.silent += 1,
            ProbeOutcome::OtherNode => {}
            ProbeOutcome::NotProbed => open.whole = false,
        }
        if open.left > 0 {
            return None;
        }
        let in_time = now.since(open.began) <= ROUND + LATE;
        let shown = match outcome {
            ProbeOutcome::Answered => RoundResult::Answers,
            _ if open.whole && open.silent > 0 && in_time => RoundResult::Silent,
            _ => RoundResult::Inconclusive,
        };
        match shown {
            RoundResult::Answers => course.silent = None,
            RoundResult::Silent => course.silent = Some(now),
            RoundResult::Inconclusive => {}
        }
        course.open = None;
        course.due = now + PAUSE;
        Some(shown)
    }

    /// Nodes that answer at none of their addresses.
    pub fn unanswered(&self) -> BTreeSet<NodeName> {
        let silent = self.nodes.iter().filter(|(_, course)| course.silent.is_some());
        silent.map(|(node, _)| node.clone()).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{ProbeOutcome::*, *};

    pub fn name(text: &str) -> NodeName {
        text.parse().expect("a name")
    }

    pub fn at(ms: u64) -> BootInstant {
        BootInstant::from_nanos(ms * 1_000_000)
    }

    fn lost(nodes: &[(&str, u128, usize)]) -> BTreeMap<NodeName, (Incarnation, usize)> {
        nodes
            .iter()
            .map(|(node, incarnation, addresses)| (name(node), (Incarnation(*incarnation), *addresses)))
            .collect()
    }

    fn silent(rounds: &Rounds) -> bool {
        rounds.unanswered().contains(&name("b"))
    }

    /// A round of `b` in which each address gets its result after this number of milliseconds.
    fn round(rounds: &mut Rounds, began: u64, outcomes: &[(u64, ProbeOutcome)]) -> Option<RoundResult> {
        let begun = rounds.look(at(began), &lost(&[("b", 1, outcomes.len())]));
        let [round] = begun.as_slice() else { panic!("{begun:?}") };
        let noted = outcomes.iter().map(|(ms, outcome)| rounds.note(at(began + ms), round, *outcome));
        noted.fold(None, Option::or)
    }

    #[test]
    fn the_result_of_a_round_follows_from_its_addresses() {
        for (outcomes, expected) in [
            (&[(2_000, Silent)][..], Some(RoundResult::Silent)),
            (&[(2_000, Silent), (2_001, Silent)], Some(RoundResult::Silent)),
            (&[(2_000, Silent), (2_001, OtherNode)], Some(RoundResult::Silent)),
            (&[(3, Answered)], Some(RoundResult::Answers)),
            (&[(3, Answered), (2_000, Silent)], Some(RoundResult::Answers)),
            (&[(2_000, Silent), (2_000, Answered)], Some(RoundResult::Answers)),
            (&[(5, NotProbed), (6, Answered)], Some(RoundResult::Answers)),
            (&[(5, NotProbed), (2_000, Silent)], Some(RoundResult::Inconclusive)),
            (&[(2_000, OtherNode)], Some(RoundResult::Inconclusive)),
            (&[(2_000, Silent), (3_500, Silent)], Some(RoundResult::Inconclusive)),
        ] {
            let mut rounds = Rounds::default();
            assert_eq!(round(&mut rounds, 100, outcomes), expected, "{outcomes:?}");
            assert_eq!(silent(&rounds), expected == Some(RoundResult::Silent), "{outcomes:?}");
        }
        // No result while one address may still answer.
        let mut rounds = Rounds::default();
        let begun = rounds.look(at(0), &lost(&[("b", 1, 2)]));
        assert_eq!((rounds.note(at(2_000), &begun[0], Silent), silent(&rounds)), (None, false));
    }

    #[test]
    fn rounds_follow_each_other_with_a_pause_while_a_node_is_lost() {
        let (mut rounds, b) = (Rounds::default(), lost(&[("b", 1, 1)]));
        let mut begun = Vec::new();
        for ms in (0..12_000).step_by(500) {
            for round in rounds.look(at(ms), &b) {
                begun.push(ms);
                rounds.note(at(ms + 2_000), &round, Silent);
            }
        }
        assert_eq!(begun, [0, 5_000, 10_000]);
        // A round whose end is not reported is given up; later reports for it do not count.
        let mut rounds = Rounds::default();
        let first = rounds.look(at(0), &b);
        assert_eq!(rounds.look(at(2_500), &b), []);
        assert_eq!(rounds.look(at(3_500), &b).len(), 1);
        assert_eq!((rounds.note(at(3_600), &first[0], Silent), silent(&rounds)), (None, false));
    }

    #[test]
    fn a_node_that_answers_or_returns_or_is_replaced_is_no_longer_unanswered() {
        let after = |then: &dyn Fn(&mut Rounds)| {
            let mut rounds = Rounds::default();
            round(&mut rounds, 0, &[(2_000, Silent)]);
            assert!(silent(&rounds));
            then(&mut rounds);
            silent(&rounds)
        };
        let next = |rounds: &mut Rounds, began, outcome| {
            round(rounds, began, &[(1, outcome)]).expect("the end of a round");
        };
        assert!(after(&|rounds| drop(rounds.look(at(4_000), &lost(&[("b", 1, 1)])))), "still lost");
        assert!(!after(&|rounds| next(rounds, 5_000, Answered)), "answers");
        assert!(!after(&|rounds| drop(rounds.look(at(4_000), &lost(&[])))), "reached again");
        assert!(!after(&|rounds| drop(rounds.look(at(4_000), &lost(&[("b", 2, 1)])))), "another incarnation");
        // A round without a result withdraws no earlier result, for a limited time.
        assert!(after(&|rounds| next(rounds, 5_000, NotProbed)));
        assert!(!after(&|rounds| next(rounds, 60_000, NotProbed)), "nobody has confirmed it");
    }

    #[test]
    fn a_node_without_a_known_address_is_never_asked_nor_unanswered() {
        let mut rounds = Rounds::default();
        assert_eq!(rounds.look(at(0), &lost(&[("b", 1, 0)])), []);
        assert!(rounds.unanswered().is_empty());
        let begun = rounds.look(at(0), &lost(&[("b", 1, 0), ("c", 1, 2)]));
        assert_eq!(begun.iter().map(|round| round.node.as_str()).collect::<Vec<_>>(), ["c"]);
    }
}
