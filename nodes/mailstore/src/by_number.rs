//! Mailboxes by number, in parts: a part of a list costs its length, however many mailboxes there are.
//!
//! The first list reads the numbers of all mailboxes once. After it, every durable change of a mailbox, made here or by a
//! peer, is noted by its id, and the next list reads those mailboxes again.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex},
};

use twinbox_ids::MailboxId;
use twinbox_mailbox::{Mailbox, schema};
use twinbox_replication_core::Change;

use crate::{MailError, Mailstore, lock};

/// Places that are looked up at a time.
const PLACES: usize = 128;

/// The places of mailboxes in the list.
#[derive(Debug, Default)]
pub(crate) struct ByNumber {
    /// `None` until the first list. Locked while the places are brought up to date.
    places: Mutex<Option<Places>>,
    /// Mailboxes that changed since then; `None` while they are not needed.
    changed: Mutex<Option<HashSet<MailboxId>>>,
}

/// Each mailbox has one place.
#[derive(Debug, Default)]
struct Places {
    order: BTreeMap<Arc<str>, MailboxId>,
    of: HashMap<MailboxId, Arc<str>>,
}

impl Places {
    /// A mailbox gets its place, or none.
    fn put(&mut self, id: MailboxId, place: Option<Arc<str>>) {
        if let Some(before) = self.of.remove(&id) {
            self.order.remove(&before);
        }
        if let Some(place) = place {
            self.order.insert(place.clone(), id);
            self.of.insert(id, place);
        }
    }

    /// The next places behind this one.
    fn after(&self, after: &str) -> VecDeque<(Arc<str>, MailboxId)> {
        let behind = self.order.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        behind.take(PLACES).map(|(place, id)| (place.clone(), *id)).collect()
    }
}

impl ByNumber {
    /// Notes a change of a mailbox. Short: runs on the committer thread.
    pub(crate) fn changed(&self, change: &Change) {
        if change.key.table == schema::MAILBOX
            && let Some(id) = schema::mailbox_of(&change.key)
            && let Some(changed) = lock(&self.changed).as_mut()
        {
            changed.insert(id);
        }
    }
}

/// The place of a mailbox in the list, as text that sorts: by number, short ones first, and by id where two mailboxes have
/// the same number.
fn place(Mailbox { number, id, .. }: &Mailbox) -> Arc<str> {
    format!("{:03}{number}.{id}", number.len()).into()
}

/// The mailboxes behind a place, in order. Mailboxes that change meanwhile may be included or not.
pub struct MailboxesByNumber<'a> {
    mailstore: &'a Mailstore,
    after: Arc<str>,
    next: VecDeque<(Arc<str>, MailboxId)>,
}

impl Mailstore {
    /// The mailboxes by number, each with its place, behind the place `after`; all for the empty text. A mailbox that this
    /// release cannot read is skipped, and logged. Reads on this thread.
    pub fn by_number(&self, after: &str) -> Result<MailboxesByNumber<'_>, MailError> {
        self.update_places()?;
        Ok(MailboxesByNumber { mailstore: self, after: after.into(), next: VecDeque::new() })
    }

    /// Reads the mailboxes that changed since the last list, or all.
    fn update_places(&self) -> Result<(), MailError> {
        let by_number = &self.inner.by_number;
        let mut places = lock(&by_number.places);
        let changed = lock(&by_number.changed).replace(HashSet::new()).unwrap_or_default();
        let Some(places) = places.as_mut() else {
            let mut all = Places::default();
            for mailbox in self.listed() {
                let mailbox = mailbox?;
                all.put(mailbox.id, Some(place(&mailbox)));
            }
            *places = Some(all);
            return Ok(());
        };
        for id in &changed {
            let found = self.legible(*id).inspect_err(|_| {
                lock(&by_number.changed).get_or_insert_default().extend(&changed);
            })?;
            places.put(*id, found.as_ref().map(place));
        }
        Ok(())
    }

    /// A mailbox; `None` if there is none, or if this release cannot read it.
    fn legible(&self, id: MailboxId) -> Result<Option<Mailbox>, MailError> {
        match self.get_now(id) {
            Err(MailError::View(error)) => {
                tracing::warn!(%error, "mailbox cannot be read; it is not listed");
                Ok(None)
            }
            found => found,
        }
    }
}

impl Iterator for MailboxesByNumber<'_> {
    type Item = Result<(String, Mailbox), MailError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.next.is_empty() {
                let places = lock(&self.mailstore.inner.by_number.places);
                self.next = places.as_ref().map(|places| places.after(&self.after)).unwrap_or_default();
            }
            let (at, id) = self.next.pop_front()?;
            self.after.clone_from(&at);
            match self.mailstore.legible(id) {
                // It may have got another number meanwhile, and then has another place.
                Ok(Some(mailbox)) if place(&mailbox) == at => return Some(Ok((at.to_string(), mailbox))),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
