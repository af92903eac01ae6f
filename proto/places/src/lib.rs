//! Places of connections: a number in all, and a share of them for one host, so that it does not keep the others out.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The connections of a listener that are open.
#[derive(Debug)]
pub struct Places {
    all: usize,
    share: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Connections by host; an entry is at least one.
    hosts: HashMap<IpAddr, usize>,
}

/// The place of a connection, taken until this value is dropped.
#[derive(Debug)]
pub struct TakenPlace {
    places: Arc<Places>,
    host: IpAddr,
}

impl Places {
    /// No place is taken of this number in all, and of this share for one host. Clients behind one NAT are one host.
    pub fn new(all: usize, share: usize) -> Arc<Self> {
        Arc::new(Self { all, share, taken: Mutex::default() })
    }

    /// Takes a place for a client at this address; `None` if its host has its share, or none is left.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<TakenPlace> {
        let host = host(address);
        let mut taken = self.lock();
        let of_host = taken.hosts.get(&host).copied().unwrap_or_default();
        if taken.all >= self.all || of_host >= self.share {
            return None;
        }
        taken.all += 1;
        taken.hosts.insert(host, of_host + 1);
        Some(TakenPlace { places: self.clone(), host })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TakenPlace {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(count) = taken.hosts.get_mut(&self.host) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.hosts.remove(&self.host);
            }
        }
    }
}

/// The address that counts as one host: an IPv6 host has any number of addresses, all in one /64.
pub fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Takes places for this address until none is left for it.
    fn fill(places: &Arc<Places>, address: &str) -> Vec<TakenPlace> {
        std::iter::from_fn(|| places.take(ip(address))).collect()
    }

    #[test]
    fn one_host_leaves_places_to_others_until_all_are_taken() {
        let places = Places::new(256, 64);
        let mut taken = Vec::new();
        for (address, share) in [
            ("192.0.2.1", 64),
            // The same host.
            ("::ffff:192.0.2.1", 0),
            ("2001:db8::1", 64),
            ("2001:db8::ffff:2", 0),
            ("2001:db8:0:1::1", 64),
            ("192.0.2.2", 64),
            ("192.0.2.3", 0),
        ] {
            let of_host = fill(&places, address);
            assert_eq!(of_host.len(), share, "{address}");
            taken.extend(of_host);
        }
        drop(taken);
        assert_eq!(fill(&places, "192.0.2.3").len(), 64);
        let left = places.lock();
        assert!(left.hosts.is_empty() && left.all == 0, "no entry is left behind");
    }

    #[test]
    fn host_whose_share_is_all_may_take_every_place() {
        assert_eq!(fill(&Places::new(256, 256), "192.0.2.1").len(), 256);
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one_host() {
        assert_eq!(host(ip("2001:db8::1")), host(ip("2001:db8::ffff")));
        assert_ne!(host(ip("2001:db8::1")), host(ip("2001:db8:0:1::1")));
        assert_ne!(host(ip("192.0.2.1")), host(ip("192.0.2.2")));
    }
}
