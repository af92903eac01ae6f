//! Tables of users, messages of another system, classes of service and prompts.

use std::time::Duration;

use tempfile::TempDir;
use twinbox_clock::BootInstant;
use twinbox_ids::{Pii, Timestamp};
use twinbox_mailbox::{
    RowProblem,
    pin::{HashCost, HashMemory},
    read_users, write_users,
};
use twinbox_mailstore::{
    Acknowledgement, Audio, ClassError, Codec, CreateError, Folder, GreetingKind, ImportOutcome, Imported,
    ImportedMessage, Mark, NewMailbox, PinCheck, PinError, PromptKey, PromptsChange, Rule, UserAddress,
    UserAddresses, UserImport, WeakPins,
};
use twinbox_store_kit::{Node, audio, eventually, name, pair};

fn how() -> UserImport {
    UserImport {
        usual: NewMailbox { pin: None, ..NewMailbox::new("", "") },
        keep_pins: false,
        weak_pins: WeakPins::Refuse,
    }
}

async fn import(node: &Node, table: &str, how: &UserImport) -> Result<Imported, Vec<RowProblem>> {
    let plan = node.mailstore.plan_users(read_users(table)?, how).await.expect("planned")?;
    Ok(node.mailstore.import_users(plan, |_| {}).await.expect("imported"))
}

#[tokio::test]
async fn repeated_import_of_a_table_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    node.mailstore.add_class("sales", vec![]).await.unwrap();
    let table = "number,name,pin,timezone,operator,cos\n\
                 1001,Ada,284617,Europe/Berlin,0,Sales\n\
                 1002,\"Bo, the second\",,,,\n";
    let first = import(&node, table, &how()).await.unwrap();
    assert_eq!((first.created, first.changed, first.unchanged), (2, 0, 0));
    let ada = node.mailstore.find_by_number("1001").await.unwrap().unwrap();
    assert_eq!((ada.name.reveal().as_str(), ada.timezone.as_str()), ("Ada", "Europe/Berlin"));
    assert_eq!(node.mailstore.class_name_of(&ada).unwrap(), "sales");
    assert_eq!(
        node.mailstore.check_pin(ada.id, &Pii::new("284617".to_owned()), "").await.unwrap(),
        PinCheck::Ok { must_change: true }
    );
    // The owner's own PIN stays, whatever first PIN the table has.
    node.mailstore.set_pin(ada.id, &Pii::new("739528".to_owned())).await.unwrap();
    let again = import(&node, table, &how()).await.unwrap();
    assert_eq!((again.created, again.changed, again.unchanged), (0, 0, 2));
    assert_eq!(
        node.mailstore.check_pin(ada.id, &Pii::new("739528".to_owned()), "").await.unwrap(),
        PinCheck::Ok { must_change: false }
    );
    // Differing values are changed, missing ones stay, and a mailbox without a PIN gets its first.
    let third = "number,name,pin,operator,cos\n1001,Ada L,,-,-\n1002,,602214,,\n";
    let changed = import(&node, third, &how()).await.unwrap();
    assert_eq!((changed.created, changed.changed, changed.unchanged), (0, 2, 0));
    let ada = node.mailstore.find_by_number("1001").await.unwrap().unwrap();
    assert_eq!((ada.name.reveal().as_str(), ada.timezone.as_str()), ("Ada L", "Europe/Berlin"));
    assert_eq!((ada.operator, ada.class), (None, None));
    // An export imported again changes nothing.
    let mailboxes = node.mailstore.mailboxes().await.unwrap();
    let columns = node.mailstore.notify_columns().await.unwrap();
    let export = write_users(mailboxes.iter().map(|m| {
        let columns = columns.get(&m.id).cloned().unwrap_or_default();
        (m, node.mailstore.class_name_of(m).unwrap(), columns)
    }));
    let back = import(&node, &export, &how()).await.unwrap();
    assert_eq!((back.created, back.changed, back.unchanged), (0, 0, 2), "{export}");
}

