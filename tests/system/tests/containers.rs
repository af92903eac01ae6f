//! The image and the compose files of `deploy/`, on a real engine: formed automatically, called, killed in the middle
//! of a recording, cut off from either network, emptied, torn down; and upgraded one by one under load.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_testkit::{
    Call, Compose, Endpoint, Invite, Kamailio, Transport, User, begin_to_speak, g711::Law, leave_message, listen,
    need, sipp::Sipp,
};

const ADA: User = User { number: "1001", pin: "602214" };

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Builds the image as an administrator does; `TWINBOX_STATIC_BIN` names an existing static program.
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

/// Prints the duration of each part: this is most of the installation time in CI.
struct Watch(BootInstant);

impl Watch {
    fn part(&mut self, what: &str) {
        println!("{what}: {:.1} s", self.0.elapsed().as_secs_f64());
        self.0 = BootInstant::now();
    }
}

/// Two nodes and a witness of an image of their own, with the user Ada.
fn two_nodes(name: &str, watch: &mut Watch) -> Compose {
    let image = image(name);
    watch.part("image built");
    let cluster = Compose::up(&repository().join("deploy/compose/two-nodes.yaml"), &image);
    cluster.wait_in_service("a");
    add_ada(&cluster);
    watch.part("formed, in service");
    cluster
}

