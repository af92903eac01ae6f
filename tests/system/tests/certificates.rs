//! Certificates: renewal, CA rotation, operators, expiry. Real processes, the real command line; where time has to
//! pass, the members' time of day is moved while they run.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use serde_json::Value;
use twinbox_clock::wall;
use twinbox_ids::Timestamp;
use twinbox_pki::{CertificateAuthority, MemberKind, NodeIdentity, Seal, Validity, fingerprint_of};
use twinbox_system_tests::growing::{Growing, number, words};
use twinbox_testkit::{
    Call, Endpoint, Invite, Transport, begin_to_speak, g711::Law, hang_up, holds, leave_message, need, wait_until,
};

/// Timeout for automatic actions of members, on a busy machine.
const SOON: Duration = Duration::from_secs(40);
const DAY: u64 = 86_400;

/// A user on the cluster of `a`, and `a`'s address for calls.
fn add_user(growing: &Growing) -> SocketAddr {
    growing.cli("a").json(&["user", "add", "1001", "--name", "Test", "--pin", "284617", "--keep-pin"]);
    growing.place("a").port(5060)
}

/// Content of a member's TLS folder.
struct Folder {
    trusts: Vec<[u8; 32]>,
    shows: [u8; 32],
    linked: bool,
    keys: Vec<[u8; 32]>,
}

fn folder(growing: &Growing, name: &str) -> Option<Folder> {
    let identity = NodeIdentity::load(&growing.tls(name)).ok()?;
    let secret = growing.dir.path().join(name).join("data/seal.key");
    Some(Folder {
        trusts: identity.authorities().iter().map(|trusted| trusted.fingerprint).collect(),
        shows: identity.issuer(),
        linked: identity.is_linked(),
        keys: Seal::new(&growing.tls(name), &secret).holds(),
    })
}

/// Waits until a member has one authority, with its key if it is a node, and shows a certificate of it; returns its
/// fingerprint.
fn wait_settled(growing: &Growing, name: &str, other_than: Option<[u8; 32]>) -> [u8; 32] {
    let settled = || {
        let Folder { trusts, shows, linked, keys } = folder(growing, name)?;
        let has_keys = if name == "w" { keys.is_empty() } else { keys == [shows] };
        (trusts == [shows] && !linked && has_keys && Some(shows) != other_than).then_some(shows)
    };
    holds(SOON, settled).unwrap_or_else(|| panic!("{name} has not one authority and its key\n{}", growing.tails()))
}

fn ca_status(growing: &Growing, at: &str) -> Value {
    growing.cli(at).json(&["cluster", "ca", "status"])
}

fn waits_for(growing: &Growing, at: &str, step: &str, names: &[&str]) {
    let mut last = Value::Null;
    let reached = holds(SOON, || {
        last = growing.cli(at).try_json(&["cluster", "ca", "status"]).ok()?;
        let rotation = &last["rotation"];
        (rotation["step"] == step && rotation["waits_for"] == serde_json::json!(names)).then_some(())
    });
    assert!(reached.is_some(), "no waiting at '{step}' for {names:?}: {last:#}\n{}", growing.tails());
}

fn wait_over(growing: &Growing, at: &str) {
    let done = growing.cli(at).run(&["cluster", "ca", "status", "--wait", "--timeout", "60"]);
    assert!(done.status.success(), "{}\n{}", words(&done), growing.tails());
}

