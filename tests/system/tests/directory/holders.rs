//! The duty moves: the next holder goes on where the former one was.

use std::{collections::BTreeSet, time::Duration};

use twinbox_peer_kit::people::holder_of;
use twinbox_testkit::{parameter, wait_for, wait_until};

use super::{Corp, SOON, identities, number, raised, users};

/// Each lot is below the limit of a tenth of the users, and both together are above it.
#[test]
fn deletions_in_lots_are_summed_and_the_second_is_held_back_also_by_the_next_holder() {
    let count = 100;
    let Some(corp) = Corp::start(count) else { return };
    let (a, b) = (corp.cluster.cli("a"), corp.cluster.cli("b"));
    corp.add(&["enabled=yes", "loss-percent=10", "loss-count=5"]);
    for cli in [&a, &b] {
        wait_until("all users", SOON, || users(cli).len() == count + 2);
    }
    let is_disabled = |node: &str, n: usize| corp.sign_in(node, &number(n), &format!("secret {n}")).0 == "disabled";
    let gone = || {
        let list = b.try_json(&["directory", "runs", "corp"]).unwrap_or_default();
        let runs = list["runs"].as_array().cloned().unwrap_or_default().into_iter();
        let done = runs.filter(|run| run["outcome"] == "done");
        done.map(|run| run["counts"]["gone"].as_u64().unwrap_or_default()).sum::<u64>()
    };
    corp.delete(0..8);
    wait_until("the end of the first lot", SOON, || gone() == 8);
    wait_until("the first lot on the other node", SOON, || is_disabled("b", 7));
    assert!(!raised(&a, "directory-held-back"));
    corp.delete(8..16);
    wait_until("the alarm", SOON, || raised(&a, "directory-held-back"));
    assert!(!is_disabled("a", 15) && !is_disabled("b", 15));

    let holder = wait_for("the holder", SOON, || holder_of(&a, "directory-sync"));
    let other = if holder == "a" { "b" } else { "a" };
    a.order(&["duty", "move", "directory-sync", other]);
    wait_until("the move", SOON, || holder_of(&a, "directory-sync").as_deref() == Some(other));
    let refused = wait_for("a run of the next holder", SOON, || {
        let output = b.run(&["directory", "sync", "corp"]);
        assert!(!output.status.success(), "{output:?}");
        Some(String::from_utf8_lossy(&output.stderr).into_owned())
            .filter(|said| said.contains("--accept-deletions"))
    });
    println!("{refused}");
    wait_until("the alarm of the next holder", SOON, || raised(&a, "directory-held-back"));
    assert!(is_disabled("a", 7) && !is_disabled("a", 15) && !is_disabled("b", 15));
}

/// `TWINBOX_DIRECTORY_USERS=5000` sets the full size.
#[test]
fn duty_moves_by_a_kill_during_a_full_search_and_each_person_is_one_user_on_both_nodes() {
    let count = parameter("TWINBOX_DIRECTORY_USERS", 2_000) as usize;
    let Some(mut corp) = Corp::start(count) else { return };
    let duties = corp.cluster.cli("a").json(&["duty", "list"]);
    let duty = duties["duties"].as_array().into_iter().flatten().find(|duty| duty["duty"] == "directory-sync");
    let holder = duty.and_then(|duty| duty["holder"].as_str()).expect("a holder").to_owned();
    let other = if holder == "a" { "b" } else { "a" };
    corp.add(&["enabled=yes"]);
    let made = wait_for("the first users", SOON, || {
        let made = users(&corp.cluster.cli(other)).len();
        (made > 2).then_some(made)
    });
    corp.cluster.kill(&holder);
    println!("{made} users were on {other} when {holder} was killed");
    let limit = SOON + Duration::from_millis(20) * count as u32;
    wait_until("all users at the next holder", limit, || users(&corp.cluster.cli(other)).len() == count + 2);
    corp.cluster.start_member(&holder);
    corp.cluster.wait_in_service();
    wait_until("the same users on both nodes", limit, || {
        let (one, two) = (identities(&corp.cluster.cli("a")), identities(&corp.cluster.cli("b")));
        one.len() == count + 2 && one == two
    });
    let users = identities(&corp.cluster.cli("a"));
    let numbers: BTreeSet<_> = users.iter().map(|(_, number)| number).collect();
    assert_eq!(numbers.len(), users.len(), "no number is there twice");
    let runs = corp.cluster.cli(other).json(&["directory", "sync", "corp"]);
    assert!(runs["counts"]["new"] == 0 && runs["counts"]["unchanged"] == count, "{runs}");
}
