//! The view from outside of all machines, on global time: effects, judged as they arrive (rule P3), and the members'
//! views of the cluster.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles::{Duty, Order, RolesView, Status};
use twinbox_simulation::{Effect, Receiver};

use crate::clocks;

/// A violated rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Whether it was seen by effects, not only by missing ones.
    pub outside: bool,
    /// Description.
    pub text: String,
}

/// Report of a supervisor to `to`: this incarnation of `of` has exited.
#[derive(Debug, Clone)]
pub struct Exited {
    pub of: NodeName,
    pub incarnation: Incarnation,
    pub to: NodeName,
}

/// The board, shared by all machines.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<BoardState>>);

#[derive(Default)]
struct BoardState {
    trace: Vec<String>,
    violation: Option<Violation>,
    receiver: Receiver,
    epochs: BTreeSet<(Duty, Epoch, Incarnation)>,
    last_effects: BTreeMap<Duty, (Duration, NodeName)>,
    /// Digest of all effects and their times.
    digest: DefaultHasher,
    views: BTreeMap<NodeName, Arc<RolesView>>,
    incarnations: BTreeMap<NodeName, Incarnation>,
    orders: BTreeMap<NodeName, VecDeque<Order>>,
    exits: VecDeque<Exited>,
}

impl Board {
    fn state(&self) -> MutexGuard<'_, BoardState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line to the trace.
    pub fn note(&self, what: impl AsRef<str>) {
        self.write(clocks::global(), what.as_ref());
    }

    fn write(&self, at: Duration, what: &str) {
        self.state().trace.push(format!("{:>9.3} ms  {what}", at.as_secs_f64() * 1000.0));
    }

    /// The fake receiver: `node` acts now.
    pub fn act(&self, node: &NodeName, effect: &Effect) {
        let at = clocks::global();
        let Effect { duty, epoch, incarnation, solo, paused } = effect;
        let mut state = self.state();
        (at, duty, epoch, node).hash(&mut state.digest);
        let first = state.epochs.insert((*duty, epoch.clone(), *incarnation));
        state.last_effects.insert(*duty, (at, node.clone()));
        let micros = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        let accepted = state.receiver.accept(micros, effect);
        drop(state);
        if first || accepted.is_err() {
            let notes = [(*solo, ", solo"), (*paused, ", after a pause")];
            let notes: String = notes.into_iter().filter_map(|(is, word)| is.then_some(word)).collect();
            self.note(format!("{node} acts under {duty} in {epoch}{notes}"));
        }
        if epoch.node != *node {
            self.violate(true, format!("{node} acts under {duty} in {epoch}, which belongs to another node"));
        }
        if let Err(violation) = accepted {
            self.violate(true, violation.to_string());
        }
    }

    /// Records a violation; the first one counts.
    pub fn violate(&self, outside: bool, text: String) {
        if self.violation().is_none() {
            // A panic may come from a place where the simulation must not be asked for the time.
            self.write(clocks::last(), &format!("VIOLATION: {text}"));
            self.state().violation = Some(Violation { outside, text });
        }
    }

    /// The violated rule, if any.
    pub fn violation(&self) -> Option<Violation> {
        self.state().violation.clone()
    }

    /// Stores a member's view of the cluster.
    pub fn set_view(&self, node: &NodeName, view: Arc<RolesView>) {
        let of = |name: &NodeName| view.member(name).map(|m| m.status.to_string()).unwrap_or_default();
        let statuses: Vec<String> = view.members.iter().map(|m| format!("{}={}", m.name, of(&m.name))).collect();
        let leader = view.leader.as_ref().map_or("none", NodeName::as_str);
        self.note(format!(
            "{node} sees: leader {leader}, majority {}, {} {}",
            view.quorum,
            statuses.join(" "),
            view.reason
        ));
        self.state().views.insert(node.clone(), view);
    }

    /// A member's view of the cluster.
    pub fn view(&self, node: &NodeName) -> Option<Arc<RolesView>> {
        self.state().views.get(node).cloned()
    }

    /// The process of a member has started.
    pub fn note_start(&self, node: &NodeName, incarnation: Incarnation) {
        self.state().incarnations.insert(node.clone(), incarnation);
    }

    /// The process of a member has ended; returns its incarnation.
    pub fn note_exit(&self, node: &NodeName) -> Option<Incarnation> {
        let mut state = self.state();
        state.views.remove(node);
        state.incarnations.remove(node)
    }

    /// The last node that acted under this duty, and the time.
    pub fn last_effect(&self, duty: Duty) -> Option<(Duration, NodeName)> {
        self.state().last_effects.get(&duty).cloned()
    }

    /// The last acting node, under any duty.
    pub fn last_actor(&self) -> Option<NodeName> {
        let state = self.state();
        state.last_effects.values().max_by_key(|(at, _)| *at).map(|(_, node)| node.clone())
    }

    /// The leader, by the views of most members.
    pub fn leader(&self) -> Option<NodeName> {
        let state = self.state();
        let votes = |name: &NodeName| state.views.values().filter(|v| v.leader.as_ref() == Some(name)).count();
        state.views.keys().max_by_key(|name| votes(name)).filter(|name| votes(name) > 0).cloned()
    }

    /// The reason why not each of these members sees a majority and all its nodes in service.
    pub fn unhealthy_reason(&self, members: &[NodeName]) -> Option<String> {
        let state = self.state();
        members.iter().find_map(|observer| {
            let Some(view) = state.views.get(observer) else { return Some(format!("{observer} does not run")) };
            if !view.quorum || !view.reason.is_empty() {
                return Some(format!("{observer} sees a majority: {}; {}", view.quorum, view.reason));
            }
            members.iter().find_map(|member| match view.member(member).map(|m| m.status) {
                Some(Status::InService) => None,
                status => Some(format!("{observer} sees {member} as {status:?}")),
            })
        })
    }

    /// Queues an administrator's order at `at`.
    pub fn order(&self, at: &NodeName, order: Order) {
        self.state().orders.entry(at.clone()).or_default().push_back(order);
    }

    /// The next order for this member.
    pub fn next_order(&self, at: &NodeName) -> Option<Order> {
        self.state().orders.get_mut(at)?.pop_front()
    }

    /// Queues a supervisor's report.
    pub fn queue_exit(&self, exited: Exited) {
        self.state().exits.push_back(exited);
    }

    /// The next report of a supervisor.
    pub fn next_exit(&self) -> Option<Exited> {
        self.state().exits.pop_front()
    }

    /// The trace, line by line.
    pub fn take_trace(&self) -> Vec<String> {
        std::mem::take(&mut self.state().trace)
    }

    /// The totals of the effects, and a digest of them.
    pub fn summary(&self) -> (Receiver, u64) {
        let state = self.state();
        (state.receiver.clone(), state.digest.finish())
    }
}