#[tokio::test]
async fn exported_name_is_no_formula_and_comes_in_again_as_no_change() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    // The longest name: the apostrophe of the table does not count.
    let name = format!("=HYPERLINK({})", "x".repeat(116));
    let mail = Some(UserAddress::address("=x@example.com").unwrap());
    let new = NewMailbox {
        name: Pii::new(name.clone()),
        operator: Some("+4930123456".to_owned()),
        addresses: UserAddresses { mail, aliases: Vec::new() },
        ..NewMailbox::new("1001", "284617")
    };
    let mailbox = node.mailstore.create(new).await.unwrap().0.id;
    let before = node.mailstore.get(mailbox).await.unwrap().unwrap();
    let class = node.mailstore.class_name_of(&before).unwrap();
    let columns = node.mailstore.notify_columns().await.unwrap().remove(&mailbox).unwrap_or_default();
    let export = write_users([(&before, class, columns)]);
    let cells: Vec<&str> = export.lines().last().unwrap().split(',').collect();
    for cell in ["'=x@example.com", "+4930123456", &format!("'{name}")] {
        assert!(cells.contains(&cell), "{cell} in {export}");
    }
    let back = import(&node, &export, &how()).await.unwrap();
    assert_eq!((back.created, back.changed, back.unchanged), (0, 0, 1), "{export}");
}

/// Its claim may stay behind a mailbox.
#[tokio::test]
async fn table_makes_a_user_with_the_number_that_a_removed_mailbox_got_in_a_split() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (a, b) = (Node::alone(dirs[0].path(), "a"), Node::alone(dirs[1].path(), "b"));
    let removed = a.mailbox().await.id;
    a.hand_over(&b).await;
    a.mailstore.remove(removed).await.unwrap();
    b.mailstore.renumber(removed, "1002").await.unwrap();
    b.hand_over(&a).await;
    let imported = import(&a, "number\n1002\n", &how()).await.unwrap();
    assert_eq!((imported.created, imported.missed), (1, vec![]));
}

#[tokio::test]
async fn pin_that_was_set_since_the_plan_stays() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    import(&node, "number\n1001\n", &how()).await.unwrap();
    let table = "number,name,pin\n1001,Ada,284617\n1002,Bo,602214\n";
    let plan = node.mailstore.plan_users(read_users(table).unwrap(), &how()).await.unwrap().unwrap();
    let ada = node.mailstore.find_by_number("1001").await.unwrap().unwrap().id;
    let own = Pii::new("739528".to_owned());
    node.mailstore.reset_pin(ada, &own, false).await.unwrap();
    let imported = node.mailstore.import_users(plan, |_| {}).await.unwrap();
    assert_eq!((imported.created, imported.changed, imported.missed), (1, 0, vec![2]));
    assert_eq!(node.mailstore.check_pin(ada, &own, "").await.unwrap(), PinCheck::Ok { must_change: false });
    // The import that the administrator repeats leaves the PIN out.
    let again = import(&node, table, &how()).await.unwrap();
    assert_eq!((again.changed, again.unchanged, again.missed), (1, 1, vec![]));
    assert_eq!(node.mailstore.check_pin(ada, &own, "").await.unwrap(), PinCheck::Ok { must_change: false });
}

#[tokio::test]
async fn table_with_an_error_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let table = "number,name,pin,cos\n1001,Ada,284617,\n1002,Bo,1234,\n1003,Cy,602214,gold\n";
    let problems = import(&node, table, &how()).await.unwrap_err();
    assert_eq!(problems.iter().map(|p| p.line).collect::<Vec<_>>(), [3, 4], "{problems:?}");
    assert!(problems[0].what.contains("sequence") && problems[1].what.contains("gold"), "{problems:?}");
    assert!(node.mailstore.mailboxes().await.unwrap().is_empty());
    // A PIN that is too easy can be left out, or accepted and changed at the first sign-in.
    let table = "number,pin\n1002,1234\n";
    let left_out = UserImport { weak_pins: WeakPins::LeaveOut, ..how() };
    let plan = node.mailstore.plan_users(read_users(table).unwrap(), &left_out).await;
    assert!(plan.unwrap().unwrap().users[0].without_pin);
    import(&node, table, &UserImport { weak_pins: WeakPins::Accept, keep_pins: true, ..how() }).await.unwrap();
    let bo = node.mailstore.find_by_number("1002").await.unwrap().unwrap();
    assert!(bo.pin.is_some_and(|pin| pin.must_change && pin.verify("1234", &mut HashMemory::default())));
}

