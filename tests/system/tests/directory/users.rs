//! Users follow the people of the directory: new, changed, bound, renamed, removed.

use serde_json::Value;
use twinbox_testkit::{Cluster, Slapd, User, leave_message, listen, wait_for, wait_until};

use super::{Corp, SOON, identities, number, raised, refusal, users};

#[test]
fn people_become_users_keep_them_through_changes_and_a_mass_deletion_waits_for_consent() {
    let count = 500;
    let Some(corp) = Corp::start(count) else { return };
    let (a, b) = (corp.cluster.cli("a"), corp.cluster.cli("b"));
    corp.add(&[]);
    let test = b.json(&["directory", "test", "corp"]);
    assert!(test["ok"] == true && test["people"][0]["number"].as_str().is_some_and(|n| n.len() == 5), "{test}");

    // The dry run names every user, and makes none; from a node that does not hold the duty too.
    for cli in [&a, &b] {
        let dry = cli.json(&["directory", "sync", "corp", "--dry-run"]);
        assert_eq!((dry["counts"]["new"].as_u64(), dry["lines"].as_array().map(Vec::len)), (Some(500), Some(500)));
    }
    assert_eq!(users(&a).len(), 2, "the users of the cluster alone");
    let first = b.json(&["directory", "sync", "corp"]);
    assert!(first["outcome"] == "done" && first["counts"]["new"] == 500, "{first}");
    for cli in [&a, &b] {
        wait_until("all users", SOON, || users(cli).len() == count + 2);
    }
    let again = a.json(&["directory", "sync", "corp"]);
    assert!(again["counts"]["new"] == 0 && again["counts"]["unchanged"] == 500, "{again}");

    // Changes are followed: a rename, a new name, a new number, which keeps the messages.
    a.json(&["directory", "set", "corp", "enabled=yes"]);
    let deposit = leave_message(corp.cluster.phones(), corp.cluster.sip("a"), &number(3), 1.5);
    assert!(deposit.acknowledged(), "{deposit:?}");
    corp.cluster.wait_for_messages("b", &number(3), 1, SOON);
    corp.change(1, "changetype: modrdn\nnewrdn: uid=renamed\ndeleteoldrdn: 1\n");
    corp.change(2, "changetype: modify\nreplace: displayName\ndisplayName: Zoë Müller\n");
    corp.change(3, "changetype: modify\nreplace: telephoneNumber\ntelephoneNumber: +49 30 123 30003\n");
    for cli in [&a, &b] {
        wait_until("the changes", SOON, || {
            let users = users(cli);
            users.get(&number(2)).is_some_and(|name| name == "Zoë Müller") && users.contains_key("30003")
        });
        assert_eq!(users(cli).len(), count + 2, "none is new, none is lost");
        assert!(users(cli).contains_key(&number(1)) && !users(cli).contains_key(&number(3)));
    }
    assert_eq!(corp.cluster.wait_for_messages("b", "30003", 1, SOON).len(), 1);
    assert_eq!(corp.sign_in("a", &number(1), "secret 1"), ("right".to_owned(), "directory".to_owned()), "renamed");

    // Fields of the directory are changed there only; a local user is left alone.
    let refused = refusal(&a, &["user", "set", &number(5), "--name", "Somebody Else"]);
    assert!(refused.contains("name") && refused.contains("directory 'corp'"), "{refused}");
    a.json(&["directory", "make-local", &number(5)]);
    a.json(&["user", "set", &number(5), "--name", "Somebody Else"]);
    corp.change(5, "changetype: modify\nreplace: displayName\ndisplayName: Not Any More\n");

    // A disabled account does not sign in; its messages stay.
    corp.change(6, "changetype: modify\nadd: userAccountControl\nuserAccountControl: 514\n");
    wait_until("the account to be disabled", SOON, || corp.sign_in("b", &number(6), "secret 6").0 == "disabled");
    // Its callers hear that the person is unavailable, and what they say is not recorded, until the setting says so.
    corp.speak_to("b", &number(6));
    a.json(&["directory", "set", "corp", "disabled-callers=greeting"]);
    let deposit = leave_message(corp.cluster.phones(), corp.cluster.sip("a"), &number(6), 1.5);
    assert!(deposit.acknowledged(), "{deposit:?}");
    for node in ["a", "b"] {
        let messages = corp.cluster.wait_for_messages(node, &number(6), 1, SOON);
        assert_eq!(messages.len(), 1, "the call before left none: {messages:?}");
    }
    assert_eq!(users(&a).get(&number(5)).map(String::as_str), Some("Somebody Else"));

    // A mass deletion stops the run until exactly it is accepted.
    a.json(&["directory", "set", "corp", "enabled=no"]);
    corp.delete(100..300);
    let refused = refusal(&b, &["directory", "sync", "corp"]);
    assert!(refused.contains("--accept-deletions"), "{refused}");
    wait_until("the alarm", SOON, || raised(&a, "directory-held-back"));
    assert_eq!(users(&b).len(), count + 2);
    let runs = wait_for("the run in the history", SOON, || {
        let runs = a.try_json(&["directory", "runs", "corp"]).ok()?;
        (runs["runs"][0]["outcome"] == "held-back").then_some(runs)
    });
    assert_eq!(runs["runs"][0]["counts"]["gone"], 200, "{runs}");
    let run = runs["runs"][0]["run"].to_string();
    corp.delete(300..301);
    let other = refusal(&a, &["directory", "sync", "corp", "--accept-deletions", &run]);
    assert!(other.contains("--accept-deletions"), "one more than was accepted: {other}");
    let dry = a.json(&["directory", "sync", "corp", "--dry-run"]);
    let run = dry["run"].to_string();
    let accepted = a.json(&["directory", "sync", "corp", "--accept-deletions", &run]);
    assert!(accepted["outcome"] == "done" && accepted["counts"]["gone"] == 201, "{accepted}");
    wait_until("the end of the alarm", SOON, || !raised(&a, "directory-held-back"));
    assert_eq!(users(&a).len(), count + 2, "messages and mailboxes stay");
    assert_eq!(corp.sign_in("a", &number(100), "secret 100").0, "disabled");
}