/// During a call and with a member away: nothing is interrupted or lost, and the returning member completes its part.
#[test]
fn the_authority_is_replaced_while_a_call_goes_on_and_a_member_is_away() {
    let mut growing = Growing::formed(&["a", "b", "w"]);
    ["a", "b", "w"].iter().for_each(|name| growing.start(name));
    growing.wait_in_service("a", &["a", "b", "w"]);
    let sip = add_user(&growing);
    let old = wait_settled(&growing, "a", None);
    let before = growing.token("a", &[]);
    let phones = growing.loopback.place(100);
    let endpoint = Endpoint::open(&phones, Law::Mu);
    let invite = Invite::new("1001", "2001", endpoint.address());
    let call =
        Call::place(&phones, sip, Transport::Udp, &invite).unwrap_or_else(|r| panic!("refused: {}", r.status));
    let speech = begin_to_speak(&endpoint, &call);

    // Cancelled while one is away, the rotation leaves nothing behind.
    growing.kill("w");
    growing.cli("a").json(&["cluster", "ca", "rotate"]);
    waits_for(&growing, "a", "trust", &["w"]);
    let called_off = growing.cli("b").json(&["cluster", "ca", "rotate", "--call-off"]);
    assert_eq!(called_off["rotation"]["step"], "called-off");
    for name in ["a", "b"] {
        assert_eq!(wait_settled(&growing, name, None), old, "{name}");
    }

    // Started again; a repeated command, on any node, shows the same rotation.
    let begun = growing.cli("a").json(&["cluster", "ca", "rotate"]);
    waits_for(&growing, "b", "trust", &["w"]);
    let again = growing.cli("b").json(&["cluster", "ca", "rotate"]);
    assert_eq!(again["rotation"]["next"], begun["rotation"]["next"]);
    // A node that restarts now continues where it was, and both nodes keep taking calls and messages.
    growing.kill("b");
    growing.start("b");
    growing.wait_in_service("a", &["a", "b"]);
    waits_for(&growing, "b", "trust", &["w"]);
    assert!(folder(&growing, "a").is_some_and(|a| a.trusts.len() == 2 && a.shows == old));
    growing.start("w");
    wait_over(&growing, "a");
    let new = wait_settled(&growing, "a", Some(old));
    for name in ["b", "w"] {
        assert_eq!(wait_settled(&growing, name, Some(old)), new, "{name}");
    }
    growing.wait_in_service("a", &["a", "b", "w"]);

    // The call has continued all the time; the rotation is quick, so the speech is long enough for a message only now.
    endpoint.wait_spoken(2.5);
    let deposit = hang_up(call, &endpoint, speech);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    let at_b = || growing.cli("b").try_messages("1001").map_or(0, |messages| messages.len());
    wait_until("its message is on the other node", SOON, || at_b() == 1);

    // All members restart with the state on their disks.
    for name in ["a", "b", "w"] {
        growing.kill(name);
        growing.start(name);
        // By its own status: to the others it is in service until they miss it.
        growing.wait_in_service(if name == "w" { "a" } else { name }, &["a", "b", "w"]);
    }
    // An earlier token is refused with the reason; a new one works.
    let refused = growing.join(&before, "c", &growing.address("c").to_string());
    let said = words(&refused);
    assert!(refused.status.code() == Some(3) && said.contains("replaced its authority"), "{said}");
    growing.grow("b", "c");
    growing.wait_in_service("a", &["a", "b", "c"]);
    assert_eq!(wait_settled(&growing, "c", None), new);
    // Refused commands change nothing.
    for (arguments, expected) in [
        (&["cluster", "ca", "rotate", "--call-off"][..], "no CA rotation is in progress"),
        (&["cluster", "ca", "rotate", "--without", "c"], "no CA rotation is in progress"),
    ] {
        let output = growing.cli("a").run(arguments);
        assert!(output.status.code() == Some(1) && words(&output).contains(expected), "{}", words(&output));
    }
    assert_eq!(wait_settled(&growing, "a", None), new);
}

