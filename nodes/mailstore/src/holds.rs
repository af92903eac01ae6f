//! Holds of destinations: the effects that go there wait until an administrator releases them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use twinbox_clock::wall;
use twinbox_devices::Kind;
use twinbox_ids::{EffectId, Timestamp};
use twinbox_outbox::{Destination, Effect, Hold, Holds, MAX_HOLDS, due_now, schema};
use twinbox_replication_core::{Change, Edit};
use twinbox_replication_store::Draft;

use crate::{Acknowledgement, MailError, Mailstore, OutgoingRecord, outbox::open_effect, work::blocking};

/// Number of effects that one commit makes due.
const AT_A_TIME: usize = 500;

/// A destination was not put on hold.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// There are as many holds as there may be.
    #[error(
        "{} destinations are on hold, the maximum: release some of them with `twinbox outbox flush`",
        MAX_HOLDS
    )]
    TooMany,
    /// Any other error.
    #[error(transparent)]
    Mail(#[from] MailError),
}

/// Result of [`Mailstore::flush`].
#[derive(Debug, Clone)]
pub struct Flushed {
    /// True if the destination was on hold.
    pub released: bool,
    /// Number of effects that waited for the destination: those that are due now.
    pub waiting: usize,
    /// Number of those that the hold of another destination keeps, such as that of their channel.
    pub held: usize,
    /// Durability of the last change.
    pub acknowledgement: Acknowledgement,
}

/// The holds as last read, until one of them changes.
#[derive(Debug, Default)]
pub(crate) struct HoldsCache(Mutex<Cached>);

#[derive(Debug, Default)]
struct Cached {
    /// Changes of holds so far.
    changes: u64,
    holds: Option<Arc<Holds>>,
}

impl HoldsCache {
    /// Drops the holds if this is a change of one of them. Short: runs on the committer thread.
    pub(crate) fn changed(&self, change: &Change) {
        if change.key.table == schema::HOLD {
            let mut cached = self.lock();
            cached.changes += 1;
            cached.holds = None;
        }
    }

    /// The cached holds, and the number of changes so far.
    fn known(&self) -> (Option<Arc<Holds>>, u64) {
        let cached = self.lock();
        (cached.holds.clone(), cached.changes)
    }

