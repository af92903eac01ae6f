//! Mail servers, accounts, the states of messages by epoch, and marks for what was seen there.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use tempfile::TempDir;
use twinbox_ids::{Epoch, MailServerId, MailboxId, MessageId, Timestamp};
use twinbox_mailbox::{
    MailboxChange, Rule, UserAddress, UserAddresses, directory::Supplied, schema as mailbox_schema,
};
use twinbox_mailbox_sync::{
    Account, AccountState, Link, LocalState, MailState, MessageState, RemoteFlags, StoredServer, account_change,
    server_change,
};
use twinbox_mailbox_sync_store::{
    LeftOutReason, MailboxSyncError, MailboxSyncStore, MailboxSyncWatch, MarkedHere, SyncChange, SyncedMailbox,
};
use twinbox_mailstore::{Folder, MailError, Mark, NewMailbox, rows::set_addresses};
use twinbox_replication_store::Filled;
use twinbox_store_kit::{Node, audio, name};

const MAIL: MailServerId = MailServerId(1);
const OTHER: MailServerId = MailServerId(2);

fn epoch(number: u64, node: &str) -> Epoch {
    Epoch { generation: 0, number, node: name(node) }
}

fn server_changes(texts: &[&str]) -> BTreeMap<u16, Option<String>> {
    texts.iter().map(|text| server_change(text).expect(text)).collect()
}

fn account_changes(texts: &[&str]) -> BTreeMap<u16, Option<String>> {
    texts.iter().map(|text| account_change(text).expect(text)).collect()
}

fn server(id: MailServerId, name: &str, settings: &[&str]) -> StoredServer {
    let usual = ["host=imap.example.com", "password-file=/etc/twinbox/imap"];
    let changes = server_changes(&[&usual[..], settings].concat()).into_iter();
    let settings = changes.filter_map(|(number, value)| Some((number, value?))).collect();
    StoredServer { id, name: name.to_owned(), created: Timestamp(1), settings }
}

fn addresses(mail: &str) -> UserAddresses {
    UserAddresses { mail: UserAddress::address(mail).ok(), aliases: vec![] }
}

/// A node whose store is complete, as that of one that founds a cluster.
async fn founder(dir: &TempDir, node: &str) -> Node {
    let node = Node::alone(&dir.path().join(node), node);
    node.store.set_filled(Filled::Complete).await.expect("marked");
    node
}

async fn user(node: &Node, number: &str, mail: &str) -> MailboxId {
    let new = NewMailbox { addresses: addresses(mail), ..NewMailbox::new(number, "2580") };
    node.mailstore.create(new).await.expect("a mailbox").0.id
}

/// Gives a user another mail address.
async fn readdress(node: &Node, id: MailboxId, mail: &str) {
    let before = node.mailstore.get_now(id).unwrap().expect("a mailbox").addresses;
    let after = addresses(mail);
    let change = node.mailstore.commit(move |draft| Ok(set_addresses(draft, id, &before, &after)?.is_none()));
    assert!(change.await.expect("changed").0, "the address is free");
}

async fn disable(node: &Node, id: MailboxId, on: bool) {
    let edits = Supplied::disable_local(on);
    let key = mailbox_schema::mailbox_key(id);
    node.mailstore.commit(move |draft| Ok(draft.edit(key, edits)?)).await.expect("changed");
}

/// A node with a server, and the user 1001 with an account on it.
async fn with_account(dir: &TempDir, node: &str) -> (Node, MailboxSyncStore, MailboxId) {
    let node = founder(dir, node).await;
    let store = MailboxSyncStore::of(&node.mailstore);
    store.add_server(server(MAIL, "mail", &[])).await.expect("added");
    let id = user(&node, "1001", "anna@example.com").await;
    store.set_account(id, Some(MAIL), BTreeMap::new()).await.expect("added");
    (node, store, id)
}

async fn account(store: &MailboxSyncStore, id: MailboxId) -> Account {
    let accounts = store.effective().await.expect("readable").accounts.into_iter();
    accounts.map(|(account, _)| account).find(|account| account.mailbox == id).expect("an account")
}

