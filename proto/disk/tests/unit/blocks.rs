//! Blocks while they are written: readers, and the ends of processes, come between any two writes of entries. Pages are read as sled
//! reads them: an entry may be known from a page that was read before later writes. Runs repeat by their seed.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    ops::{Bound, RangeBounds},
    rc::Rc,
};

use super::world::Random;
use crate::{
    DiskError, Pair,
    block::{self, Malformed, Write},
    block_cache::BlockCache,
    blocks::{self, Bounds, Entries, Found},
    range::{KeyRange, ReadFrom},
};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
type Writes = Vec<(Vec<u8>, Option<Vec<u8>>)>;
type Puts = VecDeque<(Vec<u8>, Option<Vec<u8>>)>;

/// The entries as readers find them, and the writes that are still to come.
struct State {
    entries: Map,
    to_come: Puts,
    random: Random,
    cache: Rc<Cache>,
    /// A write that the blocks in memory do not know of yet.
    unnoted: Option<(Vec<u8>, Option<Vec<u8>>)>,
}

type Cache = BlockCache<Vec<u8>>;

impl State {
    /// Some of the writes come.
    fn pass(&mut self) {
        for _ in 0..self.random.below(4) {
            self.next();
        }
        if self.random.coin() {
            self.note();
        }
    }

    /// The next write comes. False when there is none.
    fn next(&mut self) -> bool {
        self.note();
        let Some((key, value)) = self.to_come.pop_front() else { return false };
        put(&mut self.entries, &key, value.clone());
        self.unnoted = Some((key, value));
        true
    }

    fn note(&mut self) {
        if let Some((key, value)) = self.unnoted.take() {
            self.cache.wrote(&key, value.as_deref());
        }
    }

    fn within(&self, bounds: Bounds<'_>) -> Vec<Pair> {
        match bounds {
            (Bound::Excluded(from), Bound::Excluded(to)) if from == to => Vec::new(),
            bounds => self.entries.range::<[u8], _>(bounds).map(|(k, v)| (k.clone(), v.clone())).collect(),
        }
    }
}

fn put(map: &mut Map, key: &[u8], value: Option<Vec<u8>>) {
    match value {
        Some(value) => map.insert(key.to_vec(), value),
        None => map.remove(key),
    };
}

/// The entries of a reader.
#[derive(Clone)]
struct Read(Rc<RefCell<State>>, Rc<Cache>);

impl Read {
    fn new(entries: Map, random: Random) -> Self {
        // From none to all of the blocks.
        let cache = Rc::new(Cache::new(random.0 as usize % 4 * 4_000));
        let (to_come, unnoted) = (VecDeque::new(), None);
        Self(Rc::new(RefCell::new(State { entries, to_come, random, cache: cache.clone(), unnoted })), cache)
    }
}

/// The entries of the writer, who has written everything.
#[derive(Clone)]
struct Written(Rc<RefCell<(Map, Puts)>>, Rc<Cache>);

impl Written {
    fn new(entries: Map) -> Self {
        Self(Rc::new(RefCell::new((entries, Puts::new()))), Rc::new(Cache::new(6_000)))
    }
}

impl Entries for Read {
    type Bytes = Vec<u8>;

    fn cache(&self) -> &Cache {
        &self.1
    }

    fn ascending(&self, (from, to): Bounds<'_>) -> impl Iterator<Item = Found<Vec<u8>>> + use<> {
        let (read, to) = (self.clone(), to.map(<[u8]>::to_vec));
        let mut from = Some(from.map(<[u8]>::to_vec));
        let mut page: VecDeque<Pair> = VecDeque::new();
        std::iter::from_fn(move || {
            if page.is_empty() {
                let mut state = read.0.borrow_mut();
                state.pass();
                let begin = from.take()?;
                let mut found = state.within((begin.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice)));
                let most = 1 + state.random.index(4);
                if found.len() > most {
                    // The page ends there.
                    from = Some(Bound::Included(found[most].0.clone()));
                    found.truncate(most);
                }
                page = found.into();
            }
            page.pop_front().map(Ok)
        })
    }

    fn last(&self, bounds: Bounds<'_>) -> Result<Option<Pair>, DiskError> {
        let mut state = self.0.borrow_mut();
        state.pass();
        let found = state.within(bounds);
        // The page with the end of the bounds, then the one before it.
        let begin = state.random.index(found.len() + 1);
        if begin < found.len() {
            return Ok(found.last().cloned());
        }
        state.pass();
        let before = found.last().map(|(key, _)| key.clone());
        Ok(match before {
            Some(before) => state.within((bounds.0, Bound::Included(&before))).pop(),
            None => None,
        })
    }

    fn put(&self, _: &[u8], _: Option<&[u8]>) -> Result<(), DiskError> {
        unreachable!("a reader writes nothing")
    }

    fn damaged(&self, reason: Malformed) -> DiskError {
        panic!("{reason}")
    }
}

