//! Selecting folders, reading flags and Message-IDs.

use std::collections::BTreeSet;

use twinbox_imap::{FetchedFlags, FetchedId, ImapError, ImapFlags, Resume, Selected};

use crate::support::{Fake, opened, password, select, signed_in};

fn state(uid_validity: u32, modseq: u64, uids: &[u32]) -> Option<Resume> {
    Some(Resume { uid_validity, modseq, uids: uids.iter().copied().collect() })
}

fn seen(uid: u32) -> FetchedFlags {
    FetchedFlags { uid, flags: ImapFlags { seen: true, ..ImapFlags::default() } }
}

fn plain() -> Selected {
    // The server of these tests keeps no \Flagged.
    let unkept = ImapFlags { flagged: true, ..ImapFlags::default() };
    Selected { uid_validity: 7, uid_next: 21, exists: 5, unkept, ..Selected::default() }
}

#[tokio::test]
async fn select_resumes_only_where_the_server_can() {
    let enabled = "C: ENABLE QRESYNC\nS: * ENABLED QRESYNC CONDSTORE\nS: TAG OK done\n";
    let modseq = "S: * OK [HIGHESTMODSEQ 99] high\n";
    let sparse: Vec<u32> = (1..1_000).step_by(2).collect();
    let tables: [(&str, &str, Option<Resume>, String, Selected); 9] = [
        ("server without extensions", "", state(7, 50, &[1, 2]), select("", ""), plain()),
        (
            "server with CONDSTORE alone",
            "CONDSTORE",
            state(7, 50, &[1, 2]),
            select(" (CONDSTORE)", modseq),
            Selected { highest_modseq: Some(99), ..plain() },
        ),
        ("QRESYNC without ENABLE cannot be used", "QRESYNC", state(7, 50, &[1]), select("", ""), plain()),
        (
            "QRESYNC that the server does not enable",
            "ENABLE QRESYNC",
            state(7, 50, &[1]),
            "C: ENABLE QRESYNC\nS: * ENABLED\nS: TAG OK done\n".to_owned() + &select(" (CONDSTORE)", modseq),
            Selected { highest_modseq: Some(99), ..plain() },
        ),
        (
            "removed and changed mails, those that were not asked for are dropped",
            "ENABLE QRESYNC",
            state(7, 50, &[1, 2, 3, 9]),
            enabled.to_owned()
                + &select(
                    " (QRESYNC (7 50 1:3,9))",
                    "S: * OK [HIGHESTMODSEQ 99] high\n\
                     S: * VANISHED (EARLIER) 2,9:4294967295\n\
                     S: * 1 FETCH (UID 1 FLAGS (\\Seen) MODSEQ (60))\n\
                     S: * 2 FETCH (UID 12 FLAGS (\\Seen) MODSEQ (60))\n",
                ),
            Selected {
                highest_modseq: Some(99),
                resumed: true,
                vanished: vec![2, 9],
                flags: vec![seen(1)],
                ..plain()
            },
        ),
        (
            "UIDVALIDITY changed",
            "ENABLE QRESYNC",
            state(6, 50, &[1]),
            enabled.to_owned() + &select(" (QRESYNC (6 50 1))", modseq),
            Selected { highest_modseq: Some(99), ..plain() },
        ),
        (
            "folder without modification sequences",
            "ENABLE QRESYNC",
            state(7, 50, &[1]),
            enabled.to_owned() + &select(" (QRESYNC (7 50 1))", "S: * OK [NOMODSEQ] none\n"),
            plain(),
        ),
        (
            "no modification sequence was seen yet",
            "ENABLE QRESYNC",
            state(7, 0, &[1]),
            enabled.to_owned() + &select("", modseq),
            Selected { highest_modseq: Some(99), ..plain() },
        ),
        (
            "more ranges than fit into a command",
            "ENABLE QRESYNC",
            state(7, 50, &sparse),
            enabled.to_owned() + &select("", modseq),
            Selected { highest_modseq: Some(99), ..plain() },
        ),
    ];
    for (what, extensions, resume, transcript, expected) in tables {
        let fake = Fake::new(signed_in(extensions, &transcript)).await;
        let mut client = fake.connect(&password()).await.unwrap();
        assert_eq!(client.select("INBOX", resume).await, Ok(expected), "{what}");
        fake.done().await;
    }
}

