//! Routes that do not work: few attempts at a time, the ends of pauses when something gets through again, and the alarms of
//! silent destinations.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{info, warn};
use twinbox_alarms::Code;
use twinbox_clock::wall;
use twinbox_ids::{EffectId, Timestamp};
use twinbox_outbox::{Channel, Effect, EffectState, OutboxQueue, Routes};

use crate::{Channels, outbox_loop::OutboxLoop};

/// An attempt under way over a route; it also ends when its task is aborted.
pub(crate) struct RouteAttempt<'a> {
    routes: &'a Mutex<Routes>,
    route: &'a str,
}

impl Drop for RouteAttempt<'_> {
    fn drop(&mut self) {
        locked(self.routes).end(self.route);
    }
}

impl<C: Channels> OutboxLoop<C> {
    /// Begins an attempt over a route, until the result is dropped; `None` if the route has as many as it may have.
    pub(crate) fn enter_route<'a>(&'a self, route: &'a str) -> Option<RouteAttempt<'a>> {
        self.routes().begin(route).then(|| RouteAttempt { routes: &self.routes, route })
    }

    /// Whether an effect waits for the end of another attempt over its route.
    pub(crate) fn waits_for(&self, route: &str, effect: EffectId, due: Timestamp) -> bool {
        self.routes().wait(route, effect, due)
    }

    /// Effects that have waited so, and whose turn has come.
    pub(crate) fn freed(&self) -> Vec<EffectId> {
        self.routes().freed()
    }

    /// An effect as the earlier holder left it: what pauses after a failure goes soon after something else gets through.
    pub(crate) fn inherit(&self, effect: &Effect) {
        if effect.state() == EffectState::Failed && effect.due() > wall() {
            self.routes().inherit(effect.id);
        }
    }

    /// Attempts one of the effects that wait for a route, if none was attempted for long.
    pub(crate) async fn probe_routes(&self, queue: &OutboxQueue) {
        let now = wall();
        let probe =
            self.routes().probe(now, |effect| queue.is_under_way(effect, now), |effect| self.is_open(effect));
        if let Some(effect) = probe
            && let Err(error) = self.mailstore.end_pauses(&[effect]).await
        {
            warn!(%effect, %error, "route is not probed now");
        }
    }

    /// Attempts at once what has failed because its route did not work.
    pub(crate) async fn end_pauses(&self, waiting: Vec<EffectId>) {
        if waiting.is_empty() {
            return;
        }
        info!(effects = waiting.len(), "a receiver answers again; what waited for the route is attempted now");
        if let Err(error) = self.mailstore.end_pauses(&waiting).await {
            warn!(%error, "effects wait for the end of their pauses");
        }
    }

    /// Raises the alarm of each destination that has taken nothing for long; ends those for which nothing waits any more.
    pub(crate) fn check_routes(&self) {
        let silence_ms = u64::try_from(self.channels.silence().as_millis()).unwrap_or(u64::MAX);
        let mut routes = self.routes();
        let over = routes.forget(|effect| self.is_open(effect));
        routes.refill();
        let silent = routes.silent(wall(), silence_ms);
        over.iter().for_each(|subject| self.alarms.clear(Code::DestinationSilent, subject));
        for route in silent {
            let minutes = wall().0.saturating_sub(route.since.0) / 60_000;
            let detail = format!("nothing was taken for {minutes} minutes; the latest failure: {}", route.reason);
            self.alarms.raise(Code::DestinationSilent, &route.subject, detail);
        }
    }

    /// Whether an effect is not at its end, as far as can be read.
    fn is_open(&self, id: EffectId) -> bool {
        match self.mailstore.effect(id) {
            Ok(effect) => effect.is_some_and(|effect| !effect.state().is_end()),
            Err(_) => true,
        }
    }

    /// Ends this node's alarms about destinations of these channels: the next holder of the duty sees for itself.
    pub(crate) fn end_alarms(&self) {
        let mut subjects = self.routes().clear();
        let (own, alarms) = (&self.mailstore.settings().node, self.alarms.list().unwrap_or_default());
        let raised = alarms.into_iter().filter(|alarm| {
            alarm.code == Some(Code::DestinationSilent) && alarm.node == *own && alarm.cleared.is_none()
        });
        let of_duty = |subject: &String| {
            let word = subject.split(' ').next().unwrap_or_default();
            Channel::ALL.into_iter().any(|channel| channel.word() == word && self.channels.serves(channel))
        };
        subjects.extend(raised.map(|alarm| alarm.subject).filter(of_duty));
        subjects.iter().for_each(|subject| self.alarms.clear(Code::DestinationSilent, subject));
    }

    pub(crate) fn routes(&self) -> MutexGuard<'_, Routes> {
        locked(&self.routes)
    }
}

fn locked(routes: &Mutex<Routes>) -> MutexGuard<'_, Routes> {
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}