    /// Keeps holds that were read after `changes`, unless one has changed since.
    fn keep(&self, holds: &Arc<Holds>, changes: u64) {
        let mut cached = self.lock();
        if cached.changes == changes {
            cached.holds = Some(holds.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailstore {
    /// All holds: those in force, and those that were released lately.
    pub fn holds(&self) -> Result<Arc<Holds>, MailError> {
        let (known, changes) = self.inner.holds.known();
        if let Some(holds) = known {
            return Ok(holds);
        }
        let holds = Arc::new(Holds::read(&self.store().scan(schema::HOLD, &[])?));
        self.inner.holds.keep(&holds, changes);
        Ok(holds)
    }

    /// Destinations of an effect, any of which may be on hold. Only its channel, if its target was removed or is from a
    /// newer release.
    pub fn destinations(&self, effect: &Effect) -> Result<Vec<Destination>, MailError> {
        let channel = effect.new.channel;
        if effect.is_sent() {
            let domain = self.location_of(effect)?.map(|location| location.domain).unwrap_or_default();
            return Ok(match self.outgoing(effect.new.cause.message) {
                Ok(OutgoingRecord::Here(outgoing)) => {
                    Destination::of_mail(channel, &format!("{}@{domain}", outgoing.number.reveal()))
                }
                Ok(OutgoingRecord::Missing | OutgoingRecord::Removed) | Err(MailError::View(_)) => {
                    vec![Destination::Channel(channel)]
                }
                Err(error) => return Err(error),
            });
        }
        if let Some(report) = self.report_of(effect)? {
            return Ok(Destination::of_mail(channel, report.to.reveal()));
        }
        if let Some(mail) = self.system_mail_of(effect)? {
            return Ok(Destination::of_mail(channel, mail.to.reveal()));
        }
        let device = match self.device(effect.new.cause.mailbox, effect.new.target) {
            Err(MailError::View(_)) => None,
            device => device?,
        };
        Ok(match device.map(|device| device.kind) {
            Some(Kind::Mail { address, .. } | Kind::Pager { address } | Kind::SmsMail { address }) => {
                Destination::of_mail(channel, address.reveal())
            }
            Some(Kind::Webhook { url, .. }) => Destination::of_url(channel, url.reveal()),
            Some(Kind::SmsHttp { .. }) | None => vec![Destination::Channel(channel)],
        })
    }

    /// The hold in force that keeps an effect from being attempted. Without any hold, reads nothing.
    pub fn hold_of(&self, effect: &Effect) -> Result<Option<Hold>, MailError> {
        let holds = self.holds()?;
        if holds.in_force().next().is_none() {
            return Ok(None);
        }
        Ok(holds.holding(&self.destinations(effect)?).cloned())
    }

    /// Whether the effect has expired. One that waited for a hold expires a day after the hold.
    pub fn is_expired(&self, effect: &Effect) -> Result<bool, MailError> {
        let now = wall();
        if effect.new.expires >= now {
            return Ok(false);
        }
        let holds = self.holds()?;
        Ok(holds.is_empty() || holds.expires(&self.destinations(effect)?, &effect.new) < now)
    }

    /// Puts a destination on hold. A hold that is in force gets the new reason.
    pub async fn hold(&self, destination: Destination, reason: &str) -> Result<Acknowledgement, HoldError> {
        let reason = reason.to_owned();
        let (fits, acknowledgement) = self
            .commit(move |draft| {
                let (holds, now) = (holds_in(draft)?, wall());
                let since = holds.of(&destination).map(|hold| hold.since);
                if since.is_none() && holds.in_force().count() >= MAX_HOLDS {
                    return Ok(false);
                }
                remove_outdated(draft, &holds, now)?;
                let key = Hold::key(&destination);
                let hold = Hold { destination, reason, since: since.unwrap_or(now), released: None };
                draft.edit(key, hold.edits())?;
                Ok(true)
            })
            .await?;
        if fits { Ok(acknowledgement) } else { Err(HoldError::TooMany) }
    }

    /// Releases the hold of exactly this destination, if there is one, and makes the effects that wait for the
    /// destination due now.
    pub async fn flush(&self, destination: &Destination) -> Result<Flushed, MailError> {
        let named = destination.clone();
        let (released, mut acknowledgement) = self
            .commit(move |draft| {
                let (holds, now) = (holds_in(draft)?, wall());
                remove_outdated(draft, &holds, now)?;
                let Some(hold) = holds.of(&named) else { return Ok(false) };
                let released = Hold { released: Some(now), ..hold.clone() };
                draft.edit(Hold::key(&named), released.edits())?;
                Ok(true)
            })
            .await?;
        let effects = self.open_effects().await?;
        let (store, named) = (self.clone(), destination.clone());
        let (waiting, held, later) = blocking(move || store.waiting_for(&named, &effects)).await??;
        if let Some(latest) = self.end_pauses(&later).await? {
            acknowledgement = latest;
        }
        Ok(Flushed { released, waiting, held, acknowledgement })
    }

    /// Makes those of these effects due now that pause after a failure; returns the durability of the last change.
    pub async fn end_pauses(&self, effects: &[EffectId]) -> Result<Option<Acknowledgement>, MailError> {
        let mut acknowledgement = None;
        for ids in effects.chunks(AT_A_TIME) {
            let ids = ids.to_vec();
            let ((), latest) = self
                .commit(move |draft| {
                    for id in ids {
                        if let Some(effect) = open_effect(draft, id)? {
                            draft.edit(schema::effect_key(id), due_now(&effect, wall()))?;
                        }
                    }
                    Ok(())
                })
                .await?;
            acknowledgement = Some(latest);
        }
        Ok(acknowledgement)
    }

    /// The effects among these that wait for a destination: their number, that of those on hold, and the ids of those
    /// that are not due yet.
    fn waiting_for(
        &self,
        destination: &Destination,
        effects: &[Effect],
    ) -> Result<(usize, usize, Vec<EffectId>), MailError> {
        let (holds, now) = (self.holds()?, wall());
        let (mut waiting, mut held, mut later) = (0, 0, Vec::new());
        for effect in effects {
            let destinations = self.destinations(effect)?;
            if destinations.contains(destination) {
                waiting += 1;
                held += usize::from(holds.holding(&destinations).is_some());
                if !due_now(effect, now).is_empty() {
                    later.push(effect.id);
                }
            }
        }
        Ok((waiting, held, later))
    }
}

fn holds_in(draft: &Draft<'_>) -> Result<Holds, MailError> {
    Ok(Holds::read(&draft.scan(schema::HOLD, &[])?))
}

fn remove_outdated(draft: &mut Draft<'_>, holds: &Holds, now: Timestamp) -> Result<(), MailError> {
    let outdated = holds.outdated(now);
    outdated.iter().try_for_each(|destination| Ok(draft.edit(Hold::key(destination), vec![Edit::Delete])?))
}
