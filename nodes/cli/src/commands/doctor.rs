//! `twinbox doctor`: looks for what is commonly wrong, and says the remedy.

mod probe;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::Serialize;
use twinbox_app::config::{Config, NodeConfig};
use twinbox_clock::wall;
use twinbox_dns::{Resolver, Transport, Wanted};
use twinbox_ids::Timestamp;
use twinbox_wire::admin::{ClusterStatusReply, ClusterStatusRequest};

use crate::{args::DoctorArgs, client, error::CliError, output};

/// Certificates renew themselves long before; who sees this one has a renewal that does not work.
const EXPIRY: i64 = 30 * 86_400_000;
/// Clocks further apart than this, in milliseconds, make stamps wrong.
const DRIFT_MS: i64 = 1_000;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where it was found: `clock`, `disk` …
    pub area: &'static str,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// All that was looked at.
#[derive(Debug, Default, Serialize)]
struct Report {
    checked: Vec<&'static str>,
    findings: Vec<Finding>,
}

impl Report {
    fn look(&mut self, area: &'static str) {
        if !self.checked.contains(&area) {
            self.checked.push(area);
        }
    }

    fn found(&mut self, area: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        self.look(area);
        self.findings.push(Finding { area, what: what.into(), remedy: remedy.into() });
    }
}

/// Looks, reports, and fails when there is a finding.
pub async fn run(json: bool, args: DoctorArgs) -> Result<(), CliError> {
    let mut report = Report::default();
    report.look("configuration");
    match Config::load(&args.config) {
        Ok(Config::Node(config)) => examine(&config, args.timeout, &mut report).await,
        Ok(Config::Witness(_)) => {
            return Err(CliError::Usage(format!(
                "{} is a witness's: it has no calls, no data and nothing to examine",
                args.config.display()
            )));
        }
        Err(error) => report.found(
            "configuration",
            error.to_string(),
            format!("correct it; 'twinbox config check {}' says more", args.config.display()),
        ),
    }
    let Report { checked, findings } = &report;
    if json {
        output::json(&report)?;
    } else if findings.is_empty() {
        println!("looked at {}: nothing is wrong", checked.join(", "));
    } else {
        let row = |f: &Finding| vec![f.area.to_owned(), f.what.clone(), f.remedy.clone()];
        println!("{}", output::table(&["AREA", "WHAT IS WRONG", "REMEDY"], findings.iter().map(row)));
    }
    match findings.len() {
        0 => Ok(()),
        1 => Err(CliError::Failed("1 finding".to_owned())),
        n => Err(CliError::Failed(format!("{n} findings"))),
    }
}

async fn examine(config: &NodeConfig, timeout: Duration, report: &mut Report) {
    disk(config, report);
    certificates(config, report);
    open_files(config, report);
    let status = match client::connect(&config.admin_socket).await {
        Ok(mut client) => {
            client.cluster_status(ClusterStatusRequest {}).await.ok().map(tonic::Response::into_inner)
        }
        Err(_) => None,
    };
    match &status {
        Some(status) => {
            members(status, report);
            clocks(status, report);
            advertised(config, status, timeout, report).await;
        }
        None => {
            report.found(
                "node",
                format!("no node answers at {}", config.admin_socket.display()),
                "start it (systemctl start twinbox, or 'twinbox node --config FILE') and look at its log",
            );
            ports(config, report).await;
        }
    }
    trunks(config, timeout, report).await;
}

fn disk(config: &NodeConfig, report: &mut Report) {
    report.look("disk");
    let dir = &config.data_dir;
    match rustix::fs::statvfs(dir) {
        Err(error) => report.found(
            "disk",
            format!("the data folder {} cannot be looked at: {error}", dir.display()),
            "make it, and let the node's user write there",
        ),
        Ok(space) => {
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            if free < config.reserve_bytes.saturating_mul(2) {
                let mb = |bytes: u64| bytes / 1024 / 1024;
                let refused = if free < config.reserve_bytes { ": new messages are refused" } else { "" };
                report.found(
                    "disk",
                    format!("{} MB are free, {} are kept in reserve{refused}", mb(free), mb(config.reserve_bytes)),
                    "make room on the data disk, or give it a larger one",
                );
            }
        }
    }
}

fn certificates(config: &NodeConfig, report: &mut Report) {
    report.look("certificates");
    let dir = &config.cluster.tls_dir;
    let identity = match twinbox_pki::NodeIdentity::load(dir) {
        Ok(identity) => identity,
        Err(error) => {
            let remedy = "copy the folder that 'twinbox cluster init' or 'join' made, readable for the node's user";
            return report.found("certificates", format!("{}: {error}", dir.display()), remedy);
        }
    };
    let now = wall();
    for (what, ends, remedy) in [
        (
            "this node's certificate",
            identity.expires(),
            "it renews itself while the node runs and a member with the authority answers: start it, look at its log",
        ),
        ("the cluster's authority", identity.authority_expires(), "make a new authority before then"),
    ] {
        let left = millis(ends).saturating_sub(millis(now));
        if left <= 0 {
            report.found("certificates", format!("{what} has expired"), remedy);
        } else if left < EXPIRY {
            report.found("certificates", format!("{what} expires in {} days", left / 86_400_000), remedy);
        }
    }
    if identity.begins() > now {
        report.found(
            "certificates",
            "this node's certificate is not valid yet".to_owned(),
            "set this machine's clock (chrony, systemd-timesyncd)",
        );
    }
}

