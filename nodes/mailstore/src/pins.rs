//! Checks and changes of PINs (rule S1).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;
use twinbox_ids::{ClassId, MailboxId, Pii, Timestamp};
use twinbox_mailbox::{
    Mailbox, MailboxChange, Rule, Rules,
    pin::{
        self, AttemptCounts, AttemptPolicy, HashCost, PinRecord, PinRefused, RANDOM_DIGITS, Subject, TryVerdict,
    },
    schema,
};
use twinbox_pin_hashing::{Hashing, Lane};
use twinbox_replication_core::Key;
use twinbox_replication_store::Draft;

use crate::{Acknowledgement, MailError, Mailstore, PinError};

/// Result of a PIN check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinCheck {
    /// It is right.
    Ok {
        /// A new PIN is due.
        must_change: bool,
    },
    /// It is wrong, or there is no such mailbox.
    Wrong,
    /// Too many wrong tries lately: this PIN was not checked.
    BackOff {
        /// Seconds until the next try is allowed.
        seconds: u64,
    },
}

/// The mailboxes whose PINs are being checked, and the threads that hash.
#[derive(Default)]
pub(crate) struct Checks {
    turns: Mutex<HashMap<MailboxId, Arc<tokio::sync::Mutex<()>>>>,
    pub(crate) hashing: Hashing,
}

impl Checks {
    /// Waits until no other check of this mailbox runs here.
    pub(crate) async fn turn(&self, id: MailboxId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(id).or_default().clone()
        };
        turn.lock_owned().await
    }
}

/// The records on which a try was counted, so that a right one can be taken back there.
struct Begun {
    keys: Vec<Key>,
    pin: Option<PinRecord>,
}

impl Mailstore {
    /// Checks a PIN. The try is durable here, and on its way to the peers, before the hash is computed; one check at a
    /// time for each mailbox. A missing mailbox takes the same path and time and never succeeds.
    ///
    /// `source` identifies the caller as far as it can be trusted (the calling number): its tries at all mailboxes are
    /// counted together. Empty if unknown.
    pub async fn check_pin(&self, id: MailboxId, pin: &Pii<String>, source: &str) -> Result<PinCheck, MailError> {
        let _turn = self.inner.checks.turn(id).await;
        let (now, nodes, together) = (twinbox_clock::wall(), self.nodes(), self.together());
        let mut subjects = vec![(Subject::Mailbox(id), self.settings().mailbox_attempts)];
        if !source.is_empty() {
            let mut hash = [0; 16];
            hash.copy_from_slice(&blake3::hash(source.as_bytes()).as_bytes()[..16]);
            subjects.push((Subject::Source(hash), self.settings().source_attempts));
        }
        let node = self.settings().node.clone();
        let rules = self.get(id).await?.map(|mailbox| self.rules(&mailbox)).transpose()?.unwrap_or_default();
        let signs_in = rules.allows(Rule::SignIn, true);
        let (begun, committed) = self
            .commit_here(move |draft| {
                let mailbox = mailbox_or_none(draft, id)?;
                let generation = mailbox.as_ref().map_or(0, |mailbox| mailbox.pin_generation);
                let mut wait = None;
                let mut keys = Vec::with_capacity(subjects.len());
                for (subject, policy) in &subjects {
                    let generation = if matches!(subject, Subject::Mailbox(_)) { generation } else { 0 };
                    let (attempts, key) = attempt_counts(draft, *subject, generation, policy, now)?;
                    if let TryVerdict::BackOff { seconds } = attempts.verdict(policy, &node, nodes, together, now) {
                        wait = wait.max(Some(seconds));
                    }
                    keys.push(key);
                }
                if let Some(seconds) = wait {
                    return Ok(Err(seconds));
                }
                for key in &keys {
                    draft.edit(key.clone(), pin::begin(now))?;
                }
                // If a class forbids sign-in by telephone, or the directory disabled the user, no PIN is right.
                let mailbox = mailbox.filter(|mailbox| signs_in && !mailbox.disabled);
                Ok(Ok(Begun { keys, pin: mailbox.and_then(|mailbox| mailbox.pin) }))
            })
            .await?;
        let Begun { keys, pin: kept } = match begun {
            Ok(begun) => begun,
            Err(seconds) => return Ok(PinCheck::BackOff { seconds }),
        };
        let must_change = kept.as_ref().is_some_and(|kept| kept.must_change);
        let (right, _) = tokio::join!(self.verify(kept, pin.clone()), self.inner.peers.acknowledge(&committed));
        if !right? {
            return Ok(PinCheck::Wrong);
        }
        self.commit_here(move |draft| {
            keys.into_iter().try_for_each(|key| Ok(draft.edit(key, pin::right_answer())?))
        })
        .await?;
        Ok(PinCheck::Ok { must_change })
    }

    /// Checks the PIN of the mailbox with that number. Tries at a number without a mailbox are counted and put off like
    /// others, so that no caller or client finds out which exist.
    pub async fn check_pin_of_number(
        &self,
        number: &str,
        pin: &Pii<String>,
        source: &str,
    ) -> Result<PinCheck, MailError> {
        let found = self.find_by_number(number).await?;
        self.check_pin(found.map_or_else(|| no_mailbox(number), |mailbox| mailbox.id), pin, source).await
    }

    /// Sets the PIN that the owner chose; refused when it is too easy, or the one that is to be changed.
    pub async fn set_pin(&self, id: MailboxId, pin: &Pii<String>) -> Result<Acknowledgement, PinError> {
        let first = self.get(id).await?.and_then(|mailbox| mailbox.pin).filter(|kept| kept.must_change);
        if first.is_some() && self.verify(first, pin.clone()).await? {
            return Err(PinRefused::Unchanged.into());
        }
        let pin = self.new_pin(id, pin, false).await?;
        Ok(self.edit_mailbox(id, MailboxChange::Pin(pin).edits()).await?)
    }

