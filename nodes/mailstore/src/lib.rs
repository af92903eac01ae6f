//! The one door to mailboxes and messages: everything above reads and writes through [`Mailstore`], and every change
//! is durable here, then waited for at a peer (rules A1 to A4), before it is answered.

mod classes;
mod counts;
mod error;
mod greetings;
mod hashing;
mod imports;
#[cfg(debug_assertions)]
mod later;
mod lights;
mod mailboxes;
mod messages;
mod orphans;
mod pins;
mod prompts;
mod recordings;
mod settings;
mod unfiled;
mod users;
mod work;

use std::sync::Arc;

use twinbox_overload::Commits;
use twinbox_replication_peer::Peers;
use twinbox_replication_store::{Committed, Draft, Store};

pub use classes::ClassError;
pub use error::{CreateError, FileError, MailError, PinError};
pub use greetings::Audio;
pub use hashing::HASHING_THREADS;
pub use imports::{ImportedMessage, Outcome};
pub use lights::{LightsChange, LightsWatch};
pub use pins::PinCheck;
pub use prompts::{CustomPrompt, PromptsChange, PromptsWatch};
pub use recordings::{Filed, LiveRecording, RecordingMeta};
pub use settings::Settings;
pub use twinbox_mailbox::{
    Class, Codec, Folder, GreetingKind, Lights, Mailbox, MailboxChange, Mark, Message, NewMailbox, PromptKey,
    Quota, Rule, Rules,
};
pub use twinbox_replication_peer::Acknowledgement;
pub use unfiled::FiledAgain;
pub use users::{Imported, PlannedUser, UserImport, UserPlan, WeakPins};

/// The door to mailboxes and messages. Cheap to clone.
#[derive(Clone)]
pub struct Mailstore {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    peers: Peers,
    settings: Settings,
    checks: pins::Checks,
    counts: Arc<counts::Counts>,
    unfiled: unfiled::Unfiled,
    commits: Commits,
}

impl Mailstore {
    /// A door to this store, whose changes `peers` passes on.
    pub fn new(store: Store, peers: Peers, settings: Settings) -> Self {
        let counts = Arc::new(counts::Counts::default());
        let told = counts.clone();
        store.observe(move |change| told.changed(change));
        let (checks, unfiled, commits) = Default::default();
        Self { inner: Arc::new(Inner { store, peers, settings, checks, counts, unfiled, commits }) }
    }

    /// Whether calls may be answered now: not once a write or sync has failed, since then nothing that is said or keyed
    /// in is kept (rule A4). Ask before answering a call; those in progress end by themselves.
    pub fn accepts_calls(&self) -> bool {
        self.inner.store.health().ok()
    }

    /// Whether all records are here: until the first fill of this node has ended, what is not here may exist all the same
    /// (rule D13).
    pub fn has_all_records(&self) -> bool {
        self.inner.store.filled().has_records()
    }

    /// Whether messages may be left now: not while `require_two` is set and no peer counts (rule A3), nor when no calls
    /// may be answered at all. A peer lost later makes the message *alone*, never refused.
    pub fn accepts_messages(&self) -> bool {
        self.accepts_calls() && (!self.inner.settings.require_two || self.inner.peers.counting() > 0)
    }

    /// How long recordings take to be begun and filed here, without waiting for peers.
    pub fn commits(&self) -> Commits {
        self.inner.commits.clone()
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Whether every other node is heard: then what is known here is all there is.
    fn together(&self) -> bool {
        self.inner.peers.counting() as u64 + 1 >= self.nodes()
    }

    /// How many nodes hold data, those that joined since the start included.
    fn nodes(&self) -> u64 {
        self.inner.settings.nodes.max(self.inner.peers.known() as u64 + 1)
    }

    /// Makes a change durable here.
    async fn commit_here<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Draft<'_>) -> Result<R, MailError> + Send + 'static,
    ) -> Result<(R, Committed), MailError> {
        Ok(self.inner.store.commit(change).await?)
    }

    /// Makes a change durable here, then waits for a peer, within its time (rules A1 to A3).
    async fn commit<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Draft<'_>) -> Result<R, MailError> + Send + 'static,
    ) -> Result<(R, Acknowledgement), MailError> {
        let (result, committed) = self.commit_here(change).await?;
        Ok((result, self.inner.peers.acknowledge(&committed).await))
    }
}
