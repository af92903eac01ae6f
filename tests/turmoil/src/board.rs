//! The view from outside of all machines, on global time: effects, judged as they arrive (rule P3), and the members'
//! views of the cluster.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles::{Order, RolesView, Status};
use twinbox_simulation::{Effect, Receiver};

use crate::clocks;

/// A violated rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Whether it was seen by effects, not only by missing ones.
    pub outside: bool,
    /// Description.
    pub words: String,
}

/// A supervisor's report: this incarnation of `of` has exited; with the addressee.
#[derive(Debug, Clone)]
pub struct Exited {
    pub of: NodeName,
    pub life: Incarnation,
    pub to: NodeName,
}

/// The board, shared by all machines.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    trace: Vec<String>,
    violation: Option<Violation>,
    receiver: Receiver,
    epochs: BTreeSet<(Epoch, Incarnation)>,
    last_effect: Option<(Duration, NodeName)>,
    /// Digest of all effects and their times.
    digest: DefaultHasher,
    views: BTreeMap<NodeName, Arc<RolesView>>,
    lives: BTreeMap<NodeName, Incarnation>,
    orders: BTreeMap<NodeName, VecDeque<Order>>,
    exits: VecDeque<Exited>,
}

impl Board {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line to the trace.
    pub fn note(&self, what: impl AsRef<str>) {
        self.write(clocks::global(), what.as_ref());
    }

    fn write(&self, at: Duration, what: &str) {
        self.seen().trace.push(format!("{:>9.3} ms  {what}", at.as_secs_f64() * 1000.0));
    }

    /// The fake receiver: `node` acts now.
    pub fn act(&self, node: &NodeName, effect: &Effect) {
        let at = clocks::global();
        let Effect { epoch, life, solo, paused } = effect;
        let mut seen = self.seen();
        (at, epoch, node).hash(&mut seen.digest);
        let first = seen.epochs.insert((epoch.clone(), *life));
        seen.last_effect = Some((at, node.clone()));
        let micros = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        let accepted = seen.receiver.accept(micros, effect);
        drop(seen);
        if first || accepted.is_err() {
            let how = [(*solo, ", alone"), (*paused, ", after a pause")];
            let how: String = how.into_iter().filter_map(|(is, word)| is.then_some(word)).collect();
            self.note(format!("{node} acts in {epoch}{how}"));
        }
        if epoch.node != *node {
            self.violate(true, format!("{node} acts in {epoch}, which is another's"));
        }
        if let Err(violation) = accepted {
            self.violate(true, violation.to_string());
        }
    }

    /// Records a violation; the first one counts.
    pub fn violate(&self, outside: bool, words: String) {
        if self.violation().is_none() {
            // A panic may come from a place where the simulation must not be asked for the time.
            self.write(clocks::last(), &format!("WRONG: {words}"));
            self.seen().violation = Some(Violation { outside, words });
        }
    }

    /// The violated rule, if any.
    pub fn violation(&self) -> Option<Violation> {
        self.seen().violation.clone()
    }

    /// Stores a member's view of the cluster.
    pub fn show(&self, node: &NodeName, view: Arc<RolesView>) {
        let of = |name: &NodeName| view.member(name).map(|m| m.status.to_string()).unwrap_or_default();
        let statuses: Vec<String> = view.members.iter().map(|m| format!("{}={}", m.name, of(&m.name))).collect();
        let leader = view.leader.as_ref().map_or("nobody", NodeName::as_str);
        self.note(format!(
            "{node} sees: leader {leader}, majority {}, {} {}",
            view.quorum,
            statuses.join(" "),
            view.reason
        ));
        self.seen().views.insert(node.clone(), view);
    }

    /// A member's view of the cluster.
    pub fn view(&self, node: &NodeName) -> Option<Arc<RolesView>> {
        self.seen().views.get(node).cloned()
    }

    /// The process of a member has started.
    pub fn born(&self, node: &NodeName, life: Incarnation) {
        self.seen().lives.insert(node.clone(), life);
    }

    /// The process of a member has ended; returns its incarnation.
    pub fn gone(&self, node: &NodeName) -> Option<Incarnation> {
        let mut seen = self.seen();
        seen.views.remove(node);
        seen.lives.remove(node)
    }

    /// The last acting node, and the time.
    pub fn last_effect(&self) -> Option<(Duration, NodeName)> {
        self.seen().last_effect.clone()
    }

    /// The leader, by the views of most members.
    pub fn leader(&self) -> Option<NodeName> {
        let seen = self.seen();
        let says = |name: &NodeName| seen.views.values().filter(|v| v.leader.as_ref() == Some(name)).count();
        seen.views.keys().max_by_key(|name| says(name)).filter(|name| says(name) > 0).cloned()
    }

    /// The reason why not each of these members sees a majority and all its nodes in service.
    pub fn not_well(&self, members: &[NodeName]) -> Option<String> {
        let seen = self.seen();
        members.iter().find_map(|asked| {
            let Some(view) = seen.views.get(asked) else { return Some(format!("{asked} does not run")) };
            if !view.quorum || !view.reason.is_empty() {
                return Some(format!("{asked} sees a majority: {}; {}", view.quorum, view.reason));
            }
            members.iter().find_map(|member| match view.member(member).map(|m| m.status) {
                Some(Status::InService) => None,
                status => Some(format!("{asked} sees {member} as {status:?}")),
            })
        })
    }

    /// Queues an administrator's order at `at`.
    pub fn order(&self, at: &NodeName, order: Order) {
        self.seen().orders.entry(at.clone()).or_default().push_back(order);
    }

    /// The next order for this member.
    pub fn next_order(&self, at: &NodeName) -> Option<Order> {
        self.seen().orders.get_mut(at)?.pop_front()
    }

    /// Queues a supervisor's report.
    pub fn tell(&self, exited: Exited) {
        self.seen().exits.push_back(exited);
    }

    /// The next report of a supervisor.
    pub fn next_exit(&self) -> Option<Exited> {
        self.seen().exits.pop_front()
    }

    /// The trace, line by line.
    pub fn take_trace(&self) -> Vec<String> {
        std::mem::take(&mut self.seen().trace)
    }

    /// The totals of the effects, and a digest of them.
    pub fn summary(&self) -> (Receiver, u64) {
        let seen = self.seen();
        (seen.receiver.clone(), seen.digest.finish())
    }
}
