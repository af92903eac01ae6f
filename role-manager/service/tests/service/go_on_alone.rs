//! Most members are permanently lost, and an administrator lets the survivor go on alone: a new group with the agreed
//! state, in which messages of the former group do not count.

use std::{collections::BTreeSet, fs, thread, time::Duration};

use tokio::{net::TcpListener, time::timeout};
use tonic::{Request, Response, Status as RpcStatus};
use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;
use twinbox_roles::{CommandError, Order, OrderId, Refusal, RolesError, Setting, Status, StoreError, Timing};
use twinbox_wire::roles::{
    self as wire, exits_client::ExitsClient, supervisor_server::Supervisor, supervisor_server::SupervisorServer,
};

use crate::common::{Cluster, PATIENCE, name};

fn names(texts: &[&str]) -> BTreeSet<NodeName> {
    texts.iter().map(|text| name(text)).collect()
}

fn go_on(cluster: &Cluster, survivor: &str, lost: &[&str]) -> Result<(), CommandError> {
    let lost = names(lost);
    cluster.order(survivor, async |roles| roles.go_on_alone(&lost).await)
}

fn refusal(cluster: &Cluster, asked: &str, lost: &[&str]) -> Refusal {
    match go_on(cluster, asked, lost) {
        Err(CommandError::Refused(refusal)) => refusal,
        other => panic!("{asked} without {lost:?}: {other:?}"),
    }
}

fn set(cluster: &Cluster, asked: &str, setting: &str, value: &str) {
    let wanted = Setting::parse(setting, value).expect("a setting");
    let (id, order) = (OrderId(rand::random()), Order::Set(vec![wanted.clone()]));
    cluster.settled(asked, async |roles| roles.order(id, order.clone()).await).expect("done");
    cluster.until("all know", |c| c.members.keys().all(|n| c.view(n.as_str()).settings.list().contains(&wanted)));
}

fn wait_lost(cluster: &Cluster, survivor: &str) {
    cluster.until("the loss of the majority is known", |c| !c.view(survivor).quorum);
}

/// The notice to a member that was given up or removed.
fn notice(cluster: &Cluster, who: &str) -> String {
    let notice = cluster.order(who, async |roles| timeout(PATIENCE, roles.removed()).await);
    notice.expect("it is notified")
}

fn members(cluster: &Cluster, asked: &str) -> BTreeSet<NodeName> {
    cluster.view(asked).members.iter().map(|member| member.name.clone()).collect()
}

/// A pair, and a third member that is not yet started.
fn pair() -> Cluster {
    let mut cluster = Cluster::prepare(&["a", "b", "c"]);
    cluster.run("a", true);
    cluster.wait_formed();
    cluster.run("b", false);
    cluster.wait_formed();
    cluster.wait_voting();
    cluster
}

