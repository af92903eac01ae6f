//! Sign-in with the password of the directory.

use twinbox_testkit::{Cluster, Slapd, wait_until};

use super::{Corp, SOON, number, users};

#[test]
fn passwords_are_checked_on_both_nodes_also_without_the_publisher_and_without_the_directory() {
    let Some(mut corp) = Corp::start(6) else { return };
    corp.add(&["enabled=yes"]);
    let (publisher, other) = corp.cluster.publisher_and_other();
    for node in ["a", "b"] {
        wait_until("all users", SOON, || users(&corp.cluster.cli(node)).len() == 8);
    }
    corp.change(5, "changetype: modify\nadd: userAccountControl\nuserAccountControl: 514\n");
    let said = |verdict: &str, by: &str| (verdict.to_owned(), by.to_owned());
    for node in ["a", "b"] {
        assert_eq!(corp.sign_in(node, &number(0), "secret 0"), said("right", "directory"));
        assert_eq!(corp.sign_in(node, "u0", "secret 0"), said("right", "directory"), "by login");
        assert_eq!(corp.sign_in(node, &number(1), "wrong"), said("wrong", "directory"));
        assert_eq!(corp.sign_in(node, &number(0), ""), said("wrong", ""), "a bind with none would succeed");
        assert_eq!(corp.sign_in(node, Cluster::USERS[0].number, "secret 0"), said("local", ""));
        assert_eq!(corp.sign_in(node, "nobody", "secret 0"), said("wrong", ""));
        // A typed name is never part of a filter.
        assert_eq!(corp.sign_in(node, "u0)(uid=*", "secret 0"), said("wrong", ""));
    }
    assert_eq!(corp.sign_in(&other, &number(2), "secret 2"), said("right", "directory"));
    let is_disabled = || corp.sign_in(&other, &number(5), "secret 5").0 == "disabled";
    wait_until("the account to be disabled", SOON, is_disabled);
    wait_until("the list to show it", SOON, || {
        let shown = corp.cluster.cli(&other).json(&["user", "show", &number(5)]);
        shown["disabled"] == true && shown["directory"] == "corp"
    });
    // No secret is in what a node shows.
    let (first, cli) = (number(0), corp.cluster.cli(&other));
    let commands: [&[&str]; 5] = [
        &["directory", "list"],
        &["directory", "show", "corp"],
        &["directory", "runs", "corp"],
        &["directory", "test", "corp"],
        &["user", "show", &first],
    ];
    let mut shown: Vec<String> = commands.iter().map(|command| cli.json(command).to_string()).collect();
    corp.cluster.kill(&publisher);
    assert_eq!(corp.sign_in(&other, &number(1), "secret 1"), said("right", "directory"), "the publisher is away");

    // The witness too: one of three members is no majority.
    corp.cluster.kill("w");
    wait_until("the loss of the majority", SOON, || cli.status().is_some_and(|status| status["quorum"] != true));
    assert_eq!(corp.sign_in(&other, &number(0), "secret 0"), said("right", "directory"));
    assert_eq!(corp.sign_in(&other, &number(0), "wrong"), said("wrong", "directory"));
    assert_eq!(corp.sign_in(&other, &number(0), ""), said("wrong", ""));
    assert_eq!(corp.sign_in(&other, &number(5), "secret 5").0, "disabled");

    // Without the directory only passwords decide that it confirmed before.
    corp.slapd.stop();
    assert_eq!(corp.sign_in(&other, &number(2), "secret 2"), said("right", "remembered"));
    assert_eq!(corp.sign_in(&other, &number(2), "wrong"), said("wrong", "remembered"));
    assert_eq!(corp.sign_in(&other, &number(3), "secret 3").0, "unavailable");

    // A password that the directory does not take any more is forgotten.
    corp.slapd.resume();
    corp.change(2, "changetype: modify\nreplace: userPassword\nuserPassword: another\n");
    assert_eq!(corp.sign_in(&other, &number(2), "secret 2"), said("wrong", "directory"));
    corp.slapd.stop();
    assert_eq!(corp.sign_in(&other, &number(2), "secret 2").0, "unavailable");

    shown.push(cli.json(&["alarm", "list"]).to_string());
    shown.extend(corp.cluster.members().iter().map(|member| member.log()));
    for secret in [Slapd::PASSWORD, "secret 0", "secret 1", "secret 2", "secret 3", "secret 5"] {
        assert!(shown.iter().all(|text| !text.contains(secret)), "'{secret}' is shown");
    }
}