impl Entries for Written {
    type Bytes = Vec<u8>;

    fn cache(&self) -> &Cache {
        &self.1
    }

    fn ascending(&self, bounds: Bounds<'_>) -> impl Iterator<Item = Found<Vec<u8>>> + use<> {
        let found: Vec<_> =
            self.0.borrow().0.range::<[u8], _>(bounds).map(|(k, v)| Ok((k.clone(), v.clone()))).collect();
        found.into_iter()
    }

    fn last(&self, bounds: Bounds<'_>) -> Result<Option<Pair>, DiskError> {
        Ok(self.0.borrow().0.range::<[u8], _>(bounds).next_back().map(|(k, v)| (k.clone(), v.clone())))
    }

    fn put(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), DiskError> {
        let (map, to_come) = &mut *self.0.borrow_mut();
        put(map, key, value.map(<[u8]>::to_vec));
        to_come.push_back((key.to_vec(), value.map(<[u8]>::to_vec)));
        Ok(())
    }

    fn damaged(&self, reason: Malformed) -> DiskError {
        panic!("{reason}")
    }
}

struct Run {
    random: Random,
    read: Read,
    written: Written,
    /// The rows after each of the writes of which some are still to come; the first is what all have.
    states: Vec<Map>,
    /// These writes.
    writes: Vec<Writes>,
}

fn key(number: u64) -> Vec<u8> {
    format!("{number:03}").into_bytes()
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed ^ 0x0b10),
            read: Read::new(Map::new(), Random(seed)),
            written: Written::new(Map::new()),
            states: vec![Map::new()],
            writes: Vec::new(),
        }
    }

    /// Random writes: rows here and there, or many that adjoin, at the end or removed.
    fn batch(&mut self) -> Writes {
        let first = self.random.below(90);
        let keys: Vec<u64> = match self.random.below(3) {
            0 => (0..1 + self.random.below(6)).map(|_| self.random.below(100)).collect(),
            _ => (first..first + 1 + self.random.below(30)).collect(),
        };
        let removes = self.random.below(3) == 0;
        let largest = if self.random.below(8) == 0 { 3_000 } else { 400 };
        let writes = keys.into_iter().map(|number| {
            let value = (!removes).then(|| self.random.value(largest));
            (key(number), value)
        });
        writes.collect::<BTreeMap<_, _>>().into_iter().collect()
    }

    fn write(&mut self, writes: Writes) {
        let rows: Vec<Write<'_>> = writes.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
        blocks::write(&self.written, &rows, |_, _, _| {}).expect("a write");
        let mut after = self.states.last().cloned().unwrap_or_default();
        writes.iter().for_each(|(key, value)| put(&mut after, key, value.clone()));
        self.states.push(after);
        self.writes.push(writes);
        self.read.0.borrow_mut().to_come.append(&mut self.written.0.borrow_mut().1);
    }

    /// All writes have come.
    fn settle(&mut self) {
        {
            let state = &mut *self.read.0.borrow_mut();
            while state.next() {}
        }
        self.states.drain(..self.states.len() - 1);
        self.writes.clear();
    }

    /// The process ends before the rest of the writes has come; the next one writes the rows of all of them again.
    fn end(&mut self) {
        let entries = self.read.0.borrow().entries.clone();
        self.read = Read::new(entries.clone(), Random(self.random.below(u64::MAX)));
        self.written = Written::new(entries);
        self.states.truncate(1);
        for writes in std::mem::take(&mut self.writes) {
            self.write(writes);
        }
        self.settle();
    }

    /// Whether this may be the value of a key while the writes come.
    fn may_be(&self, key: &[u8], found: Option<&Vec<u8>>) -> bool {
        self.states.iter().any(|state| state.get(key) == found)
    }

    /// One reading, in one of the three ways.
    fn look(&mut self) -> Result<(), String> {
        let (from, to) = (self.random.below(100), self.random.below(110));
        let range = match self.random.below(3) {
            0 => KeyRange::prefix(b""),
            1 => KeyRange::between(&key(from), &key(to)),
            _ => KeyRange::prefix(b"").rest(ReadFrom::Start, &key(from)),
        };
        let (way, pairs) = match self.random.below(3) {
            0 => {
                let found = blocks::get(&self.read, &key(from)).expect("a read");
                let is_wrong = !self.may_be(&key(from), found.as_ref());
                return if is_wrong {
                    Err(format!("{from} has {:?}", found.map(|found| found.len())))
                } else {
                    Ok(())
                };
            }
            1 => ("ascending", blocks::ascending(&self.read, &range).collect()),
            _ => {
                let pairs: Result<Vec<Pair>, DiskError> = blocks::descending(&self.read, &range).collect();
                ("descending", pairs.map(|pairs| pairs.into_iter().rev().collect()))
            }
        };
        let pairs: Vec<Pair> = pairs.expect("pairs");
        if !pairs.is_sorted_by(|(left, _), (right, _)| left < right) {
            return Err(format!("{way}: not in order"));
        }
        let pairs: Map = pairs.into_iter().collect();
        let in_range = |key: &[u8]| RangeBounds::<[u8]>::contains(&range.bounds(), key);
        let wrong = (0..130).map(key).find(|key| {
            let found = pairs.get(key);
            if in_range(key) { !self.may_be(key, found) } else { found.is_some() }
        });
        wrong.map_or(Ok(()), |key| Err(format!("{way}: {key:?} in {range:?}")))
    }
}

