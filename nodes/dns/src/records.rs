//! Records of the shared name for the administrator's zone. A client that resolves this name finds every node and
//! tries the next when one does not answer.

use std::{fmt, net::IpAddr};

use crate::Transport;

/// Address at which a node is reached from outside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Name of the node; becomes a host below the shared name.
    pub node: String,
    /// Transport of the endpoint.
    pub transport: Transport,
    /// An address, or the name of a host that already has records.
    pub host: String,
    /// Port of the endpoint.
    pub port: u16,
}

/// A record of a zone file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Full name, with the final dot.
    pub name: String,
    /// Time to live, in seconds.
    pub ttl: u32,
    /// `A`, `AAAA` or `SRV`.
    pub kind: &'static str,
    /// Text after the kind.
    pub data: String,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} IN {} {}", self.name, self.ttl, self.kind, self.data)
    }
}

/// Records of `name` for these endpoints: an A or AAAA for every address, at the shared name (for clients without
/// SRV) and at a host name of each node, and an SRV for every transport of a node. All have the same priority and
/// weight, because every node takes calls.
pub fn records(name: &str, ttl: u32, endpoints: &[Endpoint]) -> Vec<Record> {
    let name = format!("{}.", name.trim_end_matches('.').to_ascii_lowercase());
    let mut found = Vec::new();
    for endpoint in endpoints {
        let host = match endpoint.host.parse::<IpAddr>() {
            Ok(address) => {
                let host = format!("{}.{name}", endpoint.node);
                let kind = if address.is_ipv4() { "A" } else { "AAAA" };
                for name in [&name, &host] {
                    found.push(Record { name: name.clone(), ttl, kind, data: address.to_string() });
                }
                host
            }
            Err(_) => format!("{}.", endpoint.host.trim_end_matches('.').to_ascii_lowercase()),
        };
        found.push(Record {
            name: format!("_sip._{}.{name}", endpoint.transport.label()),
            ttl,
            kind: "SRV",
            data: format!("10 50 {} {host}", endpoint.port),
        });
    }
    found.sort_by(|a, b| (a.kind, &a.name, &a.data).cmp(&(b.kind, &b.name, &b.data)));
    found.dedup();
    found
}

/// Formats records as lines of a zone file.
pub fn zone(records: &[Record]) -> String {
    let width = records.iter().map(|r| r.name.len()).max().unwrap_or(0);
    records.iter().map(|r| format!("{:width$}  {:>5}  IN  {:<4}  {}\n", r.name, r.ttl, r.kind, r.data)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(node: &str, transport: Transport, host: &str, port: u16) -> Endpoint {
        Endpoint { node: node.to_owned(), transport, host: host.to_owned(), port }
    }

    #[test]
    fn every_node_has_address_and_srv_records_of_the_shared_name() {
        let endpoints = [
            endpoint("a", Transport::Udp, "10.0.0.1", 5060),
            endpoint("a", Transport::Tcp, "10.0.0.1", 5060),
            endpoint("b", Transport::Udp, "2001:db8::2", 5080),
        ];
        let lines: Vec<String> =
            records("VM.example.com", 60, &endpoints).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "a.vm.example.com. 60 IN A 10.0.0.1",
                "vm.example.com. 60 IN A 10.0.0.1",
                "b.vm.example.com. 60 IN AAAA 2001:db8::2",
                "vm.example.com. 60 IN AAAA 2001:db8::2",
                "_sip._tcp.vm.example.com. 60 IN SRV 10 50 5060 a.vm.example.com.",
                "_sip._udp.vm.example.com. 60 IN SRV 10 50 5060 a.vm.example.com.",
                "_sip._udp.vm.example.com. 60 IN SRV 10 50 5080 b.vm.example.com.",
            ]
        );
    }

    #[test]
    fn host_name_of_a_node_is_used_in_srv_records() {
        let found = records("vm.example.com.", 300, &[endpoint("a", Transport::Udp, "Node1.example.net", 5060)]);
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["_sip._udp.vm.example.com. 300 IN SRV 10 50 5060 node1.example.net."]);
        assert!(zone(&found).ends_with("SRV   10 50 5060 node1.example.net.\n"));
    }
}
