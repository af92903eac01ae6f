//! Going solo in a pair without a witness (rule R7): disk, arbiter and clock. The decisions are those of `SoloStep` in
//! `role-manager/member`, which the simulation runs too.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use twinbox_clock::{BootInstant, wall};
use twinbox_gate::Gate;
use twinbox_ids::{Epoch, NodeName};
use twinbox_raft::{Applied, Core, StoreIdentity, wait};
use twinbox_roles_core::{Duty, OnQuorumLoss, PersistedBounds, SoloInputs, SoloRecord, SoloReport, Timing};
use twinbox_roles_member::{SoloAction, SoloEvent, SoloStep};

use crate::{RolesConfig, RolesError, failure_detector::FailureDetector, leader::since_boot};

/// Number of arbiter probes per lease.
const PER_LEASE: u32 = 4;

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

/// Carries out the decisions about solo work.
pub(crate) struct SoloController {
    node: NodeName,
    identity: Arc<StoreIdentity>,
    core: Arc<Core>,
    detector: Arc<FailureDetector>,
    arbiter: Arc<Arbiter>,
    solo: SoloStep,
    started: BootInstant,
}

impl SoloController {
    pub(crate) fn new(
        config: &RolesConfig,
        identity: Arc<StoreIdentity>,
        core: Arc<Core>,
        detector: Arc<FailureDetector>,
        arbiter: Arc<Arbiter>,
    ) -> Result<Self, RolesError> {
        let solo = SoloStep::new(config.node.clone(), config.timing, identity.solo()?, wall().0);
        let (node, started) = (config.node.clone(), BootInstant::now());
        Ok(Self { node, identity, core, detector, arbiter, solo, started })
    }

    /// Agreed facts for the next keep-alive to report.
    pub(crate) fn persisted(&self) -> PersistedBounds {
        self.solo.persisted()
    }

    /// Solo work for the next keep-alive to report.
    pub(crate) fn report(&self) -> Option<SoloReport> {
        self.solo.report().cloned()
    }

    /// The duties that this node runs solo now, each with the epoch to act in and its end.
    pub(crate) fn leases(&self) -> BTreeMap<Duty, (Epoch, Duration)> {
        self.solo.leases(since_boot(BootInstant::now()))
    }

    /// Whether solo work must end and a write is still in flight.
    pub(crate) fn is_stopping(&self) -> bool {
        self.solo.is_stopping()
    }

    /// Lets the node begin or end solo work. All records are on disk when this returns.
    pub(crate) async fn decide(&mut self, applied: &Applied, quorum: bool, gates: &BTreeMap<Duty, Gate>) {
        while let Some(action) = self.look(applied, quorum, gates.values().any(Gate::is_busy)) {
            match action {
                SoloAction::Close => gates.values().for_each(Gate::close),
                SoloAction::Wait(reason) => tracing::info!(%reason, "no majority: this node does not go solo"),
                SoloAction::Store(record) => {
                    if !self.store(record).await {
                        return;
                    }
                }
            }
        }
    }

    /// Stores a record. Returns whether it is on disk.
    async fn store(&mut self, record: SoloRecord) -> bool {
        if let Err(error) = self.identity.save_solo(&record).await {
            tracing::error!(%error, "cannot store the solo record: no solo work; check the disk");
            return false;
        }
        match record.report.as_ref().map(|report| (report.is_acting(), &report.epoch)) {
            Some((true, epoch)) => tracing::warn!(%epoch, "no majority: this node runs duties solo"),
            Some((false, epoch)) => tracing::warn!(%epoch, "this node has ended its solo work"),
            None => {}
        }
        self.solo.step(SoloEvent::Stored(record));
        true
    }

    fn look(&mut self, applied: &Applied, quorum: bool, in_flight: bool) -> Option<SoloAction> {
        let state = &*applied.state;
        let other = state.members.keys().find(|name| **name != self.node);
        let contact = other.and_then(|other| self.detector.last_contact(other)).unwrap_or(self.started);
        self.solo.step(SoloEvent::Look(SoloInputs {
            now: since_boot(BootInstant::now()),
            wall_ms: wall().0,
            state,
            raft_id: self.identity.raft_id(),
            voters: &self.core.voters(applied),
            quorum,
            last_contact: since_boot(contact),
            arbiter: self.arbiter.answered(state.settings.arbiter.as_ref()),
            in_flight,
        }))
    }
}
