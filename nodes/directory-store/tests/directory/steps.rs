//! Steps: users made and changed, refusals, commits under permits; and two nodes that applied the same steps.

use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use twinbox_directory_store::{DirectoryStore, StepAction};
use twinbox_mailbox::{BindingState, EntryId, Number, SyncedField, mailbox_of, schema::number_key};
use twinbox_mailstore::{
    MailError, MailboxChange, NewMailbox, PinCheck, PinError, Quota, SystemContent, UserAddress, UserAddresses,
};
use twinbox_store_kit::{Node, audio};

use crate::common::{
    CORP, ENTRY, apply, apply_with, change, counts, create, directory, epoch, get, holder, person, private,
    refusals, step, values, with_user,
};

#[tokio::test]
async fn steps_make_a_user_once_and_a_second_run_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let (node, id) = with_user(&dir).await;
    let user = get(&node, id).await;
    assert_eq!((user.number.as_str(), user.name.reveal().as_str()), ("2001", "Anna"));
    assert_eq!((user.directory, user.disabled), (Some((CORP, ENTRY)), false));
    let right = node.mailstore.check_pin(id, &private("482913"), "").await.unwrap();
    assert_eq!(right, PinCheck::Ok { must_change: true });

    let before = node.store.vector();
    let again = apply(&node, &epoch(2, "a"), vec![create(ENTRY, person("2001", "Anna"))]).await;
    assert_eq!((again.counts, again.created.len()), (counts(|c| c.unchanged = 1), 0));
    assert_eq!(node.store.vector(), before, "nothing was written");
    assert_eq!(node.mailstore.mailboxes().await.unwrap().len(), 1);

    let users = DirectoryStore::of(&node.mailstore).present_users().await.unwrap();
    let [present] = users.as_slice() else { panic!("{} users", users.len()) };
    let binding = present.binding.as_ref().expect("bound");
    assert_eq!((binding.entry, binding.state, binding.mailbox), (ENTRY, BindingState::Active, id));
    assert_eq!(binding.fields, person("", "").1);
}

#[tokio::test]
async fn first_pin_by_mail_is_queued_with_its_user_once() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    directory(&node, CORP, "corp", &[]).await;
    let create = |number: &str, pin: &str| {
        let (values, fields) = person(number, "Anna");
        let (pin, mail_pin) = (Some(private(pin)), Some(private("anna@example.test")));
        step(ENTRY, StepAction::Create { values, fields, pin, mail_pin })
    };
    let refused = apply(&node, &epoch(1, "a"), vec![create("", "482913")]).await;
    assert_eq!(refused.counts.refused, 1);
    assert!(node.mailstore.effects().await.unwrap().is_empty(), "no user, no mail");

    apply(&node, &epoch(1, "a"), vec![create("2001", "482913")]).await;
    // Another run, of another node perhaps, with a PIN of its own.
    apply(&node, &epoch(2, "b"), vec![create("2001", "739528")]).await;
    let id = mailbox_of(CORP, ENTRY);
    let right = node.mailstore.check_pin(id, &private("482913"), "").await.unwrap();
    assert_eq!(right, PinCheck::Ok { must_change: true });
    let effects = node.mailstore.effects().await.unwrap();
    let [effect] = effects.as_slice() else { panic!("{effects:?}") };
    let mail = node.mailstore.system_mail_of(effect).unwrap().expect("a mail");
    let content =
        SystemContent::FirstPin { number: "2001".to_owned(), name: private("Anna"), pin: private("482913") };
    assert_eq!((mail.to.reveal().as_str(), mail.content), ("anna@example.test", content));
}

