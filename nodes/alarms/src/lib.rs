//! Alarms and the event stream: each node has all of them, whichever node fails.
//!
//! [`Alarms`] is the handle of the other parts of a node. A separate task writes their reports to replicated
//! records and limits floods; every node shows the alarms and events of all nodes. [`Code`] is the table of all
//! alarms. [`Outbound`] delivers to outside receivers for the whole cluster. DESIGN.md of this crate describes the
//! parts.

mod alarm;
mod alarm_table;
mod budget;
mod code;
mod cursor;
mod event;
mod follow;
mod history;
mod inbox;
mod kind;
mod notice;
mod outbound;
mod recent;
mod schema;
mod store;
mod syslog;
mod text;
mod trap;
mod webhook;
mod writer;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use twinbox_clock::{BootInstant, wall};
use twinbox_handle::Handle;
use twinbox_ids::NodeName;
use twinbox_replication_core::{Edit, Key};
use twinbox_replication_peer::{Acknowledgement, Peers};
use twinbox_replication_store::{CommitError, Store, StoreError};

pub use alarm::{Alarm, AlarmId, Channel, IdPrefix, InvalidId, State, Transition};
pub use code::{ClearingRule, Code, Severity, UnknownCode};
pub use cursor::{Cursor, CursorError};
pub use event::Event;
pub use follow::{FollowError, Follower, Since};
pub use history::Item;
pub use kind::{Kind, UnknownKind};
pub use notice::{ENTERPRISE, Notice};
pub use outbound::{DeliveryError, Outbound};
pub use syslog::{Facility, Syslog, SyslogError, SyslogTarget};
pub use trap::{TrapAuthentication, TrapError, TrapPrivacy, TrapReceivers, TrapSecurity};
pub use webhook::{Webhook, WebhookError};

use crate::{
    event::{Numbering, OriginSummary, write_origins},
    history::History,
    inbox::Inbox,
    recent::Recent,
    writer::{Acknowledge, Writer},
};

/// Maximum number of concurrent readers of the event stream on one node.
const FOLLOWERS: usize = 64;
/// Maximum number of waiting acknowledge requests.
const REQUESTS: usize = 16;

/// Handle to raise alarms and report events. Cheap to clone.
#[derive(Clone)]
pub struct Alarms(Handle<Inner>);

pub(crate) struct Inner {
    pub(crate) inbox: Arc<Inbox>,
    store: Store,
    pub(crate) peers: Peers,
    pub(crate) history: RwLock<History>,
    /// Changes with each change of an alarm or event.
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) followers: Arc<Semaphore>,
    requests: mpsc::Sender<Acknowledge>,
    /// State for the tasks, until [`Alarms::serve`] takes it.
    begin: Mutex<Option<Begin>>,
    written_events: Mutex<BTreeMap<String, u64>>,
    recent: Mutex<Recent>,
    pub(crate) outside: Outside,
    /// Cancelled when nothing more is written or reported.
    pub(crate) ended: CancellationToken,
}

/// Counters of deliveries by this node to outside receivers since the start.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    pub(crate) delivered: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) given_up: AtomicU64,
}

struct Begin {
    numbering: Numbering,
    /// Announces this origin; written with the first commit.
    began: Option<(Key, Edit)>,
    requests: mpsc::Receiver<Acknowledge>,
}

/// Counters of this node since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Number of events by kind.
    pub events: BTreeMap<String, u64>,
    /// Number of alarms left out because there were too many.
    pub dropped_alarms: u64,
    /// Number of events left out.
    pub dropped_events: u64,
    /// Number of notices that outside receivers accepted.
    pub delivered: u64,
    /// Number of failed attempts.
    pub failed: u64,
    /// Number of notices given up.
    pub given_up: u64,
}

/// Reason why alarms were not acknowledged. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AckError {
    /// No alarm has this id.
    #[error("there is no alarm '{id}': see 'twinbox alarm list --all'")]
    None {
        /// Id as given.
        id: String,
    },
    /// Several alarms match.
    #[error("several alarms begin with '{id}': give more digits")]
    Several {
        /// Prefix as given.
        id: String,
    },
    /// The store could not write.
    #[error("the acknowledgement could not be stored: {0}")]
    Store(#[from] StoreError),
    /// The node is being stopped.
    #[error("the node is stopping: use another node")]
    Stopping,
}

