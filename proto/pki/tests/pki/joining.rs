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
    AcceptRoutes, CertificateAuthority, Incoming, JoinObstacle, JoinRoute, JoinToken, MemberKey, MemberKind,
    NodeIdentity, PkiError, Seal, TokenError, Validity, connect,
};

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

struct Listener {
    authority: CertificateAuthority,
    a: NodeIdentity,
    address: SocketAddr,
    incoming: Incoming,
    joining: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    dir: TempDir,
}

/// Node `a` of a new cluster, with a join route that is open or closed.
async fn listener(open: bool) -> Listener {
    let dir = TempDir::new().unwrap();
    let authority = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    authority.issue(&name("a"), MemberKind::Node).unwrap().save(dir.path()).unwrap();
    let a = NodeIdentity::load(dir.path()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, joining) = mpsc::channel(1);
    let open = AtomicBool::new(open);
    let route = JoinRoute { open: Box::new(move || open.load(SeqCst)), connections: sender };
    let incoming = a.listen_with(listener, AcceptRoutes { joining: Some(route), ..AcceptRoutes::default() });
    Listener { authority, a, address, incoming, joining, dir }
}

fn token(authority: &CertificateAuthority) -> JoinToken {
    let expires = Timestamp(wall().0 + 60_000);
    let members = vec![(name("a"), "10.0.0.1:7070".to_owned())];
    JoinToken::new(authority.cluster(), authority.certificate_pem(), MemberKind::Node, expires, members).unwrap()
}

#[tokio::test]
async fn joining_members_and_members_reach_their_own_routes() {
    let mut listener = listener(true).await;
    let address = listener.address.to_string();
    let mut stream = connect(&token(&listener.authority), &name("a"), &address).await.unwrap();
    let (mut other_side, _) = listener.joining.recv().await.unwrap();
    stream.write_all(b"ask").await.unwrap();
    stream.flush().await.unwrap();
    let mut accepted = [0; 3];
    other_side.read_exact(&mut accepted).await.unwrap();
    assert_eq!(&accepted, b"ask");
    // A member of the same cluster, at the same port.
    let endpoint = listener.a.endpoint(&name("a"), &address).unwrap();
    let (channel, accepted) = tokio::join!(endpoint.connect(), listener.incoming.next());
    channel.unwrap();
    let shown = accepted.unwrap().unwrap();
    assert!(shown.get_ref().1.peer_certificates().is_some_and(|shown| shown.len() == 1));
}

#[tokio::test]
async fn joining_member_is_refused_while_none_is_expected() {
    let listener = listener(false).await;
    let error = connect(&token(&listener.authority), &name("a"), &listener.address.to_string()).await.unwrap_err();
    assert_eq!(JoinObstacle::of(&error), Some(JoinObstacle::NotExpected), "{error}");
    assert_eq!(listener.incoming.refused().load(SeqCst), 1);
}

#[tokio::test]
async fn joining_member_accepts_only_the_authority_of_its_token_and_the_requested_name() {
    let listener = listener(true).await;
    let address = listener.address.to_string();
    // The same cluster id, claimed by an impostor without the authority's key.
    let impostor = CertificateAuthority::create(listener.authority.cluster(), "office").unwrap();
    let error = connect(&token(&impostor), &name("a"), &address).await.unwrap_err();
    assert_eq!(JoinObstacle::of(&error), Some(JoinObstacle::OtherAuthority), "{error}");
    assert!(connect(&token(&listener.authority), &name("b"), &address).await.is_err());
}

