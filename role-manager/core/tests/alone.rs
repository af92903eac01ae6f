//! Going solo (rule R7), and the call policy of a passive node: decisions of a node by its own last contacts.

mod common;

use std::time::Duration;

use common::{START, cluster, name};

use twinbox_roles_core::{
    Alone, Command, Doors, Known, Mode, OnQuorumLoss, Order, OrderId, Outcome, RolesView, Setting, Solo,
    SoloRecord, SoloVerdict, State, Status, Timing, Voters, doors,
};

fn set(state: &mut State, settings: Vec<Setting>) {
    let id = OrderId(state.orders.len() as u128 + 1);
    assert_eq!(state.apply(Command::Operate { id, order: Order::Set(settings) }), Outcome::Done);
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
fn after(state: &State, unheard: Duration) -> Alone<'_> {
    let (now, heard) = (START + unheard, START);
    Alone {
        now,
        wall_ms: 1_000,
        state,
        raft_id: 2,
        voters: voters_of(state),
        quorum: false,
        heard,
        arbiter: None,
        in_flight: false,
    }
}

fn solo(kept: Option<SoloRecord>) -> Solo {
    Solo::new(name("b"), Timing::lan(), kept, 900)
}

/// Stores all records to keep, and returns the remaining verdict.
fn settled(solo: &mut Solo, facts: &Alone<'_>) -> SoloVerdict {
    loop {
        match solo.decide(facts) {
            SoloVerdict::Keep(record) => solo.kept(record),
            verdict => return verdict,
        }
    }
}

#[test]
fn a_node_goes_on_alone_when_every_lease_of_the_other_is_out() {
    let state = pair();
    let mut solo = solo(None);
    let needed = Timing::lan().unheard(&state);
    assert!(needed > Timing::lan().new_leader_wait());
    assert!(matches!(settled(&mut solo, &after(&state, needed)), SoloVerdict::Wait(_)));
    let late = after(&state, needed + Duration::from_millis(1));
    let SoloVerdict::Keep(record) = solo.decide(&late) else { panic!("on disk first") };
    solo.kept(record.clone());
    let SoloVerdict::Act(epoch, until) = solo.decide(&late) else { panic!("then it acts") };
    assert_eq!((epoch.generation, &epoch.node), (state.generation + 1, &name("b")));
    assert!(until > late.now && until < late.now + Timing::lan().lease);
    assert!(solo.report().is_some_and(|report| report.is_acting() && report.from_ms == 1_000));

    // The other is heard: nothing more goes out. When nothing is in flight, the end is stored, too.
    let heard = Alone { heard: late.now, ..late };
    assert_eq!(solo.decide(&Alone { in_flight: true, ..heard }), SoloVerdict::Stop);
    let SoloVerdict::Keep(over) = solo.decide(&heard) else { panic!("it is over") };
    solo.kept(over);
    assert!(solo.report().is_some_and(|report| report.to_ms == Some(1_000)));
    // The cluster records the solo work.
    let mut healed = state.clone();
    healed.generation = 2;
    let together = Alone { state: &healed, quorum: true, ..heard };
    assert_eq!(settled(&mut solo, &together), SoloVerdict::Rest);
    assert_eq!((solo.report(), solo.learned().generation), (None, 2));
    // The next solo epoch is above that, also with a state that is behind, and after a restart.
    let again = after(&state, Duration::from_secs(5));
    assert!(matches!(settled(&mut solo, &again), SoloVerdict::Act(epoch, _) if epoch.generation == 3));
    let mut next_life = self::solo(Some(record));
    assert!(next_life.report().is_some_and(|report| report.to_ms == Some(1_000)));
    let SoloVerdict::Act(second, _) = settled(&mut next_life, &again) else { panic!("it acts") };
    assert!(second > epoch);
    assert!(
        next_life.report().is_some_and(|report| report.from_ms == 1_000),
        "what was not told yet is part of it"
    );
}

#[test]
fn nobody_else_goes_on_alone() {
    let long = Duration::from_secs(60);
    let pair = pair();
    let hold = with(&["a", "b"], vec![Setting::Mode(Mode::ActivePassive)]);
    let three = with(&["a", "b", "w"], vec![Setting::OnQuorumLoss(OnQuorumLoss::Assume)]);
    let mut out = pair.clone();
    let order = Order::deactivate(name("b"));
    assert_eq!(out.apply(Command::Operate { id: OrderId(9), order }), Outcome::Done);
    let waits = |facts: Alone<'_>| match settled(&mut solo(None), &facts) {
        SoloVerdict::Wait(why) => why,
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
        assert!(waits(Alone { voters, ..after(&pair, long) }).contains("majority"), "{voters:?}");
    }
    assert!(waits(Alone { raft_id: 9, ..after(&pair, long) }).contains("not activated"));
    assert_eq!(settled(&mut solo(None), &Alone { quorum: true, ..after(&pair, long) }), SoloVerdict::Rest);
    // An arbiter has to answer, repeatedly.
    let mut asked = pair.clone();
    set(&mut asked, vec![Setting::Arbiter(Some("gateway:443".to_owned()))]);
    assert!(waits(after(&asked, long)).contains("gateway:443 does not answer"));
    let mut solo = solo(None);
    let facts = after(&asked, long);
    let answered = Alone { arbiter: Some(facts.now), ..facts };
    let SoloVerdict::Act(_, until) = settled(&mut solo, &answered) else { panic!("it acts") };
    assert!(matches!(settled(&mut solo, &Alone { now: until, ..answered }), SoloVerdict::Wait(_)));
}

#[test]
fn a_passive_node_keeps_its_doors_closed_while_the_active_one_is_heard() {
    let passive = Setting::Mode(Mode::ActivePassive);
    let mut state = with(&["a", "b", "w"], vec![passive]);
    let limit = Timing::lan().unheard(&state);
    let see = |state: &State, own: &str, quorum: bool, heard: Option<Duration>| {
        let known = Known { quorum, ..Known::default() };
        let view = RolesView::new(&name(own), state, &known);
        doors(&view, &name(own), limit, |_| heard)
    };
    let lately = Some(Duration::from_millis(100));
    let closed = see(&state, "b", true, lately);
    assert!(
        matches!(&closed, Doors::Closed { retry_after, why } if *retry_after == limit && why.contains("a answers"))
    );
    assert_eq!(see(&state, "b", false, lately), closed, "without a majority, what is heard counts");
    assert_eq!(see(&state, "a", true, None), Doors::Open, "the active one, whatever it hears");
    assert_eq!(see(&state, "b", true, Some(limit + Duration::from_millis(1))), Doors::Open);
    assert_eq!(see(&state, "b", true, None), Doors::Open);
    // The majority has agreed that the active node is out, though it is still heard.
    let mut gone = state.clone();
    let revision = gone.members[&name("a")].revision;
    let (status, incarnation, reason) = (Status::NotFunctioning, None, "it has exited".to_owned());
    let cause = Default::default();
    let out = Command::SetStatus { name: name("a"), revision, status, incarnation, reason, cause };
    assert_eq!(gone.apply(out), Outcome::Done);
    assert_eq!(see(&gone, "b", true, lately), Doors::Open);
    assert_eq!(see(&gone, "b", false, lately), closed);
    set(&mut state, vec![Setting::ForceFailoverOnCall(true)]);
    assert!(matches!(see(&state, "b", true, lately), Doors::OnCall { .. }));
    set(&mut state, vec![Setting::Mode(Mode::ActiveActive)]);
    assert_eq!(see(&state, "b", true, lately), Doors::Open);
}
