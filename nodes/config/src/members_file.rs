//! Members that joined or were removed after this member's configuration was written. They are stored in a file
//! next to the certificates, so that a node that starts without a majority, or with an emptied disk, knows which
//! members to contact.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_ids::NodeName;
use twinbox_roles::{MemberAddress, MemberKind, Roles};

use crate::{ClusterConfig, Member};

const FILE: &str = "members.toml";
const HEAD: &str =
    "# Kept by Twinbox: members that joined or were removed since this member's configuration was written.\n";

/// Content of the file, in addition to the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct MembersFile {
    /// Members that joined, or joined again at another address.
    joined: Vec<Member>,
    /// Members that were removed.
    removed: BTreeSet<NodeName>,
}

/// Members known at the start. The file takes precedence over the configuration, because it is newer.
pub fn known(cluster: &ClusterConfig) -> Vec<Member> {
    let MembersFile { joined, removed } = read(&cluster.tls_dir.join(FILE));
    let mut members = cluster.members.clone();
    members.retain(|member| !removed.contains(&member.name) && joined.iter().all(|m| m.name != member.name));
    members.extend(joined);
    members
}

/// Members that had been removed when this process started.
pub fn removed(cluster: &ClusterConfig) -> Vec<NodeName> {
    read(&cluster.tls_dir.join(FILE)).removed.into_iter().collect()
}

/// Addresses of these members, for the role manager.
pub fn addresses(members: &[Member]) -> Vec<MemberAddress> {
    let address = |m: &Member| MemberAddress { name: m.name.clone(), kind: m.kind, address: m.address.clone() };
    members.iter().map(address).collect()
}

/// Writes joined and removed members to the file, and passes all members to `tell` at each change, until stopped.
pub async fn watch(cluster: ClusterConfig, roles: Roles, tell: impl Fn(&[MemberAddress]), stop: CancellationToken) {
    let mut members = roles.members();
    let file = cluster.tls_dir.join(FILE);
    loop {
        let everyone = members.borrow_and_update().clone();
        tell(&everyone);
        let new = |m: &MemberAddress| cluster.members.iter().all(|known| *known != member_of(m));
        let joined = everyone.iter().filter(|m| new(m)).map(member_of).collect();
        let now = MembersFile { joined, removed: roles.removed_members() };
        if now != read(&file) {
            match write(&cluster.tls_dir, &now) {
                Ok(()) => info!(file = %file.display(), "joined and removed members are stored"),
                Err(error) => {
                    warn!(file = %file.display(), %error, "joined and removed members could not be stored")
                }
            }
        }
        tokio::select! {
            changed = members.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

fn member_of(address: &MemberAddress) -> Member {
    Member { name: address.name.clone(), kind: address.kind, address: address.address.clone() }
}

/// An unreadable entry is left out: the cluster reports the member again.
fn read(file: &PathBuf) -> MembersFile {
    let Ok(text) = std::fs::read_to_string(file) else { return MembersFile::default() };
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            warn!(file = %file.display(), %error, "the list of joined members is damaged; the cluster reports them again");
            return MembersFile::default();
        }
    };
    let list = |key: &str| table.get(key).and_then(toml::Value::as_array).map(Vec::as_slice).unwrap_or_default();
    MembersFile {
        joined: list("member").iter().filter_map(member).collect(),
        removed: list("removed").iter().filter_map(|name| name.as_str()?.parse().ok()).collect(),
    }
}

fn member(value: &toml::Value) -> Option<Member> {
    let text = |key: &str| value.get(key).and_then(toml::Value::as_str);
    let name: NodeName = text("name")?.parse().ok()?;
    let kind = if text("kind")? == "witness" { MemberKind::Witness } else { MemberKind::Node };
    Some(Member { name, kind, address: text("address")?.to_owned() })
}

fn write(dir: &Path, learned: &MembersFile) -> Result<(), twinbox_disk::DiskError> {
    let names: Vec<String> = learned.removed.iter().map(|name| format!("\"{name}\"")).collect();
    let removed = if names.is_empty() { String::new() } else { format!("removed = [{}]\n", names.join(", ")) };
    let entries = learned.joined.iter().map(|m| {
        let address = toml::Value::String(m.address.clone());
        format!("\n[[member]]\nname = \"{}\"\nkind = \"{}\"\naddress = {address}\n", m.name, m.kind)
    });
    let text: String = [HEAD.to_owned(), removed].into_iter().chain(entries).collect();
    twinbox_disk::file::write_durably(dir, FILE, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_file_is_read_as_written_and_damage_is_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        assert_eq!(read(&file), MembersFile::default());
        let kinds = [("b", MemberKind::Node), ("w", MemberKind::Witness)];
        let joined =
            kinds.map(|(name, kind)| Member { name: name.parse().unwrap(), kind, address: format!("{name}:7070") });
        let removed = BTreeSet::from(["c".parse().unwrap(), "d".parse().unwrap()]);
        for learned in [
            MembersFile { joined: joined.to_vec(), removed: removed.clone() },
            MembersFile { joined: Vec::new(), removed },
            MembersFile { joined: joined.to_vec(), removed: BTreeSet::new() },
        ] {
            write(dir.path(), &learned).unwrap();
            assert_eq!(read(&file), learned);
        }
        std::fs::write(&file, "[[member]\nname").unwrap();
        assert_eq!(read(&file), MembersFile::default());
    }
}
