//! The planner: from what is known to what is to be done. Pure and total; it decides everything that moves.
//!
//! For every view `plan(apply(plan(view)))` is empty: what the planner wants it says at once, and when it has
//! been done it wants nothing more until something changes (rule P5).

use std::{collections::BTreeMap, time::Duration};

use twinbox_ids::{Epoch, Incarnation, NodeName};

use crate::{Command, Duty, Member, MemberKind, ServiceHealth, State, Status, Timing};

/// Everything that the planner is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// What has been agreed.
    pub state: State,
    /// The leader's clock.
    pub now: Duration,
    /// What the leader knows of each member.
    pub seen: BTreeMap<NodeName, Seen>,
    /// What the leader knows of each duty's lease.
    pub leases: BTreeMap<Duty, LeaseFact>,
}

/// What the leader knows of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Whether it is there.
    pub presence: Presence,
    /// The life of its process that was heard last.
    pub incarnation: Option<Incarnation>,
    /// Its critical services that fail; `None` as long as it has not reported on them.
    pub failing: Option<Vec<ServiceHealth>>,
    /// Since when it has been as well or as ill as it is.
    pub health_since: Duration,
}

/// Whether a member is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Its node lease runs.
    Live,
    /// The leader is too new to know.
    Unknown,
    /// Its node lease has run out.
    Silent,
    /// It said that it was leaving.
    Left,
}

/// What the leader knows of the lease of one epoch of a duty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseFact {
    /// Which epoch; a fact about another epoch than the agreed one says nothing of that.
    pub epoch: Epoch,
    /// Somebody may be acting under it.
    pub held: bool,
    /// It will not be extended again.
    pub frozen: bool,
}

/// What the planner may be told to do otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How long a critical service must have failed before its node is taken out.
    pub health_grace: Duration,
    /// How long a node that was taken out must have been well before it is in service again.
    pub settle: Duration,
}

impl From<Timing> for Policy {
    fn from(timing: Timing) -> Self {
        Self { health_grace: timing.health_grace, settle: timing.settle }
    }
}

/// What is to be done now, in this order.
pub fn plan(view: &View, policy: &Policy) -> Vec<Command> {
    let mut commands = Vec::new();
    let mut next = view.state.clone();
    for command in statuses(view, policy) {
        next.apply(command.clone());
        commands.push(command);
    }
    let ready = Ready { view, next: &next };
    let publisher = ready.publisher();
    if let Some(to) = publisher.as_ref().filter(|to| next.publisher.as_ref().is_none_or(|e| e.node != **to)) {
        commands.push(Command::SetPublisher { from: next.publisher.clone(), to: to.clone() });
    }
    commands.extend(Duty::ALL.into_iter().filter_map(|duty| ready.duty(duty, publisher.as_ref())));
    commands
}

/// Who goes into and out of service.
fn statuses(view: &View, policy: &Policy) -> Vec<Command> {
    let mut wanted = Vec::new();
    let mut failed = Vec::new();
    let mut recovering = Vec::new();
    for (name, member) in view.state.members.iter().filter(|(_, member)| member.activated) {
        let Some(seen) = view.seen.get(name) else { continue };
        match judge(member, seen, view.now, policy) {
            Verdict::Stay => {}
            Verdict::Recovering => recovering.push((name, member, seen)),
            Verdict::Be(status, reason) => wanted.push((name, member, seen, status, reason)),
            Verdict::Fail(reason) => failed.push((name, member, seen, reason)),
        }
    }
    // Those who have failed leave one by one, the publisher last, as long as another serves (rule R9).
    let publisher = view.state.publisher.as_ref().map(|epoch| &epoch.node);
    failed.sort_by_key(|(name, ..)| (Some(*name) == publisher, *name));
    let serving = |name: &NodeName, member: &Member| match wanted.iter().find(|(n, ..)| *n == name) {
        Some((_, _, _, status, _)) => member.kind == MemberKind::Node && *status == Status::InService,
        None => member.serves(),
    };
    let mut left = view.state.members.iter().filter(|(name, member)| serving(name, member)).count();
    for (name, member, seen, reason) in failed {
        if !member.serves() {
            wanted.push((name, member, seen, Status::NotFunctioning, reason));
        } else if left > 1 {
            left -= 1;
            wanted.push((name, member, seen, Status::NotFunctioning, reason));
        }
    }
    // When nobody else serves, who is well does so at once.
    if left == 0 {
        wanted.extend(recovering.into_iter().map(|(n, m, s)| (n, m, s, Status::InService, String::new())));
    }
    wanted
        .into_iter()
        .filter(|(_, member, seen, status, reason)| {
            let incarnation = seen.incarnation.or(member.incarnation);
            member.status != *status || member.incarnation != incarnation || member.reason != *reason
        })
        .map(|(name, member, seen, status, reason)| Command::SetStatus {
            name: name.clone(),
            revision: member.revision,
            status,
            incarnation: seen.incarnation.or(member.incarnation),
            reason,
        })
        .collect()
}

