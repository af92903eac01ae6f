//! Places of connections: a number in all, and a share of them for one host, so that it does not keep the others out.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Numbers of connections, in all and by host.
#[derive(Debug, Default)]
pub struct HostCounts {
    all: usize,
    /// An entry is at least one.
    of_hosts: HashMap<IpAddr, usize>,
}

impl HostCounts {
    /// Number of connections.
    pub fn all(&self) -> usize {
        self.all
    }

    /// Number of connections with a [`host`].
    pub fn of(&self, host: &IpAddr) -> usize {
        self.of_hosts.get(host).copied().unwrap_or_default()
    }

    /// Counts one more with a [`host`].
    pub fn add(&mut self, host: IpAddr) {
        self.all += 1;
        *self.of_hosts.entry(host).or_default() += 1;
    }

    /// Counts one fewer with a [`host`].
    pub fn remove(&mut self, host: &IpAddr) {
        let Some(count) = self.of_hosts.get_mut(host) else { return };
        self.all -= 1;
        *count -= 1;
        if *count == 0 {
            self.of_hosts.remove(host);
        }
    }

    /// True if no connection is counted, and no host is remembered.
    pub fn is_empty(&self) -> bool {
        self.all == 0 && self.of_hosts.is_empty()
    }
}

/// The connections of a listener that are open.
#[derive(Debug)]
pub struct Places {
    all: usize,
    share: usize,
    taken: Mutex<HostCounts>,
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
        if taken.all() >= self.all || taken.of(&host) >= self.share {
            return None;
        }
        taken.add(host);
        Some(TakenPlace { places: self.clone(), host })
    }

    fn lock(&self) -> MutexGuard<'_, HostCounts> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TakenPlace {
    fn drop(&mut self) {
        self.places.lock().remove(&self.host);
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
        assert!(places.lock().is_empty(), "no entry is left behind");
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
