//! A message with a row that is not in the folder there.

use crate::{Action, Link, LocalMessage, LocalState, MessageState, RemoteFlags};

/// Belief in the absence of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// The message left the folder.
    Counts,
    /// The folder is another one, or an old copy: nothing is deleted because of it.
    Reset,
    /// The folder is empty: deletions are held back.
    HeldBack,
}

/// The actions for a message that is absent there.
pub(crate) fn absent(message: &LocalMessage, row: &MessageState, absence: Absence, accepted: bool) -> Vec<Action> {
    let (id, now) = (message.id, message.state);
    let store = |link| vec![Action::Store { message: id, state: MessageState { local: now, link } }];
    let changed = now != row.local;
    match row.link {
        // The APPEND may yet be found: the row waits for that.
        Link::Appending { .. } | Link::Gone if now.deleted => vec![],
        // The server took it and does not show it in the folder.
        Link::Gone if !changed => vec![],
        Link::Bound { .. } | Link::Held { .. } if now.deleted => store(Link::Gone),
        Link::Held { .. } if !changed && accepted => deleted(message),
        // The UID is of the earlier folder.
        Link::Held { uid, remote } if !changed => match absence {
            Absence::Reset if uid != 0 => store(Link::Held { uid: 0, remote }),
            _ => vec![],
        },
        Link::Bound { uid, remote, .. } if !changed && absence == Absence::HeldBack => {
            store(Link::Held { uid, remote })
        }
        Link::Bound { .. } if !changed && absence == Absence::Counts => deleted(message),
        _ => vec![append(message)],
    }
}

/// The APPEND of a message.
pub(crate) fn append(message: &LocalMessage) -> Action {
    Action::Append { message: message.id, flags: RemoteFlags::of(message.state.folder) }
}

/// Deletes a message here (it can be undeleted), because it left the folder there.
fn deleted(message: &LocalMessage) -> Vec<Action> {
    let local = LocalState { deleted: true, ..message.state };
    vec![Action::MarkHere {
        message: message.id,
        expected: message.state,
        marks: message.state.marks_to(local),
        then: MessageState { local, link: Link::Gone },
    }]
}
