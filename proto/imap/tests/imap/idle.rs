//! Waiting for changes.

use std::{future, time::Duration};

use twinbox_imap::{IdleEnd, ImapError, ImapFlags};

use crate::support::{Fake, opened, password, select, signed_in};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn changes_end_the_waiting() {
    let changed = |expunged| Ok(IdleEnd::Changed { expunged });
    let refused = || Err(ImapError::No { command: "IDLE", text: "busy".to_owned() });
    for (then, expected) in [
        ("C: IDLE\nS: + idling\nS: * OK still here\nS: * 6 EXISTS\nc: DONE\nS: TAG OK done", changed(false)),
        ("C: IDLE\nS: + idling\nS: * 2 EXPUNGE\nc: DONE\nS: TAG OK done", changed(true)),
        ("C: IDLE\nS: + idling\nS: * VANISHED 4\nc: DONE\nS: TAG OK done", changed(true)),
        ("C: IDLE\nS: + idling\nS: * 2 FETCH (FLAGS (\\Seen))\nc: DONE\nS: TAG OK done", changed(false)),
        ("C: IDLE\nS: * 6 EXISTS\nS: + idling\nc: DONE\nS: TAG OK done", changed(false)),
        ("C: IDLE\nS: + idling\nS: * 6 EXISTS\nc: DONE\nS: * 1 EXPUNGE\nS: TAG OK done", changed(true)),
        ("C: IDLE\nS: TAG NO busy", refused()),
        ("C: IDLE\nS: + idling\nS: * BYE shutdown", Err(ImapError::Bye { text: "shutdown".to_owned() })),
    ] {
        let (fake, mut client) = opened("IDLE", then).await;
        assert_eq!(client.idle(future::pending(), LONG).await, expected, "{then}");
        fake.done().await;
    }
}

#[tokio::test]
async fn waiting_ends_by_request_or_after_its_time() {
    let then = "C: IDLE\nS: + idling\nS: * 5 EXISTS\nc: DONE\nS: TAG OK done\n";
    let (fake, mut client) = opened("IDLE", &format!("{then}{then}")).await;
    assert_eq!(client.idle(future::ready(()), LONG).await, Ok(IdleEnd::Stopped));
    assert_eq!(client.idle(future::pending(), Duration::from_millis(1)).await, Ok(IdleEnd::TimedOut));
    fake.done().await;
}

#[tokio::test]
async fn changes_told_in_other_answers_are_not_lost() {
    let append = "C: APPEND \"INBOX\" {1}\nS: + go on\nL: 1\nc: \nS: * 6 EXISTS\nS: TAG OK done\n";
    let expunge = "C: UID STORE 4 +FLAGS.SILENT (\\Deleted)\n\
                   S: TAG OK done\n\
                   C: UID EXPUNGE 4\n\
                   S: * 2 EXPUNGE\n\
                   S: TAG OK done\n";
    let other = "C: UID SEARCH HEADER MESSAGE-ID \"<a@b>\"\nS: * SEARCH\nS: * 1 EXPUNGE\nS: TAG OK done\n";
    let idle = "C: IDLE\nS: + idling\nc: DONE\nS: TAG OK done\n";
    let (fake, mut client) = opened("IDLE UIDPLUS", &format!("{append}{expunge}{idle}{other}")).await;
    client.append("INBOX", ImapFlags::default(), u64::MAX, b"x").await.unwrap();
    client.expunge(4).await.unwrap();
    // The changes of this client itself are no news.
    assert_eq!(client.idle(future::ready(()), LONG).await, Ok(IdleEnd::Stopped));
    client.find("<a@b>").await.unwrap();
    assert_eq!(client.idle(future::pending(), LONG).await, Ok(IdleEnd::Changed { expunged: true }));
    fake.done().await;
}

#[tokio::test]
async fn server_that_does_not_end_idle_is_given_up() {
    let then = select("", "") + "C: IDLE\nS: + idling\nc: DONE\nSILENCE";
    let fake = Fake::new(signed_in("IDLE", &then)).await.impatient(2_000);
    let mut client = fake.connect(&password()).await.unwrap();
    client.select("INBOX", None).await.unwrap();
    let ended = client.idle(future::ready(()), LONG).await;
    assert!(matches!(ended, Err(ImapError::TimedOut { step: "IDLE", .. })), "{ended:?}");
}

#[tokio::test]
async fn connection_is_not_used_after_a_dropped_command() {
    let (_fake, mut client) = opened("IDLE", "C: IDLE\nSILENCE").await;
    let waiting = tokio::time::timeout(Duration::from_millis(100), client.idle(future::pending(), LONG)).await;
    assert!(waiting.is_err());
    assert!(matches!(client.find("<a@b>").await, Err(ImapError::Closed { .. })));
}
