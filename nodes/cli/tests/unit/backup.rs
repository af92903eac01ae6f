//! The output of `backup`.

use super::*;

#[test]
fn sizes_have_the_unit_in_which_they_are_short() {
    for (bytes, text) in [(0, "0.0 kB"), (1_500, "1.5 kB"), (999_999, "999.9 kB"), (2_340_000_000, "2.3 GB")] {
        assert_eq!(size(bytes), text);
    }
}
