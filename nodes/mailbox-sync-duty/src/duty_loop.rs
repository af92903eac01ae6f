//! Waits for the duty, and runs one loop over all accounts in each epoch.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::timeout;
use tracing::{info, warn};
use twinbox_alarms::Code;
use twinbox_clock::BootInstant;
use twinbox_duty_service::Progress;
use twinbox_mailstore::MailError;

use crate::{duty_lease::DutyLease, epoch_loop::EpochLoop, service::DutyParts};

/// Maximum interval of turns of the loop, so that a hung loop differs from an idle one.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(500);
/// Maximum wait for commits under way after the duty was lost.
const FINISH_WITHIN: Duration = Duration::from_secs(4);

/// The loop of the duty.
pub(crate) struct DutyLoop {
    parts: DutyParts,
    progress: Arc<Progress>,
}

impl DutyLoop {
    pub(crate) fn new(parts: DutyParts, progress: Arc<Progress>) -> Self {
        Self { parts, progress }
    }

    pub(crate) async fn serve(self) {
        let mut holding = self.parts.gate.holding();
        // Alarms of an earlier process of this node end before this one raises its own.
        let mut cleared = false;
        loop {
            self.progress.turn();
            let epoch = match timeout(HEARTBEAT, holding.wait_for(Option::is_some)).await {
                Ok(Ok(epoch)) => epoch.clone(),
                Ok(Err(_)) => return,
                Err(_) => {
                    cleared = cleared || self.clear_alarms().is_ok();
                    continue;
                }
            };
            let Some(epoch) = epoch else { continue };
            info!(%epoch, "duty held; synchronising mailboxes with mail accounts");
            let lease = DutyLease { gate: self.parts.gate.clone(), epoch: epoch.clone() };
            if !cleared && let Err(error) = self.clear_alarms() {
                warn!(%error, "alarms of an earlier process of this node stay until the duty moves");
            }
            self.parts.orders.open();
            let mut accounts = EpochLoop::new(self.parts.clone(), lease.clone(), self.progress.clone());
            tokio::select! {
                biased;
                () = lease.lost() => {}
                () = accounts.hold() => {}
            }
            self.parts.orders.close("the duty moved to another node, which goes on: repeat the command there");
            self.finish(accounts).await;
            cleared = self.clear_alarms().is_ok();
            info!(%epoch, "duty not held any more");
        }
    }

    /// Exchanges with servers end with the lease; a commit under way is finished.
    async fn finish(&self, mut accounts: EpochLoop) {
        let begun = BootInstant::now();
        while begun.elapsed() < FINISH_WITHIN && accounts.is_busy() {
            self.progress.turn();
            let _ = timeout(HEARTBEAT, accounts.end_one()).await;
        }
        accounts.clear_alarms();
        for gauge in [&self.parts.counts.connections, &self.parts.counts.watching] {
            gauge.store(0, Relaxed);
        }
    }

    /// Ends the alarms of this node about servers and accounts.
    fn clear_alarms(&self) -> Result<(), MailError> {
        let DutyParts { mailstore, store, alarms, .. } = &self.parts;
        if !mailstore.has_all_records() {
            return Err(MailError::LacksRecords);
        }
        for server in store.servers()? {
            alarms.clear(Code::MailboxSyncFailing, &server.name);
        }
        for (account, _) in store.accounts()? {
            alarms.clear(Code::MailboxSyncHeldBack, &account.mailbox.to_string());
        }
        Ok(())
    }
}
