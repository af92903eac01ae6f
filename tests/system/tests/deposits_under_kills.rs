//! Callers (SIPp) leave messages on both nodes, and each round kills one node, the victim, at a random moment. Every message whose BYE
//! was answered `200`, by either node, must be whole on the survivor while the victim is down (rule P1), and on the victim once it runs
//! again. In each third round the victim starts with an empty disk. `TWINBOX_SEED` replays the choice of victims and moments.

use std::{collections::BTreeSet, thread::sleep, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use twinbox_peer_kit::{Depositing, Depositors, find_speech_of_depositors};
use twinbox_system_tests::{import_users, wait_for_same_messages};
use twinbox_testkit::{Cluster, Spec, need, parameter, wait_until};

/// Each round has a mailbox of its own: this number plus that of the round, which begins with 1.
const MAILBOX: u32 = 3_000;
/// From the `#` to the BYE.
const STAY: Duration = Duration::from_millis(1_900);
/// Least length of an acknowledged message, in seconds: the stay without greeting and tone, on a busy machine.
const SPOKEN: f64 = 1.0;
/// Calls to each node in a round, and calls per second.
const CALLS: (u32, u32) = (20, 8);
/// The kill comes within this time after the victim's first acknowledgement.
const WITHIN_MS: u64 = 2_000;
/// Limit of waits for what takes seconds.
const SOON: Duration = Duration::from_secs(60);
/// Limit of the wait for a message on the survivor, which has the data and the audio before the caller gets `200`.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Every message is acknowledged on two: `ack_timeout` is longer than any of these machines stands still.
fn spec(rounds: u32) -> Spec {
    Spec {
        ack_timeout_ms: 10_000,
        voicemail: vec![format!("max_messages = {}", rounds + 10_000)],
        ..Spec::default()
    }
}

fn mailbox(round: u32) -> String {
    (MAILBOX + round).to_string()
}

/// Begins the calls of a round to a node. Each caller has a number of its own.
fn deposit(cluster: &Cluster, node: &str, round: u32) -> Depositing {
    let (first, media_port) = if node == "a" { (0, 30_000) } else { (50, 40_000) };
    let first = 500_000 + round * 100 + first;
    let calls: Vec<_> = (first..first + CALLS.0).map(|caller| (mailbox(round), caller.to_string())).collect();
    let (node, (times, rate)) = (cluster.sip(node), CALLS);
    let folder = cluster.dir().join(format!("sipp-{round}-{first}"));
    Depositors { node, calls: &calls, times, rate, stay: STAY, media_port }.start(cluster.phones(), &folder)
}

/// Checks that a node has the messages of these callers whole.
fn assert_whole(cluster: &Cluster, node: &str, mailbox: &str, callers: &BTreeSet<String>, limit: Duration) {
    wait_until(&format!("{node} to list {callers:?}"), limit, || {
        let there = cluster.cli(node).try_messages(mailbox).unwrap_or_default();
        callers.iter().all(|caller| there.iter().any(|message| message.caller == *caller))
    });
    let mut heard = 0;
    for (message, audio) in cluster.heard(node, mailbox) {
        if !callers.contains(&message.caller) {
            continue;
        }
        let piece = find_speech_of_depositors(&audio).filter(|piece| piece.length == audio.len());
        let piece = piece.unwrap_or_else(|| panic!("{node}: something else than the speech in {message:?}"));
        assert!(!message.partial && piece.seconds() >= SPOKEN, "{node}: {piece:?} of {message:?}");
        heard += 1;
    }
    assert_eq!(heard, callers.len(), "{node}: each of {callers:?} has one message, with its audio");
}

#[test]
fn acknowledged_messages_are_on_the_survivor_of_each_kill() {
    if !need::all(&[need::SIPP]) {
        return;
    }
    let rounds = parameter("TWINBOX_DEPOSIT_KILLS", 10) as u32;
    let seed = parameter("TWINBOX_SEED", u64::from(std::process::id()));
    println!("TWINBOX_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(&spec(rounds));
    import_users(&cluster, "a", MAILBOX + 1..MAILBOX + rounds + 1, "Round");
    for node in ["a", "b"] {
        wait_until("the mailboxes", SOON, || cluster.cli(node).try_messages(&mailbox(rounds)).is_ok());
    }
    let mut all = 0;
    for round in 1..=rounds {
        let mailbox = mailbox(round);
        let (victim, survivor) = if chance.random_bool(0.5) { ("a", "b") } else { ("b", "a") };
        let (doomed, mut other) = (deposit(&cluster, victim, round), deposit(&cluster, survivor, round));
        wait_until("an acknowledgement of the victim", SOON, || !doomed.acknowledged().is_empty());
        sleep(Duration::from_millis(chance.random_range(0..WITHIN_MS)));
        cluster.kill(victim);
        // The survivor may refuse calls on a busy machine.
        let counted = other.finish();
        // By now the caller has read the answers that came right before the kill.
        let (by_survivor, by_victim) = (other.acknowledged(), doomed.abandon());
        assert_eq!(by_survivor.len() as u64, counted.well, "{counted:?}");
        assert!(counted.well > 0, "the survivor takes calls: {counted:?}");
        let acknowledged = &by_victim | &by_survivor;
        assert_whole(&cluster, survivor, &mailbox, &acknowledged, AT_ONCE);
        let wiped = round % 3 == 0;
        if wiped {
            cluster.wipe(victim);
        }
        cluster.start_member(victim);
        let back = cluster.wait_in_service();
        let there = wait_for_same_messages(&cluster, &mailbox, acknowledged.len(), SOON).len();
        assert_whole(&cluster, victim, &mailbox, &acknowledged, SOON);
        let seconds = back.as_secs_f64();
        println!(
            "round {round}: {victim} killed (wiped: {wiped}) after {} acknowledgements, back after {seconds:.2} s; \
             {} acknowledged in all, {there} messages",
            by_victim.len(),
            acknowledged.len()
        );
        all += acknowledged.len();
    }
    println!("{all} messages acknowledged in {rounds} rounds, all on the survivor");
}
