//! The decisions of a cut log and of a fill by state, and a model of nodes that use them, with planted mistakes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use twinbox_ids::{Origin, Timestamp};
use twinbox_replication_core::{
    Key, Table, Vector,
    state_fill::{AbsentRow, Cover, LogEntry, LogPolicy, ScanFacts, Way, begins_for},
};

fn vector(entries: &[(u128, u64)]) -> Vector {
    entries.iter().map(|(origin, upto)| (Origin(*origin), *upto)).collect()
}

#[test]
fn the_way_follows_from_both_vectors_and_both_logs() {
    for (what, own, own_begins, theirs, their_begins, expected) in [
        ("nothing was cut", vector(&[]), vector(&[]), vector(&[(1, 9)]), vector(&[]), Way::History),
        ("cut below", vector(&[(1, 5)]), vector(&[]), vector(&[(1, 9)]), vector(&[(1, 5)]), Way::History),
        ("cut above", vector(&[(1, 4)]), vector(&[]), vector(&[(1, 9)]), vector(&[(1, 5)]), Way::State),
        (
            "an origin unknown here",
            vector(&[(2, 9)]),
            vector(&[]),
            vector(&[(1, 9)]),
            vector(&[(1, 1)]),
            Way::State,
        ),
        (
            "both cut above",
            vector(&[(1, 4), (2, 8)]),
            vector(&[(2, 8)]),
            vector(&[(1, 9), (2, 7)]),
            vector(&[(1, 5)]),
            Way::Merge,
        ),
        (
            "it lacks, this node does not",
            vector(&[(2, 8)]),
            vector(&[(2, 8)]),
            vector(&[]),
            vector(&[]),
            Way::History,
        ),
    ] {
        assert_eq!(Way::between(&own, &own_begins, &theirs, &their_begins), expected, "{what}");
    }
}

#[test]
fn follower_that_lacks_most_of_very_many_changes_takes_rows() {
    let (cut, has) = (vector(&[(1, 5)]), vector(&[(1, 50_000), (2, 10_000)]));
    for (what, has, follower, rows) in [
        ("an empty disk", has.clone(), vector(&[]), true),
        ("few changes in all", vector(&[(1, 20_000)]), vector(&[]), false),
        ("more than a few", vector(&[(1, 20_001)]), vector(&[]), true),
        ("less than half", has.clone(), vector(&[(1, 30_000)]), false),
        ("more than half", has.clone(), vector(&[(1, 29_999)]), true),
        ("changes that the source lacks do not count", has.clone(), vector(&[(3, 90_000)]), true),
        ("more of an origin than the source", has.clone(), vector(&[(1, 99_000)]), false),
    ] {
        let expected = if rows { &has } else { &cut };
        assert_eq!(begins_for(&cut, &has, &follower), *expected, "{what}");
    }
}

#[test]
fn absent_row_was_purged_only_when_all_conditions_hold() {
    let (start, key) = (vector(&[(1, 9)]), Key::new(Table(1), "row"));
    for (what, way, handed_over, seen, changed, expected) in [
        ("all hold", Way::State, true, vector(&[(1, 9)]), false, AbsentRow::Purged),
        ("changed here since", Way::State, true, vector(&[]), true, AbsentRow::Kept),
        ("not handed over", Way::State, false, vector(&[]), false, AbsentRow::Kept),
        ("both were behind", Way::Merge, true, vector(&[]), false, AbsentRow::Kept),
        ("equal, damaged", Way::History, true, vector(&[]), false, AbsentRow::Kept),
        ("rows of a newer source are here", Way::State, true, vector(&[(1, 10)]), false, AbsentRow::Kept),
        ("of an origin unknown there", Way::State, true, vector(&[(2, 1)]), false, AbsentRow::Kept),
    ] {
        let mut cover = Cover::new(ScanFacts { way, handed_over, start: &start, seen: &seen });
        if changed {
            cover.note(key.clone());
        }
        assert_eq!(cover.judge(&key), expected, "{what}");
    }
    let facts = ScanFacts { way: Way::State, handed_over: true, start: &start, seen: &Vector::new() };
    let mut cover = Cover::new(facts);
    cover.remove_nothing();
    assert_eq!(cover.judge(&key), AbsentRow::Kept, "a change without a known row");
}

