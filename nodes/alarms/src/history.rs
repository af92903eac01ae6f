//! Stored events of all nodes, and the choice of the next event for a reader. Pure.
//!
//! Events of one node are ordered by origin of its store, then by number. A reader gets each event once, in that
//! order. Replication delivers changes in any order, so a hole is either filled later or its events are lost: the
//! store's vector decides which.

use std::collections::BTreeMap;

use twinbox_ids::{NodeName, Origin};
use twinbox_replication_core::Vector;

use crate::{
    cursor::{Cursor, Position},
    event::{Event, OriginSummary},
};

/// All stored events.
#[derive(Debug, Clone, Default)]
pub struct History(BTreeMap<NodeName, NodeEvents>);

/// Events of one node.
#[derive(Debug, Clone, Default)]
struct NodeEvents {
    origins: Vec<OriginSummary>,
    events: BTreeMap<Origin, BTreeMap<u64, Event>>,
    /// Origin and number of the event in each record.
    slots: BTreeMap<u16, (Origin, u64)>,
}

/// Item for a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Event(Event),
    /// Events of this node that are no longer stored.
    Gap {
        /// Node of the lost events.
        node: NodeName,
        /// Number of lost events, if known.
        missing: Option<u64>,
    },
}

/// Changes that the local store has.
pub struct LocalChanges<'a> {
    /// For each origin, the number up to which every change is stored here.
    pub vector: &'a Vector,
    /// Whether changes of an origin are here that are not yet connected to the gap-free prefix: then a hole may
    /// still be filled.
    pub unsettled: &'a dyn Fn(Origin) -> bool,
}

impl History {
    /// Sets the event in a record; `None` removes it.
    pub fn put(&mut self, node: &NodeName, slot: u16, event: Option<Event>) {
        let node_events = self.0.entry(node.clone()).or_default();
        if let Some((origin, number)) = node_events.slots.remove(&slot)
            && let Some(events) = node_events.events.get_mut(&origin)
        {
            events.remove(&number);
            if events.is_empty() {
                node_events.events.remove(&origin);
            }
        }
        if let Some(event) = event {
            node_events.slots.insert(slot, (event.origin, event.number));
            node_events.events.entry(event.origin).or_default().insert(event.number, event);
        }
    }

    /// Sets the origins of a node.
    pub fn put_origins(&mut self, node: &NodeName, origins: Vec<OriginSummary>) {
        self.0.entry(node.clone()).or_default().origins = origins;
    }

    /// Moves a new cursor before everything that is here: events lost earlier are no gap.
    pub fn begin(&self, cursor: &mut Cursor) {
        for (node, node_events) in &self.0 {
            if let Some(oldest) = node_events.oldest() {
                cursor.set(node, oldest);
            }
        }
    }

    /// Moves a cursor after everything that is stored here.
    pub fn skip_all(&self, cursor: &mut Cursor) {
        for (node, node_events) in &self.0 {
            if let Some(summary) = node_events.origins.last() {
                let number = node_events.last_of(summary.origin).max(summary.last);
                cursor.set(node, Position { origin: summary.origin, number });
            }
        }
    }

    /// Returns the next item for this cursor and moves the cursor after it: of the next events of all nodes, the
    /// oldest. `None`: no item now.
    pub fn next(&self, cursor: &mut Cursor, local: &LocalChanges<'_>) -> Option<Item> {
        let candidates = self.0.iter().filter_map(|(node, node_events)| node_events.next(node, cursor, local));
        let (item, position) = candidates.min_by_key(|(item, _)| match item {
            Item::Gap { .. } => None,
            Item::Event(event) => Some((event.at, event.sequence)),
        })?;
        let node = match &item {
            Item::Event(event) => &event.node,
            Item::Gap { node, .. } => node,
        };
        cursor.set(node, position);
        Some(item)
    }
}

impl NodeEvents {
    fn last_of(&self, origin: Origin) -> u64 {
        let events = self.events.get(&origin);
        events.and_then(|events| events.last_key_value()).map_or(0, |(number, _)| *number)
    }

    fn next(&self, node: &NodeName, cursor: &Cursor, local: &LocalChanges<'_>) -> Option<(Item, Position)> {
        let gap = |missing| Item::Gap { node: node.clone(), missing };
        let (mut index, mut number) = match cursor.get(node) {
            Some(Position { origin, number }) => {
                match self.origins.iter().position(|summary| summary.origin == origin) {
                    Some(index) => (index, number),
                    // A node's first change of an origin announces that origin. If a change of the origin is here and
                    // the origin is unknown, later origins have displaced its entry; otherwise the announcement has not
                    // arrived yet.
                    None if local.vector.get(origin) > 0 => {
                        let first = self.origins.first()?;
                        return Some((gap(None), Position { origin: first.origin, number: 0 }));
                    }
                    None => return None,
                }
            }
            None => (0, 0),
        };
        loop {
            let OriginSummary { origin, last, changes } = *self.origins.get(index)?;
            let position = |number| Position { origin, number };
            let next = number.saturating_add(1);
            let found = self.events.get(&origin).and_then(|events| events.range(next..).next());
            match found {
                Some((there, event)) if *there == next => {
                    return Some((Item::Event(event.clone()), position(next)));
                }
                Some(_) if (local.unsettled)(origin) => return None,
                Some((there, _)) => return Some((gap(Some(there - next)), position(there - 1))),
                // The present origin: more events may follow.
                None if index + 1 == self.origins.len() => return None,
                None if number >= last => (index, number) = (index + 1, 0),
                None if local.vector.get(origin) >= changes => {
                    return Some((gap(Some(last - number)), position(last)));
                }
                None => return None,
            }
        }
    }

