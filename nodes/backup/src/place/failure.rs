//! Failures of an S3-compatible store, told apart, with the remedy.

use std::{error::Error, fmt};

use object_store::client::{HttpError, HttpErrorKind};

/// Maximum length of the reason that a store gives, in characters.
const MOST_DETAIL: usize = 300;

/// Kind of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3FailureKind {
    /// No connection to the store.
    Unreachable,
    /// The certificate of the store was not accepted.
    Certificate,
    /// The store gave no answer in time.
    Silent,
    /// The store does not know the access key, or the secret is another one.
    WrongKey,
    /// The key may not do this.
    Denied,
    /// There is no such bucket.
    NoBucket,
    /// The clock of this machine or of the store is wrong.
    Clock,
    /// The bucket is in another region.
    Region,
    /// There is no such object.
    Absent,
    /// Another failure.
    Other,
}

/// A failure of an S3-compatible store.
#[derive(Debug, Clone)]
pub struct S3Failure {
    /// Kind.
    pub kind: S3FailureKind,
    /// URL of the store.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// The operation with its object.
    pub what: String,
    /// Reason that the store or the connection gave.
    pub detail: String,
}

impl fmt::Display for S3Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, endpoint, bucket, what, detail } = self;
        match kind {
            S3FailureKind::Unreachable => write!(
                f,
                "no connection to {endpoint} for bucket '{bucket}' ({detail}): check backup.s3.endpoint, its port, and \
                 the network of this machine"
            ),
            S3FailureKind::Certificate => write!(
                f,
                "the certificate of {endpoint} is not accepted ({detail}): name the file of its authority in \
                 backup.s3.ca_file, or correct the certificate"
            ),
            S3FailureKind::Silent => write!(
                f,
                "{endpoint} gave no answer for bucket '{bucket}' ({detail}), could not {what}: check that the store \
                 works, or raise backup.s3.timeout_seconds"
            ),
            S3FailureKind::WrongKey => write!(
                f,
                "{endpoint} does not accept the key for bucket '{bucket}' ({detail}): correct backup.s3.access_key and \
                 backup.s3.secret_key"
            ),
            S3FailureKind::Denied => write!(
                f,
                "{endpoint} refuses to {what} ({detail}): allow the key to list bucket '{bucket}', and to get, put and \
                 delete its objects"
            ),
            S3FailureKind::NoBucket => write!(
                f,
                "there is no bucket '{bucket}' at {endpoint}: create it, or correct the destination (s3://BUCKET/PREFIX)"
            ),
            S3FailureKind::Clock => write!(
                f,
                "{endpoint} refuses requests because of their time ({detail}): set the clock of this machine"
            ),
            S3FailureKind::Region => write!(
                f,
                "{endpoint} does not serve bucket '{bucket}' for this region ({detail}): correct backup.s3.region and \
                 backup.s3.endpoint"
            ),
            S3FailureKind::Absent => {
                write!(f, "could not {what} in bucket '{bucket}' at {endpoint}: it does not exist")
            }
            S3FailureKind::Other => write!(f, "could not {what} in bucket '{bucket}' at {endpoint}: {detail}"),
        }
    }
}

impl Error for S3Failure {}

/// Kind of a failed request, and the reason for people.
pub(super) fn classify(error: &object_store::Error) -> (S3FailureKind, String) {
    let (mut http, mut last): (Option<HttpErrorKind>, &(dyn Error + 'static)) = (None, error);
    while let Some(source) = last.source() {
        http = http.or_else(|| source.downcast_ref::<HttpError>().map(HttpError::kind));
        last = source;
    }
    let text = error.to_string();
    if let Some(http) = http {
        let detail = short(&last.to_string());
        let is_certificate = detail.to_ascii_lowercase().contains("certificate");
        let kind = match http {
            _ if is_certificate => S3FailureKind::Certificate,
            HttpErrorKind::Connect => S3FailureKind::Unreachable,
            HttpErrorKind::Timeout => S3FailureKind::Silent,
            HttpErrorKind::Request | HttpErrorKind::Interrupted => S3FailureKind::Unreachable,
            _ => S3FailureKind::Other,
        };
        return (kind, detail);
    }
    let code = element(&text, "Code");
    let status = text.split_once("status code: ").and_then(|(_, rest)| rest.get(..3)).unwrap_or_default();
    let kind = match (code, status) {
        (Some("NoSuchBucket"), _) => S3FailureKind::NoBucket,
        (
            Some("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "NotSignedUp" | "InvalidToken" | "ExpiredToken"),
            _,
        ) => S3FailureKind::WrongKey,
        (Some("RequestTimeTooSkewed" | "RequestExpired"), _) => S3FailureKind::Clock,
        (Some("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException"), _) => {
            S3FailureKind::Region
        }
        (Some("RequestTimeout" | "SlowDown"), _) | (None, "408" | "429" | "504") => S3FailureKind::Silent,
        (_, "401") => S3FailureKind::WrongKey,
        (_, "403") => S3FailureKind::Denied,
        (_, "404") => S3FailureKind::Absent,
        (_, "301" | "302" | "307" | "308") => S3FailureKind::Region,
        _ if text.contains("redirect without LOCATION") => S3FailureKind::Region,
        _ if matches!(error, object_store::Error::NotFound { .. }) => S3FailureKind::Absent,
        _ => S3FailureKind::Other,
    };
    let detail = match (code, element(&text, "Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        (None, _) if status.is_empty() => text,
        (None, _) => format!("status {status}"),
    };
    (kind, short(&detail))
}

/// Text of an element of the XML that stores answer with.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once("</").map(|(content, _)| content)
}

/// Text of a store or of a library on one line of bounded length.
fn short(text: &str) -> String {
    let clean = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    clean.take(MOST_DETAIL).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: &str, body: &str) -> (S3FailureKind, String) {
        let text = format!(
            "Error performing GET http://h/b in 1ms - Server returned non-2xx status code: {status}: {body}"
        );
        classify(&object_store::Error::Generic { store: "S3", source: text.into() })
    }

    #[test]
    fn answers_of_stores_are_told_apart() {
        let body =
            |code: &str| format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>");
        for (status, code, expected) in [
            ("404 Not Found", "NoSuchBucket", S3FailureKind::NoBucket),
            ("404 Not Found", "NoSuchKey", S3FailureKind::Absent),
            ("403 Forbidden", "SignatureDoesNotMatch", S3FailureKind::WrongKey),
            ("403 Forbidden", "InvalidAccessKeyId", S3FailureKind::WrongKey),
            ("403 Forbidden", "AccessDenied", S3FailureKind::Denied),
            ("403 Forbidden", "RequestTimeTooSkewed", S3FailureKind::Clock),
            ("301 Moved Permanently", "PermanentRedirect", S3FailureKind::Region),
            ("503 Service Unavailable", "SlowDown", S3FailureKind::Silent),
            ("500 Internal Server Error", "InternalError", S3FailureKind::Other),
        ] {
            let (found, detail) = kind(status, &body(code));
            assert_eq!(found, expected, "{code}");
            assert_eq!(detail, format!("{code}: m"));
        }
        assert_eq!(kind("403 Forbidden", "").0, S3FailureKind::Denied);
        assert_eq!(kind("404 Not Found", ""), (S3FailureKind::Absent, "status 404".to_owned()));
    }

    #[test]
    fn long_answers_are_cut_to_one_line() {
        let (_, detail) = kind("500 Oops", &format!("<Code>{}</Code>", "x\n".repeat(10_000)));
        assert!(detail.len() <= MOST_DETAIL && !detail.contains('\n'), "{detail}");
    }
}
