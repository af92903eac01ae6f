//! Members of this cluster that act in another group: a survivor went on alone, and the others are active after all.
//!
//! This cannot be prevented. Each side refuses the other group's messages, reports the conflict, and goes on; a member
//! that comes back alone is notified that it was given up, and ends.

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
    connections::dialer::{Dialer, Lane},
    group::members::Members,
};

/// Interval of probes to members that were left behind.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Time since its last contact for which a member of another group is shown.
const RECENT: Duration = Duration::from_secs(20);
/// Time without a message from its own group after which a member believes that it was given up.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(2);

/// Members that act in another group, by last contact.
#[derive(Default)]
pub(crate) struct OtherGroupMembers(Mutex<OtherGroupState>);

#[derive(Default)]
struct OtherGroupState {
    contacts: BTreeMap<NodeName, BootInstant>,
    /// Time since which another group reports that this member was given up, without any message of its own group.
    given_up: Option<BootInstant>,
    /// During this incarnation, its own group was seen active in addition to the other.
    own_group_active: bool,
}

impl OtherGroupMembers {
    /// Notes that a member of this name acts in another group.
    pub(crate) fn note(&self, name: &NodeName) {
        if self.lock().contacts.insert(name.clone(), BootInstant::now()).is_none() {
            tracing::error!(peer = %name, "member is active in another group; stop one of the groups (docs/roles.md)");
        }
    }

    /// Members of the other group with recent contact.
    pub(crate) fn recent(&self) -> BTreeSet<NodeName> {
        let mut state = self.lock();
        state.contacts.retain(|_, at| at.elapsed() <= RECENT);
        state.contacts.keys().cloned().collect()
    }

    /// This member's own group is active in addition to the other: a member of it has confirmed this store, or there is
    /// a majority. From here on people decide about the two groups, not the next restart of a member.
    pub(crate) fn note_own_group(&self) {
        self.lock().own_group_active = true;
    }

    /// Another group reports that this member was given up. Returns whether to believe that: no member of its own group
    /// has sent a message for a while.
    pub(crate) fn is_given_up(&self) -> bool {
        let mut state = self.lock();
        let since = *state.given_up.get_or_insert_with(BootInstant::now);
        !state.own_group_active && since.elapsed() >= GIVEN_UP_AFTER
    }

    fn lock(&self) -> MutexGuard<'_, OtherGroupState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prober of the members that were left behind.
pub(crate) struct OtherGroupProber {
    pub(crate) members: Arc<Members>,
    pub(crate) dialer: Arc<Dialer>,
}

impl OtherGroupProber {
    /// Runs for as long as the process does: members left behind that still run are notified of this group.
    pub(crate) async fn run(&self) {
        let applied = self.members.core.applied();
        loop {
            let state = applied.borrow().state.clone();
            let left = state.lost_members();
            join_all(left.into_iter().map(|(name, address)| self.probe(name, address))).await;
            sleep(PROBE_INTERVAL).await;
        }
    }

    async fn probe(&self, name: &NodeName, address: &str) {
        let Some(mut client) = self.dialer.client(name, Some(address), Lane::Control) else { return };
        let Some(request) = self.members.confirm_request() else { return };
        // The other member reveals by its own request whether it acts in another group.
        let _ = timeout(self.members.config.timing.order_limit(), client.confirm(Request::new(request))).await;
    }
}