#[tokio::test]
async fn new_user_has_the_usual_settings_where_the_directory_supplies_none() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    directory(&node, CORP, "corp", &[]).await;
    let quota = Quota { max_messages: 7, max_message_ms: 9_000 };
    let (timezone, language) = ("Europe/Berlin".to_owned(), "de".to_owned());
    let usual = NewMailbox { timezone, language, quota, ..NewMailbox::new("", "") };
    let supplied = values(&[(SyncedField::Number, "2001"), (SyncedField::Timezone, "Europe/Paris")]);
    let steps = vec![create(ENTRY, person("2000", "Anna")), create(EntryId(0x11), supplied)];
    apply_with(&node, &epoch(1, "a"), &usual, steps).await;
    for (entry, timezone) in [(ENTRY, "Europe/Berlin"), (EntryId(0x11), "Europe/Paris")] {
        let user = get(&node, mailbox_of(CORP, entry)).await;
        assert_eq!((user.timezone.as_str(), user.language.as_str(), user.quota), (timezone, "de", quota));
    }
}

#[tokio::test]
async fn users_beyond_one_group_are_made_in_several_commits_under_permits() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    directory(&node, CORP, "corp", &[]).await;
    let steps: Vec<_> = (0..300)
        .map(|n| {
            let (values, fields) = person(&format!("{}", 5_000 + n), "x");
            step(EntryId(n), StepAction::Create { values, fields, pin: None, mail_pin: None })
        })
        .collect();
    let permits = AtomicUsize::new(0);
    let permit = || (permits.fetch_add(1, Ordering::SeqCst) < 2).then_some(());
    let usual = NewMailbox::new("", "");
    let lost = DirectoryStore::of(&node.mailstore)
        .apply_directory_steps(CORP, &epoch(1, "a"), &usual, steps.clone(), permit)
        .await;
    assert!(matches!(lost, Err(PinError::Mail(MailError::DutyLost))), "{lost:?}");
    assert_eq!(node.mailstore.mailboxes().await.unwrap().len(), 256);
    let rest = apply(&node, &epoch(2, "a"), steps).await;
    assert_eq!(rest.counts, counts(|c| (c.new, c.unchanged) = (44, 256)));
}

#[tokio::test]
async fn number_taken_between_plan_and_apply_is_refused_by_name_and_the_rest_goes_on() {
    let dir = TempDir::new().unwrap();
    let (node, id) = with_user(&dir).await;
    node.mailstore.create(NewMailbox::new("2002", "2580")).await.unwrap();
    let steps = vec![
        create(EntryId(2), person("2002", "Bert")),
        create(EntryId(3), person("2003", "Cleo")),
        change(ENTRY, person("2002", "Anna B")),
    ];
    let applied = apply(&node, &epoch(1, "a"), steps).await;
    assert_eq!(applied.counts, counts(|c| (c.new, c.refused) = (1, 2)));
    for reason in refusals(&applied) {
        assert!(reason.contains("number 2002 belongs to another user"), "{reason}");
    }
    let user = get(&node, id).await;
    assert_eq!((user.number.as_str(), user.name.reveal().as_str()), ("2001", "Anna"), "all of a step or nothing");
    assert!(node.mailstore.get(mailbox_of(CORP, EntryId(2))).await.unwrap().is_none());
    assert_eq!(holder(&node, "2003").await, Some(mailbox_of(CORP, EntryId(3))));
}

#[tokio::test]
async fn impossible_values_are_refused_with_input_and_remedy() {
    let dir = TempDir::new().unwrap();
    let (node, id) = with_user(&dir).await;
    let mut taken = NewMailbox::new("2002", "2580");
    taken.addresses = UserAddresses { mail: UserAddress::address("bert@example.com").ok(), aliases: Vec::new() };
    node.mailstore.create(taken).await.unwrap();
    let long = "x".repeat(1_025);
    for (field, value, part) in [
        (SyncedField::Number, "20x1", "'20x1'"),
        (SyncedField::Number, "", "at least one digit"),
        (SyncedField::Mail, "nobody", "'nobody'"),
        (SyncedField::Mail, "bert@example.com", "belongs to mailbox 2002"),
        (SyncedField::Timezone, "Mars/Base", "'Mars/Base' is not a time zone"),
        (SyncedField::Class, "gold", "class of service 'gold' does not exist"),
        (SyncedField::Name, long.as_str(), "more than 1024 bytes"),
    ] {
        let applied = apply(&node, &epoch(1, "a"), vec![change(ENTRY, values(&[(field, value)]))]).await;
        let reasons = refusals(&applied);
        assert!(reasons.iter().any(|reason| reason.contains(part)), "{value}: {reasons:?}");
        assert_eq!(applied.counts, counts(|c| c.refused = 1), "{value}");
    }
    let no_number = values(&[(SyncedField::Name, "Dora")]);
    let applied = apply(&node, &epoch(1, "a"), vec![create(EntryId(4), no_number)]).await;
    assert!(refusals(&applied).iter().any(|reason| reason.contains("no number")), "{applied:?}");
    assert_eq!(get(&node, id).await.name.reveal(), "Anna");
}

