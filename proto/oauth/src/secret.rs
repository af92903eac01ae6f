//! Tokens that print as `•••`, and files that hold secrets.

use std::path::Path;

use tokio::{fs::File, io::AsyncReadExt};
use twinbox_ids::Pii;

use crate::error::TokenError;

/// Longest file with a secret, in bytes.
const LONGEST_FILE: u64 = 64 * 1_024;
/// Longest token that is accepted, in bytes.
const LONGEST_TOKEN: usize = 16 * 1_024;

/// Access token (RFC 6749 §1.4). Formatting never shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessToken(Pii<String>);

/// Refresh token (RFC 6749 §1.5). Formatting never shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshToken(Pii<String>);

impl AccessToken {
    /// The token, if it has only visible ASCII characters (RFC 6749 §A.12): a control character would end the field of
    /// XOAUTH2 in which it is sent.
    pub(crate) fn new(text: &str) -> Option<Self> {
        is_token(text).then(|| Self(Pii::new(text.to_owned())))
    }

    /// The token itself: for the sign-in, never for a log.
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

impl RefreshToken {
    /// The token, if it has only visible ASCII characters (RFC 6749 §A.17).
    pub(crate) fn new(text: &str) -> Option<Self> {
        is_token(text).then(|| Self(Pii::new(text.to_owned())))
    }

    /// The token itself: for the file that keeps it, never for a log.
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST_TOKEN && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Reads a file that holds one secret. The end of the line does not belong to the secret.
pub(crate) async fn read(path: &Path) -> Result<String, TokenError> {
    let wrong = |reason: String| TokenError::SecretFile { path: path.to_owned(), reason };
    let file = File::open(path).await.map_err(|error| wrong(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(LONGEST_FILE + 1).read_to_end(&mut bytes).await.map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(wrong(format!("it is longer than {LONGEST_FILE} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_has_visible_ascii_characters_only_and_is_not_printed() {
        for (text, fine) in [
            ("ya29.a0Af_-~+/=", true),
            ("", false),
            ("a b", false),
            ("a\u{1}auth=", false),
            ("a\r\nb", false),
            ("tökén", false),
        ] {
            assert_eq!(AccessToken::new(text).is_some(), fine, "{text:?}");
            assert_eq!(RefreshToken::new(text).is_some(), fine, "{text:?}");
        }
        assert!(AccessToken::new(&"a".repeat(LONGEST_TOKEN + 1)).is_none());
        let token = AccessToken::new("secret").expect("a token");
        assert_eq!(format!("{token:?}").matches("secret").count(), 0);
        assert_eq!(token.reveal(), "secret");
    }
}
