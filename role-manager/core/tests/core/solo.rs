//! Going solo (rule R7): a decision of a node by its own last contacts.

use std::time::Duration;

use twinbox_roles_core::{
    Command, CommandOutcome, Duty, DutyState, LocalFacts, Mode, OnQuorumLoss, Order, OrderId, RolesView,
    SUPPORTED_LEVELS, Setting, Solo, SoloInputs, SoloRecord, SoloVerdict, State, Timing, Voters,
};

use crate::common::{START, cluster, name};

fn set(state: &mut State, settings: Vec<Setting>) {
    let id = OrderId(state.orders.len() as u128 + 1);
    assert_eq!(state.apply(Command::Operate { id, order: Order::Set(settings) }), CommandOutcome::Done);
}

fn with(names: &[&str], settings: Vec<Setting>) -> State {
    let mut state = cluster(names);
    set(&mut state, settings);
    state
}

fn pair() -> State {
    with(&["a", "b"], vec![Setting::OnQuorumLoss(OnQuorumLoss::Assume)])
}

/// Only the members vote; leaked for the test's run time.
fn voters_of(state: &State) -> &'static Voters {
    let raft_ids = state.members.values().map(|member| member.raft_id).collect();
    Box::leak(Box::new(Voters { raft_ids, applied: true }))
}

/// Facts of node `b` at this time after it last heard the other.
fn after(state: &State, silence: Duration) -> SoloInputs<'_> {
    let (now, last_contact) = (START + silence, START);
    SoloInputs {
        now,
        wall_ms: 1_000,
        state,
        raft_id: 2,
        voters: voters_of(state),
        quorum: false,
        last_contact,
        arbiter: None,
        in_flight: false,
    }
}

fn solo(stored: Option<SoloRecord>) -> Solo {
    Solo::new(name("b"), Timing::lan(), stored, 900)
}

/// Stores all records to keep, and returns the remaining verdict.
fn settled(solo: &mut Solo, facts: &SoloInputs<'_>) -> SoloVerdict {
    loop {
        match solo.decide(facts) {
            SoloVerdict::Store(record) => solo.stored(record),
            verdict => return verdict,
        }
    }
}

#[test]
fn a_node_goes_solo_when_every_lease_of_the_other_has_expired() {
    let state = pair();
    let mut solo = solo(None);
    let needed = Timing::lan().silence_limit(&state);
    assert!(needed > Timing::lan().new_leader_wait());
    assert!(matches!(settled(&mut solo, &after(&state, needed)), SoloVerdict::Wait(_)));
    let late = after(&state, needed + Duration::from_millis(1));
    let SoloVerdict::Store(record) = solo.decide(&late) else { panic!("on disk first") };
    solo.stored(record.clone());
    let SoloVerdict::Act(epoch, until) = solo.decide(&late) else { panic!("then it acts") };
    assert_eq!((epoch.generation, &epoch.node), (state.generation + 1, &name("b")));
    assert!(until > late.now && until < late.now + Timing::lan().lease);
    assert!(solo.report().is_some_and(|report| report.is_acting() && report.from_ms == 1_000));

    // The other is heard: nothing more goes out. When nothing is in flight, the end is stored, too.
    let contact = SoloInputs { last_contact: late.now, ..late };
    assert_eq!(solo.decide(&SoloInputs { in_flight: true, ..contact }), SoloVerdict::Stop);
    let SoloVerdict::Store(over) = solo.decide(&contact) else { panic!("it is over") };
    solo.stored(over);
    assert!(solo.report().is_some_and(|report| report.to_ms == Some(1_000)));
    // The cluster records the solo work.
    let mut healed = state.clone();
    healed.generation = 2;
    let together = SoloInputs { state: &healed, quorum: true, ..contact };
    assert_eq!(settled(&mut solo, &together), SoloVerdict::Idle);
    assert_eq!((solo.report(), solo.persisted().generation), (None, 2));
    // The next solo epoch is above that, also with a state that is behind, and after a restart.
    let again = after(&state, Duration::from_secs(5));
    assert!(matches!(settled(&mut solo, &again), SoloVerdict::Act(epoch, _) if epoch.generation == 3));
    let mut next_incarnation = self::solo(Some(record));
    assert!(next_incarnation.report().is_some_and(|report| report.to_ms == Some(1_000)));
    let SoloVerdict::Act(second, _) = settled(&mut next_incarnation, &again) else { panic!("it acts") };
    assert!(second > epoch);
    assert!(
        next_incarnation.report().is_some_and(|report| report.from_ms == 1_000),
        "unreported work is part of it"
    );
}