#[tokio::test]
async fn data_of_the_folder_before_is_not_taken_for_the_next() {
    let again = "C: SELECT \"INBOX\"\n\
                 S: * VANISHED 3\n\
                 S: * 9 EXISTS\n\
                 S: * OK [CLOSED] closed\n"
        .to_owned();
    let next = select("", "").lines().skip(1).collect::<Vec<_>>().join("\n");
    let (fake, mut client) = opened("", &(again + &next)).await;
    assert_eq!(client.select("INBOX", None).await, Ok(plain()));
    fake.done().await;
}

#[tokio::test]
async fn folders_that_cannot_be_used_are_told_apart() {
    let validity = "S: * OK [UIDVALIDITY 7] fine\n";
    let next = "S: * OK [UIDNEXT 21] next\n";
    for (answer, expected) in [
        ("S: TAG NO no such folder".to_owned(), "folder 'Voice Ä' cannot be opened: no such folder"),
        ("S: TAG NO [INUSE] try later".to_owned(), "refused SELECT: try later"),
        ("S: TAG BAD what".to_owned(), "refused SELECT: what"),
        (format!("{validity}{next}S: TAG OK [READ-ONLY] done"), "is read-only"),
        (
            format!("{validity}S: TAG OK done\nC: STATUS \"Voice &AMQ-\" (UIDNEXT)\nS: TAG NO [NONEXISTENT] gone"),
            "folder 'Voice Ä' cannot be opened: gone",
        ),
        (
            format!(
                "{validity}S: TAG OK done\nC: STATUS \"Voice &AMQ-\" (UIDNEXT)\nS: * STATUS x ()\nS: TAG OK done"
            ),
            "no UIDNEXT",
        ),
        (format!("S: * OK [UIDVALIDITY 0] bad\n{next}S: TAG OK done"), "no UIDVALIDITY"),
    ] {
        let transcript = format!("C: SELECT \"Voice &AMQ-\"\n{answer}");
        let fake = Fake::new(signed_in("", &transcript)).await;
        let mut client = fake.connect(&password()).await.unwrap();
        let error = client.select("Voice Ä", None).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        fake.done().await;
    }
}

