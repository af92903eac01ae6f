//! Events and alarms from the state of the role manager. Pure.
//!
//! Every node has the same state, and one node reports each change. A move is reported by the new holder; a split
//! by its publisher; each node reports its own status; members that are added, removed or lost are reported by the
//! first node in service by name. An alarm already raised by another node is not raised again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_alarms::{Alarm, Code, Kind};
use twinbox_clock::BootInstant;
use twinbox_ids::{NodeName, Timestamp};
use twinbox_roles::{CallHeir, MemberKind, RolesView, Status};

/// A member is lost after it has not worked for this time.
const LOST_FOR: Duration = Duration::from_secs(1);
/// The same for a missing majority; `STARTS_FOR` applies after the start, when all members are starting.
const NO_MAJORITY_FOR: Duration = Duration::from_secs(3);
const STARTS_FOR: Duration = Duration::from_secs(15);
/// Interval at which alarms of removed members are looked for.
const REMOVED_AGAIN: Duration = Duration::from_secs(60);
/// Period before the start, in milliseconds. Older events were reported by an earlier incarnation, or not at all.
const BEFORE_THE_START: u64 = 600_000;

/// A report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Raise an alarm: code, subject, detail.
    Raise(Code, String, String),
    /// Clear an alarm.
    Clear(Code, String),
    /// Report an event.
    Event(Kind, String, String),
    /// Clear the conditions that this removed member raised.
    EndOf(NodeName),
}

/// Source of existing alarms.
pub trait AlarmSource {
    /// Alarms of all nodes.
    fn alarms(&self) -> Vec<Alarm>;
}

/// State of the watch.
#[derive(Debug)]
pub struct RolesRules {
    node: NodeName,
    began: BootInstant,
    began_at: Timestamp,
    /// Moves and splits that this node has reported and the group remembers: subject, and the end of the detail,
    /// which names the epoch or generation.
    reported: BTreeSet<(String, String)>,
    statuses: BTreeMap<NodeName, Status>,
    /// Removed members, and the time when this node looked for their alarms.
    removed: (BTreeSet<NodeName>, BootInstant),
    /// Time since which members do not work, and whether this node has reported it.
    lost: BTreeMap<NodeName, (BootInstant, bool)>,
    no_majority: Option<BootInstant>,
    majority: Option<bool>,
    /// Members that this node reports as active in another group; `None` before the first poll after the start.
    rivals: Option<BTreeSet<NodeName>>,
}

impl RolesRules {
    /// For a node that began at this time, with its events of earlier incarnations: subject and detail.
    pub fn new(
        node: &NodeName,
        began: BootInstant,
        began_at: Timestamp,
        reported: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mark = |(subject, detail): (String, String)| {
            Some((subject, detail.rsplit_once("; ").map(|(_, mark)| mark.to_owned())?))
        };
        let reported = reported.into_iter().filter_map(mark).collect();
        Self {
            node: node.clone(),
            began,
            began_at,
            reported,
            statuses: BTreeMap::new(),
            removed: (BTreeSet::new(), began),
            lost: BTreeMap::new(),
            no_majority: None,
            majority: None,
            rivals: None,
        }
    }

    /// Polls the state; `seen` is queried when a change occurred.
    pub fn look(&mut self, view: &RolesView, seen: &impl AlarmSource, now: BootInstant) -> Vec<Report> {
        let mut reports = Vec::new();
        if view.members.is_empty() {
            return reports;
        }
        let is_reporter = self.is_reporter(view);
        self.moves(view, &mut reports);
        self.heirs(view, &mut reports);
        self.splits(view, &mut reports);
        self.departures(view, &mut reports);
        self.rivals(view, seen, now, &mut reports);
        self.statuses(view, is_reporter, &mut reports);
        self.lost(view, is_reporter, seen, now, &mut reports);
        self.majority(view, now, &mut reports);
        reports
    }

    /// Ends of what removed members raised: they cannot clear it themselves. `removed` are those that have not joined again.
    pub fn removed(
        &mut self,
        view: &RolesView,
        removed: &BTreeSet<NodeName>,
        seen: &impl AlarmSource,
        now: BootInstant,
    ) -> Vec<Report> {
        // Alarms that a member raised at its end may arrive by way of another node, after the removal.
        let is_due = self.removed.0 != *removed || now.since(self.removed.1) >= REMOVED_AGAIN;
        if removed.is_empty() || !is_due || !self.is_reporter(view) {
            return Vec::new();
        }
        self.removed = (removed.clone(), now);
        let raised = seen.alarms().into_iter().filter(|alarm| alarm.cleared.is_none());
        // One that has joined again clears its alarms itself.
        let is_gone = |node: &NodeName| removed.contains(node) && view.member(node).is_none();
        let nodes: BTreeSet<_> = raised.map(|alarm| alarm.node).filter(is_gone).collect();
        nodes.into_iter().map(Report::EndOf).collect()
    }

