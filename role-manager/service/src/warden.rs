//! The thread that closes gates with an expired lease. It is an OS thread, not a task: a hung executor keeps no gate
//! open.

use std::{
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

use crate::{Gate, watched};

/// Poll interval where no alarm is available: on simulated machines, and if the kernel refuses one.
const NAP: Duration = Duration::from_millis(20);

/// Watches gates as long as it exists.
pub(crate) struct Warden(Arc<Bell>);

/// Wakes the thread: at the end of a lease, or on a call of `ring`.
struct Bell {
    alarm: BootAlarm,
    /// `ring` was called since the gates were last checked.
    rung: AtomicBool,
    /// The watch has ended.
    over: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        // The flag before the alarm: a thread that sets another alarm in between reads the flag after that.
        self.rung.store(true, SeqCst);
        if let Err(error) = self.alarm.set(Some(BootInstant::now())) {
            tracing::error!(%error, "the thread that closes gates cannot be woken");
        }
    }

    /// Waits until `at`, or for `None` until `ring` is called.
    fn wait(&self, at: Option<BootInstant>) -> io::Result<()> {
        self.alarm.set(at)?;
        if self.rung.load(SeqCst) { Ok(()) } else { self.alarm.wait() }
    }
}

impl Warden {
    pub(crate) fn start(gates: Vec<Gate>) -> io::Result<Self> {
        let unset = AtomicBool::default;
        let bell = Arc::new(Bell { alarm: BootAlarm::new()?, rung: unset(), over: unset() });
        #[cfg(feature = "simulation")]
        if twinbox_clock::simulation::is_on() {
            crate::tasks::spawn(simulated_patrol(gates, bell.clone()));
            return Ok(Self(bell));
        }
        let heard = bell.clone();
        thread::Builder::new().name("lease".to_owned()).spawn(move || patrol(&gates, &heard))?;
        Ok(Self(bell))
    }

    /// A gate has been opened.
    pub(crate) fn wake(&self) {
        self.0.ring();
    }
}

fn patrol(gates: &[Gate], bell: &Bell) {
    while !bell.over.load(SeqCst) {
        bell.rung.store(false, SeqCst);
        let now = BootInstant::now();
        let look = || {
            // A lease renewed meanwhile ends later: then the gate is checked once more.
            let next = gates.iter().filter_map(|gate| gate.expire(now)).min();
            bell.wait(next).map_err(|error| error.to_string())
        };
        // This thread must not end before its watch does.
        let looked = catch_unwind(AssertUnwindSafe(look)).unwrap_or_else(|panic| Err(watched::words(&*panic)));
        if let Err(error) = looked {
            tracing::error!(error, "no alarm for the end of a lease: looked for again and again instead");
            thread::sleep(NAP);
        }
    }
    gates.iter().for_each(Gate::abandon);
}

/// Simulated machines share one thread: there a task closes the gates.
#[cfg(feature = "simulation")]
async fn simulated_patrol(gates: Vec<Gate>, bell: Arc<Bell>) {
    while !bell.over.load(SeqCst) {
        let now = BootInstant::now();
        for gate in &gates {
            let _ = gate.expire(now);
        }
        tokio::time::sleep(NAP).await;
    }
    gates.iter().for_each(Gate::abandon);
}

impl Drop for Warden {
    fn drop(&mut self) {
        self.0.over.store(true, SeqCst);
        self.0.ring();
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
        let warden = Warden::start(vec![gate.clone()]).expect("a thread");
        let epoch = Epoch { generation: 0, number: 1, node: "a".parse().expect("a name") };
        gate.open(&epoch, BootInstant::now() + Duration::from_millis(30));
        warden.wake();
        assert!(holding.borrow().is_some());
        let limit = BootInstant::now() + Duration::from_secs(5);
        while holding.borrow().is_some() {
            assert!(BootInstant::now() < limit, "the gate stayed open");
            thread::yield_now();
        }
        assert!(gate.check(&epoch).is_err());
    }
}
