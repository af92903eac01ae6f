//! Records of directories: values by epoch before time, and every row read back as it was written.

use std::collections::BTreeMap;

use proptest::prelude::*;
use twinbox_ids::{DirectoryId, Epoch, MailboxId, NodeName, Origin, Pii, Stamp, Timestamp};
use twinbox_mailbox::{
    Binding, BindingState, EntryId, Mailbox, NewMailbox, Number, RunCounts, StoredDirectory, StoredRun, SyncState,
    SyncedField, SyncedFields,
    by_epoch::{Author, StaleEpoch, versions, without_epoch},
    directory::{PasswordVerifier, Supplied, schema},
    mailbox_of,
    pin::HashMemory,
    schema as mailbox_schema,
};
use twinbox_replication_core::{Edit, Record};

const DIRECTORY: DirectoryId = DirectoryId(3);
const ENTRY: EntryId = EntryId(7);

fn node(name: &str) -> NodeName {
    name.parse().expect("a node name")
}

fn epoch(number: u64, name: &str) -> Epoch {
    Epoch { generation: 0, number, node: node(name) }
}

fn private(text: &str) -> Pii<String> {
    Pii::new(text.to_owned())
}

/// Writes edits at that time, as a node of that name.
fn write(record: &mut Record, name: &str, wall: u64, edits: Vec<Edit>) {
    let origin = Origin(u128::from(name.bytes().next().unwrap_or_default()));
    for (counter, edit) in (0..).zip(edits) {
        let delta = edit.delta(record, Stamp { wall, counter, origin }, &node(name));
        record.merge(delta);
    }
}

fn merged(a: &Record, b: &Record) -> Record {
    let mut record = a.clone();
    record.merge(b.clone());
    record
}

fn supplied(name: &str) -> Supplied {
    let values = BTreeMap::from([(SyncedField::Name, private(name)), (SyncedField::Number, private("1001"))]);
    Supplied { directory: DIRECTORY, entry: ENTRY, disabled: false, values }
}

fn new_mailbox() -> Record {
    let mut record = Record::new();
    let number = Number::normalise("1001").expect("a number");
    write(&mut record, "a", 1, NewMailbox::new("1001", "").edits(&number, None, Timestamp(1)));
    record
}

fn mailbox(record: &Record) -> Mailbox {
    Mailbox::read(&mailbox_schema::mailbox_key(MailboxId(1)), record).expect("readable").expect("a mailbox")
}

fn binding(state: BindingState, lost_at: Option<u64>) -> Binding {
    Binding {
        directory: DIRECTORY,
        entry: ENTRY,
        mailbox: MailboxId(1),
        dn: private("uid=anna,dc=example"),
        login: private("anna"),
        state,
        since: Timestamp(5),
        lost_at: lost_at.map(Timestamp),
        fields: [SyncedField::Number, SyncedField::Name].into_iter().collect(),
    }
}

