//! The gate: whatever acts on the outside under a duty asks it at each write (rule R6).
//!
//! [`Gate::check`] takes no lock and compares with `CLOCK_BOOTTIME`, so that a lease that is out is out even
//! when nothing of this process has run for a while. An OS thread, not a task, closes gates whose time has
//! come: a hung executor does not keep one open.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use tokio::sync::{Notify, watch};
use twinbox_clock::BootInstant;
use twinbox_ids::Epoch;
use twinbox_roles_core::Duty;

/// The longest sleep of the thread that closes gates while one is open.
const LONGEST_NAP: Duration = Duration::from_millis(20);
/// Nobody may act.
const CLOSED: u64 = 0;

/// This node does not hold the duty (any more), or not in that epoch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this node does not hold the duty '{duty}' in epoch {epoch}: nothing may be sent")]
pub struct NotHolder {
    duty: Duty,
    epoch: Epoch,
}

/// Who may act under a duty, on this node.
#[derive(Clone)]
pub struct Gate(Arc<Door>);

struct Door {
    duty: Duty,
    /// Nanoseconds of boot time at which the lease is out, margin taken off; [`CLOSED`] when it is not held.
    until: AtomicU64,
    generation: AtomicU64,
    number: AtomicU64,
    in_flight: AtomicU64,
    idle: Notify,
    holding: watch::Sender<Option<Epoch>>,
    /// Opening and closing exclude each other; checking does not take part.
    change: Mutex<()>,
}

impl Gate {
    pub(crate) fn new(duty: Duty) -> Self {
        Self(Arc::new(Door {
            duty,
            until: AtomicU64::new(CLOSED),
            generation: AtomicU64::new(0),
            number: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            idle: Notify::new(),
            holding: watch::Sender::new(None),
            change: Mutex::new(()),
        }))
    }

    /// The epoch in which this node holds the duty, `None` while it does not. Start work on `Some`, stop it
    /// on `None`; an epoch may follow another without a `None` between.
    pub fn holding(&self) -> watch::Receiver<Option<Epoch>> {
        self.0.holding.subscribe()
    }

    /// Whether a write may go out now under this epoch. Lock-free; to be asked at each write.
    pub fn check(&self, epoch: &Epoch) -> Result<(), NotHolder> {
        // The end of the lease first: opening closes, then names the epoch, then sets the end.
        let until = self.0.until.load(SeqCst);
        let open = until != CLOSED
            && BootInstant::now().as_nanos() < until
            && self.0.generation.load(SeqCst) == epoch.generation
            && self.0.number.load(SeqCst) == epoch.number;
        if open { Ok(()) } else { Err(NotHolder { duty: self.0.duty, epoch: epoch.clone() }) }
    }

    /// Begins a write that takes a while. The duty is not given up as long as the result lives; ask
    /// [`InFlight::check`] again before each further step.
    pub fn enter(&self, epoch: &Epoch) -> Result<InFlight, NotHolder> {
        // Counted before it is checked: whoever closes the gate and then sees nobody in flight is right.
        self.0.in_flight.fetch_add(1, SeqCst);
        let entered = InFlight { gate: self.clone(), epoch: epoch.clone() };
        self.check(epoch)?;
        Ok(entered)
    }

    /// Lets writes through until `until`.
    pub(crate) fn open(&self, epoch: &Epoch, until: BootInstant) {
        let _change = self.0.change.lock().unwrap_or_else(PoisonError::into_inner);
        let named = (self.0.generation.load(SeqCst), self.0.number.load(SeqCst));
        if named != (epoch.generation, epoch.number) {
            self.0.until.store(CLOSED, SeqCst);
            self.0.generation.store(epoch.generation, SeqCst);
            self.0.number.store(epoch.number, SeqCst);
        }
        self.0.until.store(until.as_nanos(), SeqCst);
        self.0.holding.send_if_modified(|holding| {
            let changed = holding.as_ref() != Some(epoch);
            if changed {
                *holding = Some(epoch.clone());
            }
            changed
        });
    }

    /// Lets nothing through from now on. What is in flight may still be on its way.
    pub(crate) fn close(&self) {
        let _change = self.0.change.lock().unwrap_or_else(PoisonError::into_inner);
        self.shut();
    }

