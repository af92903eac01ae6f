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
pub(super) struct Step {
    /// Raft's clock must tick: an election may become due.
    pub ticks: bool,
    /// A heartbeat to the followers is due now.
    pub beats: bool,
    /// Time until the next call, if nothing happens before.
    pub again: Duration,
}

/// Heartbeat and tick schedule of one core.
#[derive(Debug)]
pub(super) struct Pace {
    heartbeat: Duration,
    /// Time after a message of the leader in which no election can be due, with one tick of reserve.
    rest: Duration,
    next_beat: BootInstant,
}

impl Pace {
    pub(super) fn new(timing: &Timing, now: BootInstant) -> Self {
        let Timing { heartbeat, election_min, .. } = *timing;
        Self { heartbeat, rest: (heartbeat + election_min) / 2, next_beat: now }
    }

    /// The next action; `heard` is the last valid contact with the leader.
    pub(super) fn step(&mut self, leading: bool, heard: Option<BootInstant>, now: BootInstant) -> Step {
        if leading {
            let beats = now >= self.next_beat;
            if beats {
                // From now, not from the due time: a leader that was suspended does not send missed heartbeats later.
                self.next_beat = now + self.heartbeat;
            }
            return Step { ticks: false, beats, again: self.next_beat.since(now) };
        }
        self.next_beat = now;
        let rests = self.rests(heard, now);
        Step { ticks: rests.is_none(), beats: false, again: rests.unwrap_or(self.heartbeat) }
    }

    /// Time for which a follower needs no tick if it hears nothing more; `None` when it needs one now.
    pub(super) fn rests(&self, heard: Option<BootInstant>, now: BootInstant) -> Option<Duration> {
        heard.map(|heard| (heard + self.rest).since(now)).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootInstant {
        BootInstant::from_nanos(1_000_000_000) + Duration::from_millis(ms)
    }

    #[test]
    fn a_follower_rests_while_it_hears_and_never_as_long_as_an_election_takes() {
        for timing in [Timing::lan(), Timing::wan()] {
            let mut pace = Pace::new(&timing, at(0));
            let ticks = |pace: &mut Pace, heard, now| pace.step(false, heard, now).ticks;
            assert!(ticks(&mut pace, None, at(0)), "nobody was ever heard");
            assert!(!ticks(&mut pace, Some(at(0)), at(0) + timing.heartbeat));
            // A tick is 13/64 of a heartbeat.
            let last = at(0) + timing.election_min - timing.heartbeat * 13 / 64;
            assert!(ticks(&mut pace, Some(at(0)), last));
            let asleep = pace.step(false, Some(at(0)), at(1));
            assert!(ticks(&mut pace, Some(at(0)), at(1) + asleep.again), "asked again as soon as it matters");
        }
    }

    #[test]
    fn a_leader_beats_at_once_and_then_in_its_interval() {
        let timing = Timing::lan();
        let mut pace = Pace::new(&timing, at(0));
        pace.step(false, Some(at(1_000)), at(1_000));
        let first = pace.step(true, None, at(1_010));
        assert_eq!(first, Step { ticks: false, beats: true, again: timing.heartbeat });
        let early = pace.step(true, None, at(1_030));
        assert_eq!((early.beats, early.again), (false, timing.heartbeat - Duration::from_millis(20)));
        assert!(pace.step(true, None, at(1_010) + timing.heartbeat).beats);
        assert!(pace.step(true, None, at(9_000)).beats && !pace.step(true, None, at(9_001)).beats, "once");
    }
}
