//! What is seen from outside of all machines, on global time: effects, judged as they come (rule P3), and what members
//! say of the cluster.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use twinbox_ids::{Epoch, NodeName};
use twinbox_roles::{RolesView, Status};

use crate::clocks;

/// A rule that is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Whether it was seen by effects, not only by what did not happen.
    pub outside: bool,
    /// In words.
    pub words: String,
}

/// The board, shared by all.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    trace: Vec<String>,
    violation: Option<Violation>,
    highest: Option<(u64, u64)>,
    epochs: BTreeMap<(u64, u64), NodeName>,
    last_effect: Option<(Duration, NodeName)>,
    effects: u64,
    /// Of all effects, with when each was.
    digest: DefaultHasher,
    views: BTreeMap<NodeName, Arc<RolesView>>,
    orders: BTreeMap<NodeName, VecDeque<NodeName>>,
}

impl Board {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line of the trace.
    pub fn note(&self, what: impl AsRef<str>) {
        self.write(clocks::global(), what.as_ref());
    }

    fn write(&self, at: Duration, what: &str) {
        self.seen().trace.push(format!("{:>9.3} ms  {what}", at.as_secs_f64() * 1000.0));
    }

    /// The fake receiver: `node` acts in this epoch, now.
    pub fn act(&self, node: &NodeName, epoch: &Epoch) {
        let at = clocks::global();
        let number = (epoch.generation, epoch.number);
        let mut seen = self.seen();
        seen.effects += 1;
        (at, number, node.as_str()).hash(&mut seen.digest);
        let first = !seen.epochs.contains_key(&number);
        let owner = seen.epochs.entry(number).or_insert_with(|| node.clone()).clone();
        let highest = seen.highest;
        seen.last_effect = Some((at, node.clone()));
        seen.highest = highest.max(Some(number));
        let wrong = if owner != *node || epoch.node != *node {
            Some(format!("two act in one epoch: {node} in {epoch}, which is {owner}'s"))
        } else if highest.is_some_and(|highest| highest > number) {
            Some(format!("{node} acts in {epoch} after somebody acted in {highest:?}"))
        } else {
            None
        };
        drop(seen);
        if first {
            self.note(format!("{node} acts in {epoch}"));
        }
        if let Some(words) = wrong {
            self.violate(true, words);
        }
    }

    /// A rule is broken; the first one counts.
    pub fn violate(&self, outside: bool, words: String) {
        if self.violation().is_none() {
            // A panic may come from where the simulation must not be asked for the time.
            self.write(clocks::last(), &format!("WRONG: {words}"));
            self.seen().violation = Some(Violation { outside, words });
        }
    }

    /// The rule that is broken, if one is.
    pub fn violation(&self) -> Option<Violation> {
        self.seen().violation.clone()
    }

    /// A member says how it sees the cluster.
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

    /// The process of a member is gone.
    pub fn gone(&self, node: &NodeName) {
        self.seen().views.remove(node);
    }

    /// Who acted last, and when.
    pub fn last_effect(&self) -> Option<(Duration, NodeName)> {
        self.seen().last_effect.clone()
    }

    /// Who leads, by what most members say.
    pub fn leader(&self) -> Option<NodeName> {
        let seen = self.seen();
        let says = |name: &NodeName| seen.views.values().filter(|v| v.leader.as_ref() == Some(name)).count();
        seen.views.keys().max_by_key(|name| says(name)).filter(|name| says(name) > 0).cloned()
    }

    /// Why it is not so that each of these sees a majority and all nodes of them in service.
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

    /// An administrator asks `at` to make `publisher` the publisher.
    pub fn order(&self, at: &NodeName, publisher: NodeName) {
        self.seen().orders.entry(at.clone()).or_default().push_back(publisher);
    }

    /// The next order for this member.
    pub fn next_order(&self, at: &NodeName) -> Option<NodeName> {
        self.seen().orders.get_mut(at)?.pop_front()
    }

    /// What happened, line by line.
    pub fn take_trace(&self) -> Vec<String> {
        std::mem::take(&mut self.seen().trace)
    }

    /// What the run was worth: effects, epochs, and a digest of the former.
    pub fn summary(&self) -> (u64, usize, u64) {
        let seen = self.seen();
        (seen.effects, seen.epochs.len(), seen.digest.finish())
    }
}
