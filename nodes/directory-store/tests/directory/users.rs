//! Users of a directory: local edits, disabled and released users, binding by hand, remembered passwords; and the
//! directories themselves.

use std::{collections::BTreeMap, time::Duration};

use tempfile::TempDir;
use twinbox_directory_store::{DirectoryStore, DirectoryStoreError, StepAction};
use twinbox_ids::{DirectoryId, Timestamp};
use twinbox_mailbox::{
    BindingState, EntryId, RowProblem, RunCounts, StoredDirectory, StoredRun, SyncState, SyncedField, mailbox_of,
};
use twinbox_mailstore::{
    Audio, Class, Codec, MailError, MailboxChange, NewMailbox, PinCheck, RememberedPassword, SendOrder, SendTo,
    UserImport, WeakPins,
};
use twinbox_store_kit::{Node, audio};

use crate::common::{
    CORP, ENTRY, apply, change, counts, create, directory, epoch, get, person, private, refusals, step, values,
    with_user,
};

const DAY: Duration = Duration::from_secs(24 * 3_600);

#[tokio::test]
async fn local_edits_of_supplied_fields_are_refused_by_name_on_every_path() {
    let dir = TempDir::new().unwrap();
    let (node, id) = with_user(&dir).await;
    let all = [
        (SyncedField::Number, "2001"),
        (SyncedField::Name, "Anna"),
        (SyncedField::Mail, "anna@example.com"),
        (SyncedField::Language, "de"),
        (SyncedField::Timezone, "Europe/Berlin"),
        (SyncedField::Class, ""),
    ];
    apply(&node, &epoch(1, "a"), vec![change(ENTRY, values(&all))]).await;
    for (edit, word) in [
        (MailboxChange::Name(private("Ann")), "name"),
        (MailboxChange::Language("en".to_owned()), "language"),
        (MailboxChange::Timezone("UTC".to_owned()), "timezone"),
        (MailboxChange::Class(Some(Class::DEFAULT)), "class"),
    ] {
        let error = node.mailstore.change(id, edit).await.expect_err(word).to_string();
        assert!(error.starts_with(&format!("the {word} of mailbox 2001 comes from directory 'corp'")), "{error}");
        assert!(error.contains("twinbox directory make-local 2001"), "{error}");
    }
    node.mailstore.change(id, MailboxChange::Operator(Some("100".to_owned()))).await.expect("not supplied");
    assert!(matches!(node.mailstore.remove(id).await, Err(MailError::SyncedUser { .. })));

    let how = UserImport { usual: NewMailbox::new("", ""), keep_pins: false, weak_pins: WeakPins::default() };
    for (table, word) in [
        ("number,name\n2001,Ann\n", "name"),
        ("number,mail\n2001,ann@example.com\n", "mail"),
        ("number,language\n2001,en\n", "language"),
        ("number,timezone\n2001,UTC\n", "timezone"),
    ] {
        let rows = twinbox_mailbox::read_users(table).expect(table);
        let problems = node.mailstore.plan_users(rows, &how).await.unwrap().expect_err(table);
        let named = |problem: &RowProblem| problem.what.contains(&format!("the {word} of mailbox 2001"));
        assert!(problems.iter().any(named), "{problems:?}");
    }
    let same = twinbox_mailbox::read_users("number,name,operator\n2001,Anna,0\n").unwrap();
    let plan = node.mailstore.plan_users(same, &how).await.unwrap().expect("the supplied values are the same");
    assert_eq!(node.mailstore.import_users(plan, |_| {}).await.unwrap().changed, 1);
}

#[tokio::test]
async fn table_planned_before_a_user_was_bound_leaves_the_line_out() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    directory(&node, CORP, "corp", &[]).await;
    let id = node.mailbox().await.id;
    let how = UserImport { usual: NewMailbox::new("", ""), keep_pins: false, weak_pins: WeakPins::default() };
    let rows = twinbox_mailbox::read_users("number,name\n1001,Ann\n").unwrap();
    let plan = node.mailstore.plan_users(rows, &how).await.unwrap().expect("a local user");
    let (changes, fields) = person("1001", "Anna");
    apply(&node, &epoch(1, "a"), vec![step(ENTRY, StepAction::Adopt { mailbox: id, changes, fields })]).await;
    let imported = node.mailstore.import_users(plan, |_| {}).await.unwrap();
    assert_eq!((imported.changed, imported.missed.len()), (0, 1));
    assert_eq!(get(&node, id).await.name.reveal(), "Anna");
}

