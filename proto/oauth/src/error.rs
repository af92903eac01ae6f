//! Reasons why there is no token, and texts of the endpoint made safe to show.

use std::{fmt::Display, path::PathBuf};

use oauth2::{ErrorResponseType, RequestTokenError, StandardErrorResponse};

/// Longest text of the endpoint that an error shows, in characters.
const LONGEST_TEXT: usize = 300;

/// Reason why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The URL cannot be used.
    #[error(
        "'{0}' is not a usable URL of a token endpoint: write https://HOST/PATH; http:// only for this machine"
    )]
    Url(String),
    /// The file of CA certificates cannot be used.
    #[error("cannot read CA certificates from '{path}': {reason}; give a PEM file")]
    Authorities {
        /// Path of the file.
        path: PathBuf,
        /// Reason of the failure.
        reason: String,
    },
    /// The system has no CA certificates.
    #[error("this machine has no CA certificates: install ca-certificates, or set ca-file")]
    NoAuthorities,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// A file with a secret cannot be used.
    #[error("cannot use the secret in '{path}': {reason}; write it alone into this file, readable by twinbox")]
    SecretFile {
        /// Path of the file.
        path: PathBuf,
        /// Reason of the failure.
        reason: String,
    },
    /// The key of a service account cannot be used.
    #[error("cannot use the key of a service account in '{path}': {reason}; give the JSON file of the provider")]
    KeyFile {
        /// Path of the file.
        path: PathBuf,
        /// Reason of the failure.
        reason: String,
    },
    /// The endpoint was not reached or has not answered.
    #[error("token endpoint {host}: {reason}; the request is repeated later")]
    Unreachable {
        /// Host of the endpoint.
        host: String,
        /// Reason of the failure.
        reason: String,
    },
    /// The endpoint refuses (RFC 6749 §5.2).
    #[error("token endpoint {host} refuses with {code}: {text}; check client, secret, scope and consent")]
    Refused {
        /// Host of the endpoint.
        host: String,
        /// Code of the error, such as `invalid_client`.
        code: String,
        /// Description by the endpoint, without secrets and without the user.
        text: String,
    },
    /// The answer of the endpoint cannot be used.
    #[error("token endpoint {host}: {reason}; check the token URL")]
    Answer {
        /// Host of the endpoint.
        host: String,
        /// Reason why the answer cannot be used.
        reason: String,
    },
}

impl TokenError {
    /// The endpoint refused the request: only an administrator can change that.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// The refusal may be of one user alone, such as one that the provider does not have.
    pub(crate) fn is_of_a_user(&self) -> bool {
        const CODES: [&str; 3] = ["invalid_grant", "unauthorized_client", "access_denied"];
        matches!(self, Self::Refused { code, .. } if CODES.contains(&code.as_str()))
    }

    /// The grant itself is refused: for a refresh token, that token.
    pub(crate) fn is_of_the_grant(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "invalid_grant")
    }
}

/// The failure of a request to the endpoint `host`. `hidden` lists secrets and names that its texts must not show.
pub(crate) fn failure<C>(
    host: &str,
    error: RequestTokenError<TokenError, StandardErrorResponse<C>>,
    hidden: &[&str],
) -> TokenError
where
    C: ErrorResponseType + Display + 'static,
{
    match error {
        RequestTokenError::ServerResponse(answer) => refused(host, &answer, hidden),
        RequestTokenError::Request(error) => error,
        // The error of the parser may quote a token.
        RequestTokenError::Parse(..) => {
            let reason = "its answer is not that of a token endpoint".to_owned();
            TokenError::Answer { host: host.to_owned(), reason }
        }
        RequestTokenError::Other(reason) => {
            TokenError::Answer { host: host.to_owned(), reason: shown(&reason, hidden) }
        }
    }
}

/// The refusal in an answer of the endpoint `host`.
pub(crate) fn refused<C>(host: &str, answer: &StandardErrorResponse<C>, hidden: &[&str]) -> TokenError
where
    C: ErrorResponseType + Display,
{
    let text = answer.error_description().map_or("no description", String::as_str);
    TokenError::Refused {
        host: host.to_owned(),
        code: shown(&answer.error().to_string(), hidden),
        text: shown(text, hidden),
    }
}

/// The first line of a text of the endpoint: bounded, without control characters, without what is hidden, and without
/// the ids by which Microsoft makes each description another one.
pub(crate) fn shown(text: &str, hidden: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in hidden.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "•••");
    }
    let line = text.lines().next().unwrap_or_default();
    let line = line.split("Trace ID:").next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_endpoint_are_bounded_and_hide_secrets() {
        assert_eq!(shown("AADSTS7000215: wrong. Trace ID: 1 Timestamp: 2", &[]), "AADSTS7000215: wrong.");
        assert_eq!(shown("first\r\nTrace ID: 7", &[]), "first");
        assert_eq!(shown("no client abc with x\u{1b}[31m", &["abc", ""]), "no client ••• with x[31m");
        assert_eq!(shown(&"ä".repeat(10_000), &[]).chars().count(), LONGEST_TEXT);
    }
}
