//! Attempts the effects of a duty's channels while this node holds the duty.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{sleep, timeout},
};
use tracing::{info, warn};
use twinbox_alarms::{Alarms, Code};
use twinbox_clock::{BootInstant, wall};
use twinbox_duty_service::Progress;
use twinbox_gate::{Gate, Permit};
use twinbox_ids::{DeviceId, EffectId, Epoch, Timestamp};
use twinbox_mailstore::{Acknowledgement, EffectOutcome, MailError, Mailstore, OutboxChange, OutboxWatch};
use twinbox_outbox::{
    Effect, Limits, OutboxQueue, RouteFailure, RouteWorks, Routes, TakeOver, WaitingEffect, take_over,
};

use crate::{ActOutcome, Channels, DutyCounts, Prepared, earlier::EarlierAttempts, sweep::Sweep};

/// Interval of the idle loop, so that a hung loop differs from an idle one.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(500);
/// Pause before the outbox is read again after the store could not be read.
pub(crate) const READ_AGAIN: Duration = Duration::from_secs(1);
/// Pause before an effect is tried again when the store refused its attempt, in milliseconds.
pub(crate) const STORE_PAUSE_MS: u64 = 2_000;
/// Interval of looks at an effect whose message is in the notification of another, in milliseconds: the end of that may not
/// name it any more.
const GATHERED_LOOK_MS: u64 = 30_000;
/// Maximum wait for the outcomes of attempts under way after the duty was lost.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

pub(crate) struct OutboxLoop<C> {
    pub mailstore: Mailstore,
    pub gate: Gate,
    pub alarms: Alarms,
    pub channels: Arc<C>,
    pub counts: Arc<DutyCounts>,
    pub progress: Arc<Progress>,
    pub routes: Mutex<Routes>,
    pub earlier: Mutex<EarlierAttempts>,
}

/// End of the task of one attempt.
enum Attempted {
    /// The effect is at its end, or another change says when it is due.
    Ended,
    /// Not before that time.
    Later(Timestamp),
    /// The route has as many attempts as it may have.
    RouteIsFull { route: String, due: Timestamp, target: DeviceId },
    /// A channel panicked: the attempt has no outcome.
    Panicked,
}

/// Attempts under way.
#[derive(Default)]
struct Attempts {
    tasks: JoinSet<Attempted>,
    effects: HashMap<Id, EffectId>,
}

impl<C: Channels> OutboxLoop<C> {
    pub(crate) async fn serve(self) {
        let this = Arc::new(self);
        // Those of an earlier process of this node.
        this.end_alarms();
        let mut holding = this.gate.holding();
        loop {
            this.progress.turn();
            let epoch = match timeout(HEARTBEAT, holding.wait_for(Option::is_some)).await {
                Ok(Ok(epoch)) => epoch.clone(),
                Ok(Err(_)) => return,
                Err(_) => continue,
            };
            let Some(epoch) = epoch else { continue };
            info!(%epoch, "duty held; working from the outbox");
            let mut attempts = Attempts::default();
            let open = tokio::select! {
                biased;
                _ = holding.wait_for(|held| held.as_ref() != Some(&epoch)) => true,
                () = this.clone().hold(&epoch, &mut attempts) => false,
            };
            // They write nothing more, but their outcomes are worth recording: the next holder begins after them.
            attempts.finish(&this.progress).await;
            this.counts.waiting.store(0, Relaxed);
            this.counts.oldest_ms.store(0, Relaxed);
            this.end_alarms();
            info!(%epoch, "duty not held any more");
            if !open {
                return;
            }
        }
    }