/// The node that began the rotation is lost permanently in the middle; another member is away throughout. Both are
/// given up one after the other, and the second is readmitted.
#[test]
fn a_replacement_outlives_the_node_that_began_it_and_who_was_away_throughout_is_helped_back() {
    let mut growing = Growing::formed(&["a", "b", "c", "d", "e"]);
    ["a", "b", "c", "d", "e"].iter().for_each(|name| growing.start(name));
    growing.wait_in_service("b", &["a", "b", "c", "d", "e"]);
    let old = wait_settled(&growing, "b", None);
    growing.kill("e");
    growing.cli("a").json(&["cluster", "ca", "rotate"]);
    waits_for(&growing, "b", "trust", &["e"]);
    growing.kill("a");
    fs::remove_dir_all(growing.dir.path().join("a")).expect("lost");
    // Raft's leader may have died with it: an order under way then is answered "unknown".
    wait_until("who is not waited for cannot be left out", SOON, || {
        let unknown = growing.cli("b").run(&["cluster", "ca", "rotate", "--without", "x"]);
        unknown.status.code() == Some(1) && words(&unknown).contains("does not wait for")
    });
    let without = |name: &str| {
        holds(SOON, || growing.cli("b").try_json(&["cluster", "ca", "rotate", "--without", name]).ok())
            .unwrap_or_else(|| panic!("cannot go on without {name}\n{}", growing.tails()))
    };
    // The three that are left are a majority; the two lost ones are given up one after the other.
    without("e");
    waits_for(&growing, "b", "show", &["a"]);
    without("a");
    wait_over(&growing, "b");
    let new = wait_settled(&growing, "b", Some(old));
    for name in ["c", "d"] {
        assert_eq!(wait_settled(&growing, name, Some(old)), new, "{name}");
    }

    // It knows no current authority, and the others refuse its certificate: it logs the remedy.
    growing.start("e");
    let told = || growing.log("e").contains("twinbox cluster ca reissue");
    wait_until("it says how it comes back", SOON, told);
    assert!(!growing.names("b").is_empty());
    growing.kill("e");
    let (certificate, out) = (growing.tls("e").join("node.pem"), growing.dir.path().join("for-e"));
    let reissue = |certificate: &Path, out: &Path| -> Output {
        let (certificate, out) = (certificate.to_string_lossy(), out.to_string_lossy());
        growing.cli("c").run(&["cluster", "ca", "reissue", "--certificate", &certificate, "--out", &out])
    };
    let no_certificate = reissue(&growing.dir.path().join("e/twinbox.toml"), &out);
    assert!(no_certificate.status.code() == Some(2) && !out.exists(), "{}", words(&no_certificate));
    let made = reissue(&certificate, &out);
    assert!(made.status.success(), "{}", words(&made));
    let twice = reissue(&certificate, &out);
    assert!(twice.status.code() == Some(2) && words(&twice).contains("exists already"), "{}", words(&twice));
    for file in ["node.pem", "ca.pem"] {
        fs::copy(out.join(file), growing.tls("e").join(file)).expect("it can be put there");
    }
    growing.start("e");
    growing.wait_in_service("b", &["b", "c", "d", "e"]);
    // It has received the key, too.
    let has_key = || folder(&growing, "e").is_some_and(|e| e.shows == new && e.keys.contains(&new));
    wait_until("it can sign", SOON, has_key);
}

