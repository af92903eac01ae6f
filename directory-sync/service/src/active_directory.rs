//! Changes in Active Directory by update sequence numbers (MS-ADTS section 3.1.1.1.9). The numbers belong to one
//! database, named by the server's `invocationId`.

use std::collections::BTreeSet;

use ldap3::Scope;
use twinbox_directory_core::SearchSettings;
use twinbox_mailbox::EntryId;

use crate::{
    Change, Changes, Cursor, DirectoryConnection, LdapError, ServerDescription,
    controls::{SHOW_DELETED, show_deleted},
    cursor::{Position, digest},
    entry::{RawEntry, id_attributes},
    search::Search,
    synchronize::{Form, every_entry, plain},
};

/// Page of searches for containers and deleted objects.
const PAGE: u32 = 500;

/// Point up to which the changes of a database are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since {
    pub invocation: [u8; 16],
    pub usn: u64,
}

/// Steps that a server's state asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Full(&'static str),
    Nothing,
    /// Search from this number on; afterwards all up to the second number is known.
    Search {
        from: u64,
        to: u64,
    },
}

fn plan(since: Since, invocation: Option<[u8; 16]>, highest: Option<u64>) -> Plan {
    match (invocation, highest) {
        (Some(invocation), _) if invocation != since.invocation => {
            Plan::Full("the changes of the last search are those of another domain controller, or of restored data")
        }
        (Some(_), Some(highest)) if highest < since.usn => {
            Plan::Full("the server's data are older than at the last search")
        }
        (Some(_), Some(highest)) if highest == since.usn => Plan::Nothing,
        (Some(_), Some(highest)) => Plan::Search { from: since.usn.saturating_add(1), to: highest },
        _ => Plan::Full("the server does not tell its update sequence number to this account"),
    }
}

/// Whether a server has the database of this point, and fewer changes than it had then.
pub(crate) fn is_older(since: Since, server: &ServerDescription) -> bool {
    server.invocation_id == Some(since.invocation) && server.highest_usn.is_some_and(|highest| highest < since.usn)
}

/// Reads all entries. The numbers of the description were read before the search, so that changes during it are found
/// by the next one.
pub(crate) async fn full(
    connection: &DirectoryConnection,
    description: &ServerDescription,
    search: &SearchSettings,
    mut each: impl FnMut(EntryId, RawEntry) -> Result<(), LdapError>,
) -> Result<Cursor, LdapError> {
    let elsewhere = every_entry(connection, description, search, &plain(search), &mut each).await?;
    Ok(Cursor(match (description.invocation_id, description.highest_usn) {
        (Some(invocation), Some(usn)) if !elsewhere => Position::Usn { search: digest(search), invocation, usn },
        _ => Position::Unknown,
    }))
}

/// Reads the changes since a number. Entries that left the bases or the filter are found by a comparison of the ids.
pub(crate) async fn changes(
    connection: &DirectoryConnection,
    description: &ServerDescription,
    search: &SearchSettings,
    since: Since,
    known: &BTreeSet<EntryId>,
    mut each: impl FnMut(Change) -> Result<(), LdapError>,
) -> Result<Changes, LdapError> {
    let done = |usn| {
        let cursor = Cursor(Position::Usn { search: digest(search), invocation: since.invocation, usn });
        Ok(Changes::Done { cursor })
    };
    let (from, to) = match plan(since, description.invocation_id, description.highest_usn) {
        Plan::Full(reason) => return Ok(Changes::need_full(reason)),
        Plan::Nothing => return done(since.usn),
        Plan::Search { from, to } => (from, to),
    };
    let contexts: BTreeSet<&str> =
        search.bases.iter().map(|base| description.context_of(base).unwrap_or(base)).collect();
    for context in &contexts {
        if container_changed(connection, description, context, from).await? {
            return Ok(Changes::need_full("a container has changed: the entries below it may have moved"));
        }
    }
    let form = Form { filter: changed_filter(&search.filter, from), ..plain(search) };
    let mut deliver = |id: EntryId, entry: RawEntry| each(Change::Entry(entry.with_id(id)));
    every_entry(connection, description, search, &form, &mut deliver).await?;
    if description.controls.contains(SHOW_DELETED) {
        for context in &contexts {
            for id in deleted(connection, description, context, from).await? {
                if known.contains(&id) {
                    each(Change::Gone(id))?;
                }
            }
        }
    }
    done(to)
}

