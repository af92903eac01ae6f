//! Outcomes of attempts, made durable.

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::sleep;
use tracing::{info, warn};
use twinbox_alarms::Code;
use twinbox_clock::wall;
use twinbox_ids::{EffectId, Timestamp};
use twinbox_mailstore::{EffectOutcome, MailError};
use twinbox_outbox::{Channel, Effect, NewEffect, retry_after_ms};

use crate::{
    ActOutcome, Channels,
    outbox_loop::{OutboxLoop, READ_AGAIN, STORE_PAUSE_MS},
};

impl<C: Channels> OutboxLoop<C> {
    /// Records a failure as `outcome`, with the time of the next attempt.
    pub(crate) async fn fail(
        &self,
        effect: &Effect,
        number: u32,
        reason: String,
        outcome: fn(String, Timestamp) -> EffectOutcome,
    ) -> Result<(), MailError> {
        self.counts.failed.fetch_add(1, Relaxed);
        let again = Timestamp(wall().0 + retry_after_ms(number, rand::random()));
        info!(effect = %effect.id, channel = %effect.new.channel, attempt = number, %reason, "attempt failed");
        self.mailstore.end_attempt(effect.id, outcome(reason, again), Vec::new()).await?;
        Ok(())
    }

    pub(crate) async fn end(
        &self,
        effect: &Effect,
        number: u32,
        outcome: ActOutcome,
        deletes: bool,
    ) -> Result<(), MailError> {
        match outcome {
            ActOutcome::Done(receipt, next) => {
                // The receiver has it: only a record of that prevents a repeat.
                while let Err(error) = self.record_done(effect, &receipt, &next, deletes).await {
                    warn!(effect = %effect.id, %error, "success of an effect is not recorded yet; retrying");
                    sleep(READ_AGAIN).await;
                }
                self.counts.done.fetch_add(1, Relaxed);
            }
            ActOutcome::Failed(reason) | ActOutcome::Unreachable(reason) => {
                self.fail(effect, number, reason, EffectOutcome::NotTaken).await?;
            }
            ActOutcome::Unclear(reason) => self.fail(effect, number, reason, EffectOutcome::Failed).await?,
            ActOutcome::Refused(reason, next) => {
                self.give_up_as(effect, reason, next, EffectOutcome::Refused).await?;
            }
            ActOutcome::GivenUp(reason, next) => self.give_up(effect, reason, next).await?,
            ActOutcome::NotHolder => {
                let reason = "the duty was lost before anything left".to_owned();
                self.mailstore.end_attempt(effect.id, EffectOutcome::NotTaken(reason, wall()), Vec::new()).await?;
            }
        }
        Ok(())
    }

    /// One commit: a process that ends after it has nothing left to do for the effect.
    async fn record_done(
        &self,
        effect: &Effect,
        receipt: &str,
        next: &[NewEffect],
        deletes: bool,
    ) -> Result<(), MailError> {
        let outcome = match deletes && self.channels.deletes_message(effect).await? {
            true => EffectOutcome::DoneDeleting(receipt.to_owned()),
            false => EffectOutcome::Done(receipt.to_owned()),
        };
        self.mailstore.end_attempt(effect.id, outcome, next.to_vec()).await?;
        Ok(())
    }

    /// Gives an effect up without the outcome of an attempt.
    pub(crate) async fn abandon(&self, effect: &Effect, reason: String) -> Result<(), MailError> {
        let next = self.channels.abandoned(effect).await?;
        self.give_up(effect, reason, next).await
    }

    /// Records a panic of a channel as a failed attempt; returns the earliest time of the next look. An attempt that may have reached
    /// a receiver that cannot tell a repeat stays without an outcome: the next look gives the effect up.
    pub(crate) async fn panicked(&self, id: EffectId) -> Timestamp {
        if let Ok(Some(effect)) = self.mailstore.effect(id)
            && !effect.state().is_end()
            && !(effect.new.channel.at_most_once() && effect.unfinished().is_some())
        {
            let reason = "the attempt ended by an error in the program".to_owned();
            if let Err(error) = self.fail(&effect, effect.attempts(), reason, EffectOutcome::Failed).await {
                warn!(effect = %id, %error, "failure of an attempt is not recorded");
            }
        }
        Timestamp(wall().0 + STORE_PAUSE_MS)
    }

    pub(crate) async fn give_up(
        &self,
        effect: &Effect,
        reason: String,
        next: Vec<NewEffect>,
    ) -> Result<(), MailError> {
        self.give_up_as(effect, reason, next, EffectOutcome::Dead).await
    }

    async fn give_up_as(
        &self,
        effect: &Effect,
        reason: String,
        next: Vec<NewEffect>,
        outcome: fn(String) -> EffectOutcome,
    ) -> Result<(), MailError> {
        // Nothing follows a report that is not taken (RFC 3461 section 6.1): no alarm, no dead letter.
        if effect.new.channel == Channel::Report {
            let outcome = EffectOutcome::Done(format!("the report was given up: {reason}"));
            self.mailstore.end_attempt(effect.id, outcome, next).await?;
            return Ok(());
        }
        warn!(effect = %effect.id, channel = %effect.new.channel, %reason, "effect given up; it is a dead letter");
        self.counts.dead.fetch_add(1, Relaxed);
        let detail = format!("{} {}: {reason}", effect.new.channel, effect.id);
        let returned = self.channels.returned(effect, &reason).await?;
        self.mailstore.end_attempt_returning(effect.id, outcome(reason), next, returned).await?;
        self.alarms.raise(Code::DeadLetter, effect.new.channel.word(), detail);
        Ok(())
    }
}
