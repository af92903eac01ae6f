//! The planner: tables of its decisions.

use std::time::Duration;

use twinbox_ids::{Epoch, Incarnation};
use twinbox_roles_core::{
    Command, CommandOutcome, Duty, LeaseFact, MemberKind, MemberObservation, Presence, Report, ServiceHealth,
    SoloReport, Status, View, plan,
};

use crate::planned::{drain_of, then_all_to, then_drains};
use crate::views::{NOW, absent, at_rest, epoch, failing, live, member, name, policy, see};

/// The plan, as text.
fn wants(change: impl FnOnce(&mut View)) -> Vec<String> {
    let mut view = at_rest();
    change(&mut view);
    plan(&view, &policy()).iter().map(ToString::to_string).collect()
}

/// The leases of all duties.
fn lease(view: &mut View, held: bool, frozen: bool) {
    for (duty, number) in Duty::ALL.into_iter().zip(2..) {
        view.leases.insert(duty, LeaseFact { epoch: epoch(number, "a"), held, frozen, acted: NOW });
    }
}

#[test]
fn a_cluster_at_rest_gets_an_empty_plan() {
    assert_eq!(wants(|_| ()), Vec::<String>::new());
}

#[test]
fn failures_and_moves_get_the_expected_commands() {
    let half = policy().health_grace / 2;
    assert_eq!(wants(see("b", absent(Presence::Silent))), ["b is not-functioning"]);
    assert_eq!(wants(see("b", absent(Presence::Unknown))), [""; 0]);
    assert_eq!(wants(see("w", absent(Presence::Silent))), ["w is not-functioning"]);
    assert_eq!(wants(see("b", failing(NOW - half))), [""; 0], "time for a local restart");
    assert_eq!(wants(see("b", failing(Duration::ZERO))), ["b is not-functioning"]);

    // The publisher is lost: its role moves, its duties only when their leases have expired.
    let lost = |held| {
        wants(move |view| {
            see("a", absent(Presence::Silent))(view);
            lease(view, held, false);
        })
    };
    assert_eq!(lost(true), then_drains(&["a is not-functioning", "publisher is b"]));
    assert_eq!(lost(false), then_all_to(&["a is not-functioning", "publisher is b"], "b"));

    // The publisher is failing and live: it must first release its duties.
    let ill = wants(see("a", failing(Duration::ZERO)));
    assert_eq!(ill, then_drains(&["a is not-functioning", "publisher is b"]));

    // The other was made publisher.
    let moved = |held, draining| {
        wants(move |view| {
            view.state.publisher = Some(epoch(4, "b"));
            view.state.duties.values_mut().for_each(|assignment| assignment.draining = draining);
            lease(view, held, draining);
        })
    };
    assert_eq!(moved(true, false), then_drains(&[]));
    assert_eq!(moved(true, true), [""; 0], "it waits for the release");
    assert_eq!(moved(false, true), then_all_to(&[], "b"));
}

#[test]
fn a_new_incarnation_gets_a_new_epoch() {
    let again = MemberObservation { incarnation: Some(Incarnation(2)), ..live() };
    let restarted = |held| {
        let again = again.clone();
        wants(move |view| {
            see("a", again)(view);
            lease(view, held, false);
        })
    };
    assert_eq!(restarted(true), then_drains(&["a is in-service"]));
    assert_eq!(restarted(false), then_all_to(&["a is in-service"], "a"));
}

#[test]
fn an_epoch_whose_move_was_proposed_and_lost_is_replaced() {
    assert_eq!(wants(|view| lease(view, true, true)), then_drains(&[]));
    assert_eq!(wants(|view| lease(view, false, true)), then_all_to(&[], "a"));
    let of_one = |duty: Duty| wants(move |view| view.leases.get_mut(&duty).expect("a lease").frozen = true);
    for duty in Duty::ALL {
        assert_eq!(of_one(duty), [drain_of(duty)]);
    }
}

#[test]
fn the_last_node_in_service_stays_in_service_when_it_fails() {
    let both_ill = wants(|view| {
        see("a", failing(Duration::ZERO))(view);
        see("b", failing(Duration::ZERO))(view);
    });
    assert_eq!(both_ill, ["b is not-functioning"], "the publisher is the last to go");
    let alone_and_ill = wants(|view| {
        see("a", failing(Duration::ZERO))(view);
        see("b", absent(Presence::Silent))(view);
    });
    assert_eq!(alone_and_ill, ["b is not-functioning"]);
}

