//! A model of both sides: messages here, a folder of an IMAP account, and a duty that carries plans out and may be cut
//! at any action. It checks that each action finds the message that it means.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::{MessageId, Timestamp};
use twinbox_mailbox::{Folder, Mark};
use twinbox_mailbox_sync::{
    AccountState, Action, Extent, Link, LocalMessage, LocalState, MailState, MessageState, Plan, RemoteFlags,
    RemoteView, needs_full_look, plan,
};

pub const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// A mail in the folder; `id` is `None` for a mail of someone else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    pub id: Option<MessageId>,
    pub extent: Extent,
    pub flags: RemoteFlags,
    pub modseq: u64,
}

/// The folder.
#[derive(Clone, Debug, Default)]
pub struct Server {
    pub uid_validity: u32,
    pub uid_next: u32,
    pub modseq: u64,
    pub mails: BTreeMap<u32, Mail>,
}

impl Server {
    fn add(&mut self, id: Option<MessageId>, extent: Extent, flags: RemoteFlags) -> u32 {
        self.modseq += 1;
        let uid = self.uid_next;
        self.uid_next += 1;
        self.mails.insert(uid, Mail { id, extent, flags, modseq: self.modseq });
        uid
    }

    fn flag(&mut self, uid: u32, flags: RemoteFlags) {
        self.modseq += 1;
        let mail = self.mails.get_mut(&uid).expect("the mail is in the folder");
        (mail.flags, mail.modseq) = (flags, self.modseq);
    }

    fn take(&mut self, uid: u32) -> Mail {
        self.modseq += 1;
        self.mails.remove(&uid).expect("the mail is in the folder")
    }

    /// Mails of messages, by UID.
    fn ours(&self) -> Vec<(u32, MessageId, Extent)> {
        self.mails.iter().filter_map(|(uid, mail)| Some((*uid, mail.id?, mail.extent))).collect()
    }

    pub fn of(&self, id: MessageId) -> Vec<&Mail> {
        self.mails.values().filter(|mail| mail.id == Some(id)).collect()
    }
}

/// One change of the world. Numbers choose a message, modulo the number of candidates.
#[derive(Clone, Debug)]
pub enum Op {
    New(Folder),
    /// A partial message, which waited long enough.
    Part,
    /// The rest of a partial message arrives; a deletion of the part does not outlive it.
    Complete(usize),
    Mark(usize, Mark),
    Purge(usize),
    Flag(usize, RemoteFlags),
    Expunge(usize),
    MoveOut(usize),
    MoveBack(usize),
    Foreign,
    /// All mails get new UIDs under a new UIDVALIDITY.
    Reset {
        keep_flags: bool,
    },
    /// The folder is empty, under a new UIDVALIDITY.
    Lost,
    /// The folder is empty, under the same UIDVALIDITY.
    Wiped,
    /// An old copy of the folder.
    Restored(usize),
    Sync(Cut),
}

/// The end of a run before its time, and a change here during the run.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    /// The action before which the run ends.
    pub before: Option<usize>,
    /// If that action is an APPEND: it was noted, and it reached the server.
    pub append: Option<bool>,
    /// Mark of a message here before that action.
    pub mark: Option<(usize, usize, Mark)>,
}

/// Both sides.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub here: BTreeMap<MessageId, LocalMessage>,
    pub rows: BTreeMap<MessageId, MessageState>,
    pub state: AccountState,
    pub server: Server,
    /// Messages that a user deleted, here or on the server, at any time.
    pub deleted_by_hand: BTreeSet<MessageId>,
    outside: Vec<(MessageId, Extent, RemoteFlags)>,
    copies: Vec<Server>,
    validity: u32,
    condstore: bool,
    made: u128,
}

fn choose<T: Clone>(from: &[T], at: usize) -> Option<T> {
    from.get(at.checked_rem(from.len())?).cloned()
}