/// The mailboxes that are synchronised, and those that are left out with the reason; checks that both ways of asking
/// agree.
async fn effective(store: &MailboxSyncStore) -> (Vec<(MailboxId, MailServerId)>, Vec<(MailboxId, LeftOutReason)>) {
    let all = store.effective().await.expect("readable");
    for (account, state) in &all.accounts {
        let found = store.effective_of(account.mailbox).expect("readable");
        assert_eq!(found, Some(SyncedMailbox::Account(account.clone(), state.clone())));
    }
    for left_out in &all.left_out {
        let found = store.effective_of(left_out.mailbox).expect("readable");
        assert_eq!(found, Some(SyncedMailbox::LeftOut(left_out.clone())));
    }
    let accounts = all.accounts.iter().map(|(account, _)| (account.mailbox, account.server)).collect();
    (accounts, all.left_out.into_iter().map(|left_out| (left_out.mailbox, left_out.reason)).collect())
}

fn bound(uid: u32) -> MessageState {
    let local = LocalState { folder: Folder::New, deleted: false };
    let link = Link::Bound { uid_validity: 7, uid, remote: RemoteFlags::default() };
    MessageState { local, link, mail: MailState::default() }
}

fn at(uid_next: u32) -> AccountState {
    AccountState { uid_validity: 7, uid_next, synced_at: Some(Timestamp(5)), ..AccountState::default() }
}

async fn write(
    store: &MailboxSyncStore,
    account: &Account,
    rows: Vec<(MessageId, Option<MessageState>)>,
    state: Option<AccountState>,
    epoch: &Epoch,
) -> Result<(), MailboxSyncError> {
    store.write(account, rows, state, epoch, || Some(())).await.map(drop)
}

fn is_stale<T>(result: &Result<T, MailboxSyncError>) -> bool {
    matches!(result, Err(MailboxSyncError::Mail(MailError::StaleEpoch(_))))
}

#[tokio::test]
async fn servers_are_listed_by_name_and_change_and_go() {
    let dir = TempDir::new().unwrap();
    let node = founder(&dir, "a").await;
    let store = MailboxSyncStore::of(&node.mailstore);
    store.add_server(server(MAIL, "mail", &[])).await.unwrap();
    store.add_server(server(OTHER, "exchange", &["folder=Voice"])).await.unwrap();
    let names: Vec<_> = store.servers().unwrap().into_iter().map(|server| server.name).collect();
    assert_eq!(names, ["exchange", "mail"]);
    let taken = store.add_server(server(MailServerId(3), "mail", &[])).await;
    assert!(matches!(&taken, Err(MailboxSyncError::Taken(name)) if name == "mail"), "{taken:?}");

    store.change_server(OTHER, server_changes(&["host=mx.example.com", "folder=-"])).await.unwrap();
    let changed = store.server_by_name("exchange").unwrap().expect("stored");
    assert_eq!(changed.settings, server(OTHER, "exchange", &["host=mx.example.com"]).settings);
    let unusable = store.change_server(OTHER, server_changes(&["host=-"])).await;
    assert!(matches!(unusable, Err(MailboxSyncError::Setting(_))), "{unusable:?}");
    assert_eq!(store.server(OTHER).unwrap(), Some(changed));

    let (accounts, _) = store.remove_server(OTHER).await.unwrap();
    assert_eq!((accounts, store.server(OTHER).unwrap(), store.servers().unwrap().len()), (0, None, 1));
    for missing in [
        store.change_server(OTHER, server_changes(&["folder=Voice"])).await.err(),
        store.remove_server(OTHER).await.err(),
    ] {
        assert!(matches!(missing, Some(MailboxSyncError::None(OTHER))), "{missing:?}");
    }
}