fn changed_filter(filter: &str, from: u64) -> String {
    format!("(&{filter}(uSNChanged>={from}))")
}

/// Whether a container that existed before has changed: a move changes the names of the entries below it, but not their
/// numbers.
async fn container_changed(
    connection: &DirectoryConnection,
    description: &ServerDescription,
    context: &str,
    from: u64,
) -> Result<bool, LdapError> {
    let search = Search {
        base: context.to_owned(),
        scope: Scope::Subtree,
        filter: changed_filter("(|(objectClass=organizationalUnit)(objectClass=container))", from),
        attributes: vec!["uSNCreated".to_owned()],
        controls: Vec::new(),
    };
    let mut changed = false;
    let each = |entry: RawEntry| {
        let created = entry.text("uSNCreated").and_then(|usn| usn.parse::<u64>().ok());
        changed |= created.is_none_or(|created| created < from);
        Ok(())
    };
    connection.search_in_pages(&search, description.divides_results().then_some(PAGE), each).await?;
    Ok(changed)
}

/// Ids of entries that were deleted; none if this account may not read them.
async fn deleted(
    connection: &DirectoryConnection,
    description: &ServerDescription,
    context: &str,
    from: u64,
) -> Result<Vec<EntryId>, LdapError> {
    let search = Search {
        base: context.to_owned(),
        scope: Scope::Subtree,
        filter: changed_filter("(isDeleted=TRUE)", from),
        attributes: id_attributes(),
        controls: vec![show_deleted()],
    };
    let mut ids = Vec::new();
    let each = |entry: RawEntry| {
        ids.extend(entry.id());
        Ok(())
    };
    let found = connection.search_in_pages(&search, description.divides_results().then_some(PAGE), each).await;
    match found {
        Ok(_) | Err(LdapError::Refused { .. }) => Ok(ids),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use twinbox_directory_core::Flavour;

    use super::*;

    #[test]
    fn only_newer_numbers_of_the_same_database_are_changes() {
        let since = Since { invocation: [1; 16], usn: 100 };
        assert_eq!(plan(since, Some([1; 16]), Some(100)), Plan::Nothing);
        assert_eq!(plan(since, Some([1; 16]), Some(103)), Plan::Search { from: 101, to: 103 });
        for (invocation, highest) in
            [(Some([2; 16]), Some(500)), (Some([1; 16]), Some(99)), (None, Some(500)), (Some([1; 16]), None)]
        {
            assert!(matches!(plan(since, invocation, highest), Plan::Full(_)), "{invocation:?} {highest:?}");
        }
    }

    #[test]
    fn only_data_of_the_same_database_are_known_to_be_older() {
        let since = Since { invocation: [1; 16], usn: 100 };
        for (invocation_id, highest_usn, expected) in [
            (Some([1; 16]), Some(99), true),
            (Some([1; 16]), Some(100), false),
            (Some([2; 16]), Some(7), false),
            (None, Some(7), false),
            (Some([1; 16]), None, false),
        ] {
            let server = ServerDescription {
                flavour: Flavour::ActiveDirectory,
                vendor: None,
                controls: BTreeSet::new(),
                naming_contexts: Vec::new(),
                invocation_id,
                highest_usn,
            };
            assert_eq!(is_older(since, &server), expected, "{invocation_id:?} {highest_usn:?}");
        }
    }

    #[test]
    fn the_filter_of_changes_is_a_filter() {
        let filter = changed_filter("(&(objectClass=user)(!(objectClass=computer)))", 7);
        assert_eq!(filter, "(&(&(objectClass=user)(!(objectClass=computer)))(uSNChanged>=7))");
        assert!(twinbox_directory_core::is_filter(&filter));
    }
}