#[tokio::test]
async fn changed_number_keeps_the_mailbox_and_frees_the_old_number_for_the_next_step() {
    let dir = TempDir::new().unwrap();
    let (node, id) = with_user(&dir).await;
    let message = node.leave(id, &audio(1_500)).await.message;
    let steps = vec![change(ENTRY, person("3001", "Anna")), create(EntryId(2), person("2001", "Bert"))];
    let applied = apply(&node, &epoch(1, "a"), steps).await;
    assert_eq!(applied.counts, counts(|c| (c.new, c.changed) = (1, 1)));
    assert_eq!(holder(&node, "3001").await, Some(id));
    assert_eq!(holder(&node, "2001").await, Some(mailbox_of(CORP, EntryId(2))));
    assert!(node.mailstore.message(id, message).await.unwrap().is_some());
}

#[tokio::test]
async fn supplied_class_time_zone_and_mail_apply_and_a_field_not_supplied_any_more_is_free() {
    let dir = TempDir::new().unwrap();
    let (node, id) = with_user(&dir).await;
    node.mailstore.add_class("gold", vec![]).await.unwrap();
    let all = values(&[
        (SyncedField::Number, "2001"),
        (SyncedField::Mail, "Anna@Example.com"),
        (SyncedField::Timezone, "Europe/Berlin"),
        (SyncedField::Class, "Gold"),
    ]);
    apply(&node, &epoch(1, "a"), vec![change(ENTRY, all)]).await;
    let user = get(&node, id).await;
    assert_eq!(node.mailstore.class_name_of(&user).unwrap(), "gold");
    assert_eq!((user.timezone.as_str(), user.name.reveal().as_str()), ("Europe/Berlin", "Anna"));
    let address = UserAddress::address("anna@example.com").unwrap();
    assert_eq!(node.mailstore.find_by_address(&address).await.unwrap().map(|found| found.id), Some(id));
    node.mailstore.change(id, MailboxChange::Name(private("Anna B"))).await.expect("not supplied any more");

    // The address is emptied, and not supplied any more.
    let (_, fields) = values(&[(SyncedField::Number, "")]);
    let (changes, _) = values(&[(SyncedField::Mail, ""), (SyncedField::Class, "")]);
    apply(&node, &epoch(1, "a"), vec![step(ENTRY, StepAction::Change { changes, fields })]).await;
    let user = get(&node, id).await;
    assert_eq!((user.addresses.mail.is_none(), user.class, user.timezone.as_str()), (true, None, "Europe/Berlin"));
    assert!(node.mailstore.find_by_address(&address).await.unwrap().is_none());
    node.mailstore.change(id, MailboxChange::Timezone("UTC".to_owned())).await.expect("free");
}