fn marked(state: LocalState, mark: Mark) -> LocalState {
    let LocalState { folder, deleted } = state;
    match mark {
        Mark::New | Mark::Heard if deleted => state,
        Mark::New => LocalState { folder: Folder::New, deleted },
        Mark::Heard if folder == Folder::New => LocalState { folder: Folder::Heard, deleted },
        Mark::Heard => state,
        Mark::Saved => LocalState { folder: Folder::Saved, deleted: false },
        Mark::Deleted => LocalState { folder, deleted: true },
        Mark::Undeleted => LocalState { folder, deleted: false },
    }
}

impl World {
    pub fn new(condstore: bool) -> Self {
        let server = Server { uid_validity: 1, uid_next: 1, modseq: 1, mails: BTreeMap::new() };
        Self { server, validity: 1, condstore, ..Self::default() }
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::New(folder) => self.leave(*folder, false),
            Op::Part => self.leave(Folder::New, true),
            Op::Complete(at) => {
                let parts: Vec<_> = self.here.values().filter(|m| m.partial).map(|m| m.id).collect();
                if let Some(message) = choose(&parts, *at).and_then(|id| self.here.get_mut(&id)) {
                    message.partial = false;
                    message.state.deleted = false;
                    self.deleted_by_hand.remove(&message.id);
                }
            }
            Op::Mark(at, mark) => self.mark(*at, *mark),
            Op::Purge(at) => {
                let deleted: Vec<_> = self.here.values().filter(|m| m.state.deleted).map(|m| m.id).collect();
                if let Some(id) = choose(&deleted, *at) {
                    self.here.remove(&id);
                }
            }
            Op::Flag(at, flags) => {
                if let Some((uid, id, extent)) = choose(&self.server.ours(), *at) {
                    if flags.deleted {
                        self.deleted_there(id, extent);
                    }
                    self.server.flag(uid, *flags);
                }
            }
            Op::Expunge(at) => {
                if let Some((uid, id, extent)) = choose(&self.server.ours(), *at) {
                    self.deleted_there(id, extent);
                    self.server.take(uid);
                }
            }
            Op::MoveOut(at) => {
                if let Some((uid, id, extent)) = choose(&self.server.ours(), *at) {
                    self.deleted_there(id, extent);
                    let mail = self.server.take(uid);
                    self.outside.push((id, extent, mail.flags));
                }
            }
            Op::MoveBack(at) => {
                let absent: Vec<_> =
                    self.outside.iter().filter(|(id, ..)| self.server.of(*id).is_empty()).copied().collect();
                if let Some((id, extent, flags)) = choose(&absent, *at) {
                    self.outside.retain(|(other, ..)| *other != id);
                    self.server.add(Some(id), extent, flags);
                }
            }
            Op::Foreign => {
                self.server.add(None, Extent::Whole, RemoteFlags::default());
            }
            Op::Reset { keep_flags } => {
                let mails = std::mem::take(&mut self.server.mails);
                self.fresh();
                for mail in mails.into_values() {
                    let flags = if *keep_flags { mail.flags } else { RemoteFlags::default() };
                    self.server.add(mail.id, mail.extent, flags);
                }
            }
            Op::Lost => self.fresh(),
            Op::Wiped => self.wipe(),
            Op::Restored(at) => self.restore(*at),
            Op::Sync(cut) => {
                self.sync(cut, false);
            }
        }
        self.copies.push(self.server.clone());
        self.check();
    }

    fn leave(&mut self, folder: Folder, partial: bool) {
        self.made += 1;
        let (id, state) = (MessageId(self.made), LocalState { folder, deleted: false });
        self.here.insert(id, LocalMessage { id, received: Timestamp(1), partial, audio_lost: false, state });
    }

    /// A user deletes a mail on the server. The deletion of the mail of a part deletes no message that is whole here.
    fn deleted_there(&mut self, id: MessageId, extent: Extent) {
        let is_partial = self.here.get(&id).is_some_and(|message| message.partial);
        if extent == Extent::Whole || is_partial {
            self.deleted_by_hand.insert(id);
        }
    }

    fn mark(&mut self, at: usize, mark: Mark) {
        let ids: Vec<MessageId> = self.here.keys().copied().collect();
        if let Some(message) = choose(&ids, at).and_then(|id| self.here.get_mut(&id)) {
            message.state = marked(message.state, mark);
            if mark == Mark::Deleted {
                self.deleted_by_hand.insert(message.id);
            }
        }
    }

    /// An empty folder under a new UIDVALIDITY.
    fn fresh(&mut self) {
        self.validity += 1;
        let modseq = self.server.modseq + 1;
        self.server = Server { uid_validity: self.validity, uid_next: 1, modseq, mails: BTreeMap::new() };
    }

    /// Empties the folder if it has more than one bound message, and looks at it: with one message the folder could as
    /// well have been emptied by its owner.
    fn wipe(&mut self) {
        let present = |row: &&MessageState| match row.link {
            Link::Bound { uid_validity, uid, .. } => {
                uid_validity == self.server.uid_validity && self.server.mails.contains_key(&uid)
            }
            _ => false,
        };
        if self.rows.values().filter(present).count() > 1 {
            self.server.mails.clear();
            self.server.modseq += 1;
            self.sync(&Cut::default(), false);
        }
    }

    /// Restores an old copy if it can be told from the folder as seen last, and looks at it.
    fn restore(&mut self, at: usize) {
        let Some(copy) = choose(&self.copies, at) else { return };
        let beyond = |row: &MessageState| match row.link {
            Link::Bound { uid, .. } => uid >= copy.uid_next,
            _ => false,
        };
        let told = needs_full_look(&self.state, copy.uid_validity, copy.uid_next)
            || (self.condstore && copy.modseq < self.state.modseq)
            || self.rows.values().any(beyond);
        if told {
            self.server = copy;
            self.sync(&Cut::default(), false);
        }
    }

    /// The folder as the duty reads it.
    pub fn look(&self, accepted: bool) -> RemoteView {
        let (server, state) = (&self.server, &self.state);
        let full = needs_full_look(state, server.uid_validity, server.uid_next);
        let (mut bound, mut held) = (BTreeSet::new(), BTreeSet::new());
        for row in self.rows.values() {
            match row.link {
                Link::Bound { uid, .. } => bound.insert(uid),
                Link::Held { uid, .. } if uid > 0 => held.insert(uid),
                _ => false,
            };
        }
        let mut view = RemoteView {
            uid_validity: server.uid_validity,
            uid_next: server.uid_next,
            modseq: self.condstore.then_some(server.modseq),
            exists: u32::try_from(server.mails.len()).expect("few mails"),
            accepted,
            ..RemoteView::default()
        };
        for (uid, mail) in &server.mails {
            let known = bound.contains(uid) || held.contains(uid);
            let changed = !self.condstore || mail.modseq > state.modseq || held.contains(uid);
            if !full && known && changed {
                view.flags.insert(*uid, mail.flags);
            }
            if let Some(id) = mail.id.filter(|_| full || (*uid >= state.uid_next && !known)) {
                let found = match mail.extent {
                    Extent::Whole => &mut view.found,
                    Extent::Part => &mut view.found_parts,
                };
                found.insert(id, (*uid, mail.flags));
            }
        }
        if !full {
            view.gone = bound.union(&held).copied().filter(|uid| !server.mails.contains_key(uid)).collect();
        }
        view
    }

    fn plan(&self, accepted: bool) -> Plan {
        let here: Vec<LocalMessage> = self.here.values().copied().collect();
        plan(NOW, &here, &self.rows, &self.state, &self.look(accepted))
    }

    /// One run; whether nothing was to be done.
    pub fn sync(&mut self, cut: &Cut, accepted: bool) -> bool {
        let plan = self.plan(accepted);
        let quiet = plan.actions.is_empty() && plan.state == self.state;
        let mut done = true;
        for (at, action) in plan.actions.into_iter().enumerate() {
            if let Some((_, message, mark)) = cut.mark.filter(|(when, _, _)| *when == at) {
                self.mark(message, mark);
            }
            if cut.before == Some(at) {
                if let (Action::Append { message, flags, mail }, Some(arrived)) = (action, cut.append) {
                    self.note(message, flags, mail);
                    if arrived {
                        self.server.add(Some(message), mail.extent, flags);
                    }
                }
                return false;
            }
            done &= self.carry_out(action);
        }
        if done {
            self.state = plan.state;
        }
        quiet
    }

    fn note(&mut self, message: MessageId, flags: RemoteFlags, mail: MailState) {
        let row = MessageState::appending(flags, self.server.uid_validity, self.server.uid_next, mail);
        self.rows.insert(message, row);
    }

    fn carry_out(&mut self, action: Action) -> bool {
        match action {
            Action::Store { message, state } => {
                self.rows.insert(message, state);
            }
            Action::MarkHere { message, expected, partial, marks, then } => {
                let here = self.here.get_mut(&message).expect("the message is here");
                if (here.state, here.partial) != (expected, partial) {
                    return false;
                }
                here.state = marks.into_iter().fold(here.state, marked);
                assert_eq!(here.state, then.local, "the marks of {message} lead elsewhere");
                self.rows.insert(message, then);
            }
            Action::Append { message, flags, mail } => {
                self.note(message, flags, mail);
                let uid = self.server.add(Some(message), mail.extent, flags);
                self.rows.insert(message, MessageState::appended(flags, self.server.uid_validity, uid, mail));
            }
            Action::Flags { message, uid, add, remove, then, .. } => {
                let mail = self.server.mails.get(&uid).expect("flags of a mail in the folder");
                assert_eq!(mail.id, Some(message), "flags of another mail");
                let flags = mail.flags.without(remove).with(add);
                self.server.flag(uid, flags);
                self.rows.insert(message, then);
            }
            Action::Remove { message, uid, then, .. } => {
                let mail = self.server.take(uid);
                assert_eq!(mail.id, Some(message), "another mail is removed");
                self.outside.push((message, mail.extent, mail.flags));
                self.rows.insert(message, then);
            }
            Action::RemovePart { message, uid, then, .. } => {
                let is_part = |mail: &Mail| mail.id == Some(message) && mail.extent == Extent::Part;
                if self.server.mails.get(&uid).is_some_and(is_part) {
                    self.server.take(uid);
                }
                self.rows.insert(message, then);
            }
            Action::Forget { message } => {
                self.rows.remove(&message);
            }
        }
        true
    }

    /// Runs until nothing is to be done.
    pub fn settle(&mut self, accepted: bool) {
        let quiet = (0..12).any(|_| self.sync(&Cut::default(), accepted));
        assert!(quiet, "still to do: {:?}", self.plan(accepted));
        self.check();
    }

    /// At all times: no message is twice in the folder except a part that is replaced, and only messages that a user deleted are
    /// deleted here.
    fn check(&self) {
        let mut seen = BTreeSet::new();
        for (uid, id, extent) in self.server.ours() {
            assert!(seen.insert((id, extent)), "{id} is twice in the folder, also as UID {uid}");
        }
        for message in self.here.values().filter(|message| message.state.deleted) {
            assert!(self.deleted_by_hand.contains(&message.id), "{} was deleted by nobody", message.id);
        }
    }

    pub fn is_held(&self, id: MessageId) -> bool {
        self.rows.get(&id).is_some_and(|row| matches!(row.link, Link::Held { .. }))
    }

    /// Both sides agree by the table of flags.
    pub fn check_agreement(&self) {
        for message in self.here.values() {
            let mails = self.server.of(message.id);
            let agrees = match (mails.as_slice(), message.state.deleted) {
                ([], false) => self.is_held(message.id),
                ([], true) => true,
                ([mail], true) => mail.flags.deleted,
                ([mail], false) => {
                    let is_part = mail.extent == Extent::Part;
                    let agrees = !mail.flags.deleted && mail.flags.folder() == message.state.folder;
                    agrees && is_part == message.partial
                }
                _ => false,
            };
            assert!(agrees, "{message:?} is {mails:?} there; row {:?}", self.rows.get(&message.id));
        }
    }
}
