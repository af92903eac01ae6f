//! Exit proofs (rule R1): supervisors' reports on ended incarnations. Every member stores them for the next leader, and
//! asks the supervisor of a member that has fallen silent, in case its report was lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Request, Response, Status};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_roles_core::Exits;
use twinbox_wire::roles::{
    self as wire, ask_answer::Result as Answer, exits_server, supervisor_client::SupervisorClient,
};

use crate::{
    MemberAddress, RolesConfig, RolesService, connections::convert, failures::failure_detector::FailureDetector,
    group::roster::Roster, leading::leader::Leadership,
};

/// Maximum number of exits in one report; supervisors send fewer.
const MAX_EXITS: usize = 16;
/// Number of leases of silence after which a member is no longer asked about.
const SILENT_LEASES: u32 = 20;
/// The longest text on a process's end, in characters: it is logged.
const WORDS: usize = 100;

/// Known exit proofs, a few for each member.
pub(crate) struct Proofs {
    exits: watch::Sender<Arc<Exits>>,
    /// Port of each member's supervisor, as reported.
    ports: Mutex<BTreeMap<NodeName, u16>>,
}

impl Proofs {
    pub(crate) fn new() -> Self {
        Self { exits: watch::Sender::new(Arc::default()), ports: Mutex::default() }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Exits>> {
        self.exits.subscribe()
    }

    pub(crate) fn known(&self) -> Arc<Exits> {
        self.exits.borrow().clone()
    }

    /// Records the report of the supervisor of `node`; its certificate has been checked.
    fn note_exit(
        &self,
        node: &NodeName,
        exit: &wire::Exit,
        detector: &FailureDetector,
        leadership: &Leadership,
    ) -> Result<(), Status> {
        let incarnation = convert::incarnation(&exit.incarnation)?;
        let had_calls = leadership.had_calls(node, incarnation);
        if self.exits.send_if_modified(|known| Arc::make_mut(known).note(node, incarnation, had_calls)) {
            let cause: String = exit.how.chars().take(WORDS).filter(|c| !c.is_control()).collect();
            tracing::info!(%node, %incarnation, how = cause, "exit proof received");
            detector.note_exit(node, incarnation);
            leadership.exited(node, incarnation);
        }
        Ok(())
    }

    fn note_port(&self, node: &NodeName, port: u32, is_member: impl Fn(&NodeName) -> bool) {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.retain(|known, _| is_member(known));
        if let Some(port) = u16::try_from(port).ok().filter(|port| *port > 0) {
            ports.insert(node.clone(), port);
        }
    }

    fn port_of(&self, node: &NodeName) -> Option<u16> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).get(node).copied()
    }
}

/// The gRPC service for supervisors. A supervisor speaks only for the node whose certificate it presents.
#[derive(Clone)]
pub struct ExitsService {
    pub(crate) roles: RolesService,
    pub(crate) proofs: Arc<Proofs>,
    pub(crate) leadership: Arc<Leadership>,
}

#[tonic::async_trait]
impl exits_server::Exits for ExitsService {
    async fn report(&self, request: Request<wire::ReportRequest>) -> Result<Response<wire::ReportAnswer>, Status> {
        self.roles.check_supervisor(&request, &request.get_ref().node)?;
        let wire::ReportRequest { node, exits, port } = request.into_inner();
        let node = convert::name(&node)?;
        if exits.len() > MAX_EXITS {
            return Err(Status::invalid_argument(format!("a report may contain at most {MAX_EXITS} exits")));
        }
        self.proofs.note_port(&node, port, |name| self.roles.roster.member(name).is_some());
        exits
            .iter()
            .try_for_each(|exit| self.proofs.note_exit(&node, exit, &self.roles.detector, &self.leadership))?;
        Ok(Response::new(wire::ReportAnswer {}))
    }
}

