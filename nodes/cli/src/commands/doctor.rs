//! `twinbox doctor`: checks for common faults and shows remedies.
//!
//! This module collects observations; `findings` derives findings from them. The checks are the same whether the node
//! runs or not, except that ports are tested only while the node does not use them.

mod config_files;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use twinbox_cluster_settings::Property;
use twinbox_config::{ClusterConfig, Config, ConfigError, NodeConfig, WitnessConfig, members_file};
use twinbox_diagnostics::{
    doctor::{
        findings::{self, Finding},
        mail, observe, probe,
    },
    folder::Owner,
};
use twinbox_dns::Transport;
use twinbox_wire::{
    admin::{ClusterStatusReply, ClusterStatusRequest, Member, NodeInfoReply},
    settings::{SettingListRequest, TrunkListReply, TrunkListRequest},
};

use self::config_files::ConfigFiles;
use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::DoctorArgs;

/// Report of all checks.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Configuration files of the examined members; the last one is being examined.
    examined: Vec<PathBuf>,
    checked: Vec<&'static str>,
    findings: Vec<OfMember>,
}

/// A finding, and the configuration file of the member to which it belongs.
#[derive(Debug, Serialize)]
struct OfMember {
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<PathBuf>,
    #[serde(flatten)]
    finding: Finding,
}

impl Report {
    /// Records that an area was checked, and its findings.
    fn add(&mut self, area: &'static str, findings: impl IntoIterator<Item = Finding>) {
        self.mark_checked(area);
        for finding in findings {
            self.mark_checked(finding.area);
            self.findings.push(OfMember { config: self.examined.last().cloned(), finding });
        }
    }

    fn mark_checked(&mut self, area: &'static str) {
        if !self.checked.contains(&area) {
            self.checked.push(area);
        }
    }
}

/// Checks, reports, and fails if there is a finding.
pub async fn run(json: bool, args: DoctorArgs) -> Result<(), CliError> {
    let found = match &args.config {
        Some(config) => ConfigFiles { configs: vec![config.clone()], origin: String::new() },
        None => config_files::configs(),
    };
    let mut report = Report::default();
    for config in &found.configs {
        report.examined.push(config.clone());
        member(config, &args, &mut report).await;
    }
    if found.configs.is_empty() {
        let remedy = "name the member's file: 'twinbox doctor --config FILE'";
        report.add("configuration", [Finding::new("configuration", found.origin.as_str(), remedy)]);
    }
    if json {
        output::json(&report)?;
    } else {
        print(&found, &report);
    }
    match report.findings.len() {
        0 => Ok(()),
        1 => Err(CliError::Failed("1 finding".to_owned())),
        n => Err(CliError::Failed(format!("{n} findings"))),
    }
}

fn print(found: &ConfigFiles, report: &Report) {
    if !found.origin.is_empty() && !found.configs.is_empty() {
        println!("{}:", found.origin);
        found.configs.iter().for_each(|config| println!("  {}", config.display()));
    }
    if report.findings.is_empty() {
        println!("checked {}: no problem found", report.checked.join(", "));
        return;
    }
    // A single member needs no column to distinguish it.
    let several = report.examined.len() > 1;
    let mut header = vec!["AREA", "WHAT IS WRONG", "REMEDY"];
    if several {
        header.insert(0, "MEMBER'S FILE");
    }
    let row = |OfMember { config, finding: f }: &OfMember| {
        let config = config.iter().filter(|_| several).map(|config| config.display().to_string());
        config.chain([f.area.to_owned(), f.what.clone(), f.remedy.clone()]).collect()
    };
    println!("{}", output::table(&header, report.findings.iter().map(row)));
}

/// Examines the member with this file.
async fn member(file: &Path, args: &DoctorArgs, report: &mut Report) {
    match Config::load(file) {
        Ok(Config::Node(config)) => {
            report.mark_checked("configuration");
            node(&config, args, report).await;
        }
        Ok(Config::Witness(config)) => {
            report.mark_checked("configuration");
            witness(&config, args.timeout, report).await;
        }
        Err(error) => mistakes(file, &error, report).await,
    }
}

/// Reports the mistakes of an unusable file, and the status of a node that still runs with an earlier file.
async fn mistakes(file: &Path, error: &ConfigError, report: &mut Report) {
    let found = error.mistakes().map(|(key, words)| findings::mistake(file, key, words));
    report.add("configuration", found);
    if let Ok(Some(socket)) = Config::admin_socket(file)
        && let Some(status) = ask(&socket).await
    {
        members(&status, report);
    }
}

