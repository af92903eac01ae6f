//! Plan of the demo: ports, folders, configuration files, users.

use std::{
    fs::DirBuilder,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use twinbox_admin_client::{CliError, pin};
use twinbox_enrollment::init::{self, FormedMember, InitSpec};
use twinbox_roles::MemberKind;

/// Description of the demo: `DIR/demo.json`, for scripts that control it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Demo {
    /// First port.
    pub base_port: u16,
    /// Two nodes and a witness.
    pub processes: Vec<Process>,
    /// The mailboxes.
    pub users: Vec<User>,
}

/// One process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// Member name.
    pub name: String,
    /// `node` or `witness`.
    pub kind: String,
    /// Process id of the process that takes calls, or votes; 0 while it does not run. A node's supervisor restarts
    /// it under another id, which is updated here shortly afterwards.
    pub pid: u32,
    /// Process id of a node's supervisor; 0 while it does not run. Killing both equals the loss of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<u32>,
    /// Path of its configuration file.
    pub config: PathBuf,
    /// Path of its log file.
    pub log: PathBuf,
    /// Addresses of its listeners.
    pub addresses: Addresses,
}

/// Listen addresses of a process; a witness has only `peer`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Addresses {
    /// Listener for the other members.
    pub peer: String,
    /// SIP over UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sip_udp: Option<String>,
    /// SIP over TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sip_tcp: Option<String>,
    /// HTTP for `/metrics`, `/livez`, `/readyz`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// Unix socket for the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<PathBuf>,
}

/// A mailbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct User {
    /// Number of the mailbox.
    pub number: String,
    /// Name of the owner.
    pub name: String,
    /// The PIN.
    pub pin: String,
}

const NAMES: [&str; 10] =
    ["Ada", "Bertha", "Claude", "Dennis", "Edsger", "Frances", "Grace", "Hedy", "Ivan", "Joan"];

/// Ports of the `i`th member: SIP, peers, metrics.
fn ports(base: u16, i: u16) -> (u16, u16, u16) {
    (base + 10 * i, base + 10 * i + 1, base + 10 * i + 2)
}

/// The port of the `i`th node's supervisor.
fn supervisor_port(base: u16, i: u16) -> u16 {
    base + 10 * i + 3
}

/// RTP ports of the `i`th node.
fn rtp_ports(base: u16, i: u16) -> (u16, u16) {
    (base + 100 + 500 * i, base + 599 + 500 * i)
}

impl Demo {
    /// Loads the earlier demo in `dir`, or makes a new one.
    pub fn prepare(dir: &Path, base_port: u16, fresh: bool) -> Result<Self, CliError> {
        // First: a running demo uses the ports, and its files must not be changed.
        check_ports(base_port)?;
        let file = Self::file(dir);
        let io = |e: std::io::Error| CliError::Failed(format!("cannot use {}: {e}", dir.display()));
        if fresh && file.exists() {
            std::fs::remove_dir_all(dir).map_err(io)?;
        }
        let used = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
        if used && !file.exists() {
            return Err(CliError::Failed(format!(
                "{} is not empty and not a demo: use another folder with --dir",
                dir.display()
            )));
        }
        if let Some(above) = dir.parent() {
            std::fs::create_dir_all(above).map_err(io)?;
        }
        // Recordings, and the PINs in the file, are for this user alone.
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        let dir = std::path::absolute(dir).map_err(io)?;
        if used {
            let demo = Self::load(&dir)?;
            if demo.base_port != base_port {
                return Err(CliError::Failed(format!(
                    "the demo in {} uses --base-port {}: use the same port, or --fresh to start a new demo",
                    dir.display(),
                    demo.base_port
                )));
            }
            return Ok(demo);
        }
        Self::make(&dir, base_port)
    }

    /// The file of the demo in `dir`.
    pub fn file(dir: &Path) -> PathBuf {
        dir.join("demo.json")
    }

    /// The demo in `dir`.
    pub fn load(dir: &Path) -> Result<Self, CliError> {
        let file = Self::file(dir);
        let failed = |why: String| {
            CliError::Failed(format!("{} cannot be read ({why}): start with --fresh", file.display()))
        };
        let text = std::fs::read_to_string(&file).map_err(|e| failed(e.to_string()))?;
        serde_json::from_str(&text).map_err(|e| failed(e.to_string()))
    }

