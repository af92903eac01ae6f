use twinbox_roles::{Cause, LocalFacts, MemberView, Move, MoveObject, State};

use super::*;

fn name(name: &str) -> NodeName {
    name.parse().expect("a name")
}

struct Nothing;

impl AlarmSource for Nothing {
    fn alarms(&self) -> Vec<Alarm> {
        Vec::new()
    }
}

/// A view of `a` with these members, with a majority.
pub fn view(members: &[(&str, Status)]) -> RolesView {
    let members = members.iter().map(|(member, status)| MemberView {
        name: name(member),
        kind: if *member == "w" { MemberKind::Witness } else { MemberKind::Node },
        status: *status,
        reason: if *status == Status::NotFunctioning { "not heard".to_owned() } else { String::new() },
        incarnation: None,
    });
    let facts = LocalFacts { quorum: true, ..LocalFacts::default() };
    RolesView {
        members: members.collect(),
        duties: Vec::new(),
        ..RolesView::new(&name("a"), &State::default(), &facts)
    }
}

fn moved(what: MoveObject, from: Option<&str>, to: &str, number: u64) -> Move {
    Move {
        object: what,
        from: from.map(name),
        to: name(to),
        epoch: twinbox_ids::Epoch { generation: 0, number, node: name(to) },
        cause: Cause::Exit,
        at_ms: 1_000_000_000,
        idle_ms: 312,
    }
}

fn watch(node: &str) -> RolesRules {
    RolesRules::new(&name(node), at(0), Timestamp(1_000_000_000), BTreeSet::new())
}

fn at(ms: u64) -> BootInstant {
    BootInstant::from_nanos(ms * 1_000_000)
}

fn raised(reports: &[Report]) -> Vec<(Code, &str)> {
    let raised = reports.iter().filter_map(|say| match say {
        Report::Raise(code, subject, _) => Some((*code, subject.as_str())),
        _ => None,
    });
    raised.collect()
}

fn events(reports: &[Report]) -> Vec<(Kind, &str)> {
    let events = reports.iter().filter_map(|say| match say {
        Report::Event(kind, subject, _) => Some((*kind, subject.as_str())),
        _ => None,
    });
    events.collect()
}

#[test]
fn new_publisher_reports_the_move_once_with_cause_and_milliseconds() {
    let mut now = view(&[("a", Status::InService), ("b", Status::InService)]);
    now.publisher = Some(name("a"));
    let duty = MoveObject::Duty(twinbox_roles::Duty::Notifier);
    let second = MoveObject::Duty(twinbox_roles::Duty::Mta);
    now.moves = vec![
        moved(MoveObject::Publisher, Some("b"), "a", 3),
        moved(duty, Some("b"), "a", 4),
        moved(second, Some("b"), "a", 5),
    ];
    let (mut a, mut b) = (watch("a"), watch("b"));
    let reports = a.look(&now, &Nothing, at(0));
    assert_eq!(raised(&reports), [(Code::RoleMoved, "publisher")]);
    assert!(events(&reports).contains(&(Kind::RoleMoved, "publisher")));
    assert!(events(&reports).contains(&(Kind::DutyMoved, "notifier")));
    assert!(events(&reports).contains(&(Kind::DutyMoved, "mta")));
    let detail = reports.iter().find_map(|say| match say {
        Report::Raise(.., detail) => Some(detail.clone()),
        _ => None,
    });
    assert_eq!(detail.as_deref(), Some("from b to a: exit; 312 ms without; epoch 0.3@a"));
    assert_eq!(raised(&b.look(&now, &Nothing, at(0))), [], "it went to the other");
    assert_eq!(raised(&a.look(&now, &Nothing, at(1))), []);
    // The next incarnation knows the reported moves; older ones are outside its period.
    let told = [("publisher".to_owned(), detail.unwrap_or_default())];
    let mut next = RolesRules::new(&name("a"), at(0), Timestamp(1_000_000_000), told);
    assert_eq!(raised(&next.look(&now, &Nothing, at(2))), []);
    let later = Timestamp(1_000_000_000 + BEFORE_THE_START + 1);
    let mut later = RolesRules::new(&name("a"), at(0), later, BTreeSet::new());
    assert_eq!(raised(&later.look(&now, &Nothing, at(2))), []);
}