#[test]
fn entry_ids_are_uuids_in_text() {
    let text = "597ae2f6-16a6-1027-98f4-d28b5365dc14";
    let id = EntryId::parse(text).expect("a UUID");
    assert_eq!((id.to_string().as_str(), EntryId::from_slice(&id.to_bytes())), (text, Some(id)));
    assert_eq!(EntryId::parse(&text.to_uppercase()), Ok(id));
    assert_eq!(id.to_bytes().first(), Some(&0x59));
    for wrong in [
        "",
        "597ae2f616a6102798f4d28b5365dc14",
        "597ae2f6-16a6-1027-98f4-d28b5365dc1",
        "597ae2f6-16a6-1027-98f4-d28b5365dc1g",
        "+97ae2f6-16a6-1027-98f4-d28b5365dc14",
        "597ae2f6-16a6-1027-98f4-d28b5365dc1ä",
    ] {
        assert!(EntryId::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn mailbox_of_an_entry_depends_on_directory_and_entry_alone() {
    let id = mailbox_of(DIRECTORY, ENTRY);
    assert_eq!(id, mailbox_of(DIRECTORY, ENTRY));
    assert_ne!(id, mailbox_of(DIRECTORY, EntryId(8)));
    assert_ne!(id, mailbox_of(DirectoryId(4), ENTRY));
    assert_ne!(mailbox_of(DirectoryId(3), EntryId(4)), mailbox_of(DirectoryId(4), EntryId(3)));
}

#[test]
fn newer_epoch_counts_even_if_the_older_one_wrote_later() {
    let shared = new_mailbox();
    let (mut a, mut b) = (shared.clone(), shared);
    // Node a lost the duty, does not know it, and its clock is ahead.
    let old = supplied("old").edits(&a, &Author::Duty(epoch(1, "a")), Timestamp(9_000)).expect("the newest here");
    write(&mut a, "a", 9_000, old);
    let new = supplied("new").edits(&b, &Author::Duty(epoch(2, "b")), Timestamp(50)).expect("the newest here");
    write(&mut b, "b", 50, new);
    for record in [merged(&a, &b), merged(&b, &a)] {
        let mailbox = mailbox(&record);
        assert_eq!((mailbox.name.reveal().as_str(), mailbox.directory), ("new", Some((DIRECTORY, ENTRY))));
        let refused = supplied("old").edits(&record, &Author::Duty(epoch(1, "a")), Timestamp(9_999));
        assert_eq!(refused, Err(StaleEpoch { own: epoch(1, "a"), newer: epoch(2, "b") }));
    }
}

#[test]
fn local_change_holds_until_a_newer_epoch_writes() {
    let mut record = new_mailbox();
    let edits = supplied("first").edits(&record, &Author::Duty(epoch(2, "b")), Timestamp(80)).expect("written");
    write(&mut record, "b", 80, edits);
    // The clock of this node is behind.
    let edits = Supplied::removal(&record, &Author::Local(node("a")), Timestamp(20)).expect("written");
    write(&mut record, "a", 81, edits);
    assert_eq!((mailbox(&record).directory, Supplied::read(&record)), (None, Ok(None)));
    let late = {
        let mut other = new_mailbox();
        let edits = supplied("late").edits(&other, &Author::Duty(epoch(1, "c")), Timestamp(900)).expect("written");
        write(&mut other, "c", 900, edits);
        merged(&record, &other)
    };
    assert_eq!(mailbox(&late).directory, None, "an older epoch does not bind the user again");
    let edits = supplied("next").edits(&late, &Author::Duty(epoch(3, "c")), Timestamp(30)).expect("written");
    let mut next = late;
    write(&mut next, "c", 901, edits);
    assert_eq!(mailbox(&next).name.reveal(), "next");
}

#[test]
fn disabled_user_and_supplied_values_are_read_over_the_registers() {
    let mut record = new_mailbox();
    let values = [
        (SyncedField::Mail, "anna@example.com"),
        (SyncedField::Timezone, "Europe/Berlin"),
        (SyncedField::Language, ""),
        (SyncedField::Class, ""),
    ];
    let values = values.into_iter().map(|(field, text)| (field, private(text))).collect();
    let wanted = Supplied { disabled: true, values, ..supplied("") };
    let edits = wanted.edits(&record, &Author::Duty(epoch(1, "a")), Timestamp(5)).expect("written");
    write(&mut record, "a", 5, edits);
    assert_eq!(Supplied::read(&record), Ok(Some(wanted)));
    let read = mailbox(&record);
    assert!(read.disabled && read.class.is_none());
    assert_eq!(read.addresses.mail.as_ref().map(|mail| mail.as_str()), Some("anna@example.com"));
    assert_eq!((read.timezone.as_str(), read.language.as_str()), ("Europe/Berlin", "en"));
}

#[test]
fn row_holds_one_value_for_each_node_however_often_they_write() {
    let mut record = Record::new();
    for n in 1..500 {
        let name = if n % 2 == 0 { "a" } else { "b" };
        let author = Author::Duty(epoch(n, name));
        let edits = binding(BindingState::Active, None).edits(&record, &author, Timestamp(n)).expect("written");
        write(&mut record, name, n, edits);
    }
    assert_eq!(record.fields().count(), 2);
}

#[test]
fn latest_loss_of_all_epochs_counts() {
    let key = schema::binding_key(DIRECTORY, ENTRY);
    let (mut a, mut b) = (Record::new(), Record::new());
    let gone = binding(BindingState::Gone, Some(70));
    let edits = gone.edits(&a, &Author::Duty(epoch(1, "a")), Timestamp(70)).expect("written");
    write(&mut a, "a", 70, edits);
    let active = binding(BindingState::Active, Some(40));
    let edits = active.edits(&b, &Author::Duty(epoch(2, "b")), Timestamp(60)).expect("written");
    write(&mut b, "b", 60, edits);
    let mut both = merged(&a, &b);
    let read = Binding::read(&key, &both).expect("readable").expect("a binding");
    assert_eq!((read.state, read.lost_at), (BindingState::Active, Some(Timestamp(70))));
    let edits = active.edits(&both, &Author::Duty(epoch(2, "b")), Timestamp(90)).expect("written");
    write(&mut both, "b", 90, edits);
    assert_eq!(Binding::read(&key, &both).expect("readable").and_then(|read| read.lost_at), Some(Timestamp(70)));
}

#[test]
fn value_that_counts_and_latest_loss_survive_the_end_of_all_epochs() {
    let key = schema::binding_key(DIRECTORY, ENTRY);
    let (mut a, mut b) = (Record::new(), Record::new());
    let gone = binding(BindingState::Gone, Some(70));
    // The older epoch wrote later, and its value is the greater one.
    let edits = gone.edits(&a, &Author::Duty(epoch(1, "a")), Timestamp(70)).expect("written");
    write(&mut a, "a", 70, edits);
    let active = binding(BindingState::Active, Some(40));
    let edits = active.edits(&b, &Author::Duty(epoch(2, "b")), Timestamp(0)).expect("written");
    write(&mut b, "b", 60, edits);
    let both = merged(&a, &b);
    let before = Binding::read(&key, &both).expect("readable").expect("a binding");
    assert_eq!((before.state, before.lost_at), (BindingState::Active, Some(Timestamp(70))));

    let mut restored = without_epoch(&both);
    assert!(versions(&restored).all(|version| version.epoch.is_none()));
    assert_eq!(versions(&restored).count(), 2);
    assert_eq!(Binding::read(&key, &restored), Ok(Some(before)));
    assert_eq!(without_epoch(&both), restored, "repeated, it gives the same record");
    // The first epoch of the new cluster writes over both.
    let disabled = binding(BindingState::Disabled, None);
    let edits = disabled.edits(&restored, &Author::Duty(epoch(1, "c")), Timestamp(1)).expect("written");
    write(&mut restored, "c", 80, edits);
    let after = Binding::read(&key, &restored).expect("readable").expect("a binding");
    assert_eq!((after.state, after.lost_at), (BindingState::Disabled, Some(Timestamp(70))));
}

#[test]
fn rows_are_read_back_as_written_and_as_removed() {
    let mut row = Record::new();
    let key = schema::binding_key(DIRECTORY, ENTRY);
    assert_eq!(Binding::read(&key, &row), Ok(None));
    let bound = binding(BindingState::Disabled, Some(9));
    let edits = bound.edits(&row, &Author::Local(node("a")), Timestamp(1)).expect("written");
    write(&mut row, "a", 1, edits);
    assert_eq!(Binding::read(&key, &row), Ok(Some(bound)));
    let removal = Binding::removal(&row, &Author::Local(node("b")), Timestamp(0)).expect("written");
    write(&mut row, "b", 2, removal);
    assert_eq!(Binding::read(&key, &row), Ok(None));

    let settings = BTreeMap::from([(1, "yes".to_owned()), (4_095, "last".to_owned())]);
    let directory = StoredDirectory { id: DIRECTORY, name: "corp".to_owned(), created: Timestamp(4), settings };
    let key = schema::directory_key(DIRECTORY);
    let mut row = Record::new();
    write(&mut row, "a", 1, directory.edits());
    assert_eq!(StoredDirectory::read(&key, &row), Ok(Some(directory.clone())));
    for beyond in [4_096, u16::MAX] {
        assert!(StoredDirectory::change(beyond, Some("x")).is_empty(), "{beyond}");
    }
    write(&mut row, "a", 2, StoredDirectory::change(1, None));
    let read = StoredDirectory::read(&key, &row).expect("readable").expect("a directory");
    assert_eq!(read.settings.keys().copied().collect::<Vec<_>>(), [4_095]);

    assert_eq!(SyncState::read(&row), SyncState::default());
    let state = SyncState {
        cursor: vec![0, 255, 7],
        full_at: Some(Timestamp(5)),
        ended_at: None,
        error: Some("no server answers".to_owned()),
    };
    let edits = state.edits(&row, &Author::Duty(epoch(1, "a")), Timestamp(3)).expect("written");
    write(&mut row, "a", 3, edits);
    assert_eq!(SyncState::read(&row), state);
    write(&mut row, "a", 4, StoredDirectory::removal());
    assert_eq!(StoredDirectory::read(&key, &row), Ok(None));

    let mut run = StoredRun {
        directory: DIRECTORY,
        run: 1_700_000_000_000,
        began: Timestamp(1_700_000_000_000),
        ended: None,
        dry: true,
        outcome: String::new(),
        counts: RunCounts {
            new: 1,
            changed: 2,
            disabled: 3,
            gone: 4,
            returned: 5,
            refused: 6,
            unchanged: u64::MAX,
        },
        accepted: false,
        digest: [9; 32],
    };
    let key = schema::run_key(DIRECTORY, run.run);
    let mut row = Record::new();
    write(&mut row, "a", 1, run.edits());
    assert_eq!(StoredRun::read(&key, &row), Ok(Some(run.clone())));
    write(&mut row, "b", 2, StoredRun::acceptance());
    (run.ended, run.outcome, run.accepted) = (Some(Timestamp(8)), "held-back".to_owned(), true);
    write(&mut row, "a", 3, run.edits());
    assert_eq!(StoredRun::read(&key, &row), Ok(Some(run)));
}

#[test]
fn unknown_bits_of_supplied_fields_are_kept() {
    let fields = SyncedFields(1 << 40).with(SyncedField::Class);
    assert_eq!(fields.iter().collect::<Vec<_>>(), [SyncedField::Class]);
    assert!(!fields.contains(SyncedField::Name));
    let mut row = Record::new();
    let bound = Binding { fields, ..binding(BindingState::Active, None) };
    write(&mut row, "a", 1, bound.edits(&Record::new(), &Author::Local(node("a")), Timestamp(1)).expect("written"));
    let read = Binding::read(&schema::binding_key(DIRECTORY, ENTRY), &row).expect("readable").expect("a binding");
    assert_eq!(read.fields, fields);
}

#[test]
fn verifier_knows_its_password_and_its_age() {
    let mut memory = HashMemory::default();
    let password = private("a secret");
    let verifier = PasswordVerifier::hash(&password, Timestamp(100), [7; 16], &mut memory).expect("hashed");
    let mut row = Record::new();
    assert_eq!(PasswordVerifier::read(&row), None);
    write(&mut row, "a", 1, verifier.edits());
    let read = PasswordVerifier::read(&row).expect("remembered");
    assert_eq!(read, verifier);
    assert!(read.verify(&password, &mut memory) && !read.verify(&private("another"), &mut memory));
    for (now, max_age, fresh) in [(100, 0, true), (150, 50, true), (151, 50, false), (49, 50, false)] {
        assert_eq!(read.is_fresh(max_age, Timestamp(now)), fresh, "{now}");
    }
    assert!(!format!("{read:?}").contains("argon2"));
    write(&mut row, "a", 2, PasswordVerifier::removal());
    assert_eq!(PasswordVerifier::read(&row), None);
}

/// A write of one of three nodes: the epoch, the time and the value.
fn any_write() -> impl Strategy<Value = (usize, u64, u64, String)> {
    (0usize..3, 1u64..6, 1u64..100, "[a-z]{1,4}")
}

proptest! {
    /// Nodes that do not see each other write; all orders of merging give the value of the highest epoch, and of its
    /// latest time.
    #[test]
    fn merge_gives_the_value_of_the_highest_epoch(writes in prop::collection::vec(any_write(), 1..30)) {
        let names = ["a", "b", "c"];
        let mut rows = [new_mailbox(), new_mailbox(), new_mailbox()];
        let mut written = Vec::new();
        for (step, (at, number, time, name)) in (100..).zip(writes) {
            let (Some(row), Some(node_name)) = (rows.get_mut(at), names.get(at)) else { continue };
            let author = Author::Duty(epoch(number, node_name));
            if let Ok(edits) = supplied(&name).edits(row, &author, Timestamp(time)) {
                write(row, node_name, step, edits);
                written.push((at, number, name));
            }
        }
        // A node refuses to write under an older epoch than it knows, so its last write is its highest.
        let last = |at: usize| written.iter().rev().find(|(by, _, _)| *by == at);
        let highest = (0..3).filter_map(last).max_by_key(|(at, number, _)| (*number, *at));
        let [a, b, c] = rows;
        let expected = highest.map(|(_, _, name)| name.clone());
        for all in [merged(&merged(&a, &b), &c), merged(&merged(&c, &b), &a), merged(&b, &merged(&a, &c))] {
            prop_assert_eq!(Some(mailbox(&all).name.into_revealed()), expected.clone());
        }
    }
}
