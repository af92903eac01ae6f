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
use twinbox_roles::{Inheritance, MemberKind, RolesView, Status};

/// A member is lost after it has not worked for this time.
const LOST_FOR: Duration = Duration::from_secs(1);
/// The same for a missing majority; `STARTS_FOR` applies after the start, when all members are starting.
const NO_MAJORITY_FOR: Duration = Duration::from_secs(3);
const STARTS_FOR: Duration = Duration::from_secs(15);
/// Period before the start, in milliseconds. Older events were reported by an earlier incarnation, or not at all.
const BEFORE_THE_START: u64 = 600_000;

/// A report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Say {
    /// Raise an alarm: code, subject, detail.
    Raise(Code, String, String),
    /// Clear an alarm.
    Clear(Code, String),
    /// Report an event.
    Event(Kind, String, String),
}

/// Source of existing alarms.
pub trait Seen {
    /// Alarms of all nodes.
    fn alarms(&self) -> Vec<Alarm>;
}

/// State of the watch.
#[derive(Debug)]
pub struct RolesWatch {
    node: NodeName,
    began: BootInstant,
    began_at: Timestamp,
    /// Moves and splits that this node has reported and the group remembers: subject, and the end of the detail,
    /// which names the epoch or generation.
    told: BTreeSet<(String, String)>,
    statuses: BTreeMap<NodeName, Status>,
    /// Time since which members do not work, and whether this node has reported it.
    lost: BTreeMap<NodeName, (BootInstant, bool)>,
    no_majority: Option<BootInstant>,
    majority: Option<bool>,
    /// Members that this node reports as active in another group; `None` before the first poll after the start.
    rivals: Option<BTreeSet<NodeName>>,
}

impl RolesWatch {
    /// For a node that began at this time, with its events of earlier incarnations: subject and detail.
    pub fn new(
        node: &NodeName,
        began: BootInstant,
        began_at: Timestamp,
        told: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mark = |(subject, detail): (String, String)| {
            Some((subject, detail.rsplit_once("; ").map(|(_, mark)| mark.to_owned())?))
        };
        let told = told.into_iter().filter_map(mark).collect();
        Self {
            node: node.clone(),
            began,
            began_at,
            told,
            statuses: BTreeMap::new(),
            lost: BTreeMap::new(),
            no_majority: None,
            majority: None,
            rivals: None,
        }
    }

    /// Polls the state; `seen` is queried when a change occurred.
    pub fn look(&mut self, view: &RolesView, seen: &impl Seen, now: BootInstant) -> Vec<Say> {
        let mut said = Vec::new();
        if view.members.is_empty() {
            return said;
        }
        let nodes = view.members.iter().filter(|m| m.kind == MemberKind::Node && m.status == Status::InService);
        let reports = view.quorum && nodes.map(|m| &m.name).min() == Some(&self.node);
        self.moves(view, &mut said);
        self.heirs(view, &mut said);
        self.splits(view, &mut said);
        self.departures(view, &mut said);
        self.rivals(view, seen, now, &mut said);
        self.statuses(view, reports, &mut said);
        self.lost(view, reports, seen, now, &mut said);
        self.majority(view, now, &mut said);
        said
    }

    fn moves(&mut self, view: &RolesView, said: &mut Vec<Say>) {
        let own = self.node.clone();
        for moved in view.moves.iter().filter(|moved| moved.to == own) {
            let what = moved.what.to_string();
            if !self.is_new(&what, format!("epoch {}", moved.epoch), moved.at_ms) {
                continue;
            }
            let from = moved.from.as_ref().map_or("nobody", NodeName::as_str);
            let (cause, idle) = (&moved.cause, moved.idle_ms);
            let detail = format!("from {from} to {}: {cause}; {idle} ms without; epoch {}", moved.to, moved.epoch);
            let publisher = what == "publisher";
            let kind = if publisher { Kind::RoleMoved } else { Kind::DutyMoved };
            said.push(Say::Event(kind, what.clone(), detail.clone()));
            // The first holder, or the same holder in a new epoch, is no reportable move; nor is a duty that
            // follows the publisher.
            let elsewhere = moved.from.as_ref().is_some_and(|from| *from != moved.to);
            if elsewhere && publisher {
                said.push(Say::Raise(Code::RoleMoved, what, detail));
            } else if elsewhere && view.publisher.as_ref() != Some(&moved.to) {
                said.push(Say::Raise(Code::DutyMoved, what, detail));
            }
        }
    }

