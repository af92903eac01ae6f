//! The brake for a wrong shared secret.

use std::time::Duration;

use twinbox_ids::MailboxId;
use twinbox_mailbox_sync::{MOST_REFUSED, REFUSED_PAUSE, SignInBrake, SignInTurn};

const START: Duration = Duration::from_secs(1_000);
const SECRET: u64 = 1;

fn turn(brake: &mut SignInBrake, mailbox: u128, now: Duration) -> SignInTurn {
    brake.turn(MailboxId(mailbox), SECRET, now)
}

/// Those of the mailboxes that may sign in now.
fn admitted(brake: &mut SignInBrake, mailboxes: impl IntoIterator<Item = u128>, now: Duration) -> Vec<u128> {
    mailboxes.into_iter().filter(|mailbox| turn(brake, *mailbox, now) == SignInTurn::Now).collect()
}

fn refuse(brake: &mut SignInBrake, mailbox: u128, now: Duration) {
    brake.refused(MailboxId(mailbox), now);
    brake.ended();
}

fn succeed(brake: &mut SignInBrake, mailbox: u128) {
    brake.succeeded(MailboxId(mailbox));
    brake.ended();
}

/// A mailbox has signed in, and was refused then until the pause began.
fn paused_after(proven: u128) -> SignInBrake {
    let mut brake = SignInBrake::default();
    assert_eq!(admitted(&mut brake, [proven], START), [proven]);
    succeed(&mut brake, proven);
    for _ in 0..MOST_REFUSED {
        assert_eq!(admitted(&mut brake, [proven], START), [proven]);
        refuse(&mut brake, proven, START);
    }
    assert_eq!(turn(&mut brake, proven, START), SignInTurn::NotBefore(START + REFUSED_PAUSE));
    brake
}

#[test]
fn wrong_secret_is_tried_by_few_accounts_at_a_time_and_then_by_one_after_each_pause() {
    let mut brake = SignInBrake::default();
    assert_eq!(admitted(&mut brake, 0..200, START), [0, 1, 2, 3, 4]);
    // A failure that is no refusal gives the place back.
    brake.ended();
    assert_eq!(admitted(&mut brake, 5..200, START), [5]);
    for mailbox in 1..=5 {
        assert_eq!(admitted(&mut brake, 6..200, START), [0; 0], "each of them may be refused");
        refuse(&mut brake, mailbox, START);
    }
    let mut now = START;
    assert_eq!(turn(&mut brake, 6, now), SignInTurn::NotBefore(now + REFUSED_PAUSE));
    for mailbox in [7, 8] {
        now += REFUSED_PAUSE;
        assert_eq!(turn(&mut brake, mailbox, now), SignInTurn::Now);
        assert_eq!(turn(&mut brake, 9, now), SignInTurn::AfterOthers, "one decides");
        refuse(&mut brake, mailbox, now);
        assert_eq!(turn(&mut brake, 9, now), SignInTurn::NotBefore(now + REFUSED_PAUSE));
    }
    // The server could not be reached: another one tries. The secret is right again.
    now += REFUSED_PAUSE;
    assert_eq!(admitted(&mut brake, 0..200, now), [0]);
    brake.ended();
    assert_eq!(admitted(&mut brake, 1..200, now), [1]);
    succeed(&mut brake, 1);
    assert_eq!(admitted(&mut brake, 2..200, now).len(), 198);
}

#[test]
fn secret_that_becomes_wrong_is_tried_by_few_from_its_first_refusal_on() {
    let mut brake = SignInBrake::default();
    for mailbox in 0..200 {
        assert_eq!(admitted(&mut brake, [mailbox], START), [mailbox]);
        succeed(&mut brake, mailbox);
    }
    assert_eq!(admitted(&mut brake, [0], START), [0]);
    refuse(&mut brake, 0, START);
    assert_eq!(admitted(&mut brake, 1..200, START), [1, 2, 3, 4]);
    succeed(&mut brake, 1);
    assert_eq!(admitted(&mut brake, 5..200, START).len(), 195, "it was that account alone");
}

#[test]
fn users_without_an_account_stop_no_other() {
    let mut brake = SignInBrake::default();
    assert_eq!(admitted(&mut brake, [1], START), [1]);
    succeed(&mut brake, 1);
    for mailbox in 2..100 {
        assert_eq!(admitted(&mut brake, [mailbox], START), [mailbox]);
        refuse(&mut brake, mailbox, START);
    }
    assert_eq!(admitted(&mut brake, [1], START), [1]);
}

#[test]
fn account_that_has_signed_in_before_tries_first_after_a_pause_but_not_for_ever() {
    let mut brake = paused_after(3);
    let now = START + REFUSED_PAUSE;
    assert_eq!(turn(&mut brake, 1, now), SignInTurn::NotBefore(now + REFUSED_PAUSE));
    assert_eq!(turn(&mut brake, 3, now), SignInTurn::Now);
    // Its own account was removed at the server: the next pause ends for all.
    refuse(&mut brake, 3, now);
    assert_eq!(turn(&mut brake, 1, now + REFUSED_PAUSE), SignInTurn::Now);
    let mut brake = paused_after(3);
    let late = now + REFUSED_PAUSE;
    assert_eq!(turn(&mut brake, 1, late), SignInTurn::Now, "3 is not here any more");
    refuse(&mut brake, 1, late);
    assert_eq!(turn(&mut brake, 1, late), SignInTurn::NotBefore(late + REFUSED_PAUSE));
}

#[test]
fn new_secret_is_not_known_to_be_right() {
    let mut brake = SignInBrake::default();
    assert_eq!(admitted(&mut brake, [1], START), [1]);
    succeed(&mut brake, 1);
    let turns = (2..20).filter(|mailbox| brake.turn(MailboxId(*mailbox), SECRET + 1, START) == SignInTurn::Now);
    assert_eq!(turns.count(), 5);
}
