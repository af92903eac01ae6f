//! Routes to receivers, such as the smarthost: what failed because its route did not work is attempted again as soon as
//! something else gets through, and not only after its own pause. A route over which nothing is taken for long is
//! reported.

use std::collections::{BTreeSet, HashMap};

use twinbox_ids::{EffectId, Timestamp};

use crate::Channel;

/// The routes over which the latest attempt failed.
#[derive(Debug, Default)]
pub struct Routes(HashMap<String, FailingRoute>);

#[derive(Debug)]
struct FailingRoute {
    /// Channel of the first failure.
    channel: Channel,
    /// Time of the first failure since the last success.
    since: Timestamp,
    /// Reason of the latest failure.
    reason: String,
    /// Effects that failed since the last success.
    failed: BTreeSet<EffectId>,
    /// Those of them that wait for the route. A refusal by the receiver itself does not belong here: another's success
    /// says nothing about it.
    waiting: BTreeSet<EffectId>,
    reported: bool,
}

/// Failure of an attempt.
#[derive(Debug, Clone, Copy)]
pub struct RouteFailure<'a> {
    /// The effect.
    pub effect: EffectId,
    /// Its channel.
    pub channel: Channel,
    /// The receiver answered; otherwise the route did not work.
    pub reached: bool,
    /// Reason of the failure.
    pub reason: &'a str,
}

/// A route over which nothing was taken for long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SilentRoute {
    /// Channel and route, separated by a space.
    pub subject: String,
    /// Time of the first failure.
    pub since: Timestamp,
    /// Reason of the latest failure.
    pub reason: String,
}

/// Result of an attempt for its route.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RouteWorks {
    /// The effects that have waited for the route.
    pub waiting: Vec<EffectId>,
    /// The subject that was reported; it is over.
    pub ended: Option<String>,
}

impl Routes {
    /// An attempt failed: returns the effects that have waited for the route, if the receiver was reached.
    pub fn fails(&mut self, route: &str, failure: RouteFailure<'_>, now: Timestamp) -> Vec<EffectId> {
        let failing = self.0.entry(route.to_owned()).or_insert_with(|| FailingRoute {
            channel: failure.channel,
            since: now,
            reason: String::new(),
            failed: BTreeSet::new(),
            waiting: BTreeSet::new(),
            reported: false,
        });
        failure.reason.clone_into(&mut failing.reason);
        failing.failed.insert(failure.effect);
        if failure.reached {
            return std::mem::take(&mut failing.waiting).into_iter().collect();
        }
        failing.waiting.insert(failure.effect);
        Vec::new()
    }

    /// A receiver has decided over this route: it took something, or refused it for good.
    pub fn works(&mut self, route: &str) -> RouteWorks {
        let Some(failing) = self.0.remove(route) else { return RouteWorks::default() };
        let ended = failing.reported.then(|| failing.subject(route));
        RouteWorks { waiting: failing.waiting.into_iter().collect(), ended }
    }

    /// Routes that have failed for `after_ms` milliseconds and more, and were not returned before.
    pub fn silent(&mut self, now: Timestamp, after_ms: u64) -> Vec<SilentRoute> {
        let mut silent = Vec::new();
        for (route, failing) in &mut self.0 {
            if !failing.reported && now.0.saturating_sub(failing.since.0) >= after_ms {
                failing.reported = true;
                let (subject, reason) = (failing.subject(route), failing.reason.clone());
                silent.push(SilentRoute { subject, since: failing.since, reason });
            }
        }
        silent
    }

    /// Forgets the routes for which no effect waits any more; returns the reported subjects among them.
    pub fn forget(&mut self, mut waits: impl FnMut(EffectId) -> bool) -> Vec<String> {
        let mut over = Vec::new();
        self.0.retain(|route, failing| {
            while let Some(ended) = failing.failed.first().copied().filter(|effect| !waits(*effect)) {
                failing.failed.pop_first();
                failing.waiting.remove(&ended);
            }
            let waits = !failing.failed.is_empty();
            over.extend((!waits && failing.reported).then(|| failing.subject(route)));
            waits
        });
        over
    }

    /// Forgets what has failed, because another node may have worked since; returns the reported subjects.
    pub fn clear(&mut self) -> Vec<String> {
        self.forget(|_| false)
    }
}

impl FailingRoute {
    fn subject(&self, route: &str) -> String {
        format!("{} {route}", self.channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreached(effect: u128) -> RouteFailure<'static> {
        RouteFailure { effect: EffectId(effect), channel: Channel::Mail, reached: false, reason: "no answer" }
    }

    #[test]
    fn effects_wait_for_their_own_route_and_are_named_once() {
        let mut routes = Routes::default();
        assert_eq!(routes.works("smarthost"), RouteWorks::default());
        for (route, effect) in [("smarthost", 2), ("smarthost", 1), ("smarthost", 2), ("a.example", 3)] {
            assert!(routes.fails(route, unreached(effect), Timestamp(1)).is_empty());
        }
        assert_eq!(routes.works("smarthost").waiting, [EffectId(1), EffectId(2)]);
        assert_eq!(routes.works("smarthost"), RouteWorks::default());
        let deferred = RouteFailure { reached: true, reason: "mailbox busy", ..unreached(4) };
        assert_eq!(routes.fails("a.example", deferred, Timestamp(2)), [EffectId(3)]);
        routes.fails("a.example", unreached(3), Timestamp(3));
        assert!(routes.clear().is_empty());
        assert_eq!(routes.works("a.example"), RouteWorks::default());
    }

    #[test]
    fn silent_route_is_reported_once_until_it_works_or_nothing_waits_for_it() {
        let mut routes = Routes::default();
        routes.fails("smarthost", unreached(1), Timestamp(1_000));
        let deferred = RouteFailure { reached: true, reason: "busy", channel: Channel::Vpim, ..unreached(2) };
        routes.fails("smarthost", deferred, Timestamp(1_500));
        assert!(routes.silent(Timestamp(1_999), 1_000).is_empty());
        let report = SilentRoute {
            subject: "mail smarthost".to_owned(),
            since: Timestamp(1_000),
            reason: "busy".to_owned(),
        };
        assert_eq!(routes.silent(Timestamp(2_000), 1_000), [report]);
        assert!(routes.silent(Timestamp(9_000), 1_000).is_empty(), "once");
        assert!(routes.forget(|effect| effect == EffectId(2)).is_empty());
        assert_eq!(routes.works("smarthost").ended.as_deref(), Some("mail smarthost"));
        // A success between two failures: the time begins again.
        routes.fails("smarthost", unreached(1), Timestamp(9_500));
        assert!(routes.silent(Timestamp(10_000), 1_000).is_empty());
        assert_eq!(routes.works("smarthost").ended, None);

        routes.fails("a.example", unreached(3), Timestamp(0));
        assert_eq!(routes.silent(Timestamp(2_000), 1_000).len(), 1);
        assert_eq!(routes.forget(|_| false), ["mail a.example"]);
        assert!(routes.clear().is_empty());
    }
}