#[tokio::test]
async fn imported_first_pins_have_a_lower_hash_cost() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let of = async |number: &str| {
        let mailbox = node.mailstore.find_by_number(number).await.unwrap().unwrap();
        (mailbox.id, mailbox.pin.unwrap().cost())
    };
    import(&node, "number,pin\n1001,284617\n", &how()).await.unwrap();
    let (ada, first) = of("1001").await;
    assert_eq!(first, Some(HashCost::FIRST_PINS));
    let check = async |pin: &str| node.mailstore.check_pin(ada, &Pii::new(pin.to_owned()), "").await.unwrap();
    assert_eq!(
        (check("284618").await, check("284617").await),
        (PinCheck::Wrong, PinCheck::Ok { must_change: true })
    );
    node.mailstore.set_pin(ada, &Pii::new("739528".to_owned())).await.unwrap();
    assert_eq!(of("1001").await.1, Some(HashCost::default()));
    // A mailbox without a PIN gets a cheap first one too; a PIN that stays is not cheap.
    import(&node, "number\n1002\n", &how()).await.unwrap();
    import(&node, "number,pin\n1002,602214\n", &how()).await.unwrap();
    assert_eq!(of("1002").await.1, Some(HashCost::FIRST_PINS));
    import(&node, "number,pin\n1003,602214\n", &UserImport { keep_pins: true, ..how() }).await.unwrap();
    assert_eq!(of("1003").await.1, Some(HashCost::default()));
}

#[tokio::test]
async fn addresses_and_devices_of_a_table_are_imported_once() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let head = "number,mail,aliases,notify_mail,notify_audio,notify_delete,notify_pager\n";
    let table = format!(
        "{head}1001,Anna@Example.com,anna a.l@old.example,anna@example.com,yes,yes,1@pager.example\n1002,,bert,,,,\n"
    );
    let first = import(&node, &table, &how()).await.unwrap();
    assert_eq!((first.created, first.changed, first.unchanged), (2, 0, 0));
    let find = async |text: &str| {
        let found = node.mailstore.find_by_address(&UserAddress::alias(text).unwrap()).await.unwrap();
        found.map(|mailbox| mailbox.number)
    };
    for (address, number) in [
        ("anna@example.com", Some("1001")),
        ("ANNA", Some("1001")),
        ("a.l@old.example", Some("1001")),
        ("bert", Some("1002")),
        ("bert@old.example", None),
    ] {
        assert_eq!(find(address).await.as_deref(), number, "{address}");
    }
    let anna = node.mailstore.find_by_number("1001").await.unwrap().unwrap().id;
    let devices = async || {
        let devices = node.mailstore.devices(anna).await.unwrap();
        devices.into_iter().map(|d| (d.name, d.kind.target().reveal().clone(), d.enabled)).collect::<Vec<_>>()
    };
    let device = |name: &str, address: &str, enabled| (name.to_owned(), address.to_owned(), enabled);
    let both = [device("mail", "anna@example.com", true), device("pager", "1@pager.example", true)];
    assert_eq!(devices().await, both);
    let again = import(&node, &table, &how()).await.unwrap();
    assert_eq!((again.created, again.changed, again.unchanged), (0, 0, 2));

    // An address of another user is refused with its number, and so is one that the table has twice.
    for (rows, words) in [
        ("1002,,bert anna,,,,\n", "aliases: anna belongs to mailbox 1001"),
        ("1003,anna@example.com,,,,,\n", "mail: anna@example.com belongs to mailbox 1001"),
        ("1003,x@example.com,,,,,\n1004,,X@example.com,,,,\n", "the address x@example.com is on line 2"),
        ("1002,,,b@example.com,no,yes,\n", "notify_delete: "),
    ] {
        let problems = import(&node, &format!("{head}{rows}"), &how()).await.unwrap_err();
        assert!(problems.len() == 1 && problems[0].what.starts_with(words), "{problems:?}");
    }
    let new = |number: &str, alias: &str| NewMailbox {
        addresses: UserAddresses { mail: None, aliases: vec![UserAddress::alias(alias).unwrap()] },
        ..NewMailbox::new(number, "2580")
    };
    let refused = node.mailstore.create(new("1003", "Anna")).await;
    assert!(matches!(refused, Err(CreateError::AddressTaken { number, .. }) if number == "1001"));

    // A device that an administrator removed comes back with another id; one that was disabled stays.
    let id = node.mailstore.devices(anna).await.unwrap()[0].id;
    node.mailstore.remove_device(anna, id).await.unwrap();
    let changes = format!("{head}1001,,-,anna@example.com,,,-\n");
    assert_eq!(import(&node, &changes, &how()).await.unwrap().changed, 1);
    let one = [device("mail", "anna@example.com", true), device("pager", "1@pager.example", false)];
    assert_eq!(devices().await, one);
    assert_eq!(import(&node, &changes, &how()).await.unwrap().unchanged, 1);
    // Aliases given up are free, and so are the addresses of a removed user.
    node.mailstore.create(new("1003", "Anna")).await.unwrap();
    node.mailstore.remove(anna).await.unwrap();
    node.mailstore.create(new("1004", "anna@example.com")).await.unwrap();
    assert_eq!(find("anna@example.com").await.as_deref(), Some("1004"));
}

