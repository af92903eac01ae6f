//! Processor use of this process, and the share that other processes leave it.

use std::{fs, thread, time::Duration};

use rustix::thread::{CpuSet, sched_getaffinity};
use twinbox_clock::{BootInstant, processor_time};

/// Interval of readings of `/proc/stat`, whose counters are too coarse for a shorter one, and of the number of processors, for which
/// several files of the control group are read.
const OTHERS_EVERY: Duration = Duration::from_secs(1);
/// Ticks of `/proc/stat` a second (`USER_HZ`, the same on all of Linux's architectures that matter here).
const TICKS: f64 = 100.0;

/// Reads use and availability repeatedly.
pub(crate) struct Processor {
    at: BootInstant,
    used: Duration,
    /// Time, own use and ticks at the last reading of the use by others.
    others_at: (BootInstant, Duration, Option<u64>),
    available: f64,
    /// Number of processors that this process may use, as read with `others_at`: an administrator may change it at any time.
    processors: f64,
}

impl Processor {
    pub(crate) fn new() -> Self {
        let (at, used) = (BootInstant::now(), processor_time());
        Self { at, used, others_at: (at, used, busy_ticks()), available: 1.0, processors: processors() }
    }

    /// Share of the processors that this process may use and has used since the last call, and the share that others
    /// left it lately, both 0 to 1. Work of others at low priority (nice) does not count.
    pub(crate) fn read(&mut self) -> (f64, f64) {
        let (now, used) = (BootInstant::now(), processor_time());
        let processors = self.processors;
        let share = |since: BootInstant, before: Duration| {
            let passed = now.since(since).as_secs_f64();
            if passed > 0.0 { used.saturating_sub(before).as_secs_f64() / passed / processors } else { 0.0 }
        };
        let own = share(self.at, self.used).min(1.0);
        (self.at, self.used) = (now, used);
        let (since, used_then, ticks_then) = self.others_at;
        if now.since(since) >= OTHERS_EVERY {
            let ticks = busy_ticks();
            if let Some((ticks, then)) = ticks.zip(ticks_then) {
                let busy = ticks.saturating_sub(then) as f64 / TICKS / now.since(since).as_secs_f64() / processors;
                self.available = 1.0 - (busy - share(since, used_then)).clamp(0.0, 0.9);
            }
            self.others_at = (now, used, ticks);
            self.processors = self::processors();
        }
        (own, self.available)
    }
}

fn processors() -> f64 {
    thread::available_parallelism().map_or(1, usize::from) as f64
}

/// Busy ticks, of all processes, of the processors that this process may use; without work at low priority.
fn busy_ticks() -> Option<u64> {
    let allowed = sched_getaffinity(None).ok()?;
    Some(busy_of(&fs::read_to_string("/proc/stat").ok()?, &allowed))
}

/// Lines `cpuN user nice system idle iowait irq softirq steal …`.
fn busy_of(stat: &str, allowed: &CpuSet) -> u64 {
    let of_processor = |line: &str| {
        let (number, rest) = line.strip_prefix("cpu")?.split_once(' ')?;
        let number: usize = number.parse().ok()?;
        let ticks: Vec<u64> = rest.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
        let busy = [0, 2, 5, 6, 7].iter().filter_map(|column| ticks.get(*column)).sum::<u64>();
        (number < CpuSet::MAX_CPU && allowed.is_set(number)).then_some(busy)
    };
    stat.lines().filter_map(of_processor).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_loop_uses_a_share_of_the_processors() {
        let mut processor = Processor::new();
        let begun = BootInstant::now();
        while begun.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let (own, available) = processor.read();
        assert!(own > 0.0 && own <= 1.0, "{own}");
        assert_eq!(available, 1.0, "not known yet");
    }

    #[test]
    fn usage_counts_allowed_processors_without_low_priority_work() {
        let stat =
            "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 50 10 800 30 1 2 7 0 0\ncpu1 5 5 5 5 5 5 5 5 0 0\nintr 12 3\n";
        let mut allowed = CpuSet::new();
        allowed.set(0);
        assert_eq!(busy_of(stat, &allowed), 120);
        allowed.set(1);
        assert_eq!(busy_of(stat, &allowed), 145);
        assert_eq!(busy_of("", &allowed), 0);
    }
}