#[test]
fn the_survivor_of_a_pair_becomes_a_cluster_of_one_and_then_a_pair_again() {
    let mut cluster = pair();
    set(&cluster, "a", "missed", "5");
    set(&cluster, "a", "preferred", "b");
    cluster.settled("a", async |roles| roles.make_publisher(&name("b")).await).expect("done");
    cluster.until("b acts", |c| c.holder_is("b"));
    let (_, old) = cluster.wait_holder();
    assert_eq!(refusal(&cluster, "a", &["b"]), Refusal::Majority);
    let store = cluster.roles("a").raft_id_and_run().0;
    cluster.kill("b");
    wait_lost(&cluster, "a");
    assert_eq!(refusal(&cluster, "a", &[]), Refusal::NotNamed { names: "b".to_owned() });
    assert!(matches!(refusal(&cluster, "a", &["b", "c"]), Refusal::NotAnother { .. }), "c has never joined");
    assert!(matches!(refusal(&cluster, "a", &["a", "b"]), Refusal::NotAnother { .. }), "itself");
    assert_eq!(cluster.roles("a").raft_id_and_run().0, store, "a refusal changes nothing");

    cluster.until("b is silent", |c| c.order("a", async |r| r.may_go_on_alone(&names(&["b"]))).is_ok());
    let begun = BootInstant::now();
    go_on(&cluster, "a", &["b"]).expect("it goes on");
    let silence = cluster.timing.silence_limit(&cluster.roles("a").agreed());
    assert!(begun.elapsed() >= silence, "{:?}: leases of {silence:?} may run", begun.elapsed());
    cluster.until("it acts", |c| c.holder_is("a"));
    println!("acts {:?} after the order", begun.elapsed());
    let (_, epoch) = cluster.wait_holder();
    assert!(epoch.generation > old.generation + 1, "{epoch} after {old}: b may have acted one above");
    assert_ne!(cluster.roles("a").raft_id_and_run().0, store, "another store (R8)");
    assert_eq!(members(&cluster, "a"), names(&["a"]));
    let view = cluster.view("a");
    assert_eq!(view.publisher, Some(name("a")));
    assert!(view.settings.list().contains(&Setting::parse("missed", "5").expect("a setting")), "settings stay");
    assert_eq!(view.settings.preferred, None, "b is struck");
    let departure = view.departures.last().expect("a departure");
    assert_eq!(departure.lost.keys().collect::<Vec<_>>(), [&name("b")]);
    assert_eq!(refusal(&cluster, "a", &["b"]), Refusal::Majority, "done once");

    // That survives a restart, and a fresh node makes it a pair again.
    cluster.kill("a");
    cluster.run("a", false);
    cluster.until("it acts again", |c| c.holder_is("a"));
    cluster.run("c", false);
    cluster.wait_formed();
    cluster.until("both vote", |c| c.roles("c").voters() == names(&["a", "c"]));
    // The lost member is back with its disk: it gets the notice, and no member admits it.
    cluster.run("b", false);
    let text = notice(&cluster, "b");
    assert!(text.contains("given up for lost") && text.contains("new token"), "{text}");
    cluster.until("both know that it lives", |c| {
        ["a", "c"].into_iter().any(|node| c.view(node).rivals.contains(&name("b")))
    });
    cluster.kill("b");
    assert!(matches!(cluster.refusal_to_start("b"), RolesError::Store(StoreError::Removed { .. })));
    fs::remove_dir_all(cluster.roles_dir("b")).expect("removed");
    cluster.run("b", false);
    assert!(notice(&cluster, "b").contains("new token"), "without a token it is not let in when empty, either");
    assert_eq!(members(&cluster, "c"), names(&["a", "c"]));
    cluster.kill("b");
    cluster.wait_formed();
}

#[test]
fn a_node_with_solo_work_goes_on_alone_in_a_later_epoch() {
    let mut cluster = pair();
    set(&cluster, "a", "on-quorum-loss", "assume");
    cluster.kill("b");
    cluster.until("it acts alone", |c| c.epoch_of("a").is_some_and(|e| e.generation > 0) && !c.view("a").quorum);
    let solo = cluster.epoch_of("a").expect("it acts");
    go_on(&cluster, "a", &["b"]).expect("it goes on");
    cluster.until("it acts in the new group", |c| c.view("a").quorum && c.epoch_of("a").is_some());
    let epoch = cluster.epoch_of("a").expect("it acts");
    assert!(epoch.generation > solo.generation, "{epoch} after {solo}");
    let split = cluster.view("a").splits.last().cloned().expect("a split");
    assert!(split.ran.contains_key(&name("a")) && split.winner == name("a"), "{split:?}");
}

#[test]
fn one_of_three_goes_on_alone_and_the_others_are_notified_when_back() {
    let mut cluster = Cluster::formed(&["a", "b", "w"]);
    for lost in ["b", "w"] {
        cluster.kill(lost);
    }
    wait_lost(&cluster, "a");
    assert_eq!(refusal(&cluster, "a", &["b"]), Refusal::NotNamed { names: "w".to_owned() });
    cluster.until("both are silent", |c| c.order("a", async |r| r.may_go_on_alone(&names(&["b", "w"]))).is_ok());
    go_on(&cluster, "a", &["b", "w"]).expect("it goes on");
    cluster.until("it acts", |c| c.holder_is("a"));
    for lost in ["b", "w"] {
        cluster.run(lost, false);
        let text = notice(&cluster, lost);
        assert!(text.contains("given up for lost"), "{text}");
        cluster.kill(lost);
    }
    assert!(cluster.acts("a"));
}

