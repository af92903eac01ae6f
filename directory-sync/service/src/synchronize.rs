//! Full search, changes since a cursor, and the ids of all entries.

use std::collections::BTreeSet;

use ldap3::{Scope, controls::RawControl};
use twinbox_directory_core::{Entry, Flavour, SearchSettings};
use twinbox_mailbox::EntryId;

use crate::{
    Cursor, DirectoryConnection, LdapError, ServerDescription, Stop, active_directory, containers,
    cursor::{self, Position},
    description::describe,
    entry::{RawEntry, id_attributes, wanted},
    openldap, referral,
    search::Search,
};

/// Largest page that is asked for.
const LARGEST_PAGE: u32 = 10_000;

/// A difference to the content at a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An entry that is new or has changed.
    Entry(Entry),
    /// An entry that the search does not find any more: deleted, moved out of the bases, or not matched any more.
    Gone(EntryId),
}

/// Result of an incremental search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// All changes were delivered up to this cursor.
    Done {
        /// The cursor of the next search.
        cursor: Cursor,
    },
    /// The changes cannot be told: a full search is necessary. Changes delivered so far are right.
    NeedFull {
        /// Reason, for the administrator.
        reason: String,
    },
}

impl Changes {
    pub(crate) fn need_full(reason: impl Into<String>) -> Self {
        Self::NeedFull { reason: reason.into() }
    }
}

impl From<Stop> for LdapError {
    fn from(Stop: Stop) -> Self {
        Self::Stopped
    }
}

impl DirectoryConnection {
    /// Reads all entries of a search. Returns the cursor to continue from. Only after success is an entry that was not
    /// delivered an absent one.
    pub async fn full(
        &mut self,
        search: &SearchSettings,
        mut each: impl FnMut(Entry) -> Result<(), Stop>,
    ) -> Result<Cursor, LdapError> {
        let this = &*self;
        let work = async {
            let description = describe(this).await?;
            let mut deliver = |id: EntryId, entry: RawEntry| each(entry.with_id(id)).map_err(LdapError::from);
            match description.flavour {
                Flavour::OpenLdap => openldap::full(this, &description, search, deliver).await,
                Flavour::ActiveDirectory => active_directory::full(this, &description, search, deliver).await,
                Flavour::Auto => {
                    every_entry(this, &description, search, &plain(search), &mut deliver).await?;
                    Ok(Cursor(Position::Unknown))
                }
            }
        };
        this.operation(work).await
    }

    /// Reads the changes since a cursor. `known` has the ids of all entries that the directory supplied so far: a
    /// server may tell the present entries instead of those that are gone.
    pub async fn changes(
        &mut self,
        search: &SearchSettings,
        cursor: &Cursor,
        known: &BTreeSet<EntryId>,
        mut each: impl FnMut(Change) -> Result<(), Stop>,
    ) -> Result<Changes, LdapError> {
        let this = &*self;
        let work = async {
            let description = describe(this).await?;
            let digest = cursor::digest(search);
            let deliver = |change: Change| each(change).map_err(LdapError::from);
            match (&cursor.0, description.flavour) {
                (Position::Cookies { search: of, .. } | Position::Usn { search: of, .. }, _) if *of != digest => {
                    Ok(Changes::need_full("the bases, the filter or the attributes were changed"))
                }
                (Position::Cookies { cookies, .. }, Flavour::OpenLdap) => {
                    openldap::changes(this, &description, search, cookies, known, deliver).await
                }
                (Position::Usn { invocation, usn, .. }, Flavour::ActiveDirectory) => {
                    let since = active_directory::Since { invocation: *invocation, usn: *usn };
                    active_directory::changes(this, &description, search, since, known, deliver).await
                }
                _ => Ok(Changes::need_full("the server tells no changes since the last search")),
            }
        };
        this.operation(work).await
    }

    /// Whether the server's data are known to be older than those at a cursor: it lags behind another server, or a backup was
    /// restored. Data that cannot be compared are not known to be.
    pub(crate) async fn is_behind(&mut self, search: &SearchSettings, cursor: &Cursor) -> Result<bool, LdapError> {
        let this = &*self;
        let work = async {
            let (Position::Cookies { search: of, .. } | Position::Usn { search: of, .. }) = &cursor.0 else {
                return Ok(false);
            };
            if *of != cursor::digest(search) {
                return Ok(false);
            }
            let description = describe(this).await?;
            match (&cursor.0, description.flavour) {
                (Position::Cookies { cookies, .. }, Flavour::OpenLdap) => {
                    containers::is_older(this, &description, &search.bases, cookies).await
                }
                (Position::Usn { invocation, usn, .. }, Flavour::ActiveDirectory) => {
                    let since = active_directory::Since { invocation: *invocation, usn: *usn };
                    Ok(active_directory::is_older(since, &description))
                }
                _ => Ok(false),
            }
        };
        this.operation(work).await
    }

    /// The ids of all entries of a search, without their attributes.
    pub async fn ids(&mut self, search: &SearchSettings) -> Result<BTreeSet<EntryId>, LdapError> {
        let this = &*self;
        let work = async {
            let description = describe(this).await?;
            ids_of(this, &description, search).await
        };
        this.operation(work).await
    }
}

/// The ids of all entries.
pub(crate) async fn ids_of(
    connection: &DirectoryConnection,
    description: &ServerDescription,
    search: &SearchSettings,
) -> Result<BTreeSet<EntryId>, LdapError> {
    let mut ids = BTreeSet::new();
    let form = Form { attributes: id_attributes(), ..plain(search) };
    let mut deliver = |id: EntryId, _: RawEntry| {
        ids.insert(id);
        Ok(())
    };
    every_entry(connection, description, search, &form, &mut deliver).await?;
    Ok(ids)
}

/// Variable parts of a search over all bases.
pub(crate) struct Form {
    pub filter: String,
    pub attributes: Vec<String>,
    pub controls: Vec<RawControl>,
}

/// The search of the settings.
pub(crate) fn plain(search: &SearchSettings) -> Form {
    Form { filter: search.filter.clone(), attributes: wanted(&search.attributes), controls: Vec::new() }
}

/// Reads every entry of all bases once, in pages. Returns whether a part came from another server.
pub(crate) async fn every_entry(
    connection: &DirectoryConnection,
    description: &ServerDescription,
    search: &SearchSettings,
    form: &Form,
    each: &mut impl FnMut(EntryId, RawEntry) -> Result<(), LdapError>,
) -> Result<bool, LdapError> {
    let page = description.divides_results().then(|| search.page.clamp(1, LARGEST_PAGE));
    let (mut met, mut elsewhere) = (BTreeSet::new(), false);
    let mut once = |entry: RawEntry| match entry.id() {
        Some(id) if met.insert(id) => each(id, entry),
        Some(_) => Ok(()),
        None => {
            connection.noted().without_id += 1;
            Ok(())
        }
    };
    for base in &search.bases {
        let search = Search {
            base: base.clone(),
            scope: Scope::Subtree,
            filter: form.filter.clone(),
            attributes: form.attributes.clone(),
            controls: form.controls.clone(),
        };
        let references = connection.search_in_pages(&search, page, &mut once).await?;
        elsewhere |= referral::follow(connection, &references, &search, page, &mut once).await?;
    }
    Ok(elsewhere)
}
