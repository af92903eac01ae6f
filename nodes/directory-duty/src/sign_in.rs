//! Sign-in with the directory's password, on every node, whichever node holds the duty.
//!
//! The directory decides by a bind. Only while none of its servers answers, the verifier of the latest confirmed
//! password decides, if it is not too old; what the directory refuses forgets the verifier.

use std::time::Duration;

use tracing::{info, warn};
use twinbox_clock::wall;
use twinbox_directory_core::{DirectorySettings, ServerSettings};
use twinbox_directory_service::{BindVerdict, DirectoryServers, LdapError};
use twinbox_directory_store::DirectoryStore;
use twinbox_ids::{MailboxId, Pii};
use twinbox_mailbox::{Binding, BindingState, StoredDirectory};
use twinbox_mailstore::{MailError, Mailbox, Mailstore, RememberedPassword};

/// Result of a password check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordVerdict {
    /// It is the owner's password.
    Right {
        /// The owner's mailbox.
        mailbox: MailboxId,
        /// The side that decided.
        by: DecidedBy,
    },
    /// It is wrong or empty, or there is no such user.
    Wrong {
        /// The side that decided; `None`: nothing was compared.
        by: Option<DecidedBy>,
    },
    /// The account may not be used, for this reason.
    Disabled(String),
    /// The user comes from no directory, or has no password there.
    Local,
    /// Too many wrong tries lately: this password was not checked.
    BackOff {
        /// Seconds until the next try is allowed.
        seconds: u64,
    },
    /// Neither the directory nor a remembered password can tell, for this reason.
    Unavailable(String),
}

/// The side that decided about a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecidedBy {
    /// A server of the directory.
    Directory,
    /// The verifier of an earlier sign-in, because no server answers.
    Remembered,
}

impl DecidedBy {
    /// The word for people and programs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Remembered => "remembered",
        }
    }
}

/// Checks passwords of users who come from directories. Cheap to clone.
#[derive(Clone)]
pub struct PasswordCheck {
    mailstore: Mailstore,
}

/// A user who comes from a directory.
struct BoundUser {
    mailbox: Mailbox,
    binding: Binding,
    directory: StoredDirectory,
}

impl PasswordCheck {
    /// Checks with the users of this store.
    pub fn new(mailstore: Mailstore) -> Self {
        Self { mailstore }
    }

    /// Checks a password of the user with this mailbox number, or this login in a directory. An empty password is wrong
    /// before any connection: servers accept a bind with none (RFC 4513 section 5.1.2).
    pub async fn check(&self, user: &str, password: &Pii<String>) -> Result<PasswordVerdict, MailError> {
        if password.reveal().is_empty() {
            return Ok(PasswordVerdict::Wrong { by: None });
        }
        let Some(mailbox) = self.find(user).await? else { return Ok(PasswordVerdict::Wrong { by: None }) };
        let Some(user) = self.bound(mailbox)? else { return Ok(PasswordVerdict::Local) };
        let id = user.mailbox.id;
        if user.mailbox.disabled || user.binding.state != BindingState::Active {
            self.mailstore.forget_password(id).await?;
            return Ok(PasswordVerdict::Disabled("its directory disabled or removed the account".to_owned()));
        }
        // Counted before the check, so that tries at a time are counted too (rule S1).
        let begun = match self.mailstore.begin_password_try(id, wall()).await? {
            Ok(begun) => begun,
            Err(seconds) => return Ok(PasswordVerdict::BackOff { seconds }),
        };
        let verdict = self.decide(&user, password).await?;
        if !matches!(verdict, PasswordVerdict::Wrong { .. }) {
            // An answer that compares nothing is no wrong try.
            self.mailstore.take_back_password_try(begun).await?;
        }
        Ok(verdict)
    }