fn millis(time: Timestamp) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

fn open_files(config: &NodeConfig, report: &mut Report) {
    report.look("limits");
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let needed = 1_024 + 2 * config.calls.max_calls as u64;
    if let Some(most) = limit.maximum.filter(|most| *most < needed) {
        report.found(
            "limits",
            format!("{most} open files are allowed, sip.max_calls = {} needs {needed}", config.calls.max_calls),
            "raise LimitNOFILE of the unit (or ulimit -n), or lower sip.max_calls",
        );
    }
}

fn members(status: &ClusterStatusReply, report: &mut Report) {
    report.look("cluster");
    if !status.quorum {
        report.found(
            "cluster",
            format!("no majority is in reach: {}", status.reason),
            "bring the other members back; calls go on meanwhile, duties wait",
        );
    }
    for member in status.members.iter().filter(|m| m.status != "in-service") {
        let remedy = match member.status.as_str() {
            "deactivated" => format!("'twinbox cluster activate {}' when it may work again", member.name),
            _ => "look at its machine, the network between the members (port 7070 tcp) and its log".to_owned(),
        };
        let reason = if member.reason.is_empty() { String::new() } else { format!(": {}", member.reason) };
        report.found("cluster", format!("{} is {}{reason}", member.name, member.status), remedy);
    }
}

fn clocks(status: &ClusterStatusReply, report: &mut Report) {
    report.look("clock");
    let now = millis(wall());
    for member in &status.members {
        let Some(theirs) = member.info.as_ref().map(|i| i.now_ms).filter(|now| *now > 0) else { continue };
        let apart = i64::try_from(theirs).unwrap_or(i64::MAX).saturating_sub(now);
        if apart.abs() > DRIFT_MS {
            let way = if apart > 0 { "ahead of" } else { "behind" };
            report.found(
                "clock",
                format!("{}'s clock is {:.1} s {way} this machine's", member.name, apart.abs() as f64 / 1000.0),
                "let both follow the same time servers (chrony, systemd-timesyncd)",
            );
        }
    }
}

/// What the nodes advertise must be reached, from here too.
async fn advertised(config: &NodeConfig, status: &ClusterStatusReply, timeout: Duration, report: &mut Report) {
    report.look("addresses");
    for member in status.members.iter().filter(|m| m.kind == "node") {
        let said = member.info.as_ref().map_or(&[][..], |i| i.sip.as_slice());
        for endpoint in said.iter().filter_map(|text| super::dns::endpoint(member, text)) {
            let label = endpoint.transport.label();
            let address = format!("{}:{} ({label})", endpoint.host, endpoint.port);
            let wanted = (endpoint.host.as_str(), Some(endpoint.port), Some(endpoint.transport));
            let reached = probe::ask(config, wanted, timeout).await;
            if let Err(why) = reached {
                report.found(
                    "addresses",
                    format!("{} advertises {address} for SIP, and from here it is not reached: {why}", member.name),
                    "correct 'advertise' of that [[sip.listener]], or let the firewall and the router pass it",
                );
            }
        }
    }
    let media = config.rtp.advertise.unwrap_or(config.rtp.bind);
    if media.is_loopback() && config.calls.listeners.iter().any(|l| !l.bind.ip().is_loopback()) {
        report.found(
            "addresses",
            format!("RTP is announced at {media}, which no other machine reaches"),
            "set rtp.advertise to an address that the PBX reaches",
        );
    }
}

/// The node does not run: could it?
async fn ports(config: &NodeConfig, report: &mut Report) {
    report.look("ports");
    let listeners = config.calls.listeners.iter().map(|l| ("[[sip.listener]]", l.transport, l.bind));
    let others = [("[cluster] bind", Transport::Tcp, config.cluster.bind)].into_iter();
    let metrics = config.metrics.map(|bind| ("[metrics] bind", Transport::Tcp, bind));
    for (key, transport, bind) in listeners.chain(others).chain(metrics) {
        let bound = match transport {
            Transport::Udp => std::net::UdpSocket::bind(bind).map(drop),
            Transport::Tcp => std::net::TcpListener::bind(bind).map(drop),
        };
        if let Err(error) = bound {
            report.found(
                "ports",
                format!("{key}: {} {bind} cannot be had: {error}", transport.label()),
                format!("end whoever has it ('ss -lpn sport = :{}' names it), or change the key", bind.port()),
            );
        }
    }
}

/// Every trunk's proxy has an address and answers.
async fn trunks(config: &NodeConfig, timeout: Duration, report: &mut Report) {
    if config.calls.trunks.is_empty() {
        report.found(
            "trunks",
            "there is no [[trunk]]: every caller is refused with 403",
            "name the addresses of the PBX in a [[trunk]]",
        );
    }
    report.look("trunks");
    for trunk in &config.calls.trunks {
        let Some(proxy) = &trunk.proxy else { continue };
        let (host, port) = probe::host_and_port(proxy);
        if let Err(why) = probe::ask(config, (host, port, trunk.transport), timeout).await {
            report.found(
                "trunks",
                format!("trunk '{}' does not answer OPTIONS at {proxy}: {why}", trunk.name),
                "correct its proxy, or let the PBX take SIP from this node's address",
            );
        }
    }
}
