//! The outbox (rules E1, R11): effects are written with their causes, attempts before their acts, outcomes after them.

use std::sync::Arc;

use twinbox_clock::wall;
use twinbox_devices::schema as devices_schema;
use twinbox_ids::{DeviceId, EffectId, Epoch, RecordingId, Timestamp};
use twinbox_locations::schema::outgoing_key;
use twinbox_mailbox::schema as mailbox_schema;
use twinbox_outbox::{
    Cause, Channel, Effect, GatheredEnd, NewEffect, Phase, Transition, asks_for_attempts, bounced, done, failed,
    forget_secret, knows_all_attempts, next_retry, removal, schema,
};
use twinbox_replication_core::{Edit, Key, Record};
use twinbox_replication_peer::StabilityMark;
use twinbox_replication_store::{Draft, LiveError, LiveReader};

use crate::{
    Acknowledgement, MailError, Mailstore, ReturnedMessage, attempts::end_covered_in, devices::opens_in,
    work::blocking,
};

/// Time that the effect of a mail stays longer than others, in milliseconds: mail servers usually try for five days before they
/// report a failure.
const REPORT_WITHIN_MS: u64 = 6 * 24 * 3_600 * 1_000;

/// Effects that one search reads.
const PER_SEARCH: usize = 5_000;
/// Effects that one commit changes: it holds up no caller who leaves a message.
const AT_A_TIME: usize = 500;

/// An administrator's request about an effect was refused.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// There is no such effect.
    #[error("effect {0} does not exist: list the effects with `twinbox outbox list`")]
    None(EffectId),
    /// It is done.
    #[error("effect {0} is done: nothing to do")]
    Done(EffectId),
    /// Any other error.
    #[error(transparent)]
    Mail(#[from] MailError),
}

/// A change of the outbox, or of something on which its attempts depend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboxChange {
    /// This effect.
    Effect(EffectId),
    /// This target, a device or location: its effects may have another destination.
    Device(DeviceId),
    /// Holds of destinations.
    Holds,
    /// Any effect: changes were missed.
    Everything,
}

impl OutboxChange {
    /// The change of the record with this key; `None` for one that does not concern the outbox.
    fn of(key: &Key) -> Option<Self> {
        if key.table == schema::HOLD {
            return Some(Self::Holds);
        }
        if let Some(effect) = schema::effect_of(key) {
            return Some(Self::Effect(effect));
        }
        let location = || twinbox_locations::schema::location_of(key).map(|location| DeviceId(location.0));
        devices_schema::device_of(key).map(|(_, device)| device).or_else(location).map(Self::Device)
    }
}

/// Reports changes of the outbox, made here or by a peer, from its creation on.
pub struct OutboxWatch {
    changes: LiveReader,
}

impl OutboxWatch {
    /// The next change; `None` when the store is closed. Safe to cancel.
    pub async fn next(&mut self) -> Option<OutboxChange> {
        loop {
            match self.changes.recv().await {
                Ok(change) => {
                    if let Some(change) = OutboxChange::of(&change.key) {
                        return Some(change);
                    }
                }
                Err(LiveError::Lagged) => return Some(OutboxChange::Everything),
                Err(LiveError::Closed) => return None,
            }
        }
    }
}

impl Mailstore {
    /// All effects that were not removed, by time of creation.
    pub async fn effects(&self) -> Result<Vec<Effect>, MailError> {
        let store = self.clone();
        blocking(move || {
            let mut effects = Vec::new();
            for row in store.store().rows(schema::OUTBOX, &[]) {
                let (key, record) = row?;
                effects.extend(readable(&key, &record));
            }
            effects.sort_by_key(|effect| (effect.new.created, effect.id));
            Ok(effects)
        })
        .await?
    }

    /// An effect; `None` when there is none.
    pub fn effect(&self, id: EffectId) -> Result<Option<Effect>, MailError> {
        let key = schema::effect_key(id);
        Ok(self.store().get(&key)?.and_then(|record| readable(&key, &record)))
    }