impl Alarms {
    /// Reads the stored alarms and events, and begins a new origin of events: its announcement is the first change
    /// in this origin of the store. Nothing is written before [`Self::serve`] runs.
    pub fn open(store: Store, peers: Peers) -> BoxFuture<'static, Result<Self, StoreError>> {
        Self::read(store, peers).boxed()
    }

    async fn read(store: Store, peers: Peers) -> Result<Self, StoreError> {
        let node = store.node().clone();
        let events = store::events(&store, &node)?;
        let mut origins = store::origins(&store, &node)?;
        if let Some(former) = origins.last_mut() {
            let of_origin = events.iter().filter(|event| event.origin == former.origin);
            former.last = of_origin.map(|event| event.number).max().unwrap_or(0);
            former.changes = store.vector().get(former.origin);
        }
        origins.push(OriginSummary { origin: store.origin(), last: 0, changes: 0 });
        let began = (schema::origins_key(&node), write_origins(&origins));
        let first = began.clone();
        let written = store.commit(move |draft| draft.edit(first.0, vec![first.1])).await;
        let began = match written {
            Ok(_) => None,
            Err(CommitError::Refused(error) | CommitError::Store(error)) => {
                tracing::warn!(%error, "origin of the event stream cannot be stored; retrying with the first write");
                Some(began)
            }
        };
        let numbering = Numbering::new(node.clone(), store.origin(), &events);
        let (requests, receiver) = mpsc::channel(REQUESTS);
        Ok(Self(Handle::new(Inner {
            inbox: Arc::new(Inbox::default()),
            peers,
            history: RwLock::new(store::history(&store)?),
            changed: watch::Sender::new(0),
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
            requests,
            begin: Mutex::new(Some(Begin { numbering, began, requests: receiver })),
            written_events: Mutex::default(),
            recent: Mutex::default(),
            outside: Outside::default(),
            ended: CancellationToken::new(),
            store,
        })))
    }

    /// Writes reports and follows the reports of other nodes until stopped; reports received before the stop are
    /// written. Call it once.
    pub fn serve(&self, syslog: Option<Syslog>, stop: CancellationToken) -> BoxFuture<'_, ()> {
        async move {
            let Some(begin) = self.0.begin.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
            let writer = Writer::new(self.clone(), begin.numbering, begin.began, syslog);
            tokio::select! {
                () = writer.run(begin.requests, stop) => {}
                () = follow::apply_changes(self.clone()) => {}
            }
            self.0.ended.cancel();
        }
        .boxed()
    }

    /// Raises an alarm. `subject` is its object (a node, a service, a key), `detail` the cause as text. A repeated
    /// raise with the same code and subject increments the count. Neither text may contain private data: no phone
    /// number, no name of a person. Does not block.
    pub fn raise(&self, code: Code, subject: &str, detail: impl AsRef<str>) {
        self.0.inbox.raise(code, subject, detail.as_ref(), wall());
    }

    /// Clears an alarm. Cheap if it was not raised: call it on every success.
    pub fn clear(&self, code: Code, subject: &str) {
        self.0.inbox.clear(code, subject, wall());
    }

    /// Clears the conditions that a removed member raised: it does not clear them itself any more.
    pub fn end_of(&self, removed: NodeName) {
        self.0.inbox.end_of([removed]);
    }

    /// Reports an event to the event stream. No private data, as in [`Self::raise`].
    pub fn event(&self, kind: Kind, subject: &str, detail: impl AsRef<str>) {
        self.0.inbox.event(kind, subject, detail.as_ref(), wall());
    }

    /// All alarms of all nodes, as known here: highest severity and latest first.
    pub fn list(&self) -> Result<Vec<Alarm>, StoreError> {
        let mut alarms = store::alarms(&self.0.store, None)?;
        let order =
            |alarm: &Alarm| (alarm.state(), std::cmp::Reverse((alarm.code.map(Code::severity), alarm.raised)));
        alarms.sort_by_key(order);
        Ok(alarms)
    }

    /// Acknowledges these alarms: all of them or none.
    pub async fn acknowledge(
        &self,
        ids: Vec<IdPrefix>,
        by: &str,
    ) -> Result<(Vec<Alarm>, Acknowledgement), AckError> {
        let (answer, answered) = oneshot::channel();
        let request = Acknowledge { ids, by: text::subject(by), answer };
        self.0.requests.send(request).await.map_err(|_| AckError::Stopping)?;
        answered.await.unwrap_or(Err(AckError::Stopping))
    }

    /// Counters since the start.
    pub fn counters(&self) -> Counters {
        let (dropped_alarms, dropped_events) = self.dropped();
        let outside = &self.0.outside;
        Counters {
            events: self.0.written_events.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            dropped_alarms,
            dropped_events,
            delivered: outside.delivered.load(Relaxed),
            failed: outside.failed.load(Relaxed),
            given_up: outside.given_up.load(Relaxed),
        }
    }

    /// Number of raises of this alarm on this node in the last `within`, in this incarnation. A repeated raise of a
    /// raised alarm does not count.
    pub fn raised_lately(&self, code: Code, within: Duration) -> u32 {
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner).count(code, within, BootInstant::now())
    }

    pub(crate) fn dropped(&self) -> (u64, u64) {
        self.0.inbox.dropped()
    }

    pub(crate) fn inner(&self) -> &Handle<Inner> {
        &self.0
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn node(&self) -> &NodeName {
        self.0.store.node()
    }
}

impl Inner {
    pub(crate) fn note_raised(&self, code: Code) {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).note(code, BootInstant::now());
    }

    pub(crate) fn count(&self, events: &[Event]) {
        let mut written = self.written_events.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            *written.entry(event.kind.clone()).or_default() += 1;
        }
    }
}