async fn node(config: &NodeConfig, args: &DoctorArgs, report: &mut Report) {
    let cluster = &config.cluster;
    let owner = Owner { member: config.name.clone(), cluster: Some(cluster.id) };
    disk("node.data_dir", &config.data_dir, &owner, config.reserve_bytes, report);
    certificates(cluster, report);
    report.add("limits", findings::open_files(observe::most_open_files(), config.calls.max_calls as u64));
    // The file has no mistakes, so its RTP range is sufficient for sip.max_calls.
    report.mark_checked("rtp");
    let status = ask(&config.admin_socket).await;
    match &status {
        Some(status) => {
            members(status, report);
            settings(config, report).await;
        }
        None => {
            report.add("node", [not_running(&config.admin_socket)]);
            ports(&own_ports(config), report);
        }
    }
    let others = others(cluster, &config.name, status.as_ref());
    let mut nodes = ask_others(cluster, &others, args.timeout, report).await;
    if let Some(own) = status.as_ref().and_then(|s| s.members.iter().find(|m| m.name == config.name.as_str())) {
        nodes.push(own.clone());
    }
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    advertised(config, &nodes, args.timeout, report).await;
    trunks(config, status.is_some(), args.timeout, report).await;
    if let Some(name) = &args.name {
        if status.is_none() {
            // The node does not run and cannot report its addresses.
            let sip = config.calls.listeners.iter().map(|l| l.external_address()).collect();
            nodes.push(described(config.name.as_str(), &own_address(cluster, &config.name), sip));
        }
        shared_name(config, name, &nodes, report).await;
    }
}

async fn witness(config: &WitnessConfig, timeout: Duration, report: &mut Report) {
    let owner = Owner { member: config.name.clone(), cluster: None };
    disk("witness.data_dir", &config.data_dir, &owner, 0, report);
    if let Err(why) = twinbox_app::ask_witness(config, timeout).await {
        let what = format!("the witness does not answer: {why}");
        let remedy = "start it (systemctl start twinbox-witness, or 'twinbox witness --config FILE') and check its log; \
                      once removed from a cluster: take its section out of the file, or the witness off this machine";
        report.add("node", [Finding::new("node", what, remedy)]);
        let binds: Vec<_> =
            config.clusters.iter().map(|cluster| ("[[cluster]] bind", Transport::Tcp, cluster.bind)).collect();
        ports(&binds, report);
    }
    for cluster in &config.clusters {
        certificates(cluster, report);
        ask_others(cluster, &others(cluster, &config.name, None), timeout, report).await;
    }
}

async fn ask(socket: &Path) -> Option<ClusterStatusReply> {
    let mut client = client::connect(socket).await.ok()?;
    client.cluster_status(ClusterStatusRequest {}).await.ok().map(tonic::Response::into_inner)
}

/// Reports values of the file that have no effect, because the cluster has others.
async fn settings(config: &NodeConfig, report: &mut Report) {
    let Ok(mut client) = client::settings(&config.admin_socket).await else { return };
    // A node of an earlier release has no such service.
    let Ok(reply) = client.setting_list(SettingListRequest {}).await else { return };
    let reply = reply.into_inner();
    let in_file = config.shared.iter().filter_map(|(key, file)| {
        let in_force = reply.settings.iter().find(|setting| setting.name == key.name())?;
        findings::ignored_setting(key.name(), &key.shown(file), &in_force.value)
    });
    report.add("settings", in_file);
    let remedy = "write it on this node, or change the setting with 'twinbox setting set'";
    report.add("settings", reply.mistakes.into_iter().map(|mistake| Finding::new("settings", mistake, remedy)));
    report.add("settings", mail::postmaster(config.mail.incoming.is_some(), reply.no_postmaster));
}

fn not_running(socket: &Path) -> Finding {
    Finding::new(
        "node",
        format!("no node answers at {}", socket.display()),
        "start it (systemctl start twinbox, or 'twinbox node --config FILE') and check its log",
    )
}

fn disk(key: &str, dir: &Path, owner: &Owner, reserve: u64, report: &mut Report) {
    report.add("disk", findings::disk(key, dir, &observe::disk(dir, owner, reserve)));
}

fn certificates(cluster: &ClusterConfig, report: &mut Report) {
    let millis = |time: twinbox_ids::Timestamp| i64::try_from(time.0).unwrap_or(i64::MAX);
    let tls = &cluster.tls;
    let seen = findings::Validity {
        begins: millis(tls.begins()),
        ends: millis(tls.expires()),
        authority_ends: millis(tls.authority_expires()),
    };
    report.add("certificates", findings::certificates(seen, observe::now()));
}