#[tokio::test]
async fn account_is_changed_and_removed_with_its_rows() {
    let dir = TempDir::new().unwrap();
    let (node, store, id) = with_account(&dir, "a").await;
    let message = node.leave(id, &audio(1_500)).await.message;
    store.set_account(id, None, account_changes(&["folder=Voice"])).await.unwrap();
    let anna = account(&store, id).await;
    assert_eq!((anna.server, anna.listed, anna.folder.as_str()), (MAIL, true, "Voice"));
    assert_eq!(anna.user.reveal(), "anna@example.com");
    store.set_account(id, None, account_changes(&["folder=-", "account=anna.l"])).await.unwrap();
    let anna = account(&store, id).await;
    assert_eq!((anna.folder.as_str(), anna.user.reveal().as_str()), ("INBOX", "anna.l"));

    let local = store.local(id).await.unwrap();
    let [local] = local.as_slice() else { panic!("{} messages", local.len()) };
    assert_eq!((local.id, local.partial, local.state), (message, false, bound(1).local));

    write(&store, &anna, vec![(message, Some(bound(1)))], Some(at(2)), &epoch(1, "a")).await.unwrap();
    assert_eq!(store.rows(id).await.unwrap(), BTreeMap::from([(message, bound(1))]));
    let (row, state) = store.account(id).unwrap().expect("stored");
    assert_eq!((row.server, state), (Some(MAIL), at(2)));
    assert_eq!(store.accounts().unwrap(), [(row, at(2))]);
    let written = node.store.vector();
    write(&store, &anna, vec![(message, Some(bound(1)))], Some(at(2)), &epoch(1, "a")).await.unwrap();
    assert_eq!(node.store.vector(), written, "states that are stored already are not written");

    store.remove_account(id).await.unwrap();
    assert_eq!((store.account(id).unwrap(), store.accounts().unwrap().len()), (None, 0));
    assert!(store.rows(id).await.unwrap().is_empty());
    let late = write(&store, &anna, vec![(message, Some(bound(2)))], None, &epoch(1, "a")).await;
    assert!(matches!(late, Err(MailboxSyncError::AccountChanged)), "{late:?}");
    let again = store.remove_account(id).await;
    assert!(matches!(again, Err(MailboxSyncError::NoAccount)), "{again:?}");
    let nowhere = store.set_account(id, None, BTreeMap::new()).await;
    assert!(matches!(nowhere, Err(MailboxSyncError::NoServer)), "{nowhere:?}");
    let unknown = store.set_account(id, Some(OTHER), BTreeMap::new()).await;
    assert!(matches!(unknown, Err(MailboxSyncError::None(OTHER))), "{unknown:?}");
    let missing = store.set_account(MailboxId(9), Some(MAIL), BTreeMap::new()).await;
    assert!(matches!(missing, Err(MailboxSyncError::Mail(MailError::NoMailbox(_)))), "{missing:?}");

    store.set_account(id, Some(MAIL), BTreeMap::new()).await.unwrap();
    assert!(store.rows(id).await.unwrap().is_empty(), "a new account has no rows");
    assert!(node.mailstore.message(id, message).await.unwrap().is_some());
}

#[tokio::test]
async fn removed_server_takes_accounts_and_rows_and_leaves_messages_and_other_servers() {
    let dir = TempDir::new().unwrap();
    let (node, store, anna) = with_account(&dir, "a").await;
    store.add_server(server(OTHER, "other", &[])).await.unwrap();
    let mut users = vec![anna];
    for number in ["1002", "1003", "1004", "1005", "1006"] {
        let id = user(&node, number, &format!("u{number}@example.com")).await;
        store.set_account(id, Some(MAIL), BTreeMap::new()).await.unwrap();
        users.push(id);
    }
    let elsewhere = user(&node, "2001", "bert@example.com").await;
    store.set_account(elsewhere, Some(OTHER), BTreeMap::new()).await.unwrap();
    let message = node.leave(anna, &audio(1_500)).await.message;
    for id in users.iter().chain([&elsewhere]) {
        let of = account(&store, *id).await;
        write(&store, &of, vec![(message, Some(bound(1)))], Some(at(2)), &epoch(1, "a")).await.unwrap();
    }
    let (accounts, _) = store.remove_server(MAIL).await.unwrap();
    assert_eq!(accounts, 6);
    assert_eq!(effective(&store).await, (vec![(elsewhere, OTHER)], vec![]));
    assert_eq!(store.accounts().unwrap().len(), 1);
    assert!(store.rows(anna).await.unwrap().is_empty());
    assert_eq!(store.rows(elsewhere).await.unwrap().len(), 1);
    assert!(node.mailstore.message(anna, message).await.unwrap().is_some());
}

