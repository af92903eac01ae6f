//! TLS from the first byte and by STARTTLS.

use std::{io::Write, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tempfile::NamedTempFile;
use tokio_rustls::TlsAcceptor;
use twinbox_imap::{ImapError, Security};

use crate::support::{Fake, password, play, signed_in};

/// CA of a test.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: NamedTempFile,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(certificate.pem().as_bytes()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    /// Server with a certificate for this name.
    fn serve(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A server that follows `before` in plain text, then `after` in TLS.
async fn serve(acceptor: TlsAcceptor, before: &'static str, after: String) -> Fake {
    Fake::with(move |mut stream| async move {
        play(&mut stream, before).await;
        // A client that refuses the certificate is no mistake of the server.
        if let Ok(stream) = acceptor.accept(stream).await {
            play(stream, &after).await;
        }
    })
    .await
}

const STARTTLS: &str = "S: * OK [CAPABILITY IMAP4rev1 STARTTLS AUTH=GSSAPI] hello\n\
                        C: STARTTLS\n\
                        S: TAG OK begin";

#[tokio::test]
async fn certificates_are_checked_unless_the_administrator_says_otherwise() {
    let (own, other) = (Authority::new("own"), Authority::new("other"));
    for (name, trusted, insecure, expected) in [
        ("127.0.0.1", &own, false, None),
        ("127.0.0.1", &other, false, Some("unknown authority")),
        ("mail.example", &own, false, Some("another name")),
        ("mail.example", &other, true, None),
    ] {
        for security in [Security::Implicit, Security::StartTls] {
            let (before, after) = match security {
                Security::StartTls => {
                    // The greeting is not repeated, and the capabilities are asked for again.
                    let again = "C: CAPABILITY\nS: * CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR\nS: TAG OK done\n";
                    let rest = signed_in("", "").lines().skip(1).collect::<Vec<_>>().join("\n");
                    (STARTTLS, again.to_owned() + &rest)
                }
                _ => ("", signed_in("", "")),
            };
            let mut fake = serve(own.serve(name), before, after).await;
            fake.config.security = security;
            fake.config.insecure = insecure;
            fake.config.ca_file = Some(trusted.file.path().to_owned());
            match (fake.connect(&password()).await, expected) {
                (Ok(_), None) => {}
                (Err(error @ ImapError::Tls { .. }), Some(text)) => {
                    assert!(error.to_string().contains(text), "{name}: {error}");
                }
                (result, _) => panic!("{name}, {security:?}: {result:?}"),
            }
            fake.done().await;
        }
    }
}

#[tokio::test]
async fn password_is_not_sent_without_the_tls_that_is_asked_for() {
    let authority = Authority::new("own");
    for (before, expected) in [
        ("S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hello", "offers no STARTTLS"),
        (
            "S: * OK [CAPABILITY IMAP4rev1 STARTTLS] hello\nC: STARTTLS\nS: TAG NO not now",
            "refused STARTTLS: not now",
        ),
        ("S: * PREAUTH hello", "does not follow IMAP"),
    ] {
        let mut fake = Fake::new(before).await;
        fake.config.security = Security::StartTls;
        fake.config.ca_file = Some(authority.file.path().to_owned());
        let error = fake.connect(&password()).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        fake.done().await;
    }
}

#[tokio::test]
async fn plain_text_after_starttls_is_not_taken_into_the_protected_connection() {
    // One write: the client reads the injected line together with the answer.
    let fake = Fake::with(|mut stream| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        stream.write_all(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hello\r\n").await.unwrap();
        let mut command = [0; 13];
        stream.read_exact(&mut command).await.unwrap();
        assert_eq!(&command, b"t1 STARTTLS\r\n");
        stream.write_all(b"t1 OK begin\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n").await.unwrap();
    })
    .await;
    let mut config = fake.config.clone();
    config.security = Security::StartTls;
    let error = twinbox_imap::Client::connect(&config, &password(), crate::support::Permits::new(9)).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("tampered"), "{error}");
    fake.done().await;
}

#[tokio::test]
async fn files_of_authorities_that_cannot_be_used_are_named() {
    let empty = NamedTempFile::new().unwrap();
    for (path, reason) in [(empty.path(), "no certificate"), (std::path::Path::new("/nowhere/ca.pem"), "/nowhere")]
    {
        let mut fake = Fake::new("SILENCE").await;
        fake.config.security = Security::Implicit;
        fake.config.ca_file = Some(path.to_owned());
        let error = fake.connect(&password()).await.unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains(reason), "{error}");
        fake.done().await;
    }
}