    /// Sets a PIN as an administrator: earlier tries are forgotten, and with `must_change` the owner has to choose
    /// another at the next sign-in.
    pub async fn reset_pin(
        &self,
        id: MailboxId,
        pin: &Pii<String>,
        must_change: bool,
    ) -> Result<Acknowledgement, PinError> {
        let pin = self.new_pin(id, pin, must_change).await?;
        let mut edits = MailboxChange::Pin(pin).edits();
        edits.extend(unlocked().edits());
        Ok(self.edit_mailbox(id, edits).await?)
    }

    /// Forgets the earlier tries. Those of the other side of a split do not count either after the merge: unlocking
    /// wins.
    pub async fn unlock(&self, id: MailboxId) -> Result<Acknowledgement, MailError> {
        self.edit_mailbox(id, unlocked().edits()).await
    }

    async fn new_pin(&self, id: MailboxId, pin: &Pii<String>, must_change: bool) -> Result<PinRecord, PinError> {
        let mailbox = self.get(id).await?.ok_or(MailError::NoMailbox(id))?;
        self.accepts(pin, &mailbox.number, &self.rules(&mailbox)?)?;
        self.hash(pin, must_change).await
    }

    /// A random first PIN of six digits, or as many as the class of service or this node's settings ask for.
    pub fn random_pin(&self, number: &str, class: Option<ClassId>) -> Result<Pii<String>, MailError> {
        let digits = usize::from(self.min_pin_length(&self.class_rules(class)?)).max(RANDOM_DIGITS);
        Ok(Pii::new(pin::random(number, digits, rand::random)))
    }

    fn min_pin_length(&self, rules: &Rules) -> u8 {
        let said = rules.get(Rule::PinLength).and_then(|length| u8::try_from(length).ok());
        said.unwrap_or(self.live().min_pin_length)
    }

    /// Whether those rules, or this node's settings, accept a new PIN for the mailbox of that number.
    pub(crate) fn accepts(&self, pin: &Pii<String>, number: &str, rules: &Rules) -> Result<(), PinRefused> {
        let min_length = self.min_pin_length(rules);
        if rules.allows(Rule::EasyPins, false) {
            pin::typable(pin.reveal(), min_length)
        } else {
            pin::acceptable(pin.reveal(), number, min_length)
        }
    }

    pub(crate) async fn hash(&self, pin: &Pii<String>, must_change: bool) -> Result<PinRecord, PinError> {
        self.hash_at(Lane::Caller, self.live().pin_cost, pin, must_change).await
    }

    /// Hashes one of many PINs that an administrator gives. A PIN that must be changed serves for a single sign-in and
    /// is in the administrator's table anyway: it costs less. A PIN that stays has the usual cost.
    pub async fn hash_of_many(&self, pin: &Pii<String>, must_change: bool) -> Result<PinRecord, PinError> {
        let usual = self.live().pin_cost;
        let cost = if must_change { usual.lesser(HashCost::FIRST_PINS) } else { usual };
        self.hash_at(Lane::Import, cost, pin, must_change).await
    }

    async fn hash_at(
        &self,
        lane: Lane,
        cost: HashCost,
        pin: &Pii<String>,
        must_change: bool,
    ) -> Result<PinRecord, PinError> {
        let (pin, salt) = (pin.clone(), rand::random());
        let hashing = &self.inner.checks.hashing;
        let hashed = hashing
            .compute(lane, move |memory| PinRecord::hash_at(cost, pin.reveal(), must_change, salt, memory))
            .await
            .map_err(MailError::from)?;
        Ok(hashed?)
    }

    async fn verify(&self, kept: Option<PinRecord>, pin: Pii<String>) -> Result<bool, MailError> {
        let cost = self.live().pin_cost;
        let verify = move |memory: &mut _| match kept {
            Some(kept) => kept.verify_at(cost, pin.reveal(), memory),
            None => {
                PinRecord::verify_nothing(cost, pin.reveal(), memory);
                false
            }
        };
        Ok(self.inner.checks.hashing.compute(Lane::Caller, verify).await?)
    }
}

/// Id under which the tries at a number without a mailbox are counted, one of 65,536: a caller chooses the number, and the
/// store keeps a record of each counted one until the purge.
fn no_mailbox(number: &str) -> MailboxId {
    let hash = blake3::derive_key("twinbox number without a mailbox", number.as_bytes());
    MailboxId(u128::from(u16::from_be_bytes([hash[0], hash[1]])))
}

/// A new generation without tries.
fn unlocked() -> MailboxChange {
    MailboxChange::PinGeneration(rand::random())
}

fn mailbox_or_none(draft: &Draft<'_>, id: MailboxId) -> Result<Option<Mailbox>, MailError> {
    match crate::mailboxes::mailbox_in(draft, id) {
        Ok(mailbox) => Ok(Some(mailbox)),
        Err(MailError::NoMailbox(_) | MailError::View(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The tries of a subject, and the key of the record that counts the next one.
pub(crate) fn attempt_counts(
    draft: &Draft<'_>,
    subject: Subject,
    generation: u64,
    policy: &AttemptPolicy,
    now: Timestamp,
) -> Result<(AttemptCounts, Key), MailError> {
    let window = policy.window(now);
    let before = schema::attempts_key(subject, generation, window.saturating_sub(1));
    let current = schema::attempts_key(subject, generation, window);
    let before = draft.get(&before)?.unwrap_or_default();
    Ok((AttemptCounts::read(&before, &draft.get(&current)?.unwrap_or_default()), current))
}