    /// Whether the mailbox, the device and the message of an effect are here, or were removed. Replication applies an
    /// effect before its message, which waits for its audio: a record that is not here yet is not a removed one.
    pub fn has_cause_of(&self, effect: &Effect) -> Result<bool, MailError> {
        let Cause { mailbox, message, transition } = effect.new.cause;
        let record = |key: &Key| Ok::<_, MailError>(self.store().get(key)?.unwrap_or_default());
        let device = devices_schema::device_key(mailbox, effect.new.target);
        if record(&mailbox_schema::mailbox_key(mailbox))?.is_empty() || record(&device)?.is_empty() {
            return Ok(false);
        }
        let purged = self.was_purged(RecordingId(message.0))?;
        let message = record(&mailbox_schema::message_key(mailbox, message))?;
        let filed = purged || message.blobs().next().is_some() || message.tombstone().is_some();
        Ok(filed || transition == Transition::Test)
    }

    /// Watches for changes of the outbox. Begin watching before reading it, so that no change is missed.
    pub fn watch_outbox(&self) -> OutboxWatch {
        OutboxWatch { changes: self.store().live(|change| OutboxChange::of(&change.key).is_some()) }
    }

    /// Writes effects that have no message as their cause, such as the test of a device.
    pub async fn add_effects(&self, effects: Vec<NewEffect>) -> Result<Acknowledgement, MailError> {
        let ((), acknowledgement) =
            self.commit(move |draft| effects.iter().try_for_each(|effect| write_effect(draft, effect))).await?;
        Ok(acknowledgement)
    }

    /// An administrator wants an effect that was given up, or that waits, to be attempted now; returns the effect that
    /// is attempted. Receivers see the same Message-ID or key again.
    pub async fn retry_effect(&self, id: EffectId) -> Result<EffectId, OutboxError> {
        let (retried, _) = self
            .commit(move |draft| {
                let effect = match unfinished_in(draft, id)? {
                    Ok(effect) => effect,
                    Err(error) => return Ok(Err(error)),
                };
                let key = schema::effect_key(id);
                if effect.dead.is_some() {
                    let again = effect.again(wall(), opens_in(draft, &effect)?);
                    draft.edit(key, done(wall(), &format!("retried as {}", again.id())))?;
                    write_effect(draft, &again)?;
                    return Ok(Ok(again.id()));
                }
                // One that waits for its delay is due now, too.
                if effect.unfinished().is_none() {
                    draft.edit(key, failed(effect.attempts(), wall(), "retried by an administrator"))?;
                }
                Ok(Ok(id))
            })
            .await?;
        retried
    }

    /// An administrator gives an effect up: it counts as done.
    pub async fn drop_effect(&self, id: EffectId) -> Result<Acknowledgement, OutboxError> {
        let (dropped, acknowledgement) = self
            .commit(move |draft| {
                let effect = match unfinished_in(draft, id)? {
                    Ok(effect) => effect,
                    Err(error) => return Ok(Err(error)),
                };
                const REASON: &str = "dropped by an administrator";
                draft.edit(schema::effect_key(id), done(wall(), REASON))?;
                let unknown = effect.attempts() > effect.not_taken;
                end_covered_in(draft, &effect, GatheredEnd::Over { unknown }, REASON)?;
                forget_secret_in(draft, &effect)?;
                Ok(Ok(()))
            })
            .await?;
        dropped.map(|()| acknowledgement)
    }

