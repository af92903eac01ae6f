//! Records of servers, accounts and messages: read back as written, states ordered by epoch.

use std::collections::BTreeMap;

use twinbox_ids::{Epoch, MailServerId, MailboxId, MessageId, NodeName, Origin, Stamp, Timestamp};
use twinbox_mailbox::{
    Folder,
    by_epoch::{self, Author, StaleEpoch},
};
use twinbox_mailbox_sync::{
    AccountPlace, AccountState, Extent, Link, LocalState, MailState, MessageState, NamesKept, Refusal, RemoteFlags,
    Scan, StoredAccount, StoredServer, UidChanges, schema,
};
use twinbox_replication_core::{Edit, Record};

/// The folder of the states.
const HERE: AccountPlace = AccountPlace([7; 16]);

fn node(name: &str) -> NodeName {
    name.parse().expect("a node name")
}

fn duty(number: u64, name: &str) -> Author {
    Author::Duty(Epoch { generation: 0, number, node: node(name) })
}

/// Writes edits at that time.
fn write(record: &mut Record, wall: u64, edits: Vec<Edit>) {
    for (counter, edit) in (0..).zip(edits) {
        let delta = edit.delta(record, Stamp { wall, counter, origin: Origin(1) }, &node("a"));
        record.merge(delta);
    }
}

#[test]
fn keys_are_read_back() {
    let (server, mailbox, message) = (MailServerId(1), MailboxId(2), MessageId(3));
    assert_eq!(schema::server_of(&schema::server_key(server)), Some(server));
    assert_eq!(schema::account_of(&schema::account_key(mailbox)), Some(mailbox));
    let key = schema::message_key(mailbox, message);
    assert_eq!(schema::message_of(&key), Some((mailbox, message)));
    assert_eq!((schema::server_of(&key), schema::account_of(&key)), (None, None));
    assert_eq!(schema::message_of(&schema::account_key(mailbox)), None);
}

#[test]
fn server_is_read_back_changed_and_removed() {
    let (id, mut record) = (MailServerId(1), Record::new());
    let key = schema::server_key(id);
    let settings = BTreeMap::from([(2, "imap.example.com".to_owned()), (999, "of a newer release".to_owned())]);
    let server = StoredServer { id, name: "exchange".to_owned(), created: Timestamp(5), settings };
    write(&mut record, 1, server.edits());
    assert_eq!(StoredServer::read(&key, &record), Ok(Some(server.clone())));
    write(&mut record, 2, [StoredServer::change(2, None), StoredServer::change(3, Some("143"))].concat());
    let changed = StoredServer::read(&key, &record).expect("readable").expect("a server");
    assert_eq!(changed.settings.get(&3).map(String::as_str), Some("143"));
    assert_eq!((changed.settings.len(), changed.settings.get(&2)), (2, None));
    assert!(StoredServer::change(0x1000, Some("x")).is_empty());
    write(&mut record, 3, StoredServer::removal());
    assert_eq!(StoredServer::read(&key, &record), Ok(None));
    assert!(StoredServer::read(&schema::account_key(MailboxId(1)), &record).is_err());
}

#[test]
fn account_is_removed_with_its_state_and_can_be_added_again() {
    let (mailbox, mut record) = (MailboxId(2), Record::new());
    let key = schema::account_key(mailbox);
    assert_eq!(StoredAccount::read(&key, &record), Ok(None));
    let settings = BTreeMap::from([(2, "anna@example.com".to_owned())]);
    let account = StoredAccount { mailbox, server: Some(MailServerId(1)), created: Some(Timestamp(5)), settings };
    assert!(!format!("{account:?}").contains("anna"));
    write(&mut record, 1, account.edits());
    assert_eq!(StoredAccount::read(&key, &record), Ok(Some(account.clone())));
    let state = AccountState {
        uid_validity: 3,
        uid_next: 4,
        modseq: u64::MAX,
        synced_at: Some(Timestamp(8)),
        error: Some("ä".repeat(2_000)),
        failing_since: Some(Timestamp(9)),
        held_back: 2,
        refused: 3,
        unkept: RemoteFlags { flagged: true, ..RemoteFlags::default() },
        names: NamesKept::Nothing,
        scan: Scan { number: 4, uid_validity: 5, next: 6 },
        uid_changes: UidChanges { count: 2, latest: 9 },
    };
    let edits = state.edits(&record, &duty(1, "a"), Timestamp(10), HERE).expect("the newest epoch");
    write(&mut record, 2, edits);
    let read = AccountState::read(&record, HERE);
    assert_eq!(AccountState::read(&record, AccountPlace([8; 16])), AccountState::default(), "of another folder");
    assert!(read.error.as_ref().is_some_and(|error| error.len() == 1_024));
    assert_eq!(read, AccountState { error: read.error.clone(), ..state });

    let removal = StoredAccount::removal(&record, &Author::Local(node("b")), Timestamp(11)).expect("any epoch");
    write(&mut record, 3, removal);
    assert_eq!(StoredAccount::read(&key, &record), Ok(None));
    assert_eq!(AccountState::read(&record, HERE), AccountState::default());
    // A row of the duty alone, then the account again, with none of its old settings.
    let edits =
        AccountState::default().edits(&record, &duty(1, "a"), Timestamp(12), HERE).expect("the newest epoch");
    write(&mut record, 4, edits);
    let row = StoredAccount { mailbox, server: None, created: None, settings: BTreeMap::new() };
    assert_eq!(StoredAccount::read(&key, &record), Ok(Some(row.clone())));
    let again = StoredAccount { server: Some(MailServerId(7)), created: Some(Timestamp(13)), ..row };
    write(&mut record, 5, again.edits());
    assert_eq!(StoredAccount::read(&key, &record), Ok(Some(again)));
}

