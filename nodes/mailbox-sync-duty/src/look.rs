//! A look at the folder: the facts from which the core plans.
//!
//! With QRESYNC the server reports the changes since the stored position. Without it, as on Exchange, the flags of the
//! mails that are bound to messages are read. CONDSTORE alone saves nothing: it does not report removed mails. Other
//! mails of the folder are looked at once, for their Message-IDs. A folder with more of them than one look may read is
//! read in parts ([`crate::parts`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_ids::MessageId;
use twinbox_imap::{ImapError, Resume, Selected};
use twinbox_mailbox_sync::{
    AccountState, Extent, Link, LocalMessage, MessageState, RemoteFlags, RemoteView, Scan, UidChanges,
    needs_full_look,
};

use crate::{
    folder::{Folder, remote},
    names::Names,
    parts,
};

/// Mails whose Message-IDs are read at a time.
const PAGE: usize = 1_000;
/// Pages of one look.
const MOST_PAGES: usize = 20;
/// Time from which on a look reads no further page.
const LONGEST: Duration = Duration::from_secs(10 * 60);
/// Maximum number of our messages that are taken from one folder: the server must not fill the memory.
const MOST_FOUND: usize = 100_000;

/// Circumstances of a look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LookOptions {
    /// Removals were reported live, by IDLE.
    pub watched: bool,
    /// An administrator accepts deletions.
    pub accepted: bool,
    /// An administrator ordered the round: refused steps do not wait.
    pub retry: bool,
}

/// Result of a look.
pub(crate) enum LookEnd {
    /// The folder, for a plan.
    View(Box<RemoteView>),
    /// A part of the folder was read: these rows hold the mails found so far, and the next look continues.
    Part(Vec<(MessageId, Option<MessageState>)>, Scan, UidChanges),
    /// The folder got new UIDs in too many looks in a row: no mail was read.
    UidsChange(UidChanges),
}

/// Knowledge from before a look.
#[derive(Clone, Copy)]
pub(crate) struct BeforeLook<'a> {
    pub before: &'a AccountState,
    pub rows: &'a BTreeMap<MessageId, MessageState>,
    pub local: &'a [LocalMessage],
    pub names: &'a Names,
}

/// Our mails that a search found.
#[derive(Default)]
pub(crate) struct Found {
    pub whole: BTreeMap<MessageId, (u32, RemoteFlags)>,
    pub parts: BTreeMap<MessageId, (u32, RemoteFlags)>,
    /// The UID at which the search ended early; 0: it reached the end of the folder.
    pub next: u32,
}

/// Looks at the folder.
pub(crate) async fn look<F: Folder>(
    folder: &mut F,
    known: BeforeLook<'_>,
    options: LookOptions,
) -> Result<LookEnd, ImapError> {
    let BeforeLook { before, rows, names, .. } = known;
    let bound_before = bound(rows, before.uid_validity);
    let resumable = before.uid_validity != 0 && before.modseq != 0 && !bound_before.is_empty();
    let resume = resumable.then_some(Resume {
        uid_validity: before.uid_validity,
        modseq: before.modseq,
        uids: bound_before,
    });
    let selected = folder.select(resume).await?;
    let unkept = remote(selected.unkept);
    let mut view = RemoteView {
        uid_validity: selected.uid_validity,
        uid_next: selected.uid_next,
        modseq: selected.highest_modseq,
        exists: selected.exists,
        unkept,
        names: before.names,
        watched: options.watched,
        accepted: options.accepted,
        retry: options.retry,
        ..RemoteView::default()
    };
    if needs_full_look(before, selected.uid_validity, selected.uid_next) {
        if before.uid_validity == selected.uid_validity {
            // An old copy: the plan forgets the positions, and the next look reads the folder.
            return Ok(LookEnd::View(Box::new(view)));
        }
        let changes = match before.changes_after_full_look(selected.uid_validity) {
            Ok(changes) => changes,
            Err(changes) => return Ok(LookEnd::UidsChange(changes)),
        };
        return match parts::read(folder, known, &selected).await? {
            Ok(found) => {
                (view.found, view.found_parts) = (found.whole, found.parts);
                Ok(LookEnd::View(Box::new(view)))
            }
            Err((rows, scan)) => Ok(LookEnd::Part(rows, scan, changes)),
        };
    }
    let bound = bound(rows, selected.uid_validity);
    // Below the position, only the mails of interrupted APPENDs are new. The mail of a part that its row names is removed
    // once that of the whole is there.
    let is_new = |uid: u32, id: MessageId| {
        let appending = || rows.get(&id).is_some_and(|row| matches!(row.link, Link::Appending { .. }));
        let is_known_part = rows.get(&id).is_some_and(|row| row.mail.part == uid);
        !bound.contains(&uid) && !is_known_part && (uid >= before.uid_next || appending())
    };
    let from = first_unknown(before, rows, selected.uid_validity);
    let found = find(folder, &selected, from, names, is_new).await?;
    // For a flag that the server begins to keep, the stored state is not the server's.
    let all_known = selected.resumed && before.unkept.without(unkept).is_empty();
    let (flags, gone) = if all_known {
        let (mut flags, mut gone) = read_all(folder, &unreported(rows)).await?;
        let changed = selected.flags.iter().filter(|fetched| bound.contains(&fetched.uid));
        flags.extend(changed.map(|fetched| (fetched.uid, remote(fetched.flags))));
        gone.extend(selected.vanished.iter().copied().filter(|uid| bound.contains(uid)));
        (flags, gone)
    } else {
        read_all(folder, &bound).await?
    };
    if selected.uid_next > before.uid_next
        && let Some((uid, id, alias)) = highest(rows, &gone)
    {
        view.reused = names.is_reused(folder, uid, id, alias).await?;
    }
    // A missing mail may be among those that were not examined yet.
    view.gone = if found.next == 0 { gone } else { BTreeSet::new() };
    (view.flags, view.found, view.found_parts, view.looked) = (flags, found.whole, found.parts, found.next);
    Ok(LookEnd::View(Box::new(view)))
}

