//! Follows the store, offers the file's values, and delivers alarms to the present receivers.

use std::time::Duration;

use futures::{FutureExt, future::BoxFuture};
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_alarms::Outbound;
use twinbox_cluster_settings::{Rows, TrunkRows, schema};
use twinbox_mailstore::MailError;
use twinbox_replication_store::LiveError;

use crate::SharedSettings;

/// Poll interval of a node that has not offered its file's values yet.
const OFFER_EVERY: Duration = Duration::from_secs(1);
/// Interval of attempts to use settings that this node cannot use, such as those with a missing file.
const RETRY_EVERY: Duration = Duration::from_secs(10);

impl SharedSettings {
    /// Follows the rows of the store until stopped, and offers the file's values when this node has all records.
    pub fn follow(self, stop: CancellationToken) -> BoxFuture<'static, ()> {
        async move {
            let _ = stop.run_until_cancelled(self.follow_store()).await;
        }
        .boxed()
    }

    async fn follow_store(&self) {
        // Changes are received from before the first look, so that none is missed.
        let mut changes = self.parts().mailstore.store().live(|change| schema::is_setting(&change.key));
        self.look();
        let mut offered = false;
        let mut retries = interval(RETRY_EVERY);
        loop {
            if !offered {
                offered = self.offer().await;
            }
            let again = tokio::select! {
                change = changes.recv() => match change {
                    Ok(_) | Err(LiveError::Lagged) => true,
                    Err(LiveError::Closed) => return,
                },
                () = sleep(OFFER_EVERY), if !offered => false,
                _ = retries.tick() => {
                    self.retry();
                    false
                }
            };
            if again {
                self.look();
            }
        }
    }

    fn look(&self) {
        if let Err(error) = self.refresh() {
            warn!(%error, "settings of the cluster cannot be read; those known are used");
        }
    }

    /// Offers the file's values as those of the cluster, as far as it has none. A node that lacks records offers no value:
    /// the cluster may have one. True when no value is left to offer.
    async fn offer(&self) -> bool {
        let parts = self.parts();
        if !parts.mailstore.has_all_records() {
            return false;
        }
        let nothing = self.trunks().0.offers(parts.trunks.trunks()).is_empty();
        if nothing && self.state().0.offers(&parts.file).is_empty() {
            return true;
        }
        let (file, trunks) = (parts.file.clone(), parts.trunks.clone());
        let offered = parts.mailstore.commit(move |draft| {
            let stored = draft.scan(schema::SETTING, &[])?;
            let all = || stored.iter().map(|(key, record)| (key, record));
            let mut offered = Vec::new();
            for (register, edits) in Rows::of(all()).offers(&file) {
                draft.edit(schema::row_key(register), edits)?;
                offered.push(register.name().to_owned());
            }
            for (key, edits) in TrunkRows::of(all()).offers(trunks.trunks()) {
                offered.extend(schema::trunk_name(&key).map(|name| format!("trunk '{name}'")));
                draft.edit(key, edits)?;
            }
            Ok::<Vec<String>, MailError>(offered)
        });
        match offered.await {
            Ok((names, _)) => {
                info!(settings = names.join(" "), "the values of this node's file are the cluster's first ones");
                self.look();
                true
            }
            Err(error) => {
                warn!(%error, "the values of this node's file cannot be stored as the cluster's; retrying");
                false
            }
        }
    }

    /// Delivers alarms to the present receivers, until stopped.
    pub fn deliver_alarms(self, outbound: Outbound, stop: CancellationToken) -> BoxFuture<'static, ()> {
        async move {
            let mut receivers = self.receivers();
            while !stop.is_cancelled() {
                let now = receivers.borrow_and_update().clone();
                let run = outbound.run(now.webhook.clone(), now.traps.clone(), stop.clone());
                tokio::select! {
                    () = run => return,
                    changed = receivers.changed() => {
                        if changed.is_err() {
                            return;
                        }
                    }
                }
            }
        }
        .boxed()
    }
}