#[tokio::test]
async fn uid_next_that_select_does_not_tell_is_asked_for_before_the_last_select() {
    for (validity, expected) in [
        (7, Ok(Selected { uid_validity: 7, uid_next: 21, exists: 6, ..Selected::default() })),
        (8, Err("UIDVALIDITY changed")),
    ] {
        let transcript = format!(
            "C: SELECT \"INBOX\"\n\
             S: * 5 EXISTS\n\
             S: * OK [UIDVALIDITY 7] Ok\n\
             S: TAG OK [READ-WRITE] Ok\n\
             C: STATUS \"INBOX\" (UIDNEXT)\n\
             S: * STATUS \"INBOX\" (UIDNEXT 21)\n\
             S: TAG OK STATUS Completed.\n\
             C: SELECT \"INBOX\"\n\
             S: * 6 EXISTS\n\
             S: * OK [UIDVALIDITY {validity}] Ok\n\
             S: TAG OK [READ-WRITE] Ok\n"
        );
        let fake = Fake::new(signed_in("", &transcript)).await;
        let mut client = fake.connect(&password()).await.unwrap();
        match (client.select("INBOX", None).await, expected) {
            (Ok(selected), Ok(expected)) => assert_eq!(selected, expected),
            (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
            (selected, expected) => panic!("{selected:?} in place of {expected:?}"),
        }
        fake.done().await;
    }
}

#[tokio::test]
async fn folder_is_created_and_subscribed_unless_it_exists() {
    let subscribe = "\nC: SUBSCRIBE \"a&-b\"\nS: TAG";
    for (answer, fine) in [
        (format!("OK done{subscribe} OK done"), true),
        (format!("OK done{subscribe} NO [NOPERM] no"), true),
        (format!("OK done{subscribe} BAD what"), true),
        ("NO [ALREADYEXISTS] there".to_owned(), true),
        ("NO [NOPERM] no".to_owned(), false),
    ] {
        let fake = Fake::new(signed_in("", &format!("C: CREATE \"a&-b\"\nS: TAG {answer}"))).await;
        let mut client = fake.connect(&password()).await.unwrap();
        assert_eq!(client.create("a&b").await.is_ok(), fine, "{answer}");
        fake.done().await;
    }
}

#[tokio::test]
async fn flags_are_read_in_batches_and_foreign_uids_are_dropped() {
    let uids: BTreeSet<u32> = (1..=1_001).collect();
    let (fake, mut client) = opened(
        "",
        "C: UID FETCH 1:1000 (UID FLAGS)\n\
         S: * 1 FETCH (UID 1 FLAGS (\\Seen))\n\
         S: * 2 FETCH (UID 2000 FLAGS (\\Seen))\n\
         S: * 3 FETCH (FLAGS (\\Seen))\n\
         S: * 4 FETCH (FLAGS (\\Seen \\Flagged \\Deleted $Junk) UID 4)\n\
         S: TAG OK done\n\
         C: UID FETCH 1001 (UID FLAGS)\n\
         S: TAG OK done",
    )
    .await;
    let all = ImapFlags { seen: true, flagged: true, deleted: true };
    let expected = vec![seen(1), FetchedFlags { uid: 4, flags: all }];
    assert_eq!(client.flags(&uids, Some(50)).await, Ok(expected));
    assert_eq!(client.flags(&BTreeSet::new(), None).await, Ok(Vec::new()));
    fake.done().await;
}

#[tokio::test]
async fn only_changed_flags_are_asked_for_with_condstore() {
    let transcript = select(" (CONDSTORE)", "S: * OK [HIGHESTMODSEQ 9] high\n")
        + "C: UID FETCH 1:3 (UID FLAGS) (CHANGEDSINCE 9)\n\
           S: * 1 FETCH (UID 2 MODSEQ (10) FLAGS (\\Seen))\n\
           S: TAG OK done";
    let fake = Fake::new(signed_in("CONDSTORE", &transcript)).await;
    let mut client = fake.connect(&password()).await.unwrap();
    client.select("INBOX", None).await.unwrap();
    assert_eq!(client.flags(&BTreeSet::from([1, 2, 3]), Some(9)).await, Ok(vec![seen(2)]));
    fake.done().await;
}

#[tokio::test]
async fn incomplete_answers_never_make_a_mail_look_removed() {
    for data in ["S: * 1 FETCH (UID 1 MODSEQ (5))\n", "S: * 1 FETCH (UID 1 FLAGS (\\Seen) X-NEW {)\n"] {
        let (_, mut client) = opened("", &format!("C: UID FETCH 1 (UID FLAGS)\n{data}S: TAG OK done")).await;
        let error = client.flags(&BTreeSet::from([1]), None).await.unwrap_err();
        assert!(matches!(error, ImapError::Protocol { .. }), "{error}");
    }
    let (_, mut client) = opened("", "C: UID FETCH 1 (UID FLAGS)\nS: TAG NO [SERVERBUG] disk").await;
    let error = client.flags(&BTreeSet::from([1]), None).await.unwrap_err();
    assert!(matches!(error, ImapError::No { .. }), "{error}");
}

#[tokio::test]
async fn message_ids_are_read_up_to_uid_next() {
    let (fake, mut client) = opened(
        "",
        "C: UID FETCH 3:20 (UID FLAGS BODY.PEEK[HEADER.FIELDS (MESSAGE-ID X-TWINBOX-ID)]<0.1000>)\n\
         S: * 5 FETCH (UID 20 FLAGS () BODY[HEADER.FIELDS (MESSAGE-ID)]<0> {2}\n\
         S: \n\
         S: )\n\
         S: * 4 FETCH (UID 3 FLAGS (\\Seen) BODY[HEADER.FIELDS (\"MESSAGE-ID\")]<0> {21}\n\
         S: Message-ID: <1@x>\n\
         S: \n\
         S: )\n\
         S: * 6 FETCH (UID 21 FLAGS ())\n\
         S: * 1 FETCH (UID 2 FLAGS ())\n\
         S: * 9 FETCH (UID 9 FLAGS () BODY[HEADER.FIELDS (MESSAGE-ID)] NIL)\n\
         S: TAG OK done",
    )
    .await;
    let id = |uid, message_id: Option<&str>, flags| {
        let message_id = message_id.map(str::to_owned);
        FetchedId { uid, flags, message_id, own_id: None }
    };
    let none = ImapFlags::default();
    let expected = vec![id(3, Some("<1@x>"), seen(3).flags), id(9, None, none), id(20, None, none)];
    assert_eq!(client.message_ids(3, 100).await, Ok(expected));
    assert_eq!(client.message_ids(21, 100).await, Ok(Vec::new()));
    fake.done().await;
}

#[tokio::test]
async fn sparse_uids_need_few_commands() {
    let item = "(UID FLAGS BODY.PEEK[HEADER.FIELDS (MESSAGE-ID X-TWINBOX-ID)]<0.1000>)";
    let mut transcript = "C: SELECT \"INBOX\"\n\
                          S: * 1 EXISTS\n\
                          S: * OK [UIDVALIDITY 7] fine\n\
                          S: * OK [UIDNEXT 4294967295] next\n\
                          S: TAG OK done\n"
        .to_owned();
    let (mut first, mut width) = (1_u64, 500_u64);
    while first < 4_294_967_295 {
        let last = (first + width - 1).min(4_294_967_294);
        transcript += &format!("C: UID FETCH {first}:{last} {item}\nS: TAG OK done\n");
        (first, width) = (last + 1, (width * 8).min(u64::from(u32::MAX)));
    }
    let fake = Fake::new(signed_in("", &transcript)).await;
    let mut client = fake.connect(&password()).await.unwrap();
    client.select("INBOX", None).await.unwrap();
    assert_eq!(client.message_ids(0, 100).await, Ok(Vec::new()));
    fake.done().await;
}

#[tokio::test]
async fn message_is_found_by_its_id() {
    let (fake, mut client) = opened(
        "",
        "C: UID SEARCH HEADER MESSAGE-ID \"<a@b>\"\n\
         S: * SEARCH 9 4 9\n\
         S: TAG OK done\n\
         C: UID SEARCH HEADER MESSAGE-ID \"<c@d>\"\n\
         S: * SEARCH\n\
         S: TAG OK done",
    )
    .await;
    assert_eq!(client.find("<a@b>").await, Ok(vec![4, 9]));
    assert_eq!(client.find("<c@d>").await, Ok(Vec::new()));
    assert_eq!(client.find("a\r\nb").await, Err(ImapError::NotSendable { what: "Message-ID" }));
    fake.done().await;
}

#[tokio::test]
async fn flags_that_a_server_does_not_keep_are_told() {
    let unkept = |seen, flagged, deleted| ImapFlags { seen, flagged, deleted };
    for (code, expected) in [
        ("", unkept(false, false, false)),
        ("S: * OK [PERMANENTFLAGS (\\Seen \\Flagged \\Deleted \\*)] kept\n", unkept(false, false, false)),
        ("S: * OK [PERMANENTFLAGS (\\Deleted \\Seen)] kept\n", unkept(false, true, false)),
        ("S: * OK [PERMANENTFLAGS ()] none\n", unkept(true, true, true)),
    ] {
        let transcript = format!(
            "C: SELECT \"INBOX\"\n\
             {code}\
             S: * OK [UIDVALIDITY 7] Ok\n\
             S: * OK [UIDNEXT 21] next\n\
             S: TAG OK [READ-WRITE] Ok\n"
        );
        let fake = Fake::new(signed_in("", &transcript)).await;
        let mut client = fake.connect(&password()).await.unwrap();
        assert_eq!(client.select("INBOX", None).await.unwrap().unkept, expected, "{code}");
        fake.done().await;
    }
}

#[tokio::test]
async fn appended_mail_beyond_uid_next_is_named_by_its_own_header() {
    let item = "(UID FLAGS BODY.PEEK[HEADER.FIELDS (MESSAGE-ID X-TWINBOX-ID)]<0.1000>)";
    let (fake, mut client) = opened(
        "UIDPLUS",
        &format!(
            "C: UID FETCH 25 {item}\n\
             S: * 6 FETCH (UID 25 FLAGS (\\Seen) BODY[HEADER.FIELDS (MESSAGE-ID X-TWINBOX-ID)]<0> {{44}}\n\
             S: Message-ID: <new@y>\n\
             S: X-Twinbox-Id: <1@x>\n\
             S: \n\
             S: )\n\
             S: TAG OK done\n\
             C: UID FETCH 26 {item}\n\
             S: TAG OK done\n\
             C: UID SEARCH HEADER X-TWINBOX-ID \"<1@x>\"\n\
             S: * SEARCH 25\n\
             S: TAG OK done"
        ),
    )
    .await;
    let (message_id, own_id) = (Some("<new@y>".to_owned()), Some("<1@x>".to_owned()));
    let expected = FetchedId { uid: 25, flags: seen(25).flags, message_id, own_id };
    assert_eq!(client.identity(25).await, Ok(Some(expected)));
    assert_eq!(client.identity(26).await, Ok(None));
    assert_eq!(client.find_own("<1@x>").await, Ok(vec![25]));
    fake.done().await;
}
