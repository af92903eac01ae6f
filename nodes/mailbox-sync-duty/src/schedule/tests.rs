use proptest::{collection::vec, prelude::*};

use super::*;

const SERVER: MailServerId = MailServerId(1);
const OTHER: MailServerId = MailServerId(2);
const MINUTE: Duration = Duration::from_secs(60);
const RULES: ServerRules =
    ServerRules { connections: 2, watched: 50, poll: MINUTE, idle: Duration::from_secs(30 * 60) };
const DONE: Worked = Worked { changed: false, again: false, can_watch: true };
const CHANGED: Worked = Worked { changed: true, ..DONE };

fn start() -> BootInstant {
    BootInstant::from_nanos(1_000_000_000_000)
}

fn id(number: u128) -> MailboxId {
    MailboxId(number)
}

/// A schedule with this many accounts, from 1, on one server.
fn schedule(accounts: u128, rules: ServerRules) -> Schedule {
    let mut schedule = Schedule::default();
    let accounts = (1..=accounts).map(|number| (id(number), SERVER)).collect();
    schedule.set(&BTreeMap::from([(SERVER, rules)]), &accounts, &BTreeSet::new(), start());
    schedule
}

fn steps(schedule: &mut Schedule, now: BootInstant) -> Vec<Command> {
    std::iter::from_fn(|| schedule.next(now)).collect()
}

#[test]
fn accounts_take_turns_within_the_connections_of_their_server() {
    let mut schedule = schedule(3, RULES);
    let now = start();
    assert_eq!(steps(&mut schedule, now), [Command::Start(id(1)), Command::Start(id(2))]);
    assert_eq!(schedule.worked(id(1), DONE, now), Next::Close, "an account without changes is polled");
    assert_eq!(steps(&mut schedule, now), [], "a connection counts until it is closed");
    schedule.closed(id(1), now);
    assert_eq!(steps(&mut schedule, now), [Command::Start(id(3))]);
    schedule.worked(id(2), DONE, now);
    schedule.closed(id(2), now);
    assert_eq!(schedule.wake_at(), Some(now + MINUTE));
    assert_eq!(steps(&mut schedule, now + MINUTE), [Command::Start(id(1))]);
}

#[test]
fn full_server_holds_up_no_other() {
    let mut schedule = schedule(4, RULES);
    steps(&mut schedule, start());
    let accounts = [(id(1), SERVER), (id(2), SERVER), (id(3), SERVER), (id(4), SERVER), (id(5), OTHER)].into();
    let servers = BTreeMap::from([(SERVER, RULES), (OTHER, RULES)]);
    schedule.set(&servers, &accounts, &BTreeSet::new(), start());
    assert_eq!(steps(&mut schedule, start()), [Command::Start(id(5))]);
}

#[test]
fn active_account_is_watched_until_the_time_is_over() {
    let mut schedule = schedule(3, RULES);
    let now = start();
    steps(&mut schedule, now);
    assert_eq!(schedule.worked(id(1), CHANGED, now), Next::Watch(RULES.idle));
    assert_eq!(schedule.connections(), (2, 1));
    let later = now + MINUTE;
    assert_eq!(schedule.watched(id(1), false, later), Next::Work, "IDLE is renewed by a look");
    assert_eq!(schedule.worked(id(1), DONE, later), Next::Watch(RULES.idle - MINUTE));
    let late = now + RULES.idle;
    assert_eq!(schedule.watched(id(1), false, late), Next::Work);
    assert_eq!(schedule.worked(id(1), DONE, late), Next::Close);
}

#[test]
fn server_without_idle_is_polled() {
    let mut schedule = schedule(1, RULES);
    steps(&mut schedule, start());
    assert_eq!(schedule.worked(id(1), Worked { can_watch: false, ..CHANGED }, start()), Next::Close);
}

#[test]
fn longest_idle_account_gives_way_to_one_that_is_active() {
    let mut schedule = schedule(3, RULES);
    let now = start();
    steps(&mut schedule, now);
    assert_eq!(schedule.worked(id(1), CHANGED, now), Next::Watch(RULES.idle));
    let later = now + MINUTE;
    assert_eq!(schedule.worked(id(2), CHANGED, later), Next::Watch(RULES.idle));
    assert_eq!(steps(&mut schedule, later), [Command::Stop(id(1))]);
    assert_eq!(schedule.watched(id(1), false, later), Next::Close);
    schedule.closed(id(1), later);
    assert_eq!(steps(&mut schedule, later), [Command::Start(id(3))]);
}

