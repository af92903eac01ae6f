//! Settings of an S3-compatible store: `backup.s3`.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use reqwest::Url;

/// Access to an S3-compatible store.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Settings {
    /// URL of the store, such as `https://s3.example.com`; `None`: that of Amazon in the region.
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    pub region: String,
    /// Id of the access key.
    pub access_key: String,
    /// The secret access key.
    pub secret_key: String,
    /// PEM file of CA certificates in place of those of the system.
    pub ca_file: Option<PathBuf>,
    /// True to send requests and recordings in clear text to another machine.
    pub allow_http: bool,
    /// True if the bucket's name is the first part of the host's name, and not of the path.
    pub virtual_host: bool,
    /// Limit of one request; an operation with its repetitions ends after little more than twice this time.
    pub timeout: Duration,
}

/// Key of the section with a mistake, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("backup.s3.{key} {what}")]
pub struct S3SettingsError {
    /// The key.
    pub key: &'static str,
    /// Mistake and remedy.
    pub what: String,
}

impl fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Settings").field("endpoint", &self.endpoint_url()).finish_non_exhaustive()
    }
}

impl S3Settings {
    /// URL of the store.
    pub fn endpoint_url(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://s3.{}.amazonaws.com", self.region),
        }
    }

    /// Finds a mistake that can be found without the store. Reads no file.
    ///
    /// # Errors
    /// The mistake, with its key.
    pub fn check(&self) -> Result<(), S3SettingsError> {
        self.url().map(|_| ())?;
        let wrong = |key, what: &str| Err(S3SettingsError { key, what: what.to_owned() });
        let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_word(&self.region) {
            return wrong("region", "is no region: write a word such as \"us-east-1\"");
        }
        if !is_word(&self.access_key) {
            return wrong("access_key", "is empty, or has a blank or a control character in it");
        }
        if !is_word(&self.secret_key) {
            return wrong("secret_key", "is empty, or has a blank or a control character in it");
        }
        Ok(())
    }

    /// The endpoint, if it is a usable one.
    pub(super) fn url(&self) -> Result<Url, S3SettingsError> {
        let text = self.endpoint_url();
        let wrong = |what: String| S3SettingsError { key: "endpoint", what };
        let shape =
            || wrong(format!("'{text}' is not usable: write https://HOST or https://HOST:PORT, and no more"));
        let url = Url::parse(&text).map_err(|_| shape())?;
        let host = url.host_str().ok_or_else(shape)?;
        let has_more = url.path() != "/" || url.query().is_some() || url.fragment().is_some();
        if has_more || !url.username().is_empty() || url.password().is_some() {
            return Err(shape());
        }
        match url.scheme() {
            "https" => Ok(url),
            "http" if self.allow_http || is_loopback(host) => Ok(url),
            "http" => Err(wrong(format!(
                "'{text}' sends recordings in clear text: write https://, or allow_http = true if the network is safe"
            ))),
            _ => Err(shape()),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(endpoint: &str) -> S3Settings {
        S3Settings {
            endpoint: Some(endpoint.to_owned()),
            region: "us-east-1".to_owned(),
            access_key: "AKIATEST".to_owned(),
            secret_key: "very secret".replace(' ', "-"),
            ca_file: None,
            allow_http: false,
            virtual_host: false,
            timeout: Duration::from_secs(60),
        }
    }

    #[test]
    fn clear_text_needs_loopback_or_permission() {
        for endpoint in ["https://s3.example.com", "https://s3.example.com:9000/", "http://127.0.0.1:9000"] {
            assert_eq!(settings(endpoint).check(), Ok(()), "{endpoint}");
        }
        for endpoint in ["http://localhost", "http://[::1]:9000"] {
            assert_eq!(settings(endpoint).check(), Ok(()), "{endpoint}");
        }
        let refused = settings("http://10.0.0.1:9000").check().expect_err("clear text");
        assert!(refused.key == "endpoint" && refused.what.contains("allow_http"), "{refused}");
        let allowed = S3Settings { allow_http: true, ..settings("http://10.0.0.1:9000") };
        assert_eq!(allowed.check(), Ok(()));
        for endpoint in
            ["s3.example.com", "ftp://host", "https://user:pass@host", "https://host/bucket", "https://h?x=1"]
        {
            assert_eq!(settings(endpoint).check().expect_err(endpoint).key, "endpoint");
        }
    }

    #[test]
    fn mistakes_name_their_key_and_no_secret() {
        let empty = S3Settings { secret_key: String::new(), ..settings("https://s3.example.com") };
        assert_eq!(empty.check().expect_err("no secret").key, "secret_key");
        let broken = S3Settings { access_key: "a\nb".to_owned(), ..settings("https://s3.example.com") };
        assert_eq!(broken.check().expect_err("a line break").key, "access_key");
        let none = S3Settings { region: String::new(), ..settings("https://s3.example.com") };
        assert_eq!(none.check().expect_err("no region").key, "region");
        let shown = format!("{:?}", settings("https://s3.example.com"));
        assert!(shown.contains("s3.example.com") && !shown.contains("very-secret"), "{shown}");
    }

    #[test]
    fn without_endpoint_it_is_that_of_the_region() {
        let amazon = S3Settings { endpoint: None, region: "eu-central-1".to_owned(), ..settings("") };
        assert_eq!(amazon.endpoint_url(), "https://s3.eu-central-1.amazonaws.com");
        assert_eq!(amazon.check(), Ok(()));
    }
}
