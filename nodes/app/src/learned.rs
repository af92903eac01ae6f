//! Members that joined after this one: kept in a file beside the certificates, so that a node which starts without a
//! majority, or with an emptied disk, knows whom to ask.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_ids::NodeName;
use twinbox_roles::{MemberAddress, MemberKind, Roles};

use crate::config::{ClusterConfig, Member};

const FILE: &str = "members.toml";
const HEAD: &str = "# Kept by Twinbox: members that joined since this member's configuration was written.\n";

/// Everyone who was known at the start: by configuration, then by the file.
pub fn known(cluster: &ClusterConfig) -> Vec<Member> {
    let mut members = cluster.members.clone();
    for learned in read(&cluster.tls_dir.join(FILE)) {
        if members.iter().all(|member| member.name != learned.name) {
            members.push(learned);
        }
    }
    members
}

/// What the role manager is told of those that the configuration does not have.
pub fn addresses(members: &[Member]) -> Vec<MemberAddress> {
    let address = |m: &Member| MemberAddress { name: m.name.clone(), kind: m.kind, address: m.address.clone() };
    members.iter().map(address).collect()
}

/// Writes down who joins, and tells `tell` of everyone at each change, until stopped.
pub async fn watch(cluster: ClusterConfig, roles: Roles, tell: impl Fn(&[MemberAddress]), stop: CancellationToken) {
    let mut members = roles.members();
    let file = cluster.tls_dir.join(FILE);
    loop {
        let everyone = members.borrow_and_update().clone();
        tell(&everyone);
        let learned: Vec<_> =
            everyone.iter().filter(|m| cluster.members.iter().all(|known| known.name != m.name)).cloned().collect();
        let before = addresses(&read(&file));
        if learned.iter().any(|member| !before.contains(member)) {
            match write(&cluster.tls_dir, &learned) {
                Ok(()) => info!(file = %file.display(), members = learned.len(), "wrote down who has joined"),
                Err(error) => warn!(file = %file.display(), %error, "who has joined could not be written down"),
            }
        }
        tokio::select! {
            changed = members.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// What cannot be read is left out: the cluster tells it again.
fn read(file: &PathBuf) -> Vec<Member> {
    let Ok(text) = std::fs::read_to_string(file) else { return Vec::new() };
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            warn!(file = %file.display(), %error, "the list of members who have joined is damaged; learning it anew");
            return Vec::new();
        }
    };
    let members = table.get("member").and_then(toml::Value::as_array).map(Vec::as_slice).unwrap_or_default();
    members.iter().filter_map(member).collect()
}

fn member(value: &toml::Value) -> Option<Member> {
    let text = |key: &str| value.get(key).and_then(toml::Value::as_str);
    let name: NodeName = text("name")?.parse().ok()?;
    let kind = if text("kind")? == "witness" { MemberKind::Witness } else { MemberKind::Node };
    Some(Member { name, kind, address: text("address")?.to_owned() })
}

fn write(dir: &Path, members: &[MemberAddress]) -> Result<(), twinbox_disk::DiskError> {
    let entries = members.iter().map(|m| {
        let address = toml::Value::String(m.address.clone());
        format!("\n[[member]]\nname = \"{}\"\nkind = \"{}\"\naddress = {address}\n", m.name, m.kind)
    });
    let text: String = std::iter::once(HEAD.to_owned()).chain(entries).collect();
    twinbox_disk::file::write_durably(dir, FILE, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_joined_is_read_as_it_was_written_and_damage_is_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        assert!(read(&file).is_empty());
        let kinds = [("b", MemberKind::Node), ("w", MemberKind::Witness)];
        let members: Vec<_> = kinds
            .into_iter()
            .map(|(name, kind)| MemberAddress {
                name: name.parse().unwrap(),
                kind,
                address: format!("{name}:7070"),
            })
            .collect();
        write(dir.path(), &members).unwrap();
        assert_eq!(addresses(&read(&file)), members);
        std::fs::write(&file, "[[member]\nname").unwrap();
        assert!(read(&file).is_empty());
    }
}
