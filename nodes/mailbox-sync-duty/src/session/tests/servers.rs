//! Servers that refuse steps, drop flags, rewrite Message-IDs, and folders of many mails.

use twinbox_mailbox_sync::NamesKept;

use super::*;

const NONE: ImapFlags = ImapFlags { seen: false, flagged: false, deleted: false };

#[tokio::test]
async fn flag_that_the_server_does_not_keep_changes_nothing_here() {
    for folder in folders() {
        let unkept = ImapFlags { flagged: true, ..NONE };
        let mut world = World::with(&[], MemoryFolder { unkept, ..folder }).await;
        let ids = [world.leave().await, world.leave().await];
        world.mark(ids[0], Mark::Saved).await;
        world.settle().await;
        // The server never had the flag: each look reads the mail without it.
        for id in ids {
            let uid = world.folder.uids_of(id)[0];
            world.folder.set(uid, |flags| flags.flagged = false);
        }
        world.mark(ids[1], Mark::Saved).await;
        world.settle().await;
        for id in ids {
            assert_eq!(world.message(id).await.folder, MailFolder::Saved);
        }
        // A flag that the server keeps still counts.
        let uid = world.folder.uids_of(ids[0])[0];
        world.folder.set(uid, |flags| flags.seen = false);
        world.settle().await;
        assert_eq!(world.message(ids[0]).await.folder, MailFolder::New);
        // It begins to keep the flag: it gets it, and nothing changes here.
        world.folder.unkept = NONE;
        world.settle().await;
        assert_eq!(world.message(ids[1]).await.folder, MailFolder::Saved);
        world.agree(ids[1]).await;
    }
}

#[tokio::test]
async fn refused_steps_after_a_full_look_are_kept_and_tried_again_after_a_pause() {
    for folder in folders() {
        let mut world = World::with(&[], folder).await;
        let ids = [world.leave().await, world.leave().await];
        world.settle().await;
        world.folder.renumber();
        world.folder.refuses = true;
        world.mark(ids[0], Mark::Heard).await;
        world.mark(ids[1], Mark::Deleted).await;
        let (_, end) = world.round_cut(None, LookOptions::default()).await;
        assert!(matches!(end.expect("a round").refused, Some(SyncError::Imap(ImapError::No { .. }))));
        let (_, state) = world.account();
        assert_eq!((state.uid_validity, state.refused), (6, 2), "the position is stored: {state:?}");
        // The UIDs stay: some looks note that, and then the folder is trusted again.
        loop {
            let before = world.node.store.vector();
            world.round_cut(None, LookOptions::default()).await.1.expect("a round");
            if world.node.store.vector() == before {
                break;
            }
        }
        // The next look is no full one, and asks the server for nothing that it refused just now.
        let before = world.node.store.vector();
        let (counts, end) = world.round_cut(None, LookOptions::default()).await;
        assert!(matches!(end.expect("a round").refused, Some(SyncError::StepsWait(2))));
        assert_eq!((counts, world.folder.read_ids), (RoundCounts::default(), 0));
        assert_eq!(world.node.store.vector(), before, "nothing is written");
        // An order does not wait for the end of the pause, and the account is fine again.
        world.folder.refuses = false;
        let options = LookOptions { retry: true, ..LookOptions::default() };
        let (counts, end) = world.round_cut(None, options).await;
        assert!(end.expect("a round").refused.is_none());
        assert_eq!((counts.flagged_there, counts.removed_there), (1, 1));
        assert_eq!(world.account().1.refused, 0);
        world.settle().await;
        for id in ids {
            world.agree(id).await;
        }
    }
}

/// Whether a removal there did not get beyond `\Deleted`.
fn is_half_removed(world: &World) -> bool {
    world.folder.mails.values().any(|mail| mail.flags.deleted)
}

/// A message that was deleted here, whose removal there did not end well, is undeleted here.
async fn undelete(world: &mut World, id: MessageId) {
    world.folder.keeps = false;
    world.mark(id, Mark::Undeleted).await;
    let retry = LookOptions { retry: true, ..LookOptions::default() };
    world.round_cut(None, retry).await.1.expect("a round");
    world.settle().await;
    assert!(!world.message(id).await.deleted, "the undeletion outlives the flag");
    let uid = world.folder.uids_of(id)[0];
    assert!(!world.folder.mails[&uid].flags.deleted, "{:?}", world.folder);
    world.agree(id).await;
    // A deletion there counts as ever.
    world.folder.set(uid, |flags| flags.deleted = true);
    world.settle().await;
    assert!(world.message(id).await.deleted);
}