    /// Works until it is dropped or the store is closed.
    async fn hold(self: Arc<Self>, epoch: &Epoch, attempts: &mut Attempts) {
        self.channels.begins(epoch);
        // Subscribed before the read, so that no change is missed.
        let mut changes = self.mailstore.watch_outbox();
        let mut queue = OutboxQueue::new(Limits::default());
        let (mut taken_over, mut read) = (false, true);
        let (mut sweep, mut checked) = (Sweep::new(), BootInstant::now());
        *self.earlier() = EarlierAttempts::default();
        loop {
            self.progress.turn();
            // Effects that waited for the attempts of earlier holders are placed again.
            read |= self.learn_attempts(epoch).await;
            if read {
                match self.read_all(&mut queue, &mut taken_over).await {
                    Ok(()) => read = false,
                    Err(error) => {
                        warn!(%error, "outbox cannot be read; retrying");
                        sleep(READ_AGAIN).await;
                        continue;
                    }
                }
            }
            for id in self.freed() {
                read |= self.changed(&mut queue, id).is_err();
            }
            while let Some(id) = queue.next(wall()) {
                let (this, epoch) = (self.clone(), epoch.clone());
                let task = attempts.tasks.spawn(async move { this.attempt(id, &epoch).await });
                attempts.effects.insert(task.id(), id);
            }
            self.count(&queue);
            if checked.elapsed() >= HEARTBEAT {
                checked = BootInstant::now();
                self.check_routes();
                self.probe_routes(&queue).await;
            }
            sweep.run(&self.mailstore, &self.channels);
            match self.event(&queue, &mut changes, attempts).await {
                Event::Changed(OutboxChange::Effect(id)) => read |= self.changed(&mut queue, id).is_err(),
                Event::Changed(OutboxChange::Device(device)) => {
                    for id in queue.held_for(device) {
                        read |= self.changed(&mut queue, id).is_err();
                    }
                }
                Event::Changed(OutboxChange::Holds | OutboxChange::Everything) => read = true,
                Event::Attempted(id, attempted) => {
                    queue.finished(id);
                    let due = match attempted {
                        Attempted::Ended => continue,
                        Attempted::Later(due) => due,
                        // Otherwise it has room by now.
                        Attempted::RouteIsFull { route, due, target } if self.waits_for(&route, id, due) => {
                            queue.hold(id, target);
                            continue;
                        }
                        Attempted::RouteIsFull { due, .. } => due,
                        Attempted::Panicked => self.panicked(id).await,
                    };
                    read |= !self.postpone(&mut queue, id, due);
                }
                Event::Due => {}
                Event::Closed => return,
            }
        }
    }

    /// Reads the whole outbox; the first time in an epoch, decides about attempts without an outcome.
    async fn read_all(&self, queue: &mut OutboxQueue, taken_over: &mut bool) -> Result<(), MailError> {
        // An effect whose outcome is not here yet must not be repeated.
        if !self.mailstore.has_all_records() {
            return Err(MailError::LacksRecords);
        }
        for effect in self.mailstore.open_effects().await? {
            if !self.channels.serves(effect.new.channel) {
                continue;
            }
            self.progress.turn();
            // The attempt of a covered effect is that of its leader, which is decided about.
            let own_attempts = !self.mailstore.is_gathered(&effect)?;
            if !*taken_over && own_attempts {
                self.inherit(&effect);
            }
            // The outcome of one that waits for the attempts of earlier holders may come with them.
            if !*taken_over && own_attempts && self.may_be_attempted(&effect) {
                match take_over(&effect, self.mailstore.settings().incarnation) {
                    TakeOver::Attempt => {}
                    TakeOver::Suspect { attempt, deaths } => {
                        self.mailstore.count_death(effect.id, attempt, deaths).await?;
                    }
                    TakeOver::GiveUp { reason } => {
                        // One that cannot be given up now holds up no other.
                        if let Err(error) = self.abandon(&effect, reason).await {
                            warn!(effect = %effect.id, %error, "effect is not given up yet; retrying");
                            self.want(queue, &effect, Timestamp(wall().0 + STORE_PAUSE_MS));
                        }
                        continue;
                    }
                }
            }
            let current = self.mailstore.effect(effect.id)?;
            self.place(queue, effect.id, current.as_ref());
        }
        *taken_over = true;
        Ok(())
    }

    /// Puts an effect, and those that it covers, where their records say.
    fn changed(&self, queue: &mut OutboxQueue, id: EffectId) -> Result<(), MailError> {
        let effect = self.mailstore.effect(id)?;
        self.place(queue, id, effect.as_ref());
        for covered in effect.map(|effect| effect.covers).unwrap_or_default() {
            let effect = self.mailstore.effect(covered)?;
            self.place(queue, covered, effect.as_ref());
        }
        Ok(())
    }

    /// Puts an effect where its record says.
    fn place(&self, queue: &mut OutboxQueue, id: EffectId, effect: Option<&Effect>) {
        match effect {
            Some(effect) if !self.channels.serves(effect.new.channel) => {}
            Some(effect) if !effect.state().is_end() => self.want(queue, effect, effect.due()),
            _ => queue.remove(id),
        }
    }