#[test]
fn two_nodes_and_a_witness_from_first_start_to_a_lost_volume() {
    if !need::all(&[need::DOCKER]) {
        return;
    }
    let mut watch = Watch(BootInstant::now());
    let cluster = two_nodes("two", &mut watch);
    let (phones, a, b) = (cluster.phones(), cluster.sip(11), cluster.sip(12));

    // Audio in both directions, across nodes: a message left on one is heard from the other.
    let first = leave_message(&phones, a, ADA.number, 1.5);
    assert!(first.acknowledged(), "{:?}", first.bye);
    cluster.wait_kept("b", ADA.number, &first.speech, first.spoken);
    let heard = listen(&phones, b, ADA, std::slice::from_ref(&first), 1.0, Duration::from_secs(30));
    assert!(heard[0].is_some(), "what was left on a is heard from b");
    ["a", "b", "w"].iter().for_each(|member| cluster.wait_healthy(member));
    watch.part("called and heard, all healthy");

    killed_while_it_records(&cluster);
    watch.part("killed while it records, and back");

    // Cut off from the cluster but not from the PBX, it takes calls all the same ...
    cluster.cut("a", "cluster");
    let alone = leave_message(&phones, a, ADA.number, 1.0);
    assert!(alone.acknowledged(), "{:?}", alone.bye);
    cluster.heal("a", "cluster", 11);
    cluster.wait_kept("b", ADA.number, &alone.speech, alone.spoken);
    cluster.wait_in_service("b");
    // ... and cut off from the PBX but not from the cluster, it gets the messages of the other.
    cluster.cut("a", "pbx");
    let other = leave_message(&phones, b, ADA.number, 1.0);
    assert!(other.acknowledged(), "{:?}", other.bye);
    cluster.wait_kept("a", ADA.number, &other.speech, other.spoken);
    cluster.heal("a", "pbx", 11);
    let back = leave_message(&phones, a, ADA.number, 1.0);
    assert!(back.acknowledged(), "it takes calls again: {:?}", back.bye);
    watch.part("cut off from either network");

    // A volume is lost: the init step makes that member again, empty, and the other fills it.
    cluster.lose("b");
    cluster.run(&["up", "-d", "b"]);
    cluster.wait_in_service("b");
    cluster.wait_kept("b", ADA.number, &first.speech, first.spoken);
    let after = leave_message(&phones, b, ADA.number, 1.0);
    assert!(after.acknowledged(), "{:?}", after.bye);
    cluster.wait_kept("a", ADA.number, &after.speech, after.spoken);
    watch.part("a lost volume is filled again");

    // Forming again changes nothing.
    let again = cluster.run(&["run", "--rm", "--no-deps", "-T", "form"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing was changed"), "{again:?}");
    cluster.tear_down();
    watch.part("torn down");
}

/// a is killed in the middle of a recording: the other answers immediately and files the audio so far; after its
/// restart a has all messages.
fn killed_while_it_records(cluster: &Compose) {
    let (phones, a, b) = (cluster.phones(), cluster.sip(11), cluster.sip(12));
    let endpoint = Endpoint::open(&phones, Law::Mu);
    let invite = Invite::new(ADA.number, "2001", endpoint.address());
    let call = Call::place(&phones, a, Transport::Udp, &invite).expect("a answers");
    let speech = begin_to_speak(&endpoint, &call);
    endpoint.wait_spoken(4.0);
    cluster.docker(&["kill", &cluster.container("a")]);
    let said = endpoint.spoken();
    let meanwhile = leave_message(&phones, b, ADA.number, 1.0);
    assert!(meanwhile.acknowledged(), "{:?}", meanwhile.bye);
    let piece = cluster.wait_kept("b", ADA.number, &speech, endpoint.spoken());
    let lost = said.saturating_sub(piece.until()) as f64 / 8000.0;
    println!("a was killed: {:.2} s are kept, the last {lost:.2} s are not", piece.seconds());
    assert!(lost < 1.5 && piece.seconds() > 2.0, "{piece:?} of {said}");

    cluster.run(&["start", "a"]);
    cluster.wait_in_service("a");
    cluster.wait_kept("a", ADA.number, &meanwhile.speech, meanwhile.spoken);
    cluster.wait_kept("a", ADA.number, &speech, endpoint.spoken());
}

/// All members get another image, one by one, as docs/containers.md describes, while SIPp calls through a proxy without
/// a pause: no call fails, and nothing is lost.
#[test]
fn no_call_fails_while_all_members_are_upgraded_one_by_one() {
    if !need::all(&[need::DOCKER, need::SIPP, need::KAMAILIO]) {
        return;
    }
    let mut watch = Watch(BootInstant::now());
    let cluster = two_nodes("upgrade", &mut watch);
    let (phones, a, b) = (cluster.phones(), cluster.sip(11), cluster.sip(12));
    let dir = tempfile::tempdir().expect("a temporary folder");
    let kamailio = Kamailio::start(&phones, &[a, b], Transport::Udp, dir.path());
    let media = Endpoint::open(&phones, Law::Mu);
    let (rate, hold) = (8, Duration::from_millis(1500));
    let sipp = Sipp::new("call-early", kamailio.address(), ADA.number, media.address(), hold);
    let load = sipp.times(rate * 600, rate).start(&phones, dir.path());
    cluster.renew_image();
    for (member, other) in [("w", a), ("a", b), ("b", a)] {
        assert!(!cluster.is_renewed(member), "{member}");
        cluster.run(&["rm", "-sf", member]);
        let during = leave_message(&phones, other, ADA.number, 1.0);
        assert!(during.acknowledged(), "{member} is being upgraded: {:?}", during.bye);
        cluster.run(&["up", "-d", "--no-deps", member]);
        cluster.wait_in_service(if other == a { "a" } else { "b" });
        assert!(cluster.is_renewed(member), "{member}");
        if member != "w" {
            cluster.wait_kept(member, ADA.number, &during.speech, during.spoken);
        }
    }
    let load = load.stop();
    let (calls, slowest) = (load.calls, load.longest_setup);
    watch.part("upgraded");
    println!("{calls} calls while all members were upgraded, none failed; set-up at most {slowest:?}");
    cluster.tear_down();
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
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    cluster.wait_kept("a", ADA.number, &deposit.speech, deposit.spoken);
    cluster.run(&["start", "c"]);
    cluster.wait_in_service("c");
    cluster.wait_kept("c", ADA.number, &deposit.speech, deposit.spoken);

    // The volume of the founding member is lost: it joins the existing cluster and founds no second one.
    cluster.lose("a");
    cluster.run(&["up", "-d", "a"]);
    cluster.wait_in_service("a");
    cluster.wait_kept("a", ADA.number, &deposit.speech, deposit.spoken);
    cluster.tear_down();
}
