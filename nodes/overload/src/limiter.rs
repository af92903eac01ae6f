//! The number of new calls a second that this node admits, decided from its measurements, without a clock.
//!
//! A call causes most of its work at its end: its message is committed when the caller hangs up. Therefore the limit does
//! not wait for delays. It grows to the rate predicted from the use of processor and disk, at most to twice the rate of
//! calls already completed, and falls when work is delayed. In addition, a gate refuses all new calls while promises to
//! calls in progress are in danger. The rate that an earlier process of this node, or another node, has carried in time is
//! the limit of a node that has not measured its own yet ([`Limiter::expect`]): it may get all calls of another immediately.

use std::{collections::VecDeque, time::Duration};

/// New calls a second that a node takes before it has measured anything.
const INITIAL_LIMIT: f64 = 30.0;
/// Lower bound of the limit, in new calls a second: with fewer calls a measurement is impossible.
const MIN_LIMIT: f64 = 3.0;
/// Maximum calls admitted in the same instant after a rest, whatever the limit.
const BURST: f64 = 50.0;
/// Share of the processor that calls may use.
const PROCESSOR_SHARE: f64 = 0.9;
/// Share of its time that the disk may be busy with commits, as far as commit times tell.
const DISK_SHARE: f64 = 0.6;
/// Pressure at which the gate closes.
const CLOSE_PRESSURE: f64 = 1.4;
/// Pressure below which the gate opens again.
const OPEN_PRESSURE: f64 = 1.0;
/// Maximum of a measurement in the average. Otherwise a pause of seconds would keep the gate closed for as long again after
/// its end, although work is in time again.
const MAX_PRESSURE: f64 = 4.0;
/// The limit grows by this factor a second at most.
const MAX_GROWTH: f64 = 1.15;
/// The limit grows to at most this multiple of the rate that has gone through.
const MAX_LEAD: f64 = 2.0;
/// Maximum divisor of the limit in one decrease.
const MAX_DECREASE: f64 = 2.0;
/// Maximum of the limit after a decrease, as a share of the rate that the node carried when its work was late.
const SHARE_AFTER_DECREASE: f64 = 0.9;
/// Ratio to the proven rate from which on a load counts as the cause of late work.
const CAUSE_RATIO: f64 = 1.1;
/// Factor a second by which the proven rate shrinks while work is late.
const PROVEN_RATE_DECAY: f64 = 0.98;
/// Factor a second by which the ceiling rises under pressure: a tenth in a minute.
const CEILING_GROWTH: f64 = 1.0016;
/// Addition to that factor without pressure: the earlier delay then had another cause, or its cause has ended.
const IDLE_CEILING_GROWTH: f64 = 0.04;
/// Pressure from which on the ceiling rises at its slowest.
const NEAR_PRESSURE: f64 = 0.75;
/// Minimum assumed duration of a call.
const MIN_CALL_TIME: Duration = Duration::from_secs(2);
/// Maximum assumed duration of a call.
const MAX_CALL_TIME: Duration = Duration::from_secs(30);
/// Time constant of the averages over samples.
const TIME_CONSTANT: Duration = Duration::from_secs(1);
/// Maximum time for which one sample counts. After a pause of the process the sample itself is late: with its whole time it would close
/// the gate alone, on an idle node too.
const MAX_SAMPLE_TIME: Duration = Duration::from_millis(150);
/// Commit time below which the disk counts as idle.
const IDLE_COMMIT: Duration = Duration::from_millis(2);

/// Measurements since the last sample; totals are since the start.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Total of admitted new calls.
    pub admitted: u64,
    /// Total of ended calls.
    pub ended: u64,
    /// Mean time of the commits that ended since the last sample; `None` without any.
    pub commit: Option<Duration>,
    /// Age of the oldest commit that has not ended.
    pub pending: Duration,
    /// Delay of a timer of the event loop.
    pub lag: Duration,
    /// 99th percentile of the delay of media packets; `None` without packets.
    pub media: Option<Duration>,
    /// Share of the processors that the process may use and has used, 0 to 1.
    pub processor: f64,
    /// Share of the processors that other processes left to this one, 0 to 1.
    pub available: f64,
}

