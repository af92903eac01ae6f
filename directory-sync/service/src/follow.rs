//! Following a server: changes as they happen (RFC 4533 section 3.4, refreshAndPersist).

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, select_all},
};
use tokio::time::{Interval, MissedTickBehavior, interval};
use twinbox_directory_core::{Flavour, SearchSettings};
use twinbox_mailbox::EntryId;

use crate::{
    Change, Cursor, DirectoryConnection, LdapError, ServerDescription, containers,
    controls::Mode,
    cursor::{Position, digest},
    description::describe,
    openldap::{SyncMessage, interpret, needs_full, sync_search},
    search::{Results, SearchItem},
};

/// Event of a followed server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// A change.
    Change(Change),
    /// All changes so far were delivered up to this cursor.
    Cursor(Cursor),
    /// Further changes cannot be told: a full search is necessary on a new connection.
    NeedFull {
        /// Reason, for the administrator.
        reason: String,
    },
}

/// A server that is followed. Events end when it is dropped.
pub struct Following<'a> {
    connection: &'a DirectoryConnection,
    description: ServerDescription,
    search: SearchSettings,
    bases: Vec<Base<'a>>,
    ready: VecDeque<Followed>,
    known: BTreeSet<EntryId>,
    probes: Interval,
    count: u64,
}

/// One base.
struct Base<'a> {
    name: String,
    results: Results<'a>,
    cookie: Vec<u8>,
    /// Cookie at the last check of containers.
    checked: Vec<u8>,
    /// Entries that the server named as present; `None` after the refresh.
    present: Option<BTreeSet<EntryId>>,
}

impl DirectoryConnection {
    /// Follows the changes since a cursor. `known` has the ids of all entries that the directory supplied so far. Run
    /// [`Self::changes`] before: it tells absences over several bases. The connection serves nothing else afterwards.
    pub fn persist<'a: 'b, 'b>(
        &'a mut self,
        search: &'b SearchSettings,
        cursor: &'b Cursor,
        known: &'b [EntryId],
    ) -> BoxFuture<'b, Result<Following<'a>, LdapError>> {
        self.begin_to_follow(search, cursor, known).boxed()
    }

    async fn begin_to_follow(
        &mut self,
        search: &SearchSettings,
        cursor: &Cursor,
        known: &[EntryId],
    ) -> Result<Following<'_>, LdapError> {
        let this = &*self;
        this.begin()?;
        let description = describe(this).await?;
        let cookies = match &cursor.0 {
            Position::Cookies { search: of, cookies }
                if *of == digest(search)
                    && cookies.len() == search.bases.len()
                    && description.flavour == Flavour::OpenLdap =>
            {
                cookies.clone()
            }
            _ => Vec::new(),
        };
        let mut bases = Vec::new();
        for (name, cookie) in search.bases.iter().zip(cookies) {
            let results = this.search(&sync_search(search, name, Mode::RefreshAndPersist, Some(&cookie))).await?;
            let (name, checked, present) = (name.clone(), cookie.clone(), Some(BTreeSet::new()));
            bases.push(Base { name, results, cookie, checked, present });
        }
        let mut probes = interval(this.bounds.probe.max(Duration::from_millis(1)));
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Following {
            connection: this,
            description,
            search: search.clone(),
            bases,
            ready: VecDeque::new(),
            known: known.iter().copied().collect(),
            probes,
            count: 0,
        })
    }
}

/// Event that wakes a follower.
enum Wake {
    Result(usize, Result<Option<SearchItem>, LdapError>),
    Probe,
}