/// Findings about members in a running node's status.
fn members(status: &ClusterStatusReply, report: &mut Report) {
    let mut findings = Vec::new();
    if !status.quorum {
        findings.push(Finding::new(
            "cluster",
            format!("no majority is reachable: {}", status.reason),
            "bring the other members back; until then calls continue and duties wait. If they are lost for good: 'twinbox cluster \
             go-on-alone'",
        ));
    }
    for member in status.members.iter().filter(|m| m.status != "in-service") {
        let remedy = match member.status.as_str() {
            "deactivated" | "draining" => {
                format!("'twinbox cluster activate {}' when it may serve again", member.name)
            }
            _ => "check its machine, the network between the members (port 7070 tcp) and its log".to_owned(),
        };
        let reason = if member.reason.is_empty() { String::new() } else { format!(": {}", member.reason) };
        findings.push(Finding::new("cluster", format!("{} is {}{reason}", member.name, member.status), remedy));
    }
    report.add("cluster", findings);
}

/// Ports that the node would bind, with their keys; not those below 1024 of mail in, which the node's unit may permit.
fn own_ports(config: &NodeConfig) -> Vec<(&'static str, Transport, SocketAddr)> {
    let sip = config.calls.listeners.iter().map(|l| ("[[sip.listener]] bind", l.transport, l.bind));
    let peers = [("cluster.bind", Transport::Tcp, config.cluster.bind)];
    let metrics = config.metrics.map(|bind| ("metrics.bind", Transport::Tcp, bind));
    let links = config.links.as_ref().map(|links| ("links.bind", Transport::Tcp, links.bind));
    let mail = config.mail.incoming.iter().flat_map(|incoming| &incoming.listeners);
    let mail = mail.filter(|(bind, _)| bind.port() >= 1024).map(|(bind, _)| ("mail.in", Transport::Tcp, *bind));
    sip.chain(peers).chain(metrics).chain(links).chain(mail).collect()
}

