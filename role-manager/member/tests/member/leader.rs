//! The leader's side: when it leads, what it proposes, and what it does after a proposal.

use std::{collections::BTreeMap, time::Duration};

use twinbox_ids::Incarnation;
use twinbox_roles_core::{
    CallCounts, Command, CommandOutcome, Duty, Exits, Facts, KeepAlive, MemberKind, NoGrant, Order, PlannerPolicy,
    Refusal, Report, State, Status, Timing,
};
use twinbox_roles_member::{
    Contacts, KeepAliveExtras, LeaderAction, LeaderEvent, LeaderStep, LeaseDenied, NamedMember, NotGranted,
    NotProposed, ProposalOutcome, RaftFacts, RaftGroup, RaftPeer,
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
    leader.step(START, LeaderEvent::Raft { facts, state, exits, contacts: &Contacts::default() })
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

fn no_extras() -> KeepAliveExtras {
    KeepAliveExtras::default()
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
        let refused = leader.keep_alive(START, Some(START), [1, 2], &state, &request("a", 1), &no_extras());
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
    let granted = leader.keep_alive(START, Some(START), [1, 2, 3], &state, &request("a", 1), &no_extras());
    assert!(granted.is_ok_and(|grant| grant.duties.contains_key(&DUTY)));
    let late = START + Timing::lan().election_max + ms(1);
    for contact in [None, Some(START)] {
        let refused = leader.keep_alive(late, contact, [1, 2, 3], &state, &request("a", 1), &no_extras());
        assert_eq!(refused.map_err(LeaseDenied::from), Err(LeaseDenied::NoLeader), "{contact:?}");
    }
    let stranger = leader.keep_alive(START, Some(START), [1, 2, 3], &state, &request("c", 9), &no_extras());
    assert_eq!(stranger, Err(NotGranted::No(NoGrant::NotMember(name("c")))));
}

#[test]
fn a_duty_is_not_extended_from_the_proposal_of_its_move_on() {
    let state = with_witness();
    let mut leader = leading(&state, &Exits::default());
    let ask = |leader: &mut LeaderStep, text, raft_id| {
        let granted =
            leader.keep_alive(START, Some(START), [1, 2, 3], &state, &request(text, raft_id), &no_extras());
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
        leader.keep_alive(START, Some(START), [1, 2, 3], &grown, &request, &no_extras()).expect("granted");
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

#[test]
fn only_a_granted_keep_alive_reports_that_a_node_has_handed_over_and_only_to_this_leadership() {
    let (state, exits) = (with_witness(), Exits::default());
    let mut leader = leading(&state, &exits);
    let all = KeepAliveExtras { handed_over: true, ..no_extras() };
    let ask = |leader: &mut LeaderStep, request: &KeepAlive, extras: &KeepAliveExtras| {
        leader.keep_alive(START, Some(START), [1, 2, 3], &state, request, extras).is_ok()
    };
    assert!(!ask(&mut leader, &request("b", 9), &all), "another store");
    assert!(!leader.has_handed_over(9) && !leader.has_handed_over(2));
    assert!(ask(&mut leader, &request("b", 2), &all) && leader.has_handed_over(2));
    assert!(ask(&mut leader, &request("b", 2), &no_extras()) && !leader.has_handed_over(2), "it has new data");
    assert!(ask(&mut leader, &request("b", 2), &all));
    assert_eq!(follow(&mut leader, leads(2), &state, &exits), Some(LeaderAction::Begin { term: 2 }));
    assert!(!leader.has_handed_over(2), "it may have got new data from another leader");
}

#[test]
fn a_publisher_that_leads_hands_over_at_rest_and_at_most_once_in_ten_seconds() {
    let mut state = with_witness();
    let mut leader = leading(&state, &Exits::default());
    let peer = |text: &str, kind| RaftPeer { name: name(text), kind };
    let group = RaftGroup {
        voters: [1, 2, 3].into(),
        peers: [
            (1, peer("a", MemberKind::Node)),
            (2, peer("b", MemberKind::Node)),
            (3, peer("w", MemberKind::Witness)),
        ]
        .into(),
        matched: [(2, 9), (3, 9)].into(),
        last_index: 9,
        ..RaftGroup::default()
    };
    let changing = RaftGroup { joint: true, ..group.clone() };
    let behind = RaftGroup { matched: [(2, 8), (3, 8)].into(), ..group.clone() };
    let mut transfers = Vec::new();
    for round in 0..200 {
        let now = START + ms(100) * round;
        for (text, raft_id, took) in [("a", 1, 1), ("b", 2, 5), ("w", 3, 50)] {
            let round_trips = [(name(if text == "a" { "b" } else { "a" }), ms(took))].into();
            let extras = KeepAliveExtras { round_trips, handed_over: false };
            let asked = request(text, raft_id);
            leader.keep_alive(now, Some(now), [1, 2, 3], &state, &asked, &extras).expect("granted");
        }
        while let Some(command) = planned(&mut leader, now, &state) {
            let done = state.apply(command);
            outcome(&mut leader, now, ProposalOutcome::Applied(done));
        }
        let mut rest =
            |group: &RaftGroup| leader.step(now, LeaderEvent::Rest { wall_ms: 1_000, state: &state, group });
        assert_eq!((rest(&changing), rest(&behind)), (None, None));
        transfers.extend(rest(&group).map(|action| (now, action)));
    }
    let [(first, to), (second, again)] = transfers.as_slice() else { panic!("{transfers:?}") };
    assert_eq!((to, again), (&LeaderAction::Transfer(2), &LeaderAction::Transfer(2)), "the shortest round trip");
    assert!(*first >= START + Timing::lan().new_leader_wait() * 2, "it has led for a while: {first:?}");
    assert_eq!(*second, *first + ms(10_100));
}

#[test]
fn a_member_that_is_to_be_removed_has_never_joined_if_it_is_expected_without_a_store() {
    let state = pair();
    let leader = leading(&state, &Exits::default());
    let limit = Timing::lan().silence_limit(&state);
    let remove =
        |text: &str, lost| Order::Remove { name: name(text), lost, within_ms: None, facts: Facts::default() };
    let expected = NamedMember { is_expected: true, has_store: false, since_contact: None };
    let old = State { feature_level: 8, ..state.clone() };
    let table = [
        (&state, remove("c", true), expected, Some(true)),
        (&state, remove("c", true), NamedMember { since_contact: Some(limit), ..expected }, Some(true)),
        // It runs, and may have data of its own.
        (&state, remove("c", true), NamedMember { since_contact: Some(limit - ms(1)), ..expected }, None),
        (&state, remove("c", true), NamedMember { has_store: true, ..expected }, Some(false)),
        (&state, remove("c", true), NamedMember { is_expected: false, ..expected }, Some(false)),
        (&state, remove("c", false), expected, Some(false)),
        (&state, remove("b", true), expected, Some(false)),
        (&old, remove("c", true), expected, Some(false)),
    ];
    for (row, (state, order, named, never_joined)) in table.into_iter().enumerate() {
        let ordered = leader.order(START, 1_000, state, order, |_| named);
        match never_joined {
            None => {
                let heard = Refusal::Heard { name: name("c") };
                assert_eq!(ordered, Err(NotProposed::Refused(heard)), "row {row}");
            }
            Some(expected) => {
                let Ok(Order::Remove { facts, .. }) = &ordered else { panic!("row {row}: {ordered:?}") };
                assert_eq!((facts.never_joined, facts.at_ms), (expected, 1_000), "row {row}");
            }
        }
    }
}

#[test]
fn an_order_that_not_all_members_could_read_is_refused_and_others_need_a_leader() {
    let state = State { feature_level: 1, ..pair() };
    let order = |leader: &LeaderStep, order| {
        leader.order(START, 1_000, &state, order, |_| -> NamedMember { panic!("it names no member") })
    };
    let pin = |duty| Order::Pin { duty, to: name("b") };
    for member in [leader(), leading(&state, &Exits::default())] {
        let refused = order(&member, pin(Duty::Mta));
        assert!(matches!(refused, Err(NotProposed::Refused(Refusal::DutyLevel { .. }))), "{refused:?}");
    }
    assert_eq!(order(&leader(), pin(DUTY)), Err(NotProposed::NotLeader));
    assert_eq!(order(&leading(&state, &Exits::default()), pin(DUTY)), Ok(pin(DUTY)));
}

/// The time during which no node acted is counted from the last message of the holder's incarnation to this member as a follower.
#[test]
fn a_new_leader_knows_when_it_last_heard_each_holder_before() {
    let state = pair();
    let mut contacts = Contacts::default();
    contacts.note(START - ms(300), &name("a"), Some(Incarnation(1)));
    // A later incarnation holds nothing.
    contacts.note(START - ms(100), &name("a"), Some(Incarnation(2)));
    let exits = Exits::default();
    let acted = |contacts: &Contacts| {
        let mut leader = incarnation_of("b", 1);
        leader.step(START, LeaderEvent::Raft { facts: leads(1), state: &state, exits: &exits, contacts });
        leader.view(START + ms(50), 1_000, &state).expect("it leads").leases[&DUTY].acted
    };
    assert_eq!(acted(&contacts), START - ms(300));
    assert_eq!(acted(&Contacts::default()), START, "it knows of no message");
}