#[test]
fn every_account_may_be_watched_when_there_are_connections_for_all() {
    let mut schedule = schedule(2, RULES);
    steps(&mut schedule, start());
    for number in [1, 2] {
        assert_eq!(schedule.worked(id(number), CHANGED, start()), Next::Watch(RULES.idle));
    }
    assert_eq!(steps(&mut schedule, start()), []);
}

#[test]
fn change_here_ends_idle_and_work_follows_on_the_same_connection() {
    let mut schedule = schedule(2, RULES);
    let now = start();
    steps(&mut schedule, now);
    schedule.worked(id(1), CHANGED, now);
    schedule.changed_here(id(1), now);
    schedule.changed_here(id(1), now);
    assert_eq!(steps(&mut schedule, now), [Command::Stop(id(1))]);
    assert_eq!(schedule.watched(id(1), false, now), Next::Work);
}

#[test]
fn change_during_work_is_worked_on_but_not_for_ever() {
    let mut schedule = schedule(3, RULES);
    let now = start();
    steps(&mut schedule, now);
    for _ in 1..MOST_ROUNDS {
        schedule.changed_here(id(1), now);
        assert_eq!(schedule.worked(id(1), DONE, now), Next::Work);
    }
    assert_eq!(schedule.worked(id(1), Worked { again: true, ..DONE }, now), Next::Close);
    schedule.closed(id(1), now);
    assert_eq!(steps(&mut schedule, now), [Command::Start(id(1))], "it is still urgent");
}

#[test]
fn changes_go_before_polls_but_polls_have_their_turn() {
    let mut schedule = schedule(9, ServerRules { connections: 1, ..RULES });
    let now = start();
    for number in 2..=7 {
        schedule.changed_here(id(number), now);
    }
    let mut started = Vec::new();
    for _ in 0..9 {
        let Some(Command::Start(mailbox)) = schedule.next(now) else { panic!("nothing was due") };
        started.push(mailbox.0);
        schedule.worked(mailbox, Worked { can_watch: false, ..DONE }, now);
        schedule.closed(mailbox, now);
    }
    assert_eq!(started, [2, 3, 4, 5, 1, 6, 7, 8, 9]);
}

#[test]
fn failed_account_waits_longer_each_time_whatever_changes_here() {
    let mut schedule = schedule(1, RULES);
    let mut now = start();
    for (failure, seconds) in [(1, 5), (2, 10), (3, 20)] {
        assert_eq!(steps(&mut schedule, now), [Command::Start(id(1))], "{failure}");
        assert_eq!(schedule.failed(id(1), false, 1.0, now), failure);
        schedule.changed_here(id(1), now);
        assert_eq!(steps(&mut schedule, now), []);
        now = now + Duration::from_secs(seconds);
        assert_eq!(schedule.wake_at(), Some(now));
    }
    assert!(schedule.ordered(id(1), start()), "an order does not wait");
    assert_eq!(steps(&mut schedule, start()), [Command::Start(id(1))]);
}

#[test]
fn pause_of_the_server_is_no_failure_of_the_account() {
    let mut schedule = schedule(1, RULES);
    let now = start();
    steps(&mut schedule, now);
    assert_eq!(schedule.failed(id(1), true, 1.0, now), 1);
    let mut now = now + REFUSED_PAUSE;
    for _ in 0..3 {
        assert_eq!(steps(&mut schedule, now), [Command::Start(id(1))]);
        let until = now + 5 * MINUTE;
        schedule.paused(id(1), until, 1.0);
        schedule.changed_here(id(1), now);
        now = until + SPREAD;
        assert_eq!((steps(&mut schedule, until), schedule.wake_at()), (vec![], Some(now)));
    }
    assert_eq!(steps(&mut schedule, now), [Command::Start(id(1))]);
    assert_eq!(schedule.failed(id(1), true, 1.0, now), 2, "the pauses have not counted");
    assert!(schedule.ordered(id(1), now), "an order does not wait");
}

#[test]
fn success_ends_the_failures() {
    let mut schedule = schedule(1, RULES);
    let now = start();
    steps(&mut schedule, now);
    schedule.failed(id(1), false, 1.0, now);
    let now = now + FIRST_PAUSE;
    steps(&mut schedule, now);
    schedule.worked(id(1), DONE, now);
    schedule.closed(id(1), now);
    let now = now + MINUTE;
    steps(&mut schedule, now);
    assert_eq!(schedule.failed(id(1), false, 0.0, now), 1);
}

#[test]
fn pauses_double_up_to_half_an_hour_and_are_spread() {
    let seconds = |failures, permanent, random| pause(failures, permanent, random).as_secs();
    assert_eq!([1, 2, 3].map(|failures| seconds(failures, false, 1.0)), [5, 10, 20]);
    assert_eq!([1, 2].map(|failures| seconds(failures, true, 1.0)), [60, 120]);
    for failures in [10, 40, u32::MAX] {
        assert_eq!((seconds(failures, false, 0.0), seconds(failures, true, 1.0)), (900, 1_800), "{failures}");
    }
}

