//! Two nodes without a witness lose contact: `hold` waits, `assume` goes solo, and both stand down when they meet.

mod common;

use std::net::TcpListener;

use common::{Cluster, name};
use twinbox_ids::NodeName;
use twinbox_roles::{DutyState, Order, OrderId, Setting, Status, Timing};

fn set(cluster: &Cluster, settings: &[(&str, &str)]) {
    let wanted: Vec<_> =
        settings.iter().map(|(name, value)| Setting::parse(name, value).expect("a setting")).collect();
    let (id, order) = (OrderId(rand::random()), Order::Set(wanted.clone()));
    cluster.settled("a", async |roles| roles.order(id, order.clone()).await).expect("done");
    let known = |c: &Cluster, node| {
        let all = c.view(node).settings.list();
        wanted.iter().all(|setting| all.contains(setting))
    };
    cluster.until("both know", |c| known(c, "a") && known(c, "b"));
}

fn other(node: &NodeName) -> &'static str {
    if *node == name("a") { "b" } else { "a" }
}

#[test]
fn with_hold_duties_wait_for_the_other_and_go_on_with_it() {
    let mut cluster = Cluster::formed(&["a", "b"]);
    let (victim, _) = cluster.somebody();
    let survivor = other(&victim);
    cluster.kill(victim.as_str());
    cluster.until("the loss is known", |c| !c.view(survivor).quorum);
    cluster.throughout(Timing::lan().new_leader_wait() * 2, |c| {
        assert_eq!(c.epoch_of(survivor), None, "it acts without a majority");
    });
    cluster.run(victim.as_str(), false);
    cluster.wait_formed();
}

#[test]
fn with_assume_the_survivor_goes_on_alone_and_stands_down_when_the_other_is_back() {
    let mut cluster = Cluster::formed(&["a", "b"]);
    set(&cluster, &[("on-quorum-loss", "assume"), ("preferred", "a")]);
    let (victim, old) = cluster.somebody();
    let survivor = other(&victim);
    cluster.kill(victim.as_str());
    let took = cluster.until("the survivor acts alone", |c| c.epoch_of(survivor).is_some());
    println!("alone after {took:?}");
    let solo = cluster.epoch_of(survivor).expect("it acts");
    assert!(solo > old && solo.generation > old.generation && solo.node == name(survivor), "{solo} after {old}");
    cluster.until("it says so", |c| {
        let view = c.view(survivor);
        let duty = view.duty(twinbox_roles::Duty::Notifier).expect("a duty");
        duty.state == DutyState::Running && duty.reason.contains("alone") && !view.quorum
    });
    // It is killed and restarted, still alone: a later epoch, and its solo work is not forgotten.
    cluster.kill(survivor);
    cluster.run(survivor, false);
    cluster.until("it acts alone again", |c| c.epoch_of(survivor).is_some());
    assert!(cluster.epoch_of(survivor).expect("it acts") > solo);
    let solo = cluster.epoch_of(survivor).expect("it acts");
    cluster.run(victim.as_str(), false);
    cluster.wait_formed();
    let (_, healed) = cluster.somebody();
    assert!(healed.generation > solo.generation, "{healed} after {solo}");
    for node in ["a", "b"] {
        let view = cluster.view(node);
        let split = view.splits.last().expect("the split is told");
        assert_eq!(split.winner, name("a"), "the preferred one wins");
        assert_eq!(split.ran.keys().collect::<Vec<_>>(), [&name(survivor)], "what ran where");
    }
}

#[test]
fn both_go_on_alone_in_a_cut_and_never_in_one_epoch_and_meet_again() {
    let cluster = Cluster::formed(&["a", "b"]);
    set(&cluster, &[("on-quorum-loss", "assume"), ("preferred", "b")]);
    cluster.isolate("a", true);
    cluster.until("both act", |c| {
        let (a, b) = (c.epoch_of("a"), c.epoch_of("b"));
        assert!(a.is_none() || a != b, "one epoch on both: {a:?}");
        // Each in its own epoch: the lease of the agreed one expires first.
        a.is_some_and(|a| a.node == name("a")) && b.is_some_and(|b| b.node == name("b"))
    });
    let ran = [cluster.epoch_of("a"), cluster.epoch_of("b")].map(|e| e.expect("it acts"));
    cluster.isolate("a", false);
    cluster.until("they have met", |c| {
        let acting = [c.epoch_of("a"), c.epoch_of("b")];
        let [a, b] = &acting;
        if let (Some(a), Some(b)) = (a, b) {
            // A node that has heard the other stops; none acts in the new generation before both have.
            let newest = ran.iter().map(|epoch| epoch.generation).max().expect("two");
            assert!(a.generation <= newest && b.generation <= newest, "{a} and {b}");
        }
        c.view("a").splits.last().is_some() && c.view("b").splits == c.view("a").splits
    });
    cluster.wait_formed();
    let split = cluster.view("a").splits.last().cloned().expect("a split");
    assert_eq!(split.ran.len(), 2, "{split:?}");
    assert_eq!(split.winner, name("b"));
    assert_eq!(cluster.view("a").publisher, Some(name("b")));
    assert!(cluster.view("b").members.iter().all(|m| m.status == Status::InService));
}

#[test]
fn with_an_arbiter_only_who_reaches_it_goes_on_alone() {
    let arbiter = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = arbiter.local_addr().expect("an address").to_string();
    let mut cluster = Cluster::formed(&["a", "b"]);
    set(&cluster, &[("on-quorum-loss", "assume"), ("arbiter", &address)]);
    let (victim, _) = cluster.somebody();
    let survivor = other(&victim);
    cluster.kill(victim.as_str());
    cluster.until("the survivor acts alone", |c| c.epoch_of(survivor).is_some());
    drop(arbiter);
    cluster.until("without the arbiter it stops", |c| c.epoch_of(survivor).is_none());
    let _again = TcpListener::bind(&address).expect("the port is free");
    cluster.until("it goes on with it", |c| c.epoch_of(survivor).is_some());
}
