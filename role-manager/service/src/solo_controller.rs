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
use twinbox_raft::{Applied, Core, StoreIdentity, wait};
use twinbox_roles_core::{Duty, OnQuorumLoss, PersistedBounds, Solo, SoloInputs, SoloReport, SoloVerdict, Timing};

use crate::{RolesConfig, RolesError, failure_detector::FailureDetector, leader::since_boot};

/// Number of arbiter probes per lease.
const PER_LEASE: u32 = 4;
/// Maximum number of consecutive decisions: a record is stored, and then acted on.
const MAX_STEPS: usize = 4;

/// Time of the arbiter's last answer, counted from the probe.
#[derive(Default)]
pub(crate) struct Arbiter(Mutex<Option<(String, BootInstant)>>);

impl Arbiter {
    /// Probes the configured arbiter while it may matter, for as long as the process runs. An accepted connection
    /// counts as an answer; a refusal does not, since any device on the way may send it.
    pub(crate) async fn probe(&self, core: &Core, timing: Timing) {
        let mut applied = core.applied();
        loop {
            let state = applied.borrow_and_update().state.clone();
            let wanted = state.settings.on_quorum_loss == OnQuorumLoss::Assume && state.is_bare_pair();
            let Some(address) = state.settings.arbiter.clone().filter(|_| wanted) else {
                wait(&mut applied).await;
                continue;
            };
            let pause = timing.agreed(&state).lease / PER_LEASE;
            let sent = BootInstant::now();
            if let Ok(Ok(_)) = timeout(pause, TcpStream::connect(&address)).await {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((address, sent));
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
pub(crate) struct SoloController {
    node: NodeName,
    identity: Arc<StoreIdentity>,
    core: Arc<Core>,
    detector: Arc<FailureDetector>,
    arbiter: Arc<Arbiter>,
    solo: Solo,
    started: BootInstant,
    stopping: bool,
    /// The last logged reason for waiting.
    last_reason: String,
}

impl SoloController {
    pub(crate) fn new(
        config: &RolesConfig,
        identity: Arc<StoreIdentity>,
        core: Arc<Core>,
        detector: Arc<FailureDetector>,
        arbiter: Arc<Arbiter>,
    ) -> Result<Self, RolesError> {
        let solo = Solo::new(config.node.clone(), config.timing, identity.solo()?, wall().0);
        let (node, started) = (config.node.clone(), BootInstant::now());
        Ok(Self {
            node,
            identity,
            core,
            detector,
            arbiter,
            solo,
            started,
            stopping: false,
            last_reason: String::new(),
        })
    }

    /// Agreed facts for the next keep-alive to report.
    pub(crate) fn persisted(&self) -> PersistedBounds {
        self.solo.persisted()
    }

    /// Solo work for the next keep-alive to report.
    pub(crate) fn report(&self) -> Option<SoloReport> {
        self.solo.report().cloned()
    }

    /// Whether the solo work includes this duty.
    pub(crate) fn runs(&self, duty: Duty) -> bool {
        self.solo.runs(duty)
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
        for _ in 0..MAX_STEPS {
            let verdict = self.verdict(applied, quorum, in_flight());
            if !matches!(verdict, SoloVerdict::Wait(_)) {
                self.last_reason.clear();
            }
            match verdict {
                SoloVerdict::Idle => return None,
                SoloVerdict::Wait(reason) => {
                    if reason != self.last_reason {
                        tracing::info!(%reason, "no majority: this node does not go solo");
                        self.last_reason = reason;
                    }
                    return None;
                }
                SoloVerdict::Act(epoch, until) => return Some((epoch, until)),
                SoloVerdict::Stop => {
                    self.stopping = true;
                    return None;
                }
                SoloVerdict::Store(record) => {
                    if let Err(error) = self.identity.save_solo(&record).await {
                        tracing::error!(%error, "cannot store the solo record: no solo work; check the disk");
                        return None;
                    }
                    match record.report.as_ref().map(|report| (report.is_acting(), &report.epoch)) {
                        Some((true, epoch)) => tracing::warn!(%epoch, "no majority: this node runs duties solo"),
                        Some((false, epoch)) => tracing::warn!(%epoch, "this node has ended its solo work"),
                        None => {}
                    }
                    self.solo.stored(record);
                }
            }
        }
        None
    }

    fn verdict(&self, applied: &Applied, quorum: bool, in_flight: bool) -> SoloVerdict {
        let state = &*applied.state;
        let other = state.members.keys().find(|name| **name != self.node);
        let contact = other.and_then(|other| self.detector.last_contact(other)).unwrap_or(self.started);
        self.solo.decide(&SoloInputs {
            now: since_boot(BootInstant::now()),
            wall_ms: wall().0,
            state,
            raft_id: self.identity.raft_id(),
            voters: &self.core.voters(applied),
            quorum,
            last_contact: since_boot(contact),
            arbiter: self.arbiter.answered(state.settings.arbiter.as_ref()),
            in_flight,
        })
    }
}