#[test]
fn message_states_are_read_back_and_ordered_by_epoch() {
    let mut record = Record::new();
    assert_eq!(MessageState::read(&record, HERE), None);
    let remote = RemoteFlags { seen: true, flagged: false, deleted: true };
    let links = [
        Link::Appending { uid_validity: 1, from_uid: u32::MAX },
        Link::Bound { uid_validity: u32::MAX, uid: 7, remote },
        Link::Gone,
        Link::Held { uid: 9, remote },
    ];
    let mut wall = 0;
    for folder in [Folder::New, Folder::Heard, Folder::Saved] {
        for (deleted, link) in [true, false].into_iter().flat_map(|deleted| links.map(|link| (deleted, link))) {
            wall += 1;
            let refusal = deleted.then_some(Refusal { times: 3, retry_at: Timestamp(99) });
            let extent = if deleted { Extent::Part } else { Extent::Whole };
            let mail = MailState { extent, part: 4, alias: u64::MAX, scan: 5, refusal };
            let state = MessageState { local: LocalState { folder, deleted }, link, mail };
            let edits = state.edits(&record, &duty(2, "a"), Timestamp(1), HERE).expect("the newest epoch");
            write(&mut record, wall, edits);
            assert_eq!(MessageState::read(&record, HERE), Some(state));
            assert_eq!(MessageState::read(&record, AccountPlace([8; 16])), None, "of another folder");
        }
    }
    let local = LocalState { folder: Folder::New, deleted: false };
    let state = MessageState { local, link: Link::Gone, mail: MailState::default() };
    let late = state.edits(&record, &duty(1, "b"), Timestamp(99), HERE);
    assert!(matches!(late, Err(StaleEpoch { newer, .. }) if newer.number == 2));
    let removal = MessageState::removal(&record, &duty(3, "b"), Timestamp(1)).expect("the newest epoch");
    write(&mut record, 1_000, removal);
    assert_eq!(MessageState::read(&record, HERE), None);
}

#[test]
fn rows_around_an_append_have_the_folder_of_its_flags() {
    for folder in [Folder::New, Folder::Heard, Folder::Saved] {
        let (flags, local) = (RemoteFlags::of(folder), LocalState { folder, deleted: false });
        let mail = MailState { part: 4, ..MailState::default() };
        let appending = MessageState { local, link: Link::Appending { uid_validity: 3, from_uid: 8 }, mail };
        assert_eq!(MessageState::appending(flags, 3, 8, mail), appending);
        let bound = MessageState { local, link: Link::Bound { uid_validity: 3, uid: 9, remote: flags }, mail };
        assert_eq!(MessageState::appended(flags, 3, 9, mail), bound);
    }
}

/// Rows of a release that knew neither facts of mails nor places; the row of the account says their place.
#[test]
fn rows_without_the_new_fields_are_read() {
    let mut record = Record::new();
    let old = [&[1_u8, 2][..], &7_u32.to_be_bytes(), &9_u32.to_be_bytes(), &[1]].concat();
    let edit = by_epoch::put(&record, &duty(1, "a"), Timestamp(1), &old).expect("the newest epoch");
    write(&mut record, 1, vec![edit]);
    let remote = RemoteFlags { seen: true, ..RemoteFlags::default() };
    let expected = MessageState {
        local: LocalState { folder: Folder::Heard, deleted: false },
        link: Link::Bound { uid_validity: 7, uid: 9, remote },
        mail: MailState::default(),
    };
    assert_eq!(MessageState::read(&record, HERE), Some(expected));
    let mut record = Record::new();
    let numbers = [3_u32, 4, 2].map(u32::to_be_bytes).concat();
    let long = [5_u64, 8, 9].map(u64::to_be_bytes).concat();
    let old = [&numbers[..], &long, &1_u16.to_be_bytes(), b"x"].concat();
    let edit = by_epoch::put(&record, &duty(1, "a"), Timestamp(1), &old).expect("the newest epoch");
    write(&mut record, 1, vec![edit]);
    let expected = AccountState {
        uid_validity: 3,
        uid_next: 4,
        held_back: 2,
        modseq: 5,
        synced_at: Some(Timestamp(8)),
        failing_since: Some(Timestamp(9)),
        error: Some("x".to_owned()),
        ..AccountState::default()
    };
    assert_eq!(AccountState::read(&record, HERE), expected);
    // One that ends with the place.
    let mut record = Record::new();
    let progress = [6_u32, 1, 2, 3].map(u32::to_be_bytes).concat();
    let old = [&numbers[..], &long, &1_u16.to_be_bytes(), b"x", &[0, 0], &progress, &HERE.0].concat();
    let edit = by_epoch::put(&record, &duty(1, "a"), Timestamp(1), &old).expect("the newest epoch");
    write(&mut record, 1, vec![edit]);
    let scan = Scan { number: 1, uid_validity: 2, next: 3 };
    assert_eq!(AccountState::read(&record, HERE), AccountState { refused: 6, scan, ..expected });
    assert_eq!(AccountState::read(&record, AccountPlace([8; 16])), AccountState::default());
}
