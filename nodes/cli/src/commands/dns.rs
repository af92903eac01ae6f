//! `twinbox dns`: the records of the shared name, from the addresses that the nodes advertise.

use std::path::Path;

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
    let silent: Vec<&str> = nodes.iter().filter(|m| endpoints_of(m).is_empty()).map(|m| m.name.as_str()).collect();
    match silent.is_empty() {
        true => Ok(()),
        false => Err(CliError::Failed(format!(
            "no records for {}: it does not answer; repeat when it runs",
            silent.join(", ")
        ))),
    }
}

fn endpoints_of(member: &Member) -> &[String] {
    member.info.as_ref().map_or(&[], |info| &info.sip)
}

fn endpoints(member: &Member) -> Vec<Endpoint> {
    endpoints_of(member).iter().filter_map(|text| endpoint(member, text)).collect()
}

/// Parses `udp 10.0.0.1:5060`; for a node that listens on all addresses and advertises none, its peer address is
/// used.
pub(super) fn endpoint(member: &Member, text: &str) -> Option<Endpoint> {
    let (transport, address) = text.split_once(' ')?;
    let transport = [Transport::Udp, Transport::Tcp].into_iter().find(|t| t.label() == transport)?;
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let everywhere = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    let host = if everywhere { member.address.rsplit_once(':')?.0 } else { host };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some(Endpoint { node: member.name.clone(), transport, host, port: port.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_that_listens_on_all_addresses_uses_its_peer_address() {
        let member = Member { name: "a".into(), address: "[2001:db8::1]:7070".into(), ..Default::default() };
        let host = |text: &str| endpoint(&member, text).map(|e| (e.host, e.port));
        assert_eq!(host("udp 0.0.0.0:5060"), Some(("2001:db8::1".into(), 5060)));
        assert_eq!(host("tcp 10.0.0.1:5080"), Some(("10.0.0.1".into(), 5080)));
        assert_eq!(host("tls 10.0.0.1:5061"), None);
    }
}