#[test]
fn the_heir_tells_once_whose_calls_it_answers_for() {
    let mut now = view(&[("a", Status::InService), ("b", Status::NotFunctioning)]);
    let life = |life| twinbox_ids::Incarnation(life);
    let item = |node: &str, calls| CallHeir {
        node: name(node),
        incarnation: life(7),
        heir: name("a"),
        heir_incarnation: life(1),
        epoch: Some(twinbox_ids::Epoch { generation: 0, number: 9, node: name("a") }),
        calls,
        cause: Cause::Exit,
        at_ms: 1_000_000_000,
    };
    now.heirs = vec![item("b", 3), item("c", 0)];
    let mut a = watch("a");
    let told = |reports: &[Report]| {
        reports
            .iter()
            .filter_map(|say| match say {
                Report::Event(Kind::CallsInherited, subject, detail) => Some((subject.clone(), detail.clone())),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    let first = told(&a.look(&now, &Nothing, at(0)));
    let detail = format!("heir a, epoch 0.9@a: exit; 3 calls at the last report; life {}", life(7));
    assert_eq!(first, [("b".to_owned(), detail)], "one without calls is nothing to tell");
    // An exit proof first and the agreement later are one death.
    now.heirs[0].epoch = None;
    assert_eq!(told(&a.look(&now, &Nothing, at(1))), []);
    assert_eq!(told(&watch("b").look(&now, &Nothing, at(0))), [], "the heir tells it, nobody else");
}

#[test]
fn a_duty_that_goes_by_itself_is_an_alarm_and_the_first_holder_is_none() {
    let duty = MoveObject::Duty(twinbox_roles::Duty::Notifier);
    for (what, from, publisher, expected) in [
        (duty, Some("b"), "b", Some(Code::DutyMoved)),
        (duty, Some("b"), "a", None),
        (duty, None, "b", None),
        (MoveObject::Publisher, None, "a", None),
        (MoveObject::Publisher, Some("a"), "a", None),
    ] {
        let mut now = view(&[("a", Status::InService)]);
        now.publisher = Some(name(publisher));
        now.moves = vec![moved(what, from, "a", 3)];
        let reports = watch("a").look(&now, &Nothing, at(0));
        assert_eq!(raised(&reports).first().map(|(code, _)| *code), expected, "{what} {from:?} {publisher}");
    }
}

#[test]
fn a_lost_member_is_told_by_one_after_a_moment_and_is_over_when_it_is_back() {
    let (mut a, mut b) = (watch("a"), watch("b"));
    let all = |c| view(&[("a", Status::InService), ("b", Status::InService), ("c", c), ("w", Status::InService)]);
    let (well, lost) = (all(Status::InService), all(Status::NotFunctioning));
    let over = Report::Clear(Code::MemberLost, "c".to_owned());
    assert!(a.look(&well, &Nothing, at(0)).contains(&over));
    b.look(&well, &Nothing, at(0));
    let reports = a.look(&lost, &Nothing, at(100));
    assert_eq!((raised(&reports), events(&reports)), (vec![], vec![(Kind::MemberStatus, "c")]));
    assert_eq!(raised(&a.look(&lost, &Nothing, at(1_200))), [(Code::MemberLost, "c")]);
    assert_eq!(raised(&a.look(&lost, &Nothing, at(1_450))), [], "reports once");
    for ms in [100, 1_200] {
        let reports = b.look(&lost, &Nothing, at(ms));
        assert_eq!((raised(&reports), events(&reports)), (vec![], vec![]), "b is not the first by name");
    }
    assert!(!a.look(&all(Status::Starting), &Nothing, at(2_000)).contains(&over));
    assert!(a.look(&well, &Nothing, at(3_000)).contains(&over));
    // A node without a majority does not judge the others.
    let mut cut = lost.clone();
    cut.quorum = false;
    a.look(&cut, &Nothing, at(4_000));
    assert_eq!(raised(&a.look(&cut, &Nothing, at(9_000))), []);
}

/// Alarms that other nodes raised about `c`.
struct About(Vec<Alarm>);

impl AlarmSource for About {
    fn alarms(&self) -> Vec<Alarm> {
        self.0.clone()
    }
}

#[test]
fn an_alarm_of_a_node_that_is_lost_itself_does_not_count() {
    let id = twinbox_alarms::AlarmId::random();
    let mut raised_by_b = Alarm::new(name("b"), 1, id, Code::MemberLost, "c".to_owned(), Timestamp(1));
    raised_by_b.cleared = None;
    let known = About(vec![raised_by_b]);
    for (b, expected) in [
        (Status::InService, vec![]),
        (Status::Deactivated, vec![]),
        (Status::NotFunctioning, vec![(Code::MemberLost, "b"), (Code::MemberLost, "c")]),
    ] {
        let mut a = watch("a");
        let lost = view(&[("a", Status::InService), ("b", b), ("c", Status::NotFunctioning)]);
        a.look(&lost, &known, at(100));
        assert_eq!(raised(&a.look(&lost, &known, at(1_200))), expected, "b is {b:?}");
    }
}

#[test]
fn a_majority_that_stays_away_is_an_alarm_and_everyone_comes_first() {
    let mut a = watch("a");
    let (with, mut without) = (view(&[("a", Status::InService)]), view(&[("a", Status::InService)]));
    without.quorum = false;
    assert_eq!(raised(&a.look(&without, &Nothing, at(10_000))), [], "they are still coming");
    a.look(&with, &Nothing, at(16_000));
    assert_eq!(raised(&a.look(&without, &Nothing, at(20_000))), []);
    let reports = a.look(&without, &Nothing, at(24_000));
    assert_eq!(
        (raised(&reports), events(&reports)),
        (vec![(Code::NoMajority, "a")], vec![(Kind::MajorityLost, "a")])
    );
    assert_eq!(events(&a.look(&with, &Nothing, at(25_000))), [(Kind::MajorityBack, "a")]);
}

#[test]
fn survivor_reports_going_on_alone_once_and_each_side_reports_the_other_while_it_is_heard() {
    let mut now = view(&[("a", Status::InService)]);
    let lost = BTreeMap::from([(name("b"), (MemberKind::Node, "b:7070".to_owned()))]);
    let at_ms = 1_000_000_000;
    now.departures = vec![twinbox_roles::Departure { group: 1, by: name("a"), lost, generation: 3, at_ms }];
    let (mut a, mut b) = (watch("a"), watch("b"));
    let reports = a.look(&now, &Nothing, at(0));
    assert_eq!(raised(&reports), [(Code::GoneAlone, "a")]);
    assert!(events(&reports).contains(&(Kind::WentAlone, "a")));
    assert!(reports.iter().any(|s| matches!(s, Report::Raise(_, _, d) if d.contains("without b"))), "{reports:?}");
    assert_eq!(raised(&a.look(&now, &Nothing, at(1))), []);
    assert_eq!(raised(&b.look(&now, &Nothing, at(1))), [], "somebody else did");

    now.rivals = BTreeSet::from([name("b")]);
    assert_eq!(raised(&a.look(&now, &Nothing, at(2))), [(Code::TwoGroups, "b")]);
    assert_eq!(raised(&a.look(&now, &Nothing, at(3))), []);
    now.rivals.clear();
    assert!(a.look(&now, &Nothing, at(4)).contains(&Report::Clear(Code::TwoGroups, "b".to_owned())));
}

#[test]
fn a_split_is_reported_once_by_the_node_that_won_it_in_any_order_of_names() {
    let alone = |node: &str, number| twinbox_roles::SoloReport {
        epoch: twinbox_ids::Epoch { generation: 1, number, node: name(node) },
        duties: BTreeSet::from(twinbox_roles::Duty::ALL),
        from_ms: 1_000_000_000,
        to_ms: Some(1_000_007_000),
    };
    let ran = BTreeMap::from([(name("a"), alone("a", 4)), (name("b"), alone("b", 5))]);
    let split = twinbox_roles::Split { generation: 2, ran, winner: name("b"), healed_ms: 1_000_008_000 };
    let mut both = view(&[("a", Status::InService), ("b", Status::InService)]);
    both.splits = vec![split];
    let (mut a, mut b) = (watch("a"), watch("b"));
    assert_eq!(raised(&a.look(&both, &Nothing, at(0))), [], "a is the first by name, and b won");
    let reports = b.look(&both, &Nothing, at(0));
    assert_eq!(raised(&reports), [(Code::Split, "cluster")]);
    let duties = "notifier and mta and directory-sync and timetable and mailbox-sync";
    let detail = format!(
        "a ran {duties} alone for 7 s in epoch 1.4@a, b ran {duties} alone for 7 s in epoch 1.5@b; b goes on; \
         generation 2"
    );
    assert!(
        reports.contains(&Report::Event(Kind::SplitHealed, "cluster".to_owned(), detail.clone())),
        "{reports:?}"
    );
    // Later b is the first by name in service, and then only a.
    for states in [[Status::NotFunctioning, Status::InService], [Status::InService, Status::NotFunctioning]] {
        let mut later = view(&[("a", states[0]), ("b", states[1])]);
        later.splits.clone_from(&both.splits);
        for watch in [&mut a, &mut b] {
            assert!(!events(&watch.look(&later, &Nothing, at(5))).contains(&(Kind::SplitHealed, "cluster")));
        }
    }
}

#[test]
fn members_that_come_and_go_are_told_by_one() {
    let (mut a, mut b) = (watch("a"), watch("b"));
    let two = view(&[("a", Status::InService), ("b", Status::InService)]);
    let three = view(&[("a", Status::InService), ("b", Status::InService), ("c", Status::Starting)]);
    for watch in [&mut a, &mut b] {
        watch.look(&two, &Nothing, at(0));
    }
    assert_eq!(events(&a.look(&three, &Nothing, at(1))), [(Kind::MemberAdded, "c")]);
    assert_eq!(events(&b.look(&three, &Nothing, at(1))), []);
    // The joining node already knew the others, and reports its own status.
    let mut c = watch("c");
    c.look(&two, &Nothing, at(0));
    assert_eq!(events(&c.look(&three, &Nothing, at(1))), [(Kind::MemberStatus, "c")]);
    assert_eq!(events(&a.look(&two, &Nothing, at(2))), [(Kind::MemberRemoved, "c")]);
}

#[test]
fn alarms_of_a_removed_member_are_ended_by_one() {
    let raised = |node: &str| {
        let id = twinbox_alarms::AlarmId::random();
        let mut alarm = Alarm::new(name(node), 0, id, Code::Space, node.to_owned(), Timestamp(1));
        (alarm.cleared, alarm.raises) = (None, 1);
        alarm
    };
    let there = About(vec![raised("a"), raised("b"), raised("c")]);
    let (mut a, mut b) = (watch("a"), watch("b"));
    let two = view(&[("a", Status::InService), ("b", Status::InService)]);
    let removed = |names: &[&str]| names.iter().map(|removed| name(removed)).collect::<BTreeSet<_>>();
    let end = [Report::EndOf(name("c"))];
    let three = view(&[("a", Status::InService), ("b", Status::InService), ("c", Status::Starting)]);
    // A node that is no member yet may have joined where this one does not look.
    assert_eq!(a.removed(&two, &removed(&[]), &there, at(0)), []);
    assert_eq!(a.removed(&two, &removed(&["c"]), &there, at(1)), end);
    assert_eq!(b.removed(&two, &removed(&["c"]), &there, at(1)), []);
    assert_eq!(a.removed(&two, &removed(&["c"]), &there, at(2)), [], "it was looked for just now");
    assert_eq!(a.removed(&two, &removed(&["c"]), &there, at(60_001)), end, "one came later");
    assert_eq!(a.removed(&three, &removed(&["c"]), &there, at(120_001)), [], "it has joined again");
    // One that reports for the first time cannot know what the one before it did.
    assert_eq!(b.removed(&view(&[("b", Status::InService)]), &removed(&["c"]), &there, at(3)), end);
}
