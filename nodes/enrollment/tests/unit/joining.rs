//! Attempts to join, and what a failed one leaves behind.

use std::{net::TcpListener, os::unix::fs::PermissionsExt};

use twinbox_clock::wall;
use twinbox_ids::Timestamp;

use super::*;

/// A join by a token of whose members none answers.
fn unanswered(dir: &Path) -> (JoinSpec, JoinToken) {
    let cluster = ClusterId(7);
    let authority = CertificateAuthority::create(cluster, "test").expect("an authority");
    // No server listens at this address any more.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("an address");
    let members = vec![("a".parse().expect("a name"), address.to_string())];
    let expires = Timestamp(wall().0 + 3_600_000);
    let token = JoinToken::new(cluster, authority.certificate_pem(), CertificateKind::Node, expires, members);
    let token = token.expect("a token");
    let spec = JoinSpec {
        token: token.to_string(),
        dir: dir.to_owned(),
        name: "b".parse().expect("a name"),
        address: "127.0.0.1:7070".to_owned(),
        witness: false,
        sip: SipAddressing::default(),
    };
    (spec, token)
}

#[tokio::test]
async fn attempt_that_nobody_heard_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let (spec, _) = unanswered(dir.path());
    assert!(matches!(join(&spec).await, Err(JoinError::Nobody(_))));
    assert!(!dir.path().join("b").exists());
}

#[tokio::test]
async fn address_of_no_single_host_is_refused_before_a_member_is_asked() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut spec, _) = unanswered(dir.path());
    for address in ["0.0.0.0:7070", "[::]:7070", "b:0", "a b:7070", "nowhere"] {
        spec.address = address.to_owned();
        assert!(matches!(join(&spec).await, Err(JoinError::Address(_))), "{address}");
        assert!(!dir.path().join("b").exists(), "{address}");
    }
}

/// The token may have been consumed for its key.
#[tokio::test]
async fn attempt_after_a_lost_answer_keeps_its_key_while_nobody_answers() {
    let dir = tempfile::tempdir().expect("a folder");
    let (spec, token) = unanswered(dir.path());
    let home = dir.path().join("b");
    // The files that an attempt with an unknown outcome leaves.
    assert_eq!(begin(&home, &token).ok(), Some(false));
    let mode = fs::metadata(&home).expect("a folder").permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "its configuration may hold passwords, its data recordings");
    let key = MemberKey::load_or_make(&home.join("tls")).expect("a key").public_key();
    for _ in 0..2 {
        assert!(matches!(join(&spec).await, Err(JoinError::Nobody(_))));
        assert_eq!(MemberKey::load_or_make(&home.join("tls")).expect("a key").public_key(), key);
    }
    // Another token is for another folder.
    let (other, _) = unanswered(dir.path());
    assert!(matches!(join(&other).await, Err(JoinError::NotEmpty(_))));
}
