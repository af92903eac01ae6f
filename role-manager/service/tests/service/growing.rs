//! Members join and leave while the others work: from one to five and back, with and without the leaving member's help.

use std::{collections::BTreeSet, fs};

use futures::future::try_join_all;
use tokio::time::timeout;
use twinbox_ids::NodeName;
use twinbox_roles::{
    CommandError, Facts, MemberKind, Order, OrderId, Refusal, Roles, RolesError, Status, StoreError, Timing,
};

use crate::common::{Cluster, PATIENCE, name};

fn names(texts: &[&str]) -> BTreeSet<NodeName> {
    texts.iter().map(|text| name(text)).collect()
}

fn remove(member: &str, lost: bool) -> Order {
    Order::Remove { name: name(member), lost, within_ms: None, facts: Facts::default() }
}

fn give(cluster: &Cluster, asked: &str, order: Order) -> Result<(), CommandError> {
    let id = OrderId(rand::random());
    cluster.settled(asked, async |roles| roles.order(id, order.clone()).await)
}

/// Waits until all running members agree on the voters.
fn wait_voters(cluster: &Cluster, voters: &[&str]) {
    let expected = names(voters);
    cluster
        .until(&format!("{voters:?} vote"), |c| c.members.keys().all(|n| c.roles(n.as_str()).voters() == expected));
}

fn wait_removed(cluster: &Cluster, member: &str) {
    cluster.until(&format!("{member} is no member"), |c| {
        let others = c.members.keys().filter(|n| n.as_str() != member);
        others.into_iter().all(|n| c.view(n.as_str()).member(&name(member)).is_none())
    });
}

fn removal(cluster: &Cluster, member: &str) -> String {
    let notice = cluster.order(member, async |roles| timeout(PATIENCE, roles.removed()).await);
    notice.expect("it is notified of its removal")
}

#[test]
fn growing_to_five_and_back_keeps_the_duty_and_the_witness_votes_with_an_even_number() {
    let mut cluster = Cluster::prepare(&["a", "b", "w", "c", "d"]);
    cluster.run("a", true);
    cluster.wait_formed();
    let held = cluster.wait_holder();
    for (joining, voters) in [
        ("b", &["a", "b"][..]),
        ("w", &["a", "b", "w"]),
        ("c", &["a", "b", "c"]),
        ("d", &["a", "b", "c", "d", "w"]),
    ] {
        cluster.run(joining, false);
        cluster.wait_formed();
        wait_voters(&cluster, voters);
        assert_eq!(cluster.wait_holder(), held, "{joining} has joined, and the duty has moved");
    }
    for (leaver, voters) in [("d", &["a", "b", "c"][..]), ("c", &["a", "b", "w"]), ("b", &["a"]), ("w", &["a"])] {
        give(&cluster, "a", remove(leaver, false)).expect("done");
        cluster.roles(leaver).has_handed_over(true);
        wait_removed(&cluster, leaver);
        let notice = removal(&cluster, leaver);
        assert!(notice.contains("has been removed from this cluster") && notice.contains("new token"), "{notice}");
        cluster.kill(leaver);
        wait_voters(&cluster, voters);
        assert_eq!(cluster.wait_holder(), held, "{leaver} has left, and the duty has moved");
        assert!(
            cluster.roles("a").members().borrow().iter().all(|m| m.name != name(leaver)),
            "still in the roster"
        );
    }
    let last = give(&cluster, "a", remove("a", false)).expect_err("refused");
    assert!(matches!(last, CommandError::Refused(Refusal::LastInService { .. })), "{last}");
}

#[test]
fn a_removed_leader_and_publisher_cannot_reuse_its_store() {
    let mut cluster = Cluster::formed(&["a", "b", "w"]);
    let (leaver, _) = cluster.wait_holder();
    let heir = if leaver == name("a") { "b" } else { "a" };
    // It must lead, too.
    give(&cluster, heir, remove(leaver.as_str(), false)).expect("done");
    cluster.until("the other acts", |c| c.holder_is(heir));
    cluster.until("it is no voter", |c| !c.roles(heir).voters().contains(&leaver));
    // As long as it has not handed over its own data, it stays, with that reason.
    let stays = cluster.view(heir).member(&leaver).cloned().expect("a member");
    assert_eq!(stays.status, Status::Leaving, "{}", stays.reason);
    cluster.roles(leaver.as_str()).has_handed_over(true);
    wait_removed(&cluster, leaver.as_str());
    removal(&cluster, leaver.as_str());
    wait_voters_of(&cluster, heir, &[heir]);
    cluster.kill(leaver.as_str());

    let refused = cluster.refusal_to_start(leaver.as_str());
    assert!(
        matches!(refused, RolesError::Store(StoreError::Removed { .. }))
            && refused.to_string().contains("new token"),
        "{refused}"
    );
    // Nor does an emptied store bring it back while others run whose files still name it.
    fs::remove_dir_all(cluster.roles_dir(leaver.as_str())).expect("removed");
    cluster.run(leaver.as_str(), true);
    removal(&cluster, leaver.as_str());
    assert!(cluster.acts(heir));
}

