//! A brake for a wrong shared secret: otherwise each account of the server would try it, and servers lock such clients.
//!
//! Before the first sign-in with a secret succeeds, a few accounts at a time try it. Once mailboxes have signed in with
//! it, only their refusals count: a refusal of any other says that the user has no account there. After a pause one
//! account tries at a time, at first one that has signed in before.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use twinbox_clock::BootInstant;
use twinbox_ids::MailboxId;
use twinbox_imap::Secret;

/// Refused sign-ins in a row from which the accounts pause. As many try a secret at a time that has never been right.
const MOST: u32 = 5;
/// Pause of the accounts; the text of [`SyncError::Paused`](crate::error::SyncError::Paused) names it.
const PAUSE: Duration = Duration::from_secs(5 * 60);

/// Sign-ins to one server with its shared secret.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    state: Mutex<State>,
    /// Sign-ins wait for the end of others.
    ended: Notify,
    /// Keys of the fingerprints of secrets.
    keys: RandomState,
}

#[derive(Debug, Default)]
struct State {
    /// Fingerprint of the secret that was tried last.
    secret: Option<u64>,
    /// Mailboxes that signed in with it.
    proven: BTreeSet<MailboxId>,
    /// Refusals in a row that count.
    refused: u32,
    /// Sign-ins under way.
    trying: u32,
    /// End of the latest pause; `None` after a success.
    pause: Option<BootInstant>,
}

/// Permission to sign in. Dropping it gives the place back, as after a failure that is no refusal.
#[derive(Debug)]
pub(crate) struct SignInTicket<'a> {
    refusals: &'a Refusals,
    mailbox: MailboxId,
}

/// Answer to a mailbox that wants to sign in.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Now,
    AfterOthers,
    NotBefore(BootInstant),
}

