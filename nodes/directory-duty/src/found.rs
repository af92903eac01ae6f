//! Reads people from the servers of a directory.

use std::collections::{BTreeMap, BTreeSet};

use tracing::info;
use twinbox_directory_core::{DirectorySettings, Entry, Flavour, Person, Scope, person};
use twinbox_directory_service::{Change, Changes, Cursor, DirectoryConnection, DirectoryServers, LdapError, Stop};
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
    /// A line about the server for the report.
    pub note: Option<String>,
}

/// Bytes of the people that an operation found, with their bound.
struct Volume {
    bytes: u64,
    bound: u64,
}

impl Volume {
    fn new(connection: &DirectoryConnection) -> Self {
        Self { bytes: 0, bound: connection.bounds().people }
    }

    /// Takes this total, and stops the operation beyond the bound.
    fn reach(&mut self, bytes: u64) -> Result<(), Stop> {
        self.bytes = bytes;
        if bytes > self.bound { Err(Stop) } else { Ok(()) }
    }

    /// The result of the operation on this server, with the reason if it was stopped here.
    fn judge<T>(&self, server: &str, result: Result<T, LdapError>) -> Result<T, LdapError> {
        match result {
            Err(LdapError::Stopped) => Err(LdapError::TooLarge { server: server.to_owned(), bound: self.bound }),
            result => result,
        }
    }
}

/// Changes as the server reports them: the latest report on an entry counts.
#[derive(Default)]
pub(crate) struct Collected {
    found: BTreeMap<EntryId, Option<Person>>,
    /// Bytes of the people.
    bytes: u64,
}

impl Collected {
    pub(crate) fn add(&mut self, settings: &DirectorySettings, change: Change) {
        let (entry, found) = match change {
            Change::Entry(entry) => (entry.id, Some(person(&settings.map, &entry))),
            Change::Gone(id) => (id, None),
        };
        let bytes = |found: &Option<Person>| found.as_ref().map_or(0, Person::bytes);
        self.bytes = self.bytes.saturating_add(bytes(&found));
        let before = self.found.insert(entry, found);
        self.bytes = self.bytes.saturating_sub(before.as_ref().map_or(0, bytes));
    }

    /// Bytes of the people.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.found.len()
    }

    pub(crate) fn found(self, cursor: Cursor) -> Found {
        let (mut people, mut gone) = (Vec::new(), Vec::new());
        for (entry, found) in self.found {
            match found {
                Some(person) => people.push(person),
                None => gone.push(entry),
            }
        }
        Found { scope: Scope::Changes { gone }, people, cursor }
    }
}

/// Reads what a run needs. `known` has the entries that users come from. Changes that the server cannot tell are read
/// by a full search. `is_judged`: an administrator reads or has accepted what would be lost.
pub(crate) async fn read(
    settings: &DirectorySettings,
    work: Work,
    cursor: Option<&Cursor>,
    known: &BTreeSet<EntryId>,
    is_judged: bool,
) -> Result<Answer, LdapError> {
    let (mut connection, note) = connect(settings, cursor, is_judged).await?;
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
    Ok(Answer { found, flavour, note })
}

/// Connects to a server whose data are not known to be older than those of the latest run. With older data a run would disable
/// users that exist: such a server serves only runs that an administrator judges, with a line in their report.
async fn connect(
    settings: &DirectorySettings,
    cursor: Option<&Cursor>,
    is_judged: bool,
) -> Result<(DirectoryConnection, Option<String>), LdapError> {
    let servers = DirectoryServers::new(settings.servers.clone());
    let Some(cursor) = cursor else { return Ok((servers.connect().await?, None)) };
    match servers.connect_current(&settings.search, cursor).await {
        Err(behind @ LdapError::Behind { .. }) if is_judged => {
            Ok((servers.connect().await?, Some(behind.to_string())))
        }
        connected => Ok((connected?, None)),
    }
}

async fn full(connection: &mut DirectoryConnection, settings: &DirectorySettings) -> Result<Found, LdapError> {
    let (mut people, mut volume) = (Vec::new(), Volume::new(connection));
    let each = |entry: Entry| {
        let person = person(&settings.map, &entry);
        volume.reach(volume.bytes.saturating_add(person.bytes()))?;
        people.push(person);
        Ok(())
    };
    let cursor = connection.full(&settings.search, each).await;
    let cursor = volume.judge(connection.server(), cursor)?;
    Ok(Found { scope: Scope::Full, people, cursor })
}

async fn changes(
    connection: &mut DirectoryConnection,
    settings: &DirectorySettings,
    cursor: &Cursor,
    known: &BTreeSet<EntryId>,
) -> Result<Found, LdapError> {
    let (mut collected, mut volume) = (Collected::default(), Volume::new(connection));
    let each = |change: Change| {
        collected.add(settings, change);
        volume.reach(collected.bytes())
    };
    let done = connection.changes(&settings.search, cursor, known, each).await;
    match volume.judge(connection.server(), done)? {
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
        let of_two = collected.found.values().flatten().map(Person::bytes).sum::<u64>();
        assert_eq!(collected.bytes(), of_two, "a report that is replaced does not count any more");
        let cursor = Cursor::from_bytes(&[1, 0]).expect("a cursor of version 1 without a position");
        let found = collected.found(cursor);
        assert_eq!(found.scope, Scope::Changes { gone: vec![EntryId(1), EntryId(4)] });
        let people: BTreeMap<EntryId, &str> =
            found.people.iter().map(|person| (person.entry, person.dn.reveal().as_str())).collect();
        assert_eq!(people, BTreeMap::from([(EntryId(2), "uid=2"), (EntryId(3), "uid=3")]));
    }

    #[test]
    fn operation_beyond_the_bound_of_bytes_is_stopped_with_the_bound_in_its_reason() {
        let mut volume = Volume { bytes: 0, bound: 1_000 };
        assert_eq!((volume.reach(1_000), volume.reach(1_001)), (Ok(()), Err(Stop)));
        let stopped = volume.judge::<()>("ldap://ldap.test", Err(LdapError::Stopped));
        let text = stopped.expect_err("stopped").to_string();
        assert!(text.contains("ldap://ldap.test") && text.contains("more than 1000 bytes"), "{text}");
        assert!(volume.judge("ldap://ldap.test", Ok(1)).is_ok());
    }
}
