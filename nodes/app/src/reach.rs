//! What `cluster init` writes into the nodes' files beside the cluster itself: where callers reach a node, and who may
//! call.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

use twinbox_calls::Network;
use twinbox_ids::NodeName;

/// Addresses on the telephone side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// The address that a node puts into SIP and SDP, where it is not the one that it sends from.
    pub advertise: BTreeMap<NodeName, IpAddr>,
    /// Addresses and networks of the PBX that may call every node; without any, only the node's own machine may.
    pub pbx: Vec<Network>,
}

impl Reach {
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