#[tokio::test]
async fn undeletion_outlives_a_removal_that_the_server_refused_half_way() {
    for folder in folders() {
        let mut world = World::with(&[], MemoryFolder { keeps: true, ..folder }).await;
        let id = world.leave().await;
        world.settle().await;
        world.mark(id, Mark::Deleted).await;
        let (_, end) = world.round_cut(None, LookOptions::default()).await;
        assert!(matches!(end.expect("a round").refused, Some(SyncError::Imap(ImapError::No { .. }))));
        assert!(is_half_removed(&world));
        undelete(&mut world, id).await;
    }
}

#[tokio::test]
async fn undeletion_outlives_a_removal_that_was_cut_half_way() {
    for variant in 0..folders().len() {
        let mut half_way = 0;
        for (call, cut) in (1..12).flat_map(|call| [(call, Cut::Before), (call, Cut::After)]) {
            let folder = folders().into_iter().nth(variant).expect("a variant");
            let mut world = World::with(&[], folder).await;
            let id = world.leave().await;
            world.settle().await;
            world.mark(id, Mark::Deleted).await;
            let _ = world.round_cut(Some((call, cut)), LookOptions::default()).await;
            half_way += u32::from(is_half_removed(&world));
            undelete(&mut world, id).await;
        }
        assert_eq!(half_way, 2, "after the flag and before the removal");
    }
}

#[tokio::test]
async fn undeletion_outlives_a_removal_that_would_remove_mails_of_others() {
    let folder = MemoryFolder { qresync: false, uidplus: false, ..MemoryFolder::default() };
    let mut world = World::with(&[], folder).await;
    let id = world.leave().await;
    world.settle().await;
    world.folder.add(Some("<other@mail.example>".to_owned()), ImapFlags { deleted: true, ..NONE });
    world.mark(id, Mark::Deleted).await;
    world.settle().await;
    assert!(is_half_removed(&world));
    undelete(&mut world, id).await;
}

#[tokio::test]
async fn server_that_rewrites_message_ids_gets_no_message_twice() {
    for (strips, names) in [(false, NamesKept::OwnField), (true, NamesKept::Nothing)] {
        for qresync in [true, false] {
            let folder = MemoryFolder { rewrites: true, strips, qresync, ..MemoryFolder::default() };
            let mut world = World::with(&[], folder).await;
            let mut ids = vec![world.leave().await, world.leave().await];
            for _ in 0..3 {
                world.settle().await;
                world.folder.add(Some("<other@mail.example>".to_owned()), NONE);
                ids.push(world.leave().await);
            }
            world.settle().await;
            assert_eq!(world.account().1.names, names);
            assert_eq!(world.folder.mails.len(), ids.len() + 3, "{:?}", world.folder);
            // Another UIDVALIDITY: they are found again.
            world.folder.renumber();
            world.settle().await;
            assert_eq!(world.folder.mails.len(), ids.len() + 3);
            world.mark(ids[0], Mark::Deleted).await;
            assert_eq!(world.round().await.removed_there, 1);
            assert_eq!(world.folder.mails.len(), ids.len() + 2);
            let is_other = |mail: &&memory::StoredMail| mail.id.as_deref() == Some("<other@mail.example>");
            assert_eq!(world.folder.mails.values().filter(is_other).count(), 3);
        }
    }
}

#[tokio::test]
async fn interrupted_append_to_a_server_that_strips_all_names_is_held_and_not_repeated() {
    let folder = MemoryFolder { rewrites: true, strips: true, ..MemoryFolder::default() };
    let mut world = World::with(&[], folder).await;
    let first = world.leave().await;
    world.settle().await;
    assert_eq!(world.account().1.names, NamesKept::Nothing);
    let second = world.leave().await;
    let mut call = 1;
    while world.folder.mails.len() < 2 {
        let _ = world.round_cut(Some((call, Cut::After)), LookOptions::default()).await;
        call += 1;
        assert!(call < 20, "the mail is never appended");
    }
    world.settle().await;
    assert_eq!(world.folder.mails.len(), 2, "not a second time: {:?}", world.folder);
    assert_eq!(world.account().1.held_back, 1);
    for id in [first, second] {
        assert!(!world.message(id).await.deleted);
    }
}

#[tokio::test]
async fn mail_that_the_server_shows_long_after_its_append_is_there_once() {
    for (qresync, uidplus) in [(true, true), (false, true), (false, false)] {
        let mut world =
            World::with(&[], MemoryFolder { qresync, uidplus, late: 4, ..MemoryFolder::default() }).await;
        let id = world.leave().await;
        let (_, end) = world.round_cut(None, LookOptions::default()).await;
        assert!(matches!(end, Err(SyncError::Imap(ImapError::Unknown { .. }))), "{end:?}");
        for _ in 0..6 {
            world.round_cut(None, LookOptions::default()).await.1.expect("a round");
        }
        assert_eq!((world.folder.mails.len(), world.folder.coming.len()), (1, 0), "{:?}", world.folder);
        world.folder.late = 0;
        world.settle().await;
        world.agree(id).await;
    }
}

