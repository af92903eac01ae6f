//! Going on without a majority that is lost for good, by an administrator's word: the order of steps around the core's
//! decision.
//!
//! 1. It is looked whether that may be.
//! 2. This member takes no part in its group any more: it gives no vote, asks for no lease, closes its gates, and ends what
//!    it may be doing alone.
//! 3. For as long as any lease may run that those who are lost may have given or taken (rules R4 and R7), it listens. One word
//!    of one of them, or of a supervisor, and all is as it was.
//! 4. The new group is on disk, in one transaction (`raft/anew.rs`).
//! 5. Raft begins anew in the new group, and this member takes part in that.
//!
//! A process that is killed before step 4 has left nothing; after it there is the new group, and every lease of the former
//! one was over before.

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

/// How often it is looked whether somebody is heard.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long the new group may take to be led; it goes on to come about if it takes longer.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);

/// What it takes.
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

/// As long as this is there, the member takes part in nothing.
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
    /// Whether this node may go on without these members now, or why not.
    pub(crate) fn may(&self, lost: &BTreeSet<NodeName>) -> Result<Survivor, CommandError> {
        if let Some(reason) = self.standing.unfit() {
            return Err(CommandError::Rejected { reason });
        }
        let state = self.core.applied().borrow().state.clone();
        let limit = self.silence(&state, &SoloRecord::default());
        let heard = lost.iter().filter(|name| self.reach.since(name).is_some_and(|ago| ago < limit)).cloned();
        let peers = self.core.pulse().borrow().peers.clone();
        if peers.is_empty() {
            // Who else votes is not known at this moment.
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

    /// Goes on without these members. Returns when the new group is led.
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
            // The core chooses it.
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

    /// For as long as a lease of the others may run: none of them says a word, nor does a supervisor; and what this node did
    /// comes to its end. Gives what it has on disk of that.
    async fn listen(&self, lost: &BTreeSet<NodeName>) -> Result<SoloRecord, CommandError> {
        let began = BootInstant::now();
        let state = self.core.applied().borrow().state.clone();
        let silence = self.silence(&state, &self.record()?);
        let supervisors = async {
            // As often as there is time for: one that is started anew is found, too.
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
        // Its own leases are out by then, too; what is in flight under one has been for a lease at least.
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

    /// How long the others must be silent.
    fn silence(&self, state: &State, record: &SoloRecord) -> Duration {
        let timing = &self.config.timing;
        let kept = Duration::from_millis(record.learned.longest_lease_ms);
        timing.unheard(state).max(timing.wait_for(kept) + timing.margin)
    }
}