fn ports(wanted: &[(&'static str, Transport, SocketAddr)], report: &mut Report) {
    let tried = wanted.iter().filter_map(|(key, transport, bind)| {
        let error = observe::bind(*transport, *bind).err()?;
        Some(findings::port(key, transport.label(), *bind, &error))
    });
    report.add("ports", tried);
}

/// All other known members: from the file, the learned members, and a running node's status.
fn others(
    cluster: &ClusterConfig,
    own: &twinbox_ids::NodeName,
    status: Option<&ClusterStatusReply>,
) -> Vec<(twinbox_ids::NodeName, String)> {
    let mut known: Vec<_> = members_file::known(cluster).into_iter().map(|m| (m.name, m.address)).collect();
    for member in status.iter().flat_map(|status| &status.members) {
        if let Ok(name) = member.name.parse()
            && known.iter().all(|(known, _)| *known != name)
        {
            known.push((name, member.address.clone()));
        }
    }
    known.retain(|(name, _)| name != own);
    known
}

fn own_address(cluster: &ClusterConfig, own: &twinbox_ids::NodeName) -> String {
    cluster.members.iter().find(|m| m.name == *own).map(|m| m.address.clone()).unwrap_or_default()
}

/// Contacts every other member over mutual TLS; returns the addresses that the nodes among them advertise.
async fn ask_others(
    cluster: &ClusterConfig,
    others: &[(twinbox_ids::NodeName, String)],
    timeout: Duration,
    report: &mut Report,
) -> Vec<Member> {
    for area in ["clock", "ports", "dns"] {
        report.mark_checked(area);
    }
    let mut nodes = Vec::new();
    for (name, address) in others {
        let (answer, info) = observe::member(cluster, name, address, timeout).await;
        report.add("clock", findings::member(name.as_str(), address, &answer));
        if let Some(info) = info.filter(|info| !info.sip.is_empty()) {
            nodes.push(described(name.as_str(), address, info.sip));
        }
    }
    nodes
}

fn described(name: &str, address: &str, sip: Vec<String>) -> Member {
    let info = Some(NodeInfoReply { sip, ..Default::default() });
    Member { name: name.to_owned(), address: address.to_owned(), info, ..Default::default() }
}

fn endpoints(member: &Member) -> Vec<twinbox_dns::Endpoint> {
    let advertised = member.info.as_ref().map_or(&[][..], |info| info.sip.as_slice());
    advertised.iter().filter_map(|text| super::dns::endpoint(member, text)).collect()
}

/// Checks that the addresses that nodes advertise are reachable from here.
async fn advertised(config: &NodeConfig, nodes: &[Member], timeout: Duration, report: &mut Report) {
    report.mark_checked("addresses");
    for member in nodes {
        for endpoint in endpoints(member) {
            let wanted = (endpoint.host.as_str(), Some(endpoint.port), Some(endpoint.transport));
            if let Err(why) = probe::ask(config, wanted, timeout).await {
                let address = format!("{}:{} ({})", endpoint.host, endpoint.port, endpoint.transport.label());
                report.add("addresses", [findings::advertised(&member.name, &address, &why)]);
            }
        }
    }
    let outside = config.calls.listeners.iter().any(|l| !l.bind.ip().is_loopback());
    report.add("addresses", findings::media(config.rtp.advertise.unwrap_or(config.calls.rtp.bind), outside));
}

/// Checks that there are trunks, and that the proxy of each, of the file and of the cluster, has an address and answers.
async fn trunks(config: &NodeConfig, runs: bool, timeout: Duration, report: &mut Report) {
    report.mark_checked("trunks");
    let shared = if runs { shared_trunks(&config.admin_socket).await } else { None };
    let (known, mistakes) = shared.map(|reply| (reply.trunks, reply.mistakes)).unwrap_or_default();
    if config.calls.trunks.is_empty() && known.is_empty() {
        let what = "there is no trunk: every caller is refused with 403";
        let remedy = "name the addresses of the PBX: 'twinbox trunk add pbx addresses=…', or [[trunk]] in the file";
        report.add("trunks", [Finding::new("trunks", what, remedy)]);
    }
    let remedy = "mend it with 'twinbox trunk set', or in this node's file";
    report.add("trunks", mistakes.into_iter().map(|mistake| Finding::new("trunks", mistake, remedy)));
    let of_file =
        config.calls.trunks.iter().map(|trunk| (trunk.name.clone(), trunk.proxy.clone(), trunk.transport));
    let of_cluster = known.iter().map(|trunk| {
        let read = |wanted: Property| {
            let mut settings = trunk.settings.iter().filter_map(|text| Property::setting(text).ok());
            settings.find_map(|(property, value)| value.filter(|_| property == wanted))
        };
        let transport = read(Property::Transport).map(|word| match word.as_str() {
            "tcp" => Transport::Tcp,
            _ => Transport::Udp,
        });
        (trunk.name.clone(), read(Property::Proxy), transport)
    });
    let mut asked = Vec::new();
    for (name, proxy, transport) in of_file.chain(of_cluster) {
        let Some(proxy) = proxy else { continue };
        if asked.contains(&(name.clone(), proxy.clone(), transport)) {
            continue;
        }
        let (host, port) = probe::host_and_port(&proxy);
        if let Err(why) = probe::ask(config, (host, port, transport), timeout).await {
            report.add("trunks", [findings::trunk(&name, &proxy, &why)]);
        }
        asked.push((name, proxy, transport));
    }
}

/// The trunks of the cluster; `None` from a node of an earlier release.
async fn shared_trunks(socket: &Path) -> Option<TrunkListReply> {
    let mut client = client::settings(socket).await.ok()?;
    client.trunk_list(TrunkListRequest {}).await.ok().map(tonic::Response::into_inner)
}

/// Checks that the shared name leads to each node, by every transport.
async fn shared_name(config: &NodeConfig, name: &str, nodes: &[Member], report: &mut Report) {
    report.mark_checked("dns");
    for transport in probe::usable(config) {
        let mut where_nodes_are = Vec::new();
        for member in nodes {
            let mut addresses = Vec::new();
            for endpoint in endpoints(member).into_iter().filter(|e| e.transport == transport) {
                let found = probe::targets(config, &endpoint.host, Some(endpoint.port), Some(transport)).await;
                addresses.extend(found.unwrap_or_default().into_iter().map(|target| target.address));
            }
            where_nodes_are.push((member.name.clone(), addresses));
        }
        match probe::targets(config, name, None, Some(transport)).await {
            Ok(targets) => {
                let leads_to: Vec<_> = targets.into_iter().map(|target| target.address).collect();
                report.add("dns", findings::shared_name(name, transport.label(), &leads_to, &where_nodes_are));
            }
            Err(findings::Unreachable::Name(why) | findings::Unreachable::Silent(why)) => {
                let what = format!("the shared name {name} ({}) does not resolve", transport.label());
                report.add("dns", [Finding::new("dns", what, why)]);
            }
        }
    }
}
