//! openraft, and everything that names it: Raft of one member, its store, and the identity of that store.
//!
//! The rest of the role manager sees a [`Core`]: commands go in, applied state and a [`RaftStatus`] come out. A core
//! that ends for any reason is started again in this process (rule R8); calls go on meanwhile. Connections to the other
//! members are the caller's ([`Dial`]), as is the task that keeps Raft running ([`RaftTask`]).

mod codec;
mod error;
mod heartbeat_pacer;
mod machine;
mod network;
mod new_group;
mod runtime;
mod serve;
#[cfg(feature = "simulation")]
pub mod simulation;
mod starts;
mod status;
mod store;
mod store_identity;
#[cfg(test)]
mod tests;
mod types;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::future::BoxFuture;
use openraft::{
    ChangeMembers, Config, EntryPayload, LogIdOptionExt, ServerState, SnapshotPolicy,
    async_runtime::watch::WatchReceiver, errors::RaftError,
};
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::{sleep, timeout},
};
use twinbox_clock::BootInstant;
use twinbox_disk::Disk;
use twinbox_ids::{Backoff, ClusterId, Incarnation, NodeName};
use twinbox_roles_core::{Command, CommandOutcome, FeatureLevels, Timing, Voters};

pub use codec::{Malformed, kind, read_kind, read_name};
pub use error::{ProposeError, StoreError};
pub use machine::{Applied, Apply, panic_text};
pub use network::{Client, Dial, RaftLane};
pub use new_group::LeaveError;
pub use starts::Start;
pub use status::RaftStatus;
pub use store_identity::{Remembered, StoreIdentity};
pub use types::Peer;
pub(crate) use types::Types;

use error::write_error;
use heartbeat_pacer::HeartbeatPacer;
use machine::Machine;
use network::Network;
use new_group::LeaveRequest;
use store::RaftStore;
use types::{Raft, SetAside};

/// Number of commands between two snapshots.
const SNAPSHOT_AFTER: u64 = 500;
/// Number of commands that stay in the log for members slightly behind.
const KEEP_IN_LOG: u64 = 100;
/// Pauses before a core that ended is started again.
const RESTART: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// Configuration of this member's Raft.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// Name of the member.
    pub node: NodeName,
    /// The cluster.
    pub cluster: ClusterId,
    /// The incarnation of this process.
    pub incarnation: Incarnation,
    /// Timing; the same on all members.
    pub timing: Timing,
    /// The feature levels that this program knows.
    pub speaks: FeatureLevels,
}

/// Raft in this process.
pub struct Core {
    identity: Arc<StoreIdentity>,
    /// The feature levels that this program knows.
    speaks: FeatureLevels,
    store: RaftStore,
    network: Network,
    config: Arc<Config>,
    raft: watch::Sender<Option<Raft>>,
    applied: watch::Sender<Applied>,
    status: watch::Sender<RaftStatus>,
    /// Last valid contact with a leader.
    leader_contact: watch::Sender<Option<BootInstant>>,
    /// Sender of orders to leave this store's group: the core ends, and starts again as another store.
    leave_requests: OnceLock<mpsc::Sender<LeaveRequest>>,
    apply: Apply,
}

/// Task that keeps Raft running.
pub struct RaftTask {
    core: Arc<Core>,
    leave_requests: Mutex<mpsc::Receiver<LeaveRequest>>,
}

impl RaftTask {
    /// Publishes the status and restarts a core that ended, until this member stops. After a panic it can run again.
    pub fn run(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.core.keep_running(&mut *self.leave_requests.lock().await).await })
    }
}