/// A measurement that may limit a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Commits take long.
    Commit,
    /// The event loop runs late.
    Loop,
    /// Media threads run late.
    Media,
    /// The processors are busy.
    Processor,
}

impl Signal {
    /// All signals.
    pub const ALL: [Self; 4] = [Self::Commit, Self::Loop, Self::Media, Self::Processor];

    /// Its label in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Loop => "event-loop",
            Self::Media => "media",
            Self::Processor => "processor",
        }
    }
}

/// Times at which work is late enough for a pressure of 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    /// Target of a commit: a third of the time within which a BYE must be answered.
    pub commit: Duration,
    /// Target of the event loop.
    pub lag: Duration,
    /// Target of a media packet: listeners hear a gap when a jitter buffer of this length runs empty.
    pub media: Duration,
}

impl Targets {
    /// Targets where a BYE must be answered within `bye_timeout`.
    pub fn of(bye_timeout: Duration) -> Self {
        Self { commit: bye_timeout / 3, lag: Duration::from_millis(50), media: Duration::from_millis(60) }
    }
}

/// Totals at the end of a second.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Duration,
    admitted: u64,
    ended: u64,
}

/// Decides the number of admitted new calls. Time is given as the duration since any fixed moment.
#[derive(Debug, Clone)]
pub struct Limiter {
    targets: Targets,
    /// New calls a second.
    limit: f64,
    /// Calls that may begin at this moment, and the time of that count.
    tokens: (f64, Duration),
    closed: bool,
    /// Pressure by signal: 1 is the target.
    pressure: [f64; Signal::ALL.len()],
    /// Share of the processors that others leave, as sampled last.
    available: f64,
    sampled: Duration,
    /// Mean commit time, smoothed, and its recent minimum.
    commit: Option<f64>,
    idle_commit: f64,
    marks: VecDeque<Mark>,
    /// The highest rate of calls that went through in time.
    proven: f64,
    /// The highest rate over a whole [`MAX_CALL_TIME`] in which no work was late.
    sustained: f64,
    /// Start of the time since which no work is late.
    in_time: Duration,
    /// The rate that another process or node carried in time; see [`Self::expect`].
    expected: f64,
    /// The limit fell because of the load: the measured rate counts, not the expected one.
    fell: bool,
    /// Time of the last call that was refused because of the limit.
    short: Option<Duration>,
    /// Calls a second at which work was late last; the limit does not grow beyond. It rises slowly, to try again.
    ceiling: f64,
    /// Until then the limit does not grow, because calls admitted before a decrease are still there.
    holds: Duration,
    /// Until then the limit does not fall again, unless the gate is closed.
    settles: Duration,
}

impl Limiter {
    /// A limiter of a node that starts at `at`.
    pub fn new(targets: Targets, at: Duration) -> Self {
        Self {
            targets,
            limit: INITIAL_LIMIT,
            tokens: (BURST, at),
            closed: false,
            pressure: [0.0; Signal::ALL.len()],
            available: 1.0,
            sampled: at,
            commit: None,
            idle_commit: f64::INFINITY,
            marks: VecDeque::from([Mark { at, admitted: 0, ended: 0 }]),
            proven: 0.0,
            sustained: 0.0,
            in_time: at,
            expected: 0.0,
            fell: false,
            short: None,
            ceiling: f64::INFINITY,
            holds: at,
            settles: at,
        }
    }

    /// Sets the rate, in new calls a second, that an earlier process of this node carried in time, or another node, whose
    /// calls may all come here. The limit is at least this rate until the load makes it fall.
    pub fn expect(&mut self, calls: f64) {
        self.expected = calls;
    }

