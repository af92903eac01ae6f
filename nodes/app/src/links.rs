//! Recordings by link: bound and served on every node that has the section `[links]` (rule E3).

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use twinbox_alarm_rules::served_certificates;
use twinbox_alarms::Alarms;
use twinbox_config::NodeConfig;
use twinbox_mailstore::Mailstore;
use twinbox_recording_links::{LinkListener, LinkListenerError, RecordingLinks};
use twinbox_tls::ServedCertificate;

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
    alarms: &Alarms,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let certificate = config.links.as_ref().and_then(|links| links.tls.clone());
    tasks.spawn(served_certificates::watch("links", certificate, alarms.clone(), stop.clone()));
    if let Some((links, listener)) = config.links.as_ref().zip(listener) {
        let tls = links.tls.as_ref().map(ServedCertificate::config);
        tasks.spawn(RecordingLinks::new(mailstore.clone(), tls).serve(listener, stop.clone()));
    }
}