#[test]
fn operator_steers_the_cluster_from_another_machine_and_no_other_client_does() {
    let mut growing = Growing::formed(&["a", "b", "w"]);
    ["a", "b", "w"].iter().for_each(|name| growing.start(name));
    growing.wait_in_service("b", &["a", "b", "w"]);
    let (a, b, w) = (growing.address("a"), growing.address("b"), growing.address("w"));
    let at = |name: &str| growing.dir.path().join(name);
    let make = |at: &str, who: &str, more: &[&str], out: &Path| {
        let out = out.to_string_lossy();
        growing.cli(at).run(&[&["cluster", "operator-cert", who, "--out", &out], more].concat())
    };
    let anna = at("anna");
    let made = make("a", "anna", &[], &anna);
    assert!(made.status.success() && words(&made).contains("cluster status"), "{}", words(&made));
    // Every node admits her, once it knows of her; her commands are carried out.
    for node in [a, b] {
        let status = holds(SOON, || {
            Some(growing.operate(node, &anna, &["cluster", "status"])).filter(|o| o.status.success())
        });
        assert!(status.is_some_and(|o| words(&o).contains("in-service")), "{node}\n{}", growing.tails());
    }
    let added = growing.operate(b, &anna, &["user", "add", "1001", "--pin", "284617"]);
    assert!(added.status.success(), "{}", words(&added));
    assert!(growing.cli("b").try_messages("1001").is_ok());
    let files =
        ["operator.pem", "operator.key", "ca.pem"].map(|file| anna.join(file).to_string_lossy().into_owned());
    let [cert, key, ca] = files.each_ref();
    let by_files =
        ["--node", &a.to_string(), "--cert", cert, "--key", key, "--ca", ca, "--json", "cluster", "status"];
    assert!(growing.twinbox(&by_files).status.success());
    // She is in the list, with the end of her certificate.
    let operators = ca_status(&growing, "b")["operators"].clone();
    let ends = number(&operators[0]["ends_ms"]);
    assert!(operators[0]["name"] == "anna" && ends > wall().0 + 29 * DAY * 1_000, "{operators:#}");
    assert!(ends < wall().0 + 31 * DAY * 1_000, "{operators:#}");

    // Wrong commands.
    let (elsewhere, b_tls) = (at("elsewhere"), growing.tls("b"));
    let usage = [
        make("a", "Anna!", &[], &elsewhere),
        make("a", "bert", &["--valid", "366d"], &elsewhere),
        make("a", "bert", &["--valid", "0s"], &elsewhere),
        make("a", "bert", &["--valid", "soon"], &elsewhere),
        make("a", "bert", &[], &anna),
        growing.operate(a, &elsewhere, &["cluster", "status"]),
        growing.operate(a, &b_tls, &["cluster", "status"]),
        growing.twinbox(&["--node", "nowhere", "--identity", &anna.to_string_lossy(), "cluster", "status"]),
        growing.twinbox(&["--node", &a.to_string(), "cluster", "status"]),
        growing.twinbox(&["cluster", "status", "--node", &a.to_string()]),
        growing.operate(a, &anna, &["config", "check", "x"]),
        growing.twinbox(&["--node", &a.to_string(), "--cert", cert, "cluster", "status"]),
    ];
    for (n, output) in usage.iter().enumerate() {
        assert_eq!(output.status.code(), Some(2), "{n}: {}", words(output));
    }
    assert!(!elsewhere.join("operator.key").exists());
    assert!(words(&usage[9]).contains("before the command"), "{}", words(&usage[9]));
    // A member's certificate is no operator's.
    let [member, member_key] = ["node.pem", "node.key"].map(|file| b_tls.join(file).to_string_lossy().into_owned());
    let as_member =
        ["--node", &a.to_string(), "--cert", &member, "--key", &member_key, "--ca", ca, "cluster", "status"];
    let refused = growing.twinbox(&as_member);
    assert!(refused.status.code() == Some(2) && words(&refused).contains("operator"), "{}", words(&refused));
    // Nor is it accepted for administrators' requests, at the members' route.
    members_are_no_administrators(&b_tls, a);
    // A taken name, a witness, another cluster.
    let failed = [
        (make("b", "anna", &[], &elsewhere), "operator-revoke anna"),
        (growing.operate(w, &anna, &["cluster", "status"]), "does not accept operators"),
    ];
    for (output, expected) in failed {
        let said = words(&output);
        assert!(output.status.code() == Some(1) && said.contains(expected), "{said}");
    }
    let nobody = growing.operate(growing.address("c"), &anna, &["cluster", "status"]);
    assert_eq!(nobody.status.code(), Some(3), "{}", words(&nobody));

    // Revoked: every node that knows of it refuses her.
    growing.cli("b").json(&["cluster", "operator-revoke", "anna"]);
    let twice = growing.cli("b").run(&["cluster", "operator-revoke", "anna"]);
    assert!(twice.status.code() == Some(1) && words(&twice).contains("no operator 'anna'"), "{}", words(&twice));
    for node in [a, b] {
        let refused = holds(SOON, || {
            Some(growing.operate(node, &anna, &["cluster", "status"])).filter(|o| o.status.code() == Some(1))
        });
        assert!(refused.is_some_and(|o| words(&o).contains("revoked")), "{node}");
    }

    // An earlier operator loses access with the authority that signed her certificate.
    let (clara, dora) = (at("clara"), at("dora"));
    assert!(make("a", "clara", &[], &clara).status.success());
    growing.cli("a").json(&["cluster", "ca", "rotate"]);
    wait_over(&growing, "a");
    wait_settled(&growing, "a", None);
    let refused = growing.operate(a, &clara, &["cluster", "status"]);
    assert!(refused.status.code() == Some(1) && words(&refused).contains("replaced"), "{}", words(&refused));
    assert_eq!(ca_status(&growing, "a")["operators"], serde_json::json!([]));
    assert!(make("a", "dora", &[], &dora).status.success());
    let let_in = growing.operate(a, &dora, &["--json", "cluster", "ca", "status"]);
    assert!(let_in.status.success(), "{}", words(&let_in));
}

/// A member sends an administrators' request to another member, at the members' route.
fn members_are_no_administrators(tls: &Path, address: SocketAddr) {
    use twinbox_wire::{
        admin::{ClusterStatusRequest, admin_client::AdminClient},
        join::{RotateRequest, TokenRequest, authorities_client::AuthoritiesClient, tokens_client::TokensClient},
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let member = NodeIdentity::load(tls).expect("a member's certificate");
        let endpoint = member.endpoint(&"a".parse().expect("a name"), &address.to_string()).expect("an address");
        let channel = endpoint.connect().await.expect("a member is accepted on its own route");
        let status = AdminClient::new(channel.clone()).cluster_status(ClusterStatusRequest {}).await;
        let token = TokensClient::new(channel.clone()).make(TokenRequest::default()).await.map(drop);
        let rotated = AuthoritiesClient::new(channel).rotate(RotateRequest::default()).await.map(drop);
        for answer in [status.map(drop), token, rotated] {
            assert_eq!(answer.expect_err("refused").code(), tonic::Code::Unimplemented);
        }
    });
}