#[tokio::test]
async fn append_that_the_server_did_not_get_is_repeated_although_no_look_could_find_its_mail() {
    for call in 1..10 {
        let folder = MemoryFolder { rewrites: true, strips: true, ..MemoryFolder::default() };
        let mut world = World::with(&[], folder).await;
        world.leave().await;
        world.settle().await;
        world.leave().await;
        let _ = world.round_cut(Some((call, Cut::Before)), LookOptions::default()).await;
        world.settle().await;
        assert_eq!(world.folder.mails.len(), 2, "cut before call {call}: {:?}", world.folder);
    }
}

#[tokio::test]
async fn messages_whose_append_has_not_begun_are_not_held_when_the_server_turns_out_to_strip_all_names() {
    let folder = MemoryFolder { rewrites: true, strips: true, room: Some(1), ..MemoryFolder::default() };
    let mut world = World::with(&[], folder).await;
    let ids = [world.leave().await, world.leave().await, world.leave().await];
    for _ in 0..2 {
        let (_, end) = world.round_cut(None, LookOptions::default()).await;
        let end = end.expect("a round");
        assert!(matches!(end.refused, Some(SyncError::Imap(ImapError::Quota { .. }))), "{end:?}");
        assert_eq!((end.held_back, world.folder.mails.len()), (0, 1));
    }
    assert_eq!(world.account().1.names, NamesKept::Nothing);
    world.folder.room = None;
    world.settle().await;
    assert_eq!((world.folder.mails.len(), world.account().1.held_back), (ids.len(), 0));
}

#[tokio::test]
async fn mail_without_any_message_id_is_held_and_neither_removed_nor_sent_again() {
    let folder = MemoryFolder { rewrites: true, strips: true, nameless: true, ..MemoryFolder::default() };
    let mut world = World::with(&[], folder).await;
    world.folder.add(None, NONE);
    let id = world.leave().await;
    world.settle().await;
    assert_eq!((world.folder.mails.len(), world.account().1.held_back), (2, 1));
    world.mark(id, Mark::Saved).await;
    world.settle().await;
    assert!(!world.message(id).await.deleted);
    world.mark(id, Mark::Deleted).await;
    world.settle().await;
    assert_eq!((world.folder.mails.len(), world.account().1.held_back), (2, 0));
}

#[tokio::test]
async fn mail_that_a_rule_moves_away_at_once_deletes_nothing_here() {
    let mut world = World::with(&[], MemoryFolder { moves: true, ..MemoryFolder::default() }).await;
    let id = world.leave().await;
    let (counts, end) = world.round_cut(None, LookOptions::default()).await;
    assert!(matches!(end.expect("a round").refused, Some(SyncError::NotShown)));
    assert_eq!((counts.appended, world.folder.hidden), (0, 1));
    world.settle().await;
    assert!(!world.message(id).await.deleted);
    assert_eq!(world.folder.hidden, 1, "no copy at each look");
}

#[tokio::test]
async fn mail_that_cannot_be_read_holds_up_no_other() {
    let mut world = World::new().await;
    let ids = [world.leave().await, world.leave().await];
    world.settle().await;
    world.folder.unreadable = Some(world.folder.uids_of(ids[1])[0]);
    for id in ids {
        world.mark(id, Mark::Deleted).await;
    }
    // A new mail of others: the look reads the latest of ours.
    world.folder.add(None, NONE);
    let (counts, end) = world.round_cut(None, LookOptions::default()).await;
    assert!(matches!(end.expect("a round").refused, Some(SyncError::Imap(ImapError::No { .. }))));
    assert_eq!(counts.removed_there, 1);
    world.folder.unreadable = None;
    let retry = LookOptions { retry: true, ..LookOptions::default() };
    let (counts, _) = world.round_cut(None, retry).await;
    assert_eq!(counts.removed_there, 1);
    for id in ids {
        world.agree(id).await;
    }
}

#[tokio::test]
async fn mail_of_others_that_a_search_finds_is_not_taken_for_ours() {
    let folder =
        MemoryFolder { qresync: false, uidplus: false, rewrites: true, loose: true, ..MemoryFolder::default() };
    let mut world = World::with(&[], folder).await;
    let mut ids = vec![world.leave().await];
    world.settle().await;
    let others = [world.folder.add(None, NONE), world.folder.add(None, NONE)];
    ids.push(world.leave().await);
    world.settle().await;
    world.mark(ids[1], Mark::Deleted).await;
    world.settle().await;
    assert!(others.iter().all(|uid| world.folder.mails.contains_key(uid)), "{:?}", world.folder);
    for id in ids {
        world.agree(id).await;
    }
}

