//! Passwords of directories: tries are counted, and the confirmed password is remembered for the time in which no server answers.

use std::time::Duration;

use twinbox_ids::{MailboxId, Pii, Timestamp};
use twinbox_mailbox::{
    Binding, BindingState, Mailbox,
    directory::{LONGEST_PASSWORD, PasswordVerifier, schema},
    pin::{self, Subject, TryVerdict},
};
use twinbox_pin_hashing::Lane;
use twinbox_replication_core::Key;
use twinbox_replication_store::Draft;

use crate::{MailError, Mailstore, PinError, mailboxes::mailbox_in, pins::attempt_counts};

/// Result of a check against a remembered password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RememberedPassword {
    /// It is the password.
    Right,
    /// It is another than the remembered one.
    Wrong,
    /// None is remembered, or not for the user as it is now, or it is too old: only the directory can tell.
    Unknown,
}

/// Try of a password, which counts as a wrong one unless [`Mailstore::take_back_password_try`] takes it back.
#[derive(Debug)]
pub struct PasswordTry(Key);

impl Mailstore {
    /// Counts a try of a user's password before it is checked, by the directory or against the remembered one. The try is durable here,
    /// and sent to the peers, when this returns. Tries are counted and limited as those of a PIN (rule S1), apart from them;
    /// [`Self::unlock`] forgets both. The inner error is the number of seconds until the next try is allowed.
    pub async fn begin_password_try(
        &self,
        mailbox: MailboxId,
        now: Timestamp,
    ) -> Result<Result<PasswordTry, u64>, MailError> {
        let _turn = self.inner.checks.turn(mailbox).await;
        let (node, policy) = (self.settings().node.clone(), self.settings().mailbox_attempts);
        let (nodes, together) = (self.nodes(), self.together());
        let (begun, committed) = self
            .commit_here(move |draft| {
                let generation = mailbox_in(draft, mailbox)?.pin_generation;
                let (attempts, key) = attempt_counts(draft, subject(mailbox), generation, &policy, now)?;
                if let TryVerdict::BackOff { seconds } = attempts.verdict(&policy, &node, nodes, together, now) {
                    return Ok(Err(seconds));
                }
                draft.edit(key.clone(), pin::begin(now))?;
                Ok(Ok(PasswordTry(key)))
            })
            .await?;
        if begun.is_ok() {
            self.inner.peers.acknowledge(&committed).await;
        }
        Ok(begun)
    }

    /// Takes a try back: the password was right, or was not compared. Earlier wrong tries still count.
    pub async fn take_back_password_try(&self, begun: PasswordTry) -> Result<(), MailError> {
        self.commit_here(move |draft| Ok(draft.edit(begun.0, pin::right_answer())?)).await?;
        Ok(())
    }

    /// Remembers a password that the directory confirmed now. Nothing is remembered for an empty or overlong password,
    /// nor for a user who is local or disabled.
    pub async fn remember_password(&self, mailbox: MailboxId, password: &Pii<String>) -> Result<(), PinError> {
        let usable = (1..=LONGEST_PASSWORD).contains(&password.reveal().len());
        let Some((key, _)) = self.active_binding(mailbox)?.filter(|_| usable) else { return Ok(()) };
        let (password, salt, now) = (password.clone(), rand::random(), twinbox_clock::wall());
        let hash = move |memory: &mut _| PasswordVerifier::hash(&password, now, salt, memory);
        let verifier = self.inner.checks.hashing.compute(Lane::Caller, hash).await.map_err(MailError::from)??;
        self.commit(move |draft| {
            // The directory may have disabled the user meanwhile.
            if is_active(draft, mailbox, &key)? {
                draft.edit(key, verifier.edits())?;
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Checks a password against the one that the directory confirmed last, if that was within `max_age`: for the time in which no server
    /// of the directory answers. To be called within a try that [`Self::begin_password_try`] allowed.
    pub async fn check_remembered_password(
        &self,
        mailbox: MailboxId,
        password: &Pii<String>,
        max_age: Duration,
        now: Timestamp,
    ) -> Result<RememberedPassword, MailError> {
        let _turn = self.inner.checks.turn(mailbox).await;
        let max_age_ms = u64::try_from(max_age.as_millis()).unwrap_or(u64::MAX);
        let verifier = self.active_binding(mailbox)?.and_then(|(_, verifier)| verifier);
        let verifier = verifier.filter(|verifier| verifier.is_fresh(max_age_ms, now));
        let usable = (1..=LONGEST_PASSWORD).contains(&password.reveal().len());
        let password = if usable { password.clone() } else { Pii::default() };
        let check = move |memory: &mut _| match verifier {
            Some(verifier) if verifier.verify(&password, memory) => RememberedPassword::Right,
            Some(_) => RememberedPassword::Wrong,
            None => {
                PasswordVerifier::verify_nothing(&password, memory);
                RememberedPassword::Unknown
            }
        };
        Ok(self.inner.checks.hashing.compute(Lane::Caller, check).await?)
    }

    /// Forgets the remembered password of a user: the directory said that it is wrong, or that the account is disabled.
    pub async fn forget_password(&self, mailbox: MailboxId) -> Result<(), MailError> {
        self.commit(move |draft| {
            let Some((directory, entry)) = mailbox_in(draft, mailbox)?.directory else { return Ok(()) };
            let key = schema::binding_key(directory, entry);
            if draft.get(&key)?.as_ref().and_then(PasswordVerifier::read).is_some() {
                draft.edit(key, PasswordVerifier::removal())?;
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// The key of the binding of a user who may sign in, with the remembered password.
    fn active_binding(&self, mailbox: MailboxId) -> Result<Option<(Key, Option<PasswordVerifier>)>, MailError> {
        let Some(user) = self.get_now(mailbox)? else { return Ok(None) };
        let Some((directory, entry)) = user.directory.filter(|_| !user.disabled) else { return Ok(None) };
        let key = schema::binding_key(directory, entry);
        let Some(row) = self.store().get(&key)? else { return Ok(None) };
        let active = Binding::read(&key, &row)?.is_some_and(|binding| serves(&binding, &user));
        Ok(active.then(|| (key, PasswordVerifier::read(&row))))
    }
}

fn is_active(draft: &Draft<'_>, mailbox: MailboxId, key: &Key) -> Result<bool, MailError> {
    let user = mailbox_in(draft, mailbox)?;
    let binding = draft.get(key)?.map(|row| Binding::read(key, &row)).transpose()?.flatten();
    Ok(!user.disabled && binding.is_some_and(|binding| serves(&binding, &user)))
}

fn serves(binding: &Binding, user: &Mailbox) -> bool {
    binding.state == BindingState::Active && binding.mailbox == user.id
}

/// The subject under which tries of passwords are counted: apart from those of the PIN, so that neither locks the other.
fn subject(mailbox: MailboxId) -> Subject {
    let mut hasher = blake3::Hasher::new_derive_key("twinbox remembered password v1");
    hasher.update(&mailbox.to_bytes());
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    Subject::Source(hash)
}