/// The bound message of the highest UID that is there, with its alias. An old copy of a folder has the same mails below
/// its UIDNEXT, so if this one is right, all are.
fn highest(rows: &BTreeMap<MessageId, MessageState>, gone: &BTreeSet<u32>) -> Option<(u32, MessageId, u64)> {
    let bound = rows.iter().filter_map(|(id, row)| match row.link {
        Link::Bound { uid, .. } => Some((uid, *id, row.mail.alias)).filter(|(uid, ..)| !gone.contains(uid)),
        _ => None,
    });
    bound.max_by_key(|(uid, ..)| *uid)
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

/// UIDs of the mails whose changes may be missing in the report: held-back ones, and those with a refused step, whose
/// changes were reported to an earlier look.
fn unreported(rows: &BTreeMap<MessageId, MessageState>) -> BTreeSet<u32> {
    let uid = |state: &MessageState| match state.link {
        Link::Held { uid, .. } => Some(uid).filter(|uid| *uid != 0),
        Link::Bound { uid, .. } => state.mail.refusal.map(|_| uid),
        _ => None,
    };
    rows.values().filter_map(uid).collect()
}

/// The first UID that was not examined, or at which an interrupted APPEND may have left its mail.
fn first_unknown(before: &AccountState, rows: &BTreeMap<MessageId, MessageState>, validity: u32) -> u32 {
    let appending = rows.values().filter_map(|state| match state.link {
        Link::Appending { uid_validity, from_uid } if uid_validity == validity => Some(from_uid),
        _ => None,
    });
    appending.fold(before.uid_next, u32::min).max(1)
}

/// Our messages among the mails from this UID on, as far as one look reads. Of several mails of one message, the first
/// counts.
pub(crate) async fn find<F: Folder>(
    folder: &mut F,
    selected: &Selected,
    from: u32,
    names: &Names,
    wanted: impl Fn(u32, MessageId) -> bool + Send,
) -> Result<Found, ImapError> {
    let mut found = Found::default();
    let (begun, mut pages) = (BootInstant::now(), 0);
    let mut from = Some(from);
    while let Some(first) = from.take_if(|from| selected.uid_next == 0 || *from < selected.uid_next) {
        // Each look reads one page at least.
        if pages >= MOST_PAGES || (pages > 0 && begun.elapsed() >= LONGEST) {
            found.next = first;
            break;
        }
        pages += 1;
        let page = folder.message_ids(first, PAGE).await?;
        let last = page.iter().map(|fetched| fetched.uid).max();
        for fetched in page.iter().filter(|fetched| fetched.uid >= first) {
            let Some((id, extent)) = names.of(fetched).filter(|(id, _)| wanted(fetched.uid, *id)) else { continue };
            let of_extent = match extent {
                Extent::Whole => &mut found.whole,
                Extent::Part => &mut found.parts,
            };
            of_extent.entry(id).or_insert((fetched.uid, remote(fetched.flags)));
        }
        if found.whole.len().max(found.parts.len()) > MOST_FOUND {
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
pub(crate) async fn read_all<F: Folder>(
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