    fn is_reporter(&self, view: &RolesView) -> bool {
        let nodes = view.members.iter().filter(|m| m.kind == MemberKind::Node && m.status == Status::InService);
        view.quorum && nodes.map(|m| &m.name).min() == Some(&self.node)
    }

    fn moves(&mut self, view: &RolesView, reports: &mut Vec<Report>) {
        let own = self.node.clone();
        for moved in view.moves.iter().filter(|moved| moved.to == own) {
            let what = moved.object.to_string();
            if !self.is_new(&what, format!("epoch {}", moved.epoch), moved.at_ms) {
                continue;
            }
            let from = moved.from.as_ref().map_or("nobody", NodeName::as_str);
            let (cause, idle) = (&moved.cause, moved.idle_ms);
            let detail = format!("from {from} to {}: {cause}; {idle} ms without; epoch {}", moved.to, moved.epoch);
            let publisher = what == "publisher";
            let kind = if publisher { Kind::RoleMoved } else { Kind::DutyMoved };
            reports.push(Report::Event(kind, what.clone(), detail.clone()));
            // The first holder, or the same holder in a new epoch, is no reportable move; nor is a duty that
            // follows the publisher.
            let elsewhere = moved.from.as_ref().is_some_and(|from| *from != moved.to);
            if elsewhere && publisher {
                reports.push(Report::Raise(Code::RoleMoved, what, detail));
            } else if elsewhere && view.publisher.as_ref() != Some(&moved.to) {
                reports.push(Report::Raise(Code::DutyMoved, what, detail));
            }
        }
    }

    /// The heir reports inherited calls; an incarnation without calls is not reported.
    fn heirs(&mut self, view: &RolesView, reports: &mut Vec<Report>) {
        let own = self.node.clone();
        for item in view.heirs.iter().filter(|item| item.heir == own && item.calls > 0) {
            let subject = item.node.to_string();
            let mark = format!("life {}", item.incarnation);
            if self.is_new(&subject, mark.clone(), item.at_ms) {
                let epoch =
                    item.epoch.as_ref().map_or("by proof alone".to_owned(), |epoch| format!("epoch {epoch}"));
                let CallHeir { heir, calls, cause, .. } = item;
                let detail = format!("heir {heir}, {epoch}: {cause}; {calls} calls at the last report; {mark}");
                reports.push(Report::Event(Kind::CallsInherited, subject, detail));
            }
        }
    }

    fn splits(&mut self, view: &RolesView, reports: &mut Vec<Report>) {
        let own = self.node.clone();
        for split in view.splits.iter().filter(|split| split.winner == own) {
            let ran = split.ran.iter().map(|(node, alone)| {
                let duties: Vec<String> = alone.duties.iter().map(ToString::to_string).collect();
                let ms = alone.to_ms.unwrap_or(split.healed_ms).saturating_sub(alone.from_ms);
                let (duties, seconds) = (duties.join(" and "), ms / 1_000);
                format!("{node} ran {duties} alone for {seconds} s in epoch {}", alone.epoch)
            });
            let ran: Vec<String> = ran.collect();
            let generation = format!("generation {}", split.generation);
            let detail = format!("{}; {} goes on; {generation}", ran.join(", "), split.winner);
            let subject = "cluster".to_owned();
            if self.is_new(&subject, generation, split.healed_ms) {
                reports.push(Report::Event(Kind::SplitHealed, subject.clone(), detail.clone()));
                reports.push(Report::Raise(Code::Split, subject, detail));
            }
        }
    }

    /// The node that went on alone reports it.
    fn departures(&mut self, view: &RolesView, reports: &mut Vec<Report>) {
        let own = self.node.clone();
        for departure in view.departures.iter().filter(|departure| departure.by == own) {
            let generation = format!("generation {}", departure.generation);
            let lost: Vec<&str> = departure.lost.keys().map(NodeName::as_str).collect();
            let detail = format!("without {}, by an administrator's order; {generation}", lost.join(", "));
            if self.is_new(own.as_str(), generation, departure.at_ms) {
                reports.push(Report::Event(Kind::WentAlone, own.to_string(), detail.clone()));
                reports.push(Report::Raise(Code::GoneAlone, own.to_string(), detail));
            }
        }
    }