    /// Queues an effect for that time. One that is on hold costs nothing until that ends; one whose message is in the
    /// notification of another is checked every thirty seconds, and gets a new place in the queue when that one names
    /// it at its end.
    fn want(&self, queue: &mut OutboxQueue, effect: &Effect, due: Timestamp) {
        if !self.may_be_attempted(effect) {
            queue.hold(effect.id, effect.new.target);
            return;
        }
        // Its attempt reads the leader again.
        if self.mailstore.is_gathered(effect).unwrap_or(false) {
            queue.want(waiting(effect, due.max(Timestamp(wall().0 + GATHERED_LOOK_MS))));
            return;
        }
        match self.mailstore.hold_of(effect) {
            Ok(Some(_)) => queue.hold(effect.id, effect.new.target),
            // Its attempt reads the holds again.
            Ok(None) | Err(_) => queue.want(waiting(effect, due)),
        }
    }

    /// Puts an effect where its record says, not before that time; false if the record cannot be read now.
    fn postpone(&self, queue: &mut OutboxQueue, id: EffectId, due: Timestamp) -> bool {
        match self.mailstore.effect(id) {
            Ok(Some(effect)) if !effect.state().is_end() => {
                self.want(queue, &effect, due.max(effect.due()));
            }
            Ok(_) => queue.remove(id),
            Err(error) => {
                warn!(effect = %id, %error, "effect cannot be read; the outbox is read again");
                return false;
            }
        }
        true
    }

    async fn event(&self, queue: &OutboxQueue, changes: &mut OutboxWatch, attempts: &mut Attempts) -> Event {
        let due = queue.wake().map(|due| Duration::from_millis(due.0.saturating_sub(wall().0)));
        // A due effect that cannot begin waits for the end of another: no busy loop.
        let pause = due.filter(|due| !due.is_zero()).map_or(HEARTBEAT, |due| due.min(HEARTBEAT));
        tokio::select! {
            change = changes.next() => change.map_or(Event::Closed, Event::Changed),
            Some(ended) = attempts.tasks.join_next_with_id() => attempts.ended(ended),
            () = sleep(pause) => Event::Due,
        }
    }

    fn count(&self, queue: &OutboxQueue) {
        let (waiting, active) = queue.len();
        self.counts.waiting.store((waiting + active + queue.held()) as u64, Relaxed);
        let oldest = queue.wake().filter(|due| *due <= wall()).map_or(0, |due| due.0);
        self.counts.oldest_ms.store(oldest, Relaxed);
    }

    /// One attempt, from its preparation to its durable outcome.
    async fn attempt(&self, id: EffectId, epoch: &Epoch) -> Attempted {
        match self.try_attempt(id, epoch).await {
            Ok(attempted) => attempted,
            Err(error) => {
                warn!(effect = %id, %error, "store refuses an attempt or its outcome; retrying");
                Attempted::Later(Timestamp(wall().0 + STORE_PAUSE_MS))
            }
        }
    }