    /// Records a report of failure that came back; false when there is no such effect, or it has one already. The message
    /// that comes back to its sender is filed in the same commit.
    pub async fn note_bounce(
        &self,
        id: EffectId,
        reason: &str,
        returned: Option<ReturnedMessage>,
    ) -> Result<bool, MailError> {
        let reason = reason.to_owned();
        let (new, _) = self
            .commit(move |draft| {
                let key = schema::effect_key(id);
                let effect = draft.get(&key)?.and_then(|record| readable(&key, &record));
                let new = effect.is_some_and(|effect| effect.bounced.is_none());
                if new {
                    returned.iter().try_for_each(|returned| returned.file(draft))?;
                    draft.edit(key, bounced(wall(), &reason))?;
                }
                Ok(new)
            })
            .await?;
        Ok(new)
    }

    /// Asks the other members for the attempts of earlier holders, at the beginning of this epoch; `None`: the effect, whose
    /// record carries the question, is at its end.
    pub async fn ask_for_attempts(&self, id: EffectId, epoch: &Epoch) -> Result<Option<StabilityMark>, MailError> {
        let edits = asks_for_attempts(epoch);
        let (asked, _) = self
            .commit_here(move |draft| {
                let open = open_effect(draft, id)?.is_some();
                if open {
                    draft.edit(schema::effect_key(id), edits)?;
                }
                Ok(open)
            })
            .await?;
        Ok(asked.then(|| self.inner.peers.mark()))
    }

    /// Whether every attempt that an earlier holder has acted on is here. Without a question, only if there is no other member.
    pub fn knows_all_attempts(&self, asked: Option<&StabilityMark>) -> bool {
        let peers = &self.inner.peers;
        let Some(asked) = asked else { return knows_all_attempts(peers.known().saturating_add(1), 0) };
        let silent = peers.unanswered(asked);
        let (status, others) = (peers.status(), peers.known());
        // The one that is left out must be away: another may have come back with an empty disk.
        let waits = status.iter().any(|peer| (peer.connected || peer.following) && silent.contains(&peer.name));
        // Attempts of this disk's predecessor may be on a member that was away when this disk was filled.
        let missed = !self.store().fill_missed().is_empty();
        !waits && !missed && knows_all_attempts(others.saturating_add(1), others.saturating_sub(silent.len()))
    }

    /// Effects of these channels that were done before that time, at most 20,000. Those of mails and of sent messages, of
    /// these also dead ones, stay longer, because a mail server may report a failure after days; one that was retried stays until the retry is
    /// removed, which may need its content.
    pub async fn done_effects(
        &self,
        before: Timestamp,
        of: impl Fn(Channel) -> bool + Send + Sync + 'static,
    ) -> Result<DoneEffects, MailError> {
        const MOST: usize = 20_000;
        let (mut effects, of) = (Vec::new(), Arc::new(of));
        let mut after = Some((before, EffectId(u128::MAX)));
        while effects.len() < MOST && after.is_some() {
            let found = self.newest_effects(&[Phase::Done, Phase::Dead], after, PER_SEARCH).await?;
            after = found.last().map(|effect| (effect.new.created, effect.id));
            let (store, of) = (self.clone(), of.clone());
            let over = blocking(move || {
                let mut over = Vec::new();
                for effect in found {
                    let is_over = of(effect.new.channel) && is_over(&effect, before);
                    if is_over && store.effect(next_retry(&effect))?.is_none() {
                        over.push(effect);
                    }
                }
                Ok::<_, MailError>(over)
            });
            effects.extend(over.await??);
        }
        // The effects that were read are durable after a commit, even an empty one, and so among the changes of the mark.
        self.commit_here(|_| Ok(())).await?;
        Ok(DoneEffects { effects, mark: self.inner.peers.mark() })
    }

    /// Removes done effects; returns their number. `None`: a member does not have all of their records yet. If they were
    /// removed before, a member that knows the attempt but not the success could repeat it. The last effect of a sent
    /// message takes the message with it, so that nothing refers to its audio any more.
    pub async fn remove_if_stable(&self, done: &DoneEffects) -> Result<Option<usize>, MailError> {
        if !self.inner.peers.is_stable(&done.mark) {
            return Ok(None);
        }
        for effects in done.effects.chunks(AT_A_TIME).map(<[Effect]>::to_vec) {
            self.commit_here(move |draft| effects.iter().try_for_each(|effect| remove_effect(draft, effect)))
                .await?;
        }
        Ok(Some(done.effects.len()))
    }
}

