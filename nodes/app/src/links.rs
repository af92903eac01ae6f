//! Recordings by link: bound and served on every node that has the section `[links]` (rule E3).

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use twinbox_config::NodeConfig;
use twinbox_mailstore::Mailstore;
use twinbox_recording_links::{LinkListener, LinkListenerError, RecordingLinks};

/// The listener, if the configuration has one.
pub(crate) async fn bind(config: &NodeConfig) -> Result<Option<LinkListener>, LinkListenerError> {
    match &config.links {
        Some(links) => LinkListener::bind(links.bind).await.map(Some),
        None => Ok(None),
    }
}

/// Serves recordings until stopped, whichever node holds the duties.
pub(crate) fn serve(
    config: &NodeConfig,
    mailstore: &Mailstore,
    listener: Option<LinkListener>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    if let Some((links, listener)) = config.links.as_ref().zip(listener) {
        tasks.spawn(RecordingLinks::new(mailstore.clone(), links.tls.clone()).serve(listener, stop.clone()));
    }
}
