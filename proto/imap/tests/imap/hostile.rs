//! Servers that lie, cut the connection, send without end or never answer.

use std::{collections::BTreeSet, future, time::Duration};

use twinbox_imap::{Client, IdleEnd, ImapError, ImapFlags};

use crate::support::{Fake, opened, password, select, signed_in};

const FLAGS: &str = "C: UID FETCH 1:3 (UID FLAGS)\n";

#[tokio::test]
async fn answers_beyond_all_bounds_end_the_command() {
    let line = "S: * 1 FETCH (UID 1 FLAGS (".to_owned() + &"a ".repeat(600_000) + "\\Seen))";
    // A response with a literal has a lower bound than one without.
    let literal = format!("S: * 1 FETCH (UID 1 BODY[] {{1}}\nS: x FLAGS ({}))", "a ".repeat(40_000));
    for answer in [
        "S: * 1 FETCH (UID 1 BODY[] {4294967295}",
        "S: * 1 FETCH (UID 1 BODY[] {65537}",
        "S: * OK text that ends like a literal {99999}",
        "FLOOD: x",
        "FLOOD: {1}CRLFx",
        &literal,
        "FLOOD: * OK againCRLF",
        "FLOOD: * 1 FETCH (UID 1 FLAGS ())CRLF",
        "FLOOD: * 1 EXISTSCRLF",
        &line,
    ] {
        let (_fake, mut client) = opened("", &format!("{FLAGS}{answer}\nSILENCE")).await;
        let result = client.flags(&BTreeSet::from([1, 2, 3]), None).await;
        let shown = answer.get(..40).unwrap_or(answer);
        assert_eq!(result, Err(ImapError::TooLarge { step: "FETCH of flags" }), "{shown}");
    }
}

#[tokio::test]
async fn answers_that_are_no_imap_end_the_command() {
    for answer in [
        "S: * 1 FETCH (UID 0 FLAGS (\\Seen))",
        "S: * 1 FETCH (UID 4294967296 FLAGS (\\Seen))",
        "S: * 0 FETCH (UID 1 FLAGS (\\Seen))",
        "S: * VANISHED 0",
        "S: + go on",
        "S: other OK done",
        "S: HTTP/1.1 400 Bad Request",
        "S: ",
    ] {
        let (_fake, mut client) = opened("", &format!("{FLAGS}{answer}\nSILENCE")).await;
        let error = client.flags(&BTreeSet::from([1, 2, 3]), None).await.unwrap_err();
        assert!(matches!(error, ImapError::Protocol { .. }), "{answer}: {error}");
    }
}

#[tokio::test]
async fn silent_server_is_given_up_at_each_step() {
    for transcript in [
        "SILENCE".to_owned(),
        "S: * OK hello\nSILENCE".to_owned(),
        "S: * OK [CAPABILITY AUTH=PLAIN SASL-IR] hello\nSILENCE".to_owned(),
        signed_in("", "SILENCE"),
        signed_in("", "C: SELECT \"INBOX\"\nS: * 5 EXISTS\nS: * OK [UIDVALI\nSILENCE"),
        signed_in("", "C: SELECT \"INBOX\"\nS: * 1 FETCH (UID 1 BODY[] {10}\nSILENCE"),
    ] {
        let fake = Fake::new(transcript.clone()).await.impatient(500);
        let failure = match fake.connect(&password()).await {
            Ok(mut client) => client.select("INBOX", None).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(failure, ImapError::TimedOut { .. }), "{transcript}: {failure}");
    }
}

