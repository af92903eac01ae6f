//! The folder of an account, as a session uses it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use twinbox_ids::Timestamp;
use twinbox_imap::{AppendUid, Client, FetchedFlags, FetchedId, IdleEnd, ImapError, ImapFlags, Resume, Selected};
use twinbox_mailbox_sync::{Account, RemoteFlags};

use crate::{duty_lease::DutyLease, mail_server::MailServer};

/// A folder on a mail server. After an error for which [`is_usable_after`] is false, the connection is not used again.
pub(crate) trait Folder: Send {
    /// Opens the folder, which is created if it does not exist.
    fn select(&mut self, resume: Option<Resume>) -> impl Future<Output = Result<Selected, ImapError>> + Send;

    /// Flags of these mails, without the absent ones.
    fn flags(&mut self, uids: &BTreeSet<u32>) -> impl Future<Output = Result<Vec<FetchedFlags>, ImapError>> + Send;

    /// Message-IDs of at most `most` mails, from this UID on.
    fn message_ids(
        &mut self,
        from_uid: u32,
        most: usize,
    ) -> impl Future<Output = Result<Vec<FetchedId>, ImapError>> + Send;

    /// Names and flags of the mail of this UID, also of one that was appended since the folder was opened.
    fn identity(&mut self, uid: u32) -> impl Future<Output = Result<Option<FetchedId>, ImapError>> + Send;

    /// UIDs of the mails with this Message-ID.
    fn find(&mut self, message_id: &str) -> impl Future<Output = Result<Vec<u32>, ImapError>> + Send;

    /// UIDs of the mails with this name in the header field of our own.
    fn find_own(&mut self, own_id: &str) -> impl Future<Output = Result<Vec<u32>, ImapError>> + Send;

    /// Appends a mail.
    fn append(
        &mut self,
        flags: RemoteFlags,
        received: Timestamp,
        mail: &[u8],
    ) -> impl Future<Output = Result<Option<AppendUid>, ImapError>> + Send;

    /// Sets and clears flags of a mail.
    fn store_flags(
        &mut self,
        uid: u32,
        add: RemoteFlags,
        remove: RemoteFlags,
    ) -> impl Future<Output = Result<(), ImapError>> + Send;

    /// Moves a mail to another folder.
    fn move_to(&mut self, uid: u32, folder: &str) -> impl Future<Output = Result<(), ImapError>> + Send;

    /// Removes a mail.
    fn expunge(&mut self, uid: u32) -> impl Future<Output = Result<(), ImapError>> + Send;
}

/// Whether the connection can be used after this error: the server refused one command.
pub(crate) fn is_usable_after(error: &ImapError) -> bool {
    matches!(error, ImapError::No { .. } | ImapError::NoFolder { .. } | ImapError::Quota { .. })
}

/// The flags as the core has them.
pub(crate) fn remote(flags: ImapFlags) -> RemoteFlags {
    RemoteFlags { seen: flags.seen, flagged: flags.flagged, deleted: flags.deleted }
}

/// The flags as the client has them.
pub(crate) fn imap(flags: RemoteFlags) -> ImapFlags {
    ImapFlags { seen: flags.seen, flagged: flags.flagged, deleted: flags.deleted }
}

/// Creates a folder that appears to be missing. If the server refuses that too, the first refusal is the reason: the folder
/// may exist, and the server may refuse to open it.
async fn create(client: &mut Client, folder: &str, missing: ImapError) -> Result<(), ImapError> {
    match client.create(folder).await {
        Err(ImapError::No { .. }) => Err(missing),
        created => created,
    }
}

/// A folder over a connection that is bound to the lease of the duty.
pub(crate) struct ImapFolder {
    client: Client,
    server: Arc<MailServer>,
    account: Account,
    lease: DutyLease,
}

impl ImapFolder {
    pub(crate) fn new(client: Client, server: Arc<MailServer>, account: Account, lease: DutyLease) -> Self {
        Self { client, server, account, lease }
    }

    /// Whether the connection is signed in to this account, with these settings of its server.
    pub(crate) fn is_of(&self, server: &Arc<MailServer>, account: &Account) -> bool {
        Arc::ptr_eq(&self.server, server) && self.account == *account
    }

    /// Whether the server can report changes.
    pub(crate) fn can_watch(&self) -> bool {
        self.client.capabilities().idle
    }

    /// Waits for changes.
    pub(crate) async fn idle(
        &mut self,
        until: impl Future<Output = ()> + Send,
        longest: Duration,
    ) -> Result<IdleEnd, ImapError> {
        self.lease.while_held(self.client.idle(until, longest)).await
    }

    /// Ends the connection in order.
    pub(crate) async fn close(self) {
        let Self { client, lease, .. } = self;
        let logout = async {
            client.logout().await;
            Ok(())
        };
        // The server ends the connection in any case.
        let _ = lease.while_held(logout).await;
    }
}

impl Folder for ImapFolder {
    async fn select(&mut self, resume: Option<Resume>) -> Result<Selected, ImapError> {
        let Self { client, account, lease, .. } = self;
        let name = account.folder.as_str();
        let selecting = async {
            match client.select(name, resume.clone()).await {
                Err(missing @ ImapError::NoFolder { .. }) => {
                    create(client, name, missing).await?;
                    client.select(name, resume).await
                }
                selected => selected,
            }
        };
        lease.while_held(selecting).await
    }

    async fn flags(&mut self, uids: &BTreeSet<u32>) -> Result<Vec<FetchedFlags>, ImapError> {
        self.lease.while_held(self.client.flags(uids, None)).await
    }

    async fn message_ids(&mut self, from_uid: u32, most: usize) -> Result<Vec<FetchedId>, ImapError> {
        self.lease.while_held(self.client.message_ids(from_uid, most)).await
    }

    async fn identity(&mut self, uid: u32) -> Result<Option<FetchedId>, ImapError> {
        self.lease.while_held(self.client.identity(uid)).await
    }

    async fn find(&mut self, message_id: &str) -> Result<Vec<u32>, ImapError> {
        self.lease.while_held(self.client.find(message_id)).await
    }

    async fn find_own(&mut self, own_id: &str) -> Result<Vec<u32>, ImapError> {
        self.lease.while_held(self.client.find_own(own_id)).await
    }

    async fn append(
        &mut self,
        flags: RemoteFlags,
        received: Timestamp,
        mail: &[u8],
    ) -> Result<Option<AppendUid>, ImapError> {
        self.lease.while_held(self.client.append(&self.account.folder, imap(flags), received.0, mail)).await
    }

    async fn store_flags(&mut self, uid: u32, add: RemoteFlags, remove: RemoteFlags) -> Result<(), ImapError> {
        self.lease.while_held(self.client.store_flags(uid, imap(add), imap(remove))).await
    }

    async fn move_to(&mut self, uid: u32, folder: &str) -> Result<(), ImapError> {
        let Self { client, lease, .. } = self;
        let moving = async {
            match client.move_to(uid, folder).await {
                Err(missing @ ImapError::NoFolder { .. }) => {
                    create(client, folder, missing).await?;
                    client.move_to(uid, folder).await
                }
                moved => moved,
            }
        };
        lease.while_held(moving).await
    }

    async fn expunge(&mut self, uid: u32) -> Result<(), ImapError> {
        self.lease.while_held(self.client.expunge(uid)).await
    }
}
