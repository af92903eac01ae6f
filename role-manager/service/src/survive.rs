//! Going on alone without a majority that is permanently lost, by an administrator's order: the steps around the core's
//! decision.
//!
//! 1. Check that this node may leave its group.
//! 2. This member takes no more part in its group: it gives no vote, requests no lease, closes its gates, and ends its
//!    solo work.
//! 3. It listens as long as any lease may run that the lost members may have given or taken (rules R4 and R7). One
//!    message of a lost member or of its supervisor cancels everything.
//! 4. The new group is written to disk, in one transaction (`raft/anew.rs`).
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
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::NodeName;
use twinbox_roles_core::{Beginning, Duty, MemberKind, Refusal, RolesView, SoloRecord, State, Survivor};

use crate::{
    CommandError, Gate, RolesConfig,
    exits::Inquiry,
    raft::{Core, Peer},
    reach::Reach,
    standing::Standing,
};

/// Interval at which it checks for messages of the others.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Time for the new group to get a leader before an error is returned; the start goes on even so.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);

/// Parameters of going on alone.
pub(crate) struct Surviving {
    pub(crate) config: Arc<RolesConfig>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) core: Arc<Core>,
    pub(crate) reach: Arc<Reach>,
    pub(crate) inquiry: Arc<Inquiry>,
    pub(crate) gates: BTreeMap<Duty, Gate>,
    pub(crate) view: watch::Receiver<Arc<RolesView>>,
    pub(crate) one_at_a_time: Mutex<()>,
}

/// As long as this exists, the member takes part in nothing.
struct Held<'a>(&'a Standing);

impl<'a> Held<'a> {
    fn new(standing: &'a Standing) -> Self {
        standing.hold(true);
        Self(standing)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.hold(false);
    }
}

impl Surviving {
    /// Checks whether this node may go on without these members now.
    pub(crate) fn may(&self, lost: &BTreeSet<NodeName>) -> Result<Survivor, CommandError> {
        if let Some(reason) = self.standing.unfit() {
            return Err(CommandError::Rejected { reason });
        }
        let state = self.core.applied().borrow().state.clone();
        let limit = self.silence(&state, &SoloRecord::default());
        let heard = lost.iter().filter(|name| self.reach.since(name).is_some_and(|ago| ago < limit)).cloned();
        let peers = self.core.pulse().borrow().peers.clone();
        if peers.is_empty() {
            // The other voters are not known at this moment.
            return Err(CommandError::Rejected {
                reason: "Raft is being started; try again in a moment".to_owned(),
            });
        }
        let survivor = Survivor {
            node: self.config.node.clone(),
            kind: self.config.kind,
            lost: lost.clone(),
            peers: peers.into_iter().map(|(id, Peer { name, kind, address })| (id, name, kind, address)).collect(),
            quorum: self.view.borrow().quorum,
            heard: heard.collect(),
        };
        state.may_go_on_alone(&survivor)?;
        Ok(survivor)
    }

    /// Goes on without these members. Returns when the new group has a leader.
    pub(crate) async fn go_on(&self, lost: &BTreeSet<NodeName>) -> Result<(), CommandError> {
        let Ok(_one) = self.one_at_a_time.try_lock() else {
            return Err(CommandError::Rejected { reason: "it is under way already".to_owned() });
        };
        let survivor = self.may(lost)?;
        let left = self.standing.group().and_then(|group| <[u8; 16]>::try_from(&group[..]).ok());
        let group = left.map(u128::from_be_bytes).unwrap_or_default();
        let held = Held::new(&self.standing);
        tracing::warn!(?lost, "about to go on alone, as an administrator has ordered; listening whether they live");
        let record = self.listen(lost).await?;
        let own = Peer {
            name: self.config.node.clone(),
            kind: MemberKind::Node,
            address: self.config.own_address().to_owned(),
        };
        let beginning = Beginning {
            group,
            // Chosen later, by the core.
            raft_id: 0,
            learned_generation: record.learned.generation,
            solo: record.report,
            at_ms: wall().0,
        };
        let done = self.core.go_on_alone(survivor, own, beginning).await;
        drop(held);
        done.map_err(|error| CommandError::Rejected { reason: error.to_string() })?;
        let mut view = self.view.clone();
        if !matches!(timeout(BEGINS_WITHIN, view.wait_for(|view| view.quorum)).await, Ok(Ok(_))) {
            tracing::warn!("the new group is there, and is not led yet");
        }
        Ok(())
    }

    /// Waits as long as a lease of the others may run. Fails on a message of one of them or of a supervisor. Returns
    /// this node's solo record after its solo work has ended.
    async fn listen(&self, lost: &BTreeSet<NodeName>) -> Result<SoloRecord, CommandError> {
        let began = BootInstant::now();
        let state = self.core.applied().borrow().state.clone();
        let silence = self.silence(&state, &self.record()?);
        let supervisors = async {
            // As often as possible, to find a supervisor that is started again.
            loop {
                if let Some(name) = self.inquiry.answering(lost).await {
                    return name;
                }
                sleep(self.config.timing.keep_alive).await;
            }
        };
        let silent = async {
            while began.elapsed() < silence {
                if let Some(name) = lost.iter().find(|name| self.reach.at(name).is_some_and(|at| at >= began)) {
                    return Err(name.clone());
                }
                sleep(LOOK_EVERY).await;
            }
            Ok(())
        };
        let heard = tokio::select! {
            biased;
            silent = silent => silent.err(),
            name = supervisors => Some(name),
        };
        if let Some(name) = heard {
            return Err(Refusal::Heard { name }.into());
        }
        // This node's own leases have expired by then, too; a write in flight has been for at least a lease.
        let record = self.record()?;
        let acts = record.report.as_ref().is_some_and(|report| report.is_acting());
        if acts || self.gates.values().any(|gate| gate.is_open() || gate.is_busy()) {
            let reason = "a write of a duty is in flight still; try again".to_owned();
            return Err(CommandError::Rejected { reason });
        }
        Ok(record)
    }

    fn record(&self) -> Result<SoloRecord, CommandError> {
        let record = self.standing.solo().map_err(|error| CommandError::Rejected { reason: error.to_string() })?;
        Ok(record.unwrap_or_default())
    }

    /// Required silence of the others.
    fn silence(&self, state: &State, record: &SoloRecord) -> Duration {
        let timing = &self.config.timing;
        let kept = Duration::from_millis(record.learned.longest_lease_ms);
        timing.unheard(state).max(timing.wait_for(kept) + timing.margin)
    }
}
