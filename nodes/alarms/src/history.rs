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
    event::{Event, Life},
};

/// All stored events.
#[derive(Debug, Clone, Default)]
pub struct History(BTreeMap<NodeName, Told>);

/// Events of one node.
#[derive(Debug, Clone, Default)]
struct Told {
    lives: Vec<Life>,
    events: BTreeMap<Origin, BTreeMap<u64, Event>>,
    /// Origin and number of the event in each record.
    places: BTreeMap<u16, (Origin, u64)>,
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
pub struct Here<'a> {
    /// For each origin, the number up to which every change is here.
    pub vector: &'a Vector,
    /// Whether changes of an origin are here that are not yet connected to the gap-free prefix: then a hole may
    /// still be filled.
    pub unsettled: &'a dyn Fn(Origin) -> bool,
}

impl History {
    /// Sets the event in a record; `None` removes it.
    pub fn put(&mut self, node: &NodeName, place: u16, event: Option<Event>) {
        let told = self.0.entry(node.clone()).or_default();
        if let Some((origin, number)) = told.places.remove(&place)
            && let Some(events) = told.events.get_mut(&origin)
        {
            events.remove(&number);
            if events.is_empty() {
                told.events.remove(&origin);
            }
        }
        if let Some(event) = event {
            told.places.insert(place, (event.origin, event.number));
            told.events.entry(event.origin).or_default().insert(event.number, event);
        }
    }

    /// Sets the origins of a node.
    pub fn put_lives(&mut self, node: &NodeName, lives: Vec<Life>) {
        self.0.entry(node.clone()).or_default().lives = lives;
    }

    /// Moves a new cursor before everything that is here: events lost earlier are no gap.
    pub fn begin(&self, cursor: &mut Cursor) {
        for (node, told) in &self.0 {
            if let Some(oldest) = told.oldest() {
                cursor.set(node, oldest);
            }
        }
    }

    /// Moves a cursor after everything that is here.
    pub fn skip_all(&self, cursor: &mut Cursor) {
        for (node, told) in &self.0 {
            if let Some(life) = told.lives.last() {
                let number = told.last_of(life.origin).max(life.last);
                cursor.set(node, Position { origin: life.origin, number });
            }
        }
    }

    /// Returns the next item for this cursor and moves the cursor after it: of the next events of all nodes, the
    /// oldest. `None`: no item now.
    pub fn next(&self, cursor: &mut Cursor, here: &Here<'_>) -> Option<Item> {
        let candidates = self.0.iter().filter_map(|(node, told)| told.next(node, cursor, here));
        let (item, position) = candidates.min_by_key(|(item, _)| match item {
            Item::Gap { .. } => None,
            Item::Event(event) => Some((event.at, event.place)),
        })?;
        let node = match &item {
            Item::Event(event) => &event.node,
            Item::Gap { node, .. } => node,
        };
        cursor.set(node, position);
        Some(item)
    }
}

impl Told {
    fn last_of(&self, origin: Origin) -> u64 {
        let events = self.events.get(&origin);
        events.and_then(|events| events.last_key_value()).map_or(0, |(number, _)| *number)
    }

    fn next(&self, node: &NodeName, cursor: &Cursor, here: &Here<'_>) -> Option<(Item, Position)> {
        let gap = |missing| Item::Gap { node: node.clone(), missing };
        let (mut life, mut number) = match cursor.get(node) {
            Some(Position { origin, number }) => match self.lives.iter().position(|life| life.origin == origin) {
                Some(life) => (life, number),
                // A node's first change of an origin announces that origin. If a change of the origin is here and
                // the origin is unknown, later origins have displaced its entry; otherwise the announcement has not
                // arrived yet.
                None if here.vector.get(origin) > 0 => {
                    let first = self.lives.first()?;
                    return Some((gap(None), Position { origin: first.origin, number: 0 }));
                }
                None => return None,
            },
            None => (0, 0),
        };
        loop {
            let Life { origin, last, changes } = *self.lives.get(life)?;
            let position = |number| Position { origin, number };
            let next = number.saturating_add(1);
            let found = self.events.get(&origin).and_then(|events| events.range(next..).next());
            match found {
                Some((there, event)) if *there == next => {
                    return Some((Item::Event(event.clone()), position(next)));
                }
                Some(_) if (here.unsettled)(origin) => return None,
                Some((there, _)) => return Some((gap(Some(there - next)), position(there - 1))),
                // The present origin: more events may follow.
                None if life + 1 == self.lives.len() => return None,
                None if number >= last => (life, number) = (life + 1, 0),
                None if here.vector.get(origin) >= changes => {
                    return Some((gap(Some(last - number)), position(last)));
                }
                None => return None,
            }
        }
    }