    /// The heir reports inherited calls; an incarnation without calls is not reported.
    fn heirs(&mut self, view: &RolesView, said: &mut Vec<Say>) {
        let own = self.node.clone();
        for item in view.heirs.iter().filter(|item| item.heir == own && item.calls > 0) {
            let subject = item.node.to_string();
            let mark = format!("life {}", item.life);
            if self.is_new(&subject, mark.clone(), item.at_ms) {
                let epoch =
                    item.epoch.as_ref().map_or("by proof alone".to_owned(), |epoch| format!("epoch {epoch}"));
                let Inheritance { heir, calls, cause, .. } = item;
                let detail = format!("heir {heir}, {epoch}: {cause}; {calls} calls at the last report; {mark}");
                said.push(Say::Event(Kind::CallsInherited, subject, detail));
            }
        }
    }

    fn splits(&mut self, view: &RolesView, said: &mut Vec<Say>) {
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
                said.push(Say::Event(Kind::SplitHealed, subject.clone(), detail.clone()));
                said.push(Say::Raise(Code::Split, subject, detail));
            }
        }
    }

    /// The node that went on alone reports it.
    fn departures(&mut self, view: &RolesView, said: &mut Vec<Say>) {
        let own = self.node.clone();
        for departure in view.departures.iter().filter(|departure| departure.by == own) {
            let generation = format!("generation {}", departure.generation);
            let lost: Vec<&str> = departure.lost.keys().map(NodeName::as_str).collect();
            let detail = format!("without {}, by an administrator's order; {generation}", lost.join(", "));
            if self.is_new(own.as_str(), generation, departure.at_ms) {
                said.push(Say::Event(Kind::WentAlone, own.to_string(), detail.clone()));
                said.push(Say::Raise(Code::GoneAlone, own.to_string(), detail));
            }
        }
    }

    /// Each side reports the other.
    fn rivals(&mut self, view: &RolesView, seen: &impl Seen, now: BootInstant, said: &mut Vec<Say>) {
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
            said.push(Say::Raise(Code::TwoGroups, name.to_string(), detail));
        }
        for name in before.difference(&view.rivals) {
            said.push(Say::Clear(Code::TwoGroups, name.to_string()));
        }
        self.rivals = Some(view.rivals.clone());
    }

    fn is_new(&mut self, subject: &str, mark: String, at_ms: u64) -> bool {
        let new = self.told.insert((subject.to_owned(), mark));
        new && at_ms.saturating_add(BEFORE_THE_START) >= self.began_at.0
    }

    fn statuses(&mut self, view: &RolesView, reports: bool, said: &mut Vec<Say>) {
        let known = !self.statuses.is_empty();
        for member in &view.members {
            let before = self.statuses.insert(member.name.clone(), member.status);
            if before == Some(member.status) {
                continue;
            }
            let own = member.name == self.node;
            let added = known && before.is_none() && !own;
            if own || (known && reports && (added || member.status == Status::NotFunctioning)) {
                let kind = if added { Kind::MemberAdded } else { Kind::MemberStatus };
                let colon = if member.reason.is_empty() { "" } else { ": " };
                let detail = format!("{}{colon}{}", member.status, member.reason);
                said.push(Say::Event(kind, member.name.to_string(), detail));
            }
        }
        let gone = |name: &&NodeName| view.member(name).is_none();
        for name in self.statuses.keys().filter(gone).cloned().collect::<Vec<_>>() {
            self.statuses.remove(&name);
            self.lost.remove(&name);
            said.push(Say::Clear(Code::MemberLost, name.to_string()));
            if reports {
                said.push(Say::Event(Kind::MemberRemoved, name.to_string(), String::new()));
            }
        }
    }

    fn lost(&mut self, view: &RolesView, reports: bool, seen: &impl Seen, now: BootInstant, said: &mut Vec<Say>) {
        for member in view.members.iter().filter(|m| m.name != self.node) {
            match member.status {
                Status::NotFunctioning => {
                    let (since, told) = self.lost.entry(member.name.clone()).or_insert((now, false));
                    let subject = member.name.to_string();
                    let raised = |alarm: &Alarm| {
                        alarm.code == Some(Code::MemberLost) && alarm.subject == subject && alarm.cleared.is_none()
                    };
                    // Alarms of an earlier incarnation of this node are raised again.
                    let others = |alarm: &Alarm| raised(alarm) && alarm.node != self.node;
                    let lasts = now.since(*since) >= LOST_FOR;
                    if reports && !*told && lasts && !seen.alarms().iter().any(others) {
                        *told = true;
                        said.push(Say::Raise(Code::MemberLost, subject, member.reason.clone()));
                    }
                }
                // The member is starting: wait.
                Status::Starting | Status::Recovering => {}
                _ => {
                    self.lost.remove(&member.name);
                    said.push(Say::Clear(Code::MemberLost, member.name.to_string()));
                }
            }
        }
    }

    fn majority(&mut self, view: &RolesView, now: BootInstant, said: &mut Vec<Say>) {
        let own = self.node.to_string();
        if view.quorum {
            self.no_majority = None;
            said.push(Say::Clear(Code::NoMajority, own.clone()));
            if self.majority == Some(false) {
                said.push(Say::Event(Kind::MajorityBack, own, String::new()));
            }
            self.majority = Some(true);
            return;
        }
        let since = *self.no_majority.get_or_insert(now);
        if now.since(since) >= NO_MAJORITY_FOR && now.since(self.began) >= STARTS_FOR {
            if self.majority != Some(false) {
                said.push(Say::Event(Kind::MajorityLost, own.clone(), view.reason.clone()));
                said.push(Say::Raise(Code::NoMajority, own, view.reason.clone()));
            }
            self.majority = Some(false);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use twinbox_roles::{Cause, MemberView, Move, State, What};

    use super::*;

    fn name(name: &str) -> NodeName {
        name.parse().expect("a name")
    }

    struct Nothing;

    impl Seen for Nothing {
        fn alarms(&self) -> Vec<Alarm> {
            Vec::new()
        }
    }

    /// A view of `a` with these members, with a majority.
    pub fn view(members: &[(&str, Status)]) -> RolesView {
        let state = State::default();
        RolesView {
            node: name("a"),
            members: members
                .iter()
                .map(|(member, status)| MemberView {
                    name: name(member),
                    kind: if *member == "w" { MemberKind::Witness } else { MemberKind::Node },
                    status: *status,
                    reason: if *status == Status::NotFunctioning { "not heard".to_owned() } else { String::new() },
                    incarnation: None,
                })
                .collect(),
            publisher: None,
            duties: Vec::new(),
            leader: None,
            quorum: true,
            reason: String::new(),
            settings: state.settings,
            moves: Vec::new(),
            splits: Vec::new(),
            departures: Vec::new(),
            rivals: BTreeSet::new(),
            feature_level: 1,
            cuts: Default::default(),
            heirs: Vec::new(),
        }
    }

    fn moved(what: What, from: Option<&str>, to: &str, number: u64) -> Move {
        Move {
            what,
            from: from.map(name),
            to: name(to),
            epoch: twinbox_ids::Epoch { generation: 0, number, node: name(to) },
            cause: Cause::Exit,
            at_ms: 1_000_000_000,
            idle_ms: 312,
        }
    }

    fn watch(node: &str) -> RolesWatch {
        RolesWatch::new(&name(node), at(0), Timestamp(1_000_000_000), BTreeSet::new())
    }

    fn at(ms: u64) -> BootInstant {
        BootInstant::from_nanos(ms * 1_000_000)
    }

    fn raised(said: &[Say]) -> Vec<(Code, &str)> {
        let raised = said.iter().filter_map(|say| match say {
            Say::Raise(code, subject, _) => Some((*code, subject.as_str())),
            _ => None,
        });
        raised.collect()
    }

    fn events(said: &[Say]) -> Vec<(Kind, &str)> {
        let events = said.iter().filter_map(|say| match say {
            Say::Event(kind, subject, _) => Some((*kind, subject.as_str())),
            _ => None,
        });
        events.collect()
    }

    #[test]
    fn who_gets_the_role_tells_it_once_with_cause_and_milliseconds() {
        let mut now = view(&[("a", Status::InService), ("b", Status::InService)]);
        now.publisher = Some(name("a"));
        let duty = What::Duty(twinbox_roles::Duty::Notifier);
        now.moves = vec![moved(What::Publisher, Some("b"), "a", 3), moved(duty, Some("b"), "a", 4)];
        let (mut a, mut b) = (watch("a"), watch("b"));
        let said = a.look(&now, &Nothing, at(0));
        assert_eq!(raised(&said), [(Code::RoleMoved, "publisher")]);
        assert!(events(&said).contains(&(Kind::RoleMoved, "publisher")));
        assert!(events(&said).contains(&(Kind::DutyMoved, "notifier")));
        let detail = said.iter().find_map(|say| match say {
            Say::Raise(.., detail) => Some(detail.clone()),
            _ => None,
        });
        assert_eq!(detail.as_deref(), Some("from b to a: exit; 312 ms without; epoch 0.3@a"));
        assert_eq!(raised(&b.look(&now, &Nothing, at(0))), [], "it went to the other");
        assert_eq!(raised(&a.look(&now, &Nothing, at(1))), []);
        // The next incarnation knows the reported moves; older ones are outside its period.
        let told = [("publisher".to_owned(), detail.unwrap_or_default())];
        let mut next = RolesWatch::new(&name("a"), at(0), Timestamp(1_000_000_000), told);
        assert_eq!(raised(&next.look(&now, &Nothing, at(2))), []);
        let later = Timestamp(1_000_000_000 + BEFORE_THE_START + 1);
        let mut later = RolesWatch::new(&name("a"), at(0), later, BTreeSet::new());
        assert_eq!(raised(&later.look(&now, &Nothing, at(2))), []);
    }

    #[test]
    fn the_heir_tells_once_whose_calls_it_answers_for() {
        let mut now = view(&[("a", Status::InService), ("b", Status::NotFunctioning)]);
        let life = |life| twinbox_ids::Incarnation(life);
        let item = |node: &str, calls| Inheritance {
            node: name(node),
            life: life(7),
            heir: name("a"),
            heir_life: life(1),
            epoch: Some(twinbox_ids::Epoch { generation: 0, number: 9, node: name("a") }),
            calls,
            cause: Cause::Exit,
            at_ms: 1_000_000_000,
        };
        now.heirs = vec![item("b", 3), item("c", 0)];
        let mut a = watch("a");
        let told = |said: &[Say]| {
            said.iter()
                .filter_map(|say| match say {
                    Say::Event(Kind::CallsInherited, subject, detail) => Some((subject.clone(), detail.clone())),
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
        let first = told(&a.look(&now, &Nothing, at(0)));
        let detail = format!("heir a, epoch 0.9@a: exit; 3 calls at the last report; life {}", life(7));
        assert_eq!(first, [("b".to_owned(), detail)], "one without calls is nothing to tell");
        // An exit proof first and the agreement later are one death.
        now.heirs[0].epoch = None;
        assert_eq!(told(&a.look(&now, &Nothing, at(1))), []);
        assert_eq!(told(&watch("b").look(&now, &Nothing, at(0))), [], "the heir tells it, nobody else");
    }

    #[test]
    fn a_duty_that_goes_by_itself_is_an_alarm_and_the_first_holder_is_none() {
        let duty = What::Duty(twinbox_roles::Duty::Notifier);
        for (what, from, publisher, expected) in [
            (duty, Some("b"), "b", Some(Code::DutyMoved)),
            (duty, Some("b"), "a", None),
            (duty, None, "b", None),
            (What::Publisher, None, "a", None),
            (What::Publisher, Some("a"), "a", None),
        ] {
            let mut now = view(&[("a", Status::InService)]);
            now.publisher = Some(name(publisher));
            now.moves = vec![moved(what, from, "a", 3)];
            let said = watch("a").look(&now, &Nothing, at(0));
            assert_eq!(raised(&said).first().map(|(code, _)| *code), expected, "{what} {from:?} {publisher}");
        }
    }

    #[test]
    fn a_lost_member_is_told_by_one_after_a_moment_and_is_over_when_it_is_back() {
        let (mut a, mut b) = (watch("a"), watch("b"));
        let all =
            |c| view(&[("a", Status::InService), ("b", Status::InService), ("c", c), ("w", Status::InService)]);
        let (well, lost) = (all(Status::InService), all(Status::NotFunctioning));
        let over = Say::Clear(Code::MemberLost, "c".to_owned());
        assert!(a.look(&well, &Nothing, at(0)).contains(&over));
        b.look(&well, &Nothing, at(0));
        let said = a.look(&lost, &Nothing, at(100));
        assert_eq!((raised(&said), events(&said)), (vec![], vec![(Kind::MemberStatus, "c")]));
        assert_eq!(raised(&a.look(&lost, &Nothing, at(1_200))), [(Code::MemberLost, "c")]);
        assert_eq!(raised(&a.look(&lost, &Nothing, at(1_450))), [], "said once");
        for ms in [100, 1_200] {
            let said = b.look(&lost, &Nothing, at(ms));
            assert_eq!((raised(&said), events(&said)), (vec![], vec![]), "b is not the first by name");
        }
        assert!(!a.look(&all(Status::Starting), &Nothing, at(2_000)).contains(&over));
        assert!(a.look(&well, &Nothing, at(3_000)).contains(&over));
        // A node without a majority does not judge the others.
        let mut cut = lost.clone();
        cut.quorum = false;
        a.look(&cut, &Nothing, at(4_000));
        assert_eq!(raised(&a.look(&cut, &Nothing, at(9_000))), []);
    }

    #[test]
    fn a_majority_that_stays_away_is_an_alarm_and_everyone_comes_first() {
        let mut a = watch("a");
        let (with, mut without) = (view(&[("a", Status::InService)]), view(&[("a", Status::InService)]));
        without.quorum = false;
        assert_eq!(raised(&a.look(&without, &Nothing, at(10_000))), [], "they are still coming");
        a.look(&with, &Nothing, at(16_000));
        assert_eq!(raised(&a.look(&without, &Nothing, at(20_000))), []);
        let said = a.look(&without, &Nothing, at(24_000));
        assert_eq!(
            (raised(&said), events(&said)),
            (vec![(Code::NoMajority, "a")], vec![(Kind::MajorityLost, "a")])
        );
        assert_eq!(events(&a.look(&with, &Nothing, at(25_000))), [(Kind::MajorityBack, "a")]);
    }

    #[test]
    fn who_went_on_alone_tells_it_once_and_each_side_tells_of_the_other_while_it_is_heard() {
        let mut now = view(&[("a", Status::InService)]);
        let lost = BTreeMap::from([(name("b"), (MemberKind::Node, "b:7070".to_owned()))]);
        let at_ms = 1_000_000_000;
        now.departures = vec![twinbox_roles::Departure { group: 1, by: name("a"), lost, generation: 3, at_ms }];
        let (mut a, mut b) = (watch("a"), watch("b"));
        let said = a.look(&now, &Nothing, at(0));
        assert_eq!(raised(&said), [(Code::GoneAlone, "a")]);
        assert!(events(&said).contains(&(Kind::WentAlone, "a")));
        assert!(said.iter().any(|s| matches!(s, Say::Raise(_, _, d) if d.contains("without b"))), "{said:?}");
        assert_eq!(raised(&a.look(&now, &Nothing, at(1))), []);
        assert_eq!(raised(&b.look(&now, &Nothing, at(1))), [], "somebody else did");

        now.rivals = BTreeSet::from([name("b")]);
        assert_eq!(raised(&a.look(&now, &Nothing, at(2))), [(Code::TwoGroups, "b")]);
        assert_eq!(raised(&a.look(&now, &Nothing, at(3))), []);
        now.rivals.clear();
        assert!(a.look(&now, &Nothing, at(4)).contains(&Say::Clear(Code::TwoGroups, "b".to_owned())));
    }

    #[test]
    fn a_split_is_reported_once_by_the_node_that_won_it_in_any_order_of_names() {
        let alone = |node: &str, number| twinbox_roles::SoloReport {
            epoch: twinbox_ids::Epoch { generation: 1, number, node: name(node) },
            duties: BTreeSet::from([twinbox_roles::Duty::Notifier]),
            from_ms: 1_000_000_000,
            to_ms: Some(1_000_007_000),
        };
        let ran = BTreeMap::from([(name("a"), alone("a", 4)), (name("b"), alone("b", 5))]);
        let split = twinbox_roles::Split { generation: 2, ran, winner: name("b"), healed_ms: 1_000_008_000 };
        let mut both = view(&[("a", Status::InService), ("b", Status::InService)]);
        both.splits = vec![split];
        let (mut a, mut b) = (watch("a"), watch("b"));
        assert_eq!(raised(&a.look(&both, &Nothing, at(0))), [], "a is the first by name, and b won");
        let said = b.look(&both, &Nothing, at(0));
        assert_eq!(raised(&said), [(Code::Split, "cluster")]);
        let detail = "a ran notifier alone for 7 s in epoch 1.4@a, b ran notifier alone for 7 s in epoch 1.5@b; b goes on; \
                      generation 2";
        assert!(said.contains(&Say::Event(Kind::SplitHealed, "cluster".to_owned(), detail.to_owned())), "{said:?}");
        // Later b is the first by name in service, and then only a.
        for states in [[Status::NotFunctioning, Status::InService], [Status::InService, Status::NotFunctioning]] {
            let mut later = view(&[("a", states[0]), ("b", states[1])]);
            later.splits.clone_from(&both.splits);
            for watch in [&mut a, &mut b] {
                assert!(!events(&watch.look(&later, &Nothing, at(5))).contains(&(Kind::SplitHealed, "cluster")));
            }
        }
    }

    #[test]
    fn members_that_come_and_go_are_told_by_one() {
        let (mut a, mut b) = (watch("a"), watch("b"));
        let two = view(&[("a", Status::InService), ("b", Status::InService)]);
        let three = view(&[("a", Status::InService), ("b", Status::InService), ("c", Status::Starting)]);
        for watch in [&mut a, &mut b] {
            watch.look(&two, &Nothing, at(0));
        }
        assert_eq!(events(&a.look(&three, &Nothing, at(1))), [(Kind::MemberAdded, "c")]);
        assert_eq!(events(&b.look(&three, &Nothing, at(1))), []);
        // The joining node already knew the others, and reports its own status.
        let mut c = watch("c");
        c.look(&two, &Nothing, at(0));
        assert_eq!(events(&c.look(&three, &Nothing, at(1))), [(Kind::MemberStatus, "c")]);
        assert_eq!(events(&a.look(&two, &Nothing, at(2))), [(Kind::MemberRemoved, "c")]);
    }
}
