//! A node whose clock is an hour apart from the others' since its start, and a split in which both sides are used: what was decided on
//! one side holds on both, nothing comes back or is lost, and nothing is removed while the clocks disagree (rules D3, D4, D5).

use std::{
    collections::BTreeMap,
    slice,
    thread::{self, sleep},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_peer_kit::office::raised;
use twinbox_system_tests::{assert_equal_stores, assert_kept, growing::Clock, leave};
use twinbox_testkit::{Cluster, Deposit, Lab, Spec, User, http_get, listen, metric, need, wait_until};

/// Limit of waits for what takes seconds.
const SOON: Duration = Duration::from_secs(60);
/// Two times the time after which deleted messages are purged, and several looks.
const TWO_GRACES: Duration = Duration::from_secs(8);

/// The same users with another PIN.
const WITH_NEW_PIN: [User; 2] =
    [User { pin: "860413", ..Cluster::USERS[0] }, User { pin: "527946", ..Cluster::USERS[1] }];

/// Signs in on a node and hears this message.
fn hear(cluster: &Cluster, node: &str, user: User, deposit: &Deposit) {
    let limit = Duration::from_secs(30);
    let pieces = listen(cluster.phones(), cluster.sip(node), user, slice::from_ref(deposit), 0.6, limit);
    assert!(pieces[0].is_some(), "the message of {} is heard on {node}", user.number);
}

/// The states of a mailbox's messages, by id.
fn states(cluster: &Cluster, node: &str, user: User) -> BTreeMap<String, String> {
    let messages = cluster.cli(node).try_messages(user.number).unwrap_or_default();
    messages.into_iter().map(|message| (message.id, message.state)).collect()
}

/// Records and files of audio that a node has removed, and their bytes.
fn purged(cluster: &Cluster, node: &str) -> Option<f64> {
    let (_, page) = http_get(cluster.phones(), cluster.member(node).metrics(), "/metrics")?;
    metric(&page, "twinbox_purged_total", "")
}

/// Node b is this far from the time of the others.
fn used_on_both_sides_of_a_split(offset: &str) {
    if !need::all(&[need::NAMESPACES, need::FAKETIME]) {
        return;
    }
    let files = tempfile::tempdir().expect("a folder");
    let clock = Clock::new(files.path());
    clock.move_to(offset);
    let env = clock.environment().map(|(name, value)| ("b", name, value)).to_vec();
    let voicemail = vec!["deleted_grace_seconds = 3".to_owned()];
    let lab = Lab::new(&["a", "b", "w"]);
    let cluster = &Cluster::start_in(&lab, &Spec { env, voicemail, ..Spec::default() });
    let (nodes, [one, two]) = (["a", "b"], Cluster::USERS);

    // A message for each, taken by the node whose clock is right.
    let [of_one, of_two] = thread::scope(|scope| {
        [one, two]
            .map(|user| scope.spawn(move || leave(cluster, "a", user.number)))
            .map(|call| call.join().expect("left"))
    });
    let [id_one, id_two] =
        [one, two].map(|user| cluster.wait_for_messages("b", user.number, 1, SOON)[0].id.clone());
    wait_until("the alarm about the clock of b", SOON, || raised(&cluster.cli("a"), "clock", "b"));

    // One's message is heard on a and deleted on b, two's the other way round; b has no majority.
    lab.cut("a", "b");
    lab.cut("b", "w");
    cluster.cli("b").json(&["user", "set-pin", one.number, WITH_NEW_PIN[0].pin, "--keep-pin"]);
    cluster.cli("a").json(&["user", "set-pin", two.number, WITH_NEW_PIN[1].pin, "--keep-pin"]);
    let [later_one, later_two] = thread::scope(|scope| {
        let heard = [("a", one, &of_one), ("b", two, &of_two)]
            .map(|(node, user, deposit)| scope.spawn(move || hear(cluster, node, user, deposit)));
        let left =
            [("b", one), ("a", two)].map(|(node, user)| scope.spawn(move || leave(cluster, node, user.number)));
        heard.into_iter().for_each(|call| call.join().expect("heard"));
        left.map(|call| call.join().expect("left"))
    });
    for (node, user, id) in [("a", one, &id_one), ("b", two, &id_two)] {
        wait_until("it to count as heard", SOON, || {
            states(cluster, node, user).get(id).is_some_and(|state| state == "heard")
        });
    }
    cluster.cli("b").json(&["message", "delete", one.number, &id_one]);
    cluster.cli("a").json(&["message", "delete", two.number, &id_two]);
    lab.heal();
    let healed = BootInstant::now();
    cluster.wait_in_service();

    for (user, id, later) in [(one, &id_one, &later_one), (two, &id_two, &later_two)] {
        for node in nodes {
            assert_kept(cluster, node, user.number, later, 0.9, SOON);
            wait_until("the deletion and the new message, and nothing else", SOON, || {
                let states = states(cluster, node, user);
                states.len() == 2
                    && states.iter().all(|(of, state)| state == if of == id { "deleted" } else { "new" })
            });
        }
    }
    // Each PIN on the node on which it was not set.
    thread::scope(|scope| {
        let calls = [("a", WITH_NEW_PIN[0], &later_one), ("b", WITH_NEW_PIN[1], &later_two)]
            .map(|(node, user, deposit)| scope.spawn(move || hear(cluster, node, user, deposit)));
        calls.into_iter().for_each(|call| call.join().expect("heard"));
    });
    assert_equal_stores(cluster, "a");

    // No event tells that nothing happens.
    sleep(TWO_GRACES.saturating_sub(healed.elapsed()));
    assert!(raised(&cluster.cli("a"), "clock", "b"), "the clock is still wrong");
    for node in nodes {
        for (user, id) in [(one, &id_one), (two, &id_two)] {
            assert_eq!(states(cluster, node, user).get(id).map(String::as_str), Some("deleted"), "{node}");
        }
        assert_eq!(purged(cluster, node), Some(0.0), "{node}");
    }
    clock.move_to("+0");
    for node in nodes {
        // The message that b deleted with a clock that was ahead is old enough in an hour.
        wait_until("what a deleted to be purged, now that the clocks agree", SOON, || {
            let states = states(cluster, node, two);
            states.len() == 1 && !states.contains_key(&id_two)
        });
        assert!(states(cluster, node, one).values().any(|state| state == "heard"), "{node}");
    }
    println!("{offset}: everything was as it should be {:?} after the heal", healed.elapsed());
}

#[test]
fn node_an_hour_ahead_agrees_with_the_other_after_a_split_and_nothing_is_purged_before_its_clock_is_right() {
    used_on_both_sides_of_a_split("+1h");
}

#[test]
fn node_an_hour_behind_agrees_with_the_other_after_a_split_and_nothing_is_purged_before_its_clock_is_right() {
    used_on_both_sides_of_a_split("-1h");
}