/// Effects that were done, with the changes that were here when they were read.
pub struct DoneEffects {
    effects: Vec<Effect>,
    mark: StabilityMark,
}

impl DoneEffects {
    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }
}

/// Whether an effect has been at its end since that time.
fn is_over(effect: &Effect, before: Timestamp) -> bool {
    // A message that was given up is with its sender again.
    let given_up = effect.dead.as_ref().filter(|_| effect.is_sent());
    let may_come_back = effect.is_sent() || effect.new.channel.is_mail() && effect.new.channel != Channel::Report;
    let longer = if may_come_back { REPORT_WITHIN_MS } else { 0 };
    let ended = effect.done.as_ref().or(given_up);
    ended.is_some_and(|ended| ended.at.0.saturating_add(longer) < before.0)
}

/// Removes an effect. A sent message goes with its effect, unless an administrator's retry needs it.
fn remove_effect(draft: &mut Draft<'_>, effect: &Effect) -> Result<(), MailError> {
    let key = schema::effect_key(effect.id);
    let Some(record) = draft.get(&key)?.filter(|record| record.tombstone().is_none()) else { return Ok(()) };
    draft.edit(key, removal(&record))?;
    let is_last = draft.get(&schema::effect_key(next_retry(effect)))?.is_none_or(|record| record.is_empty());
    if effect.is_sent() && is_last {
        draft.edit(outgoing_key(effect.new.cause.message), vec![Edit::Delete])?;
    }
    Ok(())
}

/// Removes the secret of an effect, which is in the record of the first of its retries.
pub(crate) fn forget_secret_in(draft: &mut Draft<'_>, effect: &Effect) -> Result<(), MailError> {
    let key = schema::effect_key(effect.receiver_id());
    let Some(edit) = forget_secret(effect) else { return Ok(()) };
    let content = draft.get(&key)?.and_then(|record| record.bytes(schema::SYSTEM_MAIL).map(<[u8]>::len));
    if content.is_some_and(|length| length > 0) {
        draft.edit(key, vec![edit])?;
    }
    Ok(())
}

/// Writes an effect, unless it exists.
pub(crate) fn write_effect(draft: &mut Draft<'_>, effect: &NewEffect) -> Result<(), MailError> {
    let key = schema::effect_key(effect.id());
    let current = draft.get(&key)?;
    Ok(draft.edit(key, effect.edits(current.as_ref()))?)
}

/// The effect, unless it is at its end or removed.
pub(crate) fn open_effect(draft: &Draft<'_>, id: EffectId) -> Result<Option<Effect>, MailError> {
    Ok(effect_in(draft, id)?.filter(|effect| !effect.state().is_end()))
}

/// The effect, unless it was removed.
pub(crate) fn effect_in(draft: &Draft<'_>, id: EffectId) -> Result<Option<Effect>, MailError> {
    let key = schema::effect_key(id);
    Ok(draft.get(&key)?.and_then(|record| readable(&key, &record)))
}

/// The effect of an administrator's request; the reason of the refusal, if it is done or removed.
fn unfinished_in(draft: &Draft<'_>, id: EffectId) -> Result<Result<Effect, OutboxError>, MailError> {
    Ok(match effect_in(draft, id)? {
        None => Err(OutboxError::None(id)),
        Some(effect) if effect.done.is_some() => Err(OutboxError::Done(id)),
        Some(effect) => Ok(effect),
    })
}

pub(crate) fn readable(key: &Key, record: &Record) -> Option<Effect> {
    match Effect::read(key, record) {
        Ok(effect) => effect,
        Err(error) => {
            tracing::warn!(%error, "effect cannot be read; it is left out");
            None
        }
    }
}
