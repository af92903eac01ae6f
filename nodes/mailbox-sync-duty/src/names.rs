//! Recognises the mails of messages: by our names, or by the names that a server wrote in place of ours.

use std::collections::{BTreeMap, HashMap, HashSet};

use twinbox_ids::MessageId;
use twinbox_imap::{FetchedId, ImapError};
use twinbox_mailbox_sync::{Extent, LocalMessage, MessageState, NamesKept, fingerprint, parse_message_id};

use crate::folder::{Folder, is_usable_after};

/// The names of the mails of an account.
pub(crate) struct Names {
    /// Messages of the mailbox, and messages that have a row.
    messages: HashSet<MessageId>,
    /// Mails by the fingerprint of the Message-ID that the server gave them.
    aliases: HashMap<u64, (MessageId, Extent)>,
}

/// A mail that was read by its UID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mail {
    /// There is no mail of this UID.
    Absent,
    /// The mail is one of this message, and may be flagged as deleted.
    Of { extent: Extent, is_deleted: bool },
    /// The mail is another one: the UID was given again.
    Other,
}

impl Names {
    pub(crate) fn new(rows: &BTreeMap<MessageId, MessageState>, local: &[LocalMessage]) -> Self {
        let messages = rows.keys().copied().chain(local.iter().map(|message| message.id)).collect();
        let aliases = rows.iter().filter(|(_, row)| row.mail.alias != 0);
        let aliases = aliases.map(|(id, row)| (row.mail.alias, (*id, row.mail.extent))).collect();
        Self { messages, aliases }
    }

    /// The message of this account that a name of ours has. The cluster in the name does not count: after a full
    /// restore, the mails have that of the cluster that was backed up. Ids of messages are random, or hashes of the source
    /// of the message, so no other mail has one by accident. A test copy of a cluster shares the mails with the
    /// original, as docs/backup.md warns: it cannot be distinguished from a cluster whose original is lost.
    fn named(&self, name: Option<&str>) -> Option<(MessageId, Extent)> {
        parse_message_id(name?).filter(|(id, _)| self.messages.contains(id))
    }

    /// The message of a mail; `None` for a mail of others.
    pub(crate) fn of(&self, mail: &FetchedId) -> Option<(MessageId, Extent)> {
        let alias = || self.aliases.get(&fingerprint(mail.message_id.as_deref()?)).copied();
        let own = self.named(mail.own_id.as_deref());
        own.or_else(|| self.named(mail.message_id.as_deref())).or_else(alias)
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

    /// Whether this UID is of another mail now; false if the server refuses to read the mail.
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
        let is_ours = |id: &Option<String>| self.named(id.as_deref()).is_some();
        match (is_ours(&mail.message_id), is_ours(&mail.own_id)) {
            (true, _) => (NamesKept::MessageId, 0),
            (false, true) => (NamesKept::OwnField, 0),
            (false, false) => (NamesKept::Nothing, mail.message_id.as_deref().map_or(0, fingerprint)),
        }
    }
}

#[cfg(test)]
mod tests {
    use twinbox_ids::{ClusterId, Timestamp};
    use twinbox_imap::ImapFlags;
    use twinbox_mailbox_sync::{MailState, RemoteFlags, message_id};

    use super::*;

    #[test]
    fn name_of_any_cluster_counts_if_the_account_has_its_message() {
        let row = MessageState::appended(RemoteFlags::default(), 5, 1, MailState::default());
        let (id, received) = (MessageId(2), Timestamp(1));
        let local = LocalMessage { id, received, partial: false, audio_lost: false, state: row.local };
        let names = Names::new(&BTreeMap::from([(MessageId(1), row)]), &[local]);
        for (id, cluster) in [1, 2, 3].into_iter().flat_map(|id| [7, 8].map(|cluster| (id, cluster))) {
            let ours = message_id(MessageId(id), Extent::Part, ClusterId(cluster));
            let known = (id < 3).then_some((MessageId(id), Extent::Part));
            for (first, own_id) in [(ours.as_str(), None), ("<1@server.example>", Some(ours.clone()))] {
                let (message_id, flags) = (Some(first.to_owned()), ImapFlags::default());
                assert_eq!(names.of(&FetchedId { uid: 1, flags, message_id, own_id }), known, "{ours}");
            }
        }
    }
}
