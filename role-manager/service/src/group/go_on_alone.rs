//! Going on alone without a majority that is permanently lost, by an administrator's order: the steps around the core's
//! decision, and around `ListeningStep` of `role-manager/member`.
//!
//! 1. Check that this node may leave its group.
//! 2. This member takes no more part in its group: it gives no vote, requests no lease, closes its gates, and ends its
//!    solo work.
//! 3. It listens as long as any lease may run that the lost members may have given or taken (rules R4 and R7). One
//!    message of a lost member or of its supervisor cancels everything.
//! 4. The new group is written to disk, in one transaction (`raft/new_group.rs`).
//! 5. Raft starts again in the new group, and this member takes part in it.
//!
//! A process killed before step 4 has changed nothing. After step 4 the new group exists, and every lease of the former
//! one had expired before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Mutex, watch},
    time::{sleep, timeout},
};
use twinbox_clock::wall;
use twinbox_ids::NodeName;
use twinbox_raft::{Core, Peer, StoreIdentity};
use twinbox_roles_core::{Duty, GoOnAloneFacts, MemberKind, NewGroup, Refusal, RolesView, SoloRecord};
use twinbox_roles_member::{ListeningStep, ListeningVerdict, in_contact};

use crate::{
    CommandError, Gate, RolesConfig,
    boot_clock::now,
    failures::{exits::SupervisorProber, failure_detector::FailureDetector},
};

/// Interval at which it checks for messages of the others.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// Time for the new group to get a leader before an error is returned; the start goes on even so.
const LEADER_WITHIN: Duration = Duration::from_secs(10);

/// Parameters of going on alone.
pub(crate) struct GoOnAloneSteps {
    pub(crate) config: Arc<RolesConfig>,
    pub(crate) identity: Arc<StoreIdentity>,
    pub(crate) core: Arc<Core>,
    pub(crate) detector: Arc<FailureDetector>,
    pub(crate) supervisors: Arc<SupervisorProber>,
    pub(crate) gates: BTreeMap<Duty, Gate>,
    pub(crate) view: watch::Receiver<Arc<RolesView>>,
    pub(crate) running: Mutex<()>,
}

/// As long as this exists, the member takes part in nothing.
struct ParticipationHold<'a>(&'a StoreIdentity);

impl<'a> ParticipationHold<'a> {
    fn new(identity: &'a StoreIdentity) -> Self {
        identity.hold(true);
        Self(identity)
    }
}

impl Drop for ParticipationHold<'_> {
    fn drop(&mut self) {
        self.0.hold(false);
    }
}

impl GoOnAloneSteps {
    /// Checks whether this node may go on without these members now.
    pub(crate) fn check(&self, lost: &BTreeSet<NodeName>) -> Result<GoOnAloneFacts, CommandError> {
        if let Some(reason) = self.identity.unfit() {
            return Err(CommandError::Rejected { reason });
        }
        let state = self.core.applied().borrow().state.clone();
        let since_contact = |name: &NodeName| self.detector.since_contact(name);
        let in_contact = in_contact(lost, &self.config.timing, &state, since_contact);
        let peers = self.core.status().borrow().peers.clone();
        if peers.is_empty() {
            // The other voters are not known at this moment.
            return Err(CommandError::Rejected {
                reason: "Raft is being started; try again in a moment".to_owned(),
            });
        }
        let survivor = GoOnAloneFacts {
            node: self.config.node.clone(),
            kind: self.config.kind,
            lost: lost.clone(),
            peers: peers.into_iter().map(|(id, Peer { name, kind, address })| (id, name, kind, address)).collect(),
            quorum: self.view.borrow().quorum,
            in_contact,
        };
        state.may_go_on_alone(&survivor)?;
        Ok(survivor)
    }

    /// Goes on without these members. Returns when the new group has a leader.
    pub(crate) async fn run(&self, lost: &BTreeSet<NodeName>) -> Result<(), CommandError> {
        let Ok(_running) = self.running.try_lock() else {
            return Err(CommandError::Rejected {
                reason: "another request to go on alone is under way".to_owned(),
            });
        };
        let survivor = self.check(lost)?;
        let left = self.identity.group().and_then(|group| <[u8; 16]>::try_from(&group[..]).ok());
        let group = left.map(u128::from_be_bytes).unwrap_or_default();
        let hold = ParticipationHold::new(&self.identity);
        tracing::warn!(
            ?lost,
            "about to go on alone by an administrator's order; listening for the lost members first"
        );
        let record = self.listen(lost).await?;
        let own = Peer {
            name: self.config.node.clone(),
            kind: MemberKind::Node,
            address: self.config.own_address().to_owned(),
        };
        let beginning = NewGroup {
            group,
            // Chosen later, by the core.
            raft_id: 0,
            persisted_generation: record.persisted.generation,
            solo: record.report,
            at_ms: wall().0,
        };
        let done = self.core.go_on_alone(survivor, own, beginning).await;
        drop(hold);
        done.map_err(|error| CommandError::Rejected { reason: error.to_string() })?;
        let mut view = self.view.clone();
        if !matches!(timeout(LEADER_WITHIN, view.wait_for(|view| view.quorum)).await, Ok(Ok(_))) {
            tracing::warn!("the new group exists, but has no leader yet");
        }
        Ok(())
    }

    /// Waits as long as a lease of the others may run. Fails on a message of one of them or of a supervisor. Returns
    /// this node's solo record after its solo work has ended.
    async fn listen(&self, lost: &BTreeSet<NodeName>) -> Result<SoloRecord, CommandError> {
        let state = self.core.applied().borrow().state.clone();
        let listening = ListeningStep::new(lost.clone(), &self.config.timing, &state, &self.record()?, now());
        let answering = async {
            // As often as possible, to find a supervisor that is started again.
            loop {
                if let Some(name) = self.supervisors.answering(lost).await {
                    return name;
                }
                sleep(self.config.timing.keep_alive).await;
            }
        };
        tokio::pin!(answering);
        let mut answered = None;
        let last_contact = |name: &NodeName| self.detector.last_contact(name);
        loop {
            match listening.check(now(), answered.as_ref(), last_contact) {
                ListeningVerdict::Heard(name) => return Err(Refusal::Heard { name }.into()),
                ListeningVerdict::Silent => break,
                ListeningVerdict::Listen => {}
            }
            tokio::select! {
                name = &mut answering => answered = Some(name),
                () = sleep(CHECK_INTERVAL) => {}
            }
        }
        let record = self.record()?;
        let in_flight = self.gates.values().any(|gate| gate.is_open() || gate.is_busy());
        match ListeningStep::may_write(&record, in_flight) {
            true => Ok(record),
            false => {
                let reason = "a write of a duty is still in flight; try again".to_owned();
                Err(CommandError::Rejected { reason })
            }
        }
    }

    fn record(&self) -> Result<SoloRecord, CommandError> {
        let record = self.identity.solo().map_err(|error| CommandError::Rejected { reason: error.to_string() })?;
        Ok(record.unwrap_or_default())
    }
}
