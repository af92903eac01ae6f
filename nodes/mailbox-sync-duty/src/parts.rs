//! Reads the whole of a folder, in parts if it is large: each look continues where the one before ended.
//!
//! The rows of the messages that were found name the number of the reading. So a UID of an earlier reading, which may be
//! of another mail now, does not count, and the mails found so far outlive the process. When the last part was read, the flags
//! of the earlier parts are read again.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::MessageId;
use twinbox_imap::{ImapError, Selected};
use twinbox_mailbox_sync::{Extent, Link, LocalState, MailState, MessageState, RemoteFlags, Scan};

use crate::{
    folder::Folder,
    look::{BeforeLook, Found, find, read_all},
};

/// Rows of a part that was read, and the progress.
type Progress = (Vec<(MessageId, Option<MessageState>)>, Scan);

/// Reads the folder, or a further part of it; for a part the inner error is the progress.
pub(crate) async fn read<F: Folder>(
    folder: &mut F,
    known: BeforeLook<'_>,
    selected: &Selected,
) -> Result<Result<Found, Progress>, ImapError> {
    let (stored, uid_validity) = (known.before.scan, selected.uid_validity);
    let goes_on = stored.next != 0 && stored.uid_validity == uid_validity && stored.next <= selected.uid_next;
    let number = if goes_on { stored.number } else { next_number(known) };
    let from = if goes_on { stored.next } else { 1 };
    let mut found = find(folder, selected, from, known.names, |_, _| true).await?;
    let earlier = if goes_on { earlier(known.rows, uid_validity, number) } else { BTreeMap::new() };
    if found.next != 0 {
        let scan = Scan { number, uid_validity, next: found.next };
        return Ok(Err((rows(known, &found, &earlier, scan), scan)));
    }
    if earlier.is_empty() {
        return Ok(Ok(found));
    }
    let top = earlier.iter().flat_map(|(id, row)| uids(row).map(move |uid| (uid, *id, row.mail.alias))).max();
    if let Some((uid, id, alias)) = top
        && known.names.is_reused(folder, uid, id, alias).await?
    {
        // UIDs were given again meanwhile.
        return Ok(Err((Vec::new(), Scan { number: next_number(known), uid_validity, next: 1 })));
    }
    let all: BTreeSet<u32> = earlier.values().flat_map(uids).collect();
    let (flags, _) = read_all(folder, &all).await?;
    for (id, row) in earlier {
        let (whole, part) = places(&row);
        add(&mut found.whole, id, whole, &flags);
        add(&mut found.parts, id, part, &flags);
    }
    Ok(Ok(found))
}

/// A number that no row names: a node of a release without readings in parts keeps rows, and forgets the number.
fn next_number(known: BeforeLook<'_>) -> u32 {
    let named = known.rows.values().map(|row| row.mail.scan);
    named.fold(known.before.scan.number, u32::max).wrapping_add(1).max(1)
}

/// The mail of an earlier part of the folder comes before one that was found later.
fn add(
    found: &mut BTreeMap<MessageId, (u32, RemoteFlags)>,
    id: MessageId,
    uid: u32,
    flags: &BTreeMap<u32, RemoteFlags>,
) {
    if let Some(flags) = flags.get(&uid) {
        found.insert(id, (uid, *flags));
    }
}

/// The rows that this reading has written.
fn earlier(
    rows: &BTreeMap<MessageId, MessageState>,
    validity: u32,
    number: u32,
) -> BTreeMap<MessageId, MessageState> {
    let is_of = |row: &MessageState| {
        let here = matches!(row.link, Link::Bound { uid_validity, .. } if uid_validity == validity);
        here && row.mail.scan == number
    };
    rows.iter().filter(|(_, row)| is_of(row)).map(|(id, row)| (*id, *row)).collect()
}

/// UIDs of the mails of the whole and of the part; 0 for none.
fn places(row: &MessageState) -> (u32, u32) {
    match (row.link, row.mail.extent) {
        (Link::Bound { uid, .. }, Extent::Whole) => (uid, row.mail.part),
        (Link::Bound { uid, .. }, Extent::Part) => (0, uid),
        _ => (0, 0),
    }
}

fn uids(row: &MessageState) -> impl Iterator<Item = u32> + use<> {
    let (whole, part) = places(row);
    [whole, part].into_iter().filter(|uid| *uid != 0)
}

/// The rows of the messages that were found, for those that are here or have one already.
fn rows(
    known: BeforeLook<'_>,
    found: &Found,
    earlier: &BTreeMap<MessageId, MessageState>,
    scan: Scan,
) -> Vec<(MessageId, Option<MessageState>)> {
    let here: BTreeMap<MessageId, LocalState> = known.local.iter().map(|local| (local.id, local.state)).collect();
    let ids: BTreeSet<MessageId> = found.whole.keys().chain(found.parts.keys()).copied().collect();
    let row = |id: MessageId| {
        let before = known.rows.get(&id);
        // A message that was deleted before the server had it gets no row: there is no sign that it came back.
        let kept = || here.get(&id).copied().filter(|local| !local.deleted);
        let local = before.map(|row| row.local).or_else(kept)?;
        let (whole, part) = earlier.get(&id).map(places).unwrap_or_default();
        let at = |found: &BTreeMap<MessageId, (u32, RemoteFlags)>, earlier: u32| match found.get(&id) {
            Some(found) if earlier == 0 => *found,
            _ => (earlier, RemoteFlags::default()),
        };
        let (whole, part) = (at(&found.whole, whole), at(&found.parts, part));
        let extent = if whole.0 == 0 { Extent::Part } else { Extent::Whole };
        let ((uid, remote), part) = if whole.0 == 0 { (part, 0) } else { (whole, part.0) };
        let alias = before.filter(|row| row.mail.extent == extent).map_or(0, |row| row.mail.alias);
        let mail = MailState { extent, part, alias, scan: scan.number, refusal: None };
        let link = Link::Bound { uid_validity: scan.uid_validity, uid, remote };
        Some((id, Some(MessageState { local, link, mail })))
    };
    ids.into_iter().filter_map(row).collect()
}