impl Following<'_> {
    /// The next event. A server that is silent is probed. If this is cancelled, events may be lost: drop the whole.
    pub async fn next(&mut self) -> Result<Followed, LdapError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if self.bases.is_empty() {
                let reason = "the server tells no changes since the last search".to_owned();
                return Ok(Followed::NeedFull { reason });
            }
            match self.wake().await {
                Wake::Result(at, result) => {
                    let item = result?;
                    self.take(at, item).await?;
                }
                Wake::Probe => self.probe().await?,
            }
        }
    }

    async fn wake(&mut self) -> Wake {
        let results = select_all(self.bases.iter_mut().map(|base| Box::pin(base.results.next_ever())));
        tokio::select! {
            biased;
            (result, at, _) = results => Wake::Result(at, result),
            _ = self.probes.tick() => Wake::Probe,
        }
    }

    async fn take(&mut self, at: usize, item: Option<SearchItem>) -> Result<(), LdapError> {
        let Some(item) = item else { return self.end(at).await };
        let connection = self.connection;
        let Some(base) = self.bases.get_mut(at) else { return Ok(()) };
        let (message, cookie) = interpret(connection, item)?;
        let refreshed = matches!(message, SyncMessage::PhaseEnd { refresh_done: true, .. });
        match message {
            SyncMessage::Changed(id, entry) => {
                base.present.iter_mut().for_each(|present| present.extend([id]));
                self.known.insert(id);
                self.ready.push_back(Followed::Change(Change::Entry(entry.with_id(id))));
            }
            SyncMessage::Present(ids) => {
                connection.count(&mut self.count, ids.len() as u64)?;
                base.present.iter_mut().for_each(|present| present.extend(ids.iter().copied()));
            }
            SyncMessage::Gone(ids) => {
                if self.bases.len() > 1 && ids.iter().any(|id| self.known.contains(id)) {
                    self.need_full("an entry left one base: it may be in another");
                    return Ok(());
                }
                for id in ids {
                    self.known.remove(&id);
                    self.ready.push_back(Followed::Change(Change::Gone(id)));
                }
            }
            SyncMessage::PhaseEnd { named_gone, refresh_done } => {
                let present = base.present.take().filter(|_| !named_gone);
                base.present = if refresh_done { None } else { Some(BTreeSet::new()) };
                self.present(present);
            }
            SyncMessage::Reference(_) => connection.noted().referrals += 1,
            SyncMessage::Other => {}
        }
        let is_position = cookie.is_some() || refreshed;
        if let (Some(base), Some(cookie)) = (self.bases.get_mut(at), cookie) {
            base.cookie = cookie;
        }
        // During a refresh a cookie may be ahead of changes that are still to come.
        if is_position && !self.bases.is_empty() && self.bases.iter().all(|base| base.present.is_none()) {
            self.ready.push_back(Followed::Cursor(self.cursor()));
        }
        Ok(())
    }

    /// Concludes absences from the entries that a refresh named as present.
    fn present(&mut self, present: Option<BTreeSet<EntryId>>) {
        let Some(present) = present else { return };
        if self.bases.len() > 1 || (present.is_empty() && !self.known.is_empty()) {
            self.need_full("the server named the present entries of one base only");
            return;
        }
        let gone: Vec<EntryId> = self.known.difference(&present).copied().collect();
        for id in gone {
            self.known.remove(&id);
            self.ready.push_back(Followed::Change(Change::Gone(id)));
        }
    }

    /// The server ended the search of a base.
    async fn end(&mut self, at: usize) -> Result<(), LdapError> {
        let base = self.bases.swap_remove(at);
        let (outcome, _) = base.results.finish().await;
        match needs_full(&outcome) {
            Some(reason) => {
                self.need_full(reason);
                Ok(())
            }
            None => Err(self.connection.refused(format!("to follow '{}'", base.name), &outcome)),
        }
    }

    /// Checks that the server still answers, and that no container has moved.
    async fn probe(&mut self) -> Result<(), LdapError> {
        self.connection.read("", &["objectClass"]).await?;
        let mut reason = None;
        for base in &mut self.bases {
            let now = base.cookie.clone();
            let moved = containers::moved(self.connection, &self.description, &base.name, &base.checked).await?;
            reason = reason.or(moved);
            base.checked = now;
        }
        if let Some(reason) = reason {
            self.need_full(reason);
        }
        Ok(())
    }

    fn need_full(&mut self, reason: impl Into<String>) {
        self.bases.clear();
        self.ready.push_back(Followed::NeedFull { reason: reason.into() });
    }

    fn cursor(&self) -> Cursor {
        let cookies = self.bases.iter().map(|base| base.cookie.clone()).collect();
        Cursor(Position::Cookies { search: digest(&self.search), cookies })
    }
}
