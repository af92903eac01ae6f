//! Users who exchange their numbers: all of their steps are written in one commit, or none.

use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use twinbox_directory_store::{AppliedStep, DirectoryStore, StepAction};
use twinbox_ids::MailboxId;
use twinbox_mailbox::{EntryId, mailbox_of};
use twinbox_mailstore::NewMailbox;
use twinbox_store_kit::{Node, audio};

use crate::common::{CORP, apply, change, counts, create, directory, epoch, get, holder, person, refusals, step};

const ENTRIES: [EntryId; 3] = [EntryId(1), EntryId(2), EntryId(3)];

fn mailbox(entry: EntryId) -> MailboxId {
    mailbox_of(CORP, entry)
}

/// A node with users of these entries, whose numbers are 2001, 2002 and 2003.
async fn with_users(dir: &TempDir) -> Node {
    let node = Node::alone(dir.path(), "a");
    directory(&node, CORP, "corp", &[]).await;
    let steps = ["2001", "2002", "2003"].iter().zip(ENTRIES);
    let steps = steps.map(|(number, entry)| create(entry, person(number, number))).collect();
    assert_eq!(apply(&node, &epoch(1, "a"), steps).await.counts, counts(|c| c.new = 3));
    node
}

/// The change of a number, as a part of exchange 0.
fn takes(entry: EntryId, number: &str) -> AppliedStep {
    AppliedStep { exchange: Some(0), ..change(entry, person(number, "x")) }
}

async fn numbers(node: &Node) -> Vec<String> {
    let mut numbers = Vec::new();
    for entry in ENTRIES {
        let number = get(node, mailbox(entry)).await.number;
        assert_eq!(holder(node, &number).await, Some(mailbox(entry)), "{number}");
        numbers.push(number);
    }
    numbers
}

#[tokio::test]
async fn exchanged_numbers_change_in_one_commit_and_messages_stay_with_their_users() {
    for (of, steps, expected) in [
        ("two", vec![takes(ENTRIES[0], "2002"), takes(ENTRIES[1], "2001")], ["2002", "2001", "2003"]),
        (
            "three",
            vec![takes(ENTRIES[0], "2002"), takes(ENTRIES[1], "2003"), takes(ENTRIES[2], "2001")],
            ["2002", "2003", "2001"],
        ),
    ] {
        let dir = TempDir::new().unwrap();
        let node = with_users(&dir).await;
        let message = node.leave(mailbox(ENTRIES[0]), &audio(1_500)).await.message;
        let applied = apply(&node, &epoch(1, "a"), steps.clone()).await;
        assert_eq!(applied.counts, counts(|c| c.changed = steps.len() as u64), "{of}: {applied:?}");
        assert_eq!(applied.groups_alone + applied.groups_on_two, 1, "{of}");
        assert_eq!(numbers(&node).await, expected, "{of}");
        assert!(node.mailstore.message(mailbox(ENTRIES[0]), message).await.unwrap().is_some(), "{of}");
        // The same steps again change nothing.
        let again = apply(&node, &epoch(2, "a"), steps.clone()).await;
        assert_eq!(again.counts, counts(|c| c.unchanged = steps.len() as u64), "{of}: {again:?}");
    }
}

#[tokio::test]
async fn exchange_with_one_impossible_step_changes_no_user_and_a_disabling_takes_effect() {
    let [one, two, three] = ENTRIES;
    for (name, other, part) in [
        ("number of a user outside", takes(two, "2003"), "number 2003 belongs to another user"),
        ("no number", takes(two, "20x1"), "'20x1'"),
    ] {
        let dir = TempDir::new().unwrap();
        let node = with_users(&dir).await;
        let last = change(three, person("2003", "y"));
        let steps = vec![step(one, StepAction::Disable), takes(one, "2002"), other, last];
        let applied = apply(&node, &epoch(1, "a"), steps).await;
        let expected = counts(|c| (c.refused, c.disabled, c.changed) = (2, 1, 1));
        assert_eq!(applied.counts, expected, "{name}: {applied:?}");
        assert!(refusals(&applied).iter().any(|reason| reason.contains(part)), "{name}: {applied:?}");
        assert_eq!(numbers(&node).await, ["2001", "2002", "2003"], "{name}");
        assert!(get(&node, mailbox(one)).await.disabled, "{name}");
    }
}

#[tokio::test]
async fn exchange_with_a_user_made_local_meanwhile_is_refused_for_both() {
    let dir = TempDir::new().unwrap();
    let node = with_users(&dir).await;
    let [one, two, _] = ENTRIES;
    DirectoryStore::of(&node.mailstore).make_local(mailbox(two)).await.unwrap();
    let applied = apply(&node, &epoch(1, "a"), vec![takes(one, "2002"), takes(two, "2001")]).await;
    let reasons = refusals(&applied);
    assert!(reasons.len() == 2 && reasons[0].contains("is exchanged with a user"), "{reasons:?}");
    assert!(reasons[1].contains("made local"), "{reasons:?}");
    assert_eq!(numbers(&node).await, ["2001", "2002", "2003"]);
}

#[tokio::test]
async fn exchange_is_not_divided_by_the_size_of_a_commit() {
    let dir = TempDir::new().unwrap();
    let node = with_users(&dir).await;
    let fill = (100..227).map(|n| {
        let (values, fields) = person(&format!("{}", 5_000 + n), "x");
        step(EntryId(n), StepAction::Create { values, fields, pin: None, mail_pin: None })
    });
    let steps: Vec<AppliedStep> = fill.chain([takes(ENTRIES[0], "2002"), takes(ENTRIES[1], "2001")]).collect();
    let permits = AtomicUsize::new(0);
    let permit = || (permits.fetch_add(1, Ordering::SeqCst) < 1).then_some(());
    let applied = DirectoryStore::of(&node.mailstore)
        .apply_directory_steps(CORP, &epoch(1, "a"), &NewMailbox::new("", ""), steps, permit)
        .await
        .expect("one commit");
    assert_eq!(applied.counts, counts(|c| (c.new, c.changed) = (127, 2)));
    assert_eq!(numbers(&node).await, ["2002", "2001", "2003"]);
}