    /// Each side reports the other.
    fn rivals(&mut self, view: &RolesView, seen: &impl AlarmSource, now: BootInstant, reports: &mut Vec<Report>) {
        let own = self.node.clone();
        let before = match &self.rivals {
            Some(before) => before.clone(),
            // An alarm of an earlier incarnation ends if the other group is not heard for some time.
            None if view.rivals.is_empty() && now.since(self.began) < STARTS_FOR => return,
            None => {
                let raised = seen.alarms().into_iter().filter(|alarm| {
                    alarm.code == Some(Code::TwoGroups) && alarm.node == own && alarm.cleared.is_none()
                });
                raised.filter_map(|alarm| alarm.subject.parse().ok()).collect()
            }
        };
        for name in view.rivals.iter().filter(|name| self.rivals.is_none() || !before.contains(*name)) {
            let detail = format!("{name} is heard, and acts in another group than {own}");
            reports.push(Report::Raise(Code::TwoGroups, name.to_string(), detail));
        }
        for name in before.difference(&view.rivals) {
            reports.push(Report::Clear(Code::TwoGroups, name.to_string()));
        }
        self.rivals = Some(view.rivals.clone());
    }

    fn is_new(&mut self, subject: &str, mark: String, at_ms: u64) -> bool {
        let new = self.reported.insert((subject.to_owned(), mark));
        new && at_ms.saturating_add(BEFORE_THE_START) >= self.began_at.0
    }

    fn statuses(&mut self, view: &RolesView, is_reporter: bool, reports: &mut Vec<Report>) {
        let known = !self.statuses.is_empty();
        for member in &view.members {
            let before = self.statuses.insert(member.name.clone(), member.status);
            if before == Some(member.status) {
                continue;
            }
            let own = member.name == self.node;
            let added = known && before.is_none() && !own;
            if own || (known && is_reporter && (added || member.status == Status::NotFunctioning)) {
                let kind = if added { Kind::MemberAdded } else { Kind::MemberStatus };
                let colon = if member.reason.is_empty() { "" } else { ": " };
                let detail = format!("{}{colon}{}", member.status, member.reason);
                reports.push(Report::Event(kind, member.name.to_string(), detail));
            }
        }
        let gone = |name: &&NodeName| view.member(name).is_none();
        for name in self.statuses.keys().filter(gone).cloned().collect::<Vec<_>>() {
            self.statuses.remove(&name);
            self.lost.remove(&name);
            reports.push(Report::Clear(Code::MemberLost, name.to_string()));
            if is_reporter {
                reports.push(Report::Event(Kind::MemberRemoved, name.to_string(), String::new()));
            }
        }
    }

    fn lost(
        &mut self,
        view: &RolesView,
        is_reporter: bool,
        seen: &impl AlarmSource,
        now: BootInstant,
        reports: &mut Vec<Report>,
    ) {
        for member in view.members.iter().filter(|m| m.name != self.node) {
            match member.status {
                Status::NotFunctioning => {
                    let (since, told) = self.lost.entry(member.name.clone()).or_insert((now, false));
                    let subject = member.name.to_string();
                    let raised = |alarm: &Alarm| {
                        alarm.code == Some(Code::MemberLost) && alarm.subject == subject && alarm.cleared.is_none()
                    };
                    // Only a node that runs clears its alarms. An alarm of an earlier incarnation of this node is raised again,
                    // too.
                    let runs = |name: &NodeName| {
                        view.members
                            .iter()
                            .any(|other| other.name == *name && other.status != Status::NotFunctioning)
                    };
                    let others = |alarm: &Alarm| raised(alarm) && alarm.node != self.node && runs(&alarm.node);
                    let lasts = now.since(*since) >= LOST_FOR;
                    if is_reporter && !*told && lasts && !seen.alarms().iter().any(others) {
                        *told = true;
                        reports.push(Report::Raise(Code::MemberLost, subject, member.reason.clone()));
                    }
                }
                // The member is starting: wait.
                Status::Starting | Status::Recovering => {}
                _ => {
                    self.lost.remove(&member.name);
                    reports.push(Report::Clear(Code::MemberLost, member.name.to_string()));
                }
            }
        }
    }

    fn majority(&mut self, view: &RolesView, now: BootInstant, reports: &mut Vec<Report>) {
        let own = self.node.to_string();
        if view.quorum {
            self.no_majority = None;
            reports.push(Report::Clear(Code::NoMajority, own.clone()));
            if self.majority == Some(false) {
                reports.push(Report::Event(Kind::MajorityBack, own, String::new()));
            }
            self.majority = Some(true);
            return;
        }
        let since = *self.no_majority.get_or_insert(now);
        if now.since(since) >= NO_MAJORITY_FOR && now.since(self.began) >= STARTS_FOR {
            if self.majority != Some(false) {
                reports.push(Report::Event(Kind::MajorityLost, own.clone(), view.reason.clone()));
                reports.push(Report::Raise(Code::NoMajority, own, view.reason.clone()));
            }
            self.majority = Some(false);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