/// A node out of service for a self-test that failed.
fn out(view: &mut View, text: &str) {
    let member = view.state.members.get_mut(&name(text)).expect("a member");
    (member.status, member.reason) = (Status::NotFunctioning, "store has failed: full".into());
    see(text, failing(Duration::ZERO))(view);
}

#[test]
fn status_with_a_longer_reason_than_a_member_keeps_is_set_once() {
    let mut view = at_rest();
    let service = ServiceHealth { name: "store".into(), ok: false, detail: "é".repeat(200) };
    see("b", MemberObservation { failing: Some(vec![service]), health_since: Duration::ZERO, ..live() })(&mut view);
    let commands = plan(&view, &policy());
    let [set @ Command::SetStatus { .. }] = commands.as_slice() else { panic!("{commands:?}") };
    assert_eq!(view.state.apply(set.clone()), CommandOutcome::Done);
    assert_eq!(plan(&view, &policy()), []);
}

#[test]
fn a_node_that_failed_first_serves_again_when_the_other_dies() {
    let survivor = wants(|view| {
        out(view, "b");
        see("a", absent(Presence::Silent))(view);
        lease(view, false, false);
    });
    let moved = then_all_to(&["a is not-functioning", "b is in-service", "publisher is b"], "b");
    assert_eq!(survivor, moved);
    let with_a_sound_one = wants(|view| out(view, "b"));
    assert_eq!(with_a_sound_one, [""; 0], "another serves");
    let recovering_first = wants(|view| {
        view.state.members.insert(name("c"), member(MemberKind::Node, Status::NotFunctioning));
        see("c", MemberObservation { health_since: NOW, ..live() })(view);
        out(view, "b");
        see("a", absent(Presence::Silent))(view);
    });
    assert!(recovering_first.contains(&"c is in-service".to_owned()), "{recovering_first:?}");
    assert!(!recovering_first.contains(&"b is in-service".to_owned()), "{recovering_first:?}");
}

#[test]
fn a_recovered_node_serves_after_the_settling_time() {
    let back = |since: Duration, alone: bool| {
        wants(move |view| {
            view.state.members.get_mut(&name("b")).expect("b").status = Status::NotFunctioning;
            see("b", MemberObservation { health_since: since, ..live() })(view);
            if alone {
                view.state.members.get_mut(&name("a")).expect("a").status = Status::NotFunctioning;
                see("a", absent(Presence::Silent))(view);
                view.state.members.get_mut(&name("a")).expect("a").reason =
                    "no message from it for longer than its lease".into();
            }
        })
    };
    assert_eq!(back(NOW, false), [""; 0]);
    assert_eq!(back(NOW - policy().settle, false), ["b is in-service"]);
    let rest = then_drains(&["b is in-service", "publisher is b"]);
    assert_eq!(back(NOW, true), rest, "nobody else serves: at once");
}

#[test]
fn the_preferred_node_wins_a_split_even_if_marked_out_of_service_in_it() {
    let met = |preferred: Option<&str>, since: Duration| {
        let mut wanted = wants(move |view| {
            view.state.members.remove(&name("w"));
            view.state.settings.preferred = preferred.map(name);
            lease(view, false, false);
            for (number, text) in [(8, "a"), (9, "b")] {
                let epoch = Epoch { generation: 1, number, node: name(text) };
                let solo = Some(SoloReport { epoch, duties: [].into(), from_ms: 1, to_ms: Some(2) });
                let report = Report { solo, ..Report::default() };
                see(text, MemberObservation { report, health_since: since, ..live() })(view);
            }
            // The leader, "a", had planned this for "b" in the split; it is agreed on only now.
            view.state.members.get_mut(&name("b")).expect("there").status = Status::NotFunctioning;
        });
        wanted.truncate(2);
        wanted
    };
    let just_now = NOW - policy().settle / 2;
    assert_eq!(met(Some("b"), just_now), ["b is in-service", "heal to generation 2 with b"]);
    assert_eq!(met(None, just_now), ["b is in-service", "heal to generation 2 with a"]);
    assert_eq!(met(Some("b"), Duration::ZERO), ["b is in-service", "heal to generation 2 with b"]);
}

#[test]
fn a_duty_of_a_deactivated_node_is_drained_even_if_no_node_can_take_it() {
    let out = wants(|view| {
        *view.state.members.get_mut(&name("a")).expect("a") = member(MemberKind::Node, Status::Deactivated);
        view.state.members.get_mut(&name("b")).expect("b").status = Status::NotFunctioning;
        view.state.members.get_mut(&name("b")).expect("b").reason =
            "no message from it for longer than its lease".into();
        see("b", absent(Presence::Silent))(view);
    });
    assert_eq!(out, then_drains(&[]));
}
