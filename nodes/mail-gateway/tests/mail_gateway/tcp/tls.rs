//! TLS: STARTTLS, and certificates that are replaced.

use std::{fs, path::Path};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use tokio_rustls::TlsConnector;
use twinbox_tls::ServedCertificate;

use super::*;

/// A self-signed certificate for `localhost`: its PEM files in this folder, and a client that trusts it alone.
fn certificate(folder: &Path) -> TlsConnector {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::write(folder.join("mail.pem"), made.cert.pem()).unwrap();
    fs::write(folder.join("mail.key"), made.signing_key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(made.cert.der().to_vec())).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(client))
}

/// A server with a certificate in this folder, and a client that trusts it.
async fn with_certificate(folder: &Path, networks: &[&str]) -> (Server, ServedCertificate, TlsConnector) {
    let connector = certificate(folder);
    let served = ServedCertificate::read(&folder.join("mail.pem"), &folder.join("mail.key")).unwrap();
    let server = Server::with_tls(Protocol::Smtp, Limits::default(), networks, Some(served.config())).await;
    (server, served, connector)
}

async fn encrypt(
    client: Client<TcpStream>,
    connector: &TlsConnector,
) -> Result<Client<tokio_rustls::client::TlsStream<TcpStream>>, std::io::Error> {
    let name = ServerName::try_from("localhost").unwrap();
    connector.connect(name, client.0).await.map(Client)
}

#[tokio::test]
async fn submission_needs_starttls_and_the_right_password() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _, connector) = with_certificate(folder.path(), &[]).await;
    let mut client = server.client().await;
    assert!(client.say("MAIL FROM:<anna@example.net>").await.starts_with("530 5.7.0"));
    assert!(client.say("AUTH PLAIN").await.starts_with("538 5.7.11"));
    assert!(client.say("STARTTLS").await.starts_with("220"));
    let mut client = encrypt(client, &connector).await.unwrap();
    assert!(client.say("EHLO c").await.contains("AUTH PLAIN LOGIN"));
    let wrong = format!("AUTH PLAIN {}", STANDARD.encode("\0anna\0wrong"));
    assert!(client.say(&wrong).await.starts_with("535 5.7.8"));
    assert!(client.say("AUTH LOGIN").await.starts_with("334 VXNlcm5hbWU6"));
    assert!(client.say(&STANDARD.encode("anna")).await.starts_with("334"));
    assert!(client.say(&STANDARD.encode("anna")).await.starts_with("235 2.7.0"));
    client.send("MAIL FROM:<anna@example.net>\r\nRCPT TO:<boris@example.net>\r\nDATA\r\n").await;
    client.expect(&["250 2.1.0", "250 2.1.5", "354"]).await;
    assert!(client.say("Subject: x\r\n\r\nhello\r\n.").await.starts_with("250 2.0.0 filed for boris"));
    assert!(client.say("QUIT").await.starts_with("221"));
    client.expect_end().await;
    let mails = server.mails();
    assert_eq!(mails[0].trust.user.as_deref(), Some("anna"));
    assert!(mails[0].trust.tls && mails[0].bytes.ends_with(b"Subject: x\r\n\r\nhello\r\n"));
    assert_eq!((server.count(Counter::SignIns), server.count(Counter::SignInsRefused)), (1, 1));
}

#[tokio::test]
async fn without_a_certificate_starttls_is_refused() {
    let server = Server::trusting(Protocol::Smtp, Limits::default()).await;
    assert!(server.client().await.say("STARTTLS").await.starts_with("454 4.7.0"));
}

#[tokio::test]
async fn replaced_certificate_is_used_by_new_connections() {
    let folder = tempfile::tempdir().unwrap();
    let (server, served, trusts_first) = with_certificate(folder.path(), &["127.0.0.0/8"]).await;
    let handshake = async |connector: &TlsConnector| {
        let mut client = server.client().await;
        assert!(client.say("STARTTLS").await.starts_with("220"));
        encrypt(client, connector).await.is_ok()
    };
    assert!(handshake(&trusts_first).await);
    let trusts_second = certificate(folder.path());
    assert!(handshake(&trusts_first).await, "before the files are read again");
    assert_eq!(served.reload(), Ok(true));
    assert!(handshake(&trusts_second).await);
    assert!(!handshake(&trusts_first).await);
    server.wait_until_closed().await;
    assert_eq!(server.count(Counter::TlsFailed), 1);
}

#[tokio::test]
async fn commands_sent_before_the_handshake_are_thrown_away() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _, connector) = with_certificate(folder.path(), &["127.0.0.0/8"]).await;
    let mut client = server.client().await;
    client.send("STARTTLS\r\nEHLO evil\r\nMAIL FROM:<evil@example.org>\r\nRCPT TO:<anna@example.net>\r\n").await;
    client.expect(&["220"]).await;
    let mut client = encrypt(client, &connector).await.unwrap();
    // Replies to the injected commands would come first.
    assert!(client.say("DATA").await.starts_with("503"));
    assert!(client.say("RCPT TO:<anna@example.net>").await.starts_with("503"));
    assert!(client.say("EHLO c").await.starts_with("250-"));
}
