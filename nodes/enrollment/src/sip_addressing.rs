//! Addresses that `cluster init` writes into the nodes' files in addition to the cluster: SIP addresses of nodes,
//! and permitted callers.

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use twinbox_ids::{Network, NodeName};

/// Port of SIP (RFC 3261).
const SIP_PORT: u16 = 5060;

/// Addresses on the telephone side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SipAddressing {
    /// Address that a node writes into SIP and SDP, if it differs from its source address.
    pub advertise: BTreeMap<NodeName, IpAddr>,
    /// Addresses and networks of the PBX that may call every node; if empty, only the node's own machine may call.
    pub pbx: Vec<Network>,
}

impl SipAddressing {
    /// Refuses a network with address bits beyond its prefix, and an address that no machine has.
    pub(crate) fn check(&self) -> Result<(), String> {
        for network in &self.pbx {
            Network::exact(&network.to_string()).map_err(|error| format!("--pbx: {error}"))?;
        }
        match self.advertise.values().find(|ip| ip.is_unspecified() || ip.is_multicast()) {
            Some(ip) => {
                Err(format!("--sip-advertise: '{ip}' is not of one machine: write the one that callers reach"))
            }
            None => Ok(()),
        }
    }

    /// `[[sip.listener]]`, `[rtp]` and `[[trunk]]` of a node's file. The node listens on IPv6 (and, as Linux does, on IPv4)
    /// if its address there is of IPv6; without one, if that for members or one of the PBX is (`is_ipv6`: that for members).
    pub(crate) fn text(&self, node: &NodeName, is_ipv6: bool) -> String {
        let advertise = self.advertise.get(node);
        let reached_by_ipv6 = || is_ipv6 || self.pbx.iter().any(|network| network.a_host().is_ipv6());
        let ipv6 = advertise.map_or_else(reached_by_ipv6, IpAddr::is_ipv6);
        let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let bind = SocketAddr::new(any, SIP_PORT);
        let mut text = String::new();
        for transport in ["udp", "tcp"] {
            let _ = writeln!(text, "\n[[sip.listener]]\ntransport = \"{transport}\"\nbind = \"{bind}\"");
            if let Some(ip) = advertise {
                let _ = writeln!(text, "advertise = \"{}\"", SocketAddr::new(*ip, SIP_PORT));
            }
        }
        let _ = writeln!(text, "\n[rtp]\nbind = \"{any}\"");
        if let Some(ip) = advertise {
            let _ = writeln!(text, "advertise = \"{ip}\"");
        }
        text.push_str("ports = \"10000-19999\"\n");
        if !self.pbx.is_empty() {
            let networks: Vec<String> = self.pbx.iter().map(|network| format!("\"{network}\"")).collect();
            let _ = writeln!(text, "\n[[trunk]]\nname = \"pbx\"\naddresses = [{}]", networks.join(", "));
        }
        let more = if self.pbx.is_empty() { "# Who may call: the addresses of your PBX." } else { "# Test calls." };
        let own = if ipv6 { "\"127.0.0.0/8\", \"::1\"" } else { "\"127.0.0.0/8\"" };
        let _ = writeln!(text, "\n{more}\n[[trunk]]\nname = \"local\"\naddresses = [{own}]");
        text
    }
}
