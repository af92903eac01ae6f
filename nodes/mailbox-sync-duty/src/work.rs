//! Work on one account: connect, a round, and the record of a failure.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tracing::{info, warn};
use twinbox_clock::wall;
use twinbox_mailbox_sync::Account;
use twinbox_mailbox_sync_store::SyncedMailbox;

use crate::{
    duty_lease::DutyLease,
    error::SyncError,
    folder::ImapFolder,
    look::LookOptions,
    mail::sender,
    mail_server::MailServer,
    service::DutyParts,
    session::{RoundCounts, RoundEnd, Session},
};

/// Maximum duration of one work on an account, in minutes. Each step has a limit of its own; this one bounds their sum.
const LONGEST_MINUTES: u64 = 120;
/// Longest text of a stored error, in characters.
const LONGEST_ERROR: usize = 300;

/// An account that is to be worked on.
pub(crate) struct Job {
    pub parts: DutyParts,
    pub lease: DutyLease,
    pub server: Arc<MailServer>,
    pub account: Account,
    pub options: LookOptions,
}

/// End of the work on an account.
pub(crate) struct JobEnd {
    pub options: LookOptions,
    pub counts: RoundCounts,
    pub result: Result<(ImapFolder, RoundEnd), SyncError>,
    /// The error is of a refused step; the other steps were done.
    pub refused: bool,
    /// Deletions that are held back, if the look came to a result.
    pub held_back: Option<u32>,
}

impl Job {
    /// Performs a round on the given connection, or on a new one.
    pub(crate) async fn work(self, folder: Option<ImapFolder>) -> JobEnd {
        let mut counts = RoundCounts::default();
        let limit = Duration::from_secs(60 * LONGEST_MINUTES);
        let result = match timeout(limit, self.round(folder, &mut counts)).await {
            Ok(result) => result,
            Err(_) => Err(SyncError::TooLong(LONGEST_MINUTES)),
        };
        let held_back = result.as_ref().ok().map(|(_, end)| end.held_back);
        let (result, refused) = match result {
            // No step was refused in this round: the connection stays open.
            Ok((folder, end)) if matches!(end.refused, Some(SyncError::StepsWait(_))) => (Ok((folder, end)), false),
            Ok((folder, RoundEnd { refused: Some(error), .. })) => {
                folder.close().await;
                // A server that hides the mails it took gets further copies with growing pauses.
                let refused = !matches!(error, SyncError::NotShown);
                (Err(error), refused)
            }
            result => (result, false),
        };
        let error = match &result {
            Ok((_, end)) => end.refused.as_ref(),
            Err(error) => Some(error),
        };
        if let Some(error) = error.filter(|error| !error.is_of_the_duty()) {
            let (server, mailbox, reason) = (&self.server.name, self.account.mailbox, error.without_names());
            // The log names the refusal that began a pause.
            if result.is_err() && !matches!(error, SyncError::Paused(_)) {
                info!(%server, %mailbox, reason, "mail account is not synchronised; retrying after a pause");
            }
            if let Err(error) = self.note_failure(error).await {
                warn!(%mailbox, error = error.without_names(), "error of a mail account is not stored");
            }
        }
        JobEnd { options: self.options, counts, result, refused, held_back }
    }

    async fn round(
        &self,
        folder: Option<ImapFolder>,
        counts: &mut RoundCounts,
    ) -> Result<(ImapFolder, RoundEnd), SyncError> {
        let mut folder = match folder {
            Some(folder) => folder,
            None => self.server.connect(&self.account, &self.lease).await?,
        };
        let config = &self.parts.config;
        let from = sender(config.cluster, (config.from)().as_deref());
        let from = from.map_err(|error| SyncError::Settings(error.to_string()))?;
        let session = Session {
            mailstore: &self.parts.mailstore,
            store: &self.parts.store,
            account: &self.account,
            lease: &self.lease,
            cluster: config.cluster,
            from: &from,
            appends: &self.server.appends,
        };
        let end = session.round(&mut folder, self.options, counts).await?;
        Ok((folder, end))
    }

    /// Stores an error that is not stored yet. A pause of the server does not replace a stored reason.
    async fn note_failure(&self, error: &SyncError) -> Result<(), SyncError> {
        let store = &self.parts.store;
        let Some(SyncedMailbox::Account(account, mut state)) = store.effective_of(self.account.mailbox)? else {
            return Ok(());
        };
        let text: String = error.to_string().chars().take(LONGEST_ERROR).collect();
        let is_known = match error {
            // A pause replaces no stored reason; waiting steps do not replace that of a refusal.
            SyncError::Paused(_) => state.error.is_some(),
            SyncError::StepsWait(_) => state.error.as_deref().is_some_and(|text| self.is_refusal(text)),
            _ => state.error.as_ref() == Some(&text),
        };
        if account != self.account || is_known {
            return Ok(());
        }
        state.error = Some(text);
        state.failing_since = state.failing_since.or_else(|| Some(wall()));
        store.write(&account, Vec::new(), Some(state), &self.lease.epoch, || self.lease.permit()).await?;
        Ok(())
    }

    /// Whether the text of a stored error is that of a refused step.
    fn is_refusal(&self, text: &str) -> bool {
        let is_of_trash = |trash: &String| text.starts_with(&format!("folder '{trash}' cannot be opened"));
        text.starts_with(SyncError::REFUSAL) || self.account.trash.as_ref().is_some_and(is_of_trash)
    }
}