#[tokio::test]
async fn stale_epoch_is_refused_and_a_newer_one_wins_in_both_orders_of_merge() {
    let dir = TempDir::new().unwrap();
    let (a, on_a, id) = with_account(&dir, "a").await;
    let b = founder(&dir, "b").await;
    let on_b = MailboxSyncStore::of(&b.mailstore);
    let message = a.leave(id, &audio(1_500)).await.message;
    a.hand_over(&b).await;
    let anna = account(&on_a, id).await;
    assert_eq!(account(&on_b, id).await, anna);
    write(&on_b, &anna, vec![(message, Some(bound(20)))], Some(at(21)), &epoch(2, "b")).await.unwrap();
    // Node a writes last, and in the older epoch.
    write(&on_a, &anna, vec![(message, Some(bound(10)))], Some(at(11)), &epoch(1, "a")).await.unwrap();
    assert_eq!(on_a.rows(id).await.unwrap(), BTreeMap::from([(message, bound(10))]));
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    for store in [&on_a, &on_b] {
        assert_eq!(store.rows(id).await.unwrap(), BTreeMap::from([(message, bound(20))]));
        assert_eq!(store.effective().await.unwrap().accounts, [(anna.clone(), at(21))]);
        let row = write(store, &anna, vec![(message, None)], None, &epoch(1, "a")).await;
        assert!(is_stale(&row), "{row:?}");
        let state = write(store, &anna, vec![], Some(at(30)), &epoch(1, "a")).await;
        assert!(is_stale(&state), "{state:?}");
        // A row that the newer epoch has not written is no exception.
        let new = write(store, &anna, vec![(MessageId(9), Some(bound(3)))], None, &epoch(1, "a")).await;
        assert!(is_stale(&new), "{new:?}");
        let marked = MarkedHere {
            message,
            expected: bound(1).local,
            partial: false,
            marks: vec![Mark::Heard],
            then: bound(20),
        };
        let marked = store.mark_here(&anna, marked, &epoch(1, "a"), || Some(())).await;
        assert!(is_stale(&marked), "{marked:?}");
    }
    write(&on_a, &anna, vec![(message, None)], Some(at(40)), &epoch(3, "a")).await.unwrap();
    assert!(on_a.rows(id).await.unwrap().is_empty());
    a.hand_over(&b).await;
    assert!(on_b.rows(id).await.unwrap().is_empty());
}

#[tokio::test]
async fn marks_are_made_once_and_not_after_a_change_in_between() {
    let dir = TempDir::new().unwrap();
    let (node, store, id) = with_account(&dir, "a").await;
    let message = node.leave(id, &audio(1_500)).await.message;
    let anna = account(&store, id).await;
    let local = |folder, deleted| LocalState { folder, deleted };
    let mark = async |expected, marks: &[Mark], then: LocalState| {
        let then = MessageState { local: then, ..bound(1) };
        let marked = MarkedHere { message, expected, partial: false, marks: marks.to_vec(), then };
        store.mark_here(&anna, marked, &epoch(1, "a"), || Some(())).await
    };
    let state = async || {
        let found = node.mailstore.message(id, message).await.unwrap().expect("a message");
        let row = store.rows(id).await.unwrap().get(&message).map(|row| row.local);
        (local(found.folder, found.deleted), row)
    };
    let (new, heard, saved) = (local(Folder::New, false), local(Folder::Heard, false), local(Folder::Saved, false));
    assert!(mark(new, &[Mark::Heard], heard).await.unwrap());
    assert_eq!(state().await, (heard, Some(heard)));
    assert!(!mark(new, &[Mark::Heard], heard).await.unwrap(), "it is heard already");

    node.mailstore.mark(id, message, Mark::Saved).await.unwrap();
    let written = node.store.vector();
    let deleted = local(Folder::Heard, true);
    assert!(!mark(heard, &[Mark::Deleted], deleted).await.unwrap(), "it was saved meanwhile");
    assert_eq!((state().await, node.store.vector()), ((saved, Some(heard)), written));
    assert!(mark(saved, &[Mark::New, Mark::Deleted], local(Folder::New, true)).await.unwrap());
    assert_eq!(state().await.0, local(Folder::New, true));
    assert!(mark(local(Folder::New, true), &[Mark::Undeleted], new).await.unwrap());
    assert_eq!(state().await, (new, Some(new)));

    let lost = MarkedHere { message, expected: new, partial: false, marks: vec![Mark::Heard], then: bound(1) };
    let lost = store.mark_here(&anna, lost, &epoch(1, "a"), || None::<()>).await;
    assert!(matches!(lost, Err(MailboxSyncError::Mail(MailError::DutyLost))), "{lost:?}");
    disable(&node, id, true).await;
    let left_out = mark(new, &[Mark::Heard], heard).await;
    assert!(matches!(left_out, Err(MailboxSyncError::AccountChanged)), "{left_out:?}");
    assert_eq!(state().await.0, new);
}

