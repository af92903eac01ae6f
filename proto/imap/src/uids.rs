//! Sets of UIDs in commands and answers.

use std::{collections::BTreeSet, fmt::Write};

/// Most UIDs in one command.
const BATCH_UIDS: usize = 1_000;

/// Most ranges in one command: 200 of at most 22 characters stay below the line limit of servers, 8,000 bytes (RFC 7162
/// §4).
pub(crate) const BATCH_RANGES: usize = 200;

/// UIDs of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Ranges as text, such as `1:5,9`.
    pub text: String,
    /// Number of UIDs.
    pub count: usize,
}

/// Ranges from first to last, both included, of the non-zero UIDs in a set.
pub(crate) fn ranges(uids: &BTreeSet<u32>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for uid in uids.iter().copied().filter(|uid| *uid > 0) {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(uid) => *last = uid,
            _ => ranges.push((uid, uid)),
        }
    }
    ranges
}

/// Splits a set of UIDs into commands of limited length and answers of limited number.
pub(crate) fn batches(uids: &BTreeSet<u32>) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut current: Vec<(u32, u32)> = Vec::new();
    let mut room = BATCH_UIDS;
    for (mut first, last) in ranges(uids) {
        loop {
            if room == 0 || current.len() == BATCH_RANGES {
                batches.push(batch(&current));
                current.clear();
                room = BATCH_UIDS;
            }
            let most = first.saturating_add(u32::try_from(room - 1).unwrap_or(u32::MAX));
            let end = last.min(most);
            current.push((first, end));
            room = room.saturating_sub(size(first, end));
            match end.checked_add(1) {
                Some(next) if next <= last => first = next,
                _ => break,
            }
        }
    }
    if !current.is_empty() {
        batches.push(batch(&current));
    }
    batches
}

fn batch(ranges: &[(u32, u32)]) -> Batch {
    Batch { text: text(ranges), count: ranges.iter().map(|(first, last)| size(*first, *last)).sum() }
}

fn size(first: u32, last: u32) -> usize {
    usize::try_from(last.saturating_sub(first)).unwrap_or(usize::MAX).saturating_add(1)
}

/// Ranges as text, such as `1:5,9`.
pub(crate) fn text(ranges: &[(u32, u32)]) -> String {
    let mut text = String::new();
    for (first, last) in ranges {
        if !text.is_empty() {
            text.push(',');
        }
        // Writing to a string cannot fail.
        let _ = if first == last { write!(text, "{first}") } else { write!(text, "{first}:{last}") };
    }
    text
}

/// Members of `known` that are in the ranges, in ascending order. The ranges come from a server: they may overlap and may
/// be huge, so each member is found at most once.
pub(crate) fn members(known: &BTreeSet<u32>, ranges: &[(u32, u32)]) -> BTreeSet<u32> {
    let mut left = known.clone();
    let mut found = BTreeSet::new();
    for (first, last) in ranges {
        let inside: Vec<u32> = left.range(*first.min(last)..=*first.max(last)).copied().collect();
        for uid in inside {
            left.remove(&uid);
            found.insert(uid);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn consecutive_uids_become_one_range() {
        let uids = BTreeSet::from([0, 1, 2, 3, 7, 9, 10, u32::MAX]);
        assert_eq!(text(&ranges(&uids)), "1:3,7,9:10,4294967295");
        assert_eq!(batches(&BTreeSet::new()), Vec::new());
        assert_eq!(members(&uids, &[(u32::MAX, 9), (2, 2), (2, 2)]), BTreeSet::from([2, 9, 10, u32::MAX]));
    }

    fn parse(text: &str) -> Vec<u32> {
        let range = |range: &str| {
            let (first, last) = range.split_once(':').unwrap_or((range, range));
            first.parse::<u32>().unwrap()..=last.parse().unwrap()
        };
        text.split(',').flat_map(range).collect()
    }

    proptest! {
        #[test]
        fn batches_cover_each_uid_once_within_the_bounds(
            dense in 0_u32..5_000,
            sparse in prop::collection::btree_set(5_000_u32..2_000_000, 0..1_500),
        ) {
            let uids: BTreeSet<u32> = (1..=dense).chain(sparse).collect();
            let batches = batches(&uids);
            let mut all = Vec::new();
            for batch in &batches {
                let parsed = parse(&batch.text);
                prop_assert_eq!(parsed.len(), batch.count);
                prop_assert!(batch.count <= BATCH_UIDS && batch.text.split(',').count() <= BATCH_RANGES);
                all.extend(parsed);
            }
            prop_assert_eq!(all, uids.into_iter().collect::<Vec<_>>());
        }
    }
}
