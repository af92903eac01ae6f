//! CPU use relative to the limits of this process: of the machine, and of every enclosing control group with a
//! quota. Load averages also count processes that wait for a disk and are no measure of CPU use.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use twinbox_clock::BootInstant;

/// Period over which a share is averaged.
const WINDOW: Duration = Duration::from_secs(60);
/// Share in ‰ above which, over the whole window, the CPU is overloaded.
const TOO_MUCH: u32 = 950;
/// Share in ‰ below which the overload ends.
const ENOUGH: u32 = 850;

const GROUPS: &str = "/sys/fs/cgroup";

/// Counters at one time; the difference of two readings gives a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    at: BootInstant,
    /// Of the machine, in ticks: busy, and total.
    machine: Option<(u64, u64)>,
    /// Of each control group with a quota: microseconds used, and quota in microseconds per second.
    groups: Vec<(u64, u64)>,
}

impl Reading {
    /// Reads the counters.
    pub fn take() -> Self {
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        Self {
            at: BootInstant::now(),
            machine: machine(&text(Path::new("/proc/stat"))),
            groups: around(&text(Path::new("/proc/self/cgroup")))
                .iter()
                .filter_map(|dir| group(&text(&dir.join("cpu.stat")), &text(&dir.join("cpu.max"))))
                .collect(),
        }
    }

    /// Largest used share of any limit since `before`, in ‰.
    pub fn share_since(&self, before: &Self) -> Option<u32> {
        let machine = self.machine.zip(before.machine).and_then(|((busy, all), (busy_then, all_then))| {
            permille(busy.saturating_sub(busy_then), all.saturating_sub(all_then))
        });
        let passed = u64::try_from(self.at.since(before.at).as_micros()).unwrap_or(u64::MAX);
        let groups = self.groups.iter().zip(&before.groups).filter_map(|((used, allowed), (used_then, _))| {
            permille(used.saturating_sub(*used_then), allowed.saturating_mul(passed) / 1_000_000)
        });
        machine.into_iter().chain(groups).max()
    }
}

fn permille(part: u64, whole: u64) -> Option<u32> {
    (whole > 0).then(|| u32::try_from(u128::from(part) * 1_000 / u128::from(whole)).unwrap_or(u32::MAX).min(1_000))
}

/// First line of `/proc/stat`: user nice system idle iowait irq softirq steal. Stolen time was used by another
/// machine on the same host and is not available here.
fn machine(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let all: u64 = ticks.iter().sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((all - idle, all))
}

/// Folders of this process's control group (version 2) and of the enclosing groups.
fn around(own: &str) -> Vec<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let groups = Path::new(GROUPS);
    let inner = path.map(|path| groups.join(path));
    inner
        .iter()
        .flat_map(|dir| dir.ancestors())
        .take_while(|dir| dir.starts_with(groups))
        .map(Path::to_owned)
        .collect()
}

fn group(stat: &str, max: &str) -> Option<(u64, u64)> {
    let used = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?.trim().parse().ok()?;
    let (quota, period) = max.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    Some((used, quota.saturating_mul(1_000_000).checked_div(period)?))
}

/// Share over the last minute, and whether it is too high. Pure.
#[derive(Debug, Default)]
pub struct Load {
    readings: VecDeque<(BootInstant, u32)>,
    too_much: bool,
}

impl Load {
    /// Adds a share.
    pub fn note(&mut self, now: BootInstant, share: u32) {
        self.readings.push_back((now, share));
        while self.readings.front().is_some_and(|(at, _)| now.since(*at) > WINDOW) {
            self.readings.pop_front();
        }
        self.too_much = match self.too_much {
            true => self.sustained() >= ENOUGH,
            false => self.sustained() >= TOO_MUCH,
        };
    }

    /// Mean over the window, in ‰. Missing readings count as idle: a busy start is not sustained load.
    pub fn sustained(&self) -> u32 {
        let sum: u64 = self.readings.iter().map(|(_, share)| u64::from(*share)).sum();
        u32::try_from(sum / (self.readings.len() as u64).max(WINDOW.as_secs() * 9 / 10)).unwrap_or(u32::MAX)
    }

    /// Whether the CPU was overloaded for the whole window.
    pub fn too_much(&self) -> bool {
        self.too_much
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> BootInstant {
        BootInstant::from_nanos(s * 1_000_000_000)
    }

    fn reading(s: u64, stat: &str, group_used: u64) -> Reading {
        let usage = format!("usage_usec {group_used}\nuser_usec 1\n");
        Reading { at: at(s), machine: machine(stat), groups: group(&usage, "50000 100000\n").into_iter().collect() }
    }

    #[test]
    fn the_share_is_that_of_the_narrowest_limit() {
        let idle = "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 1 1 1\n";
        // 100 ticks later: 20 busy, 10 of them stolen; 30 waited for the disk.
        let later = "cpu  105 0 105 850 30 0 0 10 0 0\n";
        let before = reading(1, idle, 1_000_000);
        assert_eq!(reading(2, later, 1_050_000).share_since(&before), Some(200), "of the machine");
        assert_eq!(reading(2, later, 1_450_000).share_since(&before), Some(900), "of half a core");
        assert_eq!(reading(1, idle, 0).share_since(&before), None, "no time has passed");
        assert_eq!(reading(2, "", 1_100_000).share_since(&before), Some(200), "no /proc/stat");
    }

    #[test]
    fn groups_without_a_quota_and_other_versions_do_not_count() {
        assert_eq!(group("usage_usec 7\n", "max 100000\n"), None);
        assert_eq!(group("usage_usec 7\n", "200000 100000\n"), Some((7, 2_000_000)));
        assert_eq!(group("", "200000 100000"), None);
        assert_eq!(around("4:cpu:/old\n"), Vec::<PathBuf>::new());
        let dirs = around("0::/system.slice/twinbox.service\n");
        let expected = ["system.slice/twinbox.service", "system.slice", ""].map(|d| Path::new(GROUPS).join(d));
        assert_eq!(dirs, expected);
        assert_eq!(around("0::/\n").len(), 1);
    }

    #[test]
    fn only_what_lasts_a_minute_is_too_much() {
        let mut load = Load::default();
        let mut at_last = |from: u64, to: u64, share: u32| {
            (from..to).for_each(|s| load.note(at(s), share));
            (load.too_much(), load.sustained())
        };
        assert_eq!(at_last(0, 10, 1_000), (false, 185), "ten seconds are nothing");
        assert!(!at_last(10, 70, 100).0);
        assert_eq!(at_last(70, 135, 990), (true, 990));
        assert!(at_last(135, 140, 500).0, "it has to be clearly better");
        assert_eq!(at_last(140, 200, 500), (false, 500));
    }
}
