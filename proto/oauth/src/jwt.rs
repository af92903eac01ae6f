//! Signed assertion of a service account (RFC 7523 §2.1, RS256 of RFC 7518 §3.3).

use std::path::Path;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use serde::Deserialize;
use serde_json::json;
use tokio_rustls::rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use twinbox_ids::Timestamp;

use crate::error::TokenError;

/// Seconds by which an assertion is dated back: the clock of the provider may be behind.
const DATED_BACK: u64 = 30;
/// Seconds for which an assertion is valid.
const VALID: u64 = 600;

/// Fields of the JSON file of a service account that are used.
#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    private_key: String,
    private_key_id: Option<String>,
}

/// Key of a service account.
pub(crate) struct ServiceKey {
    email: String,
    id: Option<String>,
    key: RsaKeyPair,
}

impl ServiceKey {
    /// Key in the text of the JSON file at `path`.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, TokenError> {
        let wrong = |reason: &str| TokenError::KeyFile { path: path.to_owned(), reason: reason.to_owned() };
        // The error of the parser may quote the key.
        let file: KeyFile = serde_json::from_str(text)
            .map_err(|_| wrong("it is no JSON object with client_email and private_key"))?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(file.private_key.as_bytes())
            .map_err(|_| wrong("private_key is no PEM section PRIVATE KEY"))?;
        let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der())
            .map_err(|error| wrong(&format!("private_key is no usable RSA key: {error}")))?;
        Ok(Self { email: file.client_email, id: file.private_key_id, key })
    }

    /// Assertion that this service account acts for `user`. `None` if the key cannot sign.
    pub(crate) fn assertion(&self, audience: &str, scope: &str, user: &str, now: Timestamp) -> Option<String> {
        let issued = (now.0 / 1_000).saturating_sub(DATED_BACK);
        let mut header = json!({ "alg": "RS256", "typ": "JWT" });
        if let (Some(id), Some(fields)) = (&self.id, header.as_object_mut()) {
            fields.insert("kid".to_owned(), json!(id));
        }
        let claims = json!({
            "iss": self.email,
            "sub": user,
            "scope": scope,
            "aud": audience,
            "iat": issued,
            "exp": issued + VALID,
        });
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).ok()?;
        Some(format!("{signed}.{}", encode(&signature)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_key_file_is_refused_without_quoting_it() {
        let path = Path::new("/etc/twinbox/key.json");
        for text in [
            "",
            "geheim",
            r#"{"client_email":"a@b"}"#,
            r#"{"client_email":"a@b","private_key":"geheim"}"#,
            "{\"client_email\":\"a@b\",\"private_key\":\"-----BEGIN PRIVATE KEY-----\\nZ2VoZWlt\\n\
             -----END PRIVATE KEY-----\\n\"}",
        ] {
            let error = ServiceKey::parse(path, text).err().expect("no key").to_string();
            assert!(error.contains("/etc/twinbox/key.json") && !error.contains("geheim"), "{error}");
        }
    }
}
