//! Joining members: their route, the servers they accept, their token, and the sealed authority.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt;
use twinbox_clock::wall;
use twinbox_ids::{ClusterId, NodeName, Timestamp};
use twinbox_pki::{
    CertificateAuthority, Doors, Incoming, JoinDoor, JoinObstacle, JoinToken, MemberKey, MemberKind, NodeIdentity,
    PkiError, Seal, TokenError, Validity, connect,
};

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

struct Hall {
    authority: CertificateAuthority,
    a: NodeIdentity,
    address: SocketAddr,
    incoming: Incoming,
    newcomers: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    dir: TempDir,
}

/// Node `a` of a new cluster, with a join route that is open or closed.
async fn hall(open: bool) -> Hall {
    let dir = TempDir::new().unwrap();
    let authority = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    authority.issue(&name("a"), MemberKind::Node).unwrap().save(dir.path()).unwrap();
    let a = NodeIdentity::load(dir.path()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, newcomers) = mpsc::channel(1);
    let open = AtomicBool::new(open);
    let door = JoinDoor { open: Box::new(move || open.load(SeqCst)), newcomers: sender };
    let incoming = a.listen_with(listener, Doors { newcomers: Some(door), ..Doors::default() });
    Hall { authority, a, address, incoming, newcomers, dir }
}

fn token(authority: &CertificateAuthority) -> JoinToken {
    let expires = Timestamp(wall().0 + 60_000);
    let members = vec![(name("a"), "10.0.0.1:7070".to_owned())];
    JoinToken::new(authority.cluster(), authority.certificate_pem(), MemberKind::Node, expires, members).unwrap()
}

#[tokio::test]
async fn a_newcomer_comes_to_the_door_for_newcomers_and_members_to_theirs() {
    let mut hall = hall(true).await;
    let address = hall.address.to_string();
    let mut stream = connect(&token(&hall.authority), &name("a"), &address).await.unwrap();
    let (mut other_side, _) = hall.newcomers.recv().await.unwrap();
    stream.write_all(b"ask").await.unwrap();
    stream.flush().await.unwrap();
    let mut heard = [0; 3];
    other_side.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ask");
    // A member of the same cluster, at the same port.
    let endpoint = hall.a.endpoint(&name("a"), &address).unwrap();
    let (channel, accepted) = tokio::join!(endpoint.connect(), hall.incoming.next());
    channel.unwrap();
    let shown = accepted.unwrap().unwrap();
    assert!(shown.get_ref().1.peer_certificates().is_some_and(|shown| shown.len() == 1));
}

#[tokio::test]
async fn while_nobody_is_expected_a_newcomer_is_a_stranger() {
    let hall = hall(false).await;
    let error = connect(&token(&hall.authority), &name("a"), &hall.address.to_string()).await.unwrap_err();
    assert_eq!(JoinObstacle::of(&error), Some(JoinObstacle::DoorClosed), "{error}");
    assert_eq!(hall.incoming.refused().load(SeqCst), 1);
}

#[tokio::test]
async fn a_newcomer_believes_only_the_authority_of_its_token_and_the_name_it_asked_for() {
    let hall = hall(true).await;
    let address = hall.address.to_string();
    // The same cluster id, claimed by an impostor without the authority's key.
    let impostor = CertificateAuthority::create(hall.authority.cluster(), "office").unwrap();
    let error = connect(&token(&impostor), &name("a"), &address).await.unwrap_err();
    assert_eq!(JoinObstacle::of(&error), Some(JoinObstacle::OtherAuthority), "{error}");
    assert!(connect(&token(&hall.authority), &name("b"), &address).await.is_err());
}