#[test]
fn a_witness_does_not_go_on_alone() {
    let mut cluster = Cluster::formed(&["a", "b", "w"]);
    for lost in ["a", "b"] {
        cluster.kill(lost);
    }
    wait_lost(&cluster, "w");
    assert_eq!(refusal(&cluster, "w", &["a", "b"]), Refusal::WitnessAlone);
}

/// The administrator was wrong: the others live, are a majority, and go on, which cannot be prevented. Each side goes
/// on in its own epochs, reports the conflict, and refuses the other's messages.
#[test]
fn lost_members_that_still_run_are_refused_and_reported_and_groups_do_not_merge() {
    let mut cluster = Cluster::formed(&["a", "b", "c"]);
    cluster.isolate("a", true);
    wait_lost(&cluster, "a");
    cluster.until("they are silent", |c| c.order("a", async |r| r.may_go_on_alone(&names(&["b", "c"]))).is_ok());
    go_on(&cluster, "a", &["b", "c"]).expect("it goes on");
    let theirs = |c: &Cluster| ["b", "c"].into_iter().find_map(|node| c.epoch_of(node));
    cluster.until("both sides act", |c| c.epoch_of("a").is_some() && theirs(c).is_some());
    cluster.isolate("a", false);
    cluster.until("each side says so", |c| {
        let rivals = |node: &str| c.view(node).rivals.clone();
        ["b", "c"].into_iter().all(|node| rivals("a").contains(&name(node)) && rivals(node).contains(&name("a")))
    });
    let (ours, other) = (cluster.epoch_of("a").expect("it acts"), theirs(&cluster).expect("it acts"));
    assert!(ours.generation > other.generation, "{ours} and {other}");
    assert_eq!(members(&cluster, "a"), names(&["a"]));
    for node in ["b", "c"] {
        assert_eq!(members(&cluster, node), names(&["a", "b", "c"]));
        assert_ne!(cluster.view(node).member(&name("a")).map(|m| m.status), Some(Status::InService));
    }
    // One of them restarts: the other of its group confirms it, and none ends on the survivor's report.
    cluster.kill("b");
    wait_lost(&cluster, "c");
    cluster.run("b", false);
    cluster.until("the majority goes on", |c| ["b", "c"].into_iter().all(|node| c.view(node).quorum));
    cluster.until("their duty, too", |c| theirs(c).is_some() && c.epoch_of("a").is_some());
}

/// One of the others sends a message while the survivor listens: everything is cancelled.
#[test]
fn a_message_of_a_lost_member_or_its_supervisor_cancels_going_on_alone() {
    let mut cluster = pair();
    cluster.isolate("b", true);
    wait_lost(&cluster, "a");
    cluster.until("b is silent", |c| c.order("a", async |r| r.may_go_on_alone(&names(&["b"]))).is_ok());
    let store = cluster.roles("a").raft_id_and_run().0;
    let (answer, answered) = std::sync::mpsc::channel();
    cluster.begin("a", |roles| async move {
        let _ = answer.send(roles.go_on_alone(&names(&["b"])).await);
    });
    cluster.until("it listens", |c| c.view("a").reason.contains("about to go on alone"));
    cluster.isolate("b", false);
    let refused = answered.recv_timeout(PATIENCE).expect("in time").expect_err("b lives");
    assert_eq!(refused, CommandError::Refused(Refusal::Heard { name: name("b") }));
    cluster.wait_formed();
    assert_eq!(cluster.roles("a").raft_id_and_run().0, store);

    // So does its supervisor, when the node itself is dead.
    cluster.kill("b");
    let port = supervise(&cluster, "b", "a");
    wait_lost(&cluster, "a");
    cluster.until("b is silent", |c| c.order("a", async |r| r.may_go_on_alone(&names(&["b"]))).is_ok());
    assert_eq!(refusal(&cluster, "a", &["b"]), Refusal::Heard { name: name("b") }, "supervisor at {port}");
}

struct FakeSupervisor;

#[tonic::async_trait]
impl Supervisor for FakeSupervisor {
    async fn ask(&self, _: Request<wire::AskRequest>) -> Result<Response<wire::AskAnswer>, RpcStatus> {
        Ok(Response::new(wire::AskAnswer { result: Some(wire::ask_answer::Result::Unknown(wire::Empty {})) }))
    }
}