#[test]
fn readers_and_starts_find_all_rows_between_any_two_writes() {
    let mut most_blocks = 0;
    for seed in 0..super::power_cuts::runs() {
        let mut run = Run::new(seed);
        for step in 0..60 {
            for _ in 0..=run.random.below(2) {
                let writes = run.batch();
                run.write(writes);
            }
            for _ in 0..4 {
                run.look().unwrap_or_else(|found| panic!("seed {seed}, step {step}: {found}"));
            }
            if run.random.coin() {
                run.end()
            } else {
                run.settle()
            }
            run.look().unwrap_or_else(|found| panic!("seed {seed}, after step {step}: {found}"));
            most_blocks = most_blocks.max(run.read.0.borrow().entries.len());
        }
    }
    assert!(most_blocks > 20, "{most_blocks} blocks");
}

fn block(numbers: &[u64]) -> Vec<u8> {
    let keys: Vec<Vec<u8>> = numbers.iter().copied().map(key).collect();
    block::encode(&keys.iter().map(|key| (&key[..], &b"value"[..])).collect::<Vec<_>>())
}

/// Entries of which the first search for the last one comes too early in one page, and too late in the other: between the two, the only
/// block was split, and then removed.
#[derive(Clone)]
struct Missed {
    entries: Written,
    has_missed: Rc<Cell<bool>>,
}

impl Missed {
    fn new(entries: Map) -> Self {
        Self { entries: Written::new(entries), has_missed: Rc::default() }
    }
}

impl Entries for Missed {
    type Bytes = Vec<u8>;

    fn cache(&self) -> &Cache {
        self.entries.cache()
    }

    fn ascending(&self, bounds: Bounds<'_>) -> impl Iterator<Item = Found<Vec<u8>>> + use<> {
        self.entries.ascending(bounds)
    }

    fn last(&self, bounds: Bounds<'_>) -> Result<Option<Pair>, DiskError> {
        if self.has_missed.replace(true) { self.entries.last(bounds) } else { Ok(None) }
    }

    fn put(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), DiskError> {
        self.entries.put(key, value)
    }

    fn damaged(&self, reason: Malformed) -> DiskError {
        panic!("{reason}")
    }
}

#[test]
fn row_is_found_when_its_first_block_was_split_and_removed_during_the_search() {
    let entries = || Missed::new(Map::from([(key(5), block(&[5, 7]))]));
    assert_eq!(blocks::get(&entries(), &key(7)), Ok(Some(b"value".to_vec())));
    let down: Result<Vec<Pair>, DiskError> = blocks::descending(&entries(), &KeyRange::prefix(b"")).collect();
    assert_eq!(down.expect("pairs").into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [key(7), key(5)]);
}

/// A reader may have the earlier block as it was, and ends it where the empty one begins.
#[test]
fn emptied_block_stays_when_the_one_before_has_rows_left_over() {
    for (before, stays) in [(vec![1, 2, 7], true), (vec![1, 2], false)] {
        let map = Map::from([(Vec::new(), block(&before)), (key(5), block(&[5]))]);
        let entries = Written::new(map);
        blocks::write(&entries, &[(&key(5), None)], |_, _, _| {}).expect("a write");
        let map = &entries.0.borrow().0;
        assert_eq!(map.get(&key(5)), stays.then(|| block(&[])).as_ref(), "{before:?}");
        assert_eq!(map.get(&b""[..]), Some(&block(&[1, 2])), "{before:?}");
    }
}
