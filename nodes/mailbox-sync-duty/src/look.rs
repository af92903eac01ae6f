//! A look at the folder: the facts from which the core plans.
//!
//! With QRESYNC the server reports the changes since the stored position. Without it, as on Exchange, the flags of the
//! mails that are bound to messages are read. CONDSTORE alone saves nothing: it does not report removed mails. Other
//! mails of the folder are looked at once, for their Message-IDs.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::{ClusterId, MessageId};
use twinbox_imap::{ImapError, Resume, Selected};
use twinbox_mailbox_sync::{
    AccountState, Link, MessageState, RemoteFlags, RemoteView, needs_full_look, parse_message_id,
};

use crate::folder::{Folder, remote};

/// Mails whose Message-IDs are read at a time.
const PAGE: usize = 1_000;
/// Maximum number of our messages that a folder is believed to have: the server must not fill the memory.
const MOST_FOUND: usize = 100_000;

/// Circumstances of a look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LookOptions {
    /// Removals were reported live, by IDLE.
    pub watched: bool,
    /// An administrator accepts deletions.
    pub accepted: bool,
}

/// Looks at the folder.
pub(crate) async fn look<F: Folder>(
    folder: &mut F,
    before: &AccountState,
    rows: &BTreeMap<MessageId, MessageState>,
    cluster: ClusterId,
    options: LookOptions,
) -> Result<RemoteView, ImapError> {
    let known = bound(rows, before.uid_validity);
    let resumable = before.uid_validity != 0 && before.modseq != 0 && !known.is_empty();
    let resume =
        resumable.then(|| Resume { uid_validity: before.uid_validity, modseq: before.modseq, uids: known.clone() });
    let selected = folder.select(resume).await?;
    let full = needs_full_look(before, selected.uid_validity, selected.uid_next);
    let known = bound(rows, selected.uid_validity);
    let from = if full { 1 } else { first_unknown(before, rows, selected.uid_validity) };
    // Below the position, only the mails of interrupted APPENDs are new.
    let is_new = |uid: u32, id: MessageId| {
        let appending = || rows.get(&id).is_some_and(|row| matches!(row.link, Link::Appending { .. }));
        full || (!known.contains(&uid) && (uid >= before.uid_next || appending()))
    };
    let found = find(folder, &selected, from, cluster, is_new).await?;
    let (flags, gone) = if full {
        Default::default()
    } else if selected.resumed {
        let (mut flags, mut gone) = read_all(folder, &held(rows)).await?;
        let changed = selected.flags.iter().filter(|fetched| known.contains(&fetched.uid));
        flags.extend(changed.map(|fetched| (fetched.uid, remote(fetched.flags))));
        gone.extend(selected.vanished.iter().copied().filter(|uid| known.contains(uid)));
        (flags, gone)
    } else {
        read_all(folder, &known).await?
    };
    let reused = !full && selected.uid_next > before.uid_next && {
        let (top, known) = (highest(rows, &gone), before.uid_validity == selected.uid_validity);
        match top.filter(|_| known) {
            Some((uid, id)) => !is_of(folder, uid, id, cluster).await?,
            None => false,
        }
    };
    Ok(RemoteView {
        reused,
        uid_validity: selected.uid_validity,
        uid_next: selected.uid_next,
        modseq: selected.highest_modseq,
        exists: selected.exists,
        flags,
        gone,
        found,
        watched: options.watched,
        accepted: options.accepted,
    })
}

/// The bound message of the highest UID that is there. An old copy of a folder has the same mails below its UIDNEXT, so
/// where this one is right, all are.
fn highest(rows: &BTreeMap<MessageId, MessageState>, gone: &BTreeSet<u32>) -> Option<(u32, MessageId)> {
    let bound = rows.iter().filter_map(|(id, row)| match row.link {
        Link::Bound { uid, .. } => Some((uid, *id)).filter(|(uid, _)| !gone.contains(uid)),
        _ => None,
    });
    bound.max_by_key(|(uid, _)| *uid)
}