fn wait_voters_of(cluster: &Cluster, asked: &str, voters: &[&str]) {
    let expected = names(voters);
    cluster.until(&format!("{voters:?} vote"), |c| c.roles(asked).voters() == expected);
}

#[test]
fn one_of_two_members_leaves_and_the_other_continues() {
    let mut cluster = Cluster::formed(&["a", "b"]);
    give(&cluster, "b", remove("a", false)).expect("done");
    cluster.roles("a").has_handed_over(true);
    wait_removed(&cluster, "a");
    cluster.kill("a");
    wait_voters(&cluster, &["b"]);
    cluster.until("b acts", |c| c.holder_is("b"));
    assert!(cluster.view("b").quorum);
}

#[test]
fn a_dead_node_is_removed_and_notified_when_it_is_back() {
    let mut cluster = Cluster::formed(&["a", "b", "w"]);
    cluster.until("the others are heard", |c| c.leader("b").is_some());
    let refused = give(&cluster, "w", remove("b", true)).expect_err("it lives");
    assert!(matches!(refused, CommandError::Refused(Refusal::NotLost { .. })), "{refused}");
    cluster.kill("b");
    cluster.until("its death is known", |c| {
        c.view("a").member(&name("b")).is_some_and(|m| m.status == Status::NotFunctioning) && c.holder_is("a")
    });
    // Without --lost it stays a member without a vote, and hands over its data when it is back.
    give(&cluster, "a", remove("b", false)).expect("done");
    wait_voters(&cluster, &["a"]);
    let stays = cluster.view("a").member(&name("b")).cloned().expect("a member");
    assert_eq!(stays.status, Status::Leaving);
    // A new leader first has to notice its silence.
    cluster.until("it is taken for lost", |c| give(c, "a", remove("b", true)).is_ok());
    wait_removed(&cluster, "b");
    cluster.run("b", false);
    removal(&cluster, "b");
    assert!(cluster.acts("a"));
    assert!(cluster.view("a").member(&name("b")).is_none());
}

/// Waits until no running member expects this one any more, whatever its configuration says.
fn wait_forgotten(cluster: &Cluster, member: &str) {
    cluster.until(&format!("{member} is forgotten"), |c| {
        let is_forgotten = |roles: &Roles| {
            let expected = roles.members().borrow().iter().any(|m| m.name == name(member));
            !expected && roles.removed_members() == names(&[member])
        };
        c.members.keys().all(|n| is_forgotten(c.roles(n.as_str())))
    });
}

#[test]
fn a_configured_member_that_never_joined_is_removed_and_forgotten() {
    let mut cluster = Cluster::prepare(&["a", "b", "w", "c"]);
    cluster.run_all(&["a", "b", "w"]);
    cluster.wait_formed();
    // Other members refuse its timing: it runs, and does not join.
    cluster.timing = Timing::wan();
    cluster.run("c", false);
    let joined = ["a", "b", "w"];
    cluster.until("all hear it", |c| joined.iter().all(|m| c.roles(m).since_contact(&name("c")).is_some()));
    let unknown = give(&cluster, "b", remove("c", false)).expect_err("it may have data of its own");
    assert!(matches!(unknown, CommandError::Refused(Refusal::Unknown { .. })), "{unknown}");
    let heard = give(&cluster, "b", remove("c", true)).expect_err("it runs");
    assert!(matches!(heard, CommandError::Refused(Refusal::Heard { .. })), "{heard}");
    cluster.kill("c");
    cluster.timing = Timing::lan();
    cluster.until("it is silent for long enough", |c| give(c, "b", remove("c", true)).is_ok());
    wait_forgotten(&cluster, "c");

    // A member whose file still names it learns the same from the others, and so does the machine itself.
    cluster.kill("a");
    cluster.run("a", false);
    wait_forgotten(&cluster, "c");
    cluster.run("c", false);
    removal(&cluster, "c");
    let unknown = give(&cluster, "b", remove("c", true)).expect_err("it is no member");
    assert!(matches!(unknown, CommandError::Refused(Refusal::Unknown { .. })), "{unknown}");
}

#[test]
fn a_node_removed_while_away_hands_over_when_it_is_back() {
    let mut cluster = Cluster::formed(&["a", "b", "w"]);
    cluster.kill("b");
    cluster.until("a acts", |c| c.holder_is("a"));
    give(&cluster, "a", remove("b", false)).expect("done");
    wait_voters(&cluster, &["a"]);
    cluster.run("b", false);
    cluster.until("it knows", |c| c.view("b").member(&name("b")).is_some_and(|m| m.status == Status::Leaving));
    cluster.roles("b").has_handed_over(true);
    wait_removed(&cluster, "b");
    removal(&cluster, "b");
}

