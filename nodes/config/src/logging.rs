//! Logs go to standard error: text for people or one JSON object per line.

use tracing_subscriber::EnvFilter;

use crate::{LogConfig, LogFormat};

/// Maximum log levels of libraries. Raft retries after the errors that it logs; the role manager reports relevant
/// ones. A stranger's bytes must not fill the log: TLS (rustls) warns of each bad handshake, which its listener counts or
/// reports, and the decoder of sound files (symphonia and its crates) of each damaged frame of a mail, which is refused.
const LIBRARIES: [&str; 7] = [
    "openraft=error",
    "openraft::raft::api=off",
    "h2=warn",
    "hyper=warn",
    "rustls=error",
    "sled=warn",
    "symphonia=off",
];

impl LogConfig {
    /// Sets up logging for this process, once.
    pub fn start(&self) {
        let builder = tracing_subscriber::fmt().with_env_filter(self.env_filter()).with_writer(std::io::stderr);
        // A second start in one process (tests) keeps the first subscriber.
        let _ = match self.format {
            LogFormat::Text => builder.with_ansi(false).try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
    }

    /// The filter of the configuration, with the levels of libraries.
    fn env_filter(&self) -> EnvFilter {
        let mut filter = EnvFilter::try_new(&self.filter).unwrap_or_else(|_| EnvFilter::new("info"));
        for directive in LIBRARIES.iter().filter_map(|text| text.parse().ok()) {
            filter = filter.add_directive(directive);
        }
        filter
    }
}

#[cfg(test)]
mod tests {
    use tracing::{Level, enabled, subscriber::with_default};

    use super::*;

    #[test]
    fn libraries_do_not_log_what_strangers_send() {
        let config = LogConfig { format: LogFormat::Text, filter: "debug".to_owned() };
        let subscriber = tracing_subscriber::fmt().with_env_filter(config.env_filter()).finish();
        with_default(subscriber, || {
            assert!(enabled!(target: "twinbox_mail_gateway", Level::DEBUG));
            assert!(!enabled!(target: "symphonia_bundle_mp3::demuxer", Level::WARN));
            assert!(!enabled!(target: "symphonia_core::io", Level::ERROR));
            assert!(!enabled!(target: "rustls::check", Level::WARN));
            assert!(enabled!(target: "h2::proto", Level::WARN) && !enabled!(target: "h2::proto", Level::DEBUG));
        });
    }
}
