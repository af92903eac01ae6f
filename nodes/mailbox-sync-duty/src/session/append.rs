//! APPENDs of a round: the mail is sent, and the row is written after the mail was seen in the folder.

use twinbox_ids::MessageId;
use twinbox_imap::ImapError;
use twinbox_mailbox_sync::{Link, LocalState, MailState, MessageState, NamesKept, RemoteFlags, message_id};
use twinbox_mailstore::MailError;

use super::{Round, Session};
use crate::{
    error::SyncError,
    folder::{Folder, is_usable_after, remote},
    mail::{extent, mail},
    names::Mail,
};

/// Maximum number of found mails of a search that are read.
const MOST_READ: usize = 8;

/// A message that is appended.
#[derive(Clone, Copy)]
struct Sent {
    message: MessageId,
    flags: RemoteFlags,
    /// Facts of its mail.
    mail: MailState,
}

impl<F: Folder> Round<'_, F> {
    /// Appends a message. A refusal counts as done: its attempt is stored, and a later round repeats it.
    pub(super) async fn append(
        &mut self,
        message: MessageId,
        flags: RemoteFlags,
        mail_state: MailState,
    ) -> Result<(), SyncError> {
        if self.full {
            return Ok(());
        }
        let sent = Sent { message, flags, mail: mail_state };
        let Session { mailstore, account, cluster, from, appends, lease, .. } = self.session;
        let first = self.first_uid(message);
        let id = message_id(message, mail_state.extent, cluster);
        // The server may have finished an interrupted APPEND after this round's look, or an earlier look saw the mail of
        // another holder while its row, or the message itself, was not here yet.
        if (self.rows.contains_key(&message) || !self.everything_read)
            && let Some((uid, is_deleted)) = self.find(sent, &id, 1).await?
        {
            // The mail may have been read since.
            self.rereads = true;
            // The flag may be left from a removal of this duty that a server without UIDPLUS could not finish.
            self.bind(sent, uid, is_deleted && self.rows.contains_key(&message));
            return Ok(());
        }
        let stored = mailstore.message(account.mailbox, message).await?;
        let (Some(stored), Some(mailbox)) = (stored, mailstore.get_now(account.mailbox)?) else {
            self.skip(message);
            return Ok(());
        };
        // The message was completed meanwhile.
        if extent(&stored) != mail_state.extent {
            self.skip(message);
            return Ok(());
        }
        // The semaphore is never closed: the server lives as long as its accounts.
        let _turn = lease.unless_lost(appends.acquire()).await?.map_err(|_| SyncError::DutyLost)?;
        let wav = match lease.unless_lost(mailstore.wav(&stored)).await? {
            Ok(wav) => wav,
            // Audio that is not here yet delays no other message, and no other step of this one.
            Err(MailError::NoAudio(_) | MailError::Store(_)) => {
                let attempt = self.attempt(message, flags, mail_state);
                let earlier = self.rows.get(&message).filter(|_| self.names_kept == NamesKept::Nothing);
                // Without names, only the earlier row has the place of a mail of the message.
                self.refused_step(message, earlier.copied().unwrap_or(attempt));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let bytes = mail(cluster, from, &mailbox, &stored, wav);
        if !lease.is_held() {
            return Err(SyncError::DutyLost);
        }
        if self.names_kept == NamesKept::Nothing {
            let attempt = MailState { refusal: None, ..mail_state };
            self.session.write(vec![(message, Some(self.attempt(message, flags, attempt)))], None).await?;
        }
        self.noted.remove(&message);
        match self.folder.append(flags.without(self.remote.unkept), stored.received, &bytes).await {
            Ok(place) => {
                let validity = self.remote.uid_validity;
                let named = place.filter(|place| place.uid_validity == validity && place.uid >= first);
                let shown = match named {
                    Some(named) => self.shown(sent, named.uid).await?,
                    None => match self.find_appended(sent, &id, first).await? {
                        Some(uid) => {
                            self.bind(sent, uid, false);
                            true
                        }
                        None => false,
                    },
                };
                if !shown {
                    // Not appended again: each attempt would leave a copy elsewhere. The mail is bound when it appears.
                    let local = LocalState { folder: flags.folder(), deleted: false };
                    let mail = MailState { refusal: None, ..mail_state };
                    self.pending.push((message, Some(MessageState { local, link: Link::Gone, mail })));
                    self.refuse(SyncError::NotShown);
                    return Ok(());
                }
                self.counts.appended += 1;
                // The mail of the part is removed when a later look has seen this one.
                self.end.again |= mail_state.part != 0;
                Ok(())
            }
            Err(error) if is_usable_after(&error) => {
                // A full account is retried at each look, with one message.
                let is_full = matches!(error, ImapError::Quota { .. });
                self.full |= is_full;
                if !is_full {
                    let refused = self.attempt(message, flags, mail_state);
                    self.refused_step(message, refused);
                } else if self.names_kept == NamesKept::Nothing {
                    self.pending.push((message, self.rows.get(&message).copied()));
                }
                self.refuse(error.into());
                Ok(())
            }
            Err(error) => {
                let is_unknown = matches!(error, ImapError::Unknown { .. });
                if is_unknown && self.names_kept != NamesKept::Nothing {
                    // The server may show the mail only later. The looks until the next attempt bind it.
                    let attempt = self.attempt(message, flags, mail_state);
                    self.refused_step(message, attempt);
                }
                // The server did not get the mail, so there is none that a look could miss.
                let is_certain = !is_unknown && !matches!(error, ImapError::NotHolder);
                if is_certain && self.names_kept == NamesKept::Nothing {
                    self.pending.push((message, self.rows.get(&message).copied()));
                }
                Err(error.into())
            }
        }
    }

    /// Reads a mail at the UID that the server named for it, and notes its row; false if it is not in the folder.
    async fn shown(&mut self, sent: Sent, uid: u32) -> Result<bool, SyncError> {
        let read = match self.folder.identity(uid).await {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(false),
            Err(error) => {
                // The mail is taken to be at its UID; the names that the server left are unknown.
                self.bind(sent, uid, false);
                return if is_usable_after(&error) { Ok(true) } else { Err(error.into()) };
            }
        };
        // A program changed the flags before this answer, which alone saw the change: another look finds it.
        self.end.again |= remote(read.flags) != sent.flags.without(self.remote.unkept);
        let (names, alias) = self.names.left(&read);
        if names == NamesKept::Nothing && alias == 0 {
            // No look could distinguish it from the mails of others: it is neither removed nor appended again.
            let Sent { message, flags, mail } = sent;
            let local = LocalState { folder: flags.folder(), deleted: false };
            let mail = MailState { refusal: None, ..mail };
            let link = Link::Held { uid: 0, remote: flags };
            self.pending.push((message, Some(MessageState { local, link, mail })));
        } else {
            self.bind(Sent { mail: MailState { alias, ..sent.mail }, ..sent }, uid, false);
        }
        if names > self.names_kept {
            self.names_kept = names;
            if names == NamesKept::Nothing {
                self.restore_noted().await?;
            }
        }
        Ok(true)
    }

    /// Restores the rows of attempts that have not begun: if no look can find the mail, the row must not record that the
    /// server may have taken it.
    async fn restore_noted(&mut self) -> Result<(), SyncError> {
        let noted = std::mem::take(&mut self.noted);
        self.pending.extend(noted.into_iter().map(|message| (message, self.rows.get(&message).copied())));
        self.flush(None).await
    }

    /// The mail of this message with this name, from this UID on: its UID, and whether it is flagged as deleted. After a
    /// full restore, the look finds the mails of the cluster that was backed up: it reads all since the stored position.
    /// They are not searched for: servers that compare whole names would not find the id without the cluster.
    async fn find(&mut self, sent: Sent, id: &str, first: u32) -> Result<Option<(u32, bool)>, SyncError> {
        let mut uids = self.folder.find(id).await?;
        if self.names_kept != NamesKept::MessageId {
            uids.extend(self.find_own(id).await?);
        }
        self.own_of(sent, uids, first).await
    }

    /// The mail that was appended just now. A server that does not name its UID may have rewritten its Message-ID.
    async fn find_appended(&mut self, sent: Sent, id: &str, first: u32) -> Result<Option<u32>, SyncError> {
        if let Some((uid, _)) = self.find(sent, id, first).await? {
            return Ok(Some(uid));
        }
        let uids = self.find_own(id).await?;
        let uid = self.own_of(sent, uids, first).await?.map(|(uid, _)| uid);
        if uid.is_some() {
            self.names_kept = self.names_kept.max(NamesKept::OwnField);
        }
        Ok(uid)
    }

    /// UIDs of the mails with this name in our own header field; none where the server refuses such a search.
    async fn find_own(&mut self, id: &str) -> Result<Vec<u32>, SyncError> {
        match self.folder.find_own(id).await {
            Err(error) if is_usable_after(&error) => Ok(Vec::new()),
            found => Ok(found?),
        }
    }

    /// The first of these mails that is the one of this message. Servers search loosely: a mail that was not read could be
    /// one of others. The latest are read.
    async fn own_of(
        &mut self,
        sent: Sent,
        mut uids: Vec<u32>,
        first: u32,
    ) -> Result<Option<(u32, bool)>, SyncError> {
        uids.retain(|uid| *uid >= first && *uid != 0);
        uids.sort_unstable();
        uids.dedup();
        for uid in uids.split_off(uids.len().saturating_sub(MOST_READ)) {
            match self.names.read(self.folder, uid, sent.message, 0).await {
                Ok(Mail::Of { extent, is_deleted }) if extent == sent.mail.extent => {
                    return Ok(Some((uid, is_deleted)));
                }
                Err(error) if !is_usable_after(&error) => return Err(error.into()),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Notes the row of a mail that is in the folder. `is_deleted`: its `\Deleted` flag counts as seen before.
    fn bind(&mut self, sent: Sent, uid: u32, is_deleted: bool) {
        let Sent { message, flags, mail } = sent;
        let mail = MailState { refusal: None, ..mail };
        let flags = RemoteFlags { deleted: is_deleted, ..flags };
        let state = MessageState::appended(flags, self.remote.uid_validity, uid, mail);
        self.pending.push((message, Some(state)));
    }
}