#[tokio::test]
async fn earlier_of_two_users_keeps_the_address() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (Node::alone(&dir.path().join("a"), "a"), Node::alone(&dir.path().join("b"), "b"));
    let alias = UserAddress::alias("anna").unwrap();
    import(&a, "number,aliases\n1001,anna\n", &how()).await.unwrap();
    a.wait_past_stamps().await;
    import(&b, "number,aliases\n1002,anna\n", &how()).await.unwrap();
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    for node in [&a, &b] {
        let found = node.mailstore.find_by_address(&alias).await.unwrap().unwrap();
        assert_eq!(found.number, "1001");
        assert!(node.mailstore.lost_addresses(&found).unwrap().is_empty());
        let other = node.mailstore.find_by_number("1002").await.unwrap().unwrap();
        assert_eq!(node.mailstore.lost_addresses(&other).unwrap(), std::slice::from_ref(&alias));
        // It is no problem of the next table.
        assert_eq!(import(node, "number,aliases\n1002,anna\n", &how()).await.unwrap().unchanged, 1);
    }
    // The other one gets it when the first gives it up.
    import(&a, "number,aliases\n1001,-\n", &how()).await.unwrap();
    assert_eq!(a.mailstore.find_by_address(&alias).await.unwrap().unwrap().number, "1002");
}

/// `TWINBOX_IMPORT_USERS=20000` sets the number of users; the time is printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_users_are_imported_in_groups_on_both_nodes() {
    let count: u32 = std::env::var("TWINBOX_IMPORT_USERS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let pins = std::env::var_os("TWINBOX_IMPORT_WITHOUT_PINS").is_none();
    let dir = TempDir::new().unwrap();
    let (a, b) = pair(dir.path()).await;
    let mut table = "number,name,pin,timezone\n".to_owned();
    for n in 0..count {
        let pin = if pins { format!("{}", 284_617 + n) } else { String::new() };
        table += &format!("{},User {n},{pin},Europe/Berlin\n", 100_000 + n);
    }
    // Sequences and repetitions are among them: they are accepted, and must be changed.
    let how = UserImport { weak_pins: WeakPins::Accept, ..how() };
    let began = BootInstant::now();
    let imported = import(&a, &table, &how).await.unwrap();
    let took = began.elapsed();
    println!("{count} users, PINs {pins}: {took:.1?}, {imported:?}");
    assert_eq!(imported.created, u64::from(count));
    // Hundreds of users per commit, each of them on two disks.
    assert_eq!(imported.groups_on_two + imported.groups_alone, u64::from(count.div_ceil(128)));
    let last = (100_000 + count - 1).to_string();
    if imported.groups_alone == 0 {
        assert!(b.mailstore.find_by_number(&last).await.unwrap().is_some());
    }
    eventually("all are on b", async || b.mailstore.mailboxes().await.unwrap().len() == count as usize).await;
    let began = BootInstant::now();
    assert_eq!(import(&b, &table, &how).await.unwrap().unchanged, u64::from(count));
    println!("again, on the other node: {:.1?}", began.elapsed());
    assert!(took < Duration::from_secs(600));
}

