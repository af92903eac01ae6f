//! Access control: a list of trunks, by address and transport (rule S3).

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use twinbox_sip::digest::Credentials;

use crate::{Transport, TrunkConfig, wire::Flow};

/// An address or a network in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Error: the text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no address or network: write for example 192.0.2.7 or 10.0.0.0/8")]
pub struct NetworkError(String);

impl Network {
    /// A host address in the network.
    pub(crate) fn a_host(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(net) if self.bits < 31 => IpAddr::V4((net.to_bits() | 1).into()),
            IpAddr::V6(net) if self.bits < 127 => IpAddr::V6((net.to_bits() | 1).into()),
            host => host,
        }
    }

    /// Whether the network contains this address. An IPv4 address mapped into IPv6 counts as the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                net.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                net.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = || NetworkError(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|&b| b <= most).ok_or_else(error)?,
            None => most,
        };
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// A configured trunk with its credentials.
pub(crate) struct Trunk {
    pub(crate) config: TrunkConfig,
    pub(crate) credentials: Option<Credentials>,
}

impl Trunk {
    /// Whether requests from this address and transport belong to this trunk.
    pub(crate) fn covers(&self, address: IpAddr, transport: Transport) -> bool {
        self.config.transport.is_none_or(|t| t == transport)
            && self.config.addresses.iter().any(|network| network.contains(address))
    }

    /// Credentials for a challenge on this flow: `None` if the flow leads to a host outside of the trunk, since a
    /// Contact or a route can name any host.
    pub(crate) fn credentials_for(&self, flow: &Flow) -> Option<&Credentials> {
        self.credentials.as_ref().filter(|_| self.covers(flow.remote().ip(), flow.transport()))
    }
}

/// All trunks.
pub(crate) struct Access(Vec<Arc<Trunk>>);

impl Access {
    /// Creates the trunks of the configuration.
    pub(crate) fn new(trunks: &[TrunkConfig]) -> Self {
        let trunk = |config: &TrunkConfig| {
            let credentials = config.username.clone().zip(config.password.clone());
            let credentials = credentials.map(|(username, password)| Credentials { username, password });
            Arc::new(Trunk { config: config.clone(), credentials })
        };
        Self(trunks.iter().map(trunk).collect())
    }

    /// The trunk of a request from this address and transport.
    pub(crate) fn find(&self, address: IpAddr, transport: Transport) -> Option<&Arc<Trunk>> {
        self.0.iter().find(|trunk| trunk.covers(address, transport))
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Trunk>> {
        self.0.iter().find(|trunk| trunk.config.name == name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Trunk>> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_their_bits_say() {
        let contains = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse::<IpAddr>().unwrap())
        };
        for (network, inside, outside) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("10.1.2.3/31", "10.1.2.2", "10.1.2.4"),
            ("2001:db8::/32", "2001:db8:1::5", "2001:db9::1"),
            ("192.0.2.0/24", "::ffff:192.0.2.9", "::ffff:192.0.3.9"),
        ] {
            assert!(contains(network, inside), "{network} has {inside}");
            assert!(!contains(network, outside), "{network} has not {outside}");
        }
        assert!(contains("0.0.0.0/0", "203.0.113.1") && !contains("0.0.0.0/0", "2001:db8::1"));
        for text in ["", "pbx", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "::/129"] {
            assert!(text.parse::<Network>().unwrap_err().to_string().contains("write for example"), "{text:?}");
        }
    }
}