/// Certificates with a validity of seconds: the node renews its own, and a node renews the witness's; when the old ones
/// have expired, a restarted member is admitted.
#[test]
fn certificates_renew_themselves_before_they_end() {
    let mut growing = Growing::formed(&["a", "b", "w"]);
    let authority = CertificateAuthority::load(&growing.dir.path().join("ca")).expect("the authority");
    let now = wall().0;
    let short = Validity { from: Timestamp(now - 90_000), until: Timestamp(now + 20_000) };
    for (name, kind) in [("a", MemberKind::Node), ("b", MemberKind::Node), ("w", MemberKind::Witness)] {
        let issued = authority.issue_for(&name.parse().expect("a name"), kind, short).expect("a certificate");
        issued.save(&growing.tls(name)).expect("it can be written");
        growing.start(name);
    }
    const DAYS: f64 = 300.0 * 24.0 * 3_600.0;
    for name in ["a", "b"] {
        wait_until("a node's certificate is renewed", Duration::from_secs(15), || {
            growing.seconds_left(name).is_some_and(|left| left > DAYS)
        });
    }
    let renewed =
        |tls: &Path| NodeIdentity::load(tls).is_ok_and(|identity| identity.expires().0 > now + 86_400_000);
    wait_until("the witness's is, too", Duration::from_secs(15), || renewed(&growing.tls("w")));
    growing.wait_in_service("a", &["a", "b", "w"]);
    wait_until("the old ones are over", Duration::from_secs(40), || wall().0 > short.until.0 + 1_000);
    for name in ["b", "w"] {
        growing.kill(name);
        growing.start(name);
        growing.wait_in_service("a", &["a", "b", "w"]);
        growing.wait_in_service("b", &["a", "b", "w"]);
    }
}

/// Two thirds of a year pass in a moment, during a call; then the rest, without any node that can sign.
#[test]
fn certificates_are_renewed_at_two_thirds_and_an_alarm_comes_thirty_days_before_an_end() {
    if !need::all(&[need::FAKETIME]) {
        return;
    }
    let mut growing = Growing::formed(&["a", "b", "w"]);
    growing.take_clock();
    ["a", "b", "w"].iter().for_each(|name| growing.start(name));
    growing.wait_in_service("a", &["a", "b", "w"]);
    growing.wait_in_service("b", &["a", "b", "w"]);
    let sip = add_user(&growing);
    let (token, anna) = (growing.token("a", &[]), growing.dir.path().join("anna"));
    let made = growing.cli("a").run(&["cluster", "operator-cert", "anna", "--out", &anna.to_string_lossy()]);
    assert!(made.status.success(), "{}", words(&made));
    let duties = || growing.cli("b").json(&["duty", "list"]);
    let (before, publisher) = (duties(), growing.cli("b").publisher());
    let shown = |name: &str| {
        let pem = fs::read_to_string(growing.tls(name).join("node.pem")).expect("a certificate");
        fingerprint_of(&pem).expect("a certificate")
    };
    let first = ["a", "b", "w"].map(shown);
    let days_left = |name: &str| growing.seconds_left(name).map_or(0, |seconds| seconds as u64 / DAY);

    // Two hours: the operator is admitted, the token has expired.
    growing.move_clock("+2h");
    let late = growing.address("c").to_string();
    let home = growing.dir.path().to_string_lossy().into_owned();
    let refused = growing.twinbox(&["cluster", "join", &token, "--name", "c", "--address", &late, "--dir", &home]);
    assert!(!refused.status.success() && words(&refused).contains("expired"), "{}", words(&refused));
    let let_in = growing.operate(growing.address("a"), &anna, &["cluster", "status"]);
    assert!(let_in.status.success(), "{}", words(&let_in));
    let phones = growing.loopback.place(100);
    let endpoint = Endpoint::open(&phones, Law::Mu);
    let invite = Invite::new("1001", "2001", endpoint.address());
    let call =
        Call::place(&phones, sip, Transport::Udp, &invite).unwrap_or_else(|r| panic!("refused: {}", r.status));
    let speech = begin_to_speak(&endpoint, &call);

    // Before two thirds nothing happens. Members check every ten seconds; their inaction shows only over time.
    growing.move_clock("+240d");
    wait_until("the clock has moved", SOON, || matches!(days_left("a"), 124 | 125));
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(["a", "b", "w"].map(shown), first, "renewed too early");
    growing.move_clock("+245d");
    for (name, first) in ["a", "b", "w"].iter().zip(first) {
        wait_until(&format!("{name}'s certificate is renewed"), SOON, || shown(name) != first);
    }
    for name in ["a", "b"] {
        wait_until("it is good for a year from now", SOON, || matches!(days_left(name), 364 | 365));
    }
    let deposit = hang_up(call, &endpoint, speech);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    growing.wait_in_service("a", &["a", "b", "w"]);
    assert_eq!((duties(), growing.cli("b").publisher()), (before, publisher), "a clock that jumps moves nothing");
    let ended = growing.operate(growing.address("a"), &anna, &["cluster", "status"]);
    assert!(ended.status.code() == Some(1) && words(&ended).contains("has expired"), "{}", words(&ended));
    assert!(leave_message(&phones, sip, "1001", 1.2).acknowledged());

    // No node can sign: from thirty days before the end that is an alarm, and not earlier.
    let seals: Vec<PathBuf> = ["a", "b"].iter().map(|name| growing.tls(name).join("ca.sealed")).collect();
    seals.iter().for_each(|seal| fs::rename(seal, seal.with_extension("away")).expect("taken away"));
    growing.move_clock(&format!("+{}d", 245 + 365 - 32));
    for name in ["a", "b", "w"] {
        let failed = || growing.log(name).contains("could not be renewed; retrying");
        wait_until(&format!("a renewal of {name} fails"), SOON, failed);
    }
    assert!(growing.certificate_alarms("b").is_empty(), "an alarm too early");
    growing.move_clock(&format!("+{}d", 245 + 365 - 29));
    let alarm = |name: &str| {
        let log = growing.log(name);
        log.lines().find(|line| line.contains("ALARM: this member's certificate ends soon")).map(str::to_owned)
    };
    for name in ["a", "w"] {
        let line = holds(SOON, || alarm(name)).unwrap_or_else(|| panic!("no alarm\n{}", growing.tails()));
        assert!(line.contains("days=28") || line.contains("days=29"), "an alarm too early: {line}");
    }
    wait_until("an alarm in the list", SOON, || {
        growing.certificate_alarms("b").iter().any(|subject| subject == "node")
    });
    seals.iter().for_each(|seal| fs::rename(seal.with_extension("away"), seal).expect("put back"));
    for name in ["a", "b"] {
        wait_until("renewed after all", SOON, || days_left(name) > 360);
    }
    wait_until("the alarm is over", SOON, || growing.certificate_alarms("b").is_empty());
    growing.wait_in_service("a", &["a", "b", "w"]);
}

