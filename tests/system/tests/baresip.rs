//! baresip, a foreign telephone: it leaves a message and hears it; our own test phone calls it; and by a node's REFER
//! it is the operator that a caller reaches.

use std::{fs, time::Duration};

use twinbox_system_tests::wait_for_no_calls;
use twinbox_testkit::{
    Baresip, Cluster, Lab, Spec, Speech, binary,
    g711::{self, Law},
    http_get, metric, need, wait_for, wait_until,
};

fn needs() -> bool {
    need::all(&[need::NAMESPACES, need::BARESIP])
}

/// Bytes that are written in the packs of a node: the rest of a pack is zeros.
fn recorded(cluster: &Cluster, node: &str) -> usize {
    const HEADER: usize = 4_096;
    let folder = cluster.member(node).data_dir.join("store/audio");
    let packs = fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|file| fs::read(file.path()).ok());
    let used =
        |pack: Vec<u8>| pack.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_sub(HEADER));
    packs.map(used).sum()
}

/// Its speech is in the mailbox on both nodes, bit for bit, and it hears the message from the other node, with its own
/// way of sending keys.
#[test]
fn it_leaves_a_message_and_hears_it() {
    if !needs() {
        return;
    }
    let lab = Lab::new(&["a", "b", "w", "ann", "bob"]);
    let cluster = Cluster::start_in(&lab, &Spec::default());
    let user = Cluster::USERS[0];
    let mut ann = Baresip::start(&lab.place("ann"), "2001", 60, cluster.dir());
    ann.dial(&format!("sip:{}@{}", user.number, cluster.sip("a")));
    ann.wait_sound(2000);
    ann.press("#");
    wait_until("two seconds to be recorded", Duration::from_secs(20), || recorded(&cluster, "a") > 16_000);
    ann.hang_up();
    let (speech, spoken) = ann.speech();
    for node in ["a", "b"] {
        let (message, piece, length) =
            wait_for("the message", Duration::from_secs(10), || cluster.find(node, user.number, speech, spoken));
        assert_eq!(piece.length, length, "{node}: all of it is what was said, bit for bit: {message:?}");
        assert!(piece.seconds() > 1.5 && message.caller.contains("2001"), "{node}: {piece:?} {message:?}");
    }

    let mut bob = Baresip::start(&lab.place("bob"), user.number, 1, cluster.dir());
    bob.dial(&format!("sip:*97@{}", cluster.sip("b")));
    bob.wait_sound(2000);
    bob.press(&format!("{}#", user.pin));
    bob.press("1");
    assert!(bob.hears(ann.speech(), 1.5).is_some(), "the message is heard\n{}", bob.tail(20));
    bob.hang_up();
    wait_for_no_calls(&cluster, "b", Duration::from_secs(5));
}

/// `twinbox call` calls it: both hear each other, bit for bit.
#[test]
fn our_test_phone_calls_it() {
    if !needs() {
        return;
    }
    let lab = Lab::new(&["ann"]);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let ours = Speech::unique();
    fs::write(file("ours.wav"), g711::to_wav(&ours.bytes(0, 16_000), Law::Mu)).expect("written");
    let ann = Baresip::start(&lab.place("ann"), "ann", 2, dir.path());
    let mut command = lab.command(&binary());
    command.args(["call", &format!("sip:ann@{}", ann.address()), "--bind", &lab.phones().ip.to_string()]);
    command.args(["--play", &file("ours.wav"), "--record", &file("heard.wav"), "--duration", "6"]);
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ann.wait("CALL_CLOSED");
    let heard = fs::read(file("heard.wav")).expect("what was heard");
    let heard = g711::from_wav(&heard, Law::Mu).expect("audio");
    let (speech, spoken) = ann.speech();
    let piece = speech.find_in(&heard, spoken).unwrap_or_else(|| panic!("{} samples heard", heard.len()));
    assert!(piece.seconds() > 1.5, "{piece:?}");
    assert!(ann.hears((&ours, 16_000), 1.5).is_some(), "{}", ann.tail(20));
}

/// A caller presses 0: the node refers it to the operator, both of them baresip, and they hear each other.
#[test]
fn a_caller_is_transferred_to_it_as_the_operator() {
    if !needs() {
        return;
    }
    let lab = Lab::new(&["a", "b", "w", "ann", "operator"]);
    let place = lab.place("operator");
    let transfer = format!("transfer = \"sip:{{number}}@{}\"", place.port(5080));
    let cluster = Cluster::start_in(&lab, &Spec { trunk: vec![transfer], ..Spec::default() });
    let user = Cluster::USERS[0];
    cluster.cli("a").json(&["user", "set", user.number, "--operator", "5000"]);
    let operator = Baresip::start(&place, "5000", 60, cluster.dir());
    let mut ann = Baresip::start(&lab.place("ann"), "2001", 60, cluster.dir());
    ann.dial(&format!("sip:{}@{}", user.number, cluster.sip("b")));
    ann.wait_sound(2000);
    ann.press("0");
    operator.wait("CALL_ESTABLISHED");
    assert!(operator.hears(ann.speech(), 1.0).is_some(), "{}", operator.tail(20));
    assert!(ann.hears(operator.speech(), 1.0).is_some(), "{}", ann.tail(20));
    // The node was notified that the transfer succeeded, and has left the call.
    wait_for_no_calls(&cluster, "b", Duration::from_secs(20));
    let (_, page) = http_get(cluster.phones(), cluster.member("b").metrics(), "/metrics").expect("metrics");
    assert_eq!(metric(&page, "twinbox_sip_total", "\"transfers\""), Some(1.0));
}
