//! The image and the compose files of `deploy/`, on a real engine: formed without a person, called, killed in the
//! middle of a recording, cut off, upgraded one by one, torn down.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use twinbox_testkit::{
    Call, Compose, Endpoint, Invite, Transport, User, begin_to_speak, g711::Law, leave_message, listen, need,
};

const ADA: User = User { number: "1001", pin: "602214" };

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Builds the image as an administrator does; `TWINBOX_STATIC_BIN` names a static program that is built already.
fn image(name: &str) -> String {
    let tag = format!("twinbox-test:{name}-{}", std::process::id());
    let mut command = Command::new(repository().join("deploy/container/build"));
    command.args(["--tag", &tag]);
    match std::env::var_os("TWINBOX_STATIC_BIN") {
        Some(program) => command.arg("--binary").arg(program),
        None => command.arg("--debug"),
    };
    let output = command.output().expect("the build script runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    tag
}

fn add_ada(cluster: &Compose) {
    cluster.twinbox("a", &["user", "add", ADA.number, "--name", "Ada", "--pin", ADA.pin, "--keep-pin"]);
}

#[test]
fn two_nodes_and_a_witness_from_first_start_to_upgrade() {
    if !need::all(&[need::DOCKER]) {
        return;
    }
    let cluster = Compose::up(&repository().join("deploy/compose/two-nodes.yaml"), &image("two"));
    cluster.wait_in_service("a");
    add_ada(&cluster);
    let (phones, a, b) = (cluster.phones(), cluster.sip(11), cluster.sip(12));

    // Audio both ways, across nodes: what was said to one is heard from the other.
    let first = leave_message(&phones, a, ADA.number, 1.5);
    assert!(first.acknowledged(), "{:?}", first.goodbye);
    cluster.wait_kept("b", ADA.number, &first.speech, first.spoken);
    let heard = listen(&phones, b, ADA, std::slice::from_ref(&first), 1.0, Duration::from_secs(30));
    assert!(heard[0].is_some(), "what was left on a is heard from b");
    ["a", "b", "w"].iter().for_each(|member| cluster.wait_healthy(member));

    // Killed in the middle of a recording: the other answers at once and files what had been said.
    let endpoint = Endpoint::open(&phones, Law::Mu);
    let invite = Invite::new(ADA.number, "2001", endpoint.address());
    let call = Call::place(&phones, a, Transport::Udp, &invite).expect("a answers");
    let speech = begin_to_speak(&endpoint, &call);
    endpoint.wait_spoken(4.0);
    cluster.docker(&["kill", &cluster.container("a")]);
    let said = endpoint.spoken();
    let meanwhile = leave_message(&phones, b, ADA.number, 1.0);
    assert!(meanwhile.acknowledged(), "{:?}", meanwhile.goodbye);
    let piece = cluster.wait_kept("b", ADA.number, &speech, endpoint.spoken());
    let lost = said.saturating_sub(piece.until()) as f64 / 8000.0;
    println!("a was killed: {:.2} s are kept, the last {lost:.2} s are not", piece.seconds());
    assert!(lost < 1.5 && piece.seconds() > 2.0, "{piece:?} of {said}");

    // Back, it has everything.
    cluster.run(&["start", "a"]);
    cluster.wait_in_service("a");
    cluster.wait_kept("a", ADA.number, &meanwhile.speech, meanwhile.spoken);
    cluster.wait_kept("a", ADA.number, &speech, endpoint.spoken());

    // Cut off from the cluster but not from the PBX, it takes calls all the same.
    let (network, container) = (cluster.network("cluster"), cluster.container("a"));
    cluster.docker(&["network", "disconnect", &network, &container]);
    let alone = leave_message(&phones, a, ADA.number, 1.0);
    assert!(alone.acknowledged(), "{:?}", alone.goodbye);
    cluster.docker(&["network", "connect", "--ip", &cluster.inside(11), &network, &container]);
    cluster.wait_kept("b", ADA.number, &alone.speech, alone.spoken);
    cluster.wait_in_service("b");

    // Upgraded one by one, as docs/containers.md says; somebody answers all the time, and nothing is lost.
    for (member, other) in [("w", a), ("a", b), ("b", a)] {
        cluster.run(&["rm", "-sf", member]);
        let during = leave_message(&phones, other, ADA.number, 1.0);
        assert!(during.acknowledged(), "{member} is being upgraded: {:?}", during.goodbye);
        cluster.run(&["up", "-d", "--no-deps", member]);
        cluster.wait_in_service(if other == a { "a" } else { "b" });
        if member != "w" {
            cluster.wait_kept(member, ADA.number, &during.speech, during.spoken);
        }
    }
    cluster.wait_kept("a", ADA.number, &first.speech, first.spoken);

    // Forming once more changes nothing.
    let again = cluster.run(&["run", "--rm", "--no-deps", "-T", "form"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing was changed"), "{again:?}");
}

#[test]
fn three_nodes_take_calls_when_one_is_killed() {
    if !need::all(&[need::DOCKER]) {
        return;
    }
    let cluster = Compose::up(&repository().join("deploy/compose/three-nodes.yaml"), &image("three"));
    cluster.wait_in_service("a");
    add_ada(&cluster);
    let phones = cluster.phones();
    cluster.docker(&["kill", &cluster.container("c")]);
    let deposit = leave_message(&phones, cluster.sip(12), ADA.number, 1.0);
    assert!(deposit.acknowledged(), "{:?}", deposit.goodbye);
    cluster.wait_kept("a", ADA.number, &deposit.speech, deposit.spoken);
    cluster.run(&["start", "c"]);
    cluster.wait_in_service("c");
    cluster.wait_kept("c", ADA.number, &deposit.speech, deposit.spoken);
}
