//! One authority replaces another: at every step members, joining members and operators connect by real handshakes.
//! Also operators: the route that each client may use.

use std::{fs, net::SocketAddr, path::Path};

use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::StreamExt;
use twinbox_clock::wall;
use twinbox_ids::{ClusterId, NodeName, Timestamp};
use twinbox_pki::{
    AcceptRoutes, CertificateAuthority, CrossSignedCa, Incoming, JoinObstacle, JoinRoute, JoinToken, MemberKind,
    NextAuthority, NodeIdentity, OperatorConnection, OperatorIdentity, OperatorKey, OperatorObstacle, PkiError,
    Seal, Validity, fingerprint_of,
};

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn own(authority: &CertificateAuthority, who: &str, kind: MemberKind) -> (NodeIdentity, TempDir) {
    let dir = TempDir::new().unwrap();
    authority.issue(&name(who), kind).unwrap().save(dir.path()).unwrap();
    (NodeIdentity::load(dir.path()).unwrap(), dir)
}

fn cross_signed(authority: &CertificateAuthority, next: &NextAuthority) -> CrossSignedCa {
    let pem = next.authority.certificate_pem();
    CrossSignedCa::read(authority.cluster(), pem, &next.cross_pem).unwrap()
}

/// A new certificate for the member's key.
fn signed(by: &CertificateAuthority, member: &NodeIdentity) -> String {
    by.certify(&member.public_key(), &member.name, member.kind, Validity::of_member(wall())).unwrap()
}

/// A member that listens, with all of its routes open.
struct Listener {
    incoming: Incoming,
    address: SocketAddr,
    operators: mpsc::Receiver<OperatorConnection>,
    _joining: mpsc::Receiver<(tokio_rustls::server::TlsStream<tokio::net::TcpStream>, SocketAddr)>,
}

async fn listener(member: &NodeIdentity) -> Listener {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ((to_joining, joining), (to_operators, operators)) = (mpsc::channel(8), mpsc::channel(8));
    let route = JoinRoute { open: Box::new(|| true), connections: to_joining };
    let incoming = member.listen_with(
        listener,
        AcceptRoutes { joining: Some(route), operators: Some(to_operators), ..AcceptRoutes::default() },
    );
    Listener { incoming, address, operators, _joining: joining }
}

/// Whether `from` can connect to `to`, each with its current certificates: only then does `to` accept the connection.
async fn reaches(from: &NodeIdentity, to: &NodeIdentity) -> bool {
    let mut listener = listener(to).await;
    let endpoint = from.endpoint(&to.name, &listener.address.to_string()).unwrap();
    let there = tokio::spawn(async move { endpoint.connect().await });
    let accepted = tokio::time::timeout(std::time::Duration::from_millis(700), listener.incoming.next()).await;
    there.abort();
    matches!(accepted, Ok(Some(Ok(_))))
}

#[tokio::test]
async fn members_reach_each_other_in_every_step_of_a_rotation() {
    let old = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    let next = old.create_next(wall()).unwrap();
    let (a, a_dir) = own(&old, "a", MemberKind::Node);
    let (w, _w_dir) = own(&old, "w", MemberKind::Witness);
    let cross_signed_ca = cross_signed(&old, &next);
    let both_ways = async |step: &str| assert!(reaches(&a, &w).await && reaches(&w, &a).await, "{step}");

    a.trust(&cross_signed_ca).unwrap();
    a.trust(&cross_signed_ca).unwrap();
    assert_eq!((a.authorities().len(), a.issuer()), (2, old.fingerprint()));
    both_ways("one trusts both").await;
    // It shows a certificate of the next authority, and the link to it: peers that know only the old one accept it.
    let certificate = signed(&next.authority, &a);
    assert!(w.show(&certificate, &cross_signed_ca).is_err(), "another member's certificate");
    a.show(&certificate, &cross_signed_ca).unwrap();
    assert!(a.is_linked() && a.issuer() == next.authority.fingerprint());
    both_ways("one shows the next while the other has not accepted").await;
    w.trust(&cross_signed_ca).unwrap();
    w.show(&signed(&next.authority, &w), &cross_signed_ca).unwrap();
    both_ways("both show the next").await;
    // After a restart the state is the same.
    let again = NodeIdentity::load(a_dir.path()).unwrap();
    assert_eq!((again.authorities(), again.issuer(), again.is_linked()), (a.authorities(), a.issuer(), true));
    // A renewal meanwhile keeps the link.
    a.renew(&signed(&next.authority, &a)).unwrap();
    assert!(a.is_linked());
    a.forget(&old.fingerprint()).unwrap();
    assert!(!a.is_linked() && a.authorities().len() == 1);
    both_ways("one has dropped the old").await;
    w.forget(&old.fingerprint()).unwrap();
    both_ways("both have").await;
    // A member that was away during the whole rotation is refused now, and counts unknown authorities.
    let (late, _late_dir) = own(&old, "b", MemberKind::Node);
    assert!(!reaches(&late, &a).await && !reaches(&a, &late).await);
    assert!(late.unknown_authorities() > 0 && w.unknown_authorities() == 0);
}

