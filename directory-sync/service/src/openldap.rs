//! Content synchronization (RFC 4533) with OpenLDAP's syncprov and servers like it.

use std::collections::BTreeSet;

use ldap3::Scope;
use twinbox_directory_core::SearchSettings;
use twinbox_mailbox::EntryId;

use crate::{
    Change, Changes, Cursor, DirectoryConnection, LdapError, ServerDescription,
    ber::Malformed,
    containers::{self, Age},
    controls::{EntryState, Mode, SyncInfo, sync_done, sync_info, sync_request, sync_state},
    cursor::{Position, digest},
    entry::{RawEntry, wanted},
    error::refusal,
    message::OperationResult,
    referral,
    search::{MOST_REFERENCES, Search, SearchItem},
    synchronize::{every_entry, ids_of, plain},
};

/// Result code of a cookie that is too old (RFC 4533 section 3.2).
const REFRESH_REQUIRED: u32 = 4096;
/// Result code of OpenLDAP for a cookie that is newer than its data.
const UNWILLING: u32 = 53;
/// Result code of a database that does not synchronize.
const UNAVAILABLE_CONTROL: u32 = 12;

/// One message of a synchronization.
pub(crate) enum SyncMessage {
    Changed(EntryId, RawEntry),
    Present(Vec<EntryId>),
    Gone(Vec<EntryId>),
    PhaseEnd {
        named_gone: bool,
        refresh_done: bool,
    },
    /// Addresses of another server that holds a part.
    Reference(Vec<String>),
    Other,
}

/// The search of one base.
pub(crate) fn sync_search(search: &SearchSettings, base: &str, mode: Mode, cookie: Option<&[u8]>) -> Search {
    Search {
        base: base.to_owned(),
        scope: Scope::Subtree,
        filter: search.filter.clone(),
        attributes: wanted(&search.attributes),
        controls: vec![sync_request(mode, cookie)],
    }
}

/// Reads a result of a synchronization, with the cookie that it carries.
pub(crate) fn interpret(
    connection: &DirectoryConnection,
    item: SearchItem,
) -> Result<(SyncMessage, Option<Vec<u8>>), LdapError> {
    let wrong = |error: Malformed| connection.protocol(error);
    match item {
        SearchItem::Entry(entry, controls) => {
            let state = sync_state(&controls).map_err(wrong)?;
            let state = state.ok_or_else(|| connection.protocol("an entry of a synchronization has no state"))?;
            let message = match state.state {
                EntryState::Changed => SyncMessage::Changed(state.id, entry),
                EntryState::Unchanged => SyncMessage::Present(vec![state.id]),
                EntryState::Gone => SyncMessage::Gone(vec![state.id]),
            };
            Ok((message, state.cookie))
        }
        SearchItem::Reference(addresses) => Ok((SyncMessage::Reference(addresses), None)),
        SearchItem::Message(tag) => Ok(match sync_info(tag).map_err(wrong)? {
            None => (SyncMessage::Other, None),
            Some(SyncInfo::Cookie(cookie)) => (SyncMessage::Other, Some(cookie)),
            Some(SyncInfo::PhaseEnd { named_gone, cookie, refresh_done }) => {
                (SyncMessage::PhaseEnd { named_gone, refresh_done }, cookie)
            }
            Some(SyncInfo::Ids { gone: true, cookie, ids }) => (SyncMessage::Gone(ids), cookie),
            Some(SyncInfo::Ids { gone: false, cookie, ids }) => (SyncMessage::Present(ids), cookie),
        }),
    }
}

/// The reason for a full search in the result of a synchronization.
pub(crate) fn needs_full(outcome: &OperationResult) -> Option<String> {
    matches!(outcome.code, REFRESH_REQUIRED | UNWILLING | UNAVAILABLE_CONTROL)
        .then(|| format!("the server cannot tell the changes: {}", refusal(outcome.code, &outcome.text)))
}

/// A refresh that has ended.
struct Refresh {
    outcome: OperationResult,
    cookie: Option<Vec<u8>>,
    /// Entries that the server found, unless it named those that are gone.
    present: Option<BTreeSet<EntryId>>,
    references: Vec<String>,
}

async fn refresh(
    connection: &DirectoryConnection,
    request: &Search,
    each: &mut impl FnMut(Refreshed) -> Result<(), LdapError>,
) -> Result<Refresh, LdapError> {
    let mut results = connection.search(request).await?;
    let (mut present, mut references, mut count) = (BTreeSet::new(), Vec::new(), 0);
    while let Some(item) = results.next().await? {
        connection.count(&mut count, 1)?;
        match interpret(connection, item)?.0 {
            SyncMessage::Changed(id, entry) => {
                present.insert(id);
                each(Refreshed::Entry(id, entry))?;
            }
            SyncMessage::Present(ids) => {
                connection.count(&mut count, ids.len() as u64)?;
                present.extend(ids);
            }
            SyncMessage::Gone(ids) => {
                connection.count(&mut count, ids.len() as u64)?;
                ids.into_iter().try_for_each(|id| each(Refreshed::Gone(id)))?;
            }
            SyncMessage::Reference(addresses) if references.len() < MOST_REFERENCES => {
                references.extend(addresses.into_iter().next());
            }
            SyncMessage::Reference(_) => connection.noted().referrals += 1,
            SyncMessage::PhaseEnd { .. } | SyncMessage::Other => {}
        }
    }
    let (outcome, controls) = results.finish().await;
    if outcome.code != 0 {
        return Ok(Refresh { outcome, cookie: None, present: None, references });
    }
    let done = sync_done(&controls).map_err(|error| connection.protocol(error))?;
    let done = done.ok_or_else(|| connection.protocol("a synchronization ended without its control"))?;
    let present = Some(present).filter(|_| !done.named_gone);
    Ok(Refresh { outcome, cookie: done.cookie, present, references })
}

