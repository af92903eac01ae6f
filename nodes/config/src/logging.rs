//! Logs go to standard error: text for people or one JSON object per line.

use tracing_subscriber::EnvFilter;

use crate::{LogConfig, LogFormat};

/// Maximum log levels of libraries. Raft retries after the errors that it logs; the role manager reports relevant
/// ones.
const LIBRARIES: [&str; 5] = ["openraft=error", "openraft::raft::api=off", "h2=warn", "hyper=warn", "sled=warn"];

impl LogConfig {
    /// Sets up logging for this process, once.
    pub fn start(&self) {
        let mut filter = EnvFilter::try_new(&self.filter).unwrap_or_else(|_| EnvFilter::new("info"));
        for directive in LIBRARIES.iter().filter_map(|text| text.parse().ok()) {
            filter = filter.add_directive(directive);
        }
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        // A second start in one process (tests) keeps the first subscriber.
        let _ = match self.format {
            LogFormat::Text => builder.with_ansi(false).try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
    }
}
