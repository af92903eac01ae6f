//! The thread that closes gates whose lease is out. A thread of the operating system, not a task: a hung executor
//! keeps nothing open.

use std::{
    io,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use twinbox_clock::BootInstant;

use crate::Gate;

/// The longest sleep while a gate is open.
const LONGEST_NAP: Duration = Duration::from_millis(20);

/// Watches gates for as long as it lives.
pub(crate) struct Warden(thread::Thread, Arc<()>);

impl Warden {
    pub(crate) fn start(gates: Vec<Gate>) -> io::Result<Self> {
        let alive = Arc::new(());
        let watched = Arc::downgrade(&alive);
        #[cfg(feature = "simulation")]
        if twinbox_clock::simulation::is_on() {
            tokio::spawn(simulated_patrol(gates, watched));
            return Ok(Self(thread::current(), alive));
        }
        let thread = thread::Builder::new().name("lease".to_owned()).spawn(move || patrol(&gates, &watched))?;
        Ok(Self(thread.thread().clone(), alive))
    }

    /// A gate has been opened.
    pub(crate) fn wake(&self) {
        self.0.unpark();
    }
}

fn patrol(gates: &[Gate], alive: &Weak<()>) {
    while alive.strong_count() > 0 {
        let now = BootInstant::now();
        match gates.iter().filter_map(|gate| gate.expire(now)).min() {
            // The sleep runs on a clock that stands still in suspend: short naps, and the check at each
            // write, take care of that.
            Some(left) => thread::park_timeout(left.min(LONGEST_NAP)),
            None => thread::park_timeout(LONGEST_NAP * 50),
        }
    }
    gates.iter().for_each(Gate::abandon);
}

/// Simulated machines share one thread: there a task does it.
#[cfg(feature = "simulation")]
async fn simulated_patrol(gates: Vec<Gate>, alive: Weak<()>) {
    while alive.strong_count() > 0 {
        let now = BootInstant::now();
        for gate in &gates {
            let _ = gate.expire(now);
        }
        tokio::time::sleep(LONGEST_NAP).await;
    }
    gates.iter().for_each(Gate::abandon);
}

impl Drop for Warden {
    fn drop(&mut self) {
        self.1 = Arc::new(());
        self.0.unpark();
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
