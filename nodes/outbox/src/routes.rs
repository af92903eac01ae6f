//! Routes to receivers, such as the smarthost: what failed because its route did not work is attempted again as soon as
//! something else gets through, and not only after its own pause. While a route does not work, one of the effects that wait
//! for it is attempted at shorter intervals than the pauses of all of them: that is how the end of an outage is noticed. A
//! route over which nothing is taken for long is reported. No route has all attempts of a duty, and one that does not work
//! has few.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound,
};

use twinbox_ids::{EffectId, Timestamp};

use crate::{
    Channel,
    route_slots::{MOST, MOST_UNREACHED, RouteSlots},
};

/// Shortest and longest interval between probes of a failing route, in milliseconds. In between it is a tenth of the time
/// since the route failed.
const SHORTEST_PROBE_MS: u64 = 10_000;
const LONGEST_PROBE_MS: u64 = 300_000;
/// Interval between probes of any two routes, in milliseconds: dead receivers, however many, take few of the concurrent
/// attempts.
const BETWEEN_PROBES_MS: u64 = 2_000;
/// Effects that have ended, of those that one search for a probe leaves out.
const MOST_ENDED: usize = 50;
/// Effects of an earlier holder that one success takes along.
const TAKEN_ALONG: usize = 2;

/// The routes over which the latest attempt failed.
#[derive(Debug, Default)]
pub struct Routes {
    failing: HashMap<String, FailingRoute>,
    /// Effects that an earlier holder left pausing after a failure: their routes are not known here.
    inherited: BTreeSet<EffectId>,
    /// Time of the latest probe.
    probed: Timestamp,
    /// Attempts under way over all routes, also those that work.
    slots: RouteSlots,
}

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
    /// Time of the latest failure or probe, and the effect of the latest probe.
    tried: Timestamp,
    probe: Option<EffectId>,
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
    /// Begins an attempt over a route, which [`Self::end`] ends; false if the route has as many as it may have.
    pub fn begin(&mut self, route: &str) -> bool {
        let most = most(&self.failing, route);
        self.slots.begin(route, most)
    }

    /// Ends an attempt, after its outcome was noted.
    pub fn end(&mut self, route: &str) {
        let most = most(&self.failing, route);
        self.slots.end(route, most);
    }

    /// Lets an effect that is due since that time wait for the end of an attempt over this route; false if the route has
    /// room for it now.
    pub fn wait(&mut self, route: &str, effect: EffectId, due: Timestamp) -> bool {
        let most = most(&self.failing, route);
        self.slots.wait(route, most, effect, due)
    }

    /// Gives a turn to the effects for which their routes have room. To be called now and then.
    pub fn refill(&mut self) {
        self.slots.refill(|route| most(&self.failing, route));
    }

    /// Effects that waited for their route and are to be attempted now. The next call has others.
    pub fn freed(&mut self) -> Vec<EffectId> {
        self.slots.freed()
    }

    /// An attempt failed: returns the effects that have waited for the route, if the receiver was reached.
    pub fn fails(&mut self, route: &str, failure: RouteFailure<'_>, now: Timestamp) -> Vec<EffectId> {
        self.inherited.remove(&failure.effect);
        let failing = self.failing.entry(route.to_owned()).or_insert_with(|| FailingRoute {
            channel: failure.channel,
            since: now,
            reason: String::new(),
            failed: BTreeSet::new(),
            waiting: BTreeSet::new(),
            tried: now,
            probe: None,
            reported: false,
        });
        failing.tried = now;
        failure.reason.clone_into(&mut failing.reason);
        failing.failed.insert(failure.effect);
        if failure.reached {
            return std::mem::take(&mut failing.waiting).into_iter().collect();
        }
        failing.waiting.insert(failure.effect);
        Vec::new()
    }

    /// An effect pauses after a failure that an earlier holder recorded. Each success takes two of these along, whatever
    /// their routes, so that all of them are sent soon after the end of an outage and few attempts fail.
    pub fn inherit(&mut self, effect: EffectId) {
        self.inherited.insert(effect);
    }

    /// A receiver has decided over this route: it took something, or refused it for good.
    pub fn works(&mut self, route: &str) -> RouteWorks {
        let mut works = RouteWorks::default();
        if let Some(failing) = self.failing.remove(route) {
            works.ended = failing.reported.then(|| failing.subject(route));
            works.waiting.extend(failing.waiting);
        }
        works.waiting.extend((0..TAKEN_ALONG).map_while(|_| self.inherited.pop_first()));
        works
    }

    /// The effect whose pause ends now, because its route was not tried for long; the next call has another. None while
    /// the latest probe of the route is `under_way`. Effects that do not wait any more, by `waits`, are left out.
    pub fn probe(
        &mut self,
        now: Timestamp,
        under_way: impl Fn(EffectId) -> bool,
        waits: impl Fn(EffectId) -> bool,
    ) -> Option<EffectId> {
        if now.0.saturating_sub(self.probed.0) < BETWEEN_PROBES_MS {
            return None;
        }
        let is_due = |route: &&mut FailingRoute| {
            let interval = (now.0.saturating_sub(route.since.0) / 10).clamp(SHORTEST_PROBE_MS, LONGEST_PROBE_MS);
            let was_tried = now.0.saturating_sub(route.tried.0) < interval || route.probe.is_some_and(&under_way);
            !route.waiting.is_empty() && !was_tried
        };
        let route = self.failing.values_mut().filter(is_due).min_by_key(|route| route.tried)?;
        // Each in turn: one alone may be of the kind that its own schedule holds back.
        let after = route.probe.map_or(Bound::Unbounded, Bound::Excluded);
        for _ in 0..MOST_ENDED {
            let next = route.waiting.range((after, Bound::Unbounded)).next().or(route.waiting.first()).copied()?;
            if waits(next) {
                (route.tried, route.probe, self.probed) = (now, Some(next), now);
                return Some(next);
            }
            route.waiting.remove(&next);
            route.failed.remove(&next);
        }
        None
    }

    /// Routes that have failed for `after_ms` milliseconds and more, and were not returned before.
    pub fn silent(&mut self, now: Timestamp, after_ms: u64) -> Vec<SilentRoute> {
        let mut silent = Vec::new();
        for (route, failing) in &mut self.failing {
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
        while let Some(ended) = self.inherited.first().copied().filter(|effect| !waits(*effect)) {
            self.inherited.remove(&ended);
        }
        self.failing.retain(|route, failing| {
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

    /// Forgets what has failed and what waits, because another node may have worked since; returns the reported subjects.
    pub fn clear(&mut self) -> Vec<String> {
        self.slots.forget();
        self.forget(|_| false)
    }
}

/// Most concurrent attempts over a route.
fn most(failing: &HashMap<String, FailingRoute>, route: &str) -> usize {
    let is_unreached = failing.get(route).is_some_and(|failing| !failing.waiting.is_empty());
    if is_unreached { MOST_UNREACHED } else { MOST }
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

    /// After an outage, not all of what waits should pause for up to half an hour more.
    #[test]
    fn failing_route_is_probed_by_each_of_its_effects_in_turn_at_growing_intervals() {
        let mut routes = Routes::default();
        let probe = |routes: &mut Routes, at| routes.probe(at, |_| false, |_| true);
        let minute = |minutes: u64| Timestamp(1_000_000 + minutes * 60_000);
        for effect in [1, 2] {
            routes.fails("smarthost", unreached(effect), minute(0));
        }
        let early = Timestamp(minute(0).0 + SHORTEST_PROBE_MS - 1);
        assert_eq!(probe(&mut routes, early), None, "it has just failed");
        let at = Timestamp(minute(0).0 + SHORTEST_PROBE_MS);
        assert_eq!(probe(&mut routes, at), Some(EffectId(1)));
        routes.fails("smarthost", unreached(1), at);
        assert_eq!(probe(&mut routes, Timestamp(at.0 + SHORTEST_PROBE_MS)), Some(EffectId(2)));
        // An hour later, and a day later: the interval is a tenth of that, and five minutes.
        routes.fails("smarthost", unreached(2), minute(20));
        assert_eq!(probe(&mut routes, minute(21)), None);
        assert_eq!(probe(&mut routes, minute(23)), Some(EffectId(1)));
        routes.fails("smarthost", unreached(1), minute(1_440));
        assert_eq!(probe(&mut routes, minute(1_444)), None);
        assert_eq!(probe(&mut routes, minute(1_445)), Some(EffectId(2)));
        routes.works("smarthost");
        assert_eq!(probe(&mut routes, minute(3_000)), None);
    }

    /// An attempt at a dead receiver may take longer than the interval, and most of what waited may have expired.
    #[test]
    fn route_has_one_probe_at_a_time_and_none_of_an_effect_that_has_ended() {
        let mut routes = Routes::default();
        let ended = MOST_ENDED as u128 + 5;
        (1..=ended + 1).for_each(|effect| drop(routes.fails("smarthost", unreached(effect), Timestamp(0))));
        let minute = |minutes: u64| Timestamp(minutes * 60_000);
        let is_open = |effect: EffectId| effect.0 > ended;
        assert_eq!(routes.probe(minute(1), |_| false, is_open), None, "a search has a bound");
        let open = Some(EffectId(ended + 1));
        assert_eq!(routes.probe(minute(1), |_| false, is_open), open, "the next one goes on");
        assert_eq!(routes.probe(minute(10), |effect| Some(effect) == open, |_| true), None);
        assert_eq!(routes.probe(minute(10), |_| false, |_| true), open);
    }

    #[test]
    fn many_failing_routes_are_probed_one_after_the_other() {
        let mut routes = Routes::default();
        (1..=3)
            .for_each(|effect| drop(routes.fails(&format!("{effect}.example"), unreached(effect), Timestamp(0))));
        let mut probed = Vec::new();
        for at in (60_000..66_000).step_by(500) {
            probed.extend(routes.probe(Timestamp(at), |_| false, |_| true));
        }
        probed.sort_unstable();
        assert_eq!(probed, [1, 2, 3].map(EffectId));
    }

    #[test]
    fn route_has_most_of_the_attempts_and_few_while_its_receiver_is_not_reached() {
        let mut routes = Routes::default();
        let begun = |routes: &mut Routes, route| (0..100).take_while(|_| routes.begin(route)).count();
        assert_eq!(begun(&mut routes, "dead.example"), 28);
        assert_eq!(begun(&mut routes, "a.example"), 28, "the others have room");
        // Earlier ones first.
        for (effect, due) in (1..=9).rev().zip(1..) {
            assert!(routes.wait("dead.example", EffectId(effect), Timestamp(due)));
        }
        routes.fails("dead.example", unreached(50), Timestamp(1));
        (0..24).for_each(|_| routes.end("dead.example"));
        assert!(routes.freed().is_empty(), "four are under way");
        routes.end("dead.example");
        assert_eq!(routes.freed(), [EffectId(9)]);
        assert!(!routes.wait("dead.example", EffectId(9), Timestamp(1)), "it has room");
        assert!(routes.begin("dead.example") && !routes.begin("dead.example"));
        // A reached receiver that defers may have as many as any.
        let deferred = RouteFailure { reached: true, ..unreached(50) };
        routes.fails("dead.example", deferred, Timestamp(2));
        routes.refill();
        assert_eq!(routes.freed(), (1..=8).rev().map(EffectId).collect::<Vec<_>>());
        assert!(routes.freed().is_empty(), "once");
    }

    #[test]
    fn effect_whose_turn_was_not_used_holds_up_no_other() {
        let mut routes = Routes::default();
        (0..28).for_each(|_| assert!(routes.begin("a.example")));
        let [ended, other, last] = [1, 2, 3].map(EffectId);
        [ended, other, last].into_iter().for_each(|it| assert!(routes.wait("a.example", it, Timestamp(1))));
        routes.end("a.example");
        assert_eq!(routes.freed(), [ended], "it has ended meanwhile");
        routes.refill();
        assert_eq!(routes.freed(), [other]);
        // The duty was lost; an attempt of that time ends later.
        routes.clear();
        routes.refill();
        assert!(routes.freed().is_empty());
        (0..27).for_each(|_| routes.end("a.example"));
        assert!((0..28).all(|_| routes.begin("a.example")));
    }

    #[test]
    fn each_success_takes_two_along_that_an_earlier_holder_left_pausing() {
        let mut routes = Routes::default();
        (1..=4).for_each(|effect| routes.inherit(EffectId(effect)));
        // One that fails here has a route of its own.
        routes.fails("a.example", unreached(2), Timestamp(1));
        assert_eq!(routes.works("smarthost").waiting, [EffectId(1), EffectId(3)]);
        assert_eq!(routes.works("smarthost").waiting, [EffectId(4)]);
        assert!(routes.works("smarthost").waiting.is_empty());
        routes.inherit(EffectId(5));
        routes.forget(|_| false);
        assert!(routes.works("smarthost").waiting.is_empty(), "it has ended");
    }
}