#[test]
fn lost_idle_connection_is_no_failure() {
    let mut schedule = schedule(1, RULES);
    let now = start();
    steps(&mut schedule, now);
    schedule.worked(id(1), CHANGED, now);
    assert_eq!(schedule.failed(id(1), false, 1.0, now), 0);
    assert_eq!((schedule.connections(), schedule.wake_at()), ((0, 0), Some(now + FIRST_PAUSE)));
}

#[test]
fn account_whose_watches_break_is_polled_for_an_hour() {
    let mut schedule = schedule(1, RULES);
    let mut now = start();
    for _ in 0..MOST_BROKEN_WATCHES {
        steps(&mut schedule, now);
        assert_eq!(schedule.worked(id(1), CHANGED, now), Next::Watch(RULES.idle));
        assert_eq!(schedule.failed(id(1), false, 1.0, now), 0);
        now = now + FIRST_PAUSE;
    }
    let until = now - FIRST_PAUSE + UNWATCHED;
    for (now, next) in [(now, Next::Close), (until, Next::Watch(RULES.idle))] {
        assert_eq!(steps(&mut schedule, now), [Command::Start(id(1))]);
        assert_eq!(schedule.worked(id(1), CHANGED, now), next);
        schedule.closed(id(1), now);
    }
}

#[test]
fn account_whose_watches_broke_is_watched_after_a_change_of_its_settings() {
    let mut schedule = schedule(1, RULES);
    let mut now = start();
    for _ in 0..MOST_BROKEN_WATCHES {
        steps(&mut schedule, now);
        schedule.worked(id(1), CHANGED, now);
        schedule.failed(id(1), false, 1.0, now);
        now = now + FIRST_PAUSE;
    }
    let (servers, accounts) = (BTreeMap::from([(SERVER, RULES)]), BTreeMap::from([(id(1), SERVER)]));
    schedule.set(&servers, &accounts, &BTreeSet::from([id(1)]), now);
    steps(&mut schedule, now);
    assert_eq!(schedule.worked(id(1), CHANGED, now), Next::Watch(RULES.idle));
}

#[test]
fn refused_step_counts_as_a_failure_and_delays_no_change() {
    let mut schedule = schedule(1, RULES);
    let mut now = start();
    for failure in 1..=20 {
        assert_eq!(steps(&mut schedule, now), [Command::Start(id(1))], "{failure}");
        assert_eq!(schedule.refused(id(1), true, 1.0, now), failure);
        assert_eq!(schedule.wake_at(), Some(now + MINUTE), "the pause is at most that of a poll");
        now = now + MINUTE;
    }
    steps(&mut schedule, now);
    schedule.refused(id(1), true, 1.0, now);
    schedule.changed_here(id(1), now);
    assert_eq!(steps(&mut schedule, now), [Command::Start(id(1))]);
}

#[test]
fn removed_account_ends_and_changed_one_is_tried_now() {
    let mut schedule = schedule(3, RULES);
    let now = start();
    steps(&mut schedule, now);
    schedule.worked(id(1), CHANGED, now);
    schedule.failed(id(2), true, 1.0, now);
    steps(&mut schedule, now);
    let accounts = BTreeMap::from([(id(2), SERVER)]);
    schedule.set(&BTreeMap::from([(SERVER, RULES)]), &accounts, &BTreeSet::from([id(2)]), now);
    assert_eq!(steps(&mut schedule, now), [Command::Stop(id(1))], "3 works still");
    assert_eq!(schedule.watched(id(1), false, now), Next::Close);
    schedule.closed(id(1), now);
    assert_eq!(steps(&mut schedule, now), [Command::Start(id(2))]);
    assert_eq!(schedule.worked(id(3), CHANGED, now), Next::Close);
    schedule.closed(id(3), now);
    assert!(!schedule.ordered(id(3), now) && !schedule.ordered(id(1), now));
}

#[test]
fn account_that_moves_to_another_server_leaves_its_connection() {
    let mut schedule = schedule(1, RULES);
    let now = start();
    steps(&mut schedule, now);
    let servers = BTreeMap::from([(OTHER, RULES)]);
    schedule.set(&servers, &BTreeMap::from([(id(1), OTHER)]), &BTreeSet::new(), now);
    assert_eq!(schedule.worked(id(1), CHANGED, now), Next::Close);
    schedule.closed(id(1), now);
    assert_eq!(steps(&mut schedule, now), [Command::Start(id(1))]);
}

