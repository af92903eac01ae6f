//! Arbiter of a pair without a witness (rule R7), which is probed for the decisions of `SoloStep` in
//! `role-manager/member`.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use twinbox_raft::{Core, wait};
use twinbox_roles_core::{OnQuorumLoss, State, Timing};

use crate::boot_clock::now;

/// Number of arbiter probes per lease.
const PER_LEASE: u32 = 4;

/// Time of the arbiter's last answer, counted from the probe.
#[derive(Default)]
pub(crate) struct Arbiter(Mutex<Option<(String, Duration)>>);

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
            let sent = now();
            if let Ok(Ok(_)) = timeout(pause, TcpStream::connect(&address)).await {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((address, sent));
            }
            sleep(pause).await;
        }
    }

    /// Time of the last answer of the agreed arbiter.
    pub(crate) fn answered(&self, state: &State) -> Option<Duration> {
        let address = state.settings.arbiter.as_ref();
        let answered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answered.as_ref().filter(|(by, _)| Some(by) == address).map(|(_, at)| *at)
    }
}