#[tokio::test]
async fn message_that_was_deleted_before_it_was_known_there_stays_deleted_after_a_reading_in_parts() {
    let mut world = World::new().await;
    let id = world.leave().await;
    world.mark(id, Mark::Deleted).await;
    world.folder.add(Some(message_id(id, Extent::Whole, CLUSTER)), NONE);
    for number in 0..25_000 {
        world.folder.add(Some(format!("<{number}@mail.example>")), NONE);
    }
    world.settle().await;
    assert!(world.message(id).await.deleted);
}

#[tokio::test]
async fn first_look_at_a_large_folder_goes_on_where_it_was_cut() {
    const MAILS: u32 = 50_000;
    let mut world = World::new().await;
    let ids = [world.leave().await, world.leave().await, world.leave().await];
    world.settle().await;
    // The account is added again, with our mails at the begin, in the middle and at the end of many others.
    let mine: Vec<String> = ids.iter().map(|id| message_id(*id, Extent::Whole, CLUSTER)).collect();
    world.folder.mails.clear();
    for number in 0..MAILS {
        let own = mine.get(match number {
            7 => 0,
            25_000 => 1,
            49_990 => 2,
            _ => 9,
        });
        world.folder.add(own.cloned().or_else(|| Some(format!("<{number}@mail.example>"))), NONE);
    }
    world.store.remove_account(world.mailbox).await.expect("removed");
    world.store.set_account(world.mailbox, Some(SERVER), BTreeMap::new()).await.expect("an account");
    // No connection lasts for the whole folder.
    world.folder.most_ids = Some(21_000);
    let mut rounds = 0;
    loop {
        let (counts, end) = world.round_cut(None, LookOptions::default()).await;
        let end = end.expect("a round");
        assert_eq!(counts.appended, 0, "nothing is appended that is there");
        rounds += 1;
        if rounds == 1 {
            // A mail that was found is read meanwhile.
            let uid = world.folder.uids_of(ids[0])[0];
            world.folder.set(uid, |flags| flags.seen = true);
        }
        if !end.again {
            break;
        }
        assert!(rounds < 8, "the first look does not end");
    }
    assert!(rounds >= 3, "{rounds}");
    for id in ids {
        world.agree(id).await;
    }
    assert_eq!(world.account().1.scan.next, 0);
}

#[tokio::test]
async fn message_that_comes_during_a_reading_in_parts_is_not_appended_beside_its_mail() {
    let mut world = World::new().await;
    // The mail of another holder, whose message is not here yet.
    let dir = tempfile::tempdir().expect("a folder");
    let recorder = Node::alone(dir.path(), "b");
    world.node.hand_over(&recorder).await;
    let id = recorder.leave(world.mailbox, &audio(1_000)).await.message;
    world.folder.add(Some(message_id(id, Extent::Whole, CLUSTER)), NONE);
    for number in 0..25_000 {
        world.folder.add(Some(format!("<{number}@mail.example>")), NONE);
    }
    let (_, end) = world.round_cut(None, LookOptions::default()).await;
    assert!(end.expect("a round").goes_on);
    recorder.hand_over(&world.node).await;
    world.settle().await;
    world.agree(id).await;
}

/// Nothing is found again: the folder is empty under another UIDVALIDITY.
fn replace(folder: &mut MemoryFolder) {
    folder.mails.clear();
    folder.renumber();
}

#[tokio::test]
async fn server_that_gives_new_uids_at_each_look_gets_three_copies_and_no_more_until_they_stay() {
    let mut world = World::new().await;
    let id = world.leave().await;
    let mut appended = 0;
    for look in 1..=6 {
        replace(&mut world.folder);
        let (counts, end) = world.round_cut(None, LookOptions { retry: true, ..LookOptions::default() }).await;
        appended += counts.appended;
        assert_eq!(matches!(end, Err(SyncError::UidsChange)), look > 3, "look {look}: {end:?}");
    }
    assert_eq!(appended, 3);
    let mut looks = 0;
    while world.folder.uids_of(id).is_empty() {
        let _ = world.round_cut(None, LookOptions::default()).await;
        looks += 1;
        assert!(looks < 20, "the folder is never trusted again");
    }
    world.settle().await;
    world.agree(id).await;
}

#[tokio::test]
async fn copies_are_bounded_too_where_each_round_is_cut() {
    for (call, cut) in (1..8).flat_map(|call| [(call, Cut::Before), (call, Cut::After)]) {
        let mut world = World::new().await;
        world.leave().await;
        let mut copies = 0;
        for _ in 0..6 {
            replace(&mut world.folder);
            let _ = world.round_cut(Some((call, cut)), LookOptions::default()).await;
            copies += world.folder.mails.len();
        }
        assert!(copies <= 3, "{copies} copies with a cut at call {call}, {cut:?}");
    }
}