#[test]
fn change_stays_until_all_have_it_or_a_bound_is_passed() {
    let hours = |n: u64| Duration::from_secs(n * 3_600);
    let policy = LogPolicy { stable_for: hours(1), keep_for: hours(24), keep_bytes: 1_000 };
    let now = Timestamp(1_000 * 3_600_000);
    for (what, age_hours, is_stable, size, expected) in [
        ("new", 0, false, 10, false),
        ("new, all have it", 0, true, 10, false),
        ("old enough, all have it", 2, true, 10, true),
        ("old enough, a member lacks it", 2, false, 10, false),
        ("too old", 25, false, 10, true),
        ("too large", 0, false, 1_001, true),
        ("as large as allowed", 0, false, 1_000, false),
    ] {
        let entry = LogEntry { seq: 1, made: Timestamp(now.0 - age_hours * 3_600_000), bytes: 100 };
        assert_eq!(policy.removes(&entry, is_stable, size, now), expected, "{what}");
    }
    let ahead = LogEntry { seq: 1, made: Timestamp(u64::MAX), bytes: 1 };
    assert!(!policy.removes(&ahead, true, 10, now), "a stamp from the future is not old");
}

/// A mistake to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    /// The source is taken to have what this node had before it has it.
    RemovesBeforeHandOver,
    /// The vector of the end of the scan is taken.
    VectorOfTheEnd,
    /// A scan goes on with another source.
    TwoSources,
    /// The log is cut during a scan.
    NoPin,
    /// Rows that a later change here created are taken for purged.
    IgnoresChanges,
}

const NODES: usize = 3;
const ROWS: u8 = 12;

/// A row: the highest number of each origin that it shows, and whether it is deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Row {
    shows: BTreeMap<Origin, u64>,
    is_deleted: bool,
}

impl Row {
    fn merge(&mut self, other: &Self) {
        for (origin, seq) in &other.shows {
            let shown = self.shows.entry(*origin).or_default();
            *shown = (*shown).max(*seq);
        }
        self.is_deleted |= other.is_deleted;
    }
}

#[derive(Debug, Clone)]
struct ModelChange {
    row: u8,
    is_delete: bool,
}

#[derive(Debug, Clone)]
struct Fill {
    source: usize,
    start: Vector,
    /// The vector of this node then.
    had: Vector,
    cover: Cover,
    next: u8,
}

#[derive(Debug, Clone, Default)]
struct Model {
    rows: BTreeMap<u8, Row>,
    log: BTreeMap<(Origin, u64), ModelChange>,
    begins: Vector,
    vector: Vector,
    seen: Vector,
    fill: Option<Fill>,
}

fn key(row: u8) -> Key {
    Key::new(Table(1), vec![row])
}

impl Model {
    fn apply(&mut self, origin: Origin, seq: u64, change: &ModelChange) {
        if seq != self.vector.get(origin) + 1 {
            return;
        }
        self.vector.raise(origin, seq);
        self.log.insert((origin, seq), change.clone());
        let row = self.rows.entry(change.row).or_default();
        row.merge(&Row { shows: [(origin, seq)].into(), is_deleted: change.is_delete });
    }
}

#[derive(Debug, Clone, Copy)]
enum ClusterStep {
    /// A node writes a new row, or one that it has.
    Write(usize, u8),
    Delete(usize, u8),
    /// A part that one node lacks comes from the log of another, or a page of its rows.
    Exchange(usize, usize),
    /// All that all nodes have is cut, or with `true` everything.
    Cut(usize, bool),
    /// Deleted rows that every node has deleted go.
    Purge,
}

fn any_step() -> impl Strategy<Value = ClusterStep> {
    let (node, row) = (0..NODES, 0..ROWS);
    prop_oneof![
        3 => (node.clone(), row.clone()).prop_map(|(node, row)| ClusterStep::Write(node, row)),
        1 => (node.clone(), row).prop_map(|(node, row)| ClusterStep::Delete(node, row)),
        6 => (node.clone(), node.clone()).prop_map(|(from, to)| ClusterStep::Exchange(from, to)),
        2 => (node, any::<bool>()).prop_map(|(node, all)| ClusterStep::Cut(node, all)),
        1 => Just(ClusterStep::Purge),
    ]
}

struct World {
    nodes: Vec<Model>,
    mistake: Mistake,
    /// The number of the next change of each node.
    made: Vec<u64>,
    /// Rows that were deleted once: nothing else writes them.
    deleted: BTreeSet<u8>,
    /// Changes of each row.
    truth: BTreeMap<u8, Row>,
}

impl World {
    fn new(mistake: Mistake) -> Self {
        let nodes = (0..NODES).map(|_| Model::default()).collect();
        Self { nodes, mistake, made: vec![0; NODES], deleted: BTreeSet::new(), truth: BTreeMap::new() }
    }