#[test]
fn a_solo_node_runs_all_duties_of_the_feature_level_and_no_others() {
    for level in 1..=SUPPORTED_LEVELS.max {
        let expected: Vec<Duty> = Duty::ALL.into_iter().filter(|duty| duty.level() <= level).collect();
        let state = State { feature_level: level, ..pair() };
        let mut solo = solo(None);
        let alone = after(&state, Duration::from_secs(60));
        assert!(!Duty::ALL.iter().any(|duty| solo.runs(*duty)));
        let SoloVerdict::Act(epoch, _) = settled(&mut solo, &alone) else { panic!("it acts") };
        let runs: Vec<_> = Duty::ALL.into_iter().filter(|duty| solo.runs(*duty)).collect();
        assert_eq!(runs, expected, "level {level}");
        // The view shows each of them in the solo epoch.
        let running = runs.iter().map(|duty| (*duty, epoch.clone())).collect();
        let view = RolesView::new(&name("b"), &state, &LocalFacts { solo: running, ..LocalFacts::default() });
        let shown: Vec<_> = view.duties.iter().map(|shown| (shown.duty, shown.epoch.clone())).collect();
        assert_eq!(shown, expected.iter().map(|duty| (*duty, Some(epoch.clone()))).collect::<Vec<_>>());
        let reason = view.reason;
        assert!(reason.contains("runs duties solo") && !reason.contains("duties wait"), "{reason}");
    }
}

/// Another node may run a duty while this one reaches no majority.
#[test]
fn without_a_majority_a_duty_is_shown_as_not_running_here() {
    let view = RolesView::new(&name("b"), &pair(), &LocalFacts::default());
    assert!(view.reason.contains("duties wait"), "{}", view.reason);
    for duty in &view.duties {
        assert_eq!(duty.state, DutyState::Waiting);
        assert!(duty.reason.starts_with("it does not run here: "), "{}", duty.reason);
    }
}

#[test]
fn no_node_goes_solo_without_permission_store_or_arbiter() {
    let long = Duration::from_secs(60);
    let pair = pair();
    let hold = with(&["a", "b"], vec![Setting::Mode(Mode::ActivePassive)]);
    let three = with(&["a", "b", "w"], vec![Setting::OnQuorumLoss(OnQuorumLoss::Assume)]);
    let mut out = pair.clone();
    let order = Order::deactivate(name("b"));
    assert_eq!(out.apply(Command::Operate { id: OrderId(9), order }), CommandOutcome::Done);
    let waits = |facts: SoloInputs<'_>| match settled(&mut solo(None), &facts) {
        SoloVerdict::Wait(reason) => reason,
        other => panic!("{other:?}"),
    };
    assert!(waits(after(&hold, long)).contains("'hold'"));
    assert!(waits(after(&three, long)).contains("majority"));
    assert!(waits(after(&out, long)).contains("not activated"));
    // The log, or the store, shows that this state is out of date.
    let grown = Voters { raft_ids: [1, 2, 3].into(), applied: true };
    let others = Voters { raft_ids: [2, 3].into(), applied: true };
    let unread = Voters { applied: false, ..voters_of(&pair).clone() };
    for voters in [&grown, &others, &unread] {
        assert!(waits(SoloInputs { voters, ..after(&pair, long) }).contains("majority"), "{voters:?}");
    }
    assert!(waits(SoloInputs { raft_id: 9, ..after(&pair, long) }).contains("not activated"));
    assert_eq!(settled(&mut solo(None), &SoloInputs { quorum: true, ..after(&pair, long) }), SoloVerdict::Idle);
    // An arbiter has to answer, repeatedly.
    let mut asked = pair.clone();
    set(&mut asked, vec![Setting::Arbiter(Some("gateway:443".to_owned()))]);
    assert!(waits(after(&asked, long)).contains("gateway:443 does not answer"));
    let mut solo = solo(None);
    let facts = after(&asked, long);
    let answered = SoloInputs { arbiter: Some(facts.now), ..facts };
    let SoloVerdict::Act(_, until) = settled(&mut solo, &answered) else { panic!("it acts") };
    assert!(matches!(settled(&mut solo, &SoloInputs { now: until, ..answered }), SoloVerdict::Wait(_)));
}
