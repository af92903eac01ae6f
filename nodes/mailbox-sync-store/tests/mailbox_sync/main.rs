//! Mail servers, accounts, the states of messages by epoch, and marks for what was seen there.

mod settings;
mod states;
mod watch;

use std::collections::BTreeMap;

use tempfile::TempDir;
use twinbox_ids::{Epoch, MailServerId, MailboxId, MessageId, Timestamp};
use twinbox_mailbox::{UserAddress, UserAddresses, directory::Supplied, schema as mailbox_schema};
use twinbox_mailbox_sync::{
    Account, AccountState, Link, LocalState, MailState, MessageState, RemoteFlags, StoredServer, account_change,
    server_change,
};
use twinbox_mailbox_sync_store::{MailboxSyncError, MailboxSyncStore};
use twinbox_mailstore::{Folder, NewMailbox, rows::set_addresses};
use twinbox_replication_store::Filled;
use twinbox_store_kit::{Node, name};

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
