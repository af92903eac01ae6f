//! One search: results as they arrive, and searches in pages (RFC 2696).

use std::time::Duration;

use ldap3::{
    Scope, SearchStream,
    asn1::{PL, StructureTag},
    controls::{Control, RawControl},
};
use tokio::time::timeout;
use twinbox_directory_core::is_filter;

use crate::{
    DirectoryConnection, LdapError,
    controls::{next_page, paged},
    entry::RawEntry,
    message::{OperationResult, shown},
};

/// References of one search that are kept.
pub(crate) const MOST_REFERENCES: usize = 64;
/// Longest address in a reference, in bytes.
const LONGEST_ADDRESS: usize = 4_096;

/// Parameters of a search.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    pub base: String,
    pub scope: Scope,
    pub filter: String,
    pub attributes: Vec<String>,
    pub controls: Vec<RawControl>,
}

/// A result between the first and the last.
pub(crate) enum SearchItem {
    Entry(RawEntry, Vec<Control>),
    /// Addresses of other servers that hold a part of the subtree.
    Reference(Vec<String>),
    Message(StructureTag),
}

/// Results of a search that is under way.
pub(crate) struct Results<'a> {
    connection: &'a DirectoryConnection,
    stream: SearchStream<'static, String, Vec<String>>,
}

impl DirectoryConnection {
    /// Begins a search.
    pub(crate) async fn search(&self, search: &Search) -> Result<Results<'_>, LdapError> {
        if !is_filter(&search.filter) {
            return Err(LdapError::Filter(search.filter.clone()));
        }
        let mut ldap = self.ldap.clone();
        if !search.controls.is_empty() {
            ldap.with_controls(search.controls.clone());
        }
        let begin = ldap.streaming_search(&search.base, search.scope, &search.filter, search.attributes.clone());
        let stream = timeout(self.settings.timeout, begin).await.map_err(|_| self.timed_out())?;
        let stream = stream.map_err(|error| match error {
            ldap3::LdapError::FilterParsing => LdapError::Filter(search.filter.clone()),
            _ => self.ended(),
        })?;
        Ok(Results { connection: self, stream })
    }

    /// Reads one entry; `None` if it does not exist or may not be read.
    pub(crate) async fn read(&self, dn: &str, attributes: &[&str]) -> Result<Option<RawEntry>, LdapError> {
        let search = Search {
            base: dn.to_owned(),
            scope: Scope::Base,
            filter: "(objectClass=*)".to_owned(),
            attributes: attributes.iter().map(|name| (*name).to_owned()).collect(),
            controls: Vec::new(),
        };
        let mut results = self.search(&search).await?;
        let mut found = None;
        while let Some(item) = results.next().await? {
            if let SearchItem::Entry(entry, _) = item {
                found = found.or(Some(entry));
            }
        }
        let (outcome, _) = results.finish().await;
        match outcome.code {
            0 => Ok(found),
            32 => Ok(None),
            _ => Err(self.refused(format!("to read '{dn}'"), &outcome)),
        }
    }

    /// Searches in pages of `size` entries if the server divides results. Only one page is under way at a time. Returns
    /// the references to other servers.
    pub(crate) async fn search_in_pages(
        &self,
        search: &Search,
        size: Option<u32>,
        mut each: impl FnMut(RawEntry) -> Result<(), LdapError>,
    ) -> Result<Vec<String>, LdapError> {
        let (mut cookie, mut count, mut references) = (Vec::new(), 0, Vec::new());
        loop {
            let mut page = search.clone();
            page.controls.extend(size.map(|size| paged(size, &cookie)));
            let mut results = self.search(&page).await?;
            while let Some(item) = results.next().await? {
                self.count(&mut count, 1)?;
                match item {
                    SearchItem::Entry(entry, _) => each(entry)?,
                    SearchItem::Reference(addresses) if references.len() < MOST_REFERENCES => {
                        references.extend(addresses.into_iter().next());
                    }
                    SearchItem::Reference(_) => self.noted().referrals += 1,
                    SearchItem::Message(_) => {}
                }
            }
            let (outcome, controls) = results.finish().await;
            if outcome.code != 0 {
                return Err(self.refused(format!("the search in '{}'", search.base), &outcome));
            }
            match next_page(&controls).map_err(|error| self.protocol(error))? {
                Some(next) if !next.is_empty() => cookie = next,
                _ => return Ok(references),
            }
        }
    }

    /// Adds to a count of results and checks the bound.
    pub(crate) fn count(&self, count: &mut u64, more: u64) -> Result<(), LdapError> {
        *count = count.saturating_add(more);
        if *count > self.bounds.entries {
            return Err(LdapError::TooMany { server: self.server.clone(), bound: self.bounds.entries });
        }
        Ok(())
    }
}

impl Results<'_> {
    /// The next result within the time limit of one answer; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<SearchItem>, LdapError> {
        let limit = self.connection.settings.timeout;
        self.next_within(limit).await?.ok_or_else(|| self.connection.timed_out())
    }

    /// The next result: the outer `None` is the end of the time.
    pub async fn next_within(&mut self, limit: Duration) -> Result<Option<Option<SearchItem>>, LdapError> {
        match timeout(limit, self.stream.next()).await {
            Ok(result) => self.item(result).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The next result, however long it takes. Cancelling loses no result.
    pub async fn next_ever(&mut self) -> Result<Option<SearchItem>, LdapError> {
        let result = self.stream.next().await;
        self.item(result)
    }

    fn item(
        &self,
        result: ldap3::result::Result<Option<ldap3::ResultEntry>>,
    ) -> Result<Option<SearchItem>, LdapError> {
        let connection = self.connection;
        let Some(result) = result.map_err(|_| connection.ended())? else { return Ok(None) };
        connection.shared.take_result();
        let (tag, controls) = (result.0, result.1);
        let item = match tag.id {
            4 => {
                let entry = RawEntry::read(tag, connection.bounds.attribute, &mut connection.noted());
                entry.map(|entry| SearchItem::Entry(entry, controls))
            }
            19 => addresses(tag).map(SearchItem::Reference),
            _ => Some(SearchItem::Message(tag)),
        };
        item.ok_or_else(|| connection.protocol("a result is malformed")).map(Some)
    }

    /// Result and controls of the whole search, after the last result.
    pub async fn finish(mut self) -> (OperationResult, Vec<Control>) {
        let result = self.stream.finish().await;
        (OperationResult { code: result.rc, text: shown(&result.text) }, result.ctrls)
    }
}

/// The address in a reference; `None` if it is malformed or too long to be one.
fn address(part: StructureTag) -> Option<String> {
    String::from_utf8(part.expect_primitive()?).ok().filter(|address| address.len() <= LONGEST_ADDRESS)
}

fn addresses(tag: StructureTag) -> Option<Vec<String>> {
    let PL::C(parts) = tag.payload else { return None };
    parts.into_iter().map(address).collect()
}
