//! The leader's side: when it leads, what it proposes, and what it does after a proposal.

use std::{collections::BTreeMap, time::Duration};

use twinbox_ids::Incarnation;
use twinbox_roles_core::{
    CallCounts, Command, CommandOutcome, Exits, KeepAlive, MemberKind, NoGrant, PlannerPolicy, Report, State,
    Status, Timing,
};
use twinbox_roles_member::{
    LeaderAction, LeaderEvent, LeaderStep, LeaseDenied, NotGranted, ProposalOutcome, RaftFacts,
};

use crate::common::{DUTY, START, ms, name, pair};

/// The pair with a witness, which may grant leases: no node of it goes solo.
fn with_witness() -> State {
    let mut state = pair();
    state.apply(Command::Admit { name: name("w"), kind: MemberKind::Witness, address: String::new(), raft_id: 3 });
    state
}

/// Node `a`, in its first incarnation.
fn leader() -> LeaderStep {
    incarnation_of("a", 1)
}

fn incarnation_of(text: &str, number: u128) -> LeaderStep {
    LeaderStep::new(name(text), Incarnation(number), Timing::lan(), PlannerPolicy::from(Timing::lan()))
}

/// Raft's leadership in this term, with an entry of that term applied.
fn leads(term: u64) -> RaftFacts {
    RaftFacts { term, leads: true, has_quorum: true, applied_term: term }
}

fn follow(leader: &mut LeaderStep, facts: RaftFacts, state: &State, exits: &Exits) -> Option<LeaderAction> {
    leader.step(START, LeaderEvent::Raft { facts, state, exits })
}

/// A leader since the start.
fn leading(state: &State, exits: &Exits) -> LeaderStep {
    let mut leader = leader();
    assert_eq!(follow(&mut leader, leads(1), state, exits), Some(LeaderAction::Begin { term: 1 }));
    leader
}

/// The proposal of the leader by this state.
fn planned(leader: &mut LeaderStep, now: Duration, state: &State) -> Option<Command> {
    let view = leader.view(now, 1_000, state).expect("it leads");
    match leader.step(now, LeaderEvent::Plan(&view)) {
        Some(LeaderAction::Propose(command)) => Some(command),
        None => None,
        other => panic!("{other:?}"),
    }
}

fn outcome(leader: &mut LeaderStep, now: Duration, outcome: ProposalOutcome) {
    assert_eq!(leader.step(now, LeaderEvent::Proposed(outcome)), None);
}

/// A keep-alive of the first incarnation of this node.
fn request(text: &str, raft_id: u64) -> KeepAlive {
    KeepAlive {
        node: name(text),
        raft_id,
        run: 1,
        incarnation: Incarnation(1),
        failing: Some(Vec::new()),
        released: BTreeMap::new(),
        leaving: false,
        echo: None,
        report: Report::default(),
    }
}

/// Proof that the first incarnation of `b` has exited: with it a new leader plans two changes, of the lease length and
/// of the status of `b`.
fn b_has_exited() -> Exits {
    let mut exits = Exits::default();
    exits.note(&name("b"), Incarnation(1), false);
    exits
}

#[test]
fn a_member_leads_from_an_entry_of_its_own_term_on_until_raft_says_otherwise() {
    let (state, exits) = (pair(), Exits::default());
    let mut leader = leader();
    let not_yet = [
        RaftFacts { leads: false, ..leads(2) },
        RaftFacts { has_quorum: false, ..leads(2) },
        RaftFacts { applied_term: 1, ..leads(2) },
    ];
    for facts in not_yet {
        assert_eq!((follow(&mut leader, facts, &state, &exits), leader.term()), (None, None), "{facts:?}");
        assert_eq!(leader.view(START, 1_000, &state), None);
        let refused = leader.keep_alive(START, Some(START), [1, 2], &state, &request("a", 1));
        assert_eq!(refused.map_err(LeaseDenied::from), Err(LeaseDenied::NoLeader));
    }
    assert_eq!(follow(&mut leader, leads(2), &state, &exits), Some(LeaderAction::Begin { term: 2 }));
    assert_eq!(follow(&mut leader, leads(2), &state, &exits), None, "it leads already");
    // A later term of its own is another leadership, from its own entry on.
    let next = RaftFacts { applied_term: 2, ..leads(3) };
    assert_eq!((follow(&mut leader, next, &state, &exits), leader.term()), (None, None));
    assert_eq!(follow(&mut leader, leads(3), &state, &exits), Some(LeaderAction::Begin { term: 3 }));
    let deposed = RaftFacts { leads: false, ..leads(4) };
    assert_eq!((follow(&mut leader, deposed, &state, &exits), leader.term()), (None, None));
}