impl Refusals {
    /// Permission for a mailbox to sign in with this secret, as soon as it is its turn. During a pause, the time until
    /// which it has to wait.
    pub(crate) async fn ticket(&self, mailbox: MailboxId, secret: &Secret) -> Result<SignInTicket<'_>, BootInstant> {
        let secret = self.keys.hash_one(secret.reveal());
        loop {
            // Before the look at the state, so that no end is missed.
            let ended = self.ended.notified();
            let turn = self.state().turn(mailbox, secret, BootInstant::now());
            match turn {
                Turn::Now => return Ok(SignInTicket { refusals: self, mailbox }),
                Turn::NotBefore(until) => return Err(until),
                Turn::AfterOthers => ended.await,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the mailbox may sign in now; then it counts as trying.
    fn turn(&mut self, mailbox: MailboxId, secret: u64, now: BootInstant) -> Turn {
        if self.secret.replace(secret) != Some(secret) {
            self.proven.clear();
            self.refused = 0;
        }
        let waits = match self.pause {
            Some(until) if now < until => return Turn::NotBefore(until),
            Some(_) if self.trying > 0 => true,
            // For the length of a pause, those go first whose refusal says something about the secret.
            Some(until) if !self.proven.is_empty() && !self.proven.contains(&mailbox) => {
                let until = until + PAUSE;
                if now < until {
                    return Turn::NotBefore(until);
                }
                false
            }
            Some(_) => false,
            None => self.proven.is_empty() && self.trying > 0 && self.refused + self.trying >= MOST,
        };
        if waits {
            return Turn::AfterOthers;
        }
        self.trying = self.trying.saturating_add(1);
        Turn::Now
    }

    fn succeeded(&mut self, mailbox: MailboxId) {
        (self.refused, self.pause) = (0, None);
        self.proven.insert(mailbox);
    }

    fn refused(&mut self, mailbox: MailboxId, now: BootInstant) {
        // One that was refused after a pause goes first no more: its account may have been removed.
        let was_proven = if self.pause.is_some() { self.proven.remove(&mailbox) } else { self.proven.contains(&mailbox) };
        if self.pause.is_none() && !was_proven && !self.proven.is_empty() {
            return;
        }
        self.refused = self.refused.saturating_add(1);
        if self.pause.is_some() || self.refused >= MOST {
            self.pause = Some(now + PAUSE);
        }
    }
}

impl SignInTicket<'_> {
    /// The sign-in succeeded: the secret is right.
    pub(crate) fn succeeded(self) {
        self.refusals.state().succeeded(self.mailbox);
    }

    /// The server refused the sign-in.
    pub(crate) fn refused(self) {
        self.refusals.state().refused(self.mailbox, BootInstant::now());
    }
}

impl Drop for SignInTicket<'_> {
    fn drop(&mut self) {
        let mut state = self.refusals.state();
        state.trying = state.trying.saturating_sub(1);
        drop(state);
        self.refusals.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: u64 = 1;

    fn start() -> BootInstant {
        BootInstant::from_nanos(1_000_000_000)
    }

    fn id(number: u32) -> MailboxId {
        MailboxId(number.into())
    }

    impl State {
        fn admitted(&mut self, mailboxes: impl IntoIterator<Item = u32>, now: BootInstant) -> Vec<u32> {
            mailboxes.into_iter().filter(|mailbox| self.turn(id(*mailbox), RIGHT, now) == Turn::Now).collect()
        }

        fn end(&mut self, mailbox: u32, is_refused: bool, now: BootInstant) {
            if is_refused { self.refused(id(mailbox), now) } else { self.succeeded(id(mailbox)) }
            self.trying -= 1;
        }

        /// A pause has begun, of a secret with which these have signed in.
        fn paused(proven: &[u32]) -> Self {
            let proven = proven.iter().copied().map(id).collect();
            Self { secret: Some(RIGHT), proven, refused: MOST, trying: 0, pause: Some(start() + PAUSE) }
        }
    }

    #[test]
    fn wrong_secret_is_tried_by_few_accounts_at_a_time_and_then_by_one_after_each_pause() {
        let (mut state, now) = (State::default(), start());
        assert_eq!(state.admitted(0..200, now), [0, 1, 2, 3, 4]);
        // A failure that is no refusal gives the place back.
        state.trying -= 1;
        assert_eq!(state.admitted(5..200, now), [5]);
        for mailbox in 1..=5 {
            assert_eq!(state.admitted(6..200, now), [0; 0], "each of them may be refused");
            state.end(mailbox, true, now);
        }
        assert_eq!(state.turn(id(6), RIGHT, now), Turn::NotBefore(now + PAUSE));
        let mut now = now;
        for mailbox in [7, 8] {
            now = now + PAUSE;
            assert_eq!(state.turn(id(mailbox), RIGHT, now), Turn::Now);
            assert_eq!(state.turn(id(9), RIGHT, now), Turn::AfterOthers, "one decides");
            state.end(mailbox, true, now);
            assert_eq!(state.turn(id(9), RIGHT, now), Turn::NotBefore(now + PAUSE));
        }
        // The server could not be reached: another one tries. The secret is right again.
        now = now + PAUSE;
        assert_eq!(state.admitted(0..200, now), [0]);
        state.trying -= 1;
        assert_eq!(state.admitted(1..200, now), [1]);
        state.end(1, false, now);
        assert_eq!(state.admitted(2..200, now).len(), 198);
    }

    #[test]
    fn users_without_an_account_stop_no_other() {
        let (mut state, now) = (State::default(), start());
        assert_eq!(state.admitted([1], now), [1]);
        state.end(1, false, now);
        for mailbox in 2..100 {
            assert_eq!(state.admitted([mailbox], now), [mailbox]);
            state.end(mailbox, true, now);
        }
        assert_eq!(state.admitted([1], now), [1]);
        // Those that had signed in are refused: the secret is wrong now.
        state.end(1, true, now);
        for _ in 1..MOST {
            assert_eq!(state.admitted([1], now), [1]);
            state.end(1, true, now);
        }
        assert_eq!(state.turn(id(2), RIGHT, now), Turn::NotBefore(now + PAUSE));
    }

    #[test]
    fn account_that_has_signed_in_before_tries_first_after_a_pause_but_not_for_ever() {
        let mut state = State::paused(&[3]);
        let now = start() + PAUSE;
        assert_eq!(state.turn(id(1), RIGHT, now), Turn::NotBefore(now + PAUSE));
        assert_eq!(state.turn(id(3), RIGHT, now), Turn::Now);
        // Its own account was removed at the server: the next pause ends for all.
        state.end(3, true, now);
        assert_eq!(state.turn(id(1), RIGHT, now + PAUSE), Turn::Now);
        let mut state = State::paused(&[3]);
        let late = now + PAUSE;
        assert_eq!(state.turn(id(1), RIGHT, late), Turn::Now, "3 is not here any more");
        state.end(1, true, late);
        assert_eq!(state.turn(id(1), RIGHT, late), Turn::NotBefore(late + PAUSE));
    }

    #[test]
    fn new_secret_is_not_known_to_be_right() {
        let (mut state, now) = (State::default(), start());
        assert_eq!(state.admitted([1], now), [1]);
        state.end(1, false, now);
        let turns = (2..20).filter(|mailbox| state.turn(id(*mailbox), RIGHT + 1, now) == Turn::Now);
        assert_eq!(turns.count(), 5);
    }

    #[tokio::test]
    async fn sign_in_waits_for_the_end_of_others() {
        let (refusals, secret) = (Refusals::default(), Secret::new("x".to_owned()));
        let mut tickets = Vec::new();
        for mailbox in 0..MOST {
            tickets.push(refusals.ticket(id(mailbox), &secret).await.expect("its turn"));
        }
        let mut waiting = std::pin::pin!(refusals.ticket(id(9), &secret));
        let waits = tokio::time::timeout(Duration::from_millis(20), waiting.as_mut()).await;
        assert!(waits.is_err(), "five try it");
        tickets.pop();
        waiting.await.expect("its turn").succeeded();
        assert!(refusals.ticket(id(10), &secret).await.is_ok());
        for ticket in tickets {
            ticket.refused();
        }
        assert_eq!(refusals.state().trying, 0);
    }
}
