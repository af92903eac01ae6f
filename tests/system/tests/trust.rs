//! Between nodes: a foreign certificate and another cluster are refused, logged, and change nothing.

use std::{fs, io::Write, path::Path, process::Command, time::Duration};

use twinbox_system_tests::assert_kept;
use twinbox_testkit::{Cluster, NetPlace, Process, Spec, binary, leave_message, wait_until};

/// A second cluster of the same name is formed, whose configuration names our node `a` as its own `a`; its `b` connects
/// to it. Its certificates are valid, but from another authority.
#[test]
fn another_clusters_node_is_refused_and_changes_nothing() {
    let cluster = Cluster::start(&Spec::default());
    let mailbox = Cluster::USERS[0].number;
    // A name that no random bytes spell.
    let name = "Wilhelmina Unmistakable";
    cluster.cli("a").json(&["user", "add", "1077", "--name", name, "--pin", "739154", "--keep-pin"]);
    let before = leave_message(cluster.phones(), cluster.sip("a"), mailbox, 1.2);
    let logged = cluster.member("a").log().len();

    let octets = cluster.phones().ip.octets();
    let place = NetPlace::here([127, 77, octets[2], 12].into());
    let theirs = cluster.dir().join("strangers");
    let (a, b) = (cluster.member("a").place.port(7070), place.port(7070));
    let init = Command::new(binary())
        .args([
            "cluster",
            "init",
            "--name",
            "test",
            "--node",
            &format!("a={a}"),
            "--node",
            &format!("b={b}"),
            "--dir",
        ])
        .arg(&theirs)
        .output()
        .expect("the twinbox binary runs");
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    let config = theirs.join("b/twinbox.toml");
    let text = fs::read_to_string(&config).expect("init wrote it");
    let text = text
        .replace("0.0.0.0:", &format!("{}:", place.ip))
        .replace("127.0.0.1:9090", &format!("{}:9090", place.ip));
    fs::write(&config, text).expect("it can be changed");
    let mut command = Command::new(binary());
    command.args(["node", "--config"]).arg(&config);
    let stranger = Process::start("stranger", command, &place, &theirs.join("log"));

    let refused = |log: &str| {
        let log = log.to_lowercase();
        ["refus", "certificate", "unknown issuer", "unknownissuer", "handshake", "tls"]
            .iter()
            .any(|w| log.contains(w))
    };
    wait_until("node a to log the refusal", Duration::from_secs(20), || {
        refused(&cluster.member("a").log()[logged..])
    });
    // Time for it to do harm, if it could: checked by the cluster's own terms, a new message and its copy.
    let after = leave_message(cluster.phones(), cluster.sip("b"), mailbox, 1.5);
    assert!(before.acknowledged() && after.acknowledged());
    for node in ["a", "b"] {
        assert_kept(&cluster, node, mailbox, &before, 1.0, Duration::from_secs(2));
        assert_kept(&cluster, node, mailbox, &after, 1.0, Duration::from_secs(2));
        let status = cluster.cli(node).status().expect("the node answers");
        assert_eq!(status["members"].as_array().map(Vec::len), Some(3), "{status}");
    }
    cluster.wait_in_service();
    let knows = |data: &Path| {
        let found = Command::new("grep").args(["-rlF", name]).arg(data).output().expect("grep runs");
        !found.stdout.is_empty()
    };
    assert!(knows(&cluster.dir().join("cluster/b/data")), "a member has it on disk");
    assert!(!knows(&theirs.join("b/data")), "the stranger learnt nothing");
    drop(stranger);
}

/// A client that sends no TLS, or garbage in it, is disconnected; peers continue.
#[test]
fn garbage_at_the_peer_port_changes_nothing() {
    let cluster = Cluster::start(&Spec::default());
    let peer = cluster.member("a").place.port(7070);
    let mut connections = Vec::new();
    for junk in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff], &[0; 4096], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        for _ in 0..50 {
            let mut stream = cluster.phones().tcp(peer).expect("it can be connected to");
            let _ = stream.write_all(junk);
            connections.push(stream);
        }
    }
    let deposit = leave_message(cluster.phones(), cluster.sip("b"), Cluster::USERS[0].number, 1.5);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    assert_kept(&cluster, "a", Cluster::USERS[0].number, &deposit, 1.0, Duration::from_secs(2));
    cluster.wait_in_service();
}

/// Only trunks may call.
#[test]
fn a_call_from_nowhere_is_forbidden() {
    let cluster = Cluster::start(&Spec::default());
    let octets = cluster.phones().ip.octets();
    let stranger = cluster.phones().at([127, 78, octets[2], 1].into());
    let invite = twinbox_testkit::Invite::new(Cluster::USERS[0].number, "2001", stranger.port(9000));
    let refused =
        twinbox_testkit::Call::place(&stranger, cluster.sip("a"), twinbox_testkit::Transport::Udp, &invite);
    assert_eq!(refused.err().map(|r| r.status), Some(403));
}