    /// Takes one new call, or refuses it.
    pub fn admit(&mut self, at: Duration) -> bool {
        let (tokens, then) = self.tokens;
        let passed = at.saturating_sub(then).as_secs_f64();
        // Callers who came while the gate was closed are not all admitted when it opens.
        let filled =
            if self.closed { 0.0 } else { (tokens + passed * self.limit).min(BURST.max(self.limit / 2.0)) };
        let admitted = !self.closed && filled >= 1.0;
        if !admitted && !self.closed {
            self.short = Some(at);
        }
        self.tokens = (if admitted { filled - 1.0 } else { filled }, at.max(then));
        admitted
    }

    /// Takes a sample, several times a second.
    pub fn sample(&mut self, at: Duration, sample: &Sample) {
        let passed = at.saturating_sub(self.sampled);
        (self.sampled, self.available) = (at, sample.available);
        let counted = passed.min(MAX_SAMPLE_TIME);
        let weight = 1.0 - (-counted.as_secs_f64() / TIME_CONSTANT.as_secs_f64()).exp();
        let over = |time: Duration, target: Duration| time.as_secs_f64() / target.as_secs_f64();
        let commit = sample.commit.unwrap_or_default().max(sample.pending);
        let now = [
            over(commit, self.targets.commit),
            over(sample.lag, self.targets.lag),
            over(sample.media.unwrap_or_default(), self.targets.media),
            // Lowers the limit, but does not close the gate: a full processor delays no work yet.
            sample.processor / PROCESSOR_SHARE,
        ];
        for (smooth, now) in self.pressure.iter_mut().zip(now) {
            *smooth += (now.min(MAX_PRESSURE) - *smooth) * weight;
        }
        if let Some(time) = sample.commit.map(|time| time.as_secs_f64()) {
            let smooth = self.commit.get_or_insert(time);
            *smooth += (time - *smooth) * weight;
            // The minimum is forgotten over minutes: a disk may get slower for good.
            self.idle_commit = (self.idle_commit * (1.0 + 0.01 * passed.as_secs_f64())).min(*smooth);
        }
        // A delay counts immediately; an earlier one counts until the average has forgotten it.
        let worst = now.into_iter().take(3).fold(0.0, f64::max);
        let lately = self.pressure.into_iter().take(3).fold(0.0, f64::max);
        self.closed =
            if self.closed { worst.max(lately) > OPEN_PRESSURE } else { worst.min(lately * 2.0) > CLOSE_PRESSURE };
        if self.marks.back().is_none_or(|mark| at.saturating_sub(mark.at) >= Duration::from_secs(1)) {
            self.marks.push_back(Mark { at, admitted: sample.admitted, ended: sample.ended });
            while self.marks.len() > 1 + MAX_CALL_TIME.as_secs() as usize {
                self.marks.pop_front();
            }
            self.adapt(at);
        }
    }