#[tokio::test]
async fn server_that_sends_without_progress_is_given_up() {
    // Each byte comes in time; the response never ends.
    let fake = Fake::with(|mut stream| async move {
        use tokio::io::AsyncWriteExt;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .impatient(500);
    let error = fake.connect(&password()).await.unwrap_err();
    assert!(matches!(error, ImapError::TimedOut { step: "greeting", .. }), "{error}");
}

/// A server that follows a transcript, then repeatedly sends a line in good time.
async fn talkative(transcript: String) -> Fake {
    let fake = Fake::with(move |mut stream| async move {
        use tokio::io::AsyncWriteExt;
        crate::support::play(&mut stream, &transcript).await;
        while stream.write_all(b"* OK still here\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    fake.await.impatient(1_500)
}

#[tokio::test]
async fn server_that_only_sends_other_responses_is_given_up() {
    let sign_in = async {
        let greeting = "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hello\n";
        let fake = talkative(format!("{greeting}C: AUTHENTICATE PLAIN AHUAcA==")).await;
        fake.connect(&password()).await.unwrap_err()
    };
    let idle = |then: &'static str, stopped: bool| async move {
        let fake = talkative(signed_in("IDLE", &(select("", "") + then))).await;
        let mut client = fake.connect(&password()).await.unwrap();
        client.select("INBOX", None).await.unwrap();
        let until = async {
            if !stopped {
                future::pending::<()>().await;
            }
        };
        client.idle(until, Duration::from_millis(1)).await.unwrap_err()
    };
    let (begin, end) = ("C: IDLE", "C: IDLE\nS: + idling\nc: DONE");
    let failures = tokio::join!(sign_in, idle(begin, false), idle(end, false), idle(begin, true), idle(end, true));
    let late = |step, ms| ImapError::TimedOut { step, limit: Duration::from_millis(ms) };
    // The end of `until` leaves the server one step instead of ten.
    let idle = |ms| late("IDLE", ms);
    assert_eq!(failures, (late("sign-in", 15_000), idle(15_000), idle(15_000), idle(1_500), idle(1_500)));
}

#[tokio::test]
async fn server_that_announces_a_huge_uid_next_is_given_up() {
    let fake = Fake::with(|stream| async move {
        let item = "(UID FLAGS BODY.PEEK[HEADER.FIELDS (MESSAGE-ID X-TWINBOX-ID)]<0.1000>)";
        let mut transcript = signed_in(
            "",
            "C: SELECT \"INBOX\"\n\
             S: * 4294967295 EXISTS\n\
             S: * OK [UIDVALIDITY 7] fine\n\
             S: * OK [UIDNEXT 4294967295] next\n\
             S: TAG OK done\n",
        );
        let (mut first, mut width) = (1, 500);
        for _ in 0..10_000 {
            transcript += &format!("C: UID FETCH {first}:{} {item}\nS: TAG OK done\n", first + width - 1);
            (first, width) = (first + width, (width * 8).min(2_000));
        }
        crate::support::play(stream, &transcript).await;
    })
    .await;
    let mut client = fake.connect(&password()).await.unwrap();
    client.select("INBOX", None).await.unwrap();
    let result = client.message_ids(1, 100).await;
    assert_eq!(result, Err(ImapError::TooLarge { step: "FETCH of Message-IDs" }));
    fake.done().await;
}

#[tokio::test]
async fn answer_may_hold_as_many_mails_as_the_command_asks_for_and_no_more() {
    // 2,000 mails with 2 KiB each and the spare bytes, of a folder that claims more.
    let line = format!("* 1 FETCH (UID 1 FLAGS () BODY[HEADER.FIELDS (MESSAGE-ID)] \"{}\")\r\n", "x".repeat(2_000));
    let fake = Fake::with(move |mut stream| async move {
        let item = "(UID FLAGS BODY.PEEK[HEADER.FIELDS (MESSAGE-ID X-TWINBOX-ID)]<0.1000>)";
        let then = "C: SELECT \"INBOX\"\n\
                    S: * 50000 EXISTS\n\
                    S: * OK [UIDVALIDITY 7] fine\n\
                    S: * OK [UIDNEXT 50001] next\n\
                    S: TAG OK done\n";
        let then = format!("{then}C: UID FETCH 1:500 {item}\nS: TAG OK done\nC: UID FETCH 501:2500 {item}\n");
        crate::support::play(&mut stream, &signed_in("", &then)).await;
        use tokio::io::AsyncWriteExt;
        for _ in 0..3_000 {
            // The client gives up before the end.
            let _ = stream.write_all(line.as_bytes()).await;
        }
        let _ = stream.write_all(b"t4 OK done\r\n").await;
    })
    .await;
    let mut client = fake.connect(&password()).await.unwrap();
    client.select("INBOX", None).await.unwrap();
    let result = client.message_ids(1, 100).await;
    assert_eq!(result, Err(ImapError::TooLarge { step: "FETCH of Message-IDs" }));
}

/// All commands once.
async fn all(fake: &Fake) -> Result<(), ImapError> {
    let mut client: Client = fake.connect(&password()).await?;
    client.select("INBOX", None).await?;
    client.flags(&BTreeSet::from([1, 2, 3]), None).await?;
    client.append("INBOX", ImapFlags::default(), u64::MAX, b"x").await?;
    client.store_flags(1, ImapFlags { seen: true, ..ImapFlags::default() }, ImapFlags::default()).await?;
    client.move_to(2, "Trash").await?;
    client.expunge(3).await?;
    let end = client.idle(future::pending(), Duration::from_secs(60)).await?;
    assert_eq!(end, IdleEnd::Changed { expunged: false });
    Ok(())
}

#[tokio::test]
async fn connection_cut_after_any_line_is_an_error_and_only_an_append_is_in_doubt() {
    let transcript = signed_in("UIDPLUS MOVE IDLE", &select("", ""))
        + FLAGS
        + "S: * 1 FETCH (UID 1 FLAGS ())\n\
           S: TAG OK done\n\
           C: APPEND \"INBOX\" {1}\n\
           S: + go on\n\
           L: 1\n\
           c: \n\
           S: * 6 EXISTS\n\
           S: TAG OK done\n\
           C: UID STORE 1 +FLAGS.SILENT (\\Seen)\n\
           S: TAG OK done\n\
           C: UID MOVE 2 \"Trash\"\n\
           S: * 2 EXPUNGE\n\
           S: TAG OK done\n\
           C: UID STORE 3 +FLAGS.SILENT (\\Deleted)\n\
           S: TAG OK done\n\
           C: UID EXPUNGE 3\n\
           S: * 2 EXPUNGE\n\
           S: TAG OK done\n\
           C: IDLE\n\
           S: + idling\n\
           S: * 5 EXISTS\n\
           c: DONE\n\
           S: TAG OK done";
    let lines: Vec<&str> = transcript.lines().collect();
    let literal = lines.iter().position(|line| line.starts_with("L: ")).unwrap();
    for cut in 0..lines.len() {
        let fake = Fake::new(lines[..cut].join("\n")).await;
        let error = all(&fake).await.unwrap_err();
        // After the permission for the literal, up to the end of the command.
        let in_doubt = (literal..=literal + 3).contains(&cut);
        assert_eq!(matches!(error, ImapError::Unknown { .. }), in_doubt, "line {cut}: {error}");
        assert!(!error.is_permanent(), "line {cut}: {error}");
        fake.done().await;
    }
    let fake = Fake::new(transcript.clone()).await;
    assert_eq!(all(&fake).await, Ok(()));
    fake.done().await;
}

#[tokio::test]
async fn logout_ends_in_any_case() {
    for then in ["C: LOGOUT\nS: * BYE bye\nS: TAG OK done", "C: LOGOUT\nS: TAG NO stay", ""] {
        let fake = Fake::new(signed_in("", then)).await;
        fake.connect(&password()).await.unwrap().logout().await;
        fake.done().await;
    }
}
