//! Handles that the task of a call needs, and its entries in the tables that calls share.

use std::{sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use twinbox_clock::BootInstant;
use twinbox_overload::admission::CallPermit;
use twinbox_sip::{Response, transaction::ServerId};

use crate::{
    CallsConfig, CallsDeps,
    access::{CallsSettings, IncomingRequest},
    dialogs::{DialogKey, Dialogs, MergeKey, merge_key},
    outgoing::Outgoing,
    stats::Stats,
    transactions::Transactions,
};

/// Handles that the task of a call needs.
pub(crate) struct CallParts {
    pub(crate) deps: CallsDeps,
    pub(crate) settings: Arc<CallsSettings>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) dialogs: Arc<Dialogs>,
    pub(crate) transactions: Arc<Transactions>,
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) tasks: TaskTracker,
    /// Pending BYEs sent by this node.
    pub(crate) pending_byes: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl CallParts {
    /// The settings, as they are now.
    pub(super) fn config(&self) -> Arc<CallsConfig> {
        self.settings.config()
    }

    /// Time passed since then.
    pub(super) fn since(&self, at: BootInstant) -> Duration {
        self.deps.clock.now().since(at)
    }

    /// Answers a request.
    pub(super) fn respond(&self, id: &ServerId, response: Response) {
        self.transactions.respond(id, response);
    }

    /// Whether this node lacks records. Then it does not deny a mailbox or message, which may exist (rule D13).
    pub(crate) fn lacks_records(&self) -> bool {
        !self.deps.mailstore.has_all_records()
    }
}

/// The entries of a call, removed when the call ends, however it ends.
pub(super) struct CallEntries {
    dialogs: Arc<Dialogs>,
    invite: ServerId,
    merge: MergeKey,
    pub(super) dialog: Option<DialogKey>,
    #[expect(dead_code, reason = "returned when dropped")]
    permit: Option<CallPermit>,
}

impl CallEntries {
    pub(super) fn new(dialogs: &Arc<Dialogs>, invite: &IncomingRequest, permit: Option<CallPermit>) -> Self {
        let merge = merge_key(&invite.request);
        Self { dialogs: dialogs.clone(), invite: invite.id.clone(), merge, dialog: None, permit }
    }
}

impl Drop for CallEntries {
    fn drop(&mut self) {
        self.dialogs.close(self.dialog.as_ref(), &self.invite, &self.merge);
    }
}
