//! Watchdog for the event loop of the calls. Separate threads renew the leases of this node (`SideRuntime`), so that a
//! briefly busy loop loses none. A node with a hung loop is not in service: a thread outside the event loop reports
//! that to the role manager, which moves role and duties. New calls that wait in the sockets are refused when the
//! loop continues. `/livez` reports success while media threads turn, so that no probe ends the calls in progress.
//! The process ends itself when the loop hangs and either no caller is heard or a media thread hangs; its
//! supervisor restarts it.

use std::{
    io,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use twinbox_alarms::Code;
use twinbox_clock::{BootInstant, DurationHistogram};
use twinbox_roles::{HealthReport, ServiceHealth};
use twinbox_runtime as runtime;

use crate::health::{BOUNDS_US, Health, NodeHandles};

/// Exit code of a process with a hung event loop: EX_TEMPFAIL of sysexits ("temporary failure, try again").
pub const EXIT_HUNG: i32 = 75;

/// Interval of the event loop's heartbeat. `LOOK` is the poll interval of the watchdog thread.
const BEAT: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(500);
/// Timeout to write the last line of the process.
const LAST_LINE: Duration = Duration::from_millis(200);
/// Time without a heartbeat after which the loop counts as hung: well above the delays of a busy machine.
const HUNG: Duration = Duration::from_secs(3);
/// Time without a packet of any caller after which a hung process ends.
const SILENT: Duration = Duration::from_secs(10);
/// Time without a turn of a media thread after which a hung process ends.
const STUCK: Duration = Duration::from_secs(5);
/// Minimum time before a hung process ends, so that a loop that recovers is not killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Heartbeat of the event loop.
#[derive(Debug)]
pub struct LoopHeartbeat {
    beat: AtomicU64,
    hung: AtomicBool,
    /// Delays of the heartbeats.
    pub lag: DurationHistogram,
}

impl Default for LoopHeartbeat {
    fn default() -> Self {
        let beat = AtomicU64::new(BootInstant::now().as_nanos());
        Self { beat, hung: AtomicBool::new(false), lag: DurationHistogram::new(&BOUNDS_US) }
    }
}

impl LoopHeartbeat {
    /// Beats on the runtime that it is spawned on, until stopped.
    pub fn run(self: Arc<Self>, stop: CancellationToken) -> BoxFuture<'static, ()> {
        async move {
            let mut beats = runtime::every(BEAT);
            beats.tick().await;
            loop {
                let late = tokio::select! {
                    late = beats.tick() => late,
                    () = stop.cancelled() => return,
                };
                self.lag.record(late);
                self.beat.store(BootInstant::now().as_nanos(), Relaxed);
            }
        }
        .boxed()
    }

    /// Whether the event loop hangs.
    pub fn hung(&self) -> bool {
        self.hung.load(Relaxed)
    }
}