enum Refreshed {
    Entry(EntryId, RawEntry),
    Gone(EntryId),
}

/// Reads all entries by a refresh without a cookie, which gives entries and cookie of one point in time. A server that
/// does not synchronize is searched in pages.
pub(crate) async fn full(
    connection: &DirectoryConnection,
    description: &ServerDescription,
    search: &SearchSettings,
    mut each: impl FnMut(EntryId, RawEntry) -> Result<(), LdapError>,
) -> Result<Cursor, LdapError> {
    let (mut cookies, mut met, mut elsewhere) = (Vec::new(), BTreeSet::new(), false);
    for base in &search.bases {
        let request = sync_search(search, base, Mode::RefreshOnly, None);
        let mut once = |item: Refreshed| match item {
            Refreshed::Entry(id, entry) if met.insert(id) => each(id, entry),
            Refreshed::Entry(..) | Refreshed::Gone(_) => Ok(()),
        };
        let ended = refresh(connection, &request, &mut once).await?;
        match ended.outcome.code {
            0 => {}
            UNAVAILABLE_CONTROL | UNWILLING => {
                every_entry(connection, description, search, &plain(search), &mut each).await?;
                return Ok(Cursor(Position::Unknown));
            }
            _ => return Err(connection.refused(format!("the search in '{base}'"), &ended.outcome)),
        }
        cookies.extend(ended.cookie);
        let request = Search { controls: Vec::new(), ..request };
        let page = description.divides_results().then_some(search.page.max(1));
        let mut foreign = |entry: RawEntry| match entry.id() {
            Some(id) if met.insert(id) => each(id, entry),
            _ => Ok(()),
        };
        elsewhere |= referral::follow(connection, &ended.references, &request, page, &mut foreign).await?;
    }
    // The cookies say nothing about another server, and a base without one cannot be continued.
    if elsewhere || cookies.len() != search.bases.len() {
        return Ok(Cursor(Position::Unknown));
    }
    Ok(Cursor(Position::Cookies { search: digest(search), cookies }))
}

/// Reads the changes since the cookies.
pub(crate) async fn changes(
    connection: &DirectoryConnection,
    description: &ServerDescription,
    search: &SearchSettings,
    cookies: &[Vec<u8>],
    known: &BTreeSet<EntryId>,
    mut each: impl FnMut(Change) -> Result<(), LdapError>,
) -> Result<Changes, LdapError> {
    if cookies.len() != search.bases.len() {
        return Ok(Changes::need_full("the stored position does not fit the bases"));
    }
    let (mut next, mut present, mut quiet) = (Vec::new(), None::<BTreeSet<EntryId>>, Vec::new());
    let mut gone = BTreeSet::new();
    for (base, cookie) in search.bases.iter().zip(cookies) {
        match containers::compare(connection, description, base, cookie).await? {
            Age::Older => return Ok(Changes::need_full("the server's data are older than at the last search")),
            Age::Same => {
                next.push(cookie.clone());
                quiet.push(base.clone());
                continue;
            }
            Age::Newer => {}
        }
        let request = sync_search(search, base, Mode::RefreshOnly, Some(cookie));
        let mut deliver = |item: Refreshed| match item {
            Refreshed::Entry(id, entry) => each(Change::Entry(entry.with_id(id))),
            Refreshed::Gone(id) => {
                gone.insert(id);
                Ok(())
            }
        };
        let ended = refresh(connection, &request, &mut deliver).await?;
        if let Some(reason) = needs_full(&ended.outcome) {
            return Ok(Changes::NeedFull { reason });
        }
        if ended.outcome.code != 0 {
            return Err(connection.refused(format!("the search in '{base}'"), &ended.outcome));
        }
        connection.noted().referrals += ended.references.len() as u64;
        next.push(ended.cookie.unwrap_or_else(|| cookie.clone()));
        match ended.present {
            Some(ids) => present.get_or_insert_default().extend(ids),
            None => quiet.push(base.clone()),
        }
        if let Some(reason) = containers::moved(connection, description, base, cookie).await? {
            return Ok(Changes::NeedFull { reason });
        }
    }
    if let Some(present) = present {
        let present = all_present(connection, description, search, quiet, present).await?;
        gone.extend(known.difference(&present).copied());
    }
    // The refresh of a base names each changed entry outside it as gone: it may be in another base.
    gone.retain(|id| known.contains(id));
    if !gone.is_empty() {
        let there = ids_of(connection, description, search).await?;
        gone.difference(&there).try_for_each(|id| each(Change::Gone(*id)))?;
    }
    let cursor = Cursor(Position::Cookies { search: digest(search), cookies: next });
    Ok(Changes::Done { cursor })
}

/// The present entries of all bases: those that refreshes named, and those of the bases that named none.
async fn all_present(
    connection: &DirectoryConnection,
    description: &ServerDescription,
    search: &SearchSettings,
    mut bases: Vec<String>,
    mut present: BTreeSet<EntryId>,
) -> Result<BTreeSet<EntryId>, LdapError> {
    // A server that left the marks out would look like one without entries: a second search decides.
    if present.is_empty() {
        bases = search.bases.clone();
    }
    if !bases.is_empty() {
        present.extend(ids_of(connection, description, &SearchSettings { bases, ..search.clone() }).await?);
    }
    Ok(present)
}
