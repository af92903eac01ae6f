//! Alarms and the event stream: what somebody should know, on every node, whatever happens to one of them.
//!
//! [`Alarms`] is the handle that the other parts of a node hold. What they say is written to replicated records by a
//! task of its own, which keeps floods within bounds; every node shows the alarms and events of all. [`Code`] is the
//! table of all alarms. [`Outbound`] tells receivers outside, on behalf of the whole cluster. DESIGN.md beside this
//! crate says how the parts fit.

mod alarm;
mod board;
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

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::NodeName;
use twinbox_replication_core::{Edit, Key};
use twinbox_replication_peer::{Acknowledgement, Peers};
use twinbox_replication_store::{CommitError, Store, StoreError};

pub use alarm::{Alarm, AlarmId, Channel, IdPrefix, NoId, State, Transition};
pub use code::{Code, Course, Severity, UnknownCode};
pub use cursor::{Cursor, CursorError};
pub use event::Event;
pub use follow::{FollowError, Follower, Since};
pub use history::Item;
pub use kind::{Kind, UnknownKind};
pub use notice::{ENTERPRISE, Notice};
pub use outbound::{Outbound, Permission, TellError};
pub use syslog::{Facility, Syslog, SyslogError, SyslogTarget};
pub use trap::{TrapAuthentication, TrapError, TrapPrivacy, TrapReceivers, TrapSecurity};
pub use webhook::{Webhook, WebhookError};

use crate::{
    event::{Life, Numbering, write_lives},
    history::History,
    inbox::Inbox,
    recent::Recent,
    writer::{Acknowledge, Writer},
};

/// Who follows the event stream of one node at once, at most.
const FOLLOWERS: usize = 64;
/// Requests to acknowledge that wait.
const REQUESTS: usize = 16;

/// Where alarms are raised and events told. Cheap to clone.
#[derive(Clone)]
pub struct Alarms(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) inbox: Arc<Inbox>,
    store: Store,
    pub(crate) peers: Peers,
    pub(crate) history: RwLock<History>,
    /// Changes when an alarm or event does.
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) followers: Arc<Semaphore>,
    requests: mpsc::Sender<Acknowledge>,
    /// What the tasks need, until they run.
    begin: Mutex<Option<Begin>>,
    told: Mutex<BTreeMap<String, u64>>,
    recent: Mutex<Recent>,
    pub(crate) outside: Outside,
    /// Nothing more is written or told.
    pub(crate) ended: CancellationToken,
}

/// What receivers outside were told by this node since the start.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    pub(crate) told: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) given_up: AtomicU64,
}

struct Begin {
    numbering: Numbering,
    /// Says that this life has begun.
    began: Option<(Key, Edit)>,
    requests: mpsc::Receiver<Acknowledge>,
}

/// What this node has counted since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events told, by kind.
    pub events: BTreeMap<String, u64>,
    /// Alarms that were left out because too many came.
    pub dropped_alarms: u64,
    /// Events that were left out.
    pub dropped_events: u64,
    /// Notices that receivers outside have taken.
    pub told: u64,
    /// Attempts at that which failed.
    pub failed: u64,
    /// Notices that were given up.
    pub given_up: u64,
}

/// Why alarms were not acknowledged. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AckError {
    /// There is none.
    #[error("there is no alarm '{id}': 'twinbox alarm list --all' shows those there are")]
    None {
        /// As given.
        id: String,
    },
    /// Not clear which.
    #[error("several alarms begin with '{id}': give more of its digits")]
    Several {
        /// As given.
        id: String,
    },
    /// It could not be written.
    #[error("it could not be written: {0}")]
    Store(#[from] StoreError),
    /// The node is being stopped.
    #[error("the node is being stopped: ask another")]
    Stopping,
}

