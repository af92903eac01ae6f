//! Probes whether a silent node answers at its SIP addresses (rule C3). Every member, node or witness, probes
//! independently and reports unanswered nodes to the role manager. The calls of such a node get an heir only when
//! two members report it.
//!
//! A member probes only nodes that it has not heard for longer than any of their leases can run. Nodes with an exit
//! proof are not probed: the proof is sufficient. A node reports its SIP addresses while it runs ([`places`]), and
//! the member probes each address once while the node is heard. Silence counts only if every address has answered
//! this member in this incarnation of the node. Request and answer: [`question`], [`ask`]; schedule and results:
//! [`rounds`].

mod ask;
mod places;
mod question;
mod rounds;

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
use twinbox_roles::{MemberKind, Roles, RolesView, Timing};

use crate::{beat, members::Others};
use places::Known;
use question::Question;
use rounds::{Outcome, Round, Rounds, Shown};

/// Poll interval.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// First wait before a node is asked again for its SIP addresses, if it has not reported them or does not answer
/// there.
const LEARN_AGAIN: Duration = Duration::from_secs(2);
/// Upper limit of this wait, which doubles each time: members may never reach the node there.
const LEARN_AGAIN_AT_LAST: Duration = Duration::from_secs(60);

/// Number of rounds by result, for each probed node: for `/metrics`.
#[derive(Debug, Default)]
pub struct Shows(Mutex<BTreeMap<NodeName, [u64; 3]>>);

impl Shows {
    /// Nodes, results (`yes`: it answers, `no`, `unknown`), and number of rounds.
    pub fn counts(&self) -> Vec<(NodeName, &'static str, u64)> {
        let of = |(node, counts): (&NodeName, &[u64; 3])| {
            let node = node.clone();
            ["yes", "no", "unknown"].into_iter().zip(*counts).map(move |(what, count)| (node.clone(), what, count))
        };
        self.lock().iter().flat_map(of).collect()
    }

    fn note(&self, node: &NodeName, shown: Shown) {
        let mut shows = self.lock();
        let [yes, no, unknown] = shows.entry(node.clone()).or_default();
        let count = match shown {
            Shown::Answers => yes,
            Shown::Silent => no,
            Shown::Nothing => unknown,
        };
        *count += 1;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeName, [u64; 3]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prober of one member in one cluster.
pub struct Knocker {
    /// Name of this member.
    pub own: NodeName,
    /// Source of the members' last contacts, and receiver of the results.
    pub roles: Roles,
    /// Lease times.
    pub timing: Timing,
    /// Connections to the members, to read their SIP addresses.
    pub others: Arc<Others>,
    /// Results of the rounds.
    pub shows: Arc<Shows>,
}

/// Probe state. Bounded by the number of members.
#[derive(Default)]
struct Knowledge {
    known: BTreeMap<NodeName, Known>,
    /// Nodes that were asked for their SIP addresses, with the time of the next request and the wait after that.
    asked: BTreeMap<NodeName, (BootInstant, Duration)>,
    rounds: Rounds,
    /// Latest conclusive results for lost nodes.
    shown: BTreeMap<NodeName, Shown>,
}

impl Knocker {
    /// Probes silent nodes until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut knowledge = Knowledge::default();
        let mut learning: JoinSet<Option<(NodeName, Known)>> = JoinSet::new();
        let mut asking: JoinSet<(Round, Outcome)> = JoinSet::new();
        let mut look = beat::every(LOOK_EVERY);
        loop {
            tokio::select! {
                // Received results take precedence over the timer.
                biased;
                () = stop.cancelled() => return,
                Some(learned) = learning.join_next() => {
                    if let Ok(Some((node, known))) = learned {
                        info!(%node, addresses = known.places.len(), "it is known where this node answers SIP");
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
        self.roles.heard(node).is_some_and(|ago| ago <= self.timing.unheard(&self.roles.agreed()))
    }

    /// Reads the SIP addresses of nodes that are heard, once per incarnation.
    fn learn(
        &self,
        view: &RolesView,
        knowledge: &mut Knowledge,
        learning: &mut JoinSet<Option<(NodeName, Known)>>,
    ) {
        let Knowledge { known, asked, shown, .. } = knowledge;
        let is_member = |node: &NodeName| view.member(node).is_some();
        known.retain(|node, _| is_member(node));
        asked.retain(|node, _| is_member(node));
        shown.retain(|node, _| is_member(node));
        self.shows.lock().retain(|node, _| is_member(node));
        let now = BootInstant::now();
        for (node, life) in self.nodes(view) {
            let knows = known.get(node).is_some_and(|known| known.life == life);
            let (again, pause) = asked.get(node).copied().unwrap_or((now, LEARN_AGAIN));
            if knows || now < again || !self.is_heard(node) {
                continue;
            }
            asked.insert(node.clone(), (now + pause, (pause * 2).min(LEARN_AGAIN_AT_LAST)));
            let (node, others) = (node.clone(), self.others.clone());
            learning.spawn(async move {
                let member = others.address(&node)?;
                let info = others.show(&node).await?;
                let known = places::learn(&info, life, &member).await?;
                answers(&node, &known).await.then_some((node, known))
            });
        }
    }

    /// Begins the rounds that are due.
    fn look(&self, view: &RolesView, knowledge: &mut Knowledge, asking: &mut JoinSet<(Round, Outcome)>) {
        let Knowledge { known, rounds, shown, .. } = knowledge;
        // In a pair the survivor inherits by exit proof alone (rule C4): no probe is needed.
        let pair = view.members.len() < 3;
        let lost = |(node, life): (&NodeName, Incarnation)| {
            let known = known.get(node).filter(|known| known.life == life)?;
            let silent = !pair && !self.is_heard(node) && !self.roles.has_exited(node);
            silent.then(|| (node.clone(), (life, known.places.len())))
        };
        let lost: BTreeMap<_, _> = self.nodes(view).filter_map(lost).collect();
        shown.retain(|node, _| lost.contains_key(node));
        for round in rounds.look(BootInstant::now(), &lost) {
            let Some(known) = known.get(&round.node) else { continue };
            for place in &known.places {
                let question = Question::new(&round.node, known.life, rand::random());
                let (place, round) = (*place, round.clone());
                asking.spawn(async move {
                    let outcome = ask::ask(&place, &question).await;
                    (round, outcome)
                });
            }
        }
    }

    fn note(&self, knowledge: &mut Knowledge, round: &Round, outcome: Outcome) {
        let Some(now) = knowledge.rounds.note(BootInstant::now(), round, outcome) else { return };
        let node = &round.node;
        self.shows.note(node, now);
        if now == Shown::Nothing || knowledge.shown.insert(node.clone(), now) == Some(now) {
            return;
        }
        match now {
            Shown::Answers => info!(%node, "not heard, but it answers at its SIP address: its calls stay with it"),
            _ => warn!(%node, "not heard, and it answers at none of its SIP addresses"),
        }
    }
}

/// Whether a node answers this member at every address that it reported: members may be unable to reach an address
/// for callers.
async fn answers(node: &NodeName, known: &Known) -> bool {
    let mut asked = JoinSet::new();
    for place in &known.places {
        let (place, question) = (*place, Question::new(node, known.life, rand::random()));
        asked.spawn(async move { ask::ask(&place, &question).await == Outcome::Answered });
    }
    asked.join_all().await.into_iter().all(|answered| answered)
}
