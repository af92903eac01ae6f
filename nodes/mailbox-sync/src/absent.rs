//! A message with a row that is absent from the folder on the server.

use crate::{Action, Extent, Link, LocalMessage, LocalState, MailState, MessageState, NamesKept, RemoteFlags};

/// Meaning of the absence of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// The message left the folder: it is deleted here.
    Counts,
    /// The folder is another one, or an old copy: absent messages are not deleted here.
    Reset,
    /// The folder is empty: deletions are held back.
    HeldBack,
}

/// The actions for a message that is absent on the server.
pub(crate) fn absent(
    message: &LocalMessage,
    row: &MessageState,
    absence: Absence,
    accepted: bool,
    names: NamesKept,
) -> Vec<Action> {
    let (id, now) = (message.id, message.state);
    let mail = MailState { refusal: None, ..row.mail };
    let store = |link| vec![Action::Store { message: id, state: MessageState { local: now, link, mail } }];
    let changed = now != row.local;
    if now.deleted && row.mail.part != 0 && matches!(row.link, Link::Appending { .. } | Link::Gone) {
        let then = MessageState { mail: MailState { part: 0, ..mail }, ..*row };
        return vec![Action::RemovePart { message: id, uid: row.mail.part, then, refused: *row }];
    }
    // Only the mail of the part is absent: its deletion does not delete audio that came since.
    if row.mail.extent == Extent::Part && !message.partial && !now.deleted {
        return vec![append(message, Some(row))];
    }
    // Mails without a name of ours cannot be found, so they are not appended again.
    if !now.deleted {
        match row.link {
            // The server left no name: the mail may be there, and no look would find it.
            Link::Held { uid: 0, .. } if changed && names == NamesKept::Nothing && row.mail.alias == 0 => {
                return vec![];
            }
            Link::Held { uid: 0, .. } => {}
            Link::Bound { remote, .. } | Link::Held { remote, .. }
                if absence == Absence::Reset && (names == NamesKept::Nothing || row.mail.alias != 0) =>
            {
                return store(Link::Held { uid: 0, remote });
            }
            // The server may have taken the mail: no look would find it.
            Link::Appending { .. } if names == NamesKept::Nothing && row.mail.refusal.is_none() => {
                return store(Link::Held { uid: 0, remote: RemoteFlags::of(now.folder) });
            }
            _ => {}
        }
    }
    match row.link {
        // The appended mail may still be found: the row waits for that.
        Link::Appending { .. } | Link::Gone if now.deleted => vec![],
        // The server took the mail and does not show it in the folder: each further attempt would leave a copy elsewhere. The
        // row keeps the bases, so that changes here are pushed when it shows up.
        Link::Gone if !row.local.deleted => vec![],
        Link::Bound { .. } | Link::Held { .. } if now.deleted => store(Link::Gone),
        Link::Held { .. } if !changed && accepted => deleted(message, mail),
        // The UID is of the earlier folder.
        Link::Held { uid, remote } if !changed => match absence {
            Absence::Reset if uid != 0 => store(Link::Held { uid: 0, remote }),
            _ => vec![],
        },
        Link::Bound { uid, remote, .. } if !changed && absence == Absence::HeldBack => {
            store(Link::Held { uid, remote })
        }
        // The server carried out a removal of this duty, whose answer was lost. Since then the message was undeleted here.
        Link::Bound { remote, .. } if !changed && remote.deleted => vec![append(message, Some(row))],
        Link::Bound { .. } if !changed && absence == Absence::Counts => deleted(message, mail),
        _ => vec![append(message, Some(row))],
    }
}

/// The APPEND of a message. The mail of a part that is still there stays until the new one was seen.
pub(crate) fn append(message: &LocalMessage, row: Option<&MessageState>) -> Action {
    let extent = if message.partial { Extent::Part } else { Extent::Whole };
    let (part, refusal) = row.map(|row| (row.mail.part, row.mail.refusal)).unwrap_or_default();
    let mail = MailState { extent, part, refusal, ..MailState::default() };
    Action::Append { message: message.id, flags: RemoteFlags::of(message.state.folder), mail }
}

/// Deletes a message here (it can be undeleted), because it left the folder there.
fn deleted(message: &LocalMessage, mail: MailState) -> Vec<Action> {
    let local = LocalState { deleted: true, ..message.state };
    vec![Action::MarkHere {
        message: message.id,
        expected: message.state,
        partial: message.partial,
        marks: message.state.marks_to(local),
        then: MessageState { local, link: Link::Gone, mail },
    }]
}
