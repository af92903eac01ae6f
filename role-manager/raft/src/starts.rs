//! Starts of a Raft store, and whether one follows another (rule R8).
//!
//! The number alone does not show that a store was rolled back: one that is rolled back by three starts, and started
//! four times before it reaches another member, has a higher number than any that they remember. It announces the
//! incarnations of the starts before it, too: those of the lost ones are not among them.

use bytes::Bytes;
use twinbox_ids::Incarnation;

/// Starts before the present one that a store records and announces. One that has started more often without reaching
/// a member counts as rolled back.
const RECORDED: usize = 256;

/// Length of a run number and of an incarnation, in bytes.
const RUN_BYTES: usize = 8;
const INCARNATION_BYTES: usize = 16;

/// One start of a store, as its member announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Number of starts of the store, this one included.
    pub run: u64,
    /// The incarnation of the process.
    pub incarnation: Incarnation,
    /// The incarnations of the starts before this one, the latest first, 16 bytes each. Those that an earlier release
    /// made are missing.
    pub earlier: Bytes,
}

impl Start {
    /// The first start of a store.
    pub(crate) fn first(incarnation: Incarnation) -> Self {
        Self { run: 1, incarnation, earlier: Bytes::new() }
    }

    /// The start after the `run`th, which `record` describes. A record of another start was left by an earlier release,
    /// which does not write any.
    pub(crate) fn after(run: u64, record: Option<&[u8]>, incarnation: Incarnation) -> Self {
        let recorded = record.and_then(|record| record.strip_prefix(&run.to_be_bytes()[..])).unwrap_or_default();
        let length = recorded.len().min(RECORDED * INCARNATION_BYTES);
        Self { run: run + 1, incarnation, earlier: Bytes::copy_from_slice(&recorded[..length]) }
    }

    /// The record of this start in its store: the run number, and the incarnations from this one back.
    pub(crate) fn to_record(&self) -> Vec<u8> {
        [&self.run.to_be_bytes()[..], &self.incarnation.to_bytes(), &self.earlier].concat()
    }

    /// This start as another member remembers it: the run number and the incarnation.
    pub(crate) fn to_memory(&self) -> Vec<u8> {
        [&self.run.to_be_bytes()[..], &self.incarnation.to_bytes()].concat()
    }

    /// The run number that was remembered by [`Self::to_memory`]. An unreadable one counts as later than every start.
    pub(crate) fn remembered_run(memory: &[u8]) -> u64 {
        memory.first_chunk::<RUN_BYTES>().map_or(u64::MAX, |number| u64::from_be_bytes(*number))
    }

    /// Whether the store of this start has had the remembered one. Otherwise it was rolled back, or copied.
    pub(crate) fn follows(&self, memory: &[u8]) -> bool {
        let known = Self::remembered_run(memory);
        if known >= self.run {
            return self.to_memory() == memory;
        }
        let back = usize::try_from(self.run - known).unwrap_or(usize::MAX);
        match self.earlier.chunks_exact(INCARNATION_BYTES).nth(back - 1) {
            Some(incarnation) => incarnation == &memory[RUN_BYTES..],
            // An earlier release made that start, or there were too many since.
            None => self.earlier.len() < RECORDED * INCARNATION_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incarnation(number: u64) -> Incarnation {
        Incarnation(u128::from(number))
    }

    /// The `run`th start of a store whose starts up to that have the incarnations of the same number, plus `offset`
    /// after the `common` ones.
    fn start(run: u64, common: u64, offset: u64) -> Start {
        let name = |run| incarnation(if run > common { run + offset } else { run });
        (2..=run)
            .fold(Start::first(name(1)), |start, run| Start::after(start.run, Some(&start.to_record()), name(run)))
    }

    #[test]
    fn a_start_follows_those_of_its_own_store_only() {
        let own = |run| start(run, run, 0);
        let rolled_back = |run, common| start(run, common, 1_000);
        let limit = RECORDED as u64;
        let cases = [
            ("the same, asked again", own(3), own(3), true),
            ("the next", own(4), own(3), true),
            ("ten later", own(13), own(3), true),
            ("an older one", own(2), own(3), false),
            ("a copy under the same number", rolled_back(3, 2), own(3), false),
            ("rolled back, one start later", rolled_back(4, 2), own(3), false),
            ("rolled back by three starts, and started four times", rolled_back(6, 2), own(5), false),
            ("rolled back to the remembered start", rolled_back(6, 3), own(3), true),
            ("as many starts as are recorded", own(3 + limit), own(3), true),
            ("more starts than are recorded", own(4 + limit), own(3), false),
        ];
        for (name, announced, remembered, expected) in cases {
            assert_eq!(announced.follows(&remembered.to_memory()), expected, "{name}");
        }
    }

    #[test]
    fn starts_that_an_earlier_release_made_are_not_compared() {
        let without_record = Start::after(5, None, incarnation(6));
        assert!(without_record.follows(&Start { run: 3, ..Start::first(incarnation(3)) }.to_memory()));
        let with_one = Start::after(6, Some(&without_record.to_record()), incarnation(7));
        assert!(with_one.follows(&Start { run: 3, ..Start::first(incarnation(3)) }.to_memory()));
        assert!(!with_one.follows(&Start { run: 6, ..Start::first(incarnation(60)) }.to_memory()));
        // An earlier release counted one start in between, and left the record of the one before.
        let older_record = Start::after(8, Some(&with_one.to_record()), incarnation(9));
        assert_eq!((older_record.run, older_record.earlier.len()), (9, 0));
    }

    #[test]
    fn a_malformed_memory_or_announcement_follows_nothing_and_breaks_nothing() {
        let start = start(3, 3, 0);
        assert!(!start.follows(b""));
        assert!(!start.follows(b"short"));
        assert!(!start.follows(&2_u64.to_be_bytes()));
        let odd = Start { earlier: Bytes::from_static(b"odd"), ..start };
        assert!(!odd.follows(&3_u64.to_be_bytes()));
    }
}
