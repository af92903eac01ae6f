//! `cluster init`: certificates and configuration files for a new cluster, one folder a member.

use std::{
    fmt::Write,
    io,
    path::{Path, PathBuf},
};

use twinbox_ids::{ClusterId, NodeName};
use twinbox_pki::{CertificateAuthority, MemberKind as CertificateKind, PkiError};
use twinbox_roles::MemberKind;

/// The file in a node's data folder that lets it found the cluster's Raft group, once. A node whose disk was
/// emptied does not have it, and so joins the group that is there instead of founding a second one.
pub const FOUNDER_MARK: &str = "may-found";

/// What to make.
#[derive(Debug, Clone)]
pub struct InitSpec {
    /// The cluster's name, for people.
    pub cluster_name: String,
    /// Name, kind and peer address (`HOST:PORT`) of each member. The first node founds the group.
    pub members: Vec<(NodeName, MemberKind, String)>,
}

/// What was made.
#[derive(Debug)]
pub struct Formed {
    /// The new cluster's id.
    pub id: ClusterId,
    /// Where the CA is.
    pub ca_dir: PathBuf,
    /// The members, in the order of the specification.
    pub members: Vec<FormedMember>,
}

/// One member's folder.
#[derive(Debug)]
pub struct FormedMember {
    /// Its name.
    pub name: NodeName,
    /// Node or witness.
    pub kind: MemberKind,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its data folder.
    pub data_dir: PathBuf,
    /// Its certificates.
    pub tls_dir: PathBuf,
    /// `HOST:PORT` for its peers.
    pub address: String,
}

/// Why no cluster was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The wish makes no sense.
    #[error("{0}")]
    Spec(String),
    /// There is something already.
    #[error("{0} is not empty: name another folder, or remove it if the cluster in it is not needed")]
    NotEmpty(PathBuf),
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Certificates could not be made.
    #[error("cannot make certificates: {0}")]
    Pki(#[from] PkiError),
}

/// Makes certificates and configuration files under `dir`, which must be new or empty.
pub fn form(dir: &Path, spec: &InitSpec) -> Result<Formed, InitError> {
    check(spec)?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| InitError::Io { path, source }
    };
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(InitError::NotEmpty(dir.to_owned()));
    }
    std::fs::create_dir_all(dir).map_err(io(dir))?;
    let dir = std::path::absolute(dir).map_err(io(dir))?;
    let id = ClusterId::random();
    let ca = CertificateAuthority::create(id, &spec.cluster_name)?;
    let ca_dir = dir.join("ca");
    ca.save(&ca_dir)?;

    let mut members = Vec::new();
    for (name, kind, address) in &spec.members {
        let home = dir.join(name.as_str());
        let formed = FormedMember {
            name: name.clone(),
            kind: *kind,
            config: home.join("twinbox.toml"),
            data_dir: home.join("data"),
            tls_dir: home.join("tls"),
            address: address.clone(),
        };
        std::fs::create_dir_all(&formed.data_dir).map_err(io(&formed.data_dir))?;
        let certificate_kind = match kind {
            MemberKind::Node => CertificateKind::Node,
            MemberKind::Witness => CertificateKind::Witness,
        };
        ca.issue(name, certificate_kind)?.save(&formed.tls_dir)?;
        if members.is_empty() {
            let mark = formed.data_dir.join(FOUNDER_MARK);
            std::fs::write(&mark, format!("{id}\n")).map_err(io(&mark))?;
        }
        let text = config_text(spec, id, &formed);
        std::fs::write(&formed.config, text).map_err(io(&formed.config))?;
        members.push(formed);
    }
    Ok(Formed { id, ca_dir, members })
}

fn check(spec: &InitSpec) -> Result<(), InitError> {
    let nodes = spec.members.iter().filter(|(_, kind, _)| *kind == MemberKind::Node).count();
    let witnesses = spec.members.len() - nodes;
    if nodes == 0 || spec.members[0].1 != MemberKind::Node {
        return Err(InitError::Spec("a cluster needs a node: give --node NAME=HOST:PORT".to_owned()));
    }
    if witnesses > 1 {
        return Err(InitError::Spec(format!("{witnesses} witnesses: a cluster has one at most")));
    }
    if witnesses == 1 && nodes % 2 == 1 {
        return Err(InitError::Spec(format!(
            "a witness beside {nodes} nodes adds no safety: leave it out, or add a node (it serves an even number)"
        )));
    }
    for (i, (name, _, address)) in spec.members.iter().enumerate() {
        for (other, _, other_address) in &spec.members[..i] {
            if name == other {
                return Err(InitError::Spec(format!("'{name}' is there twice: every member has its own name")));
            }
            if address == other_address {
                return Err(InitError::Spec(format!("{name} and {other} share {address}: give each its own")));
            }
        }
    }
    Ok(())
}

/// A configuration that starts as it is; what an administrator most likely changes is written out.
fn config_text(spec: &InitSpec, id: ClusterId, member: &FormedMember) -> String {
    let mut text = String::new();
    let port = member.address.rsplit_once(':').map_or("7070", |(_, port)| port);
    let cluster_name = toml::Value::String(spec.cluster_name.clone());
    let witness = member.kind == MemberKind::Witness;
    let (own, cluster) = if witness { ("[witness]", "[[cluster]]") } else { ("[node]", "[cluster]") };
    let _ = writeln!(
        text,
        "# Made by 'twinbox cluster init'. Every key is described in deploy/{}.\n\
         # Relative paths start at this file's folder.\n\
         {own}\nname = \"{}\"\ndata_dir = \"data\"",
        if witness { "witness.example.toml" } else { "node.example.toml" },
        member.name,
    );
    if !witness {
        text.push_str("admin_socket = \"admin.sock\"\n");
    }
    let _ = writeln!(
        text,
        "\n{cluster}\nname = {cluster_name}\nid = \"{id}\"\ntls_dir = \"tls\"\nbind = \"0.0.0.0:{port}\"",
    );
    for (name, kind, address) in &spec.members {
        let kind = if *kind == MemberKind::Witness { "witness" } else { "node" };
        let _ =
            writeln!(text, "\n[[cluster.member]]\nname = \"{name}\"\nkind = \"{kind}\"\naddress = \"{address}\"");
    }
    if !witness {
        text.push_str(
            "\n[[sip.listener]]\ntransport = \"udp\"\nbind = \"0.0.0.0:5060\"\n\
             \n[[sip.listener]]\ntransport = \"tcp\"\nbind = \"0.0.0.0:5060\"\n\
             \n[rtp]\nbind = \"0.0.0.0\"\nports = \"10000-19999\"\n\
             \n# Who may call: the addresses of your PBX.\n\
             [[trunk]]\nname = \"local\"\naddresses = [\"127.0.0.0/8\"]\n\
             \n[metrics]\nbind = \"127.0.0.1:9090\"\n",
        );
    }
    text
}
