//! Due times of a stream's packets, and the best time to poll for them.

use std::time::Duration;

use twinbox_clock::BootInstant;
use twinbox_rtp::{SAMPLE_RATE, packet::RtpTime};

/// Measures the lateness of the handling of a stream's packets.
///
/// The due time of a packet follows from its timestamp, relative to the packet that came earliest by that measure in
/// the last 8 to 16 seconds. The reference packet is replaced because the clocks of both sides drift apart.
#[derive(Debug, Default)]
pub(crate) struct Due {
    origin: Option<Origin>,
}

#[derive(Debug)]
struct Origin {
    time: RtpTime,
    at: BootInstant,
    /// Smallest delay of a packet against its timestamp, in nanoseconds, in the current window; then in the last.
    least: i64,
    least_before: i64,
    window: BootInstant,
}

const WINDOW: Duration = Duration::from_secs(8);

/// A larger difference is a timestamp jump, not lateness: ten seconds, in nanoseconds.
const JUMP: i64 = 10_000_000_000;

const NANOS_PER_SAMPLE: i64 = 1_000_000_000 / SAMPLE_RATE as i64;

impl Due {
    /// The stream restarts.
    pub(crate) fn restart(&mut self) {
        self.origin = None;
    }

    /// Lateness at `now` of a packet with this timestamp.
    pub(crate) fn late(&mut self, now: BootInstant, time: RtpTime) -> Duration {
        let Some(origin) = &mut self.origin else {
            self.origin = Some(Origin { time, at: now, least: 0, least_before: 0, window: now });
            return Duration::ZERO;
        };
        let passed = now.since(origin.at).as_nanos() as i64;
        let after = passed - i64::from(time.since(origin.time)) * NANOS_PER_SAMPLE;
        let late = after - origin.least.min(origin.least_before);
        if late.abs() > JUMP {
            self.origin = None;
            return self.late(now, time);
        }
        if now.since(origin.window) > WINDOW {
            // Timestamps count from the newest packet, so that they never come near their wrap.
            *origin = Origin { time, at: now, least: 0, least_before: origin.least - after, window: now };
        } else {
            origin.least = origin.least.min(after);
        }
        Duration::from_nanos(late.max(0).unsigned_abs())
    }
}

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
pub(crate) struct Phase {
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

impl Phase {
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

    #[test]
    fn lateness_is_counted_from_the_earliest_packet() {
        let mut due = Due::default();
        let start = RtpTime(u32::MAX - 200);
        let cases = [(0, 0, 0), (20_000, 160, 0), (47_000, 320, 7_000), (55_000, 480, 0), (80_000, 640, 5_000)];
        for (us, samples, late) in cases {
            assert_eq!(due.late(at(us), start.plus(samples)), Duration::from_micros(late), "at {us} us");
        }
        due.restart();
        assert_eq!(due.late(at(90_000), RtpTime(5)), Duration::ZERO);
        assert_eq!(due.late(at(110_000), RtpTime(900_000_000)), Duration::ZERO, "a jump is a new beginning");
    }

    #[test]
    fn slow_sender_is_late_only_for_a_while() {
        let mut due = Due::default();
        // 500 ppm slow for two minutes: 60 ms in total.
        let worst = (0..6_000u64).map(|n| due.late(at(n * 20_010), RtpTime(n as u32 * 160))).max().unwrap();
        assert!(worst < Duration::from_millis(9), "{worst:?}");
    }

    #[test]
    fn a_packet_late_for_two_windows_is_still_late() {
        let mut due = Due::default();
        for n in 0..350u64 {
            due.late(at(n * 20_000), RtpTime(n as u32 * 160));
        }
        // From 7 s on all packets are 30 ms late: measured until the window has passed twice.
        let late = |n: u64, due: &mut Due| due.late(at(n * 20_000 + 30_000), RtpTime(n as u32 * 160));
        for n in 350..780 {
            assert_eq!(late(n, &mut due), Duration::from_millis(30), "packet {n}");
        }
        for n in 780..1_700 {
            late(n, &mut due);
        }
        assert_eq!(late(1_700, &mut due), Duration::ZERO);
    }

    /// Runs a socket's visits in slots of 5 ms against packets that arrive at `arrivals`, in microseconds. Returns the
    /// number of visits and the wait of each packet.
    fn simulate(arrivals: &[u64], payload: usize) -> (usize, Vec<u64>) {
        let mut phase = Phase::new();
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
