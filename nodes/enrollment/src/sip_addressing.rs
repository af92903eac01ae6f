//! Addresses that `cluster init` writes into the nodes' files in addition to the cluster: SIP addresses of nodes,
//! and permitted callers.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

use twinbox_ids::{Network, NodeName};

/// Addresses on the telephone side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SipAddressing {
    /// Address that a node writes into SIP and SDP, if it differs from its source address.
    pub advertise: BTreeMap<NodeName, IpAddr>,
    /// Addresses and networks of the PBX that may call every node; if empty, only the node's own machine may call.
    pub pbx: Vec<Network>,
}

impl SipAddressing {
    /// `[[sip.listener]]`, `[rtp]` and `[[trunk]]` of a node's file.
    pub(crate) fn text(&self, node: &NodeName) -> String {
        let advertise = self.advertise.get(node);
        let mut text = String::new();
        for transport in ["udp", "tcp"] {
            let _ = writeln!(text, "\n[[sip.listener]]\ntransport = \"{transport}\"\nbind = \"0.0.0.0:5060\"");
            if let Some(ip) = advertise {
                let _ = writeln!(text, "advertise = \"{}\"", std::net::SocketAddr::new(*ip, 5060));
            }
        }
        text.push_str("\n[rtp]\nbind = \"0.0.0.0\"\n");
        if let Some(ip) = advertise {
            let _ = writeln!(text, "advertise = \"{ip}\"");
        }
        text.push_str("ports = \"10000-19999\"\n");
        if !self.pbx.is_empty() {
            let networks: Vec<String> = self.pbx.iter().map(|network| format!("\"{network}\"")).collect();
            let _ = writeln!(text, "\n[[trunk]]\nname = \"pbx\"\naddresses = [{}]", networks.join(", "));
        }
        let more = if self.pbx.is_empty() { "# Who may call: the addresses of your PBX." } else { "# Test calls." };
        let _ = writeln!(text, "\n{more}\n[[trunk]]\nname = \"local\"\naddresses = [\"127.0.0.0/8\"]");
        text
    }
}