#[tokio::test]
async fn disabled_user_cannot_sign_in_keeps_messages_and_comes_back() {
    let dir = TempDir::new().unwrap();
    let (node, id) = with_user(&dir).await;
    let message = node.leave(id, &audio(1_500)).await.message;
    let applied = apply(&node, &epoch(1, "a"), vec![step(ENTRY, StepAction::Disable)]).await;
    assert_eq!(applied.counts, counts(|c| c.disabled = 1));
    let again = apply(&node, &epoch(1, "a"), vec![step(ENTRY, StepAction::Disable)]).await;
    assert_eq!(again.counts, counts(|c| c.unchanged = 1));
    let user = get(&node, id).await;
    assert!(user.disabled && user.directory.is_some());
    assert_eq!(node.mailstore.check_pin(id, &private("482913"), "").await.unwrap(), PinCheck::Wrong);
    assert!(!node.mailstore.takes_messages(&user));
    let greeting = BTreeMap::from([(25, Some("greeting".to_owned()))]);
    DirectoryStore::of(&node.mailstore).change_directory(CORP, greeting).await.unwrap();
    assert!(node.mailstore.takes_messages(&user));
    let lost = DirectoryStore::of(&node.mailstore).binding_of(&user).unwrap().expect("bound").lost_at;
    assert!(lost.is_some());

    let applied = apply(&node, &epoch(1, "a"), vec![step(ENTRY, StepAction::Gone)]).await;
    assert_eq!(applied.counts, counts(|c| c.gone = 1));
    assert!(node.mailstore.message(id, message).await.unwrap().is_some());
    let applied = apply(&node, &epoch(1, "a"), vec![step(ENTRY, StepAction::Return)]).await;
    assert_eq!(applied.counts, counts(|c| c.returned = 1));
    let user = get(&node, id).await;
    let binding = DirectoryStore::of(&node.mailstore).binding_of(&user).unwrap().expect("bound");
    assert!(!user.disabled && binding.state == BindingState::Active && binding.lost_at >= lost);
    let right = node.mailstore.check_pin(id, &private("482913"), "").await.unwrap();
    assert_eq!(right, PinCheck::Ok { must_change: true });
    assert!(node.mailstore.message(id, message).await.unwrap().is_some());
}

#[tokio::test]
async fn released_user_is_local_and_disabled_until_made_local_by_name() {
    let dir = TempDir::new().unwrap();
    let (node, id) = with_user(&dir).await;
    let early = apply(&node, &epoch(1, "a"), vec![step(ENTRY, StepAction::Release)]).await;
    assert!(refusals(&early).iter().any(|reason| reason.contains("came back")), "{early:?}");
    apply(&node, &epoch(1, "a"), vec![step(ENTRY, StepAction::Gone), step(ENTRY, StepAction::Release)]).await;
    let user = get(&node, id).await;
    assert_eq!((user.directory, user.disabled, user.number.as_str()), (None, true, "2001"));
    let again = apply(&node, &epoch(1, "a"), vec![step(ENTRY, StepAction::Release)]).await;
    assert_eq!(again.counts, counts(|c| c.unchanged = 1));
    DirectoryStore::of(&node.mailstore).make_local(id).await.expect("enabled");
    assert!(!get(&node, id).await.disabled);
    let local = DirectoryStore::of(&node.mailstore).make_local(id).await;
    assert!(matches!(&local, Err(DirectoryStoreError::Local { number }) if number == "2001"), "{local:?}");
    let back = apply(&node, &epoch(1, "a"), vec![create(ENTRY, person("2001", "Anna"))]).await;
    assert!(refusals(&back).iter().any(|reason| reason.contains("twinbox directory bind")), "{back:?}");
}

#[tokio::test]
async fn local_user_is_bound_by_hand_once_and_made_local_with_its_values() {
    let dir = TempDir::new().unwrap();
    let (node, synced) = with_user(&dir).await;
    let id = node.mailbox().await.id;
    let directories = DirectoryStore::of(&node.mailstore);
    let bind = |mailbox, directory, entry| {
        directories.bind_user(mailbox, directory, entry, private("uid=b"), private("b"))
    };
    let other = bind(id, CORP, ENTRY).await;
    assert!(matches!(&other, Err(DirectoryStoreError::EntryBound { number }) if number == "2001"), "{other:?}");
    let unknown = bind(id, DirectoryId(9), EntryId(2)).await;
    assert!(matches!(unknown, Err(DirectoryStoreError::None(DirectoryId(9)))), "{unknown:?}");
    let twice = bind(synced, CORP, EntryId(2)).await;
    let by_corp = matches!(&twice, Err(DirectoryStoreError::Bound { directory, .. }) if directory == "corp");
    assert!(by_corp, "{twice:?}");
    bind(id, CORP, EntryId(2)).await.expect("bound");
    node.mailstore.change(id, MailboxChange::Name(private("Bert"))).await.expect("no field is supplied yet");
    apply(&node, &epoch(1, "a"), vec![change(EntryId(2), person("1001", "Bert B"))]).await;
    assert!(node.mailstore.change(id, MailboxChange::Name(private("Bert"))).await.is_err());

    DirectoryStore::of(&node.mailstore).make_local(id).await.expect("local");
    let user = get(&node, id).await;
    assert_eq!((user.name.reveal().as_str(), user.number.as_str(), user.directory), ("Bert B", "1001", None));
    node.mailstore.change(id, MailboxChange::Name(private("Bert"))).await.expect("local");
    let late = apply(&node, &epoch(1, "a"), vec![change(EntryId(2), person("1001", "Bert C"))]).await;
    assert!(refusals(&late).iter().any(|reason| reason.contains("made local")), "{late:?}");
    bind(id, CORP, EntryId(2)).await.expect("bound again");
}

