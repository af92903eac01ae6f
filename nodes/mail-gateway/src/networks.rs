//! Networks whose hosts may send without a password.

use std::net::IpAddr;

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
}