#[tokio::test]
async fn rows_beyond_one_commit_are_written_under_permits_and_the_state_last() {
    let dir = TempDir::new().unwrap();
    let (_node, store, id) = with_account(&dir, "a").await;
    let anna = account(&store, id).await;
    let rows = || (1..=300_u32).map(|n| (MessageId(u128::from(n)), Some(bound(n)))).collect::<Vec<_>>();
    let permits = AtomicUsize::new(0);
    let permit = || (permits.fetch_add(1, Ordering::SeqCst) < 2).then_some(());
    let lost = store.write(&anna, rows(), Some(at(301)), &epoch(1, "a"), permit).await;
    assert!(matches!(lost, Err(MailboxSyncError::Mail(MailError::DutyLost))), "{lost:?}");
    assert_eq!(store.rows(id).await.unwrap().len(), 256);
    assert_eq!(store.effective().await.unwrap().accounts, [(anna.clone(), AccountState::default())]);
    write(&store, &anna, rows(), Some(at(301)), &epoch(1, "a")).await.unwrap();
    assert_eq!(store.rows(id).await.unwrap().len(), 300);
    assert_eq!(store.effective().await.unwrap().accounts, [(anna, at(301))]);
}

#[tokio::test]
async fn states_of_another_folder_account_or_host_do_not_count() {
    let dir = TempDir::new().unwrap();
    let (node, store, id) = with_account(&dir, "a").await;
    let (first, second) = (MessageId(1), MessageId(2));
    let mut stored = account(&store, id).await;
    write(&store, &stored, vec![(first, Some(bound(1)))], Some(at(2)), &epoch(1, "a")).await.unwrap();
    for change in ["folder", "address", "host"] {
        match change {
            "folder" => drop(store.set_account(id, None, account_changes(&["folder=Voice"])).await.unwrap()),
            "address" => readdress(&node, id, "anna.l@example.com").await,
            _ => drop(store.change_server(MAIL, server_changes(&["host=other.example.com"])).await.unwrap()),
        }
        assert!(store.rows(id).await.unwrap().is_empty(), "{change}");
        let now = account(&store, id).await;
        assert_eq!(store.effective().await.unwrap().accounts, [(now.clone(), AccountState::default())], "{change}");
        if now != stored {
            let late = write(&store, &stored, vec![(first, Some(bound(5)))], None, &epoch(1, "a")).await;
            assert!(matches!(late, Err(MailboxSyncError::AccountChanged)), "{change}: {late:?}");
        }
        write(&store, &now, vec![(second, Some(bound(1)))], None, &epoch(1, "a")).await.unwrap();
        let rows = store.rows(id).await.unwrap();
        assert_eq!(rows, BTreeMap::from([(second, bound(1))]), "{change}: the rows before are gone");
        write(&store, &now, vec![(first, Some(bound(1))), (second, None)], Some(at(2)), &epoch(1, "a"))
            .await
            .unwrap();
        stored = now;
    }
}

