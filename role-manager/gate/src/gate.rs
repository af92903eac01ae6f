//! The gate: every external write under a duty checks it first (rule R6).
//!
//! [`Gate::check`] takes no lock and compares with `CLOCK_BOOTTIME`, so that a lease expires even when this process has
//! not run for a while. An OS thread, not a task, closes expired gates (`expirer.rs`): a hung executor keeps none
//! open. Connections and processes that a duty writes to belong to the gate (`owned.rs`) and end with the lease.

use std::{
    any::Any,
    fmt,
    os::fd::{AsFd, BorrowedFd},
    process,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use tokio::sync::{Notify, watch};
use twinbox_clock::BootInstant;
use twinbox_ids::Epoch;
use twinbox_roles_core::Duty;

use crate::owned::{Effect, Effects, OwnError, Owned};

/// No write may go out.
const CLOSED: u64 = 0;

/// This node does not hold the duty, or not in that epoch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this node does not hold the duty '{duty}' in epoch {epoch}: nothing may be sent")]
pub struct NotHolder {
    duty: Duty,
    epoch: Epoch,
}

/// Gate of a duty on this node.
#[derive(Clone)]
pub struct Gate(Arc<GateState>);

struct GateState {
    duty: Duty,
    /// End of the lease in nanoseconds of boot time, less the margin; [`CLOSED`] when it is not held.
    until: AtomicU64,
    /// End of the lease for owned resources. It stays when the gate is closed early, so that writes in flight may
    /// finish until then.
    last: AtomicU64,
    owned: Effects,
    generation: AtomicU64,
    number: AtomicU64,
    in_flight: AtomicU64,
    idle: Notify,
    holding: watch::Sender<Option<Epoch>>,
    /// Serializes opening and closing; checking takes no lock.
    change: Mutex<()>,
}

impl Gate {
    /// A closed gate of this duty.
    pub fn new(duty: Duty) -> Self {
        Self(Arc::new(GateState {
            duty,
            until: AtomicU64::new(CLOSED),
            last: AtomicU64::new(CLOSED),
            owned: Effects::default(),
            generation: AtomicU64::new(0),
            number: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            idle: Notify::new(),
            holding: watch::Sender::new(None),
            change: Mutex::new(()),
        }))
    }

    /// The epoch in which this node holds the duty, `None` while it does not. Start work on `Some`, stop it on `None`;
    /// an epoch may follow another without a `None` between.
    pub fn holding(&self) -> watch::Receiver<Option<Epoch>> {
        self.0.holding.subscribe()
    }

    /// Whether a write may go out now under this epoch. Lock-free; check before each write.
    pub fn check(&self, epoch: &Epoch) -> Result<(), NotHolder> {
        // The end of the lease first: opening closes, then names the epoch, then sets the end.
        let until = self.0.until.load(SeqCst);
        let open = until != CLOSED
            && BootInstant::now().as_nanos() < until
            && self.0.generation.load(SeqCst) == epoch.generation
            && self.0.number.load(SeqCst) == epoch.number;
        if open { Ok(()) } else { Err(NotHolder { duty: self.0.duty, epoch: epoch.clone() }) }
    }

    /// Resolves when this node does not hold the duty in this epoch any more: its release has begun, or its lease has
    /// expired.
    pub async fn lost(&self, epoch: &Epoch) {
        let mut holding = self.holding();
        // The gate lives as long as this future: there is always a sender.
        let _ = holding.wait_for(|held| held.as_ref() != Some(epoch)).await;
    }

    /// Begins a write that takes a while. The duty is not released while the permit exists; call [`Permit::check`]
    /// again before each further step.
    pub fn enter(&self, epoch: &Epoch) -> Result<Permit, NotHolder> {
        // Counted before the check: a thread that closes the gate and then sees nothing in flight is right.
        self.0.in_flight.fetch_add(1, SeqCst);
        let permit = Permit { gate: self.clone(), epoch: epoch.clone() };
        self.check(epoch)?;
        Ok(permit)
    }

    /// Gives the gate a connection that only this duty writes to. At the end of the lease it is reset, whatever the
    /// state of the executor, and its queued data is not sent. The duty is not released while the result exists.
    pub fn own_socket(&self, epoch: &Epoch, socket: &impl AsFd) -> Result<Owned, OwnError> {
        self.own(epoch, Effect::socket(socket.as_fd())?)
    }

    /// Gives the gate a child process that acts only for this duty. At the end of the lease it is killed, whatever the
    /// state of the executor. The duty is not released while the result exists: drop it after waiting for the child.
    pub fn own_child(&self, epoch: &Epoch, child: &process::Child) -> Result<Owned, OwnError> {
        self.own(epoch, Effect::child(child.id())?)
    }

    fn own(&self, epoch: &Epoch, effect: Effect) -> Result<Owned, OwnError> {
        let permit = self.enter(epoch).inspect_err(|_| effect.end())?;
        let owned = Owned::new(permit, effect);
        // The lease may have ended between the two: then nothing else ends this resource.
        match owned.check() {
            Ok(()) => Ok(owned),
            Err(not_holder) => {
                owned.end();
                Err(not_holder.into())
            }
        }
    }

    pub(crate) fn effects(&self) -> &Effects {
        &self.0.owned
    }

    /// Lets writes through until `until`.
    pub fn open(&self, epoch: &Epoch, until: BootInstant) {
        let _change = self.0.change.lock().unwrap_or_else(PoisonError::into_inner);
        let named = (self.0.generation.load(SeqCst), self.0.number.load(SeqCst));
        if named != (epoch.generation, epoch.number) {
            self.0.until.store(CLOSED, SeqCst);
            self.0.generation.store(epoch.generation, SeqCst);
            self.0.number.store(epoch.number, SeqCst);
        }
        self.0.last.fetch_max(until.as_nanos(), SeqCst);
        self.0.until.store(until.as_nanos(), SeqCst);
        self.0.holding.send_if_modified(|holding| {
            let changed = holding.as_ref() != Some(epoch);
            if changed {
                *holding = Some(epoch.clone());
            }
            changed
        });
    }

    /// Lets no write through from now on. Writes in flight may still go on.
    pub fn close(&self) {
        let _change = self.0.change.lock().unwrap_or_else(PoisonError::into_inner);
        self.shut();
    }

    /// Resolves when nothing is in flight; close first.
    pub async fn idle(&self) {
        loop {
            let idle = self.0.idle.notified();
            if self.0.in_flight.load(SeqCst) == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Whether a write is in flight.
    pub fn is_busy(&self) -> bool {
        self.0.in_flight.load(SeqCst) > 0
    }

    /// Whether writes go through now.
    pub fn is_open(&self) -> bool {
        BootInstant::now().as_nanos() < self.0.until.load(SeqCst)
    }

    /// Closes the gate and ends its resources if its lease has expired; otherwise returns the time of expiry.
    pub(crate) fn expire(&self, now: BootInstant) -> Option<BootInstant> {
        let _change = self.0.change.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now.as_nanos();
        match self.0.until.load(SeqCst) {
            until if now < until => return Some(BootInstant::from_nanos(until)),
            CLOSED => {}
            _ => self.shut(),
        }
        if self.0.owned.is_empty() {
            return None;
        }
        match self.0.last.load(SeqCst) {
            last if now < last => Some(BootInstant::from_nanos(last)),
            _ => {
                self.0.owned.end_all();
                None
            }
        }
    }

    /// Closes forever and ends the gate's resources immediately: the lease is no longer renewed.
    pub(crate) fn abandon(&self) {
        self.close();
        self.0.owned.end_all();
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

/// Permit for a write in one epoch of a duty; see [`Gate::enter`]. The write is in flight while it exists.
#[derive(Debug)]
pub struct Permit {
    gate: Gate,
    epoch: Epoch,
}

impl Permit {
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The epoch of this write, to be sent along: a receiver recognizes a previous holder by it.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The check alone, for a part that knows no gate and asks at each datagram, retransmissions included. It may outlive
    /// the write, and delays no release.
    pub fn guard(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let (gate, epoch) = (self.gate.clone(), self.epoch.clone());
        move || gate.check(&epoch).is_ok()
    }

    /// Gives the gate a connection, as [`Gate::own_socket`] does, in the epoch of this write.
    pub fn own_socket(&self, socket: &impl AsFd) -> Result<Owned, OwnError> {
        self.gate.own_socket(&self.epoch, socket)
    }

    /// The same for a client of a protocol, which knows no gate: it keeps the result as long as the connection. `None`: the
    /// gate has not taken the connection, and nothing may be written to it.
    pub fn own_opaque(&self, socket: BorrowedFd<'_>) -> Option<Box<dyn Any + Send>> {
        self.own_socket(&socket).ok().map(|owned| Box::new(owned) as Box<dyn Any + Send>)
    }

    /// Whether the next step may still go out.
    pub fn check(&self) -> Result<(), NotHolder> {
        self.gate.check(&self.epoch)
    }

    /// Resolves as [`Gate::lost`] does: what has not begun to leave by then stays here.
    pub async fn lost(&self) {
        self.gate.lost(&self.epoch).await;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.gate.0.in_flight.fetch_sub(1, SeqCst) == 1 {
            self.gate.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
    fn guard_of_a_write_outlives_it_without_delaying_the_release() {
        let gate = Gate::new(Duty::Notifier);
        gate.open(&epoch(1), soon(60_000));
        let permit = gate.enter(&epoch(1)).expect("open");
        assert_eq!(permit.epoch(), &epoch(1));
        let guard = permit.guard();
        drop(permit);
        assert!(guard() && !gate.is_busy());
        gate.close();
        assert!(!guard(), "released");
        gate.open(&epoch(2), soon(60_000));
        assert!(!guard(), "another epoch");
    }

    #[test]
    fn a_gate_permits_one_epoch_until_its_lease_expires() {
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

    #[tokio::test]
    async fn write_in_flight_learns_of_the_release_and_of_another_epoch() {
        let gate = Gate::new(Duty::Notifier);
        gate.open(&epoch(1), soon(60_000));
        let write = gate.enter(&epoch(1)).expect("open");
        let mut lost = std::pin::pin!(write.lost());
        assert!(futures::poll!(&mut lost).is_pending());
        gate.close();
        lost.await;
        gate.open(&epoch(2), soon(60_000));
        write.lost().await;
    }
}
