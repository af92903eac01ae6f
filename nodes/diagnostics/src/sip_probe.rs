//! Probes whether a silent node answers at its SIP addresses (rule C3). Every member, node or witness, probes
//! independently and reports unanswered nodes to the role manager. The calls of such a node get an heir only when
//! two members report it.
//!
//! A member probes only nodes that it has not heard for longer than any of their leases can run. Nodes with an exit
//! proof are not probed: the proof is sufficient. A node reports its SIP addresses while it runs ([`targets`]), and
//! the member probes each address once while the node is heard. Silence counts only if every address has answered
//! this member in this incarnation of the node. Request and answer: [`request`], [`probe`]; decisions:
//! [`probe_state`]; schedule and results: [`rounds`].

mod cluster;
mod probe;
mod probe_state;
mod request;
mod rounds;
mod targets;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;
use twinbox_roles::{MemberKind, RolesView};
use twinbox_runtime as runtime;

pub use cluster::{ProbedCluster, ProbedMembers};
use probe_state::{NodeContact, ProbeState};
use request::ProbeRequest;
use rounds::{ProbeOutcome, Round, RoundResult};
use targets::SipTargets;

/// Poll interval.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Number of rounds by result, for each probed node: for `/metrics`.
#[derive(Debug, Default)]
pub struct ProbeCounts(Mutex<BTreeMap<NodeName, [u64; 3]>>);

impl ProbeCounts {
    /// Nodes, results (`yes`: it answers, `no`, `unknown`), and number of rounds.
    pub fn counts(&self) -> Vec<(NodeName, &'static str, u64)> {
        let of = |(node, counts): (&NodeName, &[u64; 3])| {
            let node = node.clone();
            ["yes", "no", "unknown"].into_iter().zip(*counts).map(move |(what, count)| (node.clone(), what, count))
        };
        self.lock().iter().flat_map(of).collect()
    }

    fn note(&self, node: &NodeName, shown: RoundResult) {
        let mut counts = self.lock();
        let [yes, no, unknown] = counts.entry(node.clone()).or_default();
        let count = match shown {
            RoundResult::Answers => yes,
            RoundResult::Silent => no,
            RoundResult::Inconclusive => unknown,
        };
        *count += 1;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeName, [u64; 3]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prober of one member in one cluster.
pub struct SipProber<C> {
    /// Name of this member.
    pub own: NodeName,
    /// Source of the members and of their last contacts, and receiver of the results.
    pub cluster: Arc<C>,
    /// Results of the rounds.
    pub counts: Arc<ProbeCounts>,
}

impl<C: ProbedCluster> SipProber<C> {
    /// Probes silent nodes until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut state = ProbeState::default();
        let mut learning: JoinSet<Option<(NodeName, SipTargets)>> = JoinSet::new();
        let mut asking: JoinSet<(Round, ProbeOutcome)> = JoinSet::new();
        let mut look = runtime::every(LOOK_EVERY);
        loop {
            tokio::select! {
                // Received results take precedence over the timer.
                biased;
                () = stop.cancelled() => return,
                Some(learned) = learning.join_next() => {
                    if let Ok(Some((node, known))) = learned {
                        info!(%node, addresses = known.targets.len(), "node reported its SIP addresses");
                        state.learned(node, known);
                    }
                }
                Some(asked) = asking.join_next() => {
                    if let Ok((round, outcome)) = asked {
                        self.note(&mut state, &round, outcome);
                    }
                }
                _ = look.tick() => {
                    let (view, now) = (self.cluster.view(), BootInstant::now());
                    let is_member = |node: &NodeName| view.member(node).is_some();
                    state.retain(is_member);
                    self.counts.lock().retain(|node, _| is_member(node));
                    let nodes = self.nodes(&view);
                    self.learn(&mut state, now, &nodes, &mut learning);
                    for (round, known) in state.begin_rounds(now, &nodes, view.members.len()) {
                        probe_all(&round, &known, &mut asking);
                    }
                }
            }
            self.cluster.unanswered(state.unanswered());
        }
    }

    /// Other nodes that have an incarnation.
    fn nodes(&self, view: &RolesView) -> BTreeMap<NodeName, NodeContact> {
        let others = view.members.iter().filter(|m| m.kind == MemberKind::Node && m.name != self.own);
        let contact = |name: &NodeName, incarnation| NodeContact {
            incarnation,
            is_heard: self.cluster.is_heard(name),
            has_exited: self.cluster.has_exited(name),
        };
        others.filter_map(|node| Some((node.name.clone(), contact(&node.name, node.incarnation?)))).collect()
    }

    /// Reads the SIP addresses of nodes that are heard, and whether they answer there.
    fn learn(
        &self,
        state: &mut ProbeState,
        now: BootInstant,
        nodes: &BTreeMap<NodeName, NodeContact>,
        learning: &mut JoinSet<Option<(NodeName, SipTargets)>>,
    ) {
        for (node, incarnation) in state.take_unasked(now, nodes) {
            let cluster = self.cluster.clone();
            learning.spawn(async move {
                let (member, info) = cluster.info(&node).await?;
                let known = targets::learn(&info, incarnation, &member).await?;
                answers(&node, &known).await.then_some((node, known))
            });
        }
    }

    fn note(&self, state: &mut ProbeState, round: &Round, outcome: ProbeOutcome) {
        let Some((result, is_news)) = state.note(BootInstant::now(), round, outcome) else { return };
        let node = &round.node;
        self.counts.note(node, result);
        match result {
            _ if !is_news => {}
            RoundResult::Answers => info!(%node, "node is unreachable but answers SIP: its calls stay with it"),
            _ => warn!(%node, "node is unreachable and answers at none of its SIP addresses"),
        }
    }
}

/// Begins the probes of a round.
fn probe_all(round: &Round, known: &SipTargets, asking: &mut JoinSet<(Round, ProbeOutcome)>) {
    for target in &known.targets {
        let probe_request = ProbeRequest::new(&round.node, known.incarnation, rand::random());
        let (target, round) = (*target, round.clone());
        asking.spawn(async move {
            let outcome = probe::probe_target(&target, &probe_request).await;
            (round, outcome)
        });
    }
}

/// Whether a node answers this member at every address that it reported: members may be unable to reach an address
/// for callers.
async fn answers(node: &NodeName, known: &SipTargets) -> bool {
    let mut asked = JoinSet::new();
    for target in &known.targets {
        let (target, probe_request) = (*target, ProbeRequest::new(node, known.incarnation, rand::random()));
        asked.spawn(async move { probe::probe_target(&target, &probe_request).await == ProbeOutcome::Answered });
    }
    asked.join_all().await.into_iter().all(|answered| answered)
}