#[test]
fn without_contact_to_a_majority_a_leader_grants_nothing() {
    let state = with_witness();
    let mut leader = leading(&state, &Exits::default());
    let granted = leader.keep_alive(START, Some(START), [1, 2, 3], &state, &request("a", 1));
    assert!(granted.is_ok_and(|grant| grant.duties.contains_key(&DUTY)));
    let late = START + Timing::lan().election_max + ms(1);
    for contact in [None, Some(START)] {
        let refused = leader.keep_alive(late, contact, [1, 2, 3], &state, &request("a", 1));
        assert_eq!(refused.map_err(LeaseDenied::from), Err(LeaseDenied::NoLeader), "{contact:?}");
    }
    let stranger = leader.keep_alive(START, Some(START), [1, 2, 3], &state, &request("c", 9));
    assert_eq!(stranger, Err(NotGranted::No(NoGrant::NotMember(name("c")))));
}

#[test]
fn a_duty_is_not_extended_from_the_proposal_of_its_move_on() {
    let state = with_witness();
    let mut leader = leading(&state, &Exits::default());
    let ask = |leader: &mut LeaderStep, text, raft_id| {
        let granted = leader.keep_alive(START, Some(START), [1, 2, 3], &state, &request(text, raft_id));
        granted.expect("granted").duties.contains_key(&DUTY)
    };
    assert_eq!((ask(&mut leader, "a", 1), ask(&mut leader, "b", 2)), (true, false));
    let mut moved = state.clone();
    let from = moved.publisher.clone();
    assert_eq!(
        moved.apply(Command::SetPublisher { from, to: name("b"), reason: Default::default() }),
        CommandOutcome::Done
    );
    let command = planned(&mut leader, START, &moved).expect("the duty follows");
    assert!(command.parts().iter().any(|part| matches!(part, Command::Drain { duty: DUTY, .. })), "{command}");
    assert!(!ask(&mut leader, "a", 1), "proposed");
    outcome(&mut leader, START, ProposalOutcome::Unknown);
    assert!(!ask(&mut leader, "a", 1), "it may still be applied");
}

#[test]
fn a_leader_has_one_proposal_under_way_and_pauses_after_one_without_success() {
    let state = pair();
    let keep_alive = Timing::lan().keep_alive;
    let mut leader = leading(&state, &Exits::default());
    let command = planned(&mut leader, START, &state).expect("the length of leases");
    assert!(matches!(command, Command::Retime { .. }), "{command}");
    assert_eq!(leader.proposed(), Some(&command));
    assert_eq!(planned(&mut leader, START + ms(300), &state), None, "one at a time");
    outcome(&mut leader, START + ms(300), ProposalOutcome::Unknown);
    let again = START + ms(300) + keep_alive;
    assert_eq!((leader.is_paused(again - ms(1)), leader.next(again - ms(1))), (true, again));
    assert_eq!(planned(&mut leader, again - ms(1), &state), None);
    assert_eq!(planned(&mut leader, again, &state), Some(command.clone()));
    // No pause after success.
    let mut after = state.clone();
    let done = after.apply(command);
    outcome(&mut leader, again, ProposalOutcome::Applied(done));
    assert_eq!((leader.is_paused(again), planned(&mut leader, again, &after)), (false, None));
    assert!(leader.next(again) > again && leader.next(again) <= again + ms(1_000));
}

#[test]
fn after_a_batch_without_effect_its_parts_are_proposed_one_by_one() {
    let mut state = pair();
    let mut leader = leading(&state, &b_has_exited());
    let batch = planned(&mut leader, START, &state).expect("changes");
    let [first, second, ..] = batch.parts() else { panic!("several: {batch}") };
    outcome(&mut leader, START, ProposalOutcome::Applied(CommandOutcome::Stale));
    let later = START + Timing::lan().keep_alive;
    assert_eq!(
        (planned(&mut leader, START, &state), planned(&mut leader, later, &state)),
        (None, Some(first.clone()))
    );
    let done = state.apply(first.clone());
    outcome(&mut leader, later, ProposalOutcome::Applied(done));
    let next = planned(&mut leader, later, &state).expect("the next");
    assert_eq!((next.timeless(), next.parts().len()), (second.timeless(), 1));
}

