//! Slots of the handshakes in progress. A machine has a share of them, which is small while slots are short, and some are
//! only for machines of members: other clients do not keep members out.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use twinbox_places::{HostCounts, host};

/// Maximum concurrent handshakes.
pub(crate) const SLOTS: usize = 64;
/// Slots that any machine may take; the rest is for machines of members.
const OPEN: usize = 48;
/// Number of taken slots from which on slots are short.
const SHORT: usize = 32;
/// Maximum concurrent handshakes with one machine. Members may share an address.
const SHARE: usize = 16;
/// The same while slots are short.
const SMALL_SHARE: usize = 4;
/// Maximum number of machines that are known as those of members.
const KNOWN: usize = 64;

/// The slots of a listener.
#[derive(Default)]
pub(crate) struct HandshakeSlots(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    /// Handshakes in progress.
    counts: HostCounts,
    /// Machines from which a member connected in this process, the latest last.
    members: Vec<IpAddr>,
}

/// The slot of a handshake, taken until this value is dropped.
pub(crate) struct HandshakeSlot {
    slots: Arc<HandshakeSlots>,
    machine: IpAddr,
}

impl HandshakeSlots {
    /// Takes a slot for a client at this address; `None` if its machine has its share, or none is left for it.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<HandshakeSlot> {
        let machine = host(address);
        let mut taken = self.lock();
        if taken.counts.of(&machine) >= taken.share(&machine) {
            return None;
        }
        taken.counts.add(machine);
        Some(HandshakeSlot { slots: self.clone(), machine })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Maximum concurrent handshakes with this machine now.
    fn share(&self, machine: &IpAddr) -> usize {
        match self.counts.all() {
            0..SHORT => SHARE,
            SHORT..OPEN => SMALL_SHARE,
            OPEN..SLOTS if self.members.contains(machine) => SMALL_SHARE,
            _ => 0,
        }
    }
}

impl HandshakeSlot {
    /// Notes that the client has shown a member's certificate.
    pub(crate) fn note_member(&self) {
        let mut taken = self.slots.lock();
        taken.members.retain(|known| *known != self.machine);
        if taken.members.len() == KNOWN {
            taken.members.remove(0);
        }
        taken.members.push(self.machine);
    }
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        self.slots.lock().counts.remove(&self.machine);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes slots for this address until none is left for it.
    fn fill(slots: &Arc<HandshakeSlots>, address: &str) -> Vec<HandshakeSlot> {
        let address = address.parse().expect("an address");
        std::iter::from_fn(|| slots.take(address)).collect()
    }

    #[test]
    fn share_of_a_machine_is_small_while_slots_are_short_and_the_last_slots_are_for_members() {
        let slots = Arc::new(HandshakeSlots::default());
        let mut taken = Vec::new();
        for (address, share) in [
            ("10.0.0.1", 16),
            // The same machine.
            ("::ffff:10.0.0.1", 0),
            ("2001:db8::1", 16),
            ("2001:db8::ffff:2", 0),
            ("2001:db8:0:1::1", 4),
            ("10.0.0.2", 4),
            ("10.0.0.3", 4),
        ] {
            let of_machine = fill(&slots, address);
            assert_eq!(of_machine.len(), share, "{address}");
            taken.extend(of_machine);
        }
        let member = fill(&slots, "10.0.0.4");
        assert_eq!(member.len(), 4);
        member[0].note_member();
        drop(member);
        // Any machine takes the rest that is open.
        taken.extend(fill(&slots, "10.0.0.5"));
        assert_eq!((fill(&slots, "10.0.0.6").len(), fill(&slots, "10.0.0.4").len()), (0, 4));
        drop(taken);
        assert_eq!(fill(&slots, "10.0.0.6").len(), 16);
        assert!(slots.lock().counts.is_empty(), "no entry is left behind");
    }

    #[test]
    fn latest_machines_of_members_are_known() {
        let slots = Arc::new(HandshakeSlots::default());
        let machine = |number: u8| IpAddr::from([10, 0, 0, number]);
        for number in (0..=KNOWN as u8).chain([1]) {
            slots.take(machine(number)).expect("a slot").note_member();
        }
        let expected: Vec<_> = (2..=KNOWN as u8).chain([1]).map(machine).collect();
        assert_eq!(slots.lock().members, expected);
    }
}