    /// Adapts the limit to the measurements, once a second.
    fn adapt(&mut self, at: Duration) {
        let stay = self.stay();
        let (_, pressure) = self.worst();
        let slack = (1.0 - pressure / NEAR_PRESSURE).max(0.0);
        self.ceiling *= CEILING_GROWTH + IDLE_CEILING_GROWTH * slack;
        if pressure > 1.0 || self.closed {
            let (admitted, ended) = self.rates(Duration::from_secs(2));
            let (long, done) = self.rates(stay);
            // A call causes work at its begin and at its end. Few calls end while the node stands still: then its
            // earlier rate is the better measure.
            let carried = ((admitted + ended) / 2.0).max(done.min(long));
            // Otherwise the cause is another one, such as a hanging disk, and fewer calls do not help. A rate below the
            // minimum limit is no cause either.
            let is_load = long >= MIN_LIMIT && long > self.proven * CAUSE_RATIO;
            let by_load = self.short.is_some_and(|short| at < short + stay) || is_load;
            self.proven *= PROVEN_RATE_DECAY;
            if at >= self.settles && by_load {
                let factor = (0.95 / pressure).clamp(1.0 / MAX_DECREASE, SHARE_AFTER_DECREASE);
                self.fell = true;
                self.ceiling = (carried * SHARE_AFTER_DECREASE).max(MIN_LIMIT);
                self.limit = (carried.min(self.limit) * factor).max(MIN_LIMIT);
                self.settles = at + stay;
            }
            (self.holds, self.in_time) = (at + stay, at);
        } else if at >= self.holds {
            let (admitted, ended) = self.rates(stay);
            let carried = admitted.min(ended);
            self.proven = self.proven.max(carried);
            let foretold = (carried * self.headroom()).min(self.ceiling);
            if foretold > self.limit {
                self.limit = foretold.min(self.limit * MAX_GROWTH);
            }
            if !self.fell {
                self.limit = self.limit.max(self.expected);
            }
            if at >= self.in_time + MAX_CALL_TIME {
                let (admitted, ended) = self.rates(MAX_CALL_TIME);
                self.sustained = self.sustained.max(admitted.min(ended));
            }
        }
    }

    /// Factor by which the load could grow, predicted from the use of processor and disk.
    fn headroom(&self) -> f64 {
        let processor = self.available / self.pressure[Signal::Processor as usize].max(f64::MIN_POSITIVE);
        // In a queue the time rises with the share s that the server is busy, as 1 / (1 - s).
        let busy = self.commit.map_or(0.0, |time| match time > IDLE_COMMIT.as_secs_f64() {
            true => 1.0 - self.idle_commit.max(IDLE_COMMIT.as_secs_f64()) / time,
            false => 0.0,
        });
        let disk = DISK_SHARE / busy.max(f64::MIN_POSITIVE);
        processor.min(disk).min(MAX_LEAD)
    }

    /// Mean duration of a call by Little's law: calls in progress divided by calls that end per second.
    fn stay(&self) -> Duration {
        let Some(last) = self.marks.back() else { return MAX_CALL_TIME };
        let (_, ended) = self.rates(MAX_CALL_TIME);
        let inside = last.admitted.saturating_sub(last.ended) as f64;
        let seconds = if ended > 0.0 { inside / ended } else { MAX_CALL_TIME.as_secs_f64() };
        Duration::from_secs_f64(seconds.clamp(MIN_CALL_TIME.as_secs_f64(), MAX_CALL_TIME.as_secs_f64()))
    }

    /// Admitted and ended calls a second, over about this time.
    fn rates(&self, over: Duration) -> (f64, f64) {
        let Some(last) = self.marks.back() else { return (0.0, 0.0) };
        let since = last.at.saturating_sub(over);
        let Some(first) = self.marks.iter().rev().find(|mark| mark.at <= since).or(self.marks.front()) else {
            return (0.0, 0.0);
        };
        let seconds = last.at.saturating_sub(first.at).max(Duration::from_secs(1)).as_secs_f64();
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        (rate(last.admitted, first.admitted), rate(last.ended, first.ended))
    }

    /// New calls a second that are admitted now.
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// The highest rate of new calls a second that went through here in time for [`MAX_CALL_TIME`].
    pub fn sustained(&self) -> f64 {
        self.sustained
    }

    /// No new call is admitted until work is done in time again.
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Ratio of a signal to its target, smoothed over a second: 1 is the target.
    pub fn pressure(&self, signal: Signal) -> f64 {
        self.pressure[signal as usize]
    }

    /// The signal under the greatest pressure.
    pub fn worst(&self) -> (Signal, f64) {
        let all = Signal::ALL.into_iter().map(|signal| (signal, self.pressure(signal)));
        all.fold((Signal::Commit, 0.0), |worst, next| if next.1 > worst.1 { next } else { worst })
    }
}
