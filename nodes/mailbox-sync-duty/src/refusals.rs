//! Turns of the sign-ins with the secret that the accounts of a server share ([`SignInBrake`]).

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use twinbox_clock::BootInstant;
use twinbox_ids::MailboxId;
use twinbox_imap::Secret;
use twinbox_mailbox_sync::{SignInBrake, SignInTurn};

/// Sign-ins to one server with its shared secret.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    brake: Mutex<SignInBrake>,
    /// Sign-ins wait for the end of others.
    ended: Notify,
    /// Keys of the fingerprints of secrets.
    keys: RandomState,
}

/// Permission to sign in. Dropping it returns the turn, as after a failure that is no refusal.
#[derive(Debug)]
pub(crate) struct SignInTicket<'a> {
    refusals: &'a Refusals,
    mailbox: MailboxId,
}

impl Refusals {
    /// Permission for a mailbox to sign in with this secret, in its turn. During a pause the error is the time until which
    /// the mailbox has to wait.
    pub(crate) async fn ticket(
        &self,
        mailbox: MailboxId,
        secret: &Secret,
    ) -> Result<SignInTicket<'_>, BootInstant> {
        let secret = self.keys.hash_one(secret.reveal());
        loop {
            // Before the look at the brake, so that no end is missed.
            let ended = self.ended.notified();
            let turn = self.brake().turn(mailbox, secret, now());
            match turn {
                SignInTurn::Now => return Ok(SignInTicket { refusals: self, mailbox }),
                SignInTurn::NotBefore(until) => return Err(BootInstant::from_nanos(0) + until),
                SignInTurn::AfterOthers => ended.await,
            }
        }
    }

    fn brake(&self) -> MutexGuard<'_, SignInBrake> {
        self.brake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time for the brake: since the boot of this machine.
fn now() -> Duration {
    Duration::from_nanos(BootInstant::now().as_nanos())
}

impl SignInTicket<'_> {
    /// Notes that the sign-in succeeded: the secret is right.
    pub(crate) fn succeeded(self) {
        self.refusals.brake().succeeded(self.mailbox);
    }

    /// Notes that the server refused the sign-in.
    pub(crate) fn refused(self) {
        self.refusals.brake().refused(self.mailbox, now());
    }
}

impl Drop for SignInTicket<'_> {
    fn drop(&mut self) {
        self.refusals.brake().ended();
        self.refusals.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use twinbox_mailbox_sync::{MOST_REFUSED, REFUSED_PAUSE};

    use super::*;

    #[tokio::test]
    async fn sign_in_waits_for_the_end_of_others_and_for_the_end_of_a_pause() {
        let (refusals, secret) = (Refusals::default(), Secret::new("x".to_owned()));
        let mut tickets = Vec::new();
        for mailbox in 0..MOST_REFUSED {
            tickets.push(refusals.ticket(MailboxId(mailbox.into()), &secret).await.expect("its turn"));
        }
        let mut waiting = std::pin::pin!(refusals.ticket(MailboxId(9), &secret));
        let waits = tokio::time::timeout(Duration::from_millis(20), waiting.as_mut()).await;
        assert!(waits.is_err(), "five try it");
        drop(tickets.pop());
        waiting.await.expect("its turn").refused();
        tickets.into_iter().for_each(SignInTicket::refused);
        let until = refusals.ticket(MailboxId(10), &secret).await.expect_err("a pause");
        assert!(until > BootInstant::now() && until <= BootInstant::now() + REFUSED_PAUSE);
    }
}
