//! Addresses at which members of a cluster reach each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest name that DNS carries (RFC 1035).
const LONGEST_NAME: usize = 253;

/// Error: the text is no address at which other members reach a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberAddressError {
    /// The text has another form.
    #[error("'{0}' is not HOST:PORT: write for example 10.0.0.1:7070, [2001:db8::1]:7070 or b.example.com:7070")]
    Format(String),
    /// A socket listens there, and no other machine can connect to it.
    #[error("'{0}' is no address of one machine: write the address at which the other members reach it")]
    NotOneHost(String),
}

/// Checks an address that is given to a new member: a name or an address of one host, and a port other than 0. Looks no
/// name up.
pub fn check_member_address(text: &str) -> Result<(), MemberAddressError> {
    let error = || MemberAddressError::Format(text.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
    // `u16` would also parse `+7070`.
    let port_is_valid =
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|number| number != 0);
    if !port_is_valid {
        return Err(error());
    }
    let address = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => IpAddr::V6(inner.parse::<Ipv6Addr>().map_err(|_| error())?),
        None => match host.parse::<Ipv4Addr>() {
            Ok(address) => IpAddr::V4(address),
            Err(_) if is_host_name(host) => return Ok(()),
            Err(_) => return Err(error()),
        },
    };
    if address.is_unspecified() || address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(MemberAddressError::NotOneHost(text.to_owned()));
    }
    Ok(())
}

/// Labels of letters, digits, `-` and `_` (names of containers have it), the last one not a number: resolvers read `10.1`
/// as an address.
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && !label.starts_with('-') && label.bytes().all(valid)
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= LONGEST_NAME && name.split('.').all(is_label) && !last.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_of_a_member_is_one_host_and_a_port() {
        let valid = "10.0.0.1:7070|127.0.0.1:1|[2001:db8::1]:65535|b:7070|b_1:7070|4b.example.com.:7070";
        for text in valid.split('|') {
            assert_eq!(check_member_address(text), Ok(()), "{text}");
        }
        let other_forms = "|b|:7070|b:|b:0|b:+1|b:65536|a b:7070|a\"b:7070|a@b:7070|-b:7070|b..c:7070|10.0.1:7070|\
                           ::1:7070|[::1:7070|[b]:7070|[fe80::1%eth0]:7070|b\u{f6}.example:7070";
        for text in other_forms.split('|') {
            assert_eq!(check_member_address(text), Err(MemberAddressError::Format(text.to_owned())), "{text}");
        }
        for text in ["0.0.0.0:7070", "[::]:7070", "224.0.0.1:7070", "[ff02::1]:7070", "255.255.255.255:7070"] {
            assert_eq!(check_member_address(text), Err(MemberAddressError::NotOneHost(text.to_owned())), "{text}");
        }
    }
}