#[test]
fn users_who_exist_are_bound_by_number_by_mail_and_by_hand_and_keep_messages_and_pins() {
    let Some(corp) = Corp::start(4) else { return };
    let (a, b) = (corp.cluster.cli("a"), corp.cluster.cli("b"));
    let owner = User { number: "20001", pin: "284617" };
    let add = |number: &str, further: &[&str]| {
        a.json(&[&["user", "add", number, "--pin", owner.pin, "--keep-pin"][..], further].concat());
    };
    add(owner.number, &["--name", "Old Name"]);
    add("5002", &["--mail", "u2@example.org"]);
    add("20003", &[]);
    let leave = |number: &str| {
        let deposit = leave_message(corp.cluster.phones(), corp.cluster.sip("a"), number, 2.5);
        assert!(deposit.acknowledged(), "{deposit:?}");
        corp.cluster.wait_for_messages("b", number, 1, SOON);
        deposit
    };
    let (by_number, _) = (leave(owner.number), leave("5002"));
    let id_of = |number: &str| {
        let found = identities(&a).into_iter().find(|(_, of)| of == number);
        found.unwrap_or_else(|| panic!("no {number}")).0
    };
    let before = [owner.number, "5002", "20003"].map(id_of);
    corp.add(&[]);
    a.json(&["directory", "bind", "20003", "corp", &corp.uuid(3)]);

    // The dry run shows who is bound, and binds none.
    for (field, adopted, changed) in
        [("mail", "adopted: 20002 ", "number 5002 -> 20002"), ("number", "adopted: 20001 ", "Old Name -> User 1")]
    {
        let sync = ["directory", "sync", "corp", "--adopt-by", field, "--dry-run"];
        let (users_before, dry) = (users(&a), b.json(&sync));
        let is_it =
            |line: &Value| line.as_str().is_some_and(|line| line.starts_with(adopted) && line.contains(changed));
        assert!(dry["lines"].as_array().is_some_and(|lines| lines.iter().any(is_it)), "{dry}");
        assert_eq!(users(&a), users_before, "a dry run changes nothing");
        let run = b.json(&sync[..5]);
        assert!(run["outcome"] == "done" && run["lines"].as_array().is_some_and(|l| l.iter().any(is_it)), "{run}");
    }
    for cli in [&a, &b] {
        wait_until("all users as the directory has them", SOON, || {
            let users = users(cli);
            users.len() == 4 + Cluster::USERS.len()
                && (0..4).all(|n| users.get(&number(n)) == Some(&format!("User {n}")))
        });
    }
    assert_eq!([owner.number, "20002", "20003"].map(id_of), before, "they are the users from before");
    assert_eq!(corp.cluster.wait_for_messages("b", "20002", 1, SOON).len(), 1);
    let heard = listen(corp.cluster.phones(), corp.cluster.sip("b"), owner, &[by_number], 1.0, SOON);
    assert!(heard.iter().all(Option::is_some), "the PIN and the message are those from before: {heard:?}");
    let list = b.json(&["directory", "list"]);
    let directory = &list["directories"][0];
    assert!(directory["name"] == "corp" && directory["users"] == 4 && directory["enabled"] != true, "{list}");

    // The timetable orders the same.
    let yearly = ["--cron", "0 3 1 1 *", "--zone", "UTC", "directory=corp"];
    a.json(&[&["timetable", "add", "nightly", "--job", "directory-sync"][..], &yearly].concat());
    let ran = wait_for("the run of the job", SOON, || b.try_json(&["timetable", "run", "nightly"]).ok());
    let run = &ran["runs"][0];
    assert!(run["state"] == "done" && run["outcome"].as_str().is_some_and(|o| o.contains("corp: done")), "{ran}");

    // Without the directory its users are local.
    let refused = refusal(&a, &["user", "set", owner.number, "--name", "Free Again"]);
    assert!(refused.contains("directory 'corp'"), "{refused}");
    a.json(&["directory", "remove", "corp"]);
    for cli in [&a, &b] {
        wait_until("no directory", SOON, || {
            let list = cli.try_json(&["directory", "list"]);
            list.is_ok_and(|list| list["directories"].as_array().is_none_or(Vec::is_empty))
        });
        assert_eq!(users(cli).len(), 4 + Cluster::USERS.len());
    }
    wait_until("a local user", SOON, || a.try_json(&["user", "set", owner.number, "--name", "Free Again"]).is_ok());
}