    fn change(&mut self, node: usize, row: u8, is_delete: bool) {
        // A deleted row is not written by a node that knows; and only a node that has a row deletes it.
        let is_here = self.nodes[node].rows.get(&row);
        if is_here.is_some_and(|row| row.is_deleted) || (is_delete && is_here.is_none()) {
            return;
        }
        if is_here.is_none() && self.deleted.contains(&row) {
            return;
        }
        if is_delete {
            self.deleted.insert(row);
        }
        self.made[node] += 1;
        let (origin, seq) = (Origin(node as u128 + 1), self.made[node]);
        let change = ModelChange { row, is_delete };
        self.nodes[node].apply(origin, seq, &change);
        let truth = self.truth.entry(row).or_default();
        truth.merge(&Row { shows: [(origin, seq)].into(), is_deleted: is_delete });
    }

    fn step(&mut self, step: ClusterStep) {
        match step {
            ClusterStep::Write(node, row) => self.change(node, row, false),
            ClusterStep::Delete(node, row) => self.change(node, row, true),
            ClusterStep::Exchange(from, to) if from != to => self.exchange(from, to),
            ClusterStep::Exchange(..) => {}
            ClusterStep::Cut(node, all) => self.cut(node, all),
            ClusterStep::Purge => self.purge(),
        }
    }

    fn cut(&mut self, node: usize, all: bool) {
        let mut upto = self.nodes[node].vector.clone();
        let pins = self.nodes.iter().filter_map(|other| other.fill.as_ref()).filter(|fill| fill.source == node);
        let pins: Vec<Vector> = pins.map(|fill| fill.start.clone()).collect();
        let others: Vec<Vector> = self.nodes.iter().map(|other| other.vector.clone()).collect();
        // A node that fills keeps its log: it is what tells its rows from purged ones.
        let mut limits = if self.mistake == Mistake::NoPin { Vec::new() } else { pins };
        if self.mistake != Mistake::NoPin && self.nodes[node].fill.is_some() {
            return;
        }
        if !all {
            limits.extend(others);
        }
        for limit in limits {
            upto = upto.iter().map(|(origin, seq)| (origin, seq.min(limit.get(origin)))).collect();
        }
        let model = &mut self.nodes[node];
        model.begins.join(&upto);
        model.log.retain(|(origin, seq), _| *seq > upto.get(*origin));
    }

    /// Rows whose deletion every node has, and of which every node has all that any node made, go from nodes with all
    /// records.
    fn purge(&mut self) {
        let stable: Vec<u8> = self
            .truth
            .iter()
            .filter(|(row, truth)| {
                truth.is_deleted
                    && self.nodes.iter().all(|node| {
                        let covers = truth.shows.iter().all(|(origin, seq)| node.vector.covers(*origin, *seq));
                        covers && node.rows.get(row).is_none_or(|row| row.is_deleted)
                    })
            })
            .map(|(row, _)| *row)
            .collect();
        for node in self.nodes.iter_mut().filter(|node| node.fill.is_none()) {
            stable.iter().for_each(|row| drop(node.rows.remove(row)));
        }
    }

    fn exchange(&mut self, from: usize, to: usize) {
        let (source, own) = (self.nodes[from].clone(), &self.nodes[to]);
        if source.fill.is_some() {
            return;
        }
        match Way::between(&own.vector, &own.begins, &source.vector, &source.begins) {
            Way::History => {
                if own.fill.as_ref().is_some_and(|fill| fill.source == from) {
                    self.nodes[to].fill = None;
                }
                let lacks = |(origin, seq): &&(Origin, u64)| !self.nodes[to].vector.covers(*origin, *seq);
                let changes: Vec<_> = source.log.keys().filter(lacks).take(3).copied().collect();
                for (origin, seq) in changes {
                    self.nodes[to].apply(origin, seq, &source.log[&(origin, seq)]);
                }
            }
            way => self.page(&source, from, to, way),
        }
    }

