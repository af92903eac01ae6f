//! Probes whether a silent node answers at its SIP addresses (rule C3). Every member, node or witness, probes
//! independently and reports unanswered nodes to the role manager. The calls of such a node get an heir only when
//! two members report it.
//!
//! A member probes only nodes that it has not heard for longer than any of their leases can run. Nodes with an exit
//! proof are not probed: the proof is sufficient. A node reports its SIP addresses while it runs ([`targets`]), and
//! the member probes each address once while the node is heard. Silence counts only if every address has answered
//! this member in this incarnation of the node. Request and answer: [`request`], [`probe`]; schedule and results:
//! [`rounds`].

mod probe;
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
use twinbox_ids::{Incarnation, NodeName};
use twinbox_members::MemberClients;
use twinbox_roles::{MemberKind, Roles, RolesView, Timing};
use twinbox_runtime as runtime;

use request::ProbeRequest;
use rounds::{Outcome, Round, RoundResult, Rounds};
use targets::SipTargets;

/// Poll interval.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// First wait before a node is asked again for its SIP addresses, if it has not reported them or does not answer
/// there.
const LEARN_AGAIN: Duration = Duration::from_secs(2);
/// Upper limit of this wait, which doubles each time: members may never reach the node there.
const LEARN_AGAIN_AT_LAST: Duration = Duration::from_secs(60);

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
pub struct SipProber {
    /// Name of this member.
    pub own: NodeName,
    /// Source of the members' last contacts, and receiver of the results.
    pub roles: Roles,
    /// Lease times.
    pub timing: Timing,
    /// Connections to the members, to read their SIP addresses.
    pub members: Arc<MemberClients>,
    /// Results of the rounds.
    pub counts: Arc<ProbeCounts>,
}

/// Probe state. Bounded by the number of members.
#[derive(Default)]
struct ProbeState {
    known: BTreeMap<NodeName, SipTargets>,
    /// Nodes that were asked for their SIP addresses, with the time of the next request and the wait after that.
    asked: BTreeMap<NodeName, (BootInstant, Duration)>,
    rounds: Rounds,
    /// Latest conclusive results for lost nodes.
    shown: BTreeMap<NodeName, RoundResult>,
}

impl SipProber {
    /// Probes silent nodes until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut knowledge = ProbeState::default();
        let mut learning: JoinSet<Option<(NodeName, SipTargets)>> = JoinSet::new();
        let mut asking: JoinSet<(Round, Outcome)> = JoinSet::new();
        let mut look = runtime::every(LOOK_EVERY);
        loop {
            tokio::select! {
                // Received results take precedence over the timer.
                biased;
                () = stop.cancelled() => return,
                Some(learned) = learning.join_next() => {
                    if let Ok(Some((node, known))) = learned {
                        info!(%node, addresses = known.targets.len(), "node reported its SIP addresses");
                        knowledge.asked.remove(&node);
                        knowledge.known.insert(node, known);
                    }
                }
                Some(asked) = asking.join_next() => {
                    if let Ok((round, outcome)) = asked {
                        self.note(&mut knowledge, &round, outcome);
                    }
                }
                _ = look.tick() => {
                    let view = self.roles.watch().borrow().clone();
                    self.learn(&view, &mut knowledge, &mut learning);
                    self.look(&view, &mut knowledge, &mut asking);
                }
            }
            self.roles.unanswered(knowledge.rounds.unanswered());
        }
    }

    /// Other nodes, with their incarnations.
    fn nodes<'a>(&'a self, view: &'a RolesView) -> impl Iterator<Item = (&'a NodeName, Incarnation)> {
        let others = view.members.iter().filter(|m| m.kind == MemberKind::Node && m.name != self.own);
        others.filter_map(|member| Some((&member.name, member.incarnation?)))
    }

    fn is_heard(&self, node: &NodeName) -> bool {
        self.roles.since_contact(node).is_some_and(|ago| ago <= self.timing.silence_limit(&self.roles.agreed()))
    }

    /// Reads the SIP addresses of nodes that are heard, once per incarnation.
    fn learn(
        &self,
        view: &RolesView,
        knowledge: &mut ProbeState,
        learning: &mut JoinSet<Option<(NodeName, SipTargets)>>,
    ) {
        let ProbeState { known, asked, shown, .. } = knowledge;
        let is_member = |node: &NodeName| view.member(node).is_some();
        known.retain(|node, _| is_member(node));
        asked.retain(|node, _| is_member(node));
        shown.retain(|node, _| is_member(node));
        self.counts.lock().retain(|node, _| is_member(node));
        let now = BootInstant::now();
        for (node, incarnation) in self.nodes(view) {
            let knows = known.get(node).is_some_and(|known| known.incarnation == incarnation);
            let (again, pause) = asked.get(node).copied().unwrap_or((now, LEARN_AGAIN));
            if knows || now < again || !self.is_heard(node) {
                continue;
            }
            asked.insert(node.clone(), (now + pause, (pause * 2).min(LEARN_AGAIN_AT_LAST)));
            let (node, members) = (node.clone(), self.members.clone());
            learning.spawn(async move {
                let member = members.address(&node)?;
                let info = members.show(&node).await?;
                let known = targets::learn(&info, incarnation, &member).await?;
                answers(&node, &known).await.then_some((node, known))
            });
        }
    }

    /// Begins the rounds that are due.
    fn look(&self, view: &RolesView, knowledge: &mut ProbeState, asking: &mut JoinSet<(Round, Outcome)>) {
        let ProbeState { known, rounds, shown, .. } = knowledge;
        // In a pair the survivor inherits by exit proof alone (rule C4): no probe is needed.
        let pair = view.members.len() < 3;
        let lost = |(node, incarnation): (&NodeName, Incarnation)| {
            let known = known.get(node).filter(|known| known.incarnation == incarnation)?;
            let silent = !pair && !self.is_heard(node) && !self.roles.has_exited(node);
            silent.then(|| (node.clone(), (incarnation, known.targets.len())))
        };
        let lost: BTreeMap<_, _> = self.nodes(view).filter_map(lost).collect();
        shown.retain(|node, _| lost.contains_key(node));
        for round in rounds.look(BootInstant::now(), &lost) {
            let Some(known) = known.get(&round.node) else { continue };
            for target in &known.targets {
                let probe_request = ProbeRequest::new(&round.node, known.incarnation, rand::random());
                let (target, round) = (*target, round.clone());
                asking.spawn(async move {
                    let outcome = probe::probe_target(&target, &probe_request).await;
                    (round, outcome)
                });
            }
        }
    }

    fn note(&self, knowledge: &mut ProbeState, round: &Round, outcome: Outcome) {
        let Some(now) = knowledge.rounds.note(BootInstant::now(), round, outcome) else { return };
        let node = &round.node;
        self.counts.note(node, now);
        if now == RoundResult::Inconclusive || knowledge.shown.insert(node.clone(), now) == Some(now) {
            return;
        }
        match now {
            RoundResult::Answers => info!(%node, "node is unreachable but answers SIP: its calls stay with it"),
            _ => warn!(%node, "node is unreachable and answers at none of its SIP addresses"),
        }
    }
}

/// Whether a node answers this member at every address that it reported: members may be unable to reach an address
/// for callers.
async fn answers(node: &NodeName, known: &SipTargets) -> bool {
    let mut asked = JoinSet::new();
    for target in &known.targets {
        let (target, probe_request) = (*target, ProbeRequest::new(node, known.incarnation, rand::random()));
        asked.spawn(async move { probe::probe_target(&target, &probe_request).await == Outcome::Answered });
    }
    asked.join_all().await.into_iter().all(|answered| answered)
}
