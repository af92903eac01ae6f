//! Take-over when members die, are cut off, fail, or must move duties. The gates are checked: two are never open at the
//! same time ([`Cluster::holder`] checks that at every call).

use std::time::Duration;

use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;
use twinbox_roles::{CommandError, Duty, DutyState, Order, OrderId, Refusal, ServiceHealth, Status, Timing};

use crate::common::{Cluster, failing, healthy, name};

/// Factor on a bound that only a hang exceeds, even on a busy machine. The simulation and `tests/bench` check the
/// bounds themselves.
const CEILING: u32 = 10;

fn bound(event: &str) -> Duration {
    let bounds = Timing::lan().bounds();
    bounds.iter().find(|row| row.event.starts_with(event)).expect("a row").value
}

#[test]
fn three_members_form_a_group_with_one_publisher() {
    let cluster = Cluster::formed(&["a", "b", "w"]);
    let (holder, epoch) = cluster.wait_holder();
    for member in ["a", "b", "w"] {
        cluster.until("all members know the publisher and that the notifier runs", |c| {
            let view = c.view(member);
            let duty = view.duty(Duty::Notifier).expect("a duty");
            view.publisher.as_ref() == Some(&holder)
                && duty.state == DutyState::Running
                && duty.holder.as_ref() == Some(&holder)
                && duty.epoch.as_ref() == Some(&epoch)
                && view.reason.is_empty()
        });
    }
    assert_ne!(holder, name("w"), "a witness has no duties");
}

#[test]
fn a_killed_publisher_is_replaced_within_two_seconds() {
    let limit = bound("host lost together with Raft's leader");
    assert!(limit < Duration::from_secs(2));
    let mut cluster = Cluster::formed(&["a", "b", "w"]);
    let (victim, old) = cluster.wait_holder();
    let heir = if victim == name("a") { "b" } else { "a" };
    let led = cluster.leader("w") == Some(victim.clone());
    cluster.kill(victim.as_str());
    let took = cluster.until("the other acts", |c| c.holder_is(heir));
    println!("killed publisher (leader as well: {led}) replaced after {took:?}");
    assert!(took < limit * CEILING, "{took:?}, the bound is {limit:?}");
    let (_, new) = cluster.wait_holder();
    assert!(new > old, "{new} is not above {old}");
    cluster.until("its status has a reason", |c| {
        let view = c.view(heir);
        let member = view.member(&victim).expect("a member");
        member.status == Status::NotFunctioning && member.reason.contains("no message from it")
    });
    // It comes back as a follower; the duty does not move.
    cluster.run(victim.as_str(), false);
    cluster.wait_formed();
    assert!(cluster.acts(heir), "the duty moved back");
}

#[test]
fn killing_the_leader_moves_no_duty_of_a_running_node() {
    let mut cluster = Cluster::formed(&["a", "b", "w"]);
    // A member other than the publisher leads, so that one failure does not take both.
    let mut found = None;
    cluster.until("another leads", |c| {
        found = c.holder().and_then(|(holder, epoch)| Some((c.leader(holder.as_str())?, holder, epoch)));
        found.as_ref().is_some_and(|(leader, holder, _)| leader != holder)
    });
    let (leader, holder, epoch) = found.expect("waited for");
    cluster.kill(leader.as_str());
    let took = cluster.until("another leads", |c| {
        let view = c.view(holder.as_str());
        view.quorum && view.leader.as_ref().is_some_and(|now| *now != leader)
    });
    println!("killed leader replaced after {took:?}");
    cluster.until("the same node acts in the same epoch", |c| c.holder() == Some((holder.clone(), epoch.clone())));
}

#[test]
fn a_partitioned_publisher_stops_before_another_starts() {
    let cluster = Cluster::formed(&["a", "b", "w"]);
    let (isolated, old) = cluster.wait_holder();
    let heir = if isolated == name("a") { "b" } else { "a" };
    cluster.isolate(isolated.as_str(), true);
    let cut = BootInstant::now();
    let closed = cluster.until("its gate closes", |c| !c.holder_is(isolated.as_str()));
    assert!(closed < bound("cut off") * CEILING, "{closed:?}");
    cluster.until("the other acts", |c| c.holder_is(heir));
    println!("cut off: closed after {closed:?}, replaced after {:?}", cut.elapsed());
    assert!(cluster.members[&isolated].gate.check(&old).is_err());
    cluster.until("it reports that there is no majority", |c| {
        let view = c.view(isolated.as_str());
        let duty = view.duty(Duty::Notifier).expect("a duty");
        !view.quorum && duty.state == DutyState::Waiting && duty.reason.contains("majority")
    });
    cluster.isolate(isolated.as_str(), false);
    cluster.wait_formed();
    assert!(cluster.acts(heir));
}

