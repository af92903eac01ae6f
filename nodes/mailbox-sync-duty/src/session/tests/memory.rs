//! A folder in memory, whose connection is cut at a chosen call.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::{ClusterId, MessageId, Timestamp};
use twinbox_imap::{AppendUid, FetchedFlags, FetchedId, ImapError, ImapFlags, Resume, Selected};
use twinbox_mail::incoming;
use twinbox_mailbox_sync::{Extent, RemoteFlags, message_id};

use crate::folder::{Folder, imap};

pub(super) const CLUSTER: ClusterId = ClusterId(7);

/// A mail in the folder.
#[derive(Debug, Clone)]
pub(super) struct StoredMail {
    pub id: Option<String>,
    /// The header field of our own.
    pub own: Option<String>,
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
    /// Flags and removals are refused.
    pub refuses: bool,
    /// EXPUNGE is refused.
    pub keeps: bool,
    /// Flags that are not kept.
    pub unkept: ImapFlags,
    /// Message-IDs are rewritten; with `strips`, our own header field is removed too.
    pub rewrites: bool,
    pub strips: bool,
    /// With `rewrites`, Message-IDs are removed.
    pub nameless: bool,
    /// A search for our own header field finds all mails.
    pub loose: bool,
    /// The mail of this UID cannot be read.
    pub unreadable: Option<u32>,
    /// A rule moves mails away as soon as they are appended, and the server names the UID that they had.
    pub moves: bool,
    /// Number of mails from which on the account is full.
    pub room: Option<usize>,
    /// Number of mails whose Message-IDs were read, and the most that one connection may read.
    pub read_ids: usize,
    pub most_ids: Option<usize>,
    /// Appended mails are read there before the server answers.
    pub reads_at_once: bool,
    /// Appended mails are taken and not shown.
    pub hides: bool,
    /// Number of mails that were not shown.
    pub hidden: usize,
    /// Number of connections after which an appended mail is shown: its answer is lost.
    pub late: usize,
    /// Mails that are not shown yet, with the number of connections until then.
    pub coming: Vec<(usize, StoredMail)>,
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
            refuses: false,
            keeps: false,
            unkept: ImapFlags::default(),
            rewrites: false,
            strips: false,
            nameless: false,
            loose: false,
            unreadable: None,
            moves: false,
            room: None,
            read_ids: 0,
            most_ids: None,
            reads_at_once: false,
            hides: false,
            hidden: 0,
            late: 0,
            coming: Vec::new(),
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
        self.mails.insert(uid, StoredMail { id, own: None, flags, modseq });
        uid
    }

    /// A mail of another UID than the next one, as in a copy of the folder that was restored.
    pub(super) fn put(&mut self, uid: u32, id: Option<String>, flags: ImapFlags) {
        let modseq = self.change();
        self.removed.remove(&uid);
        self.mails.insert(uid, StoredMail { id, own: None, flags, modseq });
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
        self.uids_named(&message_id(message, Extent::Whole, CLUSTER))
    }

    pub(super) fn uids_of_part(&self, message: MessageId) -> Vec<u32> {
        self.uids_named(&message_id(message, Extent::Part, CLUSTER))
    }

    fn uids_named(&self, id: &str) -> Vec<u32> {
        let is_named = |mail: &StoredMail| mail.id.as_deref() == Some(id) || mail.own.as_deref() == Some(id);
        self.mails.iter().filter(|(_, mail)| is_named(mail)).map(|(uid, _)| *uid).collect()
    }

    fn refusal(&self) -> Result<(), ImapError> {
        if self.refuses { Err(ImapError::No { command: "STORE", text: "no right".to_owned() }) } else { Ok(()) }
    }

    /// The folder gets other UIDs, as after a restored backup.
    pub(super) fn renumber(&mut self) {
        let mails = std::mem::take(&mut self.mails);
        (self.uid_validity, self.uid_next) = (self.uid_validity + 1, 100);
        self.removed.clear();
        for mail in mails.into_values() {
            let uid = self.add(mail.id, mail.flags);
            self.mails.get_mut(&uid).expect("added").own = mail.own;
        }
    }

    pub(super) fn connect(&mut self, cut: Option<(usize, Cut)>) {
        (self.calls, self.cut, self.read_ids) = (0, cut, 0);
        for (connections, mail) in std::mem::take(&mut self.coming) {
            if connections > 1 {
                self.coming.push((connections - 1, mail));
            } else {
                let uid = self.add(mail.id, mail.flags);
                self.mails.get_mut(&uid).expect("added").own = mail.own;
            }
        }
    }
}

fn fetched((uid, mail): (&u32, &StoredMail)) -> FetchedId {
    FetchedId { uid: *uid, flags: mail.flags, message_id: mail.id.clone(), own_id: mail.own.clone() }
}