#[tokio::test]
async fn user_removed_here_is_not_made_again() {
    let dir = TempDir::new().unwrap();
    let (node, id) = with_user(&dir).await;
    DirectoryStore::of(&node.mailstore).make_local(id).await.unwrap();
    node.mailstore.remove(id).await.expect("a local user");
    let applied = apply(&node, &epoch(1, "a"), vec![create(ENTRY, person("2001", "Anna"))]).await;
    assert!(refusals(&applied).iter().any(|reason| reason.contains("removed by an administrator")), "{applied:?}");
}

#[tokio::test]
async fn removed_directory_leaves_local_users_of_whom_the_disabled_ones_stay_disabled() {
    let dir = TempDir::new().unwrap();
    let (node, anna) = with_user(&dir).await;
    let steps = vec![create(EntryId(2), person("2002", "Bert")), step(EntryId(2), StepAction::Disable)];
    apply(&node, &epoch(1, "a"), steps).await;
    let bert = mailbox_of(CORP, EntryId(2));
    let (users, _) = DirectoryStore::of(&node.mailstore).remove_directory(CORP).await.expect("removed");
    assert_eq!(users, 2);
    assert!(DirectoryStore::of(&node.mailstore).directories().unwrap().is_empty());
    let (anna, bert) = (get(&node, anna).await, get(&node, bert).await);
    assert_eq!((anna.directory, anna.disabled), (None, false));
    assert_eq!((bert.directory, bert.disabled, bert.name.reveal().as_str()), (None, true, "Bert"));
    let again = DirectoryStore::of(&node.mailstore).remove_directory(CORP).await;
    assert!(matches!(again, Err(DirectoryStoreError::None(CORP))), "{again:?}");
}

#[tokio::test]
async fn directories_states_and_runs_are_stored_and_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    directory(&node, CORP, "corp", &[(1, "yes")]).await;
    let twin = StoredDirectory {
        id: DirectoryId(2),
        name: "corp".to_owned(),
        created: Timestamp(2),
        settings: BTreeMap::new(),
    };
    let taken = DirectoryStore::of(&node.mailstore).add_directory(twin).await;
    assert!(matches!(&taken, Err(DirectoryStoreError::Taken(name)) if name == "corp"), "{taken:?}");
    let changes = BTreeMap::from([(1, None), (2, Some("ldap://x".to_owned()))]);
    DirectoryStore::of(&node.mailstore).change_directory(CORP, changes.clone()).await.unwrap();
    let stored = node.mailstore.directory(CORP).unwrap().expect("stored");
    assert_eq!(stored.settings, BTreeMap::from([(2, "ldap://x".to_owned())]));
    let missing = DirectoryStore::of(&node.mailstore).change_directory(DirectoryId(2), changes).await;
    assert!(matches!(missing, Err(DirectoryStoreError::None(DirectoryId(2)))), "{missing:?}");

    let state = SyncState { cursor: vec![1, 2], full_at: Some(Timestamp(5)), ..SyncState::default() };
    DirectoryStore::of(&node.mailstore).set_sync_state(CORP, state.clone(), &epoch(2, "a")).await.unwrap();
    assert_eq!(DirectoryStore::of(&node.mailstore).sync_state(CORP).unwrap(), state);
    let stale =
        DirectoryStore::of(&node.mailstore).set_sync_state(CORP, SyncState::default(), &epoch(1, "b")).await;
    assert!(matches!(stale, Err(MailError::StaleEpoch(_))), "{stale:?}");

    for run in 1..=101 {
        let run = StoredRun {
            directory: CORP,
            run,
            began: Timestamp(run),
            ended: None,
            dry: true,
            outcome: String::new(),
            counts: RunCounts::default(),
            accepted: false,
            digest: [7; 32],
        };
        DirectoryStore::of(&node.mailstore).write_run(run).await.unwrap();
    }
    let runs = DirectoryStore::of(&node.mailstore).runs(CORP).unwrap();
    let ends = [runs.first(), runs.last()].map(|run| run.map(|run| run.run));
    assert_eq!((runs.len(), ends), (100, [Some(101), Some(2)]));
    let gone = DirectoryStore::of(&node.mailstore).accept_run(CORP, 1).await;
    assert!(matches!(gone, Err(DirectoryStoreError::NoRun(1))), "{gone:?}");
    let (accepted, _) = DirectoryStore::of(&node.mailstore).accept_run(CORP, 50).await.unwrap();
    assert_eq!((accepted.accepted, accepted.digest), (true, [7; 32]));
    assert!(DirectoryStore::of(&node.mailstore).run(CORP, 50).unwrap().expect("stored").accepted);
}

