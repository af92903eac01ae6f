//! Attempts of effects: each is durable before its act, and its outcome after it (rules E1, R11). The effects that a
//! notification covers have its attempts and its outcome in the same commits.

use twinbox_clock::wall;
use twinbox_ids::{EffectId, Epoch};
use twinbox_mailbox::Mark;
use twinbox_outbox::{
    Cause, Effect, EffectOutcome, GatheredEnd, MOST_GATHERED, NewEffect, attempt, covered_end, covers, death,
    gathered_in, schema,
};
use twinbox_replication_store::Draft;

use crate::{
    Acknowledgement, MailError, Mailstore, ReturnedMessage,
    messages::mark_in,
    outbox::{effect_in, forget_secret_in, open_effect, write_effect},
};

impl Mailstore {
    /// Makes the next attempt durable, here and at a peer (rule E1); returns it with its number. `None`: the effect is
    /// at its end, its message is in the notification of another, or an attempt of unknown result has arrived since this one was
    /// prepared, and the receiver could not tell a repeat. Act only after this. `covered` are other effects whose
    /// messages are in the notification; they count if its set is not fixed yet.
    pub async fn begin_attempt(
        &self,
        id: EffectId,
        covered: Vec<EffectId>,
        epoch: &Epoch,
    ) -> Result<Option<(u32, Acknowledgement)>, MailError> {
        let (epoch, incarnation) = (epoch.clone(), self.settings().incarnation);
        let (number, acknowledgement) = self
            .commit(move |draft| {
                let Some(effect) = open_effect(draft, id)? else { return Ok(None) };
                let unknown = effect.new.channel.at_most_once() && effect.unfinished().is_some();
                if unknown || is_gathered_in(draft, &effect)? {
                    return Ok(None);
                }
                let begin = |effect: &Effect| attempt(effect, wall(), incarnation, &epoch);
                let others = covered_in(draft, &effect, covered)?;
                let (number, mut edits) = begin(&effect);
                let set: Vec<EffectId> = others.iter().map(|other| other.id).collect();
                if !effect.is_fixed() && effect.covers != set {
                    edits.extend(covers(&set));
                }
                draft.edit(schema::effect_key(id), edits)?;
                for other in &others {
                    let (number, edits) = begin(other);
                    draft.edit(schema::effect_key(other.id), [edits, gathered_in(id, number)].concat())?;
                }
                Ok(Some(number))
            })
            .await?;
        Ok(number.map(|number| (number, acknowledgement)))
    }

    /// Makes an outcome durable, with the effects that follow from it. An effect that is at its end stays as it is.
    pub async fn end_attempt(
        &self,
        id: EffectId,
        outcome: EffectOutcome,
        next: Vec<NewEffect>,
    ) -> Result<Acknowledgement, MailError> {
        self.end_attempt_returning(id, outcome, next, None).await
    }

    /// As [`Self::end_attempt`]; the message that comes back to its sender is filed in the same commit.
    pub async fn end_attempt_returning(
        &self,
        id: EffectId,
        outcome: EffectOutcome,
        next: Vec<NewEffect>,
        returned: Option<ReturnedMessage>,
    ) -> Result<Acknowledgement, MailError> {
        let own = self.settings().incarnation;
        let ((), acknowledgement) = self
            .commit(move |draft| {
                let Some(effect) = open_effect(draft, id)? else { return Ok(()) };
                let elsewhere = effect.unfinished().is_some_and(|attempt| attempt.incarnation != own);
                returned.iter().try_for_each(|returned| returned.file(draft))?;
                if outcome.forgets_secret(&effect, wall()) {
                    forget_secret_in(draft, &effect)?;
                }
                if matches!(outcome, EffectOutcome::DoneDeleting(_)) {
                    let Cause { mailbox, message, .. } = effect.new.cause;
                    match mark_in(draft, mailbox, message, Mark::Deleted) {
                        Ok(()) | Err(MailError::NoMessage(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                // The next holder attempts it by now: the outcome of that attempt counts.
                if !(elsewhere && outcome.is_failure()) {
                    let (edits, end) = outcome.edits(&effect, elsewhere, wall());
                    draft.edit(schema::effect_key(id), edits)?;
                    end_covered_in(draft, &effect, end, outcome.reason())?;
                }
                next.iter().try_for_each(|effect| write_effect(draft, effect))
            })
            .await?;
        Ok(acknowledgement)
    }

    /// True if an effect waits for the outcome of another, whose notification has its message.
    pub fn is_gathered(&self, effect: &Effect) -> Result<bool, MailError> {
        let Some(gathered) = effect.gathered else { return Ok(false) };
        Ok(self.effect(gathered.into)?.is_some_and(|leader| leader.gathers(effect)))
    }

    /// Lets the covered effects of a leader go that came to its end before it acted: an earlier holder's outcome arrived
    /// after the attempt of this process began.
    pub async fn leave_gathered(&self, leader: EffectId) -> Result<(), MailError> {
        let own = self.settings().incarnation;
        self.commit(move |draft| {
            let Some(effect) = effect_in(draft, leader)? else { return Ok(()) };
            for id in &effect.covers {
                let Some(other) = open_effect(draft, *id)? else { continue };
                let is_own = other.unfinished().is_some_and(|attempt| attempt.incarnation == own);
                if is_own && other.gathered.is_some_and(|gathered| gathered.into == leader) {
                    let reason = "its notification came to its end before anything left";
                    let end = GatheredEnd::Apart(wall());
                    draft.edit(schema::effect_key(*id), covered_end(&effect, &other, end, wall(), reason))?;
                }
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Counts the death of a process during an attempt (rule R11).
    pub async fn count_death(&self, id: EffectId, attempt: u32, deaths: u32) -> Result<(), MailError> {
        self.commit(move |draft| {
            let edits = open_effect(draft, id)?.map_or_else(Vec::new, |_| death(attempt, deaths));
            Ok(draft.edit(schema::effect_key(id), edits)?)
        })
        .await?;
        Ok(())
    }
}

/// The effects that a notification covers in its next attempt: those of its set, or else those of `wanted` that are free.
fn covered_in(draft: &Draft<'_>, effect: &Effect, wanted: Vec<EffectId>) -> Result<Vec<Effect>, MailError> {
    let fixed = effect.is_fixed();
    let mut covered = Vec::new();
    let ids = if fixed { effect.covers.clone() } else { wanted };
    for id in ids {
        let Some(other) = open_effect(draft, id)? else { continue };
        let may = match fixed {
            true => effect.gathers(&other),
            false => {
                let free = id != effect.id && !other.is_fixed() && other.covers.is_empty();
                free && !is_gathered_in(draft, &other)?
            }
        };
        if may && covered.len() < MOST_GATHERED {
            covered.push(other);
        }
    }
    Ok(covered)
}

fn is_gathered_in(draft: &Draft<'_>, effect: &Effect) -> Result<bool, MailError> {
    let Some(gathered) = effect.gathered else { return Ok(false) };
    Ok(open_effect(draft, gathered.into)?.is_some_and(|leader| leader.gathers(effect)))
}

/// Writes the result of a notification to the effects that it covers. `leader` is as it was before its end.
pub(crate) fn end_covered_in(
    draft: &mut Draft<'_>,
    leader: &Effect,
    end: GatheredEnd,
    reason: &str,
) -> Result<(), MailError> {
    for id in &leader.covers {
        let Some(other) = open_effect(draft, *id)? else { continue };
        if end == GatheredEnd::Taken || leader.gathers(&other) {
            draft.edit(schema::effect_key(*id), covered_end(leader, &other, end, wall(), reason))?;
        }
    }
    Ok(())
}