#[test]
fn token_survives_a_round_trip_and_damage_is_detected() {
    let authority = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    let token = token(&authority);
    let text = token.to_string();
    assert_eq!(format!("\n {text} \n").parse::<JoinToken>().unwrap(), token);
    assert!(token.is_of_authority(authority.certificate_pem()) && !token.is_of_authority("nothing"));
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
fn member_key_is_not_disclosed() {
    let dir = TempDir::new().unwrap();
    let authority = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    let key = MemberKey::load_or_make(dir.path()).unwrap();
    let certify = |key: &[u8]| authority.certify(key, &name("b"), MemberKind::Witness, Validity::of_member(wall()));
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
async fn shown_by(listener: &mut Listener) -> Vec<u8> {
    let endpoint = listener.a.endpoint(&name("a"), &listener.address.to_string()).unwrap();
    let (channel, accepted) = tokio::join!(endpoint.connect(), listener.incoming.next());
    channel.unwrap();
    let stream = accepted.unwrap().unwrap();
    // Both sides are the same member: this is its client certificate.
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn renewed_certificate_is_used_immediately_and_saved() {
    let mut listener = listener(false).await;
    let before = shown_by(&mut listener).await;
    assert_eq!(shown_by(&mut listener).await, before);
    let life = Duration::from_secs(50 * 86_400);
    let certificate = listener
        .authority
        .certify(&listener.a.public_key(), &name("a"), MemberKind::Node, Validity::lasting(life, wall()))
        .unwrap();
    listener.a.renew(&certificate).unwrap();
    let after = shown_by(&mut listener).await;
    assert_ne!(after, before);
    let (begins, ends) = (listener.a.begins().0, listener.a.expires().0);
    assert!(ends < wall().0 + 51 * 86_400_000);
    assert_eq!(listener.a.renew_at().0, begins + (ends - begins) / 3 * 2);
    let again = NodeIdentity::load(listener.dir.path()).unwrap();
    assert_eq!((again.begins(), again.expires()), (listener.a.begins(), listener.a.expires()));
}

#[tokio::test]
async fn invalid_renewal_changes_nothing() {
    let mut listener = listener(false).await;
    let before = shown_by(&mut listener).await;
    let file = fs::read_to_string(listener.dir.path().join("node.pem")).unwrap();
    let foreign = CertificateAuthority::create(listener.authority.cluster(), "office").unwrap();
    let key = listener.a.public_key();
    let good = Validity::of_member(wall());
    let past = Validity { from: Timestamp(1_000_000_000_000), until: Timestamp(1_100_000_000_000) };
    let other_key = listener.authority.issue(&name("a"), MemberKind::Node).unwrap().cert_pem;
    let sign = |by: &CertificateAuthority, who: &str, kind, v| by.certify(&key, &name(who), kind, v).unwrap();
    let misfits = [
        sign(&listener.authority, "b", MemberKind::Node, good),
        sign(&listener.authority, "a", MemberKind::Witness, good),
        sign(&listener.authority, "a", MemberKind::Node, past),
        sign(&foreign, "a", MemberKind::Node, good),
        other_key,
        "no certificate".to_owned(),
    ];
    for (i, certificate) in misfits.into_iter().enumerate() {
        let error = listener.a.renew(&certificate).expect_err("refused").to_string();
        assert!(error.contains("node.pem") || error.contains("node.key"), "{i}: {error}");
    }
    assert_eq!(shown_by(&mut listener).await, before);
    assert_eq!(fs::read_to_string(listener.dir.path().join("node.pem")).unwrap(), file);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn sealed_authority_opens_only_with_its_secret() {
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
fn authority_sealed_by_the_first_releases_is_readable() {
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
    let next = authority.create_next(wall()).unwrap().authority;
    seal.close(&next).unwrap();
    assert_eq!(seal.holds(), [authority.fingerprint(), next.fingerprint()]);
    // With another authority's certificate it did not open.
    fs::write(tls.path().join("ca.pem"), next.certificate_pem()).unwrap();
    let old = format!("twinbox sealed authority 1\n{}\n{}\n", STANDARD.encode([5; 12]), STANDARD.encode(&sealed));
    fs::write(tls.path().join("ca.sealed"), old).unwrap();
    assert!(seal.holds().is_empty());
}
