//! Sections shared by nodes and witnesses: the cluster and its members, the log.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use twinbox_cluster_settings::Key;
use twinbox_ids::{ClusterId, NodeName, check_member_address};
use twinbox_pki::{NodeIdentity, PkiError};
use twinbox_roles::{MemberKind, Timing};

use super::reader::Section;

/// A member of the cluster and its address for the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Name of the member.
    pub name: NodeName,
    /// Node or witness.
    pub kind: MemberKind,
    /// `HOST:PORT` of its peer listener.
    pub address: String,
}

/// The cluster as configured for one process. The same on all members, except `tls_dir` and `bind`.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Display name; the id identifies the cluster.
    pub name: String,
    /// Id from `cluster init`.
    pub id: ClusterId,
    /// Election, lease and keep-alive times.
    pub timing: Timing,
    /// Certificate of this member, from `tls_dir`: valid now, and of this member and cluster.
    pub tls: Arc<NodeIdentity>,
    /// Folder of the certificate; the CA and the learned members are stored there too.
    pub tls_dir: PathBuf,
    /// Address of the listener for other members.
    pub bind: SocketAddr,
    /// All members, including this one.
    pub members: Vec<Member>,
}

impl ClusterConfig {
    /// True for the times of a wide area network.
    pub fn is_wan(&self) -> bool {
        self.timing == Timing::wan()
    }

    /// Reads the `[cluster]` section of the member `own`.
    pub(super) fn read(mut section: Section, own: Option<&NodeName>) -> Option<Self> {
        let name = section.require::<String>("name", "a name for people, such as \"example\"");
        let id = section.require("id", "the id that 'twinbox cluster init' printed");
        let wan = section.word("timing", &["lan", "wan"], "lan") == "wan";
        // A witness has no use for these two, and accepts them: its file has been written like a node's.
        section.number("ack_timeout_ms", Key::AckTimeoutMs.range(), 250);
        section.flag("require_two", false);
        let tls_dir = section.require_path("tls_dir", "the folder with ca.pem, node.pem and node.key");
        let tls = tls_dir.as_deref().and_then(|dir| identity(&section, dir, own, id));
        let bind = section.require("bind", "an address and port, such as \"0.0.0.0:7070\"");
        let mut members = Vec::new();
        let mut names = BTreeSet::new();
        for mut item in section.sections("member") {
            let name = item.require::<NodeName>("name", "the member's name");
            let kind = match item.word("kind", &["node", "witness"], "node") {
                "witness" => MemberKind::Witness,
                _ => MemberKind::Node,
            };
            let address = item.require::<String>("address", "HOST:PORT of its peer listener");
            if let Some(address) = &address
                && let Err(error) = check_member_address(address)
            {
                item.wrong("address", error.to_string());
            }
            if let Some(name) = &name
                && !names.insert(name.clone())
            {
                item.wrong("name", format!("'{name}' is there twice: every member has its own name"));
            }
            item.finish();
            if let (Some(name), Some(address)) = (name, address) {
                members.push(Member { name, kind, address });
            }
        }
        if let Some(own) = own
            && !names.contains(own)
        {
            section.wrong("member", format!("does not list this member, '{own}': add [[cluster.member]] for it"));
        }
        section.finish();
        let timing = if wan { Timing::wan() } else { Timing::lan() };
        Some(Self { name: name?, id: id?, timing, tls: tls?, tls_dir: tls_dir?, bind: bind?, members })
    }
}

/// Loads the certificate in `dir`, which must be that of `own` in cluster `id`.
fn identity(
    section: &Section,
    dir: &Path,
    own: Option<&NodeName>,
    id: Option<ClusterId>,
) -> Option<Arc<NodeIdentity>> {
    let tls = match NodeIdentity::load(dir) {
        Ok(tls) => tls,
        Err(error @ PkiError::NotNow { .. }) => {
            section.unusable_now("tls_dir", error.to_string());
            return None;
        }
        Err(error) => {
            section.wrong("tls_dir", error.to_string());
            return None;
        }
    };
    if own.is_some_and(|own| *own != tls.name) || id.is_some_and(|id| id != tls.cluster) {
        section.wrong(
            "tls_dir",
            format!(
                "holds the certificate of {} in cluster {}: copy this member's folder of this cluster",
                tls.name, tls.cluster
            ),
        );
        return None;
    }
    Some(Arc::new(tls))
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The `[log]` section.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Text or JSON.
    pub format: LogFormat,
    /// Filter in the syntax of `tracing`: `info`, `info,twinbox_calls=debug`.
    pub filter: String,
}

impl LogConfig {
    /// Reads the section.
    pub(super) fn read(mut section: Section) -> Self {
        let format = match section.word("format", &["text", "json"], "text") {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        };
        let filter = section.text("filter").unwrap_or_else(|| "info".to_owned());
        if let Err(error) = filter.parse::<tracing_subscriber::EnvFilter>() {
            section.wrong("filter", format!("'{filter}' will not do ({error}): write for example \"info\""));
        }
        section.finish();
        Self { format, filter }
    }
}