/// An event of a run.
#[derive(Debug, Clone)]
enum Event {
    Change(u128),
    Order(u128),
    Ended { account: u128, how: u8 },
    Pass(u64),
    Set { accounts: u128, connections: usize },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1..9_u128).prop_map(Event::Change),
        (1..9_u128).prop_map(Event::Order),
        (1..9_u128, 0..7_u8).prop_map(|(account, how)| Event::Ended { account, how }),
        (0..100_u64).prop_map(Event::Pass),
        (0..9_u128, 1..4_usize).prop_map(|(accounts, connections)| Event::Set { accounts, connections }),
    ]
}

/// Use of a connection in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Works,
    Watches,
    Stops,
    Closes,
}

/// The loop as the schedule sees it.
#[derive(Default)]
struct Model {
    schedule: Schedule,
    uses: BTreeMap<MailboxId, Use>,
}

impl Model {
    fn drain(&mut self, now: BootInstant) {
        while let Some(command) = self.schedule.next(now) {
            match command {
                Command::Start(mailbox) => {
                    assert_eq!(self.uses.insert(mailbox, Use::Works), None, "two connections of one account");
                }
                Command::Stop(mailbox) => {
                    assert_eq!(self.uses.insert(mailbox, Use::Stops), Some(Use::Watches), "it does not watch");
                }
            }
        }
    }

    fn then(&mut self, mailbox: MailboxId, next: Next) {
        let next = match next {
            Next::Work => Use::Works,
            Next::Watch(_) => Use::Watches,
            Next::Close => Use::Closes,
        };
        self.uses.insert(mailbox, next);
    }

    /// Ends the present use of a connection.
    fn end(&mut self, mailbox: MailboxId, how: u8, now: BootInstant) {
        let Some(use_) = self.uses.get(&mailbox).copied() else { return };
        match (use_, how) {
            (Use::Closes, _) => {
                self.uses.remove(&mailbox);
                self.schedule.closed(mailbox, now);
            }
            (_, 0) => {
                self.uses.remove(&mailbox);
                self.schedule.failed(mailbox, false, 0.5, now);
            }
            (Use::Works, 6) => {
                self.uses.remove(&mailbox);
                self.schedule.paused(mailbox, now + MINUTE, 0.5);
            }
            (Use::Works, 1) => {
                self.uses.remove(&mailbox);
                self.schedule.refused(mailbox, true, 0.5, now);
            }
            (Use::Works, how) => {
                let worked = Worked { changed: how > 2, again: how == 5, can_watch: how != 2 };
                let next = self.schedule.worked(mailbox, worked, now);
                self.then(mailbox, next);
            }
            (Use::Watches | Use::Stops, how) => {
                let next = self.schedule.watched(mailbox, how == 1, now);
                self.then(mailbox, next);
            }
        }
    }
}

proptest! {
    #[test]
    fn connections_are_bounded_and_no_account_is_forgotten(events in vec(event(), 1..120)) {
        let mut model = Model::default();
        let mut now = start();
        let mut most = 3;
        let set = |model: &mut Model, accounts: u128, connections: usize, now| {
            let rules = ServerRules { connections, ..RULES };
            let accounts = (1..=accounts).map(|number| (id(number), SERVER)).collect();
            model.schedule.set(&BTreeMap::from([(SERVER, rules)]), &accounts, &BTreeSet::new(), now);
        };
        set(&mut model, 5, most, now);
        for event in events {
            match event {
                Event::Change(account) => model.schedule.changed_here(id(account), now),
                Event::Order(account) => {
                    model.schedule.ordered(id(account), now);
                }
                Event::Ended { account, how } => model.end(id(account), how, now),
                Event::Pass(seconds) => now = now + Duration::from_secs(seconds),
                Event::Set { accounts, connections } => {
                    set(&mut model, accounts, connections, now);
                    most = most.max(connections);
                }
            }
            model.drain(now);
            prop_assert!(model.uses.len() <= most, "{:?}", model.uses);
            prop_assert_eq!(model.schedule.connections().0, model.uses.len());
        }
        // From now on everything ends well: each account has its turn within the longest pause and some rounds.
        set(&mut model, 8, 1, now);
        let mut worked = BTreeSet::new();
        for _ in 0..400 {
            model.drain(now);
            let used: Vec<(MailboxId, Use)> = model.uses.iter().map(|(mailbox, use_)| (*mailbox, *use_)).collect();
            for (mailbox, use_) in used {
                if use_ == Use::Works {
                    worked.insert(mailbox);
                }
                model.end(mailbox, 4, now);
            }
            now = now + Duration::from_secs(10);
        }
        prop_assert_eq!(worked.len(), 8);
    }
}