/// Whether the mail of this UID is this message, or is not there any more: not if the UID was given again.
pub(crate) async fn is_of<F: Folder>(
    folder: &mut F,
    uid: u32,
    message: MessageId,
    cluster: ClusterId,
) -> Result<bool, ImapError> {
    let read = folder.message_ids(uid, 1).await?;
    let of_message = |id: &str| parse_message_id(id, cluster) == Some(message);
    let mail = read.iter().find(|fetched| fetched.uid == uid);
    Ok(mail.is_none_or(|mail| mail.message_id.as_deref().is_some_and(of_message)))
}

/// UIDs of the mails that are bound to messages, or held back, in a folder of this UIDVALIDITY.
fn bound(rows: &BTreeMap<MessageId, MessageState>, validity: u32) -> BTreeSet<u32> {
    let uid = |state: &MessageState| match state.link {
        Link::Bound { uid_validity, uid, .. } => (uid_validity == validity).then_some(uid),
        Link::Held { uid, .. } => Some(uid),
        Link::Appending { .. } | Link::Gone => None,
    };
    rows.values().filter_map(uid).filter(|uid| *uid != 0).collect()
}

/// UIDs of the mails that are held back: they are in no report of changes.
fn held(rows: &BTreeMap<MessageId, MessageState>) -> BTreeSet<u32> {
    let uid = |state: &MessageState| match state.link {
        Link::Held { uid, .. } => Some(uid).filter(|uid| *uid != 0),
        _ => None,
    };
    rows.values().filter_map(uid).collect()
}

/// The first UID that was not looked at, or at which an interrupted APPEND may have left its mail.
fn first_unknown(before: &AccountState, rows: &BTreeMap<MessageId, MessageState>, validity: u32) -> u32 {
    let appending = rows.values().filter_map(|state| match state.link {
        Link::Appending { uid_validity, from_uid } if uid_validity == validity => Some(from_uid),
        _ => None,
    });
    appending.fold(before.uid_next, u32::min).max(1)
}

/// Our messages among the mails from this UID on. Of several mails of one message, the first counts.
async fn find<F: Folder>(
    folder: &mut F,
    selected: &Selected,
    from: u32,
    cluster: ClusterId,
    wanted: impl Fn(u32, MessageId) -> bool + Send,
) -> Result<BTreeMap<MessageId, (u32, RemoteFlags)>, ImapError> {
    let mut found = BTreeMap::new();
    let mut from = Some(from);
    while let Some(first) = from.take_if(|from| selected.uid_next == 0 || *from < selected.uid_next) {
        let page = folder.message_ids(first, PAGE).await?;
        let last = page.iter().map(|fetched| fetched.uid).max();
        for fetched in page.iter().filter(|fetched| fetched.uid >= first) {
            let id = fetched.message_id.as_deref().and_then(|id| parse_message_id(id, cluster));
            if let Some(id) = id.filter(|id| wanted(fetched.uid, *id)) {
                found.entry(id).or_insert((fetched.uid, remote(fetched.flags)));
            }
        }
        if found.len() > MOST_FOUND {
            return Err(ImapError::TooLarge { step: "FETCH of Message-IDs" });
        }
        // A page that makes no progress ends the search, whatever the server claims.
        if page.len() >= PAGE {
            from = last.filter(|last| *last >= first).and_then(|last| last.checked_add(1));
        }
    }
    Ok(found)
}

/// Flags of the bound mails that are there, and the UIDs of the others.
async fn read_all<F: Folder>(
    folder: &mut F,
    known: &BTreeSet<u32>,
) -> Result<(BTreeMap<u32, RemoteFlags>, BTreeSet<u32>), ImapError> {
    if known.is_empty() {
        return Ok(Default::default());
    }
    let fetched = folder.flags(known).await?.into_iter();
    let flags: BTreeMap<u32, RemoteFlags> =
        fetched.filter(|of| known.contains(&of.uid)).map(|of| (of.uid, remote(of.flags))).collect();
    let gone = known.iter().copied().filter(|uid| !flags.contains_key(uid)).collect();
    Ok((flags, gone))
}