#[tokio::test]
async fn imported_message_is_taken_once() {
    let dir = TempDir::new().unwrap();
    let (a, b) = pair(dir.path()).await;
    let mailbox = a.mailbox().await.id;
    let message = |n: u64, folder| ImportedMessage {
        mailbox,
        received: Timestamp(1_763_625_600_000 + n),
        caller: Some(Pii::new("5550100".to_owned())),
        caller_name: Some(Pii::new("Ada".to_owned())),
        folder,
        cause: String::new(),
        audio: Audio { codec: Codec::Pcmu, bytes: audio(1_500).into() },
    };
    let folders = [Folder::New, Folder::Heard, Folder::Saved];
    let mut ids = Vec::new();
    for (n, folder) in folders.into_iter().enumerate() {
        let (id, outcome) = a.mailstore.import_message(message(n as u64, folder)).await.unwrap();
        assert_eq!(outcome, ImportOutcome::Taken(Acknowledgement::OnTwo { peer: name("b") }));
        ids.push(id);
    }
    let there = b.mailstore.messages(mailbox).await.unwrap();
    assert_eq!(
        there.iter().map(|m| (m.id, m.folder)).collect::<Vec<_>>(),
        ids.iter().copied().zip(folders).collect::<Vec<_>>()
    );
    assert_eq!(there.iter().map(|m| m.uid).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    assert_eq!(there[0].length_ms, 1_500);
    // The owner's later changes stay, on either node, whatever the folder at the second import.
    b.mailstore.mark(mailbox, ids[0], Mark::Saved).await.unwrap();
    b.mailstore.mark(mailbox, ids[1], Mark::Deleted).await.unwrap();
    for (n, id) in ids.iter().enumerate() {
        let (again, outcome) = b.mailstore.import_message(message(n as u64, Folder::Heard)).await.unwrap();
        assert_eq!((again, outcome), (*id, ImportOutcome::Known));
    }
    let after = a.mailstore.messages(mailbox).await.unwrap();
    assert_eq!(after.len(), 3);
    assert_eq!((after[0].folder, after[1].deleted), (Folder::Saved, true));

    let hello = || Audio { codec: Codec::Pcma, bytes: audio(900).into() };
    let other = || Audio { codec: Codec::Pcma, bytes: audio(700).into() };
    let kind = GreetingKind::Busy;
    assert!(matches!(a.mailstore.import_greeting(mailbox, kind, hello()).await.unwrap(), ImportOutcome::Taken(_)));
    assert_eq!(b.mailstore.import_greeting(mailbox, kind, hello()).await.unwrap(), ImportOutcome::Known);
    assert_eq!(b.mailstore.import_greeting(mailbox, kind, other()).await.unwrap(), ImportOutcome::Kept);
    assert_eq!(b.mailstore.greeting(mailbox, kind).await.unwrap(), Some(hello()));
}

#[tokio::test]
async fn class_of_service_applies_on_both_nodes() {
    let dir = TempDir::new().unwrap();
    let (a, b) = pair(dir.path()).await;
    let mailbox = a.mailbox().await;
    assert_eq!(b.mailstore.rules(&mailbox).unwrap().max_message_ms(), None);
    a.mailstore
        .change_class("default", vec![(Rule::MessageSeconds, Some(60)), (Rule::PinTries, Some(5))])
        .await
        .unwrap();
    a.mailstore
        .add_class(
            "Strict",
            vec![(Rule::MessageSeconds, Some(20)), (Rule::Messages, Some(1)), (Rule::PinLength, Some(8))],
        )
        .await
        .unwrap();
    assert!(matches!(b.mailstore.add_class("strict", vec![]).await, Err(ClassError::Taken { .. })));
    assert!(matches!(b.mailstore.remove_class("default").await, Err(ClassError::Default)));
    let strict = b.mailstore.find_class("strict").await.unwrap();
    assert_eq!(b.mailstore.rules(&mailbox).unwrap().max_message_ms(), Some(60_000));
    b.mailstore.change(mailbox.id, twinbox_mailstore::MailboxChange::Class(Some(strict.id))).await.unwrap();

    let mailbox = a.mailstore.get(mailbox.id).await.unwrap().unwrap();
    let rules = a.mailstore.rules(&mailbox).unwrap();
    assert_eq!((rules.max_message_ms(), rules.get(Rule::PinTries)), (Some(20_000), Some(5)));
    assert!(!a.mailstore.is_full(&mailbox).await.unwrap());
    a.leave(mailbox.id, &audio(1_500)).await;
    assert!(a.mailstore.is_full(&mailbox).await.unwrap());
    let short = a.mailstore.set_pin(mailbox.id, &Pii::new("739528".to_owned())).await;
    assert!(matches!(short, Err(PinError::Refused(_))), "{short:?}");
    // A PIN that the node chooses has as many digits as the class asks for, else six.
    let random = |class| a.mailstore.random_pin("1001", class).unwrap();
    assert_eq!((random(Some(strict.id)).reveal().len(), random(None).reveal().len()), (8, 6));
    a.mailstore.reset_pin(mailbox.id, &random(Some(strict.id)), true).await.unwrap();
    assert!(matches!(a.mailstore.remove_class("strict").await, Err(ClassError::InUse { count: 1, .. })));

    // Total length, easy PINs, and sign-in.
    let rules = vec![
        (Rule::Messages, None),
        (Rule::TotalMinutes, Some(1)),
        (Rule::PinLength, None),
        (Rule::EasyPins, Some(1)),
    ];
    a.mailstore.change_class("strict", rules).await.unwrap();
    assert!(!b.mailstore.is_full(&mailbox).await.unwrap());
    a.leave(mailbox.id, &audio(59_000)).await;
    assert!(b.mailstore.is_full(&mailbox).await.unwrap());
    let easy = Pii::new("1111".to_owned());
    b.mailstore.set_pin(mailbox.id, &easy).await.unwrap();
    assert!(matches!(a.mailstore.check_pin(mailbox.id, &easy, "").await.unwrap(), PinCheck::Ok { .. }));
    a.mailstore.change_class("strict", vec![(Rule::SignIn, Some(0))]).await.unwrap();
    assert_eq!(b.mailstore.check_pin(mailbox.id, &easy, "").await.unwrap(), PinCheck::Wrong);

    a.mailstore.change(mailbox.id, twinbox_mailstore::MailboxChange::Class(None)).await.unwrap();
    b.mailstore.remove_class("strict").await.unwrap();
    assert!(a.mailstore.find_class("strict").await.is_err());
    a.mailstore.add_class("strict", vec![]).await.unwrap();
}

#[tokio::test]
async fn earlier_of_two_classes_keeps_the_name() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (Node::alone(&dir.path().join("a"), "a"), Node::alone(&dir.path().join("b"), "b"));
    let (first, _) = a.mailstore.add_class("sales", vec![(Rule::Messages, Some(1))]).await.unwrap();
    a.wait_past_stamps().await;
    b.mailstore.add_class("sales", vec![(Rule::Messages, Some(2))]).await.unwrap();
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    for node in [&a, &b] {
        assert_eq!(node.mailstore.find_class("sales").await.unwrap().id, first);
        let lost: Vec<bool> = node.mailstore.classes().await.unwrap().iter().map(|c| c.name_lost).collect();
        assert_eq!(lost.iter().filter(|lost| **lost).count(), 1, "{lost:?}");
    }
}

#[tokio::test]
async fn custom_prompt_is_replicated_to_the_other_node() {
    let dir = TempDir::new().unwrap();
    let (a, b) = pair(dir.path()).await;
    let key = PromptKey::new("en", "vm-intro").unwrap();
    let mut watch = b.mailstore.watch_prompts();
    let wav = bytes::Bytes::from(vec![7; 1_000]);
    let acknowledged = a.mailstore.set_custom_prompt(&key, Some(wav.clone())).await.unwrap();
    assert_eq!(acknowledged, Acknowledgement::OnTwo { peer: name("b") });
    assert_eq!(watch.next().await, Some(PromptsChange::One(key.clone())));
    assert_eq!(b.mailstore.custom_prompt(&key).await.unwrap(), Some(wav));
    assert_eq!(b.mailstore.custom_prompts().await.unwrap().len(), 1);
    b.mailstore.set_custom_prompt(&key, None).await.unwrap();
    assert_eq!(a.mailstore.custom_prompt(&key).await.unwrap(), None);
    assert!(a.mailstore.custom_prompts().await.unwrap().is_empty());
}