#[test]
fn a_token_is_read_as_it_was_written_and_damage_is_noticed() {
    let authority = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    let token = token(&authority);
    let text = token.to_string();
    assert_eq!(format!("\n {text} \n").parse::<JoinToken>().unwrap(), token);
    assert!(token.vouches_for(authority.certificate_pem()) && !token.vouches_for("nothing"));
    assert_ne!(&token.hash(), token.secret());
    assert_eq!(JoinToken::hash_of(token.secret()), token.hash());
    assert!(!format!("{token:?}").contains(&text[20..40]));
    for i in 9..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
        let spoilt = String::from_utf8(bytes).unwrap();
        assert_eq!(spoilt.parse::<JoinToken>(), Err(TokenError::Damaged), "at {i}");
        assert_eq!(text[..i].parse::<JoinToken>(), Err(TokenError::Damaged), "cut at {i}");
    }
    assert_eq!("".parse::<JoinToken>(), Err(TokenError::NotOne));
}

#[test]
fn a_member_keeps_its_key_to_itself() {
    let dir = TempDir::new().unwrap();
    let authority = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    let key = MemberKey::load_or_make(dir.path()).unwrap();
    let certify = |key: &[u8]| authority.certify(key, &name("b"), MemberKind::Witness, Validity::of_member());
    let cert_pem = certify(&key.public_key()).unwrap();
    let ca_pem = authority.certificate_pem().to_owned();
    twinbox_pki::Issued { cert_pem, key_pem: key.pem(), ca_pem }.save(dir.path()).unwrap();
    let identity = NodeIdentity::load(dir.path()).unwrap();
    assert_eq!((identity.name.as_str(), identity.kind), ("b", MemberKind::Witness));
    assert_eq!(identity.public_key(), key.public_key());
    assert_eq!(MemberKey::load_or_make(dir.path()).unwrap().public_key(), key.public_key());
    for garbage in [&b""[..], b"key", &key.public_key()[1..]] {
        assert!(matches!(certify(garbage), Err(PkiError::Make { .. })));
    }
}

