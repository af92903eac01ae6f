//! DKIM signatures, verified by ring and by Debian's python3-dkim.

use crate::common::{attachment, has_python, notice, python, voice_message};
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    digest,
    signature::{ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
};
use twinbox_mail::{
    compose::Notice,
    dkim::{DkimError, HEADERS, Key, Signer},
};

/// Keys of these tests alone.
const RSA: &str = include_str!("keys/rsa.pem");
const ED25519_KEY: &str = include_str!("keys/ed25519.pem");

fn signers() -> [Signer; 2] {
    let rsa = Signer::new("Twinbox.example", "s1", Key::rsa(RSA).unwrap(), &HEADERS).unwrap();
    let ed25519 = Signer::new("twinbox.example", "s2", Key::ed25519(ED25519_KEY).unwrap(), &HEADERS).unwrap();
    [rsa, ed25519]
}

fn mails() -> Vec<Vec<u8>> {
    let umlauts = Notice { subject: "Grüße  aus  Köln".repeat(5), text: " a  b \n\n\n".to_owned(), ..notice() };
    let audio = Notice { audio: Some(attachment()), ..notice() };
    vec![notice().compose(), umlauts.compose(), audio.compose(), voice_message().compose()]
}

/// The value of a tag without white space.
fn tag(header: &str, name: &str) -> String {
    let unfolded: String = header.split_once(':').unwrap().1.split_ascii_whitespace().collect();
    let value = unfolded.split(';').find_map(|tag| tag.strip_prefix(name)?.strip_prefix('=').map(str::to_owned));
    value.unwrap_or_else(|| panic!("{name} in {header}"))
}

#[test]
fn signature_verifies_with_the_public_key_of_the_record() {
    let mail = b"From: a@twinbox.example\r\nSubject:  a \r\n\tb\r\nX-Other: not signed\r\n\r\nbody \r\n\r\n";
    // Written by hand, so that the crate does not check itself.
    let body_hash = STANDARD.encode(digest::digest(&digest::SHA256, b"body\r\n"));
    for (signer, algorithm) in signers().iter().zip(["rsa-sha256", "ed25519-sha256"]) {
        let header = signer.sign(mail, 1_700_000_000).unwrap();
        assert!(header.ends_with("\r\n") && header.lines().all(|line| line.len() <= 78), "{header}");
        for (name, value) in [
            ("v", "1"),
            ("a", algorithm),
            ("c", "relaxed/relaxed"),
            ("d", "twinbox.example"),
            ("t", "1700000000"),
            ("h", "from:subject:from"),
            ("bh", &body_hash),
        ] {
            assert_eq!(tag(&header, name), value);
        }
        let unsigned = header.split_once("\r\n b=").unwrap().0.split_once(": ").unwrap().1;
        let words: Vec<&str> = unsigned.split_ascii_whitespace().collect();
        let signed = format!("from:a@twinbox.example\r\nsubject:a b\r\ndkim-signature:{} b=", words.join(" "));
        let signature = STANDARD.decode(tag(&header, "b")).unwrap();
        let record = signer.dns_record();
        let public = STANDARD.decode(record.split_once("p=").unwrap().1).unwrap();
        let verified = match algorithm {
            // The RSA key lies behind 24 bytes of its SubjectPublicKeyInfo.
            "rsa-sha256" => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &public[24..])
                .verify(signed.as_bytes(), &signature),
            _ => UnparsedPublicKey::new(&ED25519, &public[..])
                .verify(digest::digest(&digest::SHA256, signed.as_bytes()).as_ref(), &signature),
        };
        assert_eq!(verified, Ok(()), "{header}");
    }
}

#[test]
fn mail_without_sender_and_wrong_kinds_of_key_are_refused() {
    let [rsa, _] = signers();
    assert_eq!(rsa.sign(b"Subject: x\r\n\r\nFrom: a@b", 0), Err(DkimError::NoFrom));
    assert!(matches!(Key::rsa(ED25519_KEY), Err(DkimError::Rsa(_))));
    assert!(matches!(Key::ed25519(RSA), Err(DkimError::Ed25519(_))));
    let error = Signer::new("a b", "s", Key::rsa(RSA).unwrap(), &HEADERS).unwrap_err();
    assert!(error.to_string().contains("'a b'"), "{error}");
    assert_eq!(rsa.dns_name(), "s1._domainkey.twinbox.example");
}

#[test]
fn python_dkim_verifies_signatures_and_notices_changes() {
    if !has_python("dkim, nacl", "python3-dkim (apt-get install python3-dkim python3-nacl)") {
        return;
    }
    const SCRIPT: &str = r#"
import sys, dkim
mail, name, record = sys.stdin.buffer.read(), sys.argv[1], sys.argv[2].encode()
def dns(asked, timeout=5):
    asked = asked.decode() if isinstance(asked, bytes) else asked
    return record if asked.rstrip(".") == name else None
def holds(mail):
    try:
        return dkim.verify(mail, dnsfunc=dns)
    except dkim.DKIMException as error:
        return error
print(holds(mail))
print(holds(b"Received: from a\r\n\tby b\r\n" + mail.replace(b"Subject: ", b"SUBJECT:   ")))
print(holds(mail.replace(b"Date: Sat", b"Date: Sun")))
print(holds(mail + b"more\r\n"))
print(holds(mail.replace(b"\r\nTo:", b"\r\nFrom: <evil@example.org>\r\nTo:")))
"#;
    for signer in signers() {
        for mail in mails() {
            let header = signer.sign(&mail, 1_700_000_000).unwrap();
            let signed = [header.as_bytes(), &mail].concat();
            let output = python(SCRIPT, &[&signer.dns_name(), &signer.dns_record()], &signed);
            assert_eq!(output, "True\nTrue\nFalse\nFalse\nFalse\n", "{header}");
        }
    }
}