    async fn decide(&self, user: &BoundUser, password: &Pii<String>) -> Result<PasswordVerdict, MailError> {
        let (id, directory) = (user.mailbox.id, &user.directory);
        let settings = match DirectorySettings::from_settings(&directory.settings) {
            Ok(settings) => settings,
            Err(error) => {
                warn!(directory = directory.name, %error, "settings of a directory cannot be used for sign-in");
                return Ok(PasswordVerdict::Unavailable(format!("directory '{}': {error}", directory.name)));
            }
        };
        let max_age = settings.password_age();
        match ask(settings.servers, user.binding.dn.reveal(), password.reveal()).await {
            Ok(BindVerdict::Right) => {
                if !max_age.is_zero()
                    && let Err(error) = self.mailstore.remember_password(id, password).await
                {
                    // The sign-in is right all the same.
                    warn!(mailbox = %id, %error, "password is not remembered for the time without the directory");
                }
                Ok(PasswordVerdict::Right { mailbox: id, by: DecidedBy::Directory })
            }
            Ok(BindVerdict::Wrong) => {
                // Another password than the remembered one says nothing about that.
                let same = self.mailstore.check_remembered_password(id, password, max_age, wall()).await?;
                if same == RememberedPassword::Right {
                    self.mailstore.forget_password(id).await?;
                }
                Ok(PasswordVerdict::Wrong { by: Some(DecidedBy::Directory) })
            }
            Ok(BindVerdict::Disabled(reason)) => {
                self.mailstore.forget_password(id).await?;
                Ok(PasswordVerdict::Disabled(reason.to_owned()))
            }
            // A lock after wrong passwords is temporary, and says nothing about the remembered one.
            Ok(BindVerdict::Locked(reason)) => Ok(PasswordVerdict::Disabled(reason.to_owned())),
            Err(LdapError::Unreachable(reason)) => {
                info!(
                    directory = directory.name,
                    "no server of a directory answers; a remembered password decides"
                );
                self.remembered(id, password, max_age, &directory.name, &reason).await
            }
            Err(error) => {
                warn!(directory = directory.name, %error, "directory does not check a password");
                Ok(PasswordVerdict::Unavailable(format!("directory '{}': {error}", directory.name)))
            }
        }
    }

    async fn remembered(
        &self,
        id: MailboxId,
        password: &Pii<String>,
        max_age: Duration,
        directory: &str,
        reason: &str,
    ) -> Result<PasswordVerdict, MailError> {
        let by = DecidedBy::Remembered;
        Ok(match self.mailstore.check_remembered_password(id, password, max_age, wall()).await? {
            RememberedPassword::Right => PasswordVerdict::Right { mailbox: id, by },
            RememberedPassword::Wrong => PasswordVerdict::Wrong { by: Some(by) },
            RememberedPassword::Unknown => PasswordVerdict::Unavailable(format!(
                "no server of directory '{directory}' answers ({reason}), and no password was used lately"
            )),
        })
    }

    /// The mailbox with that number, or whose owner has that login in a directory, if it is only one.
    async fn find(&self, user: &str) -> Result<Option<Mailbox>, MailError> {
        if let Some(mailbox) = self.mailstore.find_by_number(user).await? {
            return Ok(Some(mailbox));
        }
        let found = DirectoryStore::of(&self.mailstore).present_users().await?;
        // The entry of a gone user may have a successor with its login.
        let has_login = |binding: &Binding| {
            binding.state != BindingState::Gone && binding.login.reveal().to_lowercase() == user.to_lowercase()
        };
        let mut found = found.into_iter().filter(|user| user.binding.as_ref().is_some_and(has_login));
        match (found.next(), found.next()) {
            (Some(user), None) => self.mailstore.get(user.mailbox).await,
            // Two directories may have one login: neither is meant.
            _ => Ok(None),
        }
    }

    fn bound(&self, mailbox: Mailbox) -> Result<Option<BoundUser>, MailError> {
        let Some(binding) = DirectoryStore::of(&self.mailstore).binding_of(&mailbox)? else { return Ok(None) };
        let directory = self.mailstore.directory(binding.directory)?;
        Ok(directory.map(|directory| BoundUser { mailbox, binding, directory }))
    }
}

async fn ask(servers: ServerSettings, dn: &str, password: &str) -> Result<BindVerdict, LdapError> {
    DirectoryServers::new(servers).check_password(dn, password).await
}
