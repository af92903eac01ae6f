//! Real handshakes over loopback: clients admitted, their identity, and clients refused.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status, transport::server::Connected};
use twinbox_clock::wall;
use twinbox_ids::{ClusterId, NodeName, Timestamp};
use twinbox_pki::{
    AcceptRoutes, CertificateAuthority, CertificateClock, Incoming, Issued, MemberKind, NodeIdentity, PeerError,
    PeerIdentity, PkiError, Validity, peer_of,
};

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn identity(issued: &Issued) -> NodeIdentity {
    let dir = TempDir::new().unwrap();
    issued.save(dir.path()).unwrap();
    NodeIdentity::load(dir.path()).unwrap()
}

async fn listen(identity: &NodeIdentity) -> (Incoming, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (identity.listen(listener), address)
}

/// Connects as an arbitrary client: trusts the server, and shows the given certificate. Returns the outcome once the
/// server has decided.
async fn try_connect(
    address: SocketAddr,
    server: &str,
    ca_pem: &str,
    shown: Option<&Issued>,
) -> std::io::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        Some(shown) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(shown.cert_pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(shown.key_pem.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let server = ServerName::try_from(server.to_owned()).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(server, stream).await?;
    stream.write_all(b"x").await?;
    // The server's verdict on the client comes after the client's last handshake message.
    let mut byte = [0];
    stream.read_exact(&mut byte).await.map(drop)
}

#[tokio::test]
async fn members_verify_the_name_of_each_other() {
    let cluster = ClusterId::random();
    let authority = CertificateAuthority::create(cluster, "office").unwrap();
    let a = identity(&authority.issue(&name("a"), MemberKind::Node).unwrap());
    let w = identity(&authority.issue(&name("w"), MemberKind::Witness).unwrap());
    let (mut incoming, address) = listen(&a).await;

    let endpoint = w.endpoint(&name("a"), &address.to_string()).unwrap();
    let (channel, accepted) = tokio::join!(endpoint.connect(), incoming.next());
    channel.unwrap();
    let mut request = Request::new(());
    request.extensions_mut().insert(accepted.unwrap().unwrap().connect_info());
    let expected = PeerIdentity { cluster, name: name("w"), kind: MemberKind::Witness };
    assert_eq!(peer_of(&request), Ok(expected.clone()));
    assert_eq!(a.admit(&request), Ok(expected.clone()));

    let ours = ClusterId::random();
    let refused = expected.of_cluster(ours).unwrap_err();
    assert_eq!(refused, PeerError::WrongCluster { name: name("w"), theirs: cluster, ours });
    assert_eq!(Status::from(refused).code(), Code::PermissionDenied);
}

#[tokio::test]
async fn handshakes_go_by_the_clock_of_the_identity() {
    let cluster = ClusterId::random();
    let authority = CertificateAuthority::create(cluster, "office").unwrap();
    let now = wall().0;
    let time = Arc::new(AtomicU64::new(now));
    let clock = {
        let time = time.clone();
        CertificateClock::new(move || Timestamp(time.load(Relaxed)))
    };
    let dir = TempDir::new().unwrap();
    authority.issue(&name("a"), MemberKind::Node).unwrap().save(dir.path()).unwrap();
    let a = NodeIdentity::load_with(dir.path(), clock.clone()).unwrap();
    let issued = authority.issue(&name("b"), MemberKind::Node).unwrap();
    let b = identity(&issued);
    let (mut incoming, to_a) = listen(&a).await;
    let (mut at_b, to_b) = listen(&b).await;
    let (endpoint, back) =
        (b.endpoint(&name("a"), &to_a.to_string()).unwrap(), a.endpoint(&name("b"), &to_b.to_string()).unwrap());

    // Certificates of members are valid for a year.
    time.store(now + 400 * 86_400_000, Relaxed);
    let server = format!("a.{cluster}.twinbox");
    let refused = try_connect(to_a, &server, authority.certificate_pem(), Some(&issued)).await;
    assert!(refused.is_err(), "as a server, a refuses an expired certificate");
    assert!(back.connect().await.is_err(), "as a client, too");
    assert!(matches!(NodeIdentity::load_with(dir.path(), clock), Err(PkiError::NotNow { .. })));
    time.store(now, Relaxed);
    for (endpoint, incoming) in [(endpoint, &mut incoming), (back, &mut at_b)] {
        let (channel, accepted) = tokio::join!(endpoint.connect(), incoming.next());
        assert!(channel.is_ok() && accepted.is_some_and(|accepted| accepted.is_ok()));
    }
}

#[tokio::test]
async fn role_manager_connections_use_their_own_route_if_it_exists() {
    let authority = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    let a = identity(&authority.issue(&name("a"), MemberKind::Node).unwrap());
    let b = identity(&authority.issue(&name("b"), MemberKind::Node).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (route, mut routed) = tokio::sync::mpsc::channel(1);
    let mut incoming = a.listen_with(listener, AcceptRoutes { roles: Some(route), ..AcceptRoutes::default() });
    let rest = b.endpoint(&name("a"), &address).unwrap();
    let roles = rest.clone().for_roles();

    let (channel, accepted) = tokio::join!(roles.connect(), routed.recv());
    assert!(channel.is_ok() && accepted.is_some_and(|accepted| accepted.is_ok()));
    let (channel, accepted) = tokio::join!(rest.connect(), incoming.next());
    assert!(channel.is_ok() && accepted.is_some_and(|accepted| accepted.is_ok()));
    assert!(routed.try_recv().is_err(), "all others come as ever");

    // A server without that route, as in earlier releases, takes them as any other.
    let (mut incoming, address) = listen(&a).await;
    let endpoint = b.endpoint(&name("a"), &address.to_string()).unwrap().for_roles();
    let (channel, accepted) = tokio::join!(endpoint.connect(), incoming.next());
    assert!(channel.is_ok() && accepted.is_some_and(|accepted| accepted.is_ok()));
}

#[tokio::test]
async fn server_with_another_name_is_refused() {
    let authority = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    let a = identity(&authority.issue(&name("a"), MemberKind::Node).unwrap());
    let b = identity(&authority.issue(&name("b"), MemberKind::Node).unwrap());
    let (_incoming, address) = listen(&a).await;
    let endpoint = b.endpoint(&name("c"), &address.to_string()).unwrap();
    assert!(endpoint.connect().await.is_err());
}

#[tokio::test]
async fn client_without_a_member_certificate_is_refused_and_counted() {
    let cluster = ClusterId::random();
    let authority = CertificateAuthority::create(cluster, "office").unwrap();
    let a = identity(&authority.issue(&name("a"), MemberKind::Node).unwrap());
    let (incoming, address) = listen(&a).await;
    let server = format!("a.{cluster}.twinbox");
    let ca_pem = authority.certificate_pem();

    let issued = authority.issue(&name("b"), MemberKind::Node).unwrap();
    let past = Validity { from: Timestamp(1_000_000_000_000), until: Timestamp(1_100_000_000_000) };
    // The same cluster id, claimed by an impostor without the authority's key.
    let foreign = CertificateAuthority::create(cluster, "office").unwrap();
    // The authority's certificate shown as if it were a member's.
    let dir = TempDir::new().unwrap();
    authority.save(dir.path()).unwrap();
    let as_leaf = Issued {
        cert_pem: ca_pem.to_owned(),
        key_pem: fs::read_to_string(dir.path().join("ca.key")).unwrap(),
        ca_pem: ca_pem.to_owned(),
    };
    let refused = [
        ("no certificate", None),
        ("a foreign authority", Some(foreign.issue(&name("b"), MemberKind::Node).unwrap())),
        ("another cluster", {
            let other = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
            Some(other.issue(&name("b"), MemberKind::Node).unwrap())
        }),
        ("an expired certificate", Some(authority.issue_for(&name("b"), MemberKind::Node, past).unwrap())),
        ("the authority itself", Some(as_leaf)),
    ];
    for (count, (what, shown)) in (1..).zip(&refused) {
        let error = try_connect(address, &server, ca_pem, shown.as_ref()).await.expect_err(what);
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{what}: {error}");
        assert_eq!(incoming.refused().load(Relaxed), count, "{what}");
    }

    // A member connects after all of these; no server answers it, so it waits.
    let mut incoming = incoming;
    let member = tokio::spawn({
        let (server, ca_pem) = (server.clone(), ca_pem.to_owned());
        async move { try_connect(address, &server, &ca_pem, Some(&issued)).await }
    });
    let mut stream = incoming.next().await.unwrap().unwrap();
    stream.write_all(b"y").await.unwrap();
    member.await.unwrap().unwrap();
}

/// Connections from an address of this machine that send nothing.
async fn connect_silently(from: &str, to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(from.parse().unwrap()).unwrap();
        silent.push(socket.connect(to).await.unwrap());
    }
    silent
}

#[tokio::test]
async fn silent_connections_do_not_keep_members_out() {
    let authority = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    let a = identity(&authority.issue(&name("a"), MemberKind::Node).unwrap());
    let w = identity(&authority.issue(&name("w"), MemberKind::Witness).unwrap());
    let (mut incoming, address) = listen(&a).await;
    let mut silent = connect_silently("127.0.0.2:0", address, 100).await;
    // A member does not wait for their timeout.
    let endpoint = w.endpoint(&name("a"), &address.to_string()).unwrap();
    let both = async { tokio::join!(endpoint.connect(), incoming.next()) };
    let (channel, accepted) = timeout(Duration::from_millis(1_500), both).await.expect("a member in time");
    channel.unwrap();
    accepted.unwrap().unwrap();
    assert_eq!(incoming.refused().load(Relaxed), 84, "sixteen of one address are accepted out");
    // Sooner than the timeout of a handshake.
    let closed = async {
        for stream in &mut silent {
            assert_eq!(stream.read(&mut [0]).await.unwrap_or_default(), 0);
        }
    };
    timeout(Duration::from_secs(4), closed).await.expect("closed");
    // Their slots are free again.
    for mut stream in connect_silently("127.0.0.2:0", address, 16).await {
        assert!(timeout(Duration::from_millis(50), stream.read(&mut [0])).await.is_err(), "accepted out");
    }
}

#[tokio::test]
async fn machines_that_hold_slots_silently_do_not_keep_members_out() {
    let authority = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    let a = identity(&authority.issue(&name("a"), MemberKind::Node).unwrap());
    let w = identity(&authority.issue(&name("w"), MemberKind::Witness).unwrap());
    let (mut incoming, address) = listen(&a).await;
    let endpoint = w.endpoint(&name("a"), &address.to_string()).unwrap();
    let mut silent = Vec::new();
    // First as many as four full shares, then more machines than there are slots that any machine may take.
    for (machines, each) in [(2..6, 16), (10..40, 4)] {
        for machine in machines {
            silent.extend(connect_silently(&format!("127.0.0.{machine}:0"), address, each).await);
        }
        // The member does not wait for their timeout.
        let both = async { tokio::join!(endpoint.connect(), incoming.next()) };
        let (channel, accepted) = timeout(Duration::from_millis(1_500), both).await.expect("a member in time");
        channel.unwrap();
        accepted.unwrap().unwrap();
    }
}

/// Certificates that an authority signs for another cluster are refused: the constraint is in its own certificate.
#[tokio::test]
async fn authority_cannot_sign_for_another_cluster() {
    let (ours, theirs) = (ClusterId::random(), ClusterId::random());
    let authority = CertificateAuthority::create(ours, "office").unwrap();
    let dir = TempDir::new().unwrap();
    authority.save(dir.path()).unwrap();
    let key = rcgen::KeyPair::from_pem(&fs::read_to_string(dir.path().join("ca.key")).unwrap()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(authority.certificate_pem(), key).unwrap();
    let mut params = rcgen::CertificateParams::new(vec![format!("b.{theirs}.twinbox")]).unwrap();
    params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, "node");
    let key = rcgen::KeyPair::generate().unwrap();
    let forged = Issued {
        cert_pem: params.signed_by(&key, &issuer).unwrap().pem(),
        key_pem: key.serialize_pem(),
        ca_pem: authority.certificate_pem().to_owned(),
    };
    let a = identity(&authority.issue(&name("a"), MemberKind::Node).unwrap());
    let (incoming, address) = listen(&a).await;
    let server = format!("a.{ours}.twinbox");
    assert!(try_connect(address, &server, &forged.ca_pem, Some(&forged)).await.is_err());
    assert_eq!(incoming.refused().load(Relaxed), 1);
}

#[test]
fn request_without_a_certificate_is_refused() {
    assert_eq!(peer_of(&Request::new(())), Err(PeerError::NoCertificate));
    assert_eq!(Status::from(PeerError::NoCertificate).code(), Code::Unauthenticated);
}

#[test]
fn invalid_address_is_named_in_the_error() {
    let authority = CertificateAuthority::create(ClusterId::random(), "office").unwrap();
    let a = identity(&authority.issue(&name("a"), MemberKind::Node).unwrap());
    let error = a.endpoint(&name("b"), "no address").err().unwrap().to_string();
    assert!(error.contains("'no address'") && error.contains("host:port"), "{error}");
}