#[test]
fn a_joining_member_replaces_a_dead_node() {
    let mut cluster = Cluster::prepare(&["a", "b", "w", "c"]);
    cluster.run_all(&["a", "b", "w"]);
    cluster.wait_formed();
    cluster.wait_voting();
    let invite = |token| Order::Invite {
        token: [token; 32],
        kind: MemberKind::Node,
        valid_ms: 60_000,
        replaces: Some(name("b")),
        facts: Facts::default(),
    };
    let refused = give(&cluster, "a", invite(1)).expect_err("it lives");
    assert!(matches!(refused, CommandError::Refused(Refusal::StillThere { .. })), "{refused}");
    cluster.kill("b");
    cluster.until("its death is known", |c| {
        c.view("a").member(&name("b")).is_some_and(|m| m.status == Status::NotFunctioning)
    });
    // A new leader first has to notice its silence.
    cluster.until("it is taken for lost", |c| give(c, "a", invite(2)).is_ok());
    let address = cluster.address("c").to_string();
    let redeem = Order::Redeem {
        token: [2; 32],
        name: name("c"),
        kind: MemberKind::Node,
        address,
        key: [9; 32],
        feature_levels: twinbox_roles::SUPPORTED_LEVELS,
        facts: Facts::default(),
    };
    give(&cluster, "w", redeem).expect("done");
    assert!(cluster.view("a").member(&name("b")).is_some(), "it is removed when the joining member is there");
    cluster.run("c", false);
    wait_removed(&cluster, "b");
    cluster.wait_formed();
    wait_voters(&cluster, &["a", "c", "w"]);
    // The replaced member no longer votes, dead or alive.
    cluster.run("b", false);
    removal(&cluster, "b");
}

/// Enough commands that the log is cut and a member behind gets a snapshot.
fn many_commands(cluster: &Cluster, asked: &str) {
    // In groups: waiting commands are written together.
    for first in (0..800).step_by(16) {
        let settled = cluster.settled(asked, async |roles| {
            try_join_all((first..first + 16).map(async |n| match roles.outcome(OrderId(1_000 + n)).await {
                Err(CommandError::Refused(Refusal::Settled)) => Ok(()),
                other => other,
            }))
            .await
        });
        settled.expect("settled");
    }
}

#[test]
fn a_member_that_was_away_for_long_or_has_an_emptied_disk_gets_a_snapshot() {
    let mut cluster = Cluster::formed(&["a", "b", "w"]);
    cluster.until("w or a leads", |c| c.leader("a").is_some());
    for emptied in [false, true] {
        cluster.kill("b");
        cluster.until("a acts", |c| c.holder_is("a"));
        many_commands(&cluster, "a");
        give(&cluster, "a", Order::Set(vec![setting("missed", if emptied { "7" } else { "6" })])).expect("done");
        if emptied {
            fs::remove_dir_all(cluster.roles_dir("b")).expect("removed");
        }
        cluster.run("b", false);
        cluster.wait_formed();
        cluster.until("it knows what was agreed", |c| {
            c.view("b").settings.missed == Some(if emptied { 7 } else { 6 })
                && c.view("b").members == c.view("a").members
        });
        wait_voters(&cluster, &["a", "b", "w"]);
    }
}

fn setting(name: &str, value: &str) -> twinbox_roles::Setting {
    twinbox_roles::Setting::parse(name, value).expect("a setting")
}

#[test]
fn settings_apply_on_all_members_and_invalid_ones_change_nothing() {
    let cluster = Cluster::formed(&["a", "b", "w"]);
    give(&cluster, "w", Order::Set(vec![setting("mode", "active-passive"), setting("keep-alive", "200")]))
        .expect("done");
    cluster.until("all know", |c| ["a", "b", "w"].iter().all(|m| c.view(m).settings.keep_alive_ms == Some(200)));
    let before = cluster.view("a").settings.clone();
    let refused =
        give(&cluster, "b", Order::Set(vec![setting("missed", "9"), setting("failback", "scheduled 02:00-04:00")]));
    assert!(matches!(refused, Err(CommandError::Refused(Refusal::ScheduleWithoutPreferred))), "{refused:?}");
    let unknown = give(&cluster, "b", Order::Set(vec![setting("preferred", "nobody")]));
    assert!(matches!(unknown, Err(CommandError::Refused(Refusal::Unknown { .. }))), "{unknown:?}");
    assert_eq!(cluster.view("a").settings, before);
    // The leases are longer, and the cluster goes on working.
    cluster.wait_formed();
}