#[test]
fn authority_that_is_not_cross_signed_is_refused() {
    let old = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    let (a, dir) = own(&old, "a", MemberKind::Node);
    let read = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
    let before = (read("ca.pem"), read("node.pem"));
    // By an impostor without the old one's key: of the same cluster, and even under the same name.
    let foreign = CertificateAuthority::create(old.cluster(), "office").unwrap();
    let theirs = foreign.create_next(wall()).unwrap();
    let error = a.trust(&cross_signed(&foreign, &theirs)).unwrap_err();
    assert!(matches!(error, PkiError::CrossSignedCa { .. }), "{error}");
    // Two that do not belong together, one alone, garbage, another cluster's.
    let ours = old.create_next(wall()).unwrap();
    let (pem, cross) = (ours.authority.certificate_pem(), ours.cross_pem.as_str());
    let leaf = old.issue(&name("b"), MemberKind::Node).unwrap().cert_pem;
    let two = format!("{pem}{cross}");
    for (certificate, cross) in
        [(theirs.authority.certificate_pem(), cross), ("", cross), (pem, "hello"), (&two, cross), (&leaf, &leaf)]
    {
        assert!(CrossSignedCa::read(old.cluster(), certificate, cross).is_err());
    }
    assert!(CrossSignedCa::read(ClusterId::random(), pem, cross).is_err());
    // The authority in use cannot be forgotten, and a certificate not signed by the next authority is not shown as its
    // own.
    a.forget(&old.fingerprint()).expect_err("its own");
    let cross_signed_ca = cross_signed(&old, &ours);
    a.show(&signed(&old, &a), &cross_signed_ca).expect_err("by the old one");
    a.show(&signed(&ours.authority, &a), &cross_signed_ca).expect_err("not trusted yet");
    assert_eq!((read("ca.pem"), read("node.pem")), before);
}

#[tokio::test]
async fn earlier_token_is_valid_until_its_authority_is_dropped() {
    let old = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    let next = old.create_next(wall()).unwrap();
    let (a, _dir) = own(&old, "a", MemberKind::Node);
    let token = |of: &str| {
        let expires = Timestamp(wall().0 + 60_000);
        JoinToken::new(old.cluster(), of, MemberKind::Node, expires, Vec::new()).unwrap()
    };
    let before = token(&a.authority_pem());
    let come = async |token: &JoinToken| {
        let listener = listener(&a).await;
        twinbox_pki::connect(token, &name("a"), &listener.address.to_string()).await.map(drop)
    };
    let cross_signed_ca = cross_signed(&old, &next);
    a.trust(&cross_signed_ca).unwrap();
    come(&before).await.unwrap();
    a.show(&signed(&next.authority, &a), &cross_signed_ca).unwrap();
    let after = token(&a.authority_pem());
    assert_ne!(before.fingerprint, after.fingerprint);
    assert!(before.is_of_authority(&a.authorities_pem()) && after.is_of_authority(&a.authorities_pem()));
    come(&before).await.unwrap();
    come(&after).await.unwrap();
    a.forget(&old.fingerprint()).unwrap();
    come(&after).await.unwrap();
    let error = come(&before).await.unwrap_err();
    assert_eq!(JoinObstacle::of(&error), Some(JoinObstacle::OtherAuthority), "{error}");
}

