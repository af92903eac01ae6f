//! Logs go to standard error: text for people or one JSON object a line.

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// What libraries may say at most. Raft retries what it complains of; what matters of it the role manager says.
const LIBRARIES: [&str; 5] = ["openraft=error", "openraft::raft::api=off", "h2=warn", "hyper=warn", "sled=warn"];

/// Sets up logging for this process, once.
pub fn start(config: &LogConfig) {
    let mut filter = EnvFilter::try_new(&config.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    for directive in LIBRARIES.iter().filter_map(|text| text.parse().ok()) {
        filter = filter.add_directive(directive);
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first subscriber.
    let _ = match config.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
