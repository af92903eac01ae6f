//! Runs the benchmarks `size`, `day` and `lights` with the counts that CI has time for. They fail if a message is lost, if stores
//! differ or a folder grows, or if a new message waits behind a take-over. The tests also check sizes, which depend little on the
//! machine, and bound times generously.

use twinbox_system_tests::bench::{Figures, measure};
use twinbox_testkit::{need, parameter};

/// Ceilings of sizes are twice the aims and more, as a node may be rewriting its index and the traffic at rest varies; those of times
/// ten times the aims, as other tests run beside it.
const CEILINGS: [(&str, f64); 7] = [
    ("start after kill -9 of the incarnation that wrote it, to the CLI", 50.0),
    ("resident memory of node a", 1_000.0),
    ("resident memory of node b", 1_000.0),
    ("most memory of node b", 1_000.0),
    ("comparison of equal stores", 1_000.0),
    ("traffic of it at node b", 100.0),
    ("traffic of a comparison without a command", 100.0),
];
/// The same for a message, where the files that each store has count little.
const MESSAGE_KB: f64 = 6.0;
/// Least speed of a fill beside the copy of a spool, a hundredth of the aim: only a fill that hangs is slower.
const SLOWEST_FILL: f64 = 0.005;
/// Least ratio of the traffic of a repair of 10,000 rows to that of one. Where anything differs, rows are listed page by page, and each
/// request has 8 kB: that is most of what one row costs in a large store.
const REPAIR_RATIO: f64 = 5.0;

fn size(mailboxes: u64, messages: u64, differences: &str) -> Figures {
    let counts = [mailboxes, messages].map(|count| count.to_string());
    let figures =
        measure(&["size", "--mailboxes", &counts[0], "--messages", &counts[1], "--differences", differences]);
    CEILINGS.iter().for_each(|(what, most)| figures.assert_at_most(what, *most));
    figures
}

#[test]
fn ten_thousand_messages_are_kept_filled_compared_and_repaired_in_bounded_space() {
    if !need::all(&[need::NAMESPACES]) {
        return;
    }
    size(1_000, 10_000, "100");
}

#[test]
fn a_hundred_thousand_messages_are_kept_filled_compared_and_repaired_in_bounded_space() {
    if !need::all(&[need::NAMESPACES]) {
        return;
    }
    let mailboxes = parameter("TWINBOX_SIZE_MAILBOXES", 10_000);
    let messages = parameter("TWINBOX_SIZE_MESSAGES", 100_000);
    let figures = size(mailboxes, messages, "1,10000");
    figures.assert_at_most("a message on the disk beside its audio", MESSAGE_KB);
    let fill = figures.of("speed of the filling beside the copy of a spool")[0];
    assert!(fill >= SLOWEST_FILL, "a fill at {fill} of the speed of a copy");
    let [one, many] =
        [1, 10_000].map(|rows| figures.of(&format!("repair of lost rows of messages ({rows}): traffic"))[0]);
    assert!(one * REPAIR_RATIO <= many, "one row: {one} kB, 10,000: {many} kB");
}

/// A day has 64 MB of audio: two days of it that stayed would be more than the growth that the benchmark allows. Records that stay are
/// counted.
#[test]
fn folders_do_not_grow_over_days_of_messages_left_heard_and_deleted() {
    let mailboxes = parameter("TWINBOX_DAY_MAILBOXES", 500).to_string();
    let messages = parameter("TWINBOX_DAY_MESSAGES", 2).to_string();
    let audio = parameter("TWINBOX_DAY_AUDIO", 64_000).to_string();
    measure(&["day", "--mailboxes", &mailboxes, "--messages", &messages, "--days", "3", "--audio", &audio]);
}

#[test]
fn a_new_message_is_told_before_the_states_that_a_take_over_sends() {
    let mailboxes = parameter("TWINBOX_LIGHTS_MAILBOXES", 4_000).to_string();
    let figures = measure(&["lights", "--count", &mailboxes, "--rounds", "0"]);
    let row = &figures.rows()[0];
    // Otherwise all states were sent before the message was left.
    assert!(row["told after it"].as_u64().is_some_and(|told| told > 100), "{row}");
}
