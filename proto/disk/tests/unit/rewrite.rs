//! The time for a rewriting of the index.

use super::*;

#[test]
fn long_file_of_few_rows_is_rewritten_once() {
    let mut rewrite = Rewrite::default();
    for (file, rows, copies) in [(182, 100, false), (32, 0, false), (183, 100, true), (80, 100, true)] {
        rewrite.look(file * MIB, rows * MIB);
        assert_eq!(rewrite.copies(), copies, "{file} {rows}");
    }
    rewrite.ended(600 * MIB, 100 * MIB);
    for (file, rows, copies) in [(600, 100, false), (900, 100, false), (901, 100, true), (600, 74, true)] {
        let mut rewrite = Rewrite { state: rewrite.state, ..Rewrite::default() };
        rewrite.look(file * MIB, rows * MIB);
        assert_eq!(rewrite.copies(), copies, "{file} {rows} after it did not help");
    }
}

#[test]
fn turns_are_due_after_few_writes_or_many() {
    let mut rewrite = Rewrite::default();
    let cases = [(0, 1), (FEW - 1, 1), (FEW, 0), (WRITES_PER_TURN - FEW, 1), (FEW, 0), (16 * WRITES_PER_TURN, 16)];
    for (bytes, turns) in cases {
        rewrite.wrote(bytes);
        assert_eq!(rewrite.take_turns(), turns, "{bytes}");
    }
    rewrite.wrote(100 * WRITES_PER_TURN);
    rewrite.look(183 * MIB, 100 * MIB);
    assert_eq!(rewrite.take_turns(), 0, "for what was written before it began");
}
