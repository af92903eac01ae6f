//! The best time to poll for a stream's packets.

use std::time::Duration;

use twinbox_clock::BootInstant;
use twinbox_rtp::SAMPLE_RATE;

/// Time of the next visit, relative to the usual 20 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shift {
    Stay,
    /// One slot (5 ms) later.
    Later,
    /// One slot (5 ms) earlier.
    Earlier,
}

/// Keeps the visits to a socket directly after the arrival of its packets.
///
/// A visit that comes just before the packet finds nothing and is repeated a slot later. After a loss the visits
/// therefore return to their old slot. About once a second a visit is tried a slot earlier, repeatedly while packets
/// are already there. A packet therefore waits for less than a slot, without the cost of constant polling.
#[derive(Debug)]
pub(crate) struct PollPhase {
    /// Visits until the next try.
    until_try: u8,
    /// Tries in a row; a whole round of tries means that packets come more often than visits.
    tries: u8,
    last: Option<BootInstant>,
    /// Duration of the last packet's audio.
    packet: Duration,
}

/// Visits between two tries: about one second.
const TRY_EVERY: u8 = 50;

impl PollPhase {
    pub(crate) fn new() -> Self {
        Self { until_try: 1, tries: 0, last: None, packet: Duration::ZERO }
    }

    /// A packet was taken.
    pub(crate) fn packet(&mut self, now: BootInstant, payload: usize) {
        self.last = Some(now);
        self.packet = Duration::from_millis(payload as u64 * 1_000 / u64::from(SAMPLE_RATE));
    }

    /// A visit ended.
    pub(crate) fn visited(&mut self, now: BootInstant, slots: u8) -> Shift {
        let Some(since) = self.last.map(|last| now.since(last)) else { return Shift::Stay };
        if since.is_zero() {
            self.until_try = self.until_try.saturating_sub(1);
            if self.until_try > 0 {
                return Shift::Stay;
            }
            if self.tries == slots {
                self.settle();
                return Shift::Stay;
            }
            self.tries += 1;
            return Shift::Earlier;
        }
        // Missed: the next packet is about due (a try comes a slot before that) and the sender has not paused.
        let due = since + Duration::from_millis(6) >= self.packet;
        if !due || since > self.packet + Duration::from_millis(30) {
            return Shift::Stay;
        }
        self.settle();
        Shift::Later
    }

    fn settle(&mut self) {
        self.until_try = TRY_EVERY;
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> BootInstant {
        BootInstant::from_nanos(1_000_000_000 + us * 1_000)
    }

    /// Runs a socket's visits in slots of 5 ms against packets that arrive at `arrivals`, in microseconds. Returns the
    /// number of visits and the wait of each packet.
    fn simulate(arrivals: &[u64], payload: usize) -> (usize, Vec<u64>) {
        let mut phase = PollPhase::new();
        let (mut tick, mut visits, mut waits, mut next) = (0u64, 0, Vec::new(), 0);
        while next < arrivals.len() {
            visits += 1;
            while next < arrivals.len() && arrivals[next] <= tick * 5_000 {
                waits.push(tick * 5_000 - arrivals[next]);
                phase.packet(at(tick * 5_000), payload);
                next += 1;
            }
            tick += match phase.visited(at(tick * 5_000), 4) {
                Shift::Stay => 4,
                Shift::Later => 1,
                Shift::Earlier => 3,
            };
        }
        (visits, waits)
    }

    #[test]
    fn visits_follow_the_packets() {
        for start in [100, 4_900, 7_000, 19_000] {
            let arrivals: Vec<u64> = (0..3_000).map(|n| start + n * 20_000).collect();
            let (visits, waits) = simulate(&arrivals, 160);
            assert!(waits[10..].iter().all(|&w| w < 5_000), "start {start}: {:?}", waits.iter().max());
            assert!(visits < 3_000 * 110 / 100, "start {start}: {visits} visits");
        }
    }

    #[test]
    fn loss_drift_and_other_packet_times_keep_visits_in_phase() {
        let lossy: Vec<u64> = (0..3_000).filter(|n| n % 50 != 7).map(|n| n * 20_000).collect();
        let (visits, waits) = simulate(&lossy, 160);
        assert!(waits[10..].iter().all(|&w| w < 5_000), "loss: {:?}", waits.iter().max());
        assert!(visits < 3_000 * 120 / 100, "loss: {visits}");
        for period in [19_980, 20_020] {
            let drifting: Vec<u64> = (0..6_000).map(|n| n * period).collect();
            let (visits, waits) = simulate(&drifting, 160);
            assert!(waits[10..].iter().all(|&w| w < 7_000), "period {period}: {:?}", waits[10..].iter().max());
            assert!(visits < 6_000 * 110 / 100, "period {period}: {visits}");
        }
        let short: Vec<u64> = (0..6_000).map(|n| 3_000 + n * 10_000).collect();
        let (visits, waits) = simulate(&short, 80);
        assert!(waits.iter().all(|&w| w <= 20_000) && visits < 3_000 * 110 / 100, "10 ms: {visits}");
        let long: Vec<u64> = (0..1_000).map(|n| 3_000 + n * 60_000).collect();
        let (visits, waits) = simulate(&long, 480);
        assert!(waits[10..].iter().all(|&w| w < 5_000), "60 ms: {:?}", waits[10..].iter().max());
        assert!(visits < 3_000 * 115 / 100, "60 ms: {visits}");
    }
}
