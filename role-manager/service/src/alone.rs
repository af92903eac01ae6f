//! Going solo in a pair without a witness (rule R7): disk, arbiter and clock for the core's decision.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::{Epoch, NodeName};
use twinbox_roles_core::{Alone, Learned, OnQuorumLoss, Solo, SoloReport, SoloVerdict, Timing};

use crate::{
    RolesConfig, RolesError,
    leader::{since_boot, wait},
    raft::{Applied, Core},
    reach::Reach,
    standing::Standing,
};

/// Number of arbiter probes per lease.
const PER_LEASE: u32 = 4;
/// Maximum number of consecutive decisions: a record is stored, and then acted on.
const STEPS: usize = 4;

/// Time of the arbiter's last answer, counted from the probe.
#[derive(Default)]
pub(crate) struct Arbiter(Mutex<Option<(String, BootInstant)>>);

impl Arbiter {
    /// Probes the configured arbiter while it may matter, for as long as the process runs. An accepted connection
    /// counts as an answer; a refusal does not, since any device on the way may send it.
    pub(crate) async fn ask(&self, core: &Core, timing: Timing) {
        let mut applied = core.applied();
        loop {
            let state = applied.borrow_and_update().state.clone();
            let wanted = state.settings.on_quorum_loss == OnQuorumLoss::Assume && state.is_bare_pair();
            let Some(address) = state.settings.arbiter.clone().filter(|_| wanted) else {
                wait(&mut applied).await;
                continue;
            };
            let pause = timing.agreed(&state).lease / PER_LEASE;
            let asked = BootInstant::now();
            if let Ok(Ok(_)) = timeout(pause, TcpStream::connect(&address)).await {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((address, asked));
            }
            sleep(pause).await;
        }
    }

    fn answered(&self, address: Option<&String>) -> Option<Duration> {
        let answered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answered.as_ref().filter(|(by, _)| Some(by) == address).map(|(_, at)| since_boot(*at))
    }
}

/// Decides whether this node goes solo, and stores its solo work.
pub(crate) struct GoingAlone {
    node: NodeName,
    standing: Arc<Standing>,
    core: Arc<Core>,
    reach: Arc<Reach>,
    arbiter: Arc<Arbiter>,
    solo: Solo,
    started: BootInstant,
    stopping: bool,
    /// The last logged reason for waiting.
    said: String,
}

impl GoingAlone {
    pub(crate) fn new(
        config: &RolesConfig,
        standing: Arc<Standing>,
        core: Arc<Core>,
        reach: Arc<Reach>,
        arbiter: Arc<Arbiter>,
    ) -> Result<Self, RolesError> {
        let solo = Solo::new(config.node.clone(), config.timing, standing.solo()?, wall().0);
        let (node, started) = (config.node.clone(), BootInstant::now());
        Ok(Self { node, standing, core, reach, arbiter, solo, started, stopping: false, said: String::new() })
    }

    /// Agreed facts for the next keep-alive to report.
    pub(crate) fn learned(&self) -> Learned {
        self.solo.learned()
    }

    /// Solo work for the next keep-alive to report.
    pub(crate) fn report(&self) -> Option<SoloReport> {
        self.solo.report().cloned()
    }

    /// Whether it must stop and a write is still in flight.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// The solo epoch to act in, and its end. All records are on disk when this returns.
    pub(crate) async fn decide(
        &mut self,
        applied: &Applied,
        quorum: bool,
        in_flight: &impl Fn() -> bool,
    ) -> Option<(Epoch, Duration)> {
        self.stopping = false;
        for _ in 0..STEPS {
            let verdict = self.ask(applied, quorum, in_flight());
            if !matches!(verdict, SoloVerdict::Wait(_)) {
                self.said.clear();
            }
            match verdict {
                SoloVerdict::Rest => return None,
                SoloVerdict::Wait(why) => {
                    if why != self.said {
                        tracing::info!(%why, "no majority: this node does not run duties alone");
                        self.said = why;
                    }
                    return None;
                }
                SoloVerdict::Act(epoch, until) => return Some((epoch, until)),
                SoloVerdict::Stop => {
                    self.stopping = true;
                    return None;
                }
                SoloVerdict::Keep(record) => {
                    if let Err(error) = self.standing.keep_solo(&record).await {
                        tracing::error!(%error, "what this node does alone cannot be written down: it is not done");
                        return None;
                    }
                    match record.report.as_ref().map(|report| (report.is_acting(), &report.epoch)) {
                        Some((true, epoch)) => tracing::warn!(%epoch, "no majority: this node runs duties alone"),
                        Some((false, epoch)) => tracing::warn!(%epoch, "this node runs duties alone no more"),
                        None => {}
                    }
                    self.solo.kept(record);
                }
            }
        }
        None
    }

    fn ask(&self, applied: &Applied, quorum: bool, in_flight: bool) -> SoloVerdict {
        let state = &*applied.state;
        let other = state.members.keys().find(|name| **name != self.node);
        let heard = other.and_then(|other| self.reach.at(other)).unwrap_or(self.started);
        self.solo.decide(&Alone {
            now: since_boot(BootInstant::now()),
            wall_ms: wall().0,
            state,
            raft_id: self.standing.raft_id(),
            voters: &self.core.voters(applied),
            quorum,
            heard: since_boot(heard),
            arbiter: self.arbiter.answered(state.settings.arbiter.as_ref()),
            in_flight,
        })
    }
}
