//! The thread that closes gates with an expired lease. It is an OS thread, not a task: a hung executor keeps no gate
//! open.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use twinbox_clock::{BootAlarm, BootInstant};

use crate::Gate;

/// Poll interval where no alarm is available: on simulated machines, and if the kernel refuses one.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Watches gates as long as it exists.
pub struct GateExpirer(Arc<ExpiryAlarm>);

/// Wakes the thread: at the end of a lease, or on a call of `trigger`.
struct ExpiryAlarm {
    alarm: BootAlarm,
    /// `trigger` was called since the gates were last checked.
    triggered: AtomicBool,
    /// The watch has ended.
    stopped: AtomicBool,
}

impl ExpiryAlarm {
    fn new() -> io::Result<Self> {
        Ok(Self { alarm: BootAlarm::new()?, triggered: AtomicBool::default(), stopped: AtomicBool::default() })
    }

    fn trigger(&self) {
        // The flag before the alarm: a thread that sets another alarm in between reads the flag after that.
        self.triggered.store(true, SeqCst);
        if let Err(error) = self.alarm.set(Some(BootInstant::now())) {
            tracing::error!(%error, "cannot wake the thread that closes gates");
        }
    }

    /// Waits until `at`, or for `None` until `trigger` is called.
    fn wait(&self, at: Option<BootInstant>) -> io::Result<()> {
        self.alarm.set(at)?;
        if self.triggered.load(SeqCst) { Ok(()) } else { self.alarm.wait() }
    }
}

impl GateExpirer {
    /// Starts the thread.
    pub fn start(gates: Vec<Gate>) -> io::Result<Self> {
        let alarm = Arc::new(ExpiryAlarm::new()?);
        let shared = alarm.clone();
        thread::Builder::new().name("lease".to_owned()).spawn(move || expire_gates(&gates, &shared))?;
        Ok(Self(alarm))
    }

    /// The same on a simulated machine, whose processes share one thread: spawn the returned task there.
    #[cfg(feature = "simulation")]
    pub fn simulated(gates: Vec<Gate>) -> io::Result<(Self, impl Future<Output = ()> + Send + 'static)> {
        let alarm = Arc::new(ExpiryAlarm::new()?);
        Ok((Self(alarm.clone()), expire_simulated_gates(gates, alarm)))
    }

    /// A gate has been opened.
    pub fn wake(&self) {
        self.0.trigger();
    }
}

fn expire_gates(gates: &[Gate], alarm: &ExpiryAlarm) {
    while !alarm.stopped.load(SeqCst) {
        alarm.triggered.store(false, SeqCst);
        let now = BootInstant::now();
        let expire = || {
            // A lease renewed meanwhile ends later: then the gate is checked once more.
            let next = gates.iter().filter_map(|gate| gate.expire(now)).min();
            alarm.wait(next).map_err(|error| error.to_string())
        };
        // This thread must not end before its watch does.
        let expired = catch_unwind(AssertUnwindSafe(expire)).unwrap_or_else(|panic| Err(panic_text(&*panic)));
        if let Err(error) = expired {
            tracing::error!(error, "no timer for lease expiry: polling instead");
            thread::sleep(POLL_INTERVAL);
        }
    }
    gates.iter().for_each(Gate::abandon);
}

/// Text of a panic.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "(no message)".to_owned())
}

/// Simulated machines share one thread: there a task closes the gates.
#[cfg(feature = "simulation")]
async fn expire_simulated_gates(gates: Vec<Gate>, alarm: Arc<ExpiryAlarm>) {
    while !alarm.stopped.load(SeqCst) {
        let now = BootInstant::now();
        for gate in &gates {
            let _ = gate.expire(now);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    gates.iter().for_each(Gate::abandon);
}

impl Drop for GateExpirer {
    fn drop(&mut self) {
        self.0.stopped.store(true, SeqCst);
        self.0.trigger();
    }
}

#[cfg(test)]
mod tests {
    use twinbox_ids::Epoch;
    use twinbox_roles_core::Duty;

    use super::*;

    #[test]
    fn a_thread_closes_the_gate_when_no_executor_runs() {
        let gate = Gate::new(Duty::Notifier);
        let holding = gate.holding();
        let expirer = GateExpirer::start(vec![gate.clone()]).expect("a thread");
        let epoch = Epoch { generation: 0, number: 1, node: "a".parse().expect("a name") };
        gate.open(&epoch, BootInstant::now() + Duration::from_millis(30));
        expirer.wake();
        assert!(holding.borrow().is_some());
        let limit = BootInstant::now() + Duration::from_secs(5);
        while holding.borrow().is_some() {
            assert!(BootInstant::now() < limit, "the gate stayed open");
            thread::yield_now();
        }
        assert!(gate.check(&epoch).is_err());
    }
}