    /// Resolves when nothing is in flight; close first.
    pub(crate) async fn idle(&self) {
        loop {
            let idle = self.0.idle.notified();
            if self.0.in_flight.load(SeqCst) == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Whether writes go through now.
    pub(crate) fn is_open(&self) -> bool {
        BootInstant::now().as_nanos() < self.0.until.load(SeqCst)
    }

    /// Closes the gate if its lease is out; otherwise says when it will be.
    fn expire(&self, now: BootInstant) -> Option<Duration> {
        let _change = self.0.change.lock().unwrap_or_else(PoisonError::into_inner);
        match self.0.until.load(SeqCst) {
            CLOSED => None,
            until if now.as_nanos() < until => Some(Duration::from_nanos(until - now.as_nanos())),
            _ => {
                self.shut();
                None
            }
        }
    }

    fn shut(&self) {
        self.0.until.store(CLOSED, SeqCst);
        self.0.holding.send_if_modified(|holding| holding.take().is_some());
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({}, {:?})", self.0.duty, *self.0.holding.borrow())
    }
}

/// A write that is on its way; see [`Gate::enter`].
#[derive(Debug)]
pub struct InFlight {
    gate: Gate,
    epoch: Epoch,
}

impl InFlight {
    /// Whether the next step may still go out.
    pub fn check(&self) -> Result<(), NotHolder> {
        self.gate.check(&self.epoch)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.gate.0.in_flight.fetch_sub(1, SeqCst) == 1 {
            self.gate.0.idle.notify_waiters();
        }
    }
}

/// The thread that closes gates whose lease is out. It ends with its owner.
pub(crate) struct Warden(thread::Thread, Arc<()>);

impl Warden {
    pub(crate) fn start(gates: Vec<Gate>) -> std::io::Result<Self> {
        let alive = Arc::new(());
        let watched = Arc::downgrade(&alive);
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
    gates.iter().for_each(Gate::close);
}

impl Drop for Warden {
    fn drop(&mut self) {
        self.1 = Arc::new(());
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use twinbox_ids::NodeName;

    use super::*;

    fn epoch(number: u64) -> Epoch {
        let node: NodeName = "a".parse().expect("a name");
        Epoch { generation: 0, number, node }
    }

    fn soon(ms: u64) -> BootInstant {
        BootInstant::now() + Duration::from_millis(ms)
    }

    #[test]
    fn a_gate_lets_through_one_epoch_until_its_lease_is_out() {
        let gate = Gate::new(Duty::Notifier);
        assert!(gate.check(&epoch(1)).is_err());
        gate.open(&epoch(1), soon(60_000));
        assert!(gate.check(&epoch(1)).is_ok());
        assert!(gate.check(&epoch(2)).is_err());
        gate.open(&epoch(2), soon(60_000));
        assert!(gate.check(&epoch(1)).is_err());
        assert!(gate.check(&epoch(2)).is_ok());
        gate.open(&epoch(2), BootInstant::now());
        let error = gate.check(&epoch(2)).unwrap_err().to_string();
        assert!(error.contains("notifier") && error.contains("0.2@a"), "{error}");
    }

    #[tokio::test]
    async fn a_closed_gate_is_idle_when_the_last_write_has_ended() {
        let gate = Gate::new(Duty::Notifier);
        gate.open(&epoch(1), soon(60_000));
        let write = gate.enter(&epoch(1)).expect("open");
        assert!(write.check().is_ok());
        gate.close();
        assert!(write.check().is_err());
        assert!(gate.enter(&epoch(1)).is_err());
        let mut idle = std::pin::pin!(gate.idle());
        assert!(futures::poll!(&mut idle).is_pending());
        drop(write);
        idle.await;
    }

    #[test]
    fn a_thread_closes_the_gate_when_no_executor_runs() {
        let gate = Gate::new(Duty::Notifier);
        let holding = gate.holding();
        let warden = Warden::start(vec![gate.clone()]).expect("a thread");
        gate.open(&epoch(1), soon(30));
        warden.wake();
        assert!(holding.borrow().is_some());
        let limit = soon(5_000);
        while holding.borrow().is_some() {
            assert!(BootInstant::now() < limit, "the gate stayed open");
            thread::yield_now();
        }
        assert!(gate.check(&epoch(1)).is_err());
    }
}
