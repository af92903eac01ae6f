//! Fingerprints of the settings that should be the same in every node's file. Computed from the parsed values, so
//! that an explicit default is no difference. Secrets are not included.

use std::{collections::BTreeMap, fmt::Debug};

use twinbox_config::NodeConfig;
use twinbox_roles::Timing;

/// Each key with a hash of its value; the hash is keyed and useless outside this cluster.
pub fn fingerprints(config: &NodeConfig) -> BTreeMap<String, u64> {
    let key = blake3::derive_key("twinbox 2026-11-20 settings that members compare", &config.cluster.id.to_bytes());
    values(config)
        .into_iter()
        .map(|(name, value)| {
            let hash = blake3::keyed_hash(&key, format!("{name}={value}").as_bytes());
            let short = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            (name, short)
        })
        .collect()
}

fn values(config: &NodeConfig) -> Vec<(String, String)> {
    let NodeConfig { cluster, .. } = config;
    let mut values: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: &dyn Debug| values.push((name.to_owned(), format!("{value:?}")));
    add("cluster.name", &cluster.name);
    add("cluster.id", &cluster.id);
    add("cluster.timing", &if cluster.timing == Timing::wan() { "wan" } else { "lan" });
    // A member that joined later knows more members than the founders' files; a different address is a mistake.
    for member in &cluster.members {
        add(&format!("cluster.member {}", member.name), &(member.kind, &member.address));
    }
    values
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use twinbox_pki::{CertificateAuthority, MemberKind};

    use super::*;

    /// The example's file with a change.
    fn config(change: impl Fn(String) -> String) -> NodeConfig {
        let dir = tempfile::tempdir().expect("a folder");
        let id = "00112233445566778899aabbccddeeff".parse().expect("an id");
        let ca = CertificateAuthority::create(id, "example").expect("an authority");
        let certificate = ca.issue(&"a".parse().expect("a name"), MemberKind::Node).expect("a certificate");
        certificate.save(dir.path()).expect("saved");
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/node.example.toml");
        let text = std::fs::read_to_string(&example).unwrap_or_else(|e| panic!("{}: {e}", example.display()));
        let file = dir.path().join("twinbox.toml");
        std::fs::write(&file, change(text).replace("/var/lib/twinbox/tls", &dir.path().display().to_string()))
            .expect("written");
        NodeConfig::load(&file).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The row of the planes table for equal settings names exactly these keys.
    #[test]
    fn the_compared_settings_are_those_of_the_planes_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ARCHITECTURE.md");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let row = text.lines().find(|line| line.starts_with("| a node's file, the same on all")).expect("the row");
        let listed: BTreeSet<&str> = row.split('`').skip(1).step_by(2).filter(|word| !word.contains(' ')).collect();
        let values = values(&config(|text| text));
        let compared: BTreeSet<&str> =
            values.iter().map(|(key, _)| key.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(compared, listed);
    }

    #[test]
    fn a_changed_value_changes_its_own_fingerprint_alone_and_a_secret_none() {
        let base = fingerprints(&config(|text| text));
        let differing = |change: &dyn Fn(String) -> String| -> Vec<String> {
            let other = fingerprints(&config(change));
            base.iter().filter(|(key, hash)| other.get(*key) != Some(hash)).map(|(key, _)| key.clone()).collect()
        };
        assert!(differing(&|text| text.replace("timing = \"lan\"\n", "\n")).is_empty(), "the default");
        assert_eq!(differing(&|text| text.replace("timing = \"lan\"", "timing = \"wan\"")), ["cluster.timing"]);
        let shared = |text: String| text.replace("redirect = \"first\"", "redirect = \"last\"");
        assert!(differing(&shared).is_empty(), "a setting of the cluster");
        let trunk = |text: String| text.replace("\"10.0.1.0/24\"", "\"10.0.2.0/24\"");
        assert!(differing(&trunk).is_empty(), "a trunk of the cluster");
        assert!(differing(&|text| text.replace("password = \"change me\"", "password = \"another\"")).is_empty());
        assert!(differing(&|text| text.replace("max_calls = 500", "max_calls = 400")).is_empty(), "a node's own");
        assert!(base.values().collect::<BTreeSet<_>>().len() == base.len());
    }
}
