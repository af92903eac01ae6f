//! The only interface to mailboxes and messages: all higher layers read and write through [`Mailstore`]. Every change
//! is durable here, and a peer's acknowledgement is awaited (rules A1 to A4), before it is answered.

mod addresses;
mod attempts;
mod by_number;
mod by_target;
mod call_records;
mod classes;
mod devices;
mod error;
mod greetings;
mod holds;
mod imports;
#[cfg(debug_assertions)]
mod later;
mod locations;
mod mailboxes;
mod message_counts;
mod messages;
mod orphans;
mod outbox;
mod passwords;
mod pins;
mod prompts;
mod purged;
mod recordings;
mod reports;
mod restored;
mod returns;
mod sending;
mod settings;
mod synced;
mod table_devices;
mod turns;
mod unfiled;
mod users;
mod work;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use twinbox_handle::Handle;
use twinbox_mailbox::counts::Counts;
use twinbox_overload::Commits;
use twinbox_replication_peer::Peers;
use twinbox_replication_store::{Committed, Draft, Store, Urgency};

pub use call_records::CallNote;
pub use classes::ClassError;
pub use devices::{DeviceStoreError, NOTIFICATION_LIFE_MS, channel_of, facts_of, time, zone_of};
pub use error::{CreateError, FileError, MailError, PinError};
pub use greetings::Audio;
pub use holds::{Flushed, HoldError};
pub use imports::{ImportOutcome, ImportedMessage, MailedMessage};
pub use locations::LocationStoreError;
pub use message_counts::{CountsChange, CountsWatch};
pub use outbox::{DoneEffects, OutboxChange, OutboxError, OutboxWatch};
pub use passwords::{PasswordTry, RememberedPassword};
pub use pins::PinCheck;
pub use prompts::{CustomPrompt, PromptsChange, PromptsWatch};
pub use recordings::{Filed, LiveRecording, RecordingMeta};
pub use restored::RestoredMessage;
pub use returns::{ReturnedMessage, Returns};
pub use sending::{OutgoingRecord, SendOrder, SendTo, SentMessage};
pub use settings::{LiveSettings, MailstoreSettings};
pub use twinbox_mailbox::{
    Class, Codec, Folder, GreetingKind, MailOrigin, Mailbox, MailboxChange, Mark, Message, MessageCounts,
    NewMailbox, NewMessage, PromptKey, Quota, Rule, Rules, UserAddress, UserAddresses,
};
pub use twinbox_outbox::{EffectOutcome, Report, SystemContent, SystemMail};
pub use twinbox_pin_hashing::HASHING_THREADS;
pub use twinbox_replication_peer::{Acknowledgement, StabilityMark};
pub use unfiled::FiledAgain;
pub use users::{Imported, PlannedUser, UserImport, UserPlan, WeakPins};
pub use work::blocking;

/// Rows as the committer sees them, for stores of single subjects, which are crates of their own.
pub mod rows {
    pub use crate::{
        addresses::{TakenAddress, set_addresses, taken_in},
        mailboxes::mailbox_in,
        messages::{mark_in, message_in},
        purged::{forget_recording, forget_try, is_forgettable, note_purged},
        reports::system_mail_in,
        synced::{directory_in, name_in, supplied_in},
    };
}

/// The interface to mailboxes and messages. Cheap to clone.
#[derive(Clone)]
pub struct Mailstore {
    inner: Handle<Inner>,
}

struct Inner {
    store: Store,
    peers: Peers,
    settings: MailstoreSettings,
    live: RwLock<Arc<LiveSettings>>,
    checks: pins::Checks,
    counts: Arc<Counts>,
    holds: Arc<holds::HoldsCache>,
    by_number: Arc<by_number::ByNumber>,
    by_target: Arc<by_target::ByTarget>,
    unfiled: unfiled::Unfiled,
    commits: Commits,
    /// Calls in progress, and records of ended ones on their way to the store.
    calls: call_records::CallRecords,
    /// Imports of messages under way.
    imports: Arc<turns::Turns>,
}

