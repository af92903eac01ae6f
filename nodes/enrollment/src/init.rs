//! `cluster init`: certificates and configuration files for a new cluster, one folder per member.

use std::{
    fmt::Write,
    io,
    net::Ipv6Addr,
    path::{Path, PathBuf},
};

use twinbox_ids::{ClusterId, NodeName, check_member_address};
use twinbox_pki::{CertificateAuthority, PkiError, Seal};
use twinbox_roles::MemberKind;

use twinbox_config::SEAL_SECRET;

use crate::{SipAddressing, certificate_kind, folders};

/// Marker file in a node's data folder that permits it to found the cluster's Raft group, once. A node with an
/// emptied disk does not have the marker: it joins the existing group and does not found a second one.
pub const FOUNDER_MARK: &str = "may-found";

/// Folder of the CA, beside the folders of the members.
const CA_FOLDER: &str = "ca";

/// Configuration file in a member's folder.
pub(crate) const CONFIG: &str = "twinbox.toml";

/// Members and addresses of the new cluster.
#[derive(Debug, Clone)]
pub struct InitSpec {
    /// Display name of the cluster.
    pub cluster_name: String,
    /// Name, kind and peer address (`HOST:PORT`) of each member. The first node founds the group.
    pub members: Vec<(NodeName, MemberKind, String)>,
    /// Addresses at which calls reach the nodes.
    pub sip: SipAddressing,
}

/// The new cluster.
#[derive(Debug)]
pub struct Formed {
    /// Id of the new cluster.
    pub id: ClusterId,
    /// Folder of the CA.
    pub ca_dir: PathBuf,
    /// The members, in the order of the specification.
    pub members: Vec<FormedMember>,
}

/// Folder of one member.
#[derive(Debug)]
pub struct FormedMember {
    /// Name of the member.
    pub name: NodeName,
    /// Node or witness.
    pub kind: MemberKind,
    /// Configuration file of the member.
    pub config: PathBuf,
    /// Data folder of the member.
    pub data_dir: PathBuf,
    /// Folder of the member's certificates.
    pub tls_dir: PathBuf,
    /// `HOST:PORT` for the other members.
    pub address: String,
}

/// Reason why no cluster was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The specification is not valid.
    #[error("{0}")]
    Spec(String),
    /// The target folder is not empty.
    #[error("{0} is not empty: name another folder, or remove it if the cluster in it is not needed")]
    NotEmpty(PathBuf),
    /// A member's folder must be made again, and no CA is available to sign for it.
    #[error(
        "{} has no folder any more, and the authority that could make it again is not in {ca}: put it back there, or \
         let a new member in with 'twinbox cluster token'",
        names(.members)
    )]
    NoAuthority {
        /// Members without a folder.
        members: Vec<NodeName>,
        /// Folder in which the CA was expected.
        ca: PathBuf,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Reason of the failure.
        source: io::Error,
    },
    /// Certificates could not be made.
    #[error("cannot make certificates: {0}")]
    Pki(#[from] PkiError),
}

/// Makes certificates and configuration files under `dir`, which must be new or empty.
pub fn form(dir: &Path, spec: &InitSpec) -> Result<Formed, InitError> {
    check_new(spec)?;
    check(spec)?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| InitError::Io { path, source }
    };
    free(dir, spec)?;
    std::fs::create_dir_all(dir).map_err(io(dir))?;
    let dir = std::path::absolute(dir).map_err(io(dir))?;
    let id = ClusterId::random();
    let ca = CertificateAuthority::create(id, &spec.cluster_name)?;
    let ca_dir = dir.join(CA_FOLDER);
    ca.save(&ca_dir)?;

    let mut members = Vec::new();
    for place in 0..spec.members.len() {
        let founds = members.is_empty();
        members.push(make(&dir, spec, place, &ca, founds)?);
    }
    Ok(Formed { id, ca_dir, members })
}

