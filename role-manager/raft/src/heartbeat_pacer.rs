//! Ticks of Raft's own clock. Pure.
//!
//! Raft's clock would tick five times per heartbeat on every member, to check whether an election or a heartbeat is
//! due: most of the load of a cluster at rest. A follower needs no tick while it hears its leader, and a leader sends
//! its heartbeats without ticks.

use std::time::Duration;

use twinbox_clock::BootInstant;
use twinbox_roles_core::Timing;

/// The next action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PacerStep {
    /// Raft's clock must tick: an election may become due.
    pub ticks: bool,
    /// A heartbeat to the followers is due now.
    pub heartbeat: bool,
    /// Time until the next call, if nothing happens before.
    pub again: Duration,
}

/// Heartbeat and tick schedule of one core.
#[derive(Debug)]
pub(super) struct HeartbeatPacer {
    heartbeat: Duration,
    /// Time after a message of the leader in which no election can be due, with one tick of reserve.
    rest: Duration,
    next_heartbeat: BootInstant,
}

impl HeartbeatPacer {
    pub(super) fn new(timing: &Timing, now: BootInstant) -> Self {
        let Timing { heartbeat, election_min, .. } = *timing;
        Self { heartbeat, rest: (heartbeat + election_min) / 2, next_heartbeat: now }
    }

    /// The next action; `contact` is the last valid contact with the leader.
    pub(super) fn step(&mut self, leading: bool, contact: Option<BootInstant>, now: BootInstant) -> PacerStep {
        if leading {
            let due = now >= self.next_heartbeat;
            if due {
                // From now, not from the due time: a leader that was suspended does not send missed heartbeats later.
                self.next_heartbeat = now + self.heartbeat;
            }
            return PacerStep { ticks: false, heartbeat: due, again: self.next_heartbeat.since(now) };
        }
        self.next_heartbeat = now;
        let left = self.rest_left(contact, now);
        PacerStep { ticks: left.is_none(), heartbeat: false, again: left.unwrap_or(self.heartbeat) }
    }

    /// Time for which a follower needs no tick if it hears nothing more; `None` when it needs one now.
    pub(super) fn rest_left(&self, contact: Option<BootInstant>, now: BootInstant) -> Option<Duration> {
        contact.map(|contact| (contact + self.rest).since(now)).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootInstant {
        BootInstant::from_nanos(1_000_000_000) + Duration::from_millis(ms)
    }

    #[test]
    fn a_follower_needs_no_ticks_after_leader_contact_for_less_than_the_election_timeout() {
        for timing in [Timing::lan(), Timing::wan()] {
            let mut pacer = HeartbeatPacer::new(&timing, at(0));
            let ticks = |pacer: &mut HeartbeatPacer, contact, now| pacer.step(false, contact, now).ticks;
            assert!(ticks(&mut pacer, None, at(0)), "there was no contact yet");
            assert!(!ticks(&mut pacer, Some(at(0)), at(0) + timing.heartbeat));
            // A tick is 13/64 of a heartbeat.
            let last = at(0) + timing.election_min - timing.heartbeat * 13 / 64;
            assert!(ticks(&mut pacer, Some(at(0)), last));
            let asleep = pacer.step(false, Some(at(0)), at(1));
            assert!(ticks(&mut pacer, Some(at(0)), at(1) + asleep.again), "asked again as soon as it matters");
        }
    }

    #[test]
    fn a_leader_sends_a_heartbeat_immediately_and_then_once_per_interval() {
        let timing = Timing::lan();
        let mut pacer = HeartbeatPacer::new(&timing, at(0));
        pacer.step(false, Some(at(1_000)), at(1_000));
        let first = pacer.step(true, None, at(1_010));
        assert_eq!(first, PacerStep { ticks: false, heartbeat: true, again: timing.heartbeat });
        let early = pacer.step(true, None, at(1_030));
        assert_eq!((early.heartbeat, early.again), (false, timing.heartbeat - Duration::from_millis(20)));
        assert!(pacer.step(true, None, at(1_010) + timing.heartbeat).heartbeat);
        assert!(
            pacer.step(true, None, at(9_000)).heartbeat && !pacer.step(true, None, at(9_001)).heartbeat,
            "once"
        );
    }
}