enum Verdict {
    Stay,
    Be(Status, String),
    /// Well again, though not for long.
    Recovering,
    /// Out for a failed service, unless it is the last.
    Fail(String),
}

fn judge(member: &Member, seen: &Seen, now: Duration, policy: &Policy) -> Verdict {
    let silent = |reason: &str| Verdict::Be(Status::NotFunctioning, reason.to_owned());
    match seen.presence {
        Presence::Unknown => return Verdict::Stay,
        Presence::Silent => return silent("nothing has been heard of it for longer than its lease"),
        Presence::Left => return silent("it has been shut down"),
        Presence::Live => {}
    }
    let same_life = member.incarnation == seen.incarnation;
    let so_far = now.saturating_sub(seen.health_since);
    let in_service = Verdict::Be(Status::InService, String::new());
    match (&seen.failing, member.kind) {
        (_, MemberKind::Witness) => in_service,
        (None, _) if same_life && member.status == Status::InService => Verdict::Stay,
        (None, _) => Verdict::Be(Status::Starting, "it has not reported on its services yet".to_owned()),
        (Some(failing), _) if failing.is_empty() => {
            let recovering = member.status == Status::NotFunctioning && same_life;
            match recovering && so_far < policy.settle {
                true => Verdict::Recovering,
                false => in_service,
            }
        }
        (Some(failing), _) if so_far >= policy.health_grace => Verdict::Fail(words(failing)),
        (Some(_), _) if same_life => Verdict::Stay,
        (Some(failing), _) => Verdict::Be(Status::Starting, words(failing)),
    }
}

fn words(failing: &[ServiceHealth]) -> String {
    let each = failing.iter().map(|service| match service.detail.is_empty() {
        true => format!("{} has failed", service.name),
        false => format!("{} has failed: {}", service.name, service.detail),
    });
    each.collect::<Vec<_>>().join("; ")
}

/// The statuses are decided; who takes what?
struct Ready<'a> {
    view: &'a View,
    next: &'a State,
}

impl Ready<'_> {
    /// The life in which a node could take a duty now.
    fn candidate(&self, name: &NodeName) -> Option<Incarnation> {
        let seen = self.view.seen.get(name).filter(|seen| seen.presence == Presence::Live)?;
        seen.incarnation.filter(|_| self.next.serves(name))
    }

    /// The publisher stays where it is as long as that node serves.
    fn publisher(&self) -> Option<NodeName> {
        let present = self.next.publisher.as_ref().map(|epoch| &epoch.node);
        if let Some(name) = present.filter(|name| self.next.serves(name)) {
            return Some(name.clone());
        }
        let holds = |name: &NodeName| self.next.duties.values().filter(|a| a.epoch.node == *name).count();
        self.next
            .members
            .keys()
            .filter(|name| self.candidate(name).is_some())
            .min_by_key(|name| (std::cmp::Reverse(holds(name)), *name))
            .cloned()
    }

    fn duty(&self, duty: Duty, publisher: Option<&NodeName>) -> Option<Command> {
        let target = publisher.and_then(|name| self.candidate(name).map(|life| (name, life)));
        let assign = |from: Option<&Epoch>| {
            let (to, incarnation) = target?;
            Some(Command::Assign { duty, from: from.cloned(), to: to.clone(), incarnation })
        };
        let Some(present) = self.next.duties.get(&duty) else { return assign(None) };
        // A fact about an earlier epoch: this one has just been given, and nobody else has it.
        let fact = self.view.leases.get(&duty).filter(|fact| fact.epoch == present.epoch);
        let held = fact.is_some_and(|fact| fact.held);
        let frozen = fact.is_some_and(|fact| fact.frozen) || present.draining;
        let in_place = target.is_some_and(|(to, life)| present.epoch.node == *to && present.incarnation == life);
        let out = self.next.members.get(&present.epoch.node).is_none_or(|member| !member.activated);
        if in_place && !frozen {
            return None;
        }
        match (held, fact.is_some()) {
            (false, true) => assign(Some(&present.epoch)),
            _ if (target.is_some() || out) && !present.draining => {
                Some(Command::Drain { duty, epoch: present.epoch.clone() })
            }
            _ => None,
        }
    }
}
