//! A node with a directory, and steps.

use std::collections::BTreeMap;

use tempfile::TempDir;
use twinbox_directory_store::{AppliedStep, AppliedSteps, DirectoryStore, StepAction, SuppliedValues};
use twinbox_ids::{DirectoryId, Epoch, MailboxId, Pii, Timestamp};
use twinbox_mailbox::{EntryId, RunCounts, StoredDirectory, SyncedField, SyncedFields, mailbox_of};
use twinbox_mailstore::{Mailbox, NewMailbox};
use twinbox_store_kit::Node;

pub const CORP: DirectoryId = DirectoryId(1);
pub const ENTRY: EntryId = EntryId(0x10);

pub fn private(text: &str) -> Pii<String> {
    Pii::new(text.to_owned())
}

pub fn epoch(number: u64, node: &str) -> Epoch {
    Epoch { generation: 0, number, node: twinbox_store_kit::name(node) }
}

pub fn values(of: &[(SyncedField, &str)]) -> (SuppliedValues, SyncedFields) {
    let values: SuppliedValues = of.iter().map(|(field, text)| (*field, private(text))).collect();
    let fields = values.keys().copied().collect();
    (values, fields)
}

pub fn person(number: &str, name: &str) -> (SuppliedValues, SyncedFields) {
    values(&[(SyncedField::Number, number), (SyncedField::Name, name)])
}

pub fn step(entry: EntryId, action: StepAction) -> AppliedStep {
    AppliedStep { entry, dn: private("uid=x,dc=example"), login: private("x"), action, exchange: None }
}

pub fn create(entry: EntryId, (values, fields): (SuppliedValues, SyncedFields)) -> AppliedStep {
    step(entry, StepAction::Create { values, fields, pin: Some(private("482913")), mail_pin: None })
}

pub fn change(entry: EntryId, (changes, fields): (SuppliedValues, SyncedFields)) -> AppliedStep {
    step(entry, StepAction::Change { changes, fields })
}

pub async fn directory(node: &Node, id: DirectoryId, name: &str, settings: &[(u16, &str)]) {
    let settings: BTreeMap<u16, String> = settings.iter().map(|(n, text)| (*n, (*text).to_owned())).collect();
    let directory = StoredDirectory { id, name: name.to_owned(), created: Timestamp(1), settings };
    DirectoryStore::of(&node.mailstore).add_directory(directory).await.expect("added");
}

pub async fn apply(node: &Node, epoch: &Epoch, steps: Vec<AppliedStep>) -> AppliedSteps {
    apply_with(node, epoch, &NewMailbox::new("", ""), steps).await
}

pub async fn apply_with(node: &Node, epoch: &Epoch, usual: &NewMailbox, steps: Vec<AppliedStep>) -> AppliedSteps {
    DirectoryStore::of(&node.mailstore)
        .apply_directory_steps(CORP, epoch, usual, steps, || Some(()))
        .await
        .expect("applied")
}

/// A node with the directory corp, and the user 2001 of its entry.
pub async fn with_user(dir: &TempDir) -> (Node, MailboxId) {
    let node = Node::alone(dir.path(), "a");
    directory(&node, CORP, "corp", &[]).await;
    let applied = apply(&node, &epoch(1, "a"), vec![create(ENTRY, person("2001", "Anna"))]).await;
    assert_eq!(applied.created, [mailbox_of(CORP, ENTRY)]);
    (node, mailbox_of(CORP, ENTRY))
}

pub async fn get(node: &Node, id: MailboxId) -> Mailbox {
    node.mailstore.get(id).await.expect("readable").expect("a mailbox")
}

pub async fn holder(node: &Node, number: &str) -> Option<MailboxId> {
    node.mailstore.find_by_number(number).await.expect("readable").map(|mailbox| mailbox.id)
}

pub fn refusals(applied: &AppliedSteps) -> Vec<String> {
    applied.refused.iter().map(|refused| refused.reason.reveal().clone()).collect()
}

pub fn counts(changes: impl FnOnce(&mut RunCounts)) -> RunCounts {
    let mut counts = RunCounts::default();
    changes(&mut counts);
    counts
}
