//! Members of this cluster that act in another group: a survivor went on alone, and the others live after all.
//!
//! Nobody can prevent that. Each side takes no word of the other's group, says so, and goes on; whoever comes back alone is
//! told that it was given up, and ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use tokio::time::{sleep, timeout};
use tonic::Request;
use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;

use crate::{
    dialer::{Dialer, Lane},
    members::Members,
};

/// How often those who were left behind are spoken to.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// A rival that was heard no longer ago than this is one still.
const LATELY: Duration = Duration::from_secs(20);
/// For as long as this nobody of its own group must have spoken to a member before it believes that it was given up.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(2);

/// Who acts in another group, as far as it was heard.
#[derive(Default)]
pub(crate) struct Rivals(Mutex<Known>);

#[derive(Default)]
struct Known {
    heard: BTreeMap<NodeName, BootInstant>,
    /// Since when another group says that this member was given up, and nobody of its own group says anything.
    given_up: Option<BootInstant>,
    /// In this life of the process its own group has been seen to live beside the other.
    group_lives: bool,
}

impl Rivals {
    /// A member of this name has spoken for another group.
    pub(crate) fn note(&self, name: &NodeName) {
        if self.lock().heard.insert(name.clone(), BootInstant::now()).is_none() {
            tracing::error!(peer = %name, "it acts in another group of this cluster, which was left by a survivor");
        }
    }

    /// Those who were heard lately.
    pub(crate) fn heard(&self) -> BTreeSet<NodeName> {
        let mut known = self.lock();
        known.heard.retain(|_, at| at.elapsed() <= LATELY);
        known.heard.keys().cloned().collect()
    }

    /// This member's own group lives beside the other: somebody of it has confirmed this store, or there is a majority. What
    /// becomes of the two groups is for people to decide from here on, not for the next restart of one of its members.
    pub(crate) fn not_given_up(&self) {
        self.lock().group_lives = true;
    }

    /// Another group says that this member was given up. Whether that is to be believed: nobody of its own group has said
    /// anything for a while.
    pub(crate) fn is_given_up(&self) -> bool {
        let mut known = self.lock();
        let since = *known.given_up.get_or_insert_with(BootInstant::now);
        !known.group_lives && since.elapsed() >= GIVEN_UP_AFTER
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What speaks to those who were left behind.
pub(crate) struct LookingBack {
    pub(crate) members: Arc<Members>,
    pub(crate) dialer: Arc<Dialer>,
}

impl LookingBack {
    /// For as long as the process runs: who lives after all hears of this group.
    pub(crate) async fn run(&self) {
        let applied = self.members.core.applied();
        loop {
            let state = applied.borrow().state.clone();
            let left = state.left_behind();
            join_all(left.into_iter().map(|(name, address)| self.ask(name, address))).await;
            sleep(ASK_EVERY).await;
        }
    }

    async fn ask(&self, name: &NodeName, address: &str) {
        let Some(mut client) = self.dialer.client(name, Some(address), Lane::Control) else { return };
        let Some(request) = self.members.age() else { return };
        // Whether it acts in another group it says by asking in its turn.
        let _ = timeout(self.members.config.timing.order_limit(), client.confirm(Request::new(request))).await;
    }
}
