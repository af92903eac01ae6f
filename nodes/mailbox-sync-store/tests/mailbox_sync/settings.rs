//! Servers, accounts, and the users who are synchronised.

use std::collections::BTreeMap;

use tempfile::TempDir;
use twinbox_ids::{MailServerId, MailboxId};
use twinbox_mailbox::{MailboxChange, Rule};
use twinbox_mailbox_sync_store::{LeftOutReason, MailboxSyncError, MailboxSyncStore, SyncedMailbox};
use twinbox_mailstore::{MailError, NewMailbox};
use twinbox_store_kit::audio;

use crate::{
    MAIL, OTHER, account, account_changes, at, bound, disable, epoch, founder, readdress, server, server_changes,
    user, with_account, write,
};

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
    a.wait_past_stamps().await;
    let second = user(&b, "1002", "anna@example.com").await;
    assert_eq!(effective(&on_a).await, (vec![(first, MAIL)], vec![]));
    b.hand_over(&a).await;
    assert_eq!(effective(&on_a).await, (vec![(first, MAIL)], vec![(second, LeftOutReason::AddressLost)]));
    readdress(&a, first, "").await;
    assert_eq!(effective(&on_a).await, (vec![(second, MAIL)], vec![]));
}