#[test]
fn one_seal_holds_two_authorities() {
    let (tls, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let old = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    let next = old.create_next(wall()).unwrap().authority;
    let seal = Seal::new(tls.path(), &data.path().join("seal.key"));
    seal.close(&old).unwrap();
    seal.close(&next).unwrap();
    seal.close(&next).unwrap();
    assert_eq!(seal.holds(), [old.fingerprint(), next.fingerprint()]);
    for authority in [&old, &next] {
        let opened = seal.open(&authority.fingerprint()).unwrap();
        assert_eq!(
            (opened.key_pem(), opened.certificate_pem()),
            (authority.key_pem(), authority.certificate_pem())
        );
    }
    seal.keep_only(&[next.fingerprint()]).unwrap();
    assert_eq!(seal.holds(), [next.fingerprint()]);
    assert!(seal.open(&old.fingerprint()).is_err());
    // Its certificate is bound to the seal: with another certificate it does not open.
    let file = tls.path().join("ca.sealed");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(tls.path().join("other"), "").unwrap();
    let (_, rest) = text.lines().nth(1).unwrap().split_once(' ').unwrap();
    let other = TempDir::new().unwrap();
    let theirs = Seal::new(other.path(), &other.path().join("seal.key"));
    theirs.close(&old).unwrap();
    let theirs = fs::read_to_string(other.path().join("ca.sealed")).unwrap();
    let (certificate, _) = theirs.lines().nth(1).unwrap().split_once(' ').unwrap();
    fs::write(&file, format!("{}\n{certificate} {rest}\n", text.lines().next().unwrap())).unwrap();
    assert!(seal.holds().is_empty() && seal.open(&old.fingerprint()).is_err());
}

/// An operator's files, signed for `validity`.
fn operator(authority: &CertificateAuthority, who: &str, validity: Validity, dir: &Path) -> OperatorIdentity {
    let key = OperatorKey::make().unwrap();
    let certificate = authority.certify_operator(&key.public_key(), &name(who), validity).unwrap();
    OperatorKey::fits(dir).unwrap();
    key.save(dir, &certificate, authority.certificate_pem()).unwrap();
    OperatorKey::fits(dir).expect_err("there is one already");
    let operator = OperatorIdentity::load(dir).unwrap();
    assert_eq!(operator.subject.name, name(who));
    assert!(fingerprint_of(&certificate).is_ok());
    operator
}

#[tokio::test]
async fn operator_reaches_only_the_operator_route() {
    let authority = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    let (a, _a_dir) = own(&authority, "a", MemberKind::Node);
    let dir = TempDir::new().unwrap();
    let anna = operator(&authority, "anna", Validity::of_member(wall()), dir.path());
    let mut listener = listener(&a).await;
    let address = listener.address.to_string();
    let served = tokio::spawn(async move {
        let mut stream = listener.operators.recv().await.unwrap().unwrap();
        // HTTP/2 servers send first; an accepted client receives that.
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"hello").await.unwrap();
        (listener, stream)
    });
    anna.connect(&address).await.unwrap();
    let (mut listener, _stream) = served.await.unwrap();

    // As if it were a member: the same files under a member's names, at the members' route.
    let disguise = TempDir::new().unwrap();
    for (from, to) in [("operator.pem", "node.pem"), ("operator.key", "node.key"), ("ca.pem", "ca.pem")] {
        fs::copy(dir.path().join(from), disguise.path().join(to)).unwrap();
    }
    NodeIdentity::load(disguise.path()).expect_err("no member's certificate");
    let refused_before = listener.incoming.refused().load(std::sync::atomic::Ordering::Relaxed);
    assert!(try_connect(&address, b"h2", dir.path(), &a, ["operator.pem", "operator.key"]).await.is_err());
    // And a member as if it were an operator.
    let (b, b_dir) = own(&authority, "b", MemberKind::Node);
    let error = OperatorIdentity::load_files(
        &b_dir.path().join("node.pem"),
        &b_dir.path().join("node.key"),
        &dir.path().join("ca.pem"),
    )
    .err()
    .unwrap();
    assert!(error.to_string().contains("operator"), "{error}");
    assert!(
        try_connect(&address, b"twinbox-operator/1", b_dir.path(), &a, ["node.pem", "node.key"]).await.is_err()
    );
    assert_eq!(listener.incoming.refused().load(std::sync::atomic::Ordering::Relaxed), refused_before + 2);
    // Each is admitted at its own route by the same means.
    assert!(
        try_connect(&address, b"twinbox-operator/1", dir.path(), &a, ["operator.pem", "operator.key"])
            .await
            .is_ok()
    );
    assert!(try_connect(&address, b"h2", b_dir.path(), &a, ["node.pem", "node.key"]).await.is_ok());
    assert!(listener.incoming.next().await.unwrap().is_ok() && listener.operators.recv().await.unwrap().is_ok());
    drop(b);
}