#[tokio::test]
async fn server_names_all_users_or_classes_and_own_accounts_take_precedence() {
    let dir = TempDir::new().unwrap();
    let node = founder(&dir, "a").await;
    let store = MailboxSyncStore::of(&node.mailstore);
    let anna = user(&node, "1001", "anna@example.com").await;
    let bert = user(&node, "1002", "bert@example.com").await;
    let _without_address = node.mailstore.create(NewMailbox::new("1003", "2580")).await.unwrap();
    store.add_server(server(MAIL, "mail", &[])).await.unwrap();
    let sorted = |mut all: Vec<(MailboxId, MailServerId)>| {
        all.sort_unstable();
        all
    };
    assert_eq!(effective(&store).await, (vec![], vec![]), "users=listed");

    let (sales, _) = node.mailstore.add_class("sales", vec![]).await.unwrap();
    store.change_server(MAIL, server_changes(&["users=sales"])).await.unwrap();
    assert_eq!(effective(&store).await, (vec![], vec![]));
    node.mailstore.change(bert, MailboxChange::Class(Some(sales))).await.unwrap();
    assert_eq!(effective(&store).await, (vec![(bert, MAIL)], vec![]));
    store.change_server(MAIL, server_changes(&["users=sales,default"])).await.unwrap();
    assert_eq!(effective(&store).await.0, sorted(vec![(anna, MAIL), (bert, MAIL)]));
    store.change_server(MAIL, server_changes(&["users=all"])).await.unwrap();
    let carl = user(&node, "1004", "carl@example.com").await;
    assert_eq!(effective(&store).await.0, sorted(vec![(anna, MAIL), (bert, MAIL), (carl, MAIL)]));

    store.add_server(server(OTHER, "other", &["users=all", "host=other.example.com"])).await.unwrap();
    store.set_account(bert, Some(OTHER), BTreeMap::new()).await.unwrap();
    assert_eq!(effective(&store).await.0, sorted(vec![(anna, MAIL), (bert, OTHER), (carl, MAIL)]));
    store.remove_account(bert).await.unwrap();
    readdress(&node, anna, "").await;
    node.mailstore.remove(carl).await.unwrap();
    assert_eq!(effective(&store).await, (vec![(bert, MAIL)], vec![]));
    let state = at(2);
    write(&store, &account(&store, bert).await, vec![], Some(state.clone()), &epoch(1, "a")).await.unwrap();
    let (row, stored) = store.account(bert).unwrap().expect("the state of a named user");
    assert_eq!((row.created, stored), (None, state));
    store.remove_server(MAIL).await.unwrap();
    assert_eq!(effective(&store).await, (vec![(bert, OTHER)], vec![]));
    assert_eq!(store.account(bert).unwrap(), None);
}

#[tokio::test]
async fn users_without_permission_are_left_out_with_the_reason_until_it_is_over() {
    let dir = TempDir::new().unwrap();
    let (node, store, id) = with_account(&dir, "a").await;
    let fine = (vec![(id, MAIL)], vec![]);
    assert_eq!(effective(&store).await, fine);
    let reason = async || {
        let (accounts, mut left_out) = effective(&store).await;
        assert_eq!((accounts.len(), left_out.len()), (0, 1));
        left_out.pop().map(|(_, reason)| reason).expect("one")
    };

    disable(&node, id, true).await;
    assert_eq!(reason().await, LeftOutReason::UserDisabled);
    disable(&node, id, false).await;
    assert_eq!(effective(&store).await, fine);

    node.mailstore.change_class("default", vec![(Rule::AudioOut, Some(0))]).await.unwrap();
    assert_eq!(reason().await, LeftOutReason::AudioStays);
    let (outside, _) = node.mailstore.add_class("outside", vec![(Rule::AudioOut, Some(1))]).await.unwrap();
    node.mailstore.change(id, MailboxChange::Class(Some(outside))).await.unwrap();
    assert_eq!(effective(&store).await, fine);

    store.set_account(id, None, account_changes(&["enabled=no"])).await.unwrap();
    assert_eq!(reason().await, LeftOutReason::AccountDisabled);
    store.set_account(id, None, account_changes(&["enabled=-"])).await.unwrap();
    store.change_server(MAIL, server_changes(&["enabled=no"])).await.unwrap();
    assert_eq!(reason().await, LeftOutReason::ServerDisabled("mail".to_owned()));
    store.change_server(MAIL, server_changes(&["enabled=yes"])).await.unwrap();
    readdress(&node, id, "").await;
    assert!(matches!(reason().await, LeftOutReason::Account(_)), "the account is named by the address");
    store.set_account(id, None, account_changes(&["account=anna"])).await.unwrap();
    assert_eq!(effective(&store).await, fine);
    node.mailstore.remove(id).await.unwrap();
    assert_eq!(reason().await, LeftOutReason::UserGone);
}