    async fn try_attempt(&self, id: EffectId, epoch: &Epoch) -> Result<Attempted, MailError> {
        let Some(effect) = self.mailstore.effect(id)?.filter(|effect| !effect.state().is_end()) else {
            return Ok(Attempted::Ended);
        };
        // The hold began, the target changed or another effect's notification took its message after the effect was queued:
        // it is placed again.
        if self.mailstore.is_gathered(&effect)? || self.mailstore.hold_of(&effect)?.is_some() {
            return Ok(Attempted::Later(effect.due()));
        }
        if self.mailstore.is_expired(&effect)? {
            let reason = match &effect.failure {
                Some((attempts, last)) => format!("expired after {attempts} attempts; the last: {}", last.text),
                None => "expired before it could be attempted".to_owned(),
            };
            self.abandon(&effect, reason).await?;
            return Ok(Attempted::Ended);
        }
        // An earlier change may have queued it, before its latest attempt failed.
        if effect.due() > wall() {
            return Ok(Attempted::Later(effect.due()));
        }
        // The record of another process's attempt may arrive after this node began the duty.
        match take_over(&effect, self.mailstore.settings().incarnation) {
            TakeOver::Attempt => {}
            TakeOver::Suspect { attempt, deaths } => {
                self.mailstore.count_death(id, attempt, deaths).await?;
                return Ok(Attempted::Later(wall()));
            }
            TakeOver::GiveUp { reason } => {
                self.abandon(&effect, reason).await?;
                return Ok(Attempted::Ended);
            }
        }
        // Read before the work is prepared too: a setting that changes meanwhile deletes no recording that was not sent.
        let deletes = self.channels.deletes_message(&effect).await?;
        let work = match self.channels.prepare(&effect).await {
            Prepared::Act(work) => work,
            Prepared::Unwanted(reason) => {
                self.mailstore.end_attempt(id, EffectOutcome::Unwanted(reason), Vec::new()).await?;
                return Ok(Attempted::Ended);
            }
            Prepared::Later(at, _) => return Ok(Attempted::Later(at)),
            Prepared::Impossible(reason, next) => {
                self.give_up(&effect, reason, next).await?;
                return Ok(Attempted::Ended);
            }
        };
        let route = self.channels.route(&effect, &work);
        let Some(_slot) = self.enter_route(&route) else {
            return Ok(Attempted::RouteIsFull { route, due: effect.due(), target: effect.new.target });
        };
        // From here to the durable outcome the duty is not handed over: the next holder sees the outcome (rule R6).
        let Ok(permit) = self.gate.enter(epoch).map(Arc::new) else {
            return Ok(Attempted::Later(Timestamp(wall().0 + STORE_PAUSE_MS)));
        };
        let covers = self.channels.covers(&work);
        let Some((number, acknowledgement)) = self.mailstore.begin_attempt(id, covers, epoch).await? else {
            return Ok(Attempted::Ended);
        };
        // So may the outcome that an earlier holder recorded.
        if matches!(self.mailstore.effect(id), Ok(Some(now)) if now.state().is_end()) {
            self.mailstore.leave_gathered(id).await?;
            return Ok(Attempted::Ended);
        }
        if effect.new.channel.at_most_once() && acknowledgement == Acknowledgement::Alone {
            let reason = "waits for a second node: its receiver cannot tell a repeat".to_owned();
            self.fail(&effect, number, reason, EffectOutcome::NotTaken).await?;
            return Ok(Attempted::Ended);
        }
        let outcome = self.act(&effect, work, &permit).await;
        let (failed, decided) = match &outcome {
            ActOutcome::NotHolder => (None, false),
            ActOutcome::Unreachable(reason) => (Some((false, reason.clone())), false),
            ActOutcome::Failed(reason) | ActOutcome::Unclear(reason) => (Some((true, reason.clone())), false),
            // The route is neither known to work nor not to.
            ActOutcome::GivenUp(..) => (None, false),
            ActOutcome::Done(..) | ActOutcome::Refused(..) => (None, true),
        };
        self.end(&effect, number, outcome, deletes).await?;
        let waiting = match failed {
            Some((reached, reason)) => {
                let failure =
                    RouteFailure { effect: id, channel: effect.new.channel, reached, reason: reason.as_str() };
                self.routes().fails(&route, failure, wall())
            }
            None if decided => {
                // Under the lock, as the alarm is raised: otherwise it could be raised after this.
                let mut routes = self.routes();
                let RouteWorks { waiting, ended } = routes.works(&route);
                ended.iter().for_each(|subject| self.alarms.clear(Code::DestinationSilent, subject));
                waiting
            }
            None => Vec::new(),
        };
        self.end_pauses(waiting).await;
        Ok(Attempted::Ended)
    }

    async fn act(&self, effect: &Effect, work: C::Work, permit: &Arc<Permit>) -> ActOutcome {
        if permit.check().is_err() {
            return ActOutcome::NotHolder;
        }
        self.channels.act(effect, work, permit.clone()).await
    }
}

/// Event that wakes the loop.
enum Event {
    Changed(OutboxChange),
    Attempted(EffectId, Attempted),
    Due,
    /// The store was closed.
    Closed,
}

impl Attempts {
    /// Waits for the outcomes of attempts under way, within a limit.
    async fn finish(mut self, progress: &Progress) {
        let begun = BootInstant::now();
        while begun.elapsed() < FINISH_WITHIN && !self.tasks.is_empty() {
            progress.turn();
            let _ = timeout(HEARTBEAT, self.tasks.join_next()).await;
        }
    }

    fn ended(&mut self, ended: Result<(Id, Attempted), JoinError>) -> Event {
        let (id, attempted) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), Attempted::Panicked),
        };
        self.effects.remove(&id).map_or(Event::Due, |id| Event::Attempted(id, attempted))
    }
}

fn waiting(effect: &Effect, due: Timestamp) -> WaitingEffect {
    WaitingEffect { id: effect.id, due, group: effect.new.cause.mailbox.0, alone: effect.is_suspect() }
}
