//! A brake for a wrong shared secret: otherwise each account of the server would try it, and servers lock such clients.
//!
//! Before the first sign-in with a secret succeeds, and from a refusal that counts to the next success, a few accounts at a
//! time try it. Once mailboxes have signed in with it, only their refusals count: a refusal of another mailbox means that the user
//! has no account there. After a pause one account tries at a time, first one that has signed in before.
//! Times are of a clock that is never set, since any moment before the first of them.

use std::{collections::BTreeSet, time::Duration};

use twinbox_ids::MailboxId;

/// Refused sign-ins in a row from which the accounts pause. Up to this many try a secret concurrently before it has succeeded.
pub const MOST_REFUSED: u32 = 5;
/// Pause of the accounts.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(5 * 60);

/// Sign-ins to one server with its shared secret.
#[derive(Debug, Clone, Default)]
pub struct SignInBrake {
    /// Fingerprint of the secret that was tried last.
    secret: Option<u64>,
    /// Mailboxes that signed in with it.
    proven: BTreeSet<MailboxId>,
    /// Refusals in a row that count.
    refused: u32,
    /// Sign-ins under way.
    trying: u32,
    /// End of the latest pause; `None` after a success.
    pause: Option<Duration>,
}

/// Answer to a mailbox that wants to sign in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignInTurn {
    /// The mailbox may sign in; [`SignInBrake::ended`] follows.
    Now,
    /// The mailbox asks again when another sign-in has ended.
    AfterOthers,
    /// The mailbox waits until this time.
    NotBefore(Duration),
}

impl SignInBrake {
    /// Whether the mailbox may sign in now with the secret of this fingerprint.
    pub fn turn(&mut self, mailbox: MailboxId, secret: u64, now: Duration) -> SignInTurn {
        if self.secret.replace(secret) != Some(secret) {
            self.proven.clear();
            self.refused = 0;
        }
        let waits = match self.pause {
            Some(until) if now < until => return SignInTurn::NotBefore(until),
            Some(_) if self.trying > 0 => true,
            // For the length of a pause, mailboxes whose refusal is evidence about the secret go first.
            Some(until) if !self.proven.is_empty() && !self.proven.contains(&mailbox) => {
                let until = until.saturating_add(REFUSED_PAUSE);
                if now < until {
                    return SignInTurn::NotBefore(until);
                }
                false
            }
            Some(_) => false,
            None => {
                let may_be_refused = self.refused.saturating_add(self.trying);
                let is_right = !self.proven.is_empty() && self.refused == 0;
                !is_right && self.trying > 0 && may_be_refused >= MOST_REFUSED
            }
        };
        if waits {
            return SignInTurn::AfterOthers;
        }
        self.trying = self.trying.saturating_add(1);
        SignInTurn::Now
    }

    /// Notes that a mailbox signed in: the secret is right.
    pub fn succeeded(&mut self, mailbox: MailboxId) {
        (self.refused, self.pause) = (0, None);
        self.proven.insert(mailbox);
    }

    /// Notes that the server refused the sign-in of a mailbox.
    pub fn refused(&mut self, mailbox: MailboxId, now: Duration) {
        if self.pause.is_some() {
            // The mailbox no longer goes first: its account may have been removed.
            self.proven.remove(&mailbox);
        } else if !self.proven.is_empty() && !self.proven.contains(&mailbox) {
            return;
        }
        self.refused = self.refused.saturating_add(1);
        if self.pause.is_some() || self.refused >= MOST_REFUSED {
            self.pause = Some(now.saturating_add(REFUSED_PAUSE));
        }
    }

    /// Notes the end of a sign-in, whatever its result.
    pub fn ended(&mut self) {
        self.trying = self.trying.saturating_sub(1);
    }
}