/// A clock that is ahead for long enough that the node renews its certificate, and then right again.
#[test]
fn certificate_signed_while_the_clock_was_ahead_is_replaced() {
    if !need::all(&[need::FAKETIME]) {
        return;
    }
    let growing = Growing::founded_with_a_clock();
    let days_left = || growing.seconds_left("a").map_or(0, |seconds| seconds as u64 / DAY);
    growing.move_clock("+300d");
    wait_until("it is renewed", SOON, || growing.log("a").contains("certificate is renewed"));
    growing.move_clock("+0");
    wait_until("it is good for a year from now", SOON, || matches!(days_left(), 364 | 365));
}

/// The end of the authority, in twenty years.
#[test]
fn an_alarm_comes_thirty_days_before_the_authority_ends_and_a_replacement_is_the_remedy() {
    if !need::all(&[need::FAKETIME]) {
        return;
    }
    let growing = Growing::founded_with_a_clock();
    let of_authority = || growing.certificate_alarms("a").iter().any(|subject| subject == "authority");
    growing.move_clock(&format!("+{}d", 20 * 365 - 32));
    wait_until("a's certificate is renewed", SOON, || growing.log("a").contains("certificate is renewed"));
    assert!(!of_authority(), "an alarm too early");
    growing.move_clock(&format!("+{}d", 20 * 365 - 29));
    wait_until("an alarm", SOON, of_authority);
    let log = growing.log("a");
    let line =
        log.lines().find(|line| line.contains("ALARM: the certificate of the cluster's authority ends soon"));
    let in_time = |line: &str| line.contains("days=28") || line.contains("days=29");
    assert!(line.is_some_and(|line| in_time(line) && line.contains("twinbox cluster ca rotate")), "{line:?}");
    growing.cli("a").json(&["cluster", "ca", "rotate"]);
    wait_over(&growing, "a");
    wait_until("the alarm is over", SOON, || !of_authority());
}