impl Core {
    /// Reads the store. `apply` is the function by which a command changes the state.
    pub fn open(
        config: &RaftConfig,
        disk: Disk,
        identity: Arc<StoreIdentity>,
        dial: Arc<dyn Dial>,
        apply: Apply,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            leave_requests: OnceLock::new(),
            apply,
            store: RaftStore::open(disk)?,
            network: Network { dial, identity: identity.clone() },
            config: Arc::new(raft_config(config)?),
            identity,
            speaks: config.speaks,
            raft: watch::Sender::new(None),
            applied: watch::Sender::new(Applied::default()),
            status: watch::Sender::new(RaftStatus::default()),
            leader_contact: watch::Sender::new(None),
        })
    }

    /// Starts Raft. The caller runs the task that keeps it running.
    pub async fn start(self: &Arc<Self>) -> Result<RaftTask, StoreError> {
        self.start_core().await?;
        let (sender, leave_requests) = mpsc::channel(1);
        // Started once per process.
        let _ = self.leave_requests.set(sender);
        Ok(RaftTask { core: self.clone(), leave_requests: Mutex::new(leave_requests) })
    }

    /// Raft's status; changes with each of its fields but `quorum_heard`.
    pub fn status(&self) -> watch::Receiver<RaftStatus> {
        self.status.subscribe()
    }

    /// The applied state; changes with each applied entry.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// The voters by the present log, relative to this applied state.
    pub fn voters(&self, applied: &Applied) -> Voters {
        let status = self.status.borrow();
        let upto = applied.last.as_ref().map(|last| last.index);
        Voters { raft_ids: status.voters.clone(), applied: upto >= status.members_index }
    }

    /// The Raft id of this store.
    pub fn raft_id(&self) -> u64 {
        self.identity.raft_id()
    }

    /// Whether this store has agreed on nothing and promised nothing.
    pub fn is_empty(&self) -> bool {
        self.store.is_empty()
    }

    /// Whether this store is that of the member of this name: it votes, or the cluster has admitted it and does not
    /// need its vote.
    pub fn has_joined(&self, name: &NodeName) -> bool {
        let (id, status) = (self.identity.raft_id(), self.status.borrow());
        let admitted = || self.applied.borrow().state.members.get(name).is_some_and(|m| m.raft_id == id);
        status.voters.contains(&id) || (status.learners.contains(&id) && admitted())
    }

    /// Founds a group with this member as its only voter.
    pub async fn found(&self, own: Peer) -> Result<(), ProposeError> {
        let members = BTreeMap::from([(self.identity.raft_id(), own)]);
        match self.raft()?.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(_)) => Ok(()),
            Err(error) => Err(ProposeError::Stopped(error.to_string())),
        }
    }

    /// Proposes a command and waits until it has been applied here.
    pub async fn propose(&self, command: Command) -> Result<CommandOutcome, ProposeError> {
        let written = self.raft()?.client_write(command).await;
        written.map_err(write_error)?.data.map_err(|SetAside| ProposeError::SetAside)
    }

    /// Adds a follower that does not vote yet; other non-voting followers of its name are removed.
    pub async fn add_learner(&self, id: u64, peer: Peer) -> Result<(), ProposeError> {
        let status = self.status.borrow().clone();
        let stale = status.learners.iter().filter(|other| **other != id);
        let stale = stale.filter(|other| status.peer(**other).is_some_and(|p| p.name == peer.name)).copied();
        let stale: BTreeSet<u64> = stale.collect();
        let mut changes = Vec::new();
        if !stale.is_empty() {
            changes.push(ChangeMembers::RemoveNodes(stale));
        }
        changes.push(ChangeMembers::AddNodes(BTreeMap::from([(id, peer)])));
        self.change(ChangeMembers::Batch(changes)).await
    }

    /// Makes a follower a voter, in place of older stores of the same name, by joint consensus.
    pub async fn promote(&self, id: u64, instead_of: BTreeSet<u64>) -> Result<(), ProposeError> {
        let mut changes = vec![ChangeMembers::AddVoterIds(BTreeSet::from([id]))];
        if !instead_of.is_empty() {
            changes.push(ChangeMembers::RemoveVoters(instead_of));
        }
        self.change(ChangeMembers::Batch(changes)).await
    }

    /// Voters become followers; another may vote instead.
    pub async fn demote(&self, ids: BTreeSet<u64>, instead: Option<u64>) -> Result<(), ProposeError> {
        let mut changes = vec![ChangeMembers::RemoveVoters(ids)];
        changes.extend(instead.map(|id| ChangeMembers::AddVoterIds(BTreeSet::from([id]))));
        self.change_and(ChangeMembers::Batch(changes), true).await
    }

    /// Removes followers that do not vote.
    pub async fn forget(&self, ids: BTreeSet<u64>) -> Result<(), ProposeError> {
        self.change(ChangeMembers::RemoveNodes(ids)).await
    }

    /// Ends a change of voters that an earlier leader left unfinished. A voter removed by it stays as a follower if
    /// `keep`.
    pub async fn finish_joint(&self, keep: bool) -> Result<(), ProposeError> {
        self.change_and(ChangeMembers::AddVoterIds(BTreeSet::new()), keep).await
    }

    /// Asks another voter to lead.
    pub async fn transfer_to(&self, id: u64) -> Result<(), ProposeError> {
        let raft = self.raft()?;
        raft.trigger().transfer_leader(id).await.map_err(|e| ProposeError::Stopped(e.to_string()))
    }

    async fn change(&self, change: ChangeMembers<u64, Peer>) -> Result<(), ProposeError> {
        self.change_and(change, false).await
    }

    /// Changes Raft's members; a voter removed stays as a follower if `keep`. The status shows the change when this
    /// returns: a leader that has just ended its own vote must not be given a further change, which its core would not
    /// survive.
    async fn change_and(&self, change: ChangeMembers<u64, Peer>, keep: bool) -> Result<(), ProposeError> {
        let raft = self.raft()?;
        let leads = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let votes = metrics.membership_config.membership().voter_ids().any(|id| id == metrics.id);
            votes && metrics.state == ServerState::Leader
        };
        if !leads {
            return Err(ProposeError::NotLeader);
        }
        let index = raft.change_membership(change, keep).await.map_err(write_error)?.log_id.index;
        let knows = |status: &RaftStatus| status.members_index >= Some(index) || !status.leading;
        // The sender of the status lives as long as `self`.
        let _ = self.status().wait_for(knows).await;
        Ok(())
    }

    fn raft(&self) -> Result<Raft, ProposeError> {
        let raft = self.raft.borrow().clone();
        raft.ok_or_else(|| ProposeError::Stopped("Raft is being restarted".to_owned()))
    }

    /// As a trait object, as that of [`RaftTask::run`]: so the core of openraft is compiled in this crate, and not again in each one
    /// that waits for these futures.
    fn start_core(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async {
            self.identity.core_started();
            let store = self.store.next().await?;
            let machine = Machine::new(store.clone(), self.applied.clone(), self.apply);
            let id = self.identity.raft_id();
            let raft = Raft::new(id, self.config.clone(), self.network.clone(), store, machine)
                .await
                .map_err(|e| StoreError::Raft(e.to_string()))?;
            self.publish_status(&raft);
            self.raft.send_replace(Some(raft));
            Ok(())
        })
    }

    /// Publishes the status; restarts a core that ended.
    async fn keep_running(&self, leave_requests: &mut mpsc::Receiver<LeaveRequest>) {
        let mut restart = RESTART;
        loop {
            let started = BootInstant::now();
            let mut request = None;
            let running = self.raft.borrow().clone();
            if let Some(raft) = running {
                tokio::select! {
                    () = self.follow(&raft) => {}
                    Some(received) = leave_requests.recv() => request = Some(received),
                }
                self.raft.send_replace(None);
                self.status.send_replace(RaftStatus::default());
                if raft.shutdown().await.is_err() {
                    tracing::warn!("the Raft core did not shut down cleanly");
                }
            }
            let mut immediately = request.is_some();
            if let Some(request) = request {
                self.leave(request).await;
            }
            loop {
                if self.identity.stopped() {
                    return;
                }
                if started.elapsed() > RESTART.longest() {
                    restart.reset();
                }
                if !std::mem::take(&mut immediately) {
                    sleep(restart.failed()).await;
                }
                match self.start_core().await {
                    Ok(()) => break,
                    Err(error) => tracing::error!(%error, "cannot restart the Raft core; it is retried"),
                }
            }
        }
    }

    /// Follows this core until it ends or must end.
    async fn follow(&self, raft: &Raft) {
        let mut metrics = raft.metrics();
        let mut identity = self.identity.changes();
        let mut may_elect = false;
        let mut pacer = HeartbeatPacer::new(self.identity.timing(), BootInstant::now());
        // Initial settings of a core.
        let mut ticks = true;
        self.leader_contact.send_replace(None);
        loop {
            if self.identity.stopped() {
                return;
            }
            if let Err(error) = &metrics.borrow_watched().running_state {
                tracing::error!(%error, "the Raft core has ended; it is restarted");
                return;
            }
            // Only a member that knows the cluster's feature level may lead (rule R10).
            let knows = self.speaks.supports(self.applied.borrow().state.feature_level);
            if may_elect != (self.identity.may_vote() && knows) {
                may_elect = !may_elect;
                raft.runtime_config().elect(may_elect);
            }
            let leads = self.publish_status(raft);
            let step = pacer.step(leads, *self.leader_contact.borrow(), BootInstant::now());
            if ticks != step.ticks {
                ticks = step.ticks;
                raft.runtime_config().tick(ticks);
            }
            if step.heartbeat {
                // A hanging core must not block the other work of this task.
                let _ = timeout(step.again, raft.trigger().heartbeat()).await;
            }
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return },
                _ = identity.changed() => {}
                // End of the silence after a start.
                () = sleep(self.identity.timing().heartbeat / 4), if !may_elect => {}
                () = sleep(step.again), if step.ticks || leads => {}
                () = self.wait_silent(&pacer), if !(step.ticks || leads) => {}
            }
        }
    }

    /// Waits until the leader has been silent for so long that Raft's clock must tick. Each message of the leader
    /// restarts the wait: nothing else wakes a follower of a healthy leader.
    async fn wait_silent(&self, pacer: &HeartbeatPacer) {
        let mut contact = self.leader_contact.subscribe();
        loop {
            let left = pacer.rest_left(*contact.borrow_and_update(), BootInstant::now());
            let Some(left) = left else { return };
            tokio::select! {
                () = wait(&mut contact) => {}
                () = sleep(left) => {}
            }
        }
    }

    /// Publishes the status; returns whether this member leads.
    fn publish_status(&self, raft: &Raft) -> bool {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let sole_voter = membership.voter_ids().eq([metrics.id]);
        let leading = metrics.state == ServerState::Leader;
        #[cfg(feature = "simulation")]
        let sole_voter = sole_voter || crate::simulation::breaks(crate::simulation::Broken::Quorum);
        let quorum_heard = match sole_voter {
            true => Some(BootInstant::now()),
            false => metrics.last_quorum_acked.map(|acked| acked.into_inner().0),
        };
        let matched = metrics.replication.iter().flatten();
        let status = RaftStatus {
            term: metrics.current_term,
            leading,
            leader: metrics.current_leader,
            quorum_heard: quorum_heard.filter(|_| leading),
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            joint: membership.get_joint_config().len() > 1,
            quorums: membership.get_joint_config().clone(),
            members_index: metrics.membership_config.log_id().as_ref().map(|id| id.index),
            peers: membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
            matched: matched.map(|(id, log_id)| (*id, log_id.next_index())).collect(),
            last_index: metrics.last_log_index.map_or(0, |index| index + 1),
        };
        self.status.send_if_modified(|known| {
            // A new time alone, which changes constantly, notifies no watcher.
            let first = known.quorum_heard.is_none() && status.quorum_heard.is_some();
            known.quorum_heard = status.quorum_heard;
            let changed = first || *known != status;
            *known = status;
            changed
        });
        leading
    }

    /// The commands in the log of this member, in order, each with the term of the leader that proposed it.
    pub fn commands_in_log(&self) -> Vec<(u64, Command)> {
        let (entries, ..) = self.store.beyond(None);
        let command = |entry: types::Entry| match entry.payload {
            EntryPayload::Normal(command) => Some((entry.log_id.leader_id.term, command)),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        };
        entries.into_iter().filter_map(command).collect()
    }

    /// Reason for which this store accepts no more entries, if any.
    pub fn broken(&self) -> Option<String> {
        self.store.broken()
    }

    /// Last time at which a majority followed this member as leader: read now, not from the status.
    pub fn quorum_heard(&self, term: u64) -> Option<BootInstant> {
        let raft = self.raft.borrow().clone()?;
        self.publish_status(&raft);
        let status = self.status.borrow();
        status.quorum_heard.filter(|_| status.leading && status.term == term)
    }
}

/// Waits until the value changes; forever once no sender is left.
pub async fn wait<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn raft_config(config: &RaftConfig) -> Result<Config, StoreError> {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let Timing { heartbeat, election_min, election_max, .. } = config.timing;
    let raft = Config {
        cluster_name: config.cluster.to_string(),
        heartbeat_interval: millis(heartbeat),
        election_timeout_min: millis(election_min),
        election_timeout_max: millis(election_max),
        install_snapshot_timeout: millis(election_max),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_AFTER),
        max_in_snapshot_log_to_keep: KEEP_IN_LOG,
        // A leader that is killed and back within 100 ms knows of no lease (rule R4).
        enable_leader_restore: Some(false),
        enable_pre_vote: Some(true),
        // Enabled when this member may vote.
        enable_elect: false,
        // A leader cut off in one direction must let the others elect.
        quorum_loss_probe_interval: Some(2 * millis(election_max)),
        ..Config::default()
    };
    raft.validate().map_err(|e| StoreError::Raft(e.to_string()))
}
