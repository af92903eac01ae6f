//! Appending, marking and removing mails.

use twinbox_imap::{AppendUid, ImapError, ImapFlags};

use crate::support::{Fake, opened, password, signed_in};

const MAIL: &[u8] = b"Subject: x\r\n\r\ny\r\n";

/// Beginning of an APPEND of [`MAIL`] up to the end of the literal.
const APPEND: &str = "C: APPEND \"Voice\" (\\Seen) \"01-Jan-1970 00:00:01 +0000\" {17}\n\
                      S: + go on\n\
                      L: 17\n\
                      c: \n";

fn seen() -> ImapFlags {
    ImapFlags { seen: true, ..ImapFlags::default() }
}

#[tokio::test]
async fn append_reports_its_place_or_the_reason_of_failure() {
    let announced = "C: APPEND \"Voice\" (\\Seen) \"01-Jan-1970 00:00:01 +0000\" {17}\n";
    for (answer, expected) in [
        (format!("{APPEND}S: TAG OK [APPENDUID 7 21] done"), Ok(Some((7, 21)))),
        (format!("{APPEND}S: TAG OK done"), Ok(None)),
        (format!("{APPEND}S: TAG NO [OVERQUOTA] full"), Err("the mail account is full: full")),
        (format!("{announced}S: TAG NO [OVERQUOTA] full"), Err("the mail account is full: full")),
        (format!("{announced}S: TAG NO [TRYCREATE] none"), Err("folder 'Voice' cannot be opened")),
        (format!("{APPEND}S: TAG NO virus"), Err("refused APPEND: virus")),
        (format!("{announced}S: TAG BAD too large"), Err("refused APPEND: too large")),
        (format!("{announced}S: TAG OK done"), Err("does not follow IMAP")),
        (format!("{APPEND}S: * BYE full"), Err("may have arrived")),
        (APPEND.to_owned(), Err("may have arrived")),
        (announced.to_owned(), Err("connection lost during APPEND")),
    ] {
        let fake = Fake::new(signed_in("UIDPLUS", &answer)).await;
        let mut client = fake.connect(&password()).await.unwrap();
        let result = client.append("Voice", seen(), 1_000, MAIL).await;
        match (result, expected) {
            (Ok(place), Ok(expected)) => {
                let expected = expected.map(|(uid_validity, uid)| AppendUid { uid_validity, uid });
                assert_eq!(place, expected, "{answer}");
            }
            (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{answer}: {error}"),
            (result, _) => panic!("{answer}: {result:?}"),
        }
        fake.done().await;
    }
}

#[tokio::test]
async fn answer_to_an_appended_mail_may_take_longer_than_a_step() {
    let answer = format!("{APPEND}PAUSE: 1500\nS: TAG OK [APPENDUID 7 21] done");
    let fake = Fake::new(signed_in("UIDPLUS", &answer)).await.impatient(500);
    let mut client = fake.connect(&password()).await.unwrap();
    let place = client.append("Voice", seen(), 1_000, MAIL).await;
    assert_eq!(place, Ok(Some(AppendUid { uid_validity: 7, uid: 21 })));
    fake.done().await;
}

#[tokio::test]
async fn connection_serves_further_commands_after_a_refused_append() {
    let refused = "C: APPEND \"Voice\" {17}\nS: TAG NO [OVERQUOTA] full\n";
    let fake = Fake::new(signed_in(
        "",
        &format!("{refused}C: CREATE \"x\"\nS: TAG OK done\nC: SUBSCRIBE \"x\"\nS: TAG OK done"),
    ))
    .await;
    let mut client = fake.connect(&password()).await.unwrap();
    let error = client.append("Voice", ImapFlags::default(), u64::MAX, MAIL).await.unwrap_err();
    assert_eq!(error, ImapError::Quota { text: "full".to_owned() });
    assert_eq!(client.create("x").await, Ok(()));
    fake.done().await;
}

#[tokio::test]
async fn connection_is_not_used_after_a_failed_command() {
    let fake = Fake::new(signed_in("", "C: CREATE \"x\"\nSILENCE")).await.impatient(2_000);
    let mut client = fake.connect(&password()).await.unwrap();
    assert!(matches!(client.create("x").await, Err(ImapError::TimedOut { step: "CREATE", .. })));
    assert!(matches!(client.create("x").await, Err(ImapError::Closed { .. })));
}

#[tokio::test]
async fn only_named_flags_are_changed() {
    let (fake, mut client) = opened(
        "",
        "C: UID STORE 4 +FLAGS.SILENT (\\Seen \\Flagged)\n\
         S: * 2 FETCH (UID 4 FLAGS (\\Seen \\Flagged))\n\
         S: TAG OK done\n\
         C: UID STORE 4 -FLAGS.SILENT (\\Deleted)\n\
         S: TAG OK done\n\
         C: UID STORE 5 -FLAGS.SILENT (\\Seen)\n\
         S: TAG NO [NOPERM] read-only",
    )
    .await;
    let add = ImapFlags { seen: true, flagged: true, deleted: false };
    let remove = ImapFlags { deleted: true, ..ImapFlags::default() };
    assert_eq!(client.store_flags(4, add, remove).await, Ok(()));
    assert_eq!(client.store_flags(4, ImapFlags::default(), ImapFlags::default()).await, Ok(()));
    let refused = client.store_flags(5, ImapFlags::default(), seen()).await.unwrap_err();
    assert_eq!(refused, ImapError::No { command: "STORE", text: "read-only".to_owned() });
    fake.done().await;
}

#[tokio::test]
async fn mail_is_removed_without_removing_others() {
    let mark = "C: UID STORE 4 +FLAGS.SILENT (\\Deleted)\nS: TAG OK done\n";
    for (extensions, then) in [
        ("UIDPLUS", "C: UID EXPUNGE 4\nS: * 2 EXPUNGE\nS: TAG OK done"),
        ("", "C: UID SEARCH DELETED\nS: * SEARCH 4\nS: TAG OK done\nC: EXPUNGE\nS: * 2 EXPUNGE\nS: TAG OK done"),
        ("", "C: UID SEARCH DELETED\nS: * SEARCH 4 5\nS: TAG OK done"),
        ("", "C: UID SEARCH DELETED\nS: * SEARCH\nS: TAG OK done"),
        ("", "C: UID SEARCH DELETED\nS: * SEARCH 5\nS: TAG OK done"),
    ] {
        let (fake, mut client) = opened(extensions, &format!("{mark}{then}")).await;
        assert_eq!(client.expunge(4).await, Ok(()), "{then}");
        fake.done().await;
    }
}

#[tokio::test]
async fn mail_is_marked_where_very_many_others_are_marked() {
    let mark = "C: UID STORE 4 +FLAGS.SILENT (\\Deleted)\nS: TAG OK done\n";
    let uids: String = (4..165_000).map(|uid| format!(" {uid}")).collect();
    let other = "S: * 1 FETCH (UID 1 FLAGS (\\Seen))\n".repeat(1_000);
    assert!((1_000_000..1 << 20).contains(&uids.len()));
    let then = format!("C: UID SEARCH DELETED\n{other}S: * SEARCH{uids}\nS: TAG OK done");
    let (fake, mut client) = opened("", &format!("{mark}{then}")).await;
    assert_eq!(client.expunge(4).await, Ok(()));
    fake.done().await;
}

#[tokio::test]
async fn mail_is_moved_in_one_command_or_copied() {
    for (extensions, then, fine) in [
        ("MOVE", "C: UID MOVE 4 \"Trash\"\nS: * OK [COPYUID 9 4 1] moved\nS: * 2 EXPUNGE\nS: TAG OK done", true),
        (
            "UIDPLUS",
            "C: UID COPY 4 \"Trash\"\n\
             S: TAG OK [COPYUID 9 4 1] done\n\
             C: UID STORE 4 +FLAGS.SILENT (\\Deleted)\n\
             S: TAG OK done\n\
             C: UID EXPUNGE 4\n\
             S: TAG OK done",
            true,
        ),
        ("MOVE", "C: UID MOVE 4 \"Trash\"\nS: TAG NO [TRYCREATE] none", false),
        ("", "C: UID COPY 4 \"Trash\"\nS: TAG NO [TRYCREATE] none", false),
    ] {
        let (fake, mut client) = opened(extensions, then).await;
        match client.move_to(4, "Trash").await {
            Ok(()) => assert!(fine, "{then}"),
            Err(error) => {
                let missing = ImapError::NoFolder { folder: "Trash".to_owned(), text: "none".to_owned() };
                assert_eq!((error, fine), (missing, false), "{then}");
            }
        }
        fake.done().await;
    }
}