    /// Position immediately before the oldest event that is here.
    fn oldest(&self) -> Option<Position> {
        let first = |life: &Life| {
            let (number, _) = self.events.get(&life.origin)?.first_key_value()?;
            Some(Position { origin: life.origin, number: number.saturating_sub(1) })
        };
        let present = self.lives.last().map(|life| Position { origin: life.origin, number: 0 });
        self.lives.iter().find_map(first).or(present)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;
    use twinbox_ids::{ClusterId, Timestamp};

    use super::*;

    /// Number of event records and of known origins: small, so that both are reused.
    const PLACES: u64 = 6;
    const LIVES: usize = 3;

    /// A change of one node's store.
    #[derive(Debug, Clone)]
    enum Change {
        Lives(Vec<Life>),
        Event(Event),
    }

    /// A node that writes events over several origins.
    #[derive(Debug)]
    struct Teller {
        node: NodeName,
        lives: Vec<Life>,
        place: u64,
        /// All changes: origin, number in the origin, change.
        log: Vec<(Origin, u64, Change)>,
    }

    impl Teller {
        fn new(name: &str) -> Self {
            let node = name.parse().expect("a name");
            let mut teller = Self { node, lives: Vec::new(), place: 0, log: Vec::new() };
            teller.restart();
            teller
        }

        fn restart(&mut self) {
            if let Some(former) = self.lives.last_mut() {
                let of_it = self.log.iter().filter(|(origin, ..)| *origin == former.origin);
                former.changes = of_it.clone().count() as u64;
                former.last = of_it.filter(|(.., change)| matches!(change, Change::Event(_))).count() as u64;
            }
            let origin = Origin(u128::from(self.node.as_str().as_bytes()[0]) << 64 | self.log.len() as u128);
            self.lives.push(Life { origin, last: 0, changes: 0 });
            let known = self.lives.len().saturating_sub(LIVES);
            self.log.push((origin, 1, Change::Lives(self.lives[known..].to_vec())));
        }

        fn tell(&mut self) {
            let origin = self.lives.last().expect("it lives").origin;
            let before = self.log.iter().filter(|(o, ..)| *o == origin).count() as u64;
            let event = Event {
                node: self.node.clone(),
                origin,
                number: before,
                place: self.place,
                at: Timestamp(self.log.len() as u64),
                kind: String::new(),
                subject: String::new(),
                detail: String::new(),
                alarm: None,
            };
            self.place += 1;
            self.log.push((origin, before + 1, Change::Event(event)));
        }
    }

    /// A node that receives changes in any order.
    #[derive(Debug, Default)]
    struct Observer {
        history: History,
        has: BTreeSet<(Origin, u64)>,
        /// Contents of the records: the latest of the received changes.
        lives: HashMap<NodeName, usize>,
        places: HashMap<(NodeName, u64), u64>,
    }

    impl Observer {
        fn hear(&mut self, teller: &Teller, (origin, number, change): &(Origin, u64, Change)) {
            if !self.has.insert((*origin, *number)) {
                return;
            }
            match change {
                Change::Lives(lives) => {
                    let age =
                        teller.lives.iter().position(|life| life.origin == *origin).expect("one of its lives");
                    let known = self.lives.entry(teller.node.clone()).or_insert(0);
                    if age >= *known {
                        *known = age;
                        self.history.put_lives(&teller.node, lives.clone());
                    }
                }
                Change::Event(event) => {
                    let place = event.place % PLACES;
                    let known = self.places.entry((teller.node.clone(), place)).or_insert(0);
                    if event.place >= *known {
                        *known = event.place;
                        self.history.put(&teller.node, place as u16, Some(event.clone()));
                    }
                }
            }
        }

        fn read(&self, cursor: &mut Cursor) -> Vec<Item> {
            let prefix = |origin: &Origin| (1..).take_while(|n| self.has.contains(&(*origin, *n))).count() as u64;
            let origins: BTreeSet<Origin> = self.has.iter().map(|(origin, _)| *origin).collect();
            let vector: Vector = origins.iter().map(|origin| (*origin, prefix(origin))).collect();
            let unsettled = |origin: Origin| self.has.iter().any(|(o, n)| *o == origin && *n > vector.get(origin));
            let here = Here { vector: &vector, unsettled: &unsettled };
            std::iter::from_fn(|| self.history.next(cursor, &here)).collect()
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Tell(usize),
        Restart(usize),
        Hear(usize, usize),
        Read(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..2_usize).prop_map(Step::Tell),
            1 => (0..2_usize).prop_map(Step::Restart),
            8 => (0..2_usize, 0..1_000_usize).prop_map(|(who, which)| Step::Hear(who, which)),
            2 => (0..2_usize).prop_map(Step::Read),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn a_reader_that_goes_from_node_to_node_misses_nothing_and_gets_nothing_twice(
            steps in prop::collection::vec(step(), 0..120),
        ) {
            let mut tellers = [Teller::new("a"), Teller::new("b")];
            let mut observers = [Observer::default(), Observer::default()];
            let (mut cursor, mut items) = (Cursor::new(ClusterId(1)), Vec::new());
            // A reader carries its cursor between nodes as text.
            let carry = |cursor: &Cursor| cursor.to_string().parse::<Cursor>().expect("a cursor");
            for step in steps {
                match step {
                    Step::Tell(who) => tellers[who].tell(),
                    Step::Restart(who) => tellers[who].restart(),
                    Step::Hear(who, which) => {
                        let all: usize = tellers.iter().map(|teller| teller.log.len()).sum();
                        let mut which = which % all;
                        for teller in &tellers {
                            match teller.log.get(which) {
                                Some(change) => {
                                    observers[who].hear(teller, change);
                                    break;
                                }
                                None => which -= teller.log.len(),
                            }
                        }
                    }
                    Step::Read(who) => {
                        items.extend(observers[who].read(&mut cursor));
                        cursor = carry(&cursor);
                    }
                }
            }
            for observer in &mut observers {
                for teller in &tellers {
                    teller.log.iter().for_each(|change| observer.hear(teller, change));
                }
                items.extend(observer.read(&mut cursor));
                cursor = carry(&cursor);
            }
            for teller in &tellers {
                let mut got = Vec::new();
                let (mut gaps, mut unknown) = (0, false);
                for item in &items {
                    match item {
                        Item::Event(event) if event.node == teller.node => got.push(event.place),
                        Item::Gap { node, missing } if *node == teller.node => {
                            gaps += missing.unwrap_or(0);
                            unknown |= missing.is_none();
                        }
                        _ => {}
                    }
                }
                prop_assert!(got.is_sorted_by(|a, b| a < b), "in order, each once: {got:?}");
                // An event that is stored at the end was never lost and is in no gap.
                let known: Vec<Origin> = teller.lives.iter().rev().take(LIVES).map(|life| life.origin).collect();
                for (.., change) in &teller.log {
                    if let Change::Event(event) = change
                        && event.place + PLACES >= teller.place
                        && known.contains(&event.origin)
                    {
                        prop_assert!(got.contains(&event.place), "{} is kept and was not given: {got:?}", event.place);
                    }
                }
                let told = teller.place;
                let missed = told - got.len() as u64;
                // Gaps count the missed events. Events of an origin that is no longer known are in a gap of unknown
                // size.
                let forgotten = teller.lives.len() > LIVES;
                prop_assert!(gaps == missed || ((unknown || forgotten) && gaps <= missed), "{gaps} of {missed}");
                prop_assert!(missed == 0 || gaps > 0 || unknown || forgotten);
            }
        }
    }

    #[test]
    fn who_begins_now_gets_what_comes_and_who_begins_anew_what_is_kept() {
        let mut teller = Teller::new("a");
        (0..9).for_each(|_| teller.tell());
        let mut observer = Observer::default();
        teller.log.iter().for_each(|change| observer.hear(&teller, change));
        let (mut now, mut start) = (Cursor::new(ClusterId(1)), Cursor::new(ClusterId(1)));
        observer.history.skip_all(&mut now);
        observer.history.begin(&mut start);
        assert_eq!(observer.read(&mut now), []);
        assert_eq!(observer.read(&mut start).len(), PLACES as usize, "what was gone before is no gap");
        // A reader that has read nothing of this node gets a gap for the earlier events.
        let gone = Item::Gap { node: teller.node.clone(), missing: Some(9 - PLACES) };
        assert_eq!(observer.read(&mut Cursor::new(ClusterId(1))).first(), Some(&gone));
        teller.tell();
        let last = teller.log.last().expect("a change").clone();
        observer.hear(&teller, &last);
        assert_eq!((observer.read(&mut now).len(), observer.read(&mut start).len()), (1, 1));
    }
}
