//! `twinbox dns`: the records of the shared name, from the addresses that the nodes advertise.

use std::{net::IpAddr, path::Path};

use twinbox_dns::{Endpoint, Transport, records, zone};
use twinbox_wire::admin::{ClusterStatusRequest, Member};

use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::DnsCommand;

/// Runs the subcommand.
pub async fn run(socket: &Path, json: bool, command: DnsCommand) -> Result<(), CliError> {
    let DnsCommand::Records { name, ttl } = command;
    if !name.contains('.') || name.parse::<std::net::IpAddr>().is_ok() {
        return Err(CliError::Usage(format!(
            "'{name}' is not a full domain name: write for example voicemail.example.com"
        )));
    }
    let status = client::connect(socket).await?.cluster_status(ClusterStatusRequest {}).await?.into_inner();
    let nodes: Vec<&Member> = status.members.iter().filter(|m| m.kind == "node").collect();
    let endpoints: Vec<Endpoint> = nodes.iter().flat_map(|member| endpoints(member)).collect();
    let found = records(&name, ttl, &endpoints);
    if json {
        let list: Vec<_> = found
            .iter()
            .map(|r| serde_json::json!({ "name": r.name, "ttl": r.ttl, "type": r.kind, "data": r.data }))
            .collect();
        output::json(&serde_json::json!({ "records": list }))?;
    } else {
        print!("{}", zone(&found));
    }
    let names = nodes.iter().map(|member| member.name.as_str());
    let silent: Vec<&str> = names.filter(|name| endpoints.iter().all(|found| found.node != *name)).collect();
    match silent.is_empty() {
        true => Ok(()),
        false => Err(CliError::Failed(format!(
            "no records for {}: it does not answer, or advertises no address of a family on which it listens; repeat \
             when it runs, or set advertise of its sip.listener",
            silent.join(", ")
        ))),
    }
}

fn endpoints(member: &Member) -> Vec<Endpoint> {
    let sip = member.info.as_ref().map_or(&[][..], |info| &info.sip);
    sip.iter().filter_map(|text| endpoint(member, text)).collect()
}

/// Parses `udp 10.0.0.1:5060`; for a node that listens on all addresses and advertises none, its peer address is
/// used, if it listens on addresses of that family.
pub(super) fn endpoint(member: &Member, text: &str) -> Option<Endpoint> {
    let (transport, address) = text.split_once(' ')?;
    let transport = [Transport::Udp, Transport::Tcp].into_iter().find(|t| t.label() == transport)?;
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let everywhere = host.parse::<IpAddr>().ok().filter(IpAddr::is_unspecified);
    let host = if everywhere.is_some() { member.address.rsplit_once(':')?.0 } else { host };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    if everywhere.is_some_and(|ip| ip.is_ipv4()) && host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
        return None;
    }
    Some(Endpoint { node: member.name.clone(), transport, host, port: port.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_that_listens_on_all_addresses_uses_its_peer_address() {
        let member = Member { name: "a".into(), address: "[2001:db8::1]:7070".into(), ..Default::default() };
        let host = |text: &str| endpoint(&member, text).map(|e| (e.host, e.port));
        assert_eq!(host("udp [::]:5060"), Some(("2001:db8::1".into(), 5060)));
        assert_eq!(host("udp 0.0.0.0:5060"), None, "nothing listens there");
        assert_eq!(host("tcp 10.0.0.1:5080"), Some(("10.0.0.1".into(), 5080)));
        assert_eq!(host("tls 10.0.0.1:5061"), None);
    }
}
