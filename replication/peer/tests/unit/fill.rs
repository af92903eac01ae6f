use super::*;

#[test]
fn fill_goes_on_without_a_source_that_brings_nothing_until_it_brings_something() {
    let at = |seconds: u64| BootInstant::from_nanos(seconds * 1_000_000_000);
    let mut patience = Patience { missing: 100, advanced: 0, since: at(0) };
    for (seconds, missing, advanced, expected) in [
        (299, 100, 0, false),
        (300, 100, 0, true),
        (400, 99, 0, false),
        // A scan of any peer gets further.
        (699, 99, 1, false),
        (998, 99, 1, false),
        (999, 99, 1, true),
        // Its next stream tells of more: that brings nothing.
        (1_000, 500, 1, true),
        (1_001, 99, 1, true),
        (1_002, 98, 1, false),
    ] {
        assert_eq!(patience.is_over(missing, advanced, at(seconds), STUCK), expected, "{seconds} s");
    }
}