#[tokio::test]
async fn user_who_lost_the_mail_address_in_a_split_is_left_out() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (founder(&dir, "a").await, founder(&dir, "b").await);
    let on_a = MailboxSyncStore::of(&a.mailstore);
    on_a.add_server(server(MAIL, "mail", &["users=all"])).await.unwrap();
    let first = user(&a, "1001", "anna@example.com").await;
    let second = user(&b, "1002", "anna@example.com").await;
    assert_eq!(effective(&on_a).await, (vec![(first, MAIL)], vec![]));
    b.hand_over(&a).await;
    assert_eq!(effective(&on_a).await, (vec![(first, MAIL)], vec![(second, LeftOutReason::AddressLost)]));
    readdress(&a, first, "").await;
    assert_eq!(effective(&on_a).await, (vec![(second, MAIL)], vec![]));
}

async fn next(watch: &mut MailboxSyncWatch) -> SyncChange {
    let next = tokio::time::timeout(std::time::Duration::from_secs(10), watch.next());
    next.await.expect("a change within ten seconds").expect("the store is open")
}

#[tokio::test]
async fn watch_reports_messages_and_settings_and_no_states() {
    let dir = TempDir::new().unwrap();
    let (node, store, id) = with_account(&dir, "a").await;
    let anna = account(&store, id).await;
    let mut watch = store.watch();
    let message = node.leave(id, &audio(1_500)).await.message;
    assert_eq!(next(&mut watch).await, SyncChange::Mailbox(id));
    write(&store, &anna, vec![(message, Some(bound(1)))], Some(at(2)), &epoch(1, "a")).await.unwrap();
    node.mailstore.unlock(id).await.unwrap();
    node.mailstore.mark(id, message, Mark::Heard).await.unwrap();
    assert_eq!(next(&mut watch).await, SyncChange::Mailbox(id), "states and sign-ins are not reported");

    store.set_account(id, None, account_changes(&["folder=Voice"])).await.unwrap();
    store.change_server(MAIL, server_changes(&["poll=120"])).await.unwrap();
    readdress(&node, id, "anna.l@example.com").await;
    node.mailstore.mark(id, message, Mark::Saved).await.unwrap();
    assert_eq!(next(&mut watch).await, SyncChange::Settings);
    assert_eq!(next(&mut watch).await, SyncChange::Mailbox(id), "changes of settings that came together are one");
}

#[tokio::test]
async fn states_that_the_other_side_of_a_split_wrote_for_another_folder_do_not_count() {
    let dir = TempDir::new().unwrap();
    let (a, on_a, id) = with_account(&dir, "a").await;
    let b = founder(&dir, "b").await;
    let on_b = MailboxSyncStore::of(&b.mailstore);
    let (first, second) = (MessageId(1), MessageId(2));
    a.hand_over(&b).await;
    // One side goes on in the old folder, and the account gets another one on the other side.
    let old = account(&on_b, id).await;
    write(&on_b, &old, vec![(first, Some(bound(20)))], Some(at(21)), &epoch(2, "b")).await.unwrap();
    on_a.set_account(id, None, account_changes(&["folder=Voice"])).await.unwrap();
    let new = account(&on_a, id).await;
    write(&on_a, &new, vec![(second, Some(bound(1)))], Some(at(2)), &epoch(3, "a")).await.unwrap();
    b.hand_over(&a).await;
    a.hand_over(&b).await;
    for store in [&on_a, &on_b] {
        assert_eq!(store.rows(id).await.unwrap(), BTreeMap::from([(second, bound(1))]));
        assert_eq!(store.effective().await.unwrap().accounts, [(new.clone(), at(2))]);
    }
}

#[tokio::test]
async fn deletion_of_a_part_is_not_made_once_the_message_is_whole() {
    let dir = TempDir::new().unwrap();
    let (node, store, id) = with_account(&dir, "a").await;
    let message = node.leave(id, &audio(1_500)).await.message;
    let anna = account(&store, id).await;
    let local = LocalState { folder: Folder::New, deleted: false };
    let then = MessageState { local: LocalState { deleted: true, ..local }, link: Link::Gone, ..bound(1) };
    let of_part = |partial| MarkedHere { message, expected: local, partial, marks: vec![Mark::Deleted], then };
    let marked = store.mark_here(&anna, of_part(true), &epoch(1, "a"), || Some(())).await;
    assert!(!marked.unwrap(), "the plan saw a part");
    assert!(!node.mailstore.message(id, message).await.unwrap().expect("a message").deleted);
    assert!(store.mark_here(&anna, of_part(false), &epoch(1, "a"), || Some(())).await.unwrap());
}
