//! Forming a cluster by tokens: real processes, the real command line.

use std::{fs, process::Command, time::Duration};

use tempfile::TempDir;
use twinbox_clock::wall;
use twinbox_pki::{CertificateAuthority, JoinToken, MemberKind};
use twinbox_system_tests::growing::{Growing, number, twinbox, words};
use twinbox_testkit::{binary, leave_message, wait_until};

#[test]
fn a_cluster_grows_by_tokens_and_outlives_its_first_node() {
    let mut growing = Growing::founded();
    growing.cli("a").json(&["user", "add", "1001", "--name", "Test", "--pin", "284617", "--keep-pin"]);
    growing.grow("a", "b");
    growing.wait_in_service("a", &["a", "b"]);
    growing.wait_in_service("b", &["a", "b"]);
    // Earlier data is there, and new data is on two.
    let b = growing.cli("b");
    wait_until("b has the user", Duration::from_secs(20), || b.try_messages("1001").is_ok());
    growing.grow("b", "w");
    growing.wait_in_service("a", &["a", "b", "w"]);
    let paired = |at: &str| {
        let status = growing.cli(at).status().unwrap_or_default();
        let members = status["members"].as_array().cloned().unwrap_or_default();
        members.iter().any(|m| m["name"] == at && number(&m["info"]["peers_counting"]) > 0)
    };
    wait_until("both nodes count", Duration::from_secs(20), || paired("a") && paired("b"));
    let (phones, a) = (growing.loopback.place(100), growing.place("a").port(5060));
    let deposit = leave_message(&phones, a, "1001", 1.5);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    let messages = || b.try_messages("1001").map_or(0, |m| m.len());
    wait_until("the message is on the node that joined", Duration::from_secs(10), || messages() == 1);

    // Its configuration names only itself; it finds the others all the same, with its data and without.
    growing.kill("a");
    growing.start("a");
    growing.wait_in_service("a", &["a", "b", "w"]);
    growing.kill("a");
    fs::remove_dir_all(growing.dir.path().join("a/data")).expect("the disk is emptied");
    fs::create_dir(growing.dir.path().join("a/data")).expect("a disk");
    growing.start("a");
    growing.wait_in_service("a", &["a", "b", "w"]);
    let sealed = |name: &str| {
        let (tls, data) = (growing.tls(name), growing.dir.path().join(name).join("data"));
        !twinbox_pki::Seal::new(&tls, &data.join("seal.key")).holds().is_empty()
    };
    wait_until("the emptied node has the authority again", Duration::from_secs(20), || sealed("a"));
    assert!(sealed("b") && !growing.tls("w").join("ca.sealed").exists());

    // The first is lost permanently, and with it the folder of `cluster init`.
    growing.kill("a");
    for gone in ["a", "ca"] {
        fs::remove_dir_all(growing.dir.path().join(gone)).expect("lost");
    }
    growing.grow("b", "c");
    growing.wait_in_service("b", &["b", "c", "w"]);
    growing.wait_in_service("c", &["b", "c", "w"]);
    let c = growing.cli("c");
    wait_until("c has the message", Duration::from_secs(20), || c.try_messages("1001").is_ok_and(|m| m.len() == 1));
}