    /// One page of the rows of a source, after the start of the scan if there is none with this source.
    fn page(&mut self, source: &Model, from: usize, to: usize, way: Way) {
        let mistake = self.mistake;
        let goes_on = |fill: &Fill| fill.source == from || mistake == Mistake::TwoSources;
        let own = &self.nodes[to];
        if !own.fill.as_ref().is_some_and(goes_on) {
            let handed_over = own.vector.missing_from(&source.vector).is_empty();
            if way == Way::State && !handed_over && mistake != Mistake::RemovesBeforeHandOver {
                // The source takes it from the log first.
                self.exchange_log(to, from);
                return;
            }
            let handed_over = handed_over || mistake == Mistake::RemovesBeforeHandOver;
            let (seen, had) = (own.seen.clone(), own.vector.clone());
            let start = source.vector.clone();
            let cover = Cover::new(ScanFacts { way, handed_over, start: &start, seen: &seen });
            self.nodes[to].fill = Some(Fill { source: from, start, had, cover, next: 0 });
        }
        let Some(mut fill) = self.nodes[to].fill.take() else { return };
        let own = &mut self.nodes[to];
        let page = fill.next..(fill.next + 3).min(ROWS);
        own.seen.join(&source.vector);
        if mistake != Mistake::IgnoresChanges {
            let mut covered = fill.start.clone();
            if mistake == Mistake::RemovesBeforeHandOver {
                covered.join(&fill.had);
            }
            let later = own.log.iter().filter(|((origin, seq), _)| !covered.covers(*origin, *seq));
            later.for_each(|(_, change)| fill.cover.note(key(change.row)));
        }
        for row in page.clone() {
            match source.rows.get(&row) {
                Some(theirs) => own.rows.entry(row).or_default().merge(theirs),
                None if fill.cover.judge(&key(row)) == AbsentRow::Purged => drop(own.rows.remove(&row)),
                None => {}
            }
        }
        fill.next = page.end;
        if fill.next < ROWS {
            own.fill = Some(fill);
            return;
        }
        let taken = if mistake == Mistake::VectorOfTheEnd { source.vector.clone() } else { fill.start };
        for (origin, upto) in taken.iter() {
            if upto > own.vector.get(origin) {
                own.vector.raise(origin, upto);
                own.begins.raise(origin, upto);
                own.log.retain(|(of, seq), _| *of != origin || *seq > upto);
            }
        }
        own.seen = own.seen.iter().filter(|(origin, upto)| !own.vector.covers(*origin, *upto)).collect();
    }

    fn exchange_log(&mut self, from: usize, to: usize) {
        let source = self.nodes[from].clone();
        for ((origin, seq), change) in &source.log {
            self.nodes[to].apply(*origin, *seq, change);
        }
    }

    /// Lets all nodes get everything; the rows of each then, or what is wrong.
    fn heal(mut self) -> Result<(), String> {
        for _ in 0..60 {
            for from in 0..NODES {
                for to in (0..NODES).filter(|to| *to != from) {
                    for _ in 0..40 {
                        self.step(ClusterStep::Exchange(from, to));
                    }
                }
            }
        }
        for (n, node) in self.nodes.iter().enumerate() {
            if let Some(other) = self.nodes.iter().find(|other| other.vector != node.vector) {
                return Err(format!("node {n} has {:?}, another {:?}", node.vector, other.vector));
            }
            for (row, truth) in &self.truth {
                match node.rows.get(row) {
                    None if truth.is_deleted => {}
                    None => return Err(format!("node {n} lost row {row}")),
                    Some(here) if here != truth && !truth.is_deleted => {
                        return Err(format!("node {n} has {here:?} of row {row}, which is {truth:?}"));
                    }
                    Some(here) if truth.is_deleted && !here.is_deleted => {
                        return Err(format!("row {row} came back on node {n}"));
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }
}

fn play(steps: &[ClusterStep], mistake: Mistake) -> Result<(), String> {
    let mut world = World::new(mistake);
    steps.iter().for_each(|step| world.step(*step));
    world.heal()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn nodes_converge_and_lose_nothing_however_logs_are_cut(steps in vec(any_step(), 1..120)) {
        prop_assert_eq!(play(&steps, Mistake::None), Ok(()));
    }
}

/// Each planted mistake is found within some thousand runs.
#[test]
fn planted_mistakes_are_found() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    for mistake in [
        Mistake::RemovesBeforeHandOver,
        Mistake::VectorOfTheEnd,
        Mistake::TwoSources,
        Mistake::NoPin,
        Mistake::IgnoresChanges,
    ] {
        let (mut runner, strategy) = (TestRunner::deterministic(), vec(any_step(), 1..120));
        let found = (0..20_000).find(|_| {
            let steps = strategy.new_tree(&mut runner).expect("steps").current();
            play(&steps, mistake).is_err()
        });
        assert!(found.is_some(), "{mistake:?} is never found");
    }
}