impl Alarms {
    /// Reads what there is, and begins a life in which events are told: that is the first change of this life of the
    /// store. Nothing is written before [`Self::serve`] runs.
    pub async fn open(store: Store, peers: Peers) -> Result<Self, StoreError> {
        let node = store.node().clone();
        let events = store::events(&store, &node)?;
        let mut lives = store::lives(&store, &node)?;
        if let Some(former) = lives.last_mut() {
            let of_it = events.iter().filter(|event| event.origin == former.origin);
            former.last = of_it.map(|event| event.number).max().unwrap_or(0);
            former.changes = store.vector().get(former.origin);
        }
        lives.push(Life { origin: store.origin(), last: 0, changes: 0 });
        let began = (schema::lives_key(&node), write_lives(&lives));
        let first = began.clone();
        let written = store.commit(move |draft| draft.edit(first.0, vec![first.1])).await;
        let began = match written {
            Ok(_) => None,
            Err(CommitError::Refused(error) | CommitError::Store(error)) => {
                tracing::warn!(%error, "the event stream begins later: the store cannot write now");
                Some(began)
            }
        };
        let numbering = Numbering::new(node.clone(), store.origin(), &events);
        let (requests, receiver) = mpsc::channel(REQUESTS);
        Ok(Self(Arc::new(Inner {
            inbox: Arc::new(Inbox::default()),
            peers,
            history: RwLock::new(store::history(&store)?),
            changed: watch::Sender::new(0),
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
            requests,
            begin: Mutex::new(Some(Begin { numbering, began, requests: receiver })),
            told: Mutex::default(),
            recent: Mutex::default(),
            outside: Outside::default(),
            ended: CancellationToken::new(),
            store,
        })))
    }

    /// Writes what is said and keeps up with what other nodes say, until stopped; what was said by then is written.
    /// Once only.
    pub async fn serve(&self, syslog: Option<Syslog>, stop: CancellationToken) {
        let Some(begin) = self.0.begin.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let writer = Writer::new(self.clone(), begin.numbering, begin.began, syslog);
        tokio::select! {
            () = writer.run(begin.requests, stop) => {}
            () = follow::keep_up(self.clone()) => {}
        }
        self.0.ended.cancel();
    }

    /// Raises an alarm: `subject` says of whom or what (a node, a service, a key), `detail` why, in words. The same code
    /// and subject again counts up. Neither may have anything private in it: no number, no name of a person. Waits for
    /// nothing.
    pub fn raise(&self, code: Code, subject: &str, detail: impl AsRef<str>) {
        self.0.inbox.raise(code, subject, detail.as_ref(), wall());
    }

    /// The condition is over. Free when it was not raised: call it whenever all is well.
    pub fn clear(&self, code: Code, subject: &str) {
        self.0.inbox.clear(code, subject, wall());
    }

    /// Tells the event stream what has happened. Nothing private, as above.
    pub fn event(&self, kind: Kind, subject: &str, detail: impl AsRef<str>) {
        self.0.inbox.event(kind, subject, detail.as_ref(), wall());
    }

    /// Every alarm of every node, as known here: the worst and latest first.
    pub fn list(&self) -> Result<Vec<Alarm>, StoreError> {
        let mut alarms = store::alarms(&self.0.store, None)?;
        let order =
            |alarm: &Alarm| (alarm.state(), std::cmp::Reverse((alarm.code.map(Code::severity), alarm.raised)));
        alarms.sort_by_key(order);
        Ok(alarms)
    }

    /// Says that somebody knows of these alarms: all of them or none.
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

    /// What was counted.
    pub fn counters(&self) -> Counters {
        let (dropped_alarms, dropped_events) = self.dropped();
        let outside = &self.0.outside;
        Counters {
            events: self.0.told.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            dropped_alarms,
            dropped_events,
            told: outside.told.load(Relaxed),
            failed: outside.failed.load(Relaxed),
            given_up: outside.given_up.load(Relaxed),
        }
    }

    /// How often this alarm was raised on this node in the last `within`, in this life of its process. An alarm that was
    /// raised already is not raised again.
    pub fn raised_lately(&self, code: Code, within: Duration) -> u32 {
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner).count(code, within, BootInstant::now())
    }

    pub(crate) fn dropped(&self) -> (u64, u64) {
        self.0.inbox.dropped()
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
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
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            *told.entry(event.kind.clone()).or_default() += 1;
        }
    }
}
