//! Networks in CIDR notation (RFC 4632), for lists of permitted addresses.

use std::{fmt, net::IpAddr, str::FromStr};

/// An address or a network in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Error: the text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// The text has another form.
    #[error("'{0}' is not an address or network: write for example 192.0.2.7 or 10.0.0.0/8")]
    Format(String),
    /// The address has bits beyond the prefix.
    #[error("'{0}' has address bits beyond the prefix: write {1}")]
    HostBits(String, Network),
}

impl Network {
    /// Reads a network as [`FromStr`] does, and refuses an address with bits beyond the prefix: in a list of trusted hosts
    /// that may be a slip of the prefix, which would trust others.
    pub fn exact(text: &str) -> Result<Self, NetworkError> {
        let network: Self = text.parse()?;
        let exact = Self { address: masked(network.address, network.bits), ..network };
        if exact == network { Ok(network) } else { Err(NetworkError::HostBits(text.to_owned(), exact)) }
    }

    /// Length of the longest prefix among the networks that contain this address.
    pub fn longest(networks: &[Self], address: IpAddr) -> Option<u8> {
        networks.iter().filter(|network| network.contains(address)).map(|network| network.bits).max()
    }

    /// A host address in the network.
    pub fn a_host(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(net) if self.bits < 31 => IpAddr::V4((net.to_bits() | 1).into()),
            IpAddr::V6(net) if self.bits < 127 => IpAddr::V6((net.to_bits() | 1).into()),
            host => host,
        }
    }

    /// Whether the network contains this address. An IPv4 address mapped into IPv6 counts as the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let same_kind = address.is_ipv4() == self.address.is_ipv4();
        same_kind && masked(address, self.bits) == masked(self.address, self.bits)
    }
}

/// The address with all bits beyond the prefix cleared.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let clear = |bits: u8| u32::from(bits.saturating_sub(prefix));
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(clear(32)).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(clear(128)).unwrap_or(0)).into()),
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = || NetworkError::Format(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            // `u8` would also parse `+8`.
            Some(bits) if !bits.bytes().all(|b| b.is_ascii_digit()) => return Err(error()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_contains_the_addresses_of_its_prefix() {
        let contains = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse::<IpAddr>().unwrap())
        };
        for (network, inside, outside) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("10.1.2.3/31", "10.1.2.2", "10.1.2.4"),
            ("2001:db8::/32", "2001:db8:1::5", "2001:db9::1"),
            ("192.0.2.0/24", "::ffff:192.0.2.9", "::ffff:192.0.3.9"),
            ("::/0", "2001:db8::1", "192.0.2.1"),
        ] {
            assert!(contains(network, inside), "{network} has {inside}");
            assert!(!contains(network, outside), "{network} has not {outside}");
        }
        assert!(contains("0.0.0.0/0", "203.0.113.1") && !contains("0.0.0.0/0", "2001:db8::1"));
        let wrong = ["", "pbx", "/8", "10.0.0/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "::/129"];
        for text in wrong {
            assert!(text.parse::<Network>().unwrap_err().to_string().contains("write for example"), "{text:?}");
        }
    }

    #[test]
    fn address_bits_beyond_the_prefix_are_refused_where_the_network_must_be_exact() {
        for text in ["10.0.0.0/8", "192.0.2.7", "::/0", "2001:db8::/32"] {
            assert_eq!(Network::exact(text), text.parse(), "{text}");
        }
        for (text, remedy) in [("10.1.2.3/8", "write 10.0.0.0/8"), ("2001:db8::1/32", "write 2001:db8::/32")] {
            let error = Network::exact(text).unwrap_err().to_string();
            assert!(error.ends_with(remedy), "{error}");
        }
        assert!(matches!(Network::exact("pbx"), Err(NetworkError::Format(_))));
    }
}
