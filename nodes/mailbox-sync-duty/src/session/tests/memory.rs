//! A folder in memory, whose connection is cut at a chosen call.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::{ClusterId, MessageId, Timestamp};
use twinbox_imap::{AppendUid, FetchedFlags, FetchedId, ImapError, ImapFlags, Resume, Selected};
use twinbox_mail::incoming;
use twinbox_mailbox_sync::{RemoteFlags, message_id};

use crate::folder::{Folder, imap};

pub(super) const CLUSTER: ClusterId = ClusterId(7);

/// A mail in the folder.
#[derive(Debug, Clone)]
pub(super) struct StoredMail {
    pub id: Option<String>,
    pub flags: ImapFlags,
    pub modseq: u64,
}

/// The point of a call at which the connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// The server does not get the command.
    Before,
    /// The server does it, and its answer is lost.
    After,
}

/// A folder in memory, with the extensions of its server.
#[derive(Debug)]
pub(super) struct MemoryFolder {
    pub mails: BTreeMap<u32, StoredMail>,
    /// Mails that were removed, with the change that removed them.
    pub removed: BTreeMap<u32, u64>,
    pub trash: Vec<StoredMail>,
    pub uid_validity: u32,
    pub uid_next: u32,
    pub modseq: u64,
    pub qresync: bool,
    pub uidplus: bool,
    pub full: bool,
    /// Appended mails are taken and not shown.
    pub hides: bool,
    /// Number of mails that were not shown.
    pub hidden: usize,
    /// Calls of the present connection, and the one that is cut.
    pub calls: usize,
    pub cut: Option<(usize, Cut)>,
}

impl Default for MemoryFolder {
    fn default() -> Self {
        Self {
            mails: BTreeMap::new(),
            removed: BTreeMap::new(),
            trash: Vec::new(),
            uid_validity: 5,
            uid_next: 1,
            modseq: 1,
            qresync: true,
            uidplus: true,
            full: false,
            hides: false,
            hidden: 0,
            calls: 0,
            cut: None,
        }
    }
}

impl MemoryFolder {
    fn begin(&mut self) -> Result<(), ImapError> {
        self.calls += 1;
        self.cut_at(Cut::Before)
    }

