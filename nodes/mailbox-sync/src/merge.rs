//! A message that is on both sides: from the bases and the present states to actions.
//!
//! A change of one side is a difference from that side's base. Changes here are pushed flag by flag, so that a flag that
//! only the other side changed stays; for a flag that both sides changed, the value here wins. A save here asserts both
//! flags. When neither side changed and they still differ, the state here wins.

use twinbox_ids::MessageId;
use twinbox_mailbox::Folder;

use crate::{Action, Extent, Link, LocalState, MailState, MessageState, RemoteFlags};

/// State of a message on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sides {
    pub local: LocalState,
    pub remote: RemoteFlags,
}

/// A message that is in the folder on the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Present {
    pub message: MessageId,
    pub uid_validity: u32,
    pub uid: u32,
    /// Facts of its mail.
    pub mail: MailState,
    /// The message here is partial.
    pub partial: bool,
    /// Flags that the server does not keep.
    pub unkept: RemoteFlags,
    /// Both sides as they were when they agreed last.
    pub base: Sides,
    /// Both sides in this look.
    pub now: Sides,
}

impl Present {
    /// The actions that make both sides agree; none if they agree and the row records it.
    pub(crate) fn actions(&self, row: Option<&MessageState>) -> Vec<Action> {
        let (message, uid, now) = (self.message, self.uid, self.now);
        // The bases, so that the next look comes to the same step.
        let kept = |remote| MessageState { mail: self.mail, ..self.row(self.base.local, remote) };
        let Some(goal) = goal(self.base, now) else {
            // A removal first sets \Deleted, which may stay: that flag does not delete a message that is undeleted
            // here later.
            let refused = kept(RemoteFlags { deleted: true, ..self.base.remote });
            let mail = MailState { refusal: None, ..self.mail };
            let then = MessageState { local: now.local, link: Link::Gone, mail };
            return vec![Action::Remove { message, uid, then, refused }];
        };
        let refused = kept(self.base.remote);
        let last = self.row(goal.local, goal.remote);
        let mut actions = Vec::new();
        let marks = now.local.marks_to(goal.local);
        let add = goal.remote.without(now.remote).without(self.unkept);
        let remove = now.remote.without(goal.remote).without(self.unkept);
        if !add.with(remove).is_empty() {
            // The bases keep the marks that are still to be made here.
            let remote = RemoteFlags { deleted: self.base.remote.deleted, ..goal.remote };
            let then = if marks.is_empty() { last } else { self.row(self.base.local, remote) };
            actions.push(Action::Flags { message, uid, add, remove, then, refused });
        }
        if !marks.is_empty() {
            let (expected, partial) = (now.local, self.partial);
            actions.push(Action::MarkHere { message, expected, partial, marks, then: last });
        }
        if actions.is_empty() && row != Some(&last) {
            actions.push(Action::Store { message, state: last });
        }
        if last.mail.part != 0 && actions.iter().all(|action| matches!(action, Action::Store { .. })) {
            // The mail of the whole was seen in this look: the mail of the part is removed.
            let then = MessageState { mail: MailState { part: 0, ..last.mail }, ..last };
            let refused = MessageState { mail: MailState { refusal: self.mail.refusal, ..last.mail }, ..last };
            return vec![Action::RemovePart { message, uid: last.mail.part, then, refused }];
        }
        actions
    }

    /// The actions for the mail of a part of a message that is whole here: its flags count, its removal does not. The mail
    /// of the whole is appended, and a later look that sees that mail removes this one.
    pub(crate) fn replaced(&self) -> Vec<Action> {
        let kept = |sides: Sides| Sides {
            local: LocalState { deleted: false, ..sides.local },
            remote: RemoteFlags { deleted: false, ..sides.remote },
        };
        let (message, now) = (self.message, self.now);
        let goal = same_folder(kept(self.base), kept(now));
        let marks = now.local.marks_to(goal.local);
        let mut actions = Vec::new();
        if !marks.is_empty() {
            let (expected, partial, then) = (now.local, self.partial, self.row(goal.local, goal.remote));
            actions.push(Action::MarkHere { message, expected, partial, marks, then });
        }
        let mail =
            MailState { extent: Extent::Whole, part: self.uid, refusal: self.mail.refusal, ..MailState::default() };
        actions.push(Action::Append { message, flags: goal.remote, mail });
        actions
    }

    fn row(&self, local: LocalState, remote: RemoteFlags) -> MessageState {
        let link = Link::Bound { uid_validity: self.uid_validity, uid: self.uid, remote };
        MessageState { local, link, mail: MailState { refusal: None, ..self.mail } }
    }
}

/// The states that both sides get; `None`: the message leaves the folder there.
fn goal(base: Sides, now: Sides) -> Option<Sides> {
    match (now.local.deleted, now.remote.deleted) {
        // Deleted here since, also if a lost connection left the mail flagged on the server and not yet expunged.
        (true, _) if !base.local.deleted => None,
        (true, true) => Some(now),
        // Deleted on the server since. A message that was changed here survives that.
        (false, true) if now.local == base.local && !base.remote.deleted => {
            Some(Sides { local: LocalState { deleted: true, ..now.local }, ..now })
        }
        // Not deleted, or no longer: undeleted on the server, or changed here.
        _ => Some(same_folder(base, now)),
    }
}

/// Both sides with the same folder, not deleted.
fn same_folder(base: Sides, now: Sides) -> Sides {
    let (was, is) = (base.local.folder, now.local.folder);
    let there = RemoteFlags { deleted: false, ..now.remote };
    let remote = if was != is {
        pushed(was, is, there)
    } else if base.remote.folder() != there.folder() || there.folder() == is {
        there
    } else {
        asserted(is, there)
    };
    Sides { local: LocalState { folder: remote.folder(), deleted: false }, remote }
}

/// The flags on the server after a change of the folder here.
fn pushed(was: Folder, is: Folder, there: RemoteFlags) -> RemoteFlags {
    let (old, new) = (RemoteFlags::of(was), RemoteFlags::of(is));
    let push = |old: bool, new: bool, there: bool| if new != old || is == Folder::Saved { new } else { there };
    RemoteFlags {
        seen: push(old.seen, new.seen, there.seen),
        flagged: push(old.flagged, new.flagged, there.flagged),
        deleted: there.deleted,
    }
}

/// The flags that stand for the folder here, with the fewest changes.
fn asserted(is: Folder, there: RemoteFlags) -> RemoteFlags {
    match is {
        Folder::New => RemoteFlags { seen: false, ..there },
        Folder::Heard | Folder::Saved => RemoteFlags { deleted: there.deleted, ..RemoteFlags::of(is) },
    }
}
