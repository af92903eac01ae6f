//! Networks whose hosts may send without a password.

use std::net::{IpAddr, Ipv6Addr};

use twinbox_ids::{Network, NetworkError};

/// A list of networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

impl Networks {
    /// Reads each text as a network, whose address has no bits beyond the prefix.
    pub fn parse<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, NetworkError> {
        texts.into_iter().map(|text| Network::exact(text.as_ref().trim())).collect::<Result<_, _>>().map(Self)
    }

    /// The address belongs to one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

/// The address that counts as one host: an IPv6 host has any number of addresses, all in one /64.
pub(crate) fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn list_contains_what_one_of_its_networks_contains() {
        let networks = Networks::parse(["10.0.0.0/8", " 2001:db8::/32 "]).unwrap();
        assert!(networks.contains(ip("10.1.1.1")) && networks.contains(ip("2001:db8::5")));
        assert!(!networks.contains(ip("192.0.2.1")) && !Networks::default().contains(ip("10.1.1.1")));
        assert!(Networks::parse(["10.1.2.3/8"]).is_err(), "a slip of the prefix trusts no others");
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one_host() {
        assert_eq!(host(ip("2001:db8::1")), host(ip("2001:db8::ffff")));
        assert_ne!(host(ip("2001:db8::1")), host(ip("2001:db8:0:1::1")));
        assert_ne!(host(ip("192.0.2.1")), host(ip("192.0.2.2")));
    }
}