impl Mailstore {
    /// An interface to this store, whose changes `peers` replicates.
    pub fn new(store: Store, peers: Peers, settings: MailstoreSettings) -> Self {
        let counts = Arc::new(Counts::default());
        let cached = counts.clone();
        store.observe(move |change| cached.changed(change));
        let holds = Arc::new(holds::HoldsCache::default());
        let cached = holds.clone();
        store.observe(move |change| cached.changed(change));
        let by_number = Arc::new(by_number::ByNumber::default());
        let noted = by_number.clone();
        store.observe(move |change| noted.changed(change));
        let by_target = Arc::new(by_target::ByTarget::default());
        let noted = by_target.clone();
        store.observe(move |change| noted.changed(change));
        let (checks, unfiled, commits, imports, calls) = Default::default();
        let live = RwLock::new(Arc::new(LiveSettings::of(&settings)));
        let inner = Inner {
            store,
            peers,
            settings,
            live,
            checks,
            counts,
            holds,
            by_number,
            by_target,
            unfiled,
            commits,
            calls,
            imports,
        };
        Self { inner: Handle::new(inner) }
    }

    /// Whether calls may be answered now. Not after a failed write or sync, since then no speech or key press is stored
    /// (rule A4). Check before answering a call; calls in progress end on their own.
    pub fn accepts_calls(&self) -> bool {
        self.inner.store.health().ok()
    }

    /// Whether all records are here: until the first fill of this node has ended, a record that is not here may exist
    /// (rule D13).
    pub fn has_all_records(&self) -> bool {
        self.inner.store.filled().has_records()
    }

    /// Whether messages may be left now: not while `require_two` is set and no peer counts (rule A3), nor when calls
    /// may not be answered. A peer lost later makes the message *alone*, never refused.
    pub fn accepts_messages(&self) -> bool {
        self.accepts_calls() && (!self.live().require_two || self.inner.peers.counting() > 0)
    }

    /// Durations of beginning and filing recordings here, without the wait for peers.
    pub fn commits(&self) -> Commits {
        self.inner.commits.clone()
    }

    /// The settings of the start.
    pub fn settings(&self) -> &MailstoreSettings {
        &self.inner.settings
    }

    /// The settings that may change, as they are now.
    pub fn live(&self) -> Arc<LiveSettings> {
        self.inner.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes those settings.
    pub fn set_live(&self, settings: LiveSettings) {
        *self.inner.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// The store below, for stores of single subjects, which are crates of their own.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Whether every other node is reachable: then the data here is complete.
    pub fn together(&self) -> bool {
        self.inner.peers.status().iter().all(|peer| peer.counts)
    }

    /// Number of nodes that hold data, reachable or not. Only an agreed removal makes it smaller: a split does not raise
    /// this node's share of attempts (rule S1).
    fn nodes(&self) -> u64 {
        self.inner.peers.known() as u64 + 1
    }

    /// Makes a change durable here.
    async fn commit_here<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Draft<'_>) -> Result<R, MailError> + Send + 'static,
    ) -> Result<(R, Committed), MailError> {
        Ok(self.inner.store.commit(change).await?)
    }

    /// Makes a change durable here, then waits for a peer, within the timeout (rules A1 to A3).
    pub async fn commit<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Draft<'_>) -> Result<R, MailError> + Send + 'static,
    ) -> Result<(R, Acknowledgement), MailError> {
        let (result, committed) = self.commit_here(change).await?;
        Ok((result, self.inner.peers.acknowledge(&committed).await))
    }

    /// Makes a change durable here that no caller waits for: behind the changes that callers wait for.
    pub async fn commit_in_background<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Draft<'_>) -> Result<R, MailError> + Send + 'static,
    ) -> Result<R, MailError> {
        Ok(self.inner.store.commit_with(Urgency::Background, change).await?.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