#[test]
fn without_a_majority_gates_close_and_orders_are_refused_with_a_reason() {
    let mut cluster = Cluster::formed(&["a", "b", "w"]);
    let (survivor, _) = cluster.wait_holder();
    let other = if survivor == name("a") { "b" } else { "a" };
    cluster.kill(other);
    cluster.kill("w");
    cluster.until("no node acts", |c| c.holder().is_none());
    cluster.until("the loss is known", |c| !c.view(survivor.as_str()).quorum);
    let order = || {
        let begun = BootInstant::now();
        let refused = cluster.order(survivor.as_str(), async |roles| roles.make_publisher(&name(other)).await);
        (refused, begun.elapsed())
    };
    // A leader may be elected just now; after that the error is immediate.
    let (_, took) = order();
    assert!(took < Timing::lan().order_limit() * CEILING, "{took:?}");
    let (refused, took) = order();
    let Err(CommandError::NoMajority { reason }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("2 of the 3 members"), "{reason}");
    assert!(
        took < Duration::from_millis(100) * CEILING,
        "refused at once when the loss is known, not after {took:?}"
    );
    // With one of them back everything goes on.
    cluster.run(other, false);
    cluster.until("a node acts again", |c| c.holder().is_some());
}

#[test]
fn an_order_interrupted_by_a_lost_majority_is_answered_and_its_outcome_can_be_queried() {
    let mut cluster = Cluster::formed(&["a", "b", "w"]);
    let (survivor, _) = cluster.wait_holder();
    let other = if survivor == name("a") { "b" } else { "a" };
    let id = twinbox_roles::OrderId(7);
    cluster.kill(other);
    cluster.kill("w");
    let order = twinbox_roles::Order::Activate(survivor.clone());
    let begun = BootInstant::now();
    let caught = cluster.order(survivor.as_str(), async |roles| roles.order(id, order).await);
    assert!(begun.elapsed() < Timing::lan().order_limit() * CEILING, "{:?}", begun.elapsed());
    assert!(matches!(caught, Err(CommandError::Unknown { .. } | CommandError::NoMajority { .. })), "{caught:?}");
    cluster.run(other, false);
    cluster.until("a majority is there", |c| c.view(survivor.as_str()).quorum);
    cluster.until("the outcome by id is known", |c| {
        match c.order(survivor.as_str(), async |roles| roles.outcome(id).await) {
            Ok(()) | Err(CommandError::Refused(Refusal::Settled)) => true,
            Err(_) => false,
        }
    });
}

#[test]
fn a_planned_move_is_fast_and_waits_for_writes_in_flight() {
    let cluster = Cluster::formed(&["a", "b", "w"]);
    let (from, old) = cluster.wait_holder();
    let to = if from == name("a") { name("b") } else { name("a") };
    let begun = BootInstant::now();
    cluster.settled("w", async |roles| roles.make_publisher(&to).await).expect("done");
    cluster.until("the duty has moved", |c| c.holder_is(to.as_str()));
    let took = begun.elapsed();
    println!("planned move after {took:?}");
    assert!(took < bound("planned move") * CEILING, "{took:?}");
    assert!(cluster.members[&from].gate.check(&old).is_err());

    // A write in flight completes first.
    let (_, epoch) = cluster.wait_holder();
    let write = cluster.members[&to].gate.enter(&epoch).expect("it holds the duty");
    cluster.settled("w", async |roles| roles.make_publisher(&from).await).expect("done");
    cluster.until("the gate closes", |_| write.check().is_err());
    assert!(cluster.holder().is_none(), "another acts while a write is in flight");
    let ended = BootInstant::now();
    drop(write);
    cluster.until("the duty has moved back", |c| c.holder_is(from.as_str()));
    assert!(ended.elapsed() < bound("planned move") * CEILING, "{:?}", ended.elapsed());
}

