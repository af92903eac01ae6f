//! Reads people from the servers of a directory.

use std::collections::{BTreeMap, BTreeSet};

use tracing::info;
use twinbox_directory_core::{DirectorySettings, Entry, Flavour, Person, Scope, person};
use twinbox_directory_service::{Change, Changes, Cursor, DirectoryConnection, DirectoryServers, LdapError};
use twinbox_mailbox::EntryId;

use crate::decide::Work;

/// People that a search found.
pub(crate) struct Found {
    /// The part of the directory that they are.
    pub scope: Scope,
    /// The people.
    pub people: Vec<Person>,
    /// Position after the search.
    pub cursor: Cursor,
}

/// People, with the kind of the server that supplied them.
pub(crate) struct Answer {
    pub found: Found,
    pub flavour: Flavour,
}

/// Changes as the server reports them: the latest report on an entry counts.
#[derive(Default)]
pub(crate) struct Collected(BTreeMap<EntryId, Option<Person>>);

impl Collected {
    pub(crate) fn add(&mut self, settings: &DirectorySettings, change: Change) {
        match change {
            Change::Entry(entry) => self.0.insert(entry.id, Some(person(&settings.map, &entry))),
            Change::Gone(id) => self.0.insert(id, None),
        };
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn found(self, cursor: Cursor) -> Found {
        let (mut people, mut gone) = (Vec::new(), Vec::new());
        for (entry, found) in self.0 {
            match found {
                Some(person) => people.push(person),
                None => gone.push(entry),
            }
        }
        Found { scope: Scope::Changes { gone }, people, cursor }
    }
}

/// Reads what a run needs. `known` has the entries that users come from. Changes that the server cannot tell are read
/// by a full search.
pub(crate) async fn read(
    settings: &DirectorySettings,
    work: Work,
    cursor: Option<&Cursor>,
    known: &BTreeSet<EntryId>,
) -> Result<Answer, LdapError> {
    let servers = DirectoryServers::new(settings.servers.clone());
    let mut connection = servers.connect().await?;
    let flavour = connection.describe().await?.flavour;
    let found = match (work, cursor) {
        (Work::Compare, Some(cursor)) => compare(&mut connection, settings, cursor, known).await?,
        (Work::Changes, Some(cursor)) => changes(&mut connection, settings, cursor, known).await?,
        _ => full(&mut connection, settings).await?,
    };
    // An entry without a readable id cannot be told from an absent one.
    let hidden = connection.notes().without_id;
    let counts_absent = !matches!(&found.scope, Scope::Changes { gone } if gone.is_empty());
    if hidden > 0 && counts_absent {
        return Err(LdapError::Refused {
            server: connection.server().to_owned(),
            operation: format!("to show the stable id of {hidden} entries"),
            code: 50,
            reason: "let this account read entryUUID or objectGUID, or narrow the filter".to_owned(),
        });
    }
    connection.close().await;
    Ok(Answer { found, flavour })
}

async fn full(connection: &mut DirectoryConnection, settings: &DirectorySettings) -> Result<Found, LdapError> {
    let mut people = Vec::new();
    let each = |entry: Entry| {
        people.push(person(&settings.map, &entry));
        Ok(())
    };
    let cursor = connection.full(&settings.search, each).await?;
    Ok(Found { scope: Scope::Full, people, cursor })
}

async fn changes(
    connection: &mut DirectoryConnection,
    settings: &DirectorySettings,
    cursor: &Cursor,
    known: &BTreeSet<EntryId>,
) -> Result<Found, LdapError> {
    let mut collected = Collected::default();
    let each = |change: Change| {
        collected.add(settings, change);
        Ok(())
    };
    match connection.changes(&settings.search, cursor, known, each).await? {
        Changes::Done { cursor } => Ok(collected.found(cursor)),
        Changes::NeedFull { reason } => {
            info!(%reason, "changes of a directory cannot be read; it is read as a whole");
            full(connection, settings).await
        }
    }
}

/// The changes, and the entries that users come from and that the search does not find any more.
async fn compare(
    connection: &mut DirectoryConnection,
    settings: &DirectorySettings,
    cursor: &Cursor,
    known: &BTreeSet<EntryId>,
) -> Result<Found, LdapError> {
    let mut found = changes(connection, settings, cursor, known).await?;
    if let Scope::Changes { gone } = &mut found.scope {
        let there = connection.ids(&settings.search).await?;
        gone.extend(known.difference(&there));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use twinbox_directory_core::Attributes;

    use super::*;

    #[test]
    fn latest_report_on_an_entry_counts() {
        let settings = DirectorySettings::parse(&["url=ldaps://ldap.test", "base=dc=test"]).expect("settings");
        let entry = |id: u128| Change::Entry(Entry::new(EntryId(id), format!("uid={id}"), Attributes::new()));
        let mut collected = Collected::default();
        let gone = |id: u128| Change::Gone(EntryId(id));
        let reports = [entry(1), gone(1), gone(2), entry(2), entry(3), gone(4)];
        reports.into_iter().for_each(|change| collected.add(&settings, change));
        assert_eq!(collected.len(), 4);
        let cursor = Cursor::from_bytes(&[1, 0]).expect("a cursor of version 1 without a position");
        let found = collected.found(cursor);
        assert_eq!(found.scope, Scope::Changes { gone: vec![EntryId(1), EntryId(4)] });
        let people: BTreeMap<EntryId, &str> =
            found.people.iter().map(|person| (person.entry, person.dn.reveal().as_str())).collect();
        assert_eq!(people, BTreeMap::from([(EntryId(2), "uid=2"), (EntryId(3), "uid=3")]));
    }
}