/// The certificate that `a` shows now.
async fn shown_by(hall: &mut Hall) -> Vec<u8> {
    let endpoint = hall.a.endpoint(&name("a"), &hall.address.to_string()).unwrap();
    let (channel, accepted) = tokio::join!(endpoint.connect(), hall.incoming.next());
    channel.unwrap();
    let stream = accepted.unwrap().unwrap();
    // Both sides are the same member: this is its client certificate.
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_at_once_and_kept() {
    let mut hall = hall(false).await;
    let before = shown_by(&mut hall).await;
    assert_eq!(shown_by(&mut hall).await, before);
    let life = Duration::from_secs(50 * 86_400);
    let certificate = hall
        .authority
        .certify(&hall.a.public_key(), &name("a"), MemberKind::Node, Validity::from_now(life))
        .unwrap();
    hall.a.renew(&certificate).unwrap();
    let after = shown_by(&mut hall).await;
    assert_ne!(after, before);
    let (begins, ends) = (hall.a.begins().0, hall.a.expires().0);
    assert!(ends < wall().0 + 51 * 86_400_000);
    assert_eq!(hall.a.renew_at().0, begins + (ends - begins) / 3 * 2);
    let again = NodeIdentity::load(hall.dir.path()).unwrap();
    assert_eq!((again.begins(), again.expires()), (hall.a.begins(), hall.a.expires()));
}

#[tokio::test]
async fn a_renewal_that_does_not_fit_changes_nothing() {
    let mut hall = hall(false).await;
    let before = shown_by(&mut hall).await;
    let file = fs::read_to_string(hall.dir.path().join("node.pem")).unwrap();
    let stranger = CertificateAuthority::create(hall.authority.cluster(), "office").unwrap();
    let key = hall.a.public_key();
    let good = Validity::of_member();
    let past = Validity { from: Timestamp(1_000_000_000_000), until: Timestamp(1_100_000_000_000) };
    let other_key = hall.authority.issue(&name("a"), MemberKind::Node).unwrap().cert_pem;
    let sign = |by: &CertificateAuthority, who: &str, kind, v| by.certify(&key, &name(who), kind, v).unwrap();
    let misfits = [
        sign(&hall.authority, "b", MemberKind::Node, good),
        sign(&hall.authority, "a", MemberKind::Witness, good),
        sign(&hall.authority, "a", MemberKind::Node, past),
        sign(&stranger, "a", MemberKind::Node, good),
        other_key,
        "no certificate".to_owned(),
    ];
    for (i, certificate) in misfits.into_iter().enumerate() {
        let error = hall.a.renew(&certificate).expect_err("refused").to_string();
        assert!(error.contains("node.pem") || error.contains("node.key"), "{i}: {error}");
    }
    assert_eq!(shown_by(&mut hall).await, before);
    assert_eq!(fs::read_to_string(hall.dir.path().join("node.pem")).unwrap(), file);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_sealed_authority_opens_with_its_secret_alone() {
    let (tls, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let authority = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    authority.issue(&name("a"), MemberKind::Node).unwrap().save(tls.path()).unwrap();
    let secret = data.path().join("seal.key");
    let seal = Seal::new(tls.path(), &secret);
    assert!(seal.holds().is_empty() && matches!(seal.open(&authority.fingerprint()), Err(PkiError::Read { .. })));
    seal.close(&authority).unwrap();
    assert_eq!((mode(&secret), mode(&tls.path().join("ca.sealed"))), (0o600, 0o600));
    let opened = seal.open(&authority.fingerprint()).unwrap();
    assert_eq!((opened.cluster(), opened.key_pem()), (authority.cluster(), authority.key_pem()));
    // The folder of the certificates alone does not reveal the key.
    let sealed = fs::read_to_string(tls.path().join("ca.sealed")).unwrap();
    assert!(!sealed.contains("PRIVATE KEY") && !tls.path().join("ca.key").exists());
    let key = fs::read_to_string(&secret).unwrap();
    for (other, blamed) in [("short", "fewer than"), ("another secret of some length", "is not the secret")] {
        fs::write(&secret, other).unwrap();
        let error = seal.open(&authority.fingerprint()).err().unwrap().to_string();
        assert!(error.contains(blamed), "{error}");
    }
    fs::write(&secret, key).unwrap();
    for spoilt in ["", "hello", &sealed[..40], &sealed.replace("authorities 2", "authorities 3")] {
        fs::write(tls.path().join("ca.sealed"), spoilt).unwrap();
        let error = seal.open(&authority.fingerprint()).err().unwrap().to_string();
        assert!(error.contains("ca.sealed"), "{error}");
    }
}

/// The seal of the first releases: one authority, bound to `ca.pem`.
#[test]
fn an_authority_that_was_sealed_by_the_first_releases_is_read_and_kept() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    let (tls, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let authority = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    authority.issue(&name("a"), MemberKind::Node).unwrap().save(tls.path()).unwrap();
    let secret = data.path().join("seal.key");
    fs::write(&secret, "a secret of some length").unwrap();
    let key = blake3::derive_key("twinbox seal of the authority's key v1", b"a secret of some length");
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).unwrap());
    let mut sealed = authority.key_pem().into_bytes();
    let bound_to = Aad::from(authority.certificate_pem());
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key([5; 12]), bound_to, &mut sealed).unwrap();
    let text = format!("twinbox sealed authority 1\n{}\n{}\n", STANDARD.encode([5; 12]), STANDARD.encode(&sealed));
    fs::write(tls.path().join("ca.sealed"), text).unwrap();

    let seal = Seal::new(tls.path(), &secret);
    assert_eq!(seal.open(&authority.fingerprint()).unwrap().key_pem(), authority.key_pem());
    let next = authority.succeed().unwrap().authority;
    seal.close(&next).unwrap();
    assert_eq!(seal.holds(), [authority.fingerprint(), next.fingerprint()]);
    // With another authority's certificate it did not open.
    fs::write(tls.path().join("ca.pem"), next.certificate_pem()).unwrap();
    let old = format!("twinbox sealed authority 1\n{}\n{}\n", STANDARD.encode([5; 12]), STANDARD.encode(&sealed));
    fs::write(tls.path().join("ca.sealed"), old).unwrap();
    assert!(seal.holds().is_empty());
}
