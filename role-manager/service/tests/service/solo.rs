//! Two nodes without a witness lose contact: `hold` waits, `assume` goes solo, and both stand down when they meet.

use std::net::TcpListener;

use twinbox_ids::NodeName;
use twinbox_roles::{Duty, DutyState, FeatureLevels, Order, OrderId, Setting, Status, Timing};

use crate::common::{Cluster, name};

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
fn with_hold_duties_wait_for_the_other_node() {
    let mut cluster = Cluster::formed(&["a", "b"]);
    let (victim, _) = cluster.wait_holder();
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
fn with_assume_the_survivor_goes_solo_until_the_other_is_back() {
    let mut cluster = Cluster::formed(&["a", "b"]);
    set(&cluster, &[("on-quorum-loss", "assume"), ("preferred", "a")]);
    let (victim, old) = cluster.wait_holder();
    let survivor = other(&victim);
    cluster.kill(victim.as_str());
    let took = cluster.until("the survivor acts alone", |c| c.epoch_of(survivor).is_some());
    println!("alone after {took:?}");
    let solo = cluster.epoch_of(survivor).expect("it acts");
    // All duties of the feature level run in the one solo epoch.
    cluster.until("the other duty runs, too", |c| c.epoch_under(survivor, Duty::Mta).as_ref() == Some(&solo));
    assert!(solo > old && solo.generation > old.generation && solo.node == name(survivor), "{solo} after {old}");
    cluster.until("it reports that", |c| {
        let view = c.view(survivor);
        let solo = |duty| {
            let duty = view.duty(duty).expect("a duty");
            duty.state == DutyState::Running && duty.reason.contains("solo")
        };
        Duty::ALL.into_iter().all(solo) && !view.quorum
    });
    // It is killed and restarted, still alone: a later epoch, and its solo work is not forgotten.
    cluster.kill(survivor);
    cluster.run(survivor, false);
    cluster.until("it acts alone again", |c| c.epoch_of(survivor).is_some());
    assert!(cluster.epoch_of(survivor).expect("it acts") > solo);
    let solo = cluster.epoch_of(survivor).expect("it acts");
    cluster.run(victim.as_str(), false);
    cluster.wait_formed();
    let (_, healed) = cluster.wait_holder();
    assert!(healed.generation > solo.generation, "{healed} after {solo}");
    for node in ["a", "b"] {
        let view = cluster.view(node);
        let split = view.splits.last().expect("a split");
        assert_eq!(split.winner, name("a"), "the preferred one wins");
        assert_eq!(split.ran.keys().collect::<Vec<_>>(), [&name(survivor)], "what ran where");
        assert_eq!(split.ran[&name(survivor)].duties, Duty::ALL.into());
    }
}

/// The program has a gate for the duty, and opens it neither under a lease nor alone.
#[test]
fn below_the_level_of_a_duty_a_pair_runs_it_neither_together_nor_solo() {
    let mut cluster = Cluster::prepare(&["a", "b"]);
    cluster.speaks = FeatureLevels { min: 1, max: Duty::Mta.level() - 1 };
    cluster.run("a", true);
    cluster.run("b", false);
    cluster.wait_formed();
    cluster.wait_voting();
    set(&cluster, &[("on-quorum-loss", "assume")]);
    let refused = cluster.order("a", async |roles| {
        roles.order(OrderId(7), Order::MoveDuty { duty: Duty::Mta, to: name("b") }).await
    });
    assert!(refused.is_err_and(|error| error.to_string().contains("upgrade all members")));
    let (victim, old) = cluster.wait_holder();
    let survivor = other(&victim);
    let idle = |c: &Cluster| {
        let shown: Vec<_> = c.view(survivor).duties.iter().map(|duty| duty.duty).collect();
        assert_eq!((shown, c.epoch_under(survivor, Duty::Mta)), (vec![Duty::Notifier], None));
    };
    idle(&cluster);
    cluster.kill(victim.as_str());
    cluster.until("the survivor acts alone", |c| c.epoch_of(survivor).is_some_and(|epoch| epoch > old));
    cluster.throughout(Timing::lan().lease, idle);
}

#[test]
fn in_a_partition_both_go_solo_in_different_epochs_and_merge_afterwards() {
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
fn with_an_arbiter_only_a_node_that_reaches_it_goes_solo() {
    let arbiter = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = arbiter.local_addr().expect("an address").to_string();
    let mut cluster = Cluster::formed(&["a", "b"]);
    set(&cluster, &[("on-quorum-loss", "assume"), ("arbiter", &address)]);
    let (victim, _) = cluster.wait_holder();
    let survivor = other(&victim);
    cluster.kill(victim.as_str());
    cluster.until("the survivor acts alone", |c| c.epoch_of(survivor).is_some());
    drop(arbiter);
    cluster.until("without the arbiter it stops", |c| c.epoch_of(survivor).is_none());
    let _again = TcpListener::bind(&address).expect("the port is free");
    cluster.until("it goes on with it", |c| c.epoch_of(survivor).is_some());
}
