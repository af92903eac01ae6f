//! Members that come back with their store, without it, or with a rolled-back one.

use std::{fs, path::Path, thread};

use futures::stream;
use tonic::{Code, Request};
use twinbox_clock::BootInstant;
use twinbox_roles::Status;
use twinbox_wire::roles::{self as wire, question::Question, reply::Reply, roles_client::RolesClient};

use crate::common::{Cluster, healthy, name};

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

#[test]
fn all_members_are_killed_and_keep_the_agreed_state() {
    let mut cluster = Cluster::formed(&["a", "b", "w"]);
    let (holder, old) = cluster.wait_holder();
    let other = if holder == name("a") { name("b") } else { name("a") };
    cluster.settled("w", async |roles| roles.deactivate(&other).await).expect("done");
    for member in ["a", "b", "w"] {
        cluster.kill(member);
    }
    for member in ["a", "b", "w"] {
        cluster.run(member, false);
    }
    cluster.until("the notifier runs, in a later epoch", |c| c.holder().is_some_and(|(_, epoch)| epoch > old));
    let view = cluster.view("w");
    assert_eq!(view.member(&other).map(|m| m.status), Some(Status::Deactivated), "an order was forgotten");
    assert!(cluster.acts(holder.as_str()));
}

#[test]
fn a_member_whose_store_was_wiped_joins_as_a_new_voter() {
    let mut cluster = Cluster::formed(&["a", "b", "w"]);
    for victim in ["w", "b"] {
        cluster.kill(victim);
        fs::remove_dir_all(cluster.roles_dir(victim)).expect("removed");
        cluster.run(victim, false);
        cluster.wait_formed();
        cluster.wait_voting();
    }
    // Both new stores vote: without the only old one there is still a majority.
    cluster.kill("a");
    cluster.until("b acts", |c| c.holder_is("b"));
}

#[test]
fn a_founder_with_a_wiped_store_joins_the_existing_group() {
    let mut cluster = Cluster::formed(&["a", "b", "w"]);
    cluster.kill("a");
    fs::remove_dir_all(cluster.roles_dir("a")).expect("removed");
    // Its founding mark is still there; the others report that a group exists.
    cluster.run("a", true);
    cluster.wait_formed();
    assert_eq!(cluster.view("a").members, cluster.view("b").members);
}

#[test]
fn a_rolled_back_store_takes_no_part() {
    let mut cluster = Cluster::formed(&["a", "b", "w"]);
    cluster.stop("w");
    let backup = cluster.dir.path().join("backup");
    copy_dir(&cluster.roles_dir("w"), &backup);
    cluster.run("w", false);
    cluster.wait_formed();
    cluster.stop("w");
    fs::remove_dir_all(cluster.roles_dir("w")).expect("removed");
    copy_dir(&backup, &cluster.roles_dir("w"));
    cluster.run("w", false);
    cluster.until("it says so", |c| c.view("w").reason.contains("its store was rolled back"));
    assert!(!cluster.view("w").quorum);
    assert!(cluster.view("w").reason.contains(&cluster.roles_dir("w").display().to_string()));
    // The remedy that the message names.
    cluster.kill("w");
    fs::remove_dir_all(cluster.roles_dir("w")).expect("removed");
    cluster.run("w", false);
    cluster.wait_formed();
}

#[test]
fn two_of_five_members_do_not_confirm_each_other() {
    let mut cluster = Cluster::formed(&["a", "b", "c", "d", "e"]);
    for member in ["a", "b", "c", "d", "e"] {
        cluster.kill(member);
    }
    cluster.run("a", false);
    cluster.run("b", false);
    // Longer than they need to ask each other: the memory of a single confirmer is lost with its disk (rule R8).
    let waiting = "no majority has confirmed yet that its store is the latest";
    let begun = BootInstant::now();
    while begun.elapsed() < cluster.timing.election_max * 5 {
        for member in ["a", "b"] {
            let reason = cluster.view(member).reason.clone();
            assert!(reason.contains(waiting), "{member} takes part: {reason}");
        }
        thread::yield_now();
    }
    // With a third member each has two others. None waits until another takes part: they only remember.
    cluster.run("c", false);
    cluster.until("a node acts", |c| c.holder().is_some());
}

#[test]
fn requests_in_the_name_of_another_member_are_refused() {
    let cluster = Cluster::formed(&["a", "b", "w"]);
    let tls = cluster.identity("b");
    let address = cluster.address("a").to_string();
    let answer = cluster.order("a", async |_| {
        let channel = tls.endpoint(&name("a"), &address).expect("an endpoint").connect_lazy();
        let mut client = RolesClient::new(channel);
        let leaving = wire::KeepAliveRequest { node: "a".to_owned(), leaving: true, ..Default::default() };
        let leaving = wire::Question { number: 1, question: Some(Question::KeepAlive(leaving)) };
        let talk = client.talk(Request::new(stream::iter([leaving]))).await.expect("members may talk");
        let forged = talk.into_inner().message().await.expect("an answer").expect("one").reply;
        let Some(Reply::Refused(forged)) = forged else { panic!("{forged:?}") };
        // From another group, and to another store than the present one.
        let stray = wire::Envelope { group: vec![1; 16].into(), from: 1, to: 2 };
        let vote = wire::VoteRequest { envelope: Some(stray), ..Default::default() };
        let stray = client.vote(Request::new(vote)).await.expect_err("refused");
        (forged, stray)
    });
    assert_eq!(Code::from(answer.0.code), Code::PermissionDenied);
    assert!(answer.0.reason.contains("'b' may not speak for 'a'"), "{}", answer.0.reason);
    assert_eq!(answer.1.code(), Code::FailedPrecondition);
    cluster.wait_holder();
}

#[test]
fn a_lone_node_serves_and_a_second_joins_later() {
    let mut cluster = Cluster::prepare(&["a", "b"]);
    cluster.run("a", true);
    cluster.wait_formed();
    assert!(cluster.acts("a"));
    cluster.stop("a");
    cluster.run("a", false);
    cluster.wait_formed();
    cluster.run("b", false);
    cluster.wait_formed();
    assert!(cluster.acts("a"));
    cluster.roles("a").report(healthy());
}