/// A TLS client that shows any given certificate, at any route. Returns whether the server accepted it.
async fn try_connect(
    address: &str,
    protocol: &[u8],
    dir: &Path,
    server: &NodeIdentity,
    files: [&str; 2],
) -> std::io::Result<()> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
    use tokio::io::AsyncReadExt;
    let read = |file: &str| fs::read(dir.join(file)).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.authority_pem().as_bytes()).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(&read(files[0])).unwrap()],
            PrivateKeyDer::from_pem_slice(&read(files[1])).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from(format!("{}.{}.twinbox", server.name, server.cluster)).unwrap();
    let stream = tokio::net::TcpStream::connect(address).await?;
    let mut stream = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await?;
    // A refusal comes immediately; an accepted client receives nothing.
    match tokio::time::timeout(std::time::Duration::from_millis(500), stream.read(&mut [0])).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

#[tokio::test]
async fn reason_of_a_refused_operator_is_known() {
    let authority = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    let (a, _a_dir) = own(&authority, "a", MemberKind::Node);
    let (w, _w_dir) = own(&authority, "w", MemberKind::Witness);
    let dirs: Vec<_> = (0..4).map(|_| TempDir::new().unwrap()).collect();
    let past = Validity { from: Timestamp(1_000_000_000_000), until: Timestamp(1_100_000_000_000) };
    let ended = operator(&authority, "anna", past, dirs[0].path());
    let good = operator(&authority, "anna", Validity::of_member(wall()), dirs[1].path());
    let foreign = CertificateAuthority::create(authority.cluster(), "office").unwrap();
    let unknown = operator(&foreign, "anna", Validity::of_member(wall()), dirs[2].path());
    // It trusts this cluster's authority, but was signed by another.
    operator(&foreign, "anna", Validity::of_member(wall()), dirs[3].path());
    fs::write(dirs[3].path().join("ca.pem"), authority.certificate_pem()).unwrap();
    let forged = OperatorIdentity::load(dirs[3].path()).unwrap();
    let (at_a, at_w) = (listener(&a).await, listener(&w).await);
    // A member's listener without a route for operators.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    let _closed = a.listen(listener);
    let cases = [
        (&ended, at_a.address, OperatorObstacle::Expired),
        (&unknown, at_a.address, OperatorObstacle::OtherAuthority),
        (&forged, at_a.address, OperatorObstacle::NotAccepted),
        (&good, at_w.address, OperatorObstacle::OtherMember),
        (&good, closed, OperatorObstacle::NoOperatorRoute),
    ];
    for (operator, address, expected) in cases {
        let error = operator.connect(&address.to_string()).await.err().unwrap();
        assert_eq!(OperatorObstacle::of(&error), Some(expected), "{error}");
    }
    for (file, blamed) in [("operator.pem", "operator.pem"), ("operator.key", "operator.key"), ("ca.pem", "ca.pem")]
    {
        let kept = fs::read(dirs[1].path().join(file)).unwrap();
        fs::write(dirs[1].path().join(file), "hello").unwrap();
        let error = OperatorIdentity::load(dirs[1].path()).err().unwrap().to_string();
        assert!(error.contains(blamed), "{error}");
        fs::write(dirs[1].path().join(file), kept).unwrap();
    }
}