/// Nothing in these processes uses the gate of `mta`: it opens and closes all the same.
#[test]
fn a_duty_is_moved_by_an_order_and_by_a_failure_without_the_other() {
    let cluster = Cluster::formed(&["a", "b", "w"]);
    let (publisher, epoch) = cluster.wait_holder();
    let other = if publisher == name("a") { name("b") } else { name("a") };
    let on = |c: &Cluster, node: &NodeName| c.holder_of(Duty::Mta).is_some_and(|(holder, _)| holder == *node);
    cluster.until("the publisher holds both", |c| on(c, &publisher));
    let order = |order: Order| {
        let id = OrderId(rand::random());
        cluster.settled("w", async |roles| roles.order(id, order.clone()).await).expect("done");
    };
    order(Order::MoveDuty { duty: Duty::Mta, to: other.clone() });
    cluster.until("it has moved", |c| on(c, &other));
    cluster.until("all members show it", |c| {
        ["a", "b", "w"].iter().all(|member| {
            let view = c.view(member);
            let duty = view.duty(Duty::Mta).expect("a duty");
            duty.holder.as_ref() == Some(&other) && duty.state == DutyState::Running
        })
    });
    order(Order::MoveDuty { duty: Duty::Mta, to: publisher.clone() });
    cluster.until("it is back", |c| on(c, &publisher));

    // Its service fails on the publisher.
    let mut report = healthy();
    report.services.push(ServiceHealth { name: "mta".into(), ok: false, detail: "stuck".into() });
    cluster.roles(publisher.as_str()).report(report);
    cluster.until("it moves", |c| on(c, &other));
    let view = cluster.view("w");
    let status = view.member(&publisher).map(|member| member.status);
    assert_eq!((status, view.publisher.as_ref()), (Some(Status::InService), Some(&publisher)));
    assert_eq!(cluster.wait_holder(), (publisher, epoch), "the notifier has never moved");
}

#[test]
fn a_member_that_shuts_down_hands_over_immediately() {
    let mut cluster = Cluster::formed(&["a", "b", "w"]);
    let (leaver, _) = cluster.wait_holder();
    let heir = if leaver == name("a") { "b" } else { "a" };
    let begun = BootInstant::now();
    cluster.stop(leaver.as_str());
    cluster.until("the other acts", |c| c.holder_is(heir));
    println!("left in good order, replaced after {:?}", begun.elapsed());
    cluster.until("the others know the reason", |c| {
        c.view(heir).member(&leaver).is_some_and(|m| m.reason == "it has been shut down")
    });
}

#[test]
fn orders_deactivate_and_activate_nodes_and_state_refusals() {
    let cluster = Cluster::formed(&["a", "b", "w"]);
    let (out, _) = cluster.wait_holder();
    let stays = if out == name("a") { name("b") } else { name("a") };
    let deactivate = |node: &NodeName| cluster.settled("w", async |roles| roles.deactivate(node).await);
    let make_publisher = |node: &NodeName| cluster.settled("w", async |roles| roles.make_publisher(node).await);
    deactivate(&out).expect("done");
    cluster.until("its duty moves", |c| c.holder_is(stays.as_str()));
    let text = |refused: Result<(), CommandError>| refused.expect_err("refused").to_string();
    assert!(text(make_publisher(&out)).contains("activate it first"));
    assert!(text(deactivate(&stays)).contains("last node in service"));
    assert!(text(make_publisher(&name("w"))).contains("is a witness"));
    assert!(text(make_publisher(&name("x"))).contains("its members are: a, b, w"));
    cluster.settled("w", async |roles| roles.activate(&out).await).expect("done");
    cluster.wait_formed();
    assert!(cluster.acts(stays.as_str()));
}

#[test]
fn a_node_with_a_failed_service_loses_its_duty_and_recovers() {
    let cluster = Cluster::formed(&["a", "b", "w"]);
    let (failed, _) = cluster.wait_holder();
    let heir = if failed == name("a") { "b" } else { "a" };
    cluster.roles(failed.as_str()).report(failing());
    let took = cluster.until("its duty moves", |c| c.holder_is(heir));
    println!("failed service replaced after {took:?}");
    cluster.until("its status states the reason", |c| {
        let view = c.view("w");
        let member = view.member(&failed).expect("a member");
        member.status == Status::NotFunctioning && member.reason == "store has failed: the disk says no"
    });
    // The last node stays in service, even while failing.
    cluster.roles(heir).report(failing());
    cluster.roles(failed.as_str()).report(healthy());
    cluster.until("the one that is well takes over", |c| c.holder_is(failed.as_str()));
    cluster.roles(heir).report(healthy());
    cluster.wait_formed();
}