#[test]
fn a_command_that_was_set_aside_is_not_proposed_again() {
    let state = pair();
    let mut leader = leading(&state, &b_has_exited());
    let batch = planned(&mut leader, START, &state).expect("changes");
    let parts = batch.parts().to_vec();
    for part in &parts {
        outcome(&mut leader, START, ProposalOutcome::SetAside);
        assert_eq!(planned(&mut leader, START, &state).as_ref(), Some(part), "immediately, and alone");
    }
    outcome(&mut leader, START, ProposalOutcome::SetAside);
    assert_eq!(planned(&mut leader, START, &state), None, "all were set aside");
}

#[test]
fn a_leader_whose_planner_panics_resigns_at_most_once_in_ten_seconds() {
    let state = pair();
    let mut leader = leading(&state, &Exits::default());
    let start =
        |leader: &mut LeaderStep, now, successor| leader.step(now, LeaderEvent::PlannerStarted { successor });
    assert_eq!(start(&mut leader, START, Some(2)), None, "it has not panicked");
    assert!(planned(&mut leader, START, &state).is_some());
    assert_eq!(start(&mut leader, START + ms(1), None), None, "no other voter is live");
    assert!(planned(&mut leader, START + ms(1), &state).is_some(), "the former planner awaits nothing any more");
    assert_eq!(start(&mut leader, START + ms(2), Some(2)), Some(LeaderAction::Resign(2)));
    assert_eq!(start(&mut leader, START + ms(9_999), Some(2)), None);
    assert_eq!(start(&mut leader, START + ms(10_002), Some(3)), Some(LeaderAction::Resign(3)));
}

/// The heir of the calls of the first incarnation of `b`, planned by its second one as the leader of nodes `a`, `b` and
/// `c`. Before that it has learned of those calls, has applied these states, and has led if `led`.
fn planned_heir(before: &[&State], led: bool) -> Option<String> {
    let exits = b_has_exited();
    let mut grown = pair();
    grown.apply(Command::Admit { name: name("c"), kind: MemberKind::Node, address: String::new(), raft_id: 3 });
    grown.apply(Command::SetStatus {
        name: name("c"),
        revision: 1,
        status: Status::InService,
        incarnation: Some(Incarnation(1)),
        reason: String::new(),
        cause: Default::default(),
    });
    let mut leader = incarnation_of("b", 2);
    let mut counts = CallCounts::default();
    counts.note(&name("b"), Incarnation(1), 4);
    leader.step(START, LeaderEvent::CallCounts(counts));
    for state in before {
        follow(&mut leader, RaftFacts { leads: led, ..leads(1) }, state, &exits);
    }
    follow(&mut leader, leads(1), &grown, &exits);
    let mut own = request("b", 2);
    (own.run, own.incarnation) = (2, Incarnation(2));
    for request in [request("a", 1), own, request("c", 3)] {
        leader.keep_alive(START, Some(START), [1, 2, 3], &grown, &request).expect("granted");
    }
    let command = planned(&mut leader, START, &grown)?;
    command.parts().iter().find_map(|part| match part {
        Command::Inherit { of, ended: Incarnation(1), to, .. } if *of == name("b") => Some(to.to_string()),
        _ => None,
    })
}

/// In a pair, `a` may have inherited those calls by proof alone, and `b` is not told (rule C4).
#[test]
fn calls_that_the_other_of_a_pair_may_have_inherited_go_to_no_third_node() {
    let (pair, larger) = (pair(), with_witness());
    let (heir, none) = (Some("a".to_owned()), None);
    for led in [false, true] {
        assert_eq!(planned_heir(&[&larger], led), heir, "there was no pair");
        assert_eq!(planned_heir(&[&pair], led), none, "led: {led}");
        assert_eq!(planned_heir(&[&larger, &pair], led), none, "led: {led}");
    }
}

/// The entries that made the pair and ended it are applied together: this member sees the group before and the one after.
#[test]
fn calls_that_may_have_been_inherited_in_a_pair_that_this_member_did_not_see_go_to_no_third_node() {
    let admit = |name, kind, raft_id| Command::Admit { name, kind, address: String::new(), raft_id };
    let (mut other, mut wider) = (pair(), with_witness());
    other.apply(admit(name("w"), MemberKind::Witness, 9));
    wider.apply(admit(name("d"), MemberKind::Node, 8));
    for led in [false, true] {
        assert_eq!(planned_heir(&[&other], led), None, "w left and c came; led: {led}");
        assert_eq!(planned_heir(&[&wider], led), Some("a".to_owned()), "d alone left; led: {led}");
    }
}
