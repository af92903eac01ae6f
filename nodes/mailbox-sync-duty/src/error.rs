//! Reasons why a round of an account failed.

use twinbox_clock::BootInstant;
use twinbox_imap::{ImapError, SecretError};
use twinbox_mailbox_sync_store::MailboxSyncError;
use twinbox_mailstore::MailError;
use twinbox_oauth::TokenError;

/// Reason why a round failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    #[error("this node does not hold the duty any more: the next holder goes on")]
    DutyLost,
    #[error("the account was changed meanwhile: its new settings are tried next")]
    AccountChanged,
    #[error(transparent)]
    Imap(ImapError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("no {0} is set: set it with `twinbox mailbox-sync server set`, or for the account")]
    Unset(&'static str),
    #[error(transparent)]
    Store(MailError),
    #[error("{0}")]
    Settings(String),
    #[error(
        "the server took a message and does not show it in the folder: check for rules there that move mails of the \
         voicemail away"
    )]
    NotShown,
    #[error(
        "the server refused changes of {0} messages, or their audio is not on this node yet; they are repeated after \
         growing pauses, and now by `twinbox mailbox-sync run`: check the rights of the account in the folder"
    )]
    StepsWait(u32),
    #[error(
        "the server gives the folder new UIDs at each look, so that no message is found again; none is appended until \
         they stay: check the mail server"
    )]
    UidsChange,
    #[error("the round took longer than {0} minutes: check the load of the mail server")]
    TooLong(u64),
    #[error(
        "sign-in waits for up to 10 minutes, because the server refused the shared password for several accounts: check \
         it with `twinbox mailbox-sync server test`, and correct its file"
    )]
    Paused(BootInstant),
    #[error("the task ended unexpectedly: see the log of this node")]
    Ended,
}

impl SyncError {
    /// Begin of the text of a refused step, also of steps that wait.
    pub(crate) const REFUSAL: &str = "the server refused ";

    /// Whether only an administrator or the user of the account can remove the cause.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Imap(error) => error.is_permanent(),
            Self::Token(error) => error.is_refused(),
            Self::Secret(_) | Self::Unset(_) | Self::Settings(_) => true,
            Self::DutyLost | Self::AccountChanged | Self::Store(_) => false,
            Self::NotShown | Self::StepsWait(_) | Self::UidsChange => false,
            Self::TooLong(_) | Self::Paused(_) | Self::Ended => false,
        }
    }

    /// Whether the failure is no fault of the account.
    pub(crate) fn is_of_the_duty(&self) -> bool {
        matches!(self, Self::DutyLost | Self::AccountChanged)
    }

    /// The failure for logs and alarms: without texts of servers, which may name the user.
    pub(crate) fn without_names(&self) -> String {
        match self {
            Self::Imap(ImapError::Refused { .. }) => "sign-in refused".to_owned(),
            Self::Imap(ImapError::Quota { .. }) => "the mail account is full".to_owned(),
            Self::Imap(ImapError::NoFolder { .. }) => "the folder cannot be opened".to_owned(),
            Self::Imap(ImapError::ReadOnly { .. }) => "the folder is read-only".to_owned(),
            Self::Imap(ImapError::No { command, .. }) => format!("the server refused {command}"),
            Self::Imap(ImapError::Bye { .. }) => "the server ended the connection".to_owned(),
            Self::Imap(ImapError::Protocol { step, .. }) => {
                format!("the server does not follow IMAP in its answer to {step}")
            }
            Self::Imap(ImapError::Unknown { .. }) => "the connection ended while a message was sent".to_owned(),
            Self::Token(TokenError::Refused { host, code, .. }) => {
                format!("token endpoint {host} refuses with {code}")
            }
            other => other.to_string(),
        }
    }
}

impl From<ImapError> for SyncError {
    fn from(error: ImapError) -> Self {
        match error {
            ImapError::NotHolder => Self::DutyLost,
            error => Self::Imap(error),
        }
    }
}

impl From<MailError> for SyncError {
    fn from(error: MailError) -> Self {
        match error {
            MailError::DutyLost | MailError::StaleEpoch(_) => Self::DutyLost,
            error => Self::Store(error),
        }
    }
}

impl From<MailboxSyncError> for SyncError {
    fn from(error: MailboxSyncError) -> Self {
        match error {
            MailboxSyncError::AccountChanged => Self::AccountChanged,
            MailboxSyncError::Mail(error) => error.into(),
            error => Self::Settings(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_steps_and_those_that_wait_are_told_by_the_begin_of_their_text() {
        let refused = ImapError::No { command: "STORE", text: "no right".to_owned() };
        for error in [SyncError::from(refused), SyncError::StepsWait(2)] {
            assert!(error.to_string().starts_with(SyncError::REFUSAL), "{error}");
        }
        let failed = ImapError::Closed { step: "STORE", reason: "reset".to_owned() };
        assert!(!SyncError::from(failed).to_string().starts_with(SyncError::REFUSAL));
    }

    #[test]
    fn texts_of_servers_are_in_no_alarm() {
        let text = || "anna@mail.example is locked".to_owned();
        let folder = || "INBOX".to_owned();
        for error in [
            ImapError::Refused { text: text() },
            ImapError::Quota { text: text() },
            ImapError::NoFolder { folder: folder(), text: text() },
            ImapError::No { command: "APPEND", text: text() },
            ImapError::Bye { text: text() },
            ImapError::Protocol { step: "SELECT", text: text() },
            ImapError::Unknown { reason: text() },
        ] {
            let error = SyncError::from(error);
            assert!(error.to_string().contains("anna"), "{error}");
            assert!(!error.without_names().contains("anna"), "{error}");
        }
    }
}