#[test]
fn tokens_and_wishes_that_will_not_do_are_refused_in_words_and_change_nothing() {
    let mut growing = Growing::founded();
    growing.grow("a", "b");
    growing.wait_in_service("a", &["a", "b"]);
    let before = growing.names("a");
    let c = growing.address("c").to_string();
    let (good, witness) = (growing.token("a", &[]), growing.token("a", &["--witness"]));
    let short = growing.cli("a").json(&["cluster", "token", "--valid", "1s"]);
    let used = growing.token("b", &[]);
    let joined = growing.join(&used, "d", &growing.address("d").to_string());
    assert!(joined.status.success(), "{}", words(&joined));
    let expires = number(&short["expires_ms"]);
    wait_until("the short token ends", Duration::from_secs(10), || wall().0 > expires + 500);

    // Another cluster's token with this address, and one of this cluster with an unknown secret.
    let token: JoinToken = good.parse().expect("a token");
    let ca_pem = fs::read_to_string(growing.dir.path().join("ca/ca.pem")).expect("the authority");
    let stranger = CertificateAuthority::create(token.cluster, "growing").expect("an authority");
    let made_up = |ca: &str| {
        JoinToken::new(token.cluster, ca, MemberKind::Node, token.expires, token.members.clone())
            .expect("a token")
            .to_string()
    };
    let cut = &good[..good.len() - 5];
    let (a, b) = (growing.address("a").to_string(), growing.address("b").to_string());
    let cases = [
        (used.as_str(), "c", c.as_str(), "already used by 'd'"),
        (short["token"].as_str().expect("a token"), "c", &c, "expired"),
        (&made_up(stranger.certificate_pem()), "c", &c, "fingerprint differs"),
        (&made_up(&ca_pem), "c", &c, "does not know the token"),
        (cut, "c", &c, "damaged"),
        ("hello", "c", &c, "not a join token"),
        (&witness, "c", &c, "add --witness"),
        (&good, "w", &c, "leave --witness out"),
        (&good, "b", &c, "is not empty"),
        (&good, "c", &b, "'b' already has the address"),
        (&good, "c", &a, "'a' already has the address"),
        (&good, "c", "nowhere", "HOST:PORT"),
        (&good, "c", &a.replace(":7070", ":7071"), "is where the supervisor of a answers"),
        (&good, "c", &b.replace(":7070", ":7069"), "is where the supervisor of c answers"),
    ];
    for (token, name, address, expected) in cases {
        let output = growing.join(token, name, address);
        assert!(!output.status.success() && words(&output).contains(expected), "{expected}: {}", words(&output));
        assert!(name == "b" || !growing.dir.path().join(name).exists(), "{expected}: something was left behind");
    }
    // A taken name, on a machine without that member's folder.
    let elsewhere = TempDir::new().expect("a temporary folder");
    for taken in ["a", "b", "d"] {
        let mut command = Command::new(binary());
        command.args(["cluster", "join", &good, "--name", taken, "--address", &c, "--dir"]).arg(elsewhere.path());
        let output = command.output().expect("the twinbox binary runs");
        assert!(!output.status.success() && words(&output).contains("has the name"), "{}", words(&output));
        assert!(fs::read_dir(elsewhere.path()).expect("a folder").next().is_none(), "nothing is left behind");
    }
    assert_eq!(growing.names("a"), before);
    // After all of these the node still admits a joining member.
    let joined = growing.join(&good, "c", &c);
    assert!(joined.status.success(), "{}", words(&joined));
    let wrong = twinbox(&["--socket", "/nowhere", "cluster", "token", "--valid", "1x"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", words(&wrong));
}

#[test]
fn of_two_joins_at_once_with_one_token_exactly_one_wins() {
    let mut growing = Growing::founded();
    growing.grow("a", "b");
    growing.wait_in_service("a", &["a", "b"]);
    let token = growing.token("a", &[]);
    let racers = ["c", "d", "e", "f"];
    let started: Vec<_> = racers
        .iter()
        .map(|name| {
            let mut command = growing.join_command(&token, name, &growing.address(name).to_string());
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().expect("the twinbox binary runs")
        })
        .collect();
    let outputs: Vec<_> = started.into_iter().map(|child| child.wait_with_output().expect("it ends")).collect();
    let winners: Vec<_> = racers.iter().zip(&outputs).filter(|(_, output)| output.status.success()).collect();
    assert_eq!(winners.len(), 1, "{}", outputs.iter().map(words).collect::<String>());
    let winner = *winners[0].0;
    for (name, output) in racers.iter().zip(&outputs).filter(|(name, _)| **name != winner) {
        assert!(words(output).contains(&format!("already used by '{winner}'")), "{}", words(output));
        assert!(!growing.dir.path().join(name).exists(), "{name} left something behind");
    }
    growing.settle(winner);
    growing.start(winner);
    growing.wait_in_service("a", &["a", "b", winner]);
}