/// A supervisor of `node` that reports its port to `to`, and knows no exits.
fn supervise(cluster: &Cluster, node: &str, to: &str) -> u16 {
    let (tls, endpoint) = (cluster.identity(node), cluster.address(to).to_string());
    cluster.order(to, async |_| {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let incoming = tls.listen(listener);
        let serving = tls.server().add_service(SupervisorServer::new(FakeSupervisor)).serve_with_incoming(incoming);
        tokio::spawn(async move { serving.await.expect("it serves") });
        let channel = tls.endpoint(&name(to), &endpoint).expect("an endpoint").connect_lazy();
        let request = wire::ReportRequest { node: node.to_owned(), exits: Vec::new(), port: port.into() };
        ExitsClient::new(channel).report(request).await.expect("it is taken");
        port
    })
}

/// Killed at any step, the store is of the former group or the new one, and the order can be given again. Returns
/// whether it was the former. `kill_at` counts from when it begins to listen; without it the kill comes as soon as the
/// store is another.
fn is_former_group_after_kill(kill_at: Option<Duration>) -> bool {
    let mut cluster = pair();
    cluster.kill("b");
    wait_lost(&cluster, "a");
    cluster.until("b is silent", |c| c.order("a", async |r| r.may_go_on_alone(&names(&["b"]))).is_ok());
    let store = cluster.roles("a").raft_id_and_run().0;
    cluster.begin("a", |roles| async move { drop(roles.go_on_alone(&names(&["b"])).await) });
    cluster.until("it listens", |c| c.view("a").reason.contains("about to go on alone"));
    let listens = BootInstant::now();
    match kill_at {
        // The kill comes between two instructions of the write: a sleep is too coarse for the last part.
        Some(after) => {
            thread::sleep(after.saturating_sub(Duration::from_millis(2)));
            while listens.elapsed() < after {}
        }
        None => drop(cluster.until("the store is another", |c| c.roles("a").raft_id_and_run().0 != store)),
    }
    cluster.kill("a");
    cluster.run("a", false);
    let former = cluster.roles("a").raft_id_and_run().0 == store;
    if former {
        cluster.until("it may", |c| c.order("a", async |r| r.may_go_on_alone(&names(&["b"]))).is_ok());
        go_on(&cluster, "a", &["b"]).expect("again");
    }
    cluster.until("it acts", |c| c.holder_is("a"));
    assert_eq!(members(&cluster, "a"), names(&["a"]));
    assert_ne!(cluster.roles("a").raft_id_and_run().0, store);
    println!("killed after {kill_at:?}: {}", if former { "the former group" } else { "the new one" });
    former
}

/// The time for which it listens, plus this number of milliseconds: about when the new group is written.
fn kill_near_the_write(off_by_ms: i64) {
    let timing = Timing::lan();
    let silence = timing.wait_for(timing.lease) + timing.margin;
    let off_by = Duration::from_millis(off_by_ms.unsigned_abs());
    is_former_group_after_kill(Some(if off_by_ms < 0 { silence - off_by } else { silence + off_by }));
}

#[test]
fn a_kill_before_the_write_leaves_the_former_group() {
    assert!(is_former_group_after_kill(Some(Duration::ZERO)));
}

#[test]
fn a_kill_6_ms_before_the_write_leaves_one_of_the_groups() {
    kill_near_the_write(-6);
}

#[test]
fn a_kill_2_ms_before_the_write_leaves_one_of_the_groups() {
    kill_near_the_write(-2);
}

#[test]
fn a_kill_at_the_write_leaves_one_of_the_groups() {
    kill_near_the_write(0);
}

#[test]
fn a_kill_3_ms_after_the_write_leaves_one_of_the_groups() {
    kill_near_the_write(3);
}

#[test]
fn a_kill_6_ms_after_the_write_leaves_one_of_the_groups() {
    kill_near_the_write(6);
}

#[test]
fn a_kill_12_ms_after_the_write_leaves_one_of_the_groups() {
    kill_near_the_write(12);
}

#[test]
fn a_kill_right_after_the_write_leaves_the_new_group() {
    assert!(!is_former_group_after_kill(None));
}