    fn cut_at(&self, at: Cut) -> Result<(), ImapError> {
        match self.cut {
            Some((call, cut)) if call < self.calls || (call == self.calls && cut == at) => {
                Err(ImapError::Closed { step: "test", reason: "cut".to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn end<T>(&self, result: T) -> Result<T, ImapError> {
        self.cut_at(Cut::After).map(|()| result)
    }

    fn change(&mut self) -> u64 {
        self.modseq += 1;
        self.modseq
    }

    pub(super) fn add(&mut self, id: Option<String>, flags: ImapFlags) -> u32 {
        let modseq = self.change();
        let uid = self.uid_next;
        self.uid_next += 1;
        self.mails.insert(uid, StoredMail { id, flags, modseq });
        uid
    }

    /// A mail of another UID than the next one, as in a copy of the folder that was restored.
    pub(super) fn put(&mut self, uid: u32, id: Option<String>, flags: ImapFlags) {
        let modseq = self.change();
        self.removed.remove(&uid);
        self.mails.insert(uid, StoredMail { id, flags, modseq });
    }

    /// Another program takes a mail out.
    pub(super) fn take(&mut self, uid: u32) -> StoredMail {
        let at = self.change();
        self.removed.insert(uid, at);
        self.mails.remove(&uid).expect("a mail")
    }

    pub(super) fn set(&mut self, uid: u32, change: impl Fn(&mut ImapFlags)) {
        let modseq = self.change();
        if let Some(mail) = self.mails.get_mut(&uid) {
            change(&mut mail.flags);
            mail.modseq = modseq;
        }
    }

    pub(super) fn uids_of(&self, message: MessageId) -> Vec<u32> {
        let id = message_id(message, CLUSTER);
        self.mails.iter().filter(|(_, mail)| mail.id.as_ref() == Some(&id)).map(|(uid, _)| *uid).collect()
    }

    /// The folder gets other UIDs, as after a restored backup.
    pub(super) fn renumber(&mut self) {
        let mails = std::mem::take(&mut self.mails);
        (self.uid_validity, self.uid_next) = (self.uid_validity + 1, 100);
        self.removed.clear();
        for mail in mails.into_values() {
            self.add(mail.id, mail.flags);
        }
    }

    pub(super) fn connect(&mut self, cut: Option<(usize, Cut)>) {
        (self.calls, self.cut) = (0, cut);
    }
}

impl Folder for MemoryFolder {
    async fn select(&mut self, resume: Option<Resume>) -> Result<Selected, ImapError> {
        self.begin()?;
        let resume = resume.filter(|resume| self.qresync && resume.uid_validity == self.uid_validity);
        let mut selected = Selected {
            uid_validity: self.uid_validity,
            uid_next: self.uid_next,
            exists: u32::try_from(self.mails.len()).expect("few"),
            highest_modseq: self.qresync.then_some(self.modseq),
            ..Selected::default()
        };
        if let Some(resume) = resume {
            selected.resumed = true;
            let is_later = |at: u64| at > resume.modseq;
            let is_bound = |uid: &u32| resume.uids.contains(uid);
            let gone = self.removed.iter().filter(|(uid, at)| is_bound(uid) && is_later(**at));
            selected.vanished = gone.map(|(uid, _)| *uid).collect();
            let changed = self.mails.iter().filter(|(uid, mail)| is_bound(uid) && is_later(mail.modseq));
            selected.flags = changed.map(|(uid, mail)| FetchedFlags { uid: *uid, flags: mail.flags }).collect();
        }
        self.end(selected)
    }

    async fn flags(&mut self, uids: &BTreeSet<u32>) -> Result<Vec<FetchedFlags>, ImapError> {
        self.begin()?;
        let mails = self.mails.iter().filter(|(uid, _)| uids.contains(uid));
        self.end(mails.map(|(uid, mail)| FetchedFlags { uid: *uid, flags: mail.flags }).collect())
    }

    async fn message_ids(&mut self, from_uid: u32, most: usize) -> Result<Vec<FetchedId>, ImapError> {
        self.begin()?;
        let mails = self.mails.range(from_uid..).take(most);
        let fetched = |(uid, mail): (&u32, &StoredMail)| FetchedId {
            uid: *uid,
            flags: mail.flags,
            message_id: mail.id.clone(),
        };
        self.end(mails.map(fetched).collect())
    }

    async fn find(&mut self, message_id: &str) -> Result<Vec<u32>, ImapError> {
        self.begin()?;
        let found = self.mails.iter().filter(|(_, mail)| mail.id.as_deref() == Some(message_id));
        self.end(found.map(|(uid, _)| *uid).collect())
    }

    async fn append(
        &mut self,
        flags: RemoteFlags,
        _: Timestamp,
        mail: &[u8],
    ) -> Result<Option<AppendUid>, ImapError> {
        self.begin()?;
        if self.full {
            return Err(ImapError::Quota { text: "over quota".to_owned() });
        }
        if self.hides {
            self.hidden += 1;
            return self.end(None);
        }
        let id = incoming::read(mail).expect("a mail").message_id.map(|id| format!("<{id}>"));
        let uid = self.add(id, imap(flags));
        let place = AppendUid { uid_validity: self.uid_validity, uid };
        self.end(self.uidplus.then_some(place))
    }

    async fn store_flags(&mut self, uid: u32, add: RemoteFlags, remove: RemoteFlags) -> Result<(), ImapError> {
        self.begin()?;
        self.set(uid, |flags| {
            flags.seen = (flags.seen || add.seen) && !remove.seen;
            flags.flagged = (flags.flagged || add.flagged) && !remove.flagged;
            flags.deleted = (flags.deleted || add.deleted) && !remove.deleted;
        });
        self.end(())
    }

    async fn move_to(&mut self, uid: u32, folder: &str) -> Result<(), ImapError> {
        self.begin()?;
        assert_eq!(folder, "Trash");
        if self.mails.contains_key(&uid) {
            let mail = self.take(uid);
            self.trash.push(mail);
        }
        self.end(())
    }

    async fn expunge(&mut self, uid: u32) -> Result<(), ImapError> {
        self.begin()?;
        if self.mails.contains_key(&uid) {
            self.take(uid);
        }
        self.end(())
    }
}