    /// Position immediately before the oldest event that is stored here.
    fn oldest(&self) -> Option<Position> {
        let first = |summary: &OriginSummary| {
            let (number, _) = self.events.get(&summary.origin)?.first_key_value()?;
            Some(Position { origin: summary.origin, number: number.saturating_sub(1) })
        };
        let present = self.origins.last().map(|summary| Position { origin: summary.origin, number: 0 });
        self.origins.iter().find_map(first).or(present)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;
    use twinbox_ids::{ClusterId, Timestamp};

    use super::*;

    /// Number of event records and of known origins: small, so that both are reused.
    const SLOTS: u64 = 6;
    const ORIGINS: usize = 3;

    /// A change of one node's store.
    #[derive(Debug, Clone)]
    enum Change {
        Origins(Vec<OriginSummary>),
        Event(Event),
    }

    /// A node that writes events over several origins.
    #[derive(Debug)]
    struct Reporter {
        node: NodeName,
        origins: Vec<OriginSummary>,
        sequence: u64,
        /// All changes: origin, number in the origin, change.
        log: Vec<(Origin, u64, Change)>,
    }

    impl Reporter {
        fn new(name: &str) -> Self {
            let node = name.parse().expect("a name");
            let mut reporter = Self { node, origins: Vec::new(), sequence: 0, log: Vec::new() };
            reporter.restart();
            reporter
        }

        fn restart(&mut self) {
            if let Some(former) = self.origins.last_mut() {
                let of_it = self.log.iter().filter(|(origin, ..)| *origin == former.origin);
                former.changes = of_it.clone().count() as u64;
                former.last = of_it.filter(|(.., change)| matches!(change, Change::Event(_))).count() as u64;
            }
            let origin = Origin(u128::from(self.node.as_str().as_bytes()[0]) << 64 | self.log.len() as u128);
            self.origins.push(OriginSummary { origin, last: 0, changes: 0 });
            let known = self.origins.len().saturating_sub(ORIGINS);
            self.log.push((origin, 1, Change::Origins(self.origins[known..].to_vec())));
        }

        fn report(&mut self) {
            let origin = self.origins.last().expect("a present origin").origin;
            let before = self.log.iter().filter(|(o, ..)| *o == origin).count() as u64;
            let event = Event {
                node: self.node.clone(),
                origin,
                number: before,
                sequence: self.sequence,
                at: Timestamp(self.log.len() as u64),
                kind: String::new(),
                subject: String::new(),
                detail: String::new(),
                alarm: None,
            };
            self.sequence += 1;
            self.log.push((origin, before + 1, Change::Event(event)));
        }
    }

    /// A node that receives changes in any order.
    #[derive(Debug, Default)]
    struct Observer {
        history: History,
        has: BTreeSet<(Origin, u64)>,
        /// Contents of the records: the latest of the received changes.
        origins: HashMap<NodeName, usize>,
        slots: HashMap<(NodeName, u64), u64>,
    }

    impl Observer {
        fn receive(&mut self, reporter: &Reporter, (origin, number, change): &(Origin, u64, Change)) {
            if !self.has.insert((*origin, *number)) {
                return;
            }
            match change {
                Change::Origins(origins) => {
                    let age = reporter
                        .origins
                        .iter()
                        .position(|summary| summary.origin == *origin)
                        .expect("one of its origins");
                    let known = self.origins.entry(reporter.node.clone()).or_insert(0);
                    if age >= *known {
                        *known = age;
                        self.history.put_origins(&reporter.node, origins.clone());
                    }
                }
                Change::Event(event) => {
                    let slot = event.sequence % SLOTS;
                    let known = self.slots.entry((reporter.node.clone(), slot)).or_insert(0);
                    if event.sequence >= *known {
                        *known = event.sequence;
                        self.history.put(&reporter.node, slot as u16, Some(event.clone()));
                    }
                }
            }
        }

        fn read(&self, cursor: &mut Cursor) -> Vec<Item> {
            let prefix = |origin: &Origin| (1..).take_while(|n| self.has.contains(&(*origin, *n))).count() as u64;
            let origins: BTreeSet<Origin> = self.has.iter().map(|(origin, _)| *origin).collect();
            let vector: Vector = origins.iter().map(|origin| (*origin, prefix(origin))).collect();
            let unsettled = |origin: Origin| self.has.iter().any(|(o, n)| *o == origin && *n > vector.get(origin));
            let local = LocalChanges { vector: &vector, unsettled: &unsettled };
            std::iter::from_fn(|| self.history.next(cursor, &local)).collect()
        }
    }

    #[derive(Debug, Clone)]
    enum FeedStep {
        Report(usize),
        Restart(usize),
        Receive(usize, usize),
        Read(usize),
    }

    fn step() -> impl Strategy<Value = FeedStep> {
        prop_oneof![
            4 => (0..2_usize).prop_map(FeedStep::Report),
            1 => (0..2_usize).prop_map(FeedStep::Restart),
            8 => (0..2_usize, 0..1_000_usize).prop_map(|(node, which)| FeedStep::Receive(node, which)),
            2 => (0..2_usize).prop_map(FeedStep::Read),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn reader_that_changes_nodes_gets_each_stored_event_once_in_order(
            steps in prop::collection::vec(step(), 0..120),
        ) {
            let mut reporters = [Reporter::new("a"), Reporter::new("b")];
            let mut observers = [Observer::default(), Observer::default()];
            let (mut cursor, mut items) = (Cursor::new(ClusterId(1)), Vec::new());
            // A reader carries its cursor between nodes as text.
            let carry = |cursor: &Cursor| cursor.to_string().parse::<Cursor>().expect("a cursor");
            for step in steps {
                match step {
                    FeedStep::Report(node) => reporters[node].report(),
                    FeedStep::Restart(node) => reporters[node].restart(),
                    FeedStep::Receive(node, which) => {
                        let all: usize = reporters.iter().map(|reporter| reporter.log.len()).sum();
                        let mut which = which % all;
                        for reporter in &reporters {
                            match reporter.log.get(which) {
                                Some(change) => {
                                    observers[node].receive(reporter, change);
                                    break;
                                }
                                None => which -= reporter.log.len(),
                            }
                        }
                    }
                    FeedStep::Read(node) => {
                        items.extend(observers[node].read(&mut cursor));
                        cursor = carry(&cursor);
                    }
                }
            }
            for observer in &mut observers {
                for reporter in &reporters {
                    reporter.log.iter().for_each(|change| observer.receive(reporter, change));
                }
                items.extend(observer.read(&mut cursor));
                cursor = carry(&cursor);
            }
            for reporter in &reporters {
                let mut got = Vec::new();
                let (mut gaps, mut unknown) = (0, false);
                for item in &items {
                    match item {
                        Item::Event(event) if event.node == reporter.node => got.push(event.sequence),
                        Item::Gap { node, missing } if *node == reporter.node => {
                            gaps += missing.unwrap_or(0);
                            unknown |= missing.is_none();
                        }
                        _ => {}
                    }
                }
                prop_assert!(got.is_sorted_by(|a, b| a < b), "in order, each once: {got:?}");
                // An event that is stored at the end was never lost and is in no gap.
                let known: Vec<Origin> = reporter.origins.iter().rev().take(ORIGINS).map(|summary| summary.origin).collect();
                for (.., change) in &reporter.log {
                    if let Change::Event(event) = change
                        && event.sequence + SLOTS >= reporter.sequence
                        && known.contains(&event.origin)
                    {
                        prop_assert!(got.contains(&event.sequence), "{} is stored and was not delivered: {got:?}", event.sequence);
                    }
                }
                let reported = reporter.sequence;
                let missed = reported - got.len() as u64;
                // Gaps count the missed events. Events of an origin that is no longer known are in a gap of unknown
                // size.
                let forgotten = reporter.origins.len() > ORIGINS;
                prop_assert!(gaps == missed || ((unknown || forgotten) && gaps <= missed), "{gaps} of {missed}");
                prop_assert!(missed == 0 || gaps > 0 || unknown || forgotten);
            }
        }
    }

    #[test]
    fn reader_from_now_gets_new_events_and_reader_from_start_gets_stored_ones() {
        let mut reporter = Reporter::new("a");
        (0..9).for_each(|_| reporter.report());
        let mut observer = Observer::default();
        reporter.log.iter().for_each(|change| observer.receive(&reporter, change));
        let (mut now, mut start) = (Cursor::new(ClusterId(1)), Cursor::new(ClusterId(1)));
        observer.history.skip_all(&mut now);
        observer.history.begin(&mut start);
        assert_eq!(observer.read(&mut now), []);
        assert_eq!(observer.read(&mut start).len(), SLOTS as usize, "events lost earlier are no gap");
        // A reader that has read nothing of this node gets a gap for the earlier events.
        let gap = Item::Gap { node: reporter.node.clone(), missing: Some(9 - SLOTS) };
        assert_eq!(observer.read(&mut Cursor::new(ClusterId(1))).first(), Some(&gap));
        reporter.report();
        let last = reporter.log.last().expect("a change").clone();
        observer.receive(&reporter, &last);
        assert_eq!((observer.read(&mut now).len(), observer.read(&mut start).len()), (1, 1));
    }
}