#[tokio::test]
async fn two_stores_that_applied_the_same_steps_merge_into_one_user() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (Node::alone(&dir.path().join("a"), "a"), Node::alone(&dir.path().join("b"), "b"));
    directory(&a, CORP, "corp", &[]).await;
    a.hand_over(&b).await;
    apply(&a, &epoch(1, "a"), vec![create(ENTRY, person("2001", "Anna"))]).await;
    apply(&b, &epoch(2, "b"), vec![create(ENTRY, person("2001", "Anna B"))]).await;
    // Node a writes last, and in the older epoch.
    apply(&a, &epoch(1, "a"), vec![change(ENTRY, person("2009", "Anna A"))]).await;
    let id = mailbox_of(CORP, ENTRY);
    let message = b.leave(id, &audio(1_500)).await.message;
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    let claimed = |node: &Node| {
        let claims = node.store.get(&number_key(&Number::normalise("2009").unwrap())).unwrap();
        Number::claimants(&claims.unwrap_or_default())
    };
    for node in [&a, &b] {
        assert_eq!(node.mailstore.mailboxes().await.unwrap().len(), 1);
        let user = get(node, id).await;
        assert_eq!((user.name.reveal().as_str(), user.number.as_str()), ("Anna B", "2001"));
        assert!(!user.number_lost);
        assert!(node.mailstore.message(id, message).await.unwrap().is_some());
        // The number of the older epoch leads nowhere; it stays claimed until the directory is settled.
        assert_eq!((holder(node, "2009").await, claimed(node)), (None, vec![id]));
        let users = DirectoryStore::of(&node.mailstore).present_users().await.unwrap();
        assert_eq!(users.iter().filter(|user| user.binding.is_some()).count(), 1);
    }
    let gone = vec![step(ENTRY, StepAction::Gone)];
    let usual = NewMailbox::new("", "");
    let stale = DirectoryStore::of(&a.mailstore)
        .apply_directory_steps(CORP, &epoch(1, "a"), &usual, gone, || Some(()))
        .await;
    assert!(matches!(stale, Err(PinError::Mail(MailError::StaleEpoch(_)))), "{stale:?}");
    assert_eq!(DirectoryStore::of(&b.mailstore).settle_directory(CORP, || Some(())).await.unwrap(), 1);
    assert_eq!((claimed(&b), holder(&b, "2001").await), (Vec::new(), Some(id)));
    let refused = DirectoryStore::of(&b.mailstore).settle_directory(CORP, || None::<()>).await;
    assert!(matches!(refused, Err(MailError::DutyLost)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directory_removed_during_a_run_leaves_local_users_and_the_rest_is_refused() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    directory(&node, CORP, "corp", &[]).await;
    let steps: Vec<_> = (0..200)
        .map(|n| {
            let (values, fields) = person(&format!("{}", 5_000 + n), "x");
            step(EntryId(n), StepAction::Create { values, fields, pin: None, mail_pin: None })
        })
        .collect();
    let (directories, runtime) = (DirectoryStore::of(&node.mailstore), tokio::runtime::Handle::current());
    let commits = AtomicUsize::new(0);
    // Between the first and the second commit.
    let permit = || {
        if commits.fetch_add(1, Ordering::SeqCst) == 1 {
            let (directories, runtime) = (directories.clone(), runtime.clone());
            let removal = std::thread::spawn(move || runtime.block_on(directories.remove_directory(CORP)));
            let (users, _) = removal.join().expect("no panic").expect("removed");
            assert_eq!(users, 128);
        }
        Some(())
    };
    let usual = NewMailbox::new("", "");
    let applied = directories.apply_directory_steps(CORP, &epoch(1, "a"), &usual, steps, permit).await;
    let applied = applied.expect("applied");
    assert_eq!(applied.counts, counts(|c| (c.new, c.refused) = (128, 72)));
    let removed = |reason: &String| reason == "its directory was removed since the plan";
    assert!(refusals(&applied).iter().all(removed), "{:?}", refusals(&applied));
    let users = DirectoryStore::of(&node.mailstore).present_users().await.unwrap();
    assert_eq!(users.len(), 128);
    assert!(users.iter().all(|user| user.binding.is_none() && !user.disabled), "all are local and in service");
    assert!(get(&node, mailbox_of(CORP, EntryId(0))).await.directory.is_none());
}

#[tokio::test]
async fn refused_change_does_not_drop_the_disabling_of_the_same_entry() {
    let dir = TempDir::new().unwrap();
    let (node, id) = with_user(&dir).await;
    node.mailstore.create(NewMailbox::new("2002", "2580")).await.unwrap();
    let steps = vec![step(ENTRY, StepAction::Disable), change(ENTRY, person("2002", "Anna"))];
    let applied = apply(&node, &epoch(1, "a"), steps).await;
    assert_eq!(applied.counts, counts(|c| (c.disabled, c.refused) = (1, 1)));
    let user = get(&node, id).await;
    assert_eq!((user.disabled, user.number.as_str()), (true, "2001"));
}