/// Observations of one poll.
#[derive(Debug, Clone, Copy)]
struct Observation {
    /// Time since the previous poll.
    passed: Duration,
    /// Whether the event loop has turned since the previous poll.
    beaten: bool,
    /// Whether a packet of a caller arrived since the previous poll.
    heard: bool,
    /// Longest time that any media thread has not turned.
    media_still: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Well,
    Hangs,
    /// The process serves no caller and must end, for this reason.
    End(&'static str),
}

/// Judges polls. Pure. Counts only time in which this thread runs: after a pause of the whole process (SIGSTOP,
/// machine asleep) the event loop can run first.
#[derive(Debug, Default)]
struct HangDetector {
    still: Duration,
    silent: Duration,
}

impl HangDetector {
    fn look(&mut self, look: Observation) -> Finding {
        let passed = look.passed.min(LOOK * 2);
        self.still = if look.beaten { Duration::ZERO } else { self.still + passed };
        self.silent = if look.heard { Duration::ZERO } else { self.silent + passed };
        match () {
            () if self.still < HUNG => Finding::Well,
            () if self.still < PATIENCE => Finding::Hangs,
            () if look.media_still >= STUCK => Finding::End("the event loop and a media thread hang"),
            () if self.silent >= SILENT => Finding::End("the event loop hangs and no caller sends audio any more"),
            () => Finding::Hangs,
        }
    }
}

/// Watches until stopped. The thread ends within one poll interval after the stop.
pub fn watch(health: &Arc<Health>, stop: CancellationToken) -> io::Result<()> {
    let health = health.clone();
    let watching = move || patrol(&health.node, &health.heartbeat, &stop);
    thread::Builder::new().name("watchdog".to_owned()).spawn(watching).map(drop)
}

fn patrol(node: &NodeHandles, heartbeat: &LoopHeartbeat, stop: &CancellationToken) {
    let mut detector = HangDetector::default();
    let mut before = (BootInstant::now(), heartbeat.beat.load(Relaxed), 0);
    while !stop.is_cancelled() {
        thread::sleep(LOOK);
        let now = (BootInstant::now(), heartbeat.beat.load(Relaxed), node.media.stats().received);
        let look = Observation {
            passed: now.0.since(before.0),
            beaten: now.1 != before.1,
            heard: now.2 != before.2,
            media_still: node.media.stalled_for(),
        };
        before = now;
        match detector.look(look) {
            Finding::Well if heartbeat.hung.swap(false, Relaxed) => {
                node.alarms.clear(Code::ServiceFailed, NAME);
                say(|| info!("the event loop turns again"));
            }
            Finding::Well => {}
            Finding::Hangs => begin(node, heartbeat),
            Finding::End(why) => {
                begin(node, heartbeat);
                end(why);
            }
        }
    }
}

/// Name of the event loop in reports and alarms.
pub const NAME: &str = "event-loop";

fn begin(node: &NodeHandles, heartbeat: &LoopHeartbeat) {
    if heartbeat.hung.swap(true, Relaxed) {
        return;
    }
    // Callers that arrived meanwhile have given up when the loop turns again; the health check accepts new calls
    // then.
    if let Some(calls) = node.calls.running() {
        calls.drain();
    }
    let detail = format!("the event loop has not turned for {} s", HUNG.as_secs());
    // When the loop turns again, its next health report replaces this one.
    let failed = ServiceHealth { name: NAME.to_owned(), ok: false, detail: detail.clone() };
    node.roles.report(HealthReport { services: vec![failed] });
    node.alarms.raise(Code::ServiceFailed, NAME, detail);
    say(|| error!("the event loop hangs: duties move, new calls are refused, calls in progress keep their media"));
}

/// Logs in a separate thread: the write may block for the same reason as the event loop.
fn say(what: impl FnOnce() + Send + 'static) {
    let _ = thread::Builder::new().name("watchdog-log".to_owned()).spawn(what);
}

/// Does not use the log: the hung thread may hold its lock.
fn end(why: &str) -> ! {
    let line = format!("twinbox: {why}: the process ends; its supervisor restarts it\n");
    // A blocked reader must not keep the process alive: the lock of `Stderr` is not awaited.
    let _ = thread::Builder::new().spawn(move || rustix::io::write(io::stderr().as_fd(), line.as_bytes()));
    thread::sleep(LAST_LINE);
    std::process::exit(EXIT_HUNG)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Polls for this number of seconds; returns each first finding with its time.
    fn findings(seconds: u32, look: impl Fn(u32) -> Observation) -> Vec<(u32, Finding)> {
        let mut detector = HangDetector::default();
        let mut found: Vec<(u32, Finding)> = Vec::new();
        for ms in (0..seconds * 1_000).step_by(LOOK.as_millis() as usize) {
            let finding = detector.look(look(ms));
            if found.last().is_none_or(|(_, last)| *last != finding) {
                found.push((ms, finding));
            }
        }
        found
    }

    fn hanging(from: u32) -> impl Fn(u32) -> Observation {
        move |ms| Observation { passed: LOOK, beaten: ms < from, heard: false, media_still: 5 * MS }
    }

    #[test]
    fn a_hung_loop_is_reported_and_the_process_ends_without_callers() {
        let found = findings(60, hanging(20_000));
        let expected = [
            (0, Finding::Well),
            (22_500, Finding::Hangs),
            (29_500, Finding::End("the event loop hangs and no caller sends audio any more")),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn with_callers_the_process_goes_on_unless_a_media_thread_hangs() {
        let talking = |ms: u32| Observation { heard: ms < 100_000, ..hanging(0)(ms) };
        let found = findings(300, talking);
        assert!(
            matches!(found[..], [(0, Finding::Well), (2_500, Finding::Hangs), (109_500, Finding::End(_))]),
            "{found:?}"
        );
        let stuck = |ms: u32| Observation { media_still: MS * ms, ..talking(ms) };
        let found = findings(60, stuck);
        assert!(matches!(found[2], (9_500, Finding::End(why)) if why.contains("media")), "{found:?}");
    }

    #[test]
    fn a_loop_that_recovers_is_not_ended() {
        let found = findings(60, |ms| Observation { beaten: !(10_000..15_000).contains(&ms), ..hanging(0)(ms) });
        assert!(
            matches!(found[..], [(0, Finding::Well), (12_500, Finding::Hangs), (15_000, Finding::Well)]),
            "{found:?}"
        );
        // A busy machine: one heartbeat per second.
        assert_eq!(
            findings(60, |ms| Observation { beaten: ms % 1_000 == 0, ..hanging(0)(ms) }),
            [(0, Finding::Well)]
        );
        // Stopped for a minute: this thread only knows that one poll was late.
        let stopped = |ms: u32| Observation {
            passed: if ms == 5_000 { MS * 60_000 } else { LOOK },
            beaten: ms != 5_000,
            ..hanging(0)(ms)
        };
        assert_eq!(findings(20, stopped), [(0, Finding::Well)]);
    }
}