#[tokio::test]
async fn remembered_password_serves_for_its_age_and_is_forgotten_with_the_account() {
    let dir = TempDir::new().unwrap();
    let (node, id) = with_user(&dir).await;
    let now = twinbox_clock::wall();
    let later = |age: Duration| Timestamp(now.0 + age.as_millis() as u64);
    let check = async |password: &str, now| {
        node.mailstore.check_remembered_password(id, &private(password), DAY, now).await.expect("checked")
    };
    assert_eq!(check("secret", now).await, RememberedPassword::Unknown);
    node.mailstore.remember_password(id, &private("")).await.unwrap();
    assert_eq!(check("", now).await, RememberedPassword::Unknown);
    node.mailstore.remember_password(id, &private("secret")).await.unwrap();
    assert_eq!(check("secret", now).await, RememberedPassword::Right);
    assert_eq!(check("Secret", now).await, RememberedPassword::Wrong);
    assert_eq!(check("", now).await, RememberedPassword::Wrong);
    assert_eq!(check("secret", later(DAY + DAY)).await, RememberedPassword::Unknown);
    node.mailstore.forget_password(id).await.unwrap();
    assert_eq!(check("secret", now).await, RememberedPassword::Unknown);

    node.mailstore.remember_password(id, &private("secret")).await.unwrap();
    apply(&node, &epoch(1, "a"), vec![step(ENTRY, StepAction::Disable)]).await;
    assert_eq!(check("secret", now).await, RememberedPassword::Unknown);
    node.mailstore.remember_password(id, &private("secret")).await.unwrap();
    apply(&node, &epoch(1, "a"), vec![step(ENTRY, StepAction::Return)]).await;
    assert_eq!(check("secret", now).await, RememberedPassword::Unknown, "a disabled account is not remembered");
}

#[tokio::test]
async fn message_to_a_disabled_user_is_refused_unless_callers_hear_the_greeting() {
    let dir = TempDir::new().unwrap();
    let (node, id) = with_user(&dir).await;
    let sender = node.mailbox().await.id;
    let order = || SendOrder {
        id: 7,
        sender,
        audio: Audio { codec: Codec::Pcmu, bytes: audio(1_500).into() },
        subject: private("Hello"),
        urgent: false,
        private: false,
        to: vec![SendTo::Mailbox(sender), SendTo::Mailbox(id)],
    };
    apply(&node, &epoch(1, "a"), vec![step(ENTRY, StepAction::Disable)]).await;
    let refused = node.mailstore.send_message(order()).await.unwrap_err();
    assert!(matches!(&refused, MailError::Disabled { number } if number == "2001"), "{refused}");
    assert!(node.mailstore.messages(sender).await.unwrap().is_empty(), "it goes to all or to none");
    let greeting = BTreeMap::from([(25, Some("greeting".to_owned()))]);
    DirectoryStore::of(&node.mailstore).change_directory(CORP, greeting).await.unwrap();
    node.mailstore.send_message(order()).await.unwrap();
    assert_eq!(node.mailstore.messages(id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn wrong_passwords_back_off_without_locking_the_pin() {
    let dir = TempDir::new().unwrap();
    let (node, id) = with_user(&dir).await;
    let now = twinbox_clock::wall();
    let begin = async || node.mailstore.begin_password_try(id, now).await.expect("counted");
    for _ in 0..30 {
        let begun = begin().await.expect("right passwords bring no pause");
        node.mailstore.take_back_password_try(begun).await.unwrap();
    }
    let mut last = begin().await;
    for _ in 0..8 {
        last = begin().await;
    }
    assert!(matches!(last, Err(seconds) if seconds > 0), "{last:?}");
    let other = apply(&node, &epoch(1, "a"), vec![create(EntryId(0x11), person("2002", "Bert"))]).await.created[0];
    assert!(node.mailstore.begin_password_try(other, now).await.unwrap().is_ok());
    let pin = node.mailstore.check_pin(id, &private("482913"), "").await.unwrap();
    assert_eq!(pin, PinCheck::Ok { must_change: true });
    node.mailstore.unlock(id).await.unwrap();
    assert!(begin().await.is_ok());
}
