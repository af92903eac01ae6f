//! A thread's alarm clock on `CLOCK_BOOTTIME`.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::{Errno, read},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    },
};

use crate::BootInstant;

/// Wakes a waiting thread at a given `CLOCK_BOOTTIME`, immediately after a suspend that lasted longer. A sleep does
/// not: its clock stops during a suspend.
#[derive(Debug)]
pub struct BootAlarm(OwnedFd);

impl BootAlarm {
    /// An alarm that is not set. Fails when the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?))
    }

    /// Sets the alarm to `at`: immediately if that is past, never for `None`. Replaces the earlier setting.
    pub fn set(&self, at: Option<BootInstant>) -> io::Result<()> {
        // All zero would mean never.
        let nanos = at.map_or(0, |at| at.as_nanos().max(1));
        let value = Timespec {
            tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (nanos % 1_000_000_000) as _,
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }

    /// Blocks until the alarm expires.
    pub fn wait(&self) -> io::Result<()> {
        let mut times = [0; 8];
        loop {
            match read(&self.0, &mut times) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread, time::Duration};

    use super::*;

    #[test]
    fn alarm_fires_at_its_time_and_immediately_for_a_past_time() {
        let alarm = BootAlarm::new().expect("a descriptor");
        let at = BootInstant::now() + Duration::from_millis(30);
        alarm.set(Some(at)).expect("set");
        alarm.wait().expect("it rings");
        assert!(BootInstant::now() >= at);
        alarm.set(Some(BootInstant::from_nanos(0))).expect("set");
        alarm.wait().expect("it rings");
    }

    #[test]
    fn waiting_thread_is_woken_when_another_thread_sets_the_alarm() {
        let alarm = Arc::new(BootAlarm::new().expect("a descriptor"));
        alarm.set(None).expect("set");
        let waiting = thread::spawn({
            let alarm = alarm.clone();
            move || alarm.wait()
        });
        alarm.set(Some(BootInstant::now())).expect("set");
        waiting.join().expect("no panic").expect("it rings");
    }
}
