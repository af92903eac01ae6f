//! Certificates as files: writing, and refusals when reading.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use tempfile::TempDir;
use twinbox_clock::wall;
use twinbox_ids::{ClusterId, NodeName, Timestamp};
use twinbox_pki::{CertificateAuthority, MemberKind, NodeIdentity, PkiError, Validity};

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn saved_authority_can_be_loaded_and_signs() {
    let dir = TempDir::new().unwrap();
    let cluster = ClusterId::random();
    let made = CertificateAuthority::create(cluster, "office").unwrap();
    made.save(dir.path()).unwrap();
    assert_eq!(mode(&dir.path().join("ca.key")), 0o600);

    let loaded = CertificateAuthority::load(dir.path()).unwrap();
    assert_eq!((loaded.cluster(), loaded.cluster_name()), (cluster, "office"));
    let member = TempDir::new().unwrap();
    loaded.issue(&name("a"), MemberKind::Node).unwrap().save(member.path()).unwrap();
    // The certificate of the original authority verifies certificates that the loaded one signed.
    fs::write(member.path().join("ca.pem"), made.certificate_pem()).unwrap();
    NodeIdentity::load(member.path()).unwrap();
}

#[test]
fn authority_is_not_overwritten() {
    let dir = TempDir::new().unwrap();
    CertificateAuthority::create(ClusterId::random(), "first").unwrap().save(dir.path()).unwrap();
    let second = CertificateAuthority::create(ClusterId::random(), "second").unwrap();
    assert!(matches!(second.save(dir.path()), Err(PkiError::Write { .. })));
    assert_eq!(CertificateAuthority::load(dir.path()).unwrap().cluster_name(), "first");
}

#[test]
fn identity_has_name_kind_and_cluster_of_its_certificate() {
    let dir = TempDir::new().unwrap();
    let cluster = ClusterId::random();
    let authority = CertificateAuthority::create(cluster, "office").unwrap();
    authority.issue(&name("w"), MemberKind::Witness).unwrap().save(dir.path()).unwrap();
    let identity = NodeIdentity::load(dir.path()).unwrap();
    assert_eq!((identity.cluster, identity.name.clone(), identity.kind), (cluster, name("w"), MemberKind::Witness));
    assert!(identity.expires().0 > wall().0 + 360 * 24 * 3_600_000);
    assert_eq!(mode(&dir.path().join("node.key")), 0o600);
    assert_eq!(mode(&dir.path().join("node.pem")), 0o644);
}

/// Spoils one file of a good identity; loading must name that file.
#[test]
fn inconsistent_files_are_refused_with_the_file_name() {
    let cluster = ClusterId::random();
    let authority = CertificateAuthority::create(cluster, "office").unwrap();
    // Same name and cluster id, but another key.
    let impostor = CertificateAuthority::create(cluster, "office").unwrap();
    let other = authority.issue(&name("a"), MemberKind::Node).unwrap();
    let foreign = impostor.issue(&name("a"), MemberKind::Node).unwrap();
    let day = Duration::from_secs(86_400);
    let past = Validity { from: Timestamp(1_000_000_000_000), until: Timestamp(1_100_000_000_000) };
    let expired = authority.issue_for(&name("a"), MemberKind::Node, past).unwrap();
    let from = Timestamp(wall().0 + 86_400_000);
    let future = Validity { from, until: Timestamp(from.0 + 86_400_000) };
    let early = authority.issue_for(&name("a"), MemberKind::Node, future).unwrap();
    let fresh = authority.issue_for(&name("a"), MemberKind::Node, Validity::lasting(day, wall())).unwrap();

    let cases: [(&str, &str, Option<&str>, &str); 10] = [
        ("missing certificate", "node.pem", None, "node.pem"),
        ("missing key", "node.key", None, "node.key"),
        ("missing authority", "ca.pem", None, "ca.pem"),
        ("another member's key", "node.key", Some(&other.key_pem), "node.key"),
        ("no key at all", "node.key", Some("secret"), "node.key"),
        ("a foreign certificate", "node.pem", Some(&foreign.cert_pem), "node.pem"),
        ("an expired certificate", "node.pem", Some(&expired.cert_pem), "node.pem"),
        ("a certificate of tomorrow", "node.pem", Some(&early.cert_pem), "node.pem"),
        ("the authority's own certificate", "node.pem", Some(authority.certificate_pem()), "node.pem"),
        ("a foreign authority", "ca.pem", Some(impostor.certificate_pem()), "node.pem"),
    ];
    for (what, file, content, blamed) in cases {
        let dir = TempDir::new().unwrap();
        fresh.save(dir.path()).unwrap();
        NodeIdentity::load(dir.path()).unwrap();
        match content {
            Some(content) => fs::write(dir.path().join(file), content).unwrap(),
            None => fs::remove_file(dir.path().join(file)).unwrap(),
        }
        let error = NodeIdentity::load(dir.path()).expect_err(what).to_string();
        assert!(error.contains(blamed), "{what}: {error}");
    }
}

#[test]
fn authority_with_another_key_is_refused() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for dir in [&dir, &other] {
        CertificateAuthority::create(ClusterId::random(), "office").unwrap().save(dir.path()).unwrap();
    }
    fs::copy(other.path().join("ca.key"), dir.path().join("ca.key")).unwrap();
    let error = CertificateAuthority::load(dir.path()).err().unwrap().to_string();
    assert!(error.contains("ca.key"), "{error}");
}