impl Folder for MemoryFolder {
    async fn select(&mut self, resume: Option<Resume>) -> Result<Selected, ImapError> {
        self.begin()?;
        let resume = resume.filter(|resume| self.qresync && resume.uid_validity == self.uid_validity);
        let mut selected = Selected {
            uid_validity: self.uid_validity,
            uid_next: self.uid_next,
            exists: u32::try_from(self.mails.len()).expect("few"),
            unkept: self.unkept,
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
        let mails: Vec<_> = self.mails.range(from_uid..).take(most).map(fetched).collect();
        self.read_ids += mails.len();
        if self.most_ids.is_some_and(|most| self.read_ids > most) {
            return Err(ImapError::Closed { step: "test", reason: "too long".to_owned() });
        }
        self.end(mails)
    }

    async fn identity(&mut self, uid: u32) -> Result<Option<FetchedId>, ImapError> {
        self.begin()?;
        if self.unreadable == Some(uid) {
            return Err(ImapError::No { command: "FETCH", text: "damaged".to_owned() });
        }
        self.end(self.mails.get_key_value(&uid).map(fetched))
    }

    async fn find_own(&mut self, own_id: &str) -> Result<Vec<u32>, ImapError> {
        self.begin()?;
        let found = self.mails.iter().filter(|(_, mail)| self.loose || mail.own.as_deref() == Some(own_id));
        self.end(found.map(|(uid, _)| *uid).collect())
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
        if self.full || self.room.is_some_and(|room| self.mails.len() >= room) {
            return Err(ImapError::Quota { text: "over quota".to_owned() });
        }
        if self.hides {
            self.hidden += 1;
            return self.end(None);
        }
        let id = incoming::read(mail).expect("a mail").message_id.map(|id| format!("<{id}>"));
        let text = String::from_utf8_lossy(mail);
        let own = text.lines().find_map(|line| line.strip_prefix("X-Twinbox-Id: ")).map(str::to_owned);
        let uid = self.add(id, imap(flags));
        let stored = self.mails.get_mut(&uid).expect("added");
        stored.own = own.filter(|_| !self.strips);
        stored.flags.seen |= self.reads_at_once;
        if self.rewrites {
            stored.id = (!self.nameless).then(|| format!("<{uid}.{}@server.example>", self.modseq));
        }
        if self.moves {
            self.take(uid);
            self.hidden += 1;
        }
        if self.late > 0 {
            let mail = self.mails.remove(&uid).expect("added");
            self.uid_next = uid;
            self.coming.push((self.late, mail));
            return Err(ImapError::Unknown { reason: "no answer".to_owned() });
        }
        let place = AppendUid { uid_validity: self.uid_validity, uid };
        let cut = |_| ImapError::Unknown { reason: "cut".to_owned() };
        self.end(self.uidplus.then_some(place)).map_err(cut)
    }

    async fn store_flags(&mut self, uid: u32, add: RemoteFlags, remove: RemoteFlags) -> Result<(), ImapError> {
        self.begin()?;
        self.refusal()?;
        let kept = |flag: bool, unkept: bool| flag && !unkept;
        let unkept = self.unkept;
        self.set(uid, |flags| {
            flags.seen = (flags.seen || add.seen) && !remove.seen;
            flags.flagged = (flags.flagged || add.flagged) && !remove.flagged;
            flags.deleted = (flags.deleted || add.deleted) && !remove.deleted;
            flags.seen = kept(flags.seen, unkept.seen);
            flags.flagged = kept(flags.flagged, unkept.flagged);
        });
        self.end(())
    }

    async fn move_to(&mut self, uid: u32, folder: &str) -> Result<(), ImapError> {
        self.begin()?;
        self.refusal()?;
        assert_eq!(folder, "Trash");
        if self.mails.contains_key(&uid) {
            let mail = self.take(uid);
            self.trash.push(mail);
        }
        self.end(())
    }

    async fn expunge(&mut self, uid: u32) -> Result<(), ImapError> {
        // As the client: it sets \Deleted, and without UIDPLUS it expunges no mail of others.
        self.begin()?;
        self.refusal()?;
        self.set(uid, |flags| flags.deleted = true);
        self.end(())?;
        let is_marked = |(other, mail): (&u32, &StoredMail)| *other != uid && mail.flags.deleted;
        if !self.uidplus && self.mails.iter().any(is_marked) {
            return Ok(());
        }
        self.begin()?;
        if self.keeps {
            return Err(ImapError::No { command: "EXPUNGE", text: "no right".to_owned() });
        }
        if self.mails.contains_key(&uid) {
            self.take(uid);
        }
        self.end(())
    }
}