#[test]
fn organization_that_is_renamed_makes_no_user_new_or_gone() {
    let count = 20;
    let Some(corp) = Corp::start(count) else { return };
    let (a, b) = (corp.cluster.cli("a"), corp.cluster.cli("b"));
    corp.add(&[]);
    a.json(&["directory", "set", "corp", &format!("base={}", Slapd::SUFFIX), "enabled=yes"]);
    for cli in [&a, &b] {
        wait_until("all users", SOON, || users(cli).len() == count + 2);
    }
    let before = identities(&a);
    let (people, staff) = (format!("ou=people,{}", Slapd::SUFFIX), format!("ou=staff,{}", Slapd::SUFFIX));
    corp.slapd.modify(&format!("dn: {people}\nchangetype: modrdn\nnewrdn: ou=staff\ndeleteoldrdn: 1\n"));
    let change = "changetype: modify\nreplace: displayName\ndisplayName: Later Change\n";
    corp.slapd.modify(&format!("dn: uid=u1,{staff}\n{change}"));
    for cli in [&a, &b] {
        wait_until("the later change", SOON, || users(cli).get(&number(1)).is_some_and(|n| n == "Later Change"));
        assert_eq!(identities(cli), before);
    }
    let run = b.json(&["directory", "sync", "corp"]);
    let counts = &run["counts"];
    let lost = ["new", "gone", "disabled", "returned", "refused"].map(|word| counts[word].as_u64());
    assert!(run["outcome"] == "done" && lost == [Some(0); 5], "{run}");
    assert_eq!((identities(&a), identities(&b)), (before.clone(), before));
    wait_until("the new names to sign in on both nodes", SOON, || {
        ["a", "b"].iter().all(|node| corp.sign_in(node, &number(2), "secret 2").0 == "right")
    });
}