/// Makes the folders of those members of a cluster under `dir` whose folders are empty, such as lost volumes; does
/// nothing if there are none. These members start empty and may not found a cluster: they join the existing one.
pub fn form_again(dir: &Path, spec: &InitSpec) -> Result<Formed, InitError> {
    check(spec)?;
    let there = formed_before(dir, spec);
    let missing: Vec<usize> = (0..spec.members.len()).filter(|n| !there.contains(&spec.members[*n].0)).collect();
    let dir = std::path::absolute(dir).map_err(|source| InitError::Io { path: dir.to_owned(), source })?;
    let ca_dir = dir.join(CA_FOLDER);
    let ca = CertificateAuthority::load(&ca_dir).map_err(|_| InitError::NoAuthority {
        members: missing.iter().map(|n| spec.members[*n].0.clone()).collect(),
        ca: ca_dir.clone(),
    })?;
    let members = missing.into_iter().map(|place| {
        let home = dir.join(spec.members[place].0.as_str());
        match std::fs::read_dir(&home).is_ok_and(|mut inner| inner.next().is_some()) {
            true => Err(InitError::NotEmpty(home)),
            false => make(&dir, spec, place, &ca, false),
        }
    });
    Ok(Formed { id: ca.cluster(), members: members.collect::<Result<_, _>>()?, ca_dir })
}

/// Makes the folder of one member. The configuration is written last: it marks the folder as complete.
fn make(
    dir: &Path,
    spec: &InitSpec,
    place: usize,
    ca: &CertificateAuthority,
    founds: bool,
) -> Result<FormedMember, InitError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| InitError::Io { path, source }
    };
    let (name, kind, address) = &spec.members[place];
    let home = dir.join(name.as_str());
    let formed = FormedMember {
        name: name.clone(),
        kind: *kind,
        config: home.join(CONFIG),
        data_dir: home.join("data"),
        tls_dir: home.join("tls"),
        address: address.clone(),
    };
    folders::make_home(&home).map_err(io(&home))?;
    folders::make_folder(&formed.data_dir).map_err(io(&formed.data_dir))?;
    ca.issue(name, certificate_kind(*kind))?.save(&formed.tls_dir)?;
    if *kind == MemberKind::Node {
        Seal::new(&formed.tls_dir, &formed.data_dir.join(SEAL_SECRET)).close(ca)?;
    }
    if founds {
        let mark = formed.data_dir.join(FOUNDER_MARK);
        twinbox_pki::write_private(&mark, format!("{}\n", ca.cluster()).as_bytes()).map_err(io(&mark))?;
    }
    let text = config_text(spec, ca.cluster(), &formed, "");
    twinbox_pki::write_private(&formed.config, text.as_bytes()).map_err(io(&formed.config))?;
    Ok(formed)
}

fn names(members: &[NodeName]) -> String {
    members.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}

/// Members whose configuration already exists under `dir`.
pub fn formed_before(dir: &Path, spec: &InitSpec) -> Vec<NodeName> {
    let there = |name: &&NodeName| dir.join(name.as_str()).join(CONFIG).exists();
    spec.members.iter().map(|(name, _, _)| name).filter(there).cloned().collect()
}

/// Changes the owner of the members' folders and the CA folder, with their content, to this user and group.
pub fn give_to(formed: &Formed, user: u32, group: u32) -> Result<(), InitError> {
    let homes = formed.members.iter().filter_map(|member| member.config.parent());
    homes.chain([formed.ca_dir.as_path()]).try_for_each(|folder| give(folder, user, group))
}

/// Changes the content of a folder first: a process that may only change owners cannot enter a folder after it gave
/// it away.
fn give(path: &Path, user: u32, group: u32) -> Result<(), InitError> {
    let io = |source| InitError::Io { path: path.to_owned(), source };
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).map_err(io)? {
            give(&entry.map_err(io)?.path(), user, group)?;
        }
    }
    std::os::unix::fs::lchown(path, Some(user), Some(group)).map_err(io)
}

/// `dir` may contain only empty folders for the members and the CA: these may be volumes.
fn free(dir: &Path, spec: &InitSpec) -> Result<(), InitError> {
    let members = spec.members.iter().map(|(name, _, _)| name.as_str());
    let ours: Vec<&str> = members.chain([CA_FOLDER]).collect();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let own = entry.file_name().to_str().is_some_and(|name| ours.contains(&name));
        let empty = std::fs::read_dir(entry.path()).is_ok_and(|mut inner| inner.next().is_none());
        if !(own && empty) {
            return Err(InitError::NotEmpty(dir.to_owned()));
        }
    }
    Ok(())
}