/// Prober of the supervisors of silent members.
pub(crate) struct SupervisorProber {
    pub(crate) config: Arc<RolesConfig>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) detector: Arc<FailureDetector>,
    pub(crate) proofs: Arc<Proofs>,
    pub(crate) leadership: Arc<Leadership>,
}

impl SupervisorProber {
    /// Probes for as long as the process runs.
    pub(crate) async fn run(&self) {
        loop {
            sleep(self.until_doubt()).await;
            let silent: Vec<_> =
                self.roster.others().into_iter().filter_map(|member| self.doubtful(member)).collect();
            join_all(silent.iter().map(|(member, incarnation, port)| self.ask(member, *incarnation, *port))).await;
        }
    }

    /// Time before which no further member can become doubtful; at least a keep-alive interval.
    fn until_doubt(&self) -> Duration {
        let (keep_alive, doubt) = (self.config.timing.keep_alive, self.doubt());
        let left = |member: &MemberAddress| {
            let left = doubt.saturating_sub(self.detector.since_contact(&member.name)?);
            Some(left.max(keep_alive))
        };
        self.roster.others().iter().filter_map(left).min().unwrap_or(keep_alive)
    }

    /// Silence after which a member is doubtful: most of a lease.
    fn doubt(&self) -> Duration {
        self.config.timing.lease * 2 / 3
    }

    /// A member that has been silent for most of a lease, with its last incarnation and its supervisor's port. A member
    /// silent for longer is lost with its host: its supervisor does not answer either, and a returning one reports on
    /// its own.
    fn doubtful(&self, member: MemberAddress) -> Option<(MemberAddress, Incarnation, u16)> {
        let lease = self.config.timing.lease;
        let silent = self.detector.since_contact(&member.name)?;
        if silent < self.doubt() || silent > lease * SILENT_LEASES {
            return None;
        }
        let incarnation = self
            .detector
            .incarnation(&member.name)
            .filter(|incarnation| !self.proofs.known().has(&member.name, *incarnation))?;
        let port = self.proofs.port_of(&member.name)?;
        Some((member, incarnation, port))
    }

    /// A member of these whose supervisor answers now: its machine is not lost.
    pub(crate) async fn answering(&self, names: &BTreeSet<NodeName>) -> Option<NodeName> {
        let known = names.iter().filter_map(|name| {
            let member = self.roster.member(name)?;
            // A supervisor answers for any incarnation.
            let incarnation = self.detector.incarnation(name).unwrap_or(self.config.incarnation);
            Some((member, incarnation, self.proofs.port_of(name)?))
        });
        let probes = known.map(|(member, incarnation, port)| async move {
            let answers = self.ask(&member, incarnation, port).await;
            answers.then_some(member.name)
        });
        join_all(probes).await.into_iter().flatten().next()
    }

    /// Asks a supervisor, records its report, and returns whether it has answered.
    async fn ask(&self, member: &MemberAddress, incarnation: Incarnation, port: u16) -> bool {
        let limit = self.config.timing.keep_alive * 2;
        let Some((host, _)) = member.address.rsplit_once(':') else { return false };
        // The supervisor must present the certificate of that member.
        let Ok(endpoint) = self.config.tls.endpoint(&member.name, &format!("{host}:{port}")) else {
            return false;
        };
        let answered = async {
            let channel = endpoint.connect_timeout(limit).connect().await.ok()?;
            let incarnation = Bytes::copy_from_slice(&incarnation.to_bytes());
            SupervisorClient::new(channel).ask(wire::AskRequest { incarnation }).await.ok()?.into_inner().result
        };
        let answer = timeout(limit, answered).await.ok().flatten();
        if let Some(Answer::Exited(exit)) = &answer
            && exit.incarnation == incarnation.to_bytes().as_slice()
            && let Err(status) = self.proofs.note_exit(&member.name, exit, &self.detector, &self.leadership)
        {
            tracing::debug!(peer = %member.name, status = status.message(), "invalid answer of a supervisor");
        }
        answer.is_some()
    }
}
