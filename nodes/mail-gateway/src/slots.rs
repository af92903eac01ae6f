//! Shares of what all connections have in common: number of connections, and memory for arriving mails.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use twinbox_places::{HostCounts, host};

use crate::limits::Limits;

/// Connections that are open.
#[derive(Default)]
pub(crate) struct Slots(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    counts: HostCounts,
    strangers: usize,
}

impl Slots {
    /// Counts one more connection until the slot is dropped; `None` at a limit.
    pub(crate) fn enter(self: &Arc<Self>, limits: &Limits, address: IpAddr, trusted: bool) -> Option<Slot> {
        let host = host(address);
        let mut taken = self.taken();
        let most = if trusted { limits.connections_per_trusted } else { limits.connections_per_stranger };
        let full = taken.counts.all() >= limits.connections || taken.counts.of(&host) >= most;
        if full || !trusted && taken.strangers >= limits.connections_of_strangers {
            return None;
        }
        taken.counts.add(host);
        taken.strangers += usize::from(!trusted);
        Some(Slot { slots: self.clone(), host, trusted })
    }

    /// Number of connections.
    pub(crate) fn open(&self) -> usize {
        self.taken().counts.all()
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Place of one connection.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    host: IpAddr,
    trusted: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken();
        taken.counts.remove(&self.host);
        taken.strangers = taken.strangers.saturating_sub(usize::from(!self.trusted));
    }
}

/// Memory for arriving mails.
#[derive(Default)]
pub(crate) struct Memory {
    used: AtomicUsize,
    most: usize,
}

impl Memory {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), most })
    }

    /// An empty share.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { memory: self.clone(), held: 0 }
    }
}

/// Memory of one connection, given back when dropped.
pub(crate) struct Share {
    memory: Arc<Memory>,
    held: usize,
}

impl Share {
    /// Holds this many bytes from now on; `false` and no change if that is too much.
    pub(crate) fn hold(&mut self, bytes: usize) -> bool {
        let (held, most) = (self.held, self.memory.most);
        let change = |used: usize| {
            let then = used.saturating_sub(held).saturating_add(bytes);
            (bytes <= held || then <= most).then_some(then)
        };
        let done = self.memory.used.fetch_update(Relaxed, Relaxed, change).is_ok();
        if done {
            self.held = bytes;
        }
        done
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            connections: 5,
            connections_of_strangers: 3,
            connections_per_stranger: 2,
            connections_per_trusted: 4,
            ..Limits::default()
        }
    }

    #[test]
    fn connections_are_limited_per_host_and_in_all_until_they_close() {
        let (slots, limits) = (Arc::new(Slots::default()), limits());
        let enter = |text: &str, trusted| slots.enter(&limits, text.parse().unwrap(), trusted);
        let first = enter("192.0.2.1", false).unwrap();
        let _second = enter("192.0.2.1", false).unwrap();
        assert!(enter("192.0.2.1", false).is_none(), "two for one stranger");
        let _third = enter("2001:db8::1", false).unwrap();
        assert!(enter("192.0.2.2", false).is_none(), "three for all strangers");
        let trusted = enter("10.0.0.1", true).unwrap();
        let _more = enter("10.0.0.1", true).unwrap();
        assert!(enter("10.0.0.2", true).is_none(), "five for all");
        assert_eq!(slots.open(), 5);
        drop((first, trusted));
        assert_eq!(slots.open(), 3);
        assert!(enter("192.0.2.1", false).is_some());
        drop((_second, _third, _more));
        assert!(slots.open() == 0 && slots.taken().counts.is_empty() && slots.taken().strangers == 0);
    }

    #[test]
    fn memory_is_shared_and_given_back() {
        let memory = Memory::new(100);
        let (mut a, mut b) = (memory.share(), memory.share());
        assert!(a.hold(60) && !b.hold(50) && b.hold(40));
        assert!(!a.hold(61) && a.hold(10) && b.hold(90));
        drop(b);
        assert!(a.hold(100));
        drop(a);
        assert_eq!(memory.used.load(Relaxed), 0);
    }
}