    fn make(dir: &Path, base: u16) -> Result<Self, CliError> {
        let local = |port: u16| format!("127.0.0.1:{port}");
        let members = [("a", MemberKind::Node), ("b", MemberKind::Node), ("w", MemberKind::Witness)];
        let spec = InitSpec {
            cluster_name: "demo".to_owned(),
            members: members
                .iter()
                .zip(0..)
                .map(|((name, kind), i)| Ok((name.parse()?, *kind, local(ports(base, i).1))))
                .collect::<Result<_, twinbox_ids::ParseIdError>>()
                .map_err(CliError::failed)?,
            sip: Default::default(),
        };
        let formed = init::form(&dir.join("cluster"), &spec).map_err(CliError::failed)?;
        let mut processes = Vec::new();
        for (member, i) in formed.members.iter().zip(0..) {
            let (sip, peer, metrics) = ports(base, i);
            let node = member.kind == MemberKind::Node;
            let admin = member.config.with_file_name("admin.sock");
            adapt_config(member, base, i).map_err(CliError::failed)?;
            processes.push(Process {
                name: member.name.to_string(),
                kind: if node { "node" } else { "witness" }.to_owned(),
                pid: 0,
                supervisor: node.then_some(0),
                config: member.config.clone(),
                log: dir.join(format!("{}.log", member.name)),
                addresses: Addresses {
                    peer: local(peer),
                    sip_udp: node.then(|| local(sip)),
                    sip_tcp: node.then(|| local(sip)),
                    metrics: node.then(|| local(metrics)),
                    admin: node.then_some(admin),
                },
            });
        }
        let users = NAMES
            .iter()
            .zip(1001_u32..)
            .map(|(name, number)| {
                let number = number.to_string();
                User { name: (*name).to_owned(), pin: pin::random(&number, 4), number }
            })
            .collect();
        let demo = Self { base_port: base, processes, users };
        demo.save(dir)?;
        Ok(demo)
    }

    /// Writes `demo.json`.
    pub fn save(&self, dir: &Path) -> Result<(), CliError> {
        let file = Self::file(dir);
        let text = serde_json::to_string_pretty(self).map_err(CliError::failed)?;
        std::fs::write(&file, text + "\n")
            .map_err(|e| CliError::Failed(format!("cannot write {}: {e}", file.display())))
    }
}

/// Changes the configuration of `cluster init` to loopback addresses and the demo's ports.
fn adapt_config(member: &FormedMember, base: u16, i: u16) -> Result<(), Box<dyn std::error::Error>> {
    let mut table: Table = std::fs::read_to_string(&member.config)?.parse()?;
    let (sip, peer, metrics) = ports(base, i);
    let text = |s: String| Value::String(s);
    let entries: &mut dyn Iterator<Item = (&str, &str, Value)> = if member.kind == MemberKind::Node {
        let (low, high) = rtp_ports(base, i);
        let listener = |transport: &str| {
            let mut entry = Table::new();
            entry.insert("transport".to_owned(), text(transport.to_owned()));
            entry.insert("bind".to_owned(), text(format!("127.0.0.1:{sip}")));
            Value::Table(entry)
        };
        &mut vec![
            ("cluster", "bind", text(format!("127.0.0.1:{peer}"))),
            ("cluster", "supervisor", text(format!("127.0.0.1:{}", supervisor_port(base, i)))),
            ("node", "drain_seconds", Value::Integer(2)),
            ("sip", "listener", Value::Array(vec![listener("udp"), listener("tcp")])),
            ("sip", "max_calls", Value::Integer(200)),
            ("rtp", "bind", text("127.0.0.1".to_owned())),
            ("rtp", "ports", text(format!("{low}-{high}"))),
            ("metrics", "bind", text(format!("127.0.0.1:{metrics}"))),
        ]
        .into_iter()
    } else {
        if let Some(Value::Array(clusters)) = table.get_mut("cluster")
            && let Some(Value::Table(cluster)) = clusters.first_mut()
        {
            cluster.insert("bind".to_owned(), text(format!("127.0.0.1:{peer}")));
        }
        &mut std::iter::empty()
    };
    for (section, key, value) in entries {
        let section = table.entry(section.to_owned()).or_insert_with(|| Value::Table(Table::new()));
        section.as_table_mut().ok_or("a section that is no table")?.insert(key.to_owned(), value);
    }
    Ok(std::fs::write(&member.config, toml::to_string(&table)?)?)
}

/// Tests every port of the demo before anything is started.
fn check_ports(base: u16) -> Result<(), CliError> {
    let taken = |port: u16, transport: &str, e: std::io::Error| {
        CliError::Failed(format!(
            "port {port}/{transport} is in use ({e}): choose others with --base-port N (the demo uses N to N+1099)"
        ))
    };
    let tcp = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop).map_err(|e| taken(port, "tcp", e));
    let udp = |port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).map(drop).map_err(|e| taken(port, "udp", e));
    for i in 0..3 {
        let (sip, peer, metrics) = ports(base, i);
        tcp(peer)?;
        if i < 2 {
            udp(sip)?;
            tcp(sip)?;
            tcp(metrics)?;
            tcp(supervisor_port(base, i))?;
        }
    }
    Ok(())
}
