//! Monitor of one service: restarts it where that helps, and delays the report of its recovery. Pure.

use std::time::Duration;

use twinbox_clock::BootInstant;

use crate::{
    probe::CheckResult,
    restart::{Decision, Restarts},
};

/// A service that was restarted more than once recently must work for this time before it counts as working:
/// otherwise a service that hangs again after each restart would never count as failed.
const PROVE: Duration = Duration::from_secs(10);

/// Monitor of one service.
#[derive(Debug, Default)]
pub struct ServiceMonitor {
    restarts: Restarts,
    /// A restart is in progress.
    restarting: bool,
    /// Time and reason of the latest failure.
    failed: Option<(BootInstant, String)>,
}

impl ServiceMonitor {
    /// Judges the result of the checks. True: restart the service now, and call [`Self::restarted`] afterwards.
    pub fn judge(&mut self, now: BootInstant, checked: CheckResult, restartable: bool) -> (CheckResult, bool) {
        if self.restarting {
            return (checked, false);
        }
        let Err(why) = checked else {
            let doubtful = self.restarts.lately(now) > 1;
            return match &self.failed {
                Some((at, why)) if doubtful && now.since(*at) < PROVE => {
                    (Err(format!("{why} (restarted, and not working for {} s yet)", PROVE.as_secs())), false)
                }
                _ => (Ok(()), false),
            };
        };
        self.failed = Some((now, why.clone()));
        if !restartable {
            return (Err(why), false);
        }
        match self.restarts.decide(now) {
            Decision::Start => {
                self.restarting = true;
                (Err(why), true)
            }
            Decision::Wait => (Err(why), false),
            Decision::GiveUp => (Err(format!("{why} (restarted too often; waiting)")), false),
        }
    }

    /// Counts a restart by an administrator, regardless of earlier ones. False while a restart is in progress.
    pub fn begin_restart(&mut self, now: BootInstant) -> bool {
        let free = !self.restarting;
        if free {
            self.restarts.ordered(now);
            self.restarting = true;
        }
        free
    }

    /// Records the end of a restart.
    pub fn restarted(&mut self) {
        self.restarting = false;
    }

    /// Number of restarts since the process began.
    pub fn restarts(&self) -> u32 {
        self.restarts.total()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootInstant {
        BootInstant::from_nanos(ms * 1_000_000)
    }

    fn fault() -> CheckResult {
        Err("hangs".to_owned())
    }

    #[test]
    fn a_restart_that_helps_hides_the_failure() {
        let mut monitor = ServiceMonitor::default();
        assert_eq!(monitor.judge(at(0), Ok(()), true), (Ok(()), false));
        assert_eq!(monitor.judge(at(200), fault(), true), (fault(), true));
        assert_eq!(monitor.judge(at(400), fault(), true), (fault(), false), "one at a time");
        monitor.restarted();
        assert_eq!(monitor.judge(at(600), Ok(()), true), (Ok(()), false));
        assert_eq!(monitor.restarts(), 1);
    }

    #[test]
    fn a_service_that_hangs_after_each_restart_counts_as_failed() {
        let mut monitor = ServiceMonitor::default();
        let mut believed = Vec::new();
        // It hangs 3 s after each restart, and the checks notice that 3 s later.
        let mut well_until = 3_000;
        for ms in (0..60_000).step_by(200) {
            let checked = if ms < well_until + 3_000 { Ok(()) } else { fault() };
            let (verdict, restart) = monitor.judge(at(ms), checked, true);
            if restart {
                monitor.restarted();
                well_until = ms + 3_000;
            }
            if verdict.is_ok() {
                believed.push(ms);
            }
        }
        assert!(
            believed.iter().all(|ms| *ms < 12_400),
            "after the second restart it counts as failed: {believed:?}"
        );
        assert!((5..9).contains(&monitor.restarts()), "{}", monitor.restarts());
        // It has worked for long enough.
        let (verdict, _) = monitor.judge(at(200_000), Ok(()), true);
        assert_eq!(verdict, Ok(()));
    }

    #[test]
    fn a_failure_without_restart_is_reported_and_an_administrator_may_always_restart() {
        let mut monitor = ServiceMonitor::default();
        assert_eq!(monitor.judge(at(0), fault(), false), (fault(), false));
        assert!(monitor.begin_restart(at(10)));
        assert!(!monitor.begin_restart(at(20)), "one at a time");
        monitor.restarted();
        assert_eq!((monitor.judge(at(30), Ok(()), false), monitor.restarts()), ((Ok(()), false), 1));
        for n in 1..=9 {
            let _ = monitor.judge(at(n * 1_000), fault(), true);
            monitor.restarted();
        }
        let (verdict, restart) = monitor.judge(at(20_000), fault(), true);
        assert!(verdict.is_err_and(|why| why.contains("restarted too often")) && !restart);
    }
}