/// Checks of a new cluster alone: one of an earlier release may be made again with a name or an address that is refused
/// here.
fn check_new(spec: &InitSpec) -> Result<(), InitError> {
    for (name, _, address) in &spec.members {
        if name.as_str() == CA_FOLDER {
            let reason = format!("'{name}' is the folder of the CA's key: give the member another name");
            return Err(InitError::Spec(reason));
        }
        check_member_address(address).map_err(|error| InitError::Spec(format!("{name}: {error}")))?;
    }
    spec.sip.check().map_err(InitError::Spec)
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
    for name in spec.sip.advertise.keys() {
        if !spec.members.iter().any(|(member, kind, _)| member == name && *kind == MemberKind::Node) {
            return Err(InitError::Spec(format!("--sip-advertise {name}: there is no node of that name")));
        }
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
    for (name, kind, address) in &spec.members {
        let others = spec.members.iter().filter(|(other, ..)| other != name);
        beside_supervisors(
            (name, *kind, address),
            others.map(|(name, kind, address)| (name, *kind, address.as_str())),
        )
        .map_err(InitError::Spec)?;
    }
    Ok(())
}

/// The supervisor of a node listens by default on the port after the node's own. On one host no other process may
/// use that port.
pub(crate) fn beside_supervisors<'a>(
    (name, kind, address): (&NodeName, MemberKind, &str),
    others: impl IntoIterator<Item = (&'a NodeName, MemberKind, &'a str)>,
) -> Result<(), String> {
    let port = |port: &str| port.parse::<u16>().ok();
    let Some((host, own)) = address.rsplit_once(':').and_then(|(host, own)| Some((host, port(own)?))) else {
        return Ok(());
    };
    if kind == MemberKind::Node && own == u16::MAX {
        return Err(format!("{name} at {address}: its supervisor needs the port after that, and there is none"));
    }
    for (other, kind_of_other, address_of_other) in others {
        let there = address_of_other.rsplit_once(':').filter(|(its_host, _)| *its_host == host);
        let Some(theirs) = there.and_then(|(_, theirs)| port(theirs)) else { continue };
        let [low, high] = if own < theirs {
            [(name, kind, own), (other, kind_of_other, theirs)]
        } else {
            [(other, kind_of_other, theirs), (name, kind, own)]
        };
        if low.1 == MemberKind::Node && low.2 + 1 == high.2 {
            return Err(format!(
                "{} at port {} of {host} is where the supervisor of {} answers (the port after {}'s own): leave a port free \
                 between members of one host",
                high.0, high.2, low.0, low.0
            ));
        }
    }
    Ok(())
}

/// Configuration file that works unchanged, with the settings that an administrator is most likely to change.
/// `settings` are further lines of the cluster's section.
pub(crate) fn config_text(spec: &InitSpec, id: ClusterId, member: &FormedMember, settings: &str) -> String {
    let mut text = String::new();
    let (host, port) = member.address.rsplit_once(':').unwrap_or(("", "7070"));
    let is_ipv6 = host.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok();
    let bind = if is_ipv6 { "[::]" } else { "0.0.0.0" };
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
        "\n{cluster}\nname = {cluster_name}\nid = \"{id}\"\ntls_dir = \"tls\"\nbind = \"{bind}:{port}\"{settings}",
    );
    for (name, kind, address) in &spec.members {
        let kind = if *kind == MemberKind::Witness { "witness" } else { "node" };
        let _ =
            writeln!(text, "\n[[cluster.member]]\nname = \"{name}\"\nkind = \"{kind}\"\naddress = \"{address}\"");
    }
    if !witness {
        text.push_str(&spec.sip.text(&member.name, is_ipv6));
        text.push_str("\n[metrics]\nbind = \"127.0.0.1:9090\"\n");
    }
    text
}

#[cfg(test)]
#[path = "../tests/unit/init.rs"]
mod tests;
