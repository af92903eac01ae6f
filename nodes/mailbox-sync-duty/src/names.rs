//! Recognises the mails of messages: by our names, or by those that a server wrote in place of them.

use std::collections::{BTreeMap, HashMap};

use twinbox_ids::{ClusterId, MessageId};
use twinbox_imap::{FetchedId, ImapError};
use twinbox_mailbox_sync::{Extent, MessageState, NamesKept, fingerprint, parse_message_id};

use crate::folder::{Folder, is_usable_after};

/// The names of the mails of an account.
pub(crate) struct Names {
    cluster: ClusterId,
    /// Mails by the fingerprint of the Message-ID that the server gave them.
    aliases: HashMap<u64, (MessageId, Extent)>,
}

/// A mail that was read by its UID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mail {
    /// There is none.
    Absent,
    /// It is one of this message, and may be flagged as deleted.
    Of { extent: Extent, is_deleted: bool },
    /// It is another one: the UID was given again.
    Other,
}

impl Names {
    pub(crate) fn new(cluster: ClusterId, rows: &BTreeMap<MessageId, MessageState>) -> Self {
        let aliases = rows.iter().filter(|(_, row)| row.mail.alias != 0);
        Self { cluster, aliases: aliases.map(|(id, row)| (row.mail.alias, (*id, row.mail.extent))).collect() }
    }

    /// The message of a mail; `None` for a mail of others.
    pub(crate) fn of(&self, mail: &FetchedId) -> Option<(MessageId, Extent)> {
        let own = |id: &Option<String>| parse_message_id(id.as_deref()?, self.cluster);
        let alias = || self.aliases.get(&fingerprint(mail.message_id.as_deref()?)).copied();
        own(&mail.own_id).or_else(|| own(&mail.message_id)).or_else(alias)
    }

    /// Reads the mail of this UID. `alias` is the fingerprint of the message's row, or 0.
    pub(crate) async fn read<F: Folder>(
        &self,
        folder: &mut F,
        uid: u32,
        message: MessageId,
        alias: u64,
    ) -> Result<Mail, ImapError> {
        let Some(mail) = folder.identity(uid).await? else { return Ok(Mail::Absent) };
        let is_deleted = mail.flags.deleted;
        Ok(match self.of(&mail) {
            Some((id, extent)) if id == message => Mail::Of { extent, is_deleted },
            None if alias != 0 && mail.message_id.as_deref().is_some_and(|id| fingerprint(id) == alias) => {
                Mail::Of { extent: Extent::Whole, is_deleted }
            }
            _ => Mail::Other,
        })
    }

    /// Whether this UID is of another mail now. One that the server refuses to read says nothing.
    pub(crate) async fn is_reused<F: Folder>(
        &self,
        folder: &mut F,
        uid: u32,
        message: MessageId,
        alias: u64,
    ) -> Result<bool, ImapError> {
        match self.read(folder, uid, message, alias).await {
            Err(error) if is_usable_after(&error) => Ok(false),
            read => Ok(read? == Mail::Other),
        }
    }

    /// The names that the server left to a mail that was appended just now, and its alias: 0 while one of our
    /// names is there, and for a mail without any Message-ID.
    pub(crate) fn left(&self, mail: &FetchedId) -> (NamesKept, u64) {
        let is_ours =
            |id: &Option<String>| id.as_deref().is_some_and(|id| parse_message_id(id, self.cluster).is_some());
        match (is_ours(&mail.message_id), is_ours(&mail.own_id)) {
            (true, _) => (NamesKept::MessageId, 0),
            (false, true) => (NamesKept::OwnField, 0),
            (false, false) => (NamesKept::Nothing, mail.message_id.as_deref().map_or(0, fingerprint)),
        }
    }
}
