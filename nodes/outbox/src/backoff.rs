//! Pauses between attempts.

/// First pause, in milliseconds.
const FIRST_MS: u64 = 10_000;
/// Longest pause, in milliseconds.
const LONGEST_MS: u64 = 30 * 60 * 1_000;

/// Pause before the attempt after this one, in milliseconds: doubled with each attempt up to half an hour, with a jitter
/// of a quarter to either side. `random` is uniform in 0..=65535.
pub fn retry_after_ms(attempt: u32, random: u16) -> u64 {
    let doubled = FIRST_MS.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(LONGEST_MS);
    let jitter = doubled / 2 * u64::from(random) / u64::from(u16::MAX);
    doubled - doubled / 4 + jitter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_an_hour_with_a_quarter_of_jitter() {
        for (attempt, least, most) in
            [(0, 7_500, 12_500), (1, 7_500, 12_500), (2, 15_000, 25_000), (60, 1_350_000, 2_250_000)]
        {
            assert_eq!(retry_after_ms(attempt, 0), least, "{attempt}");
            assert_eq!(retry_after_ms(attempt, u16::MAX), most, "{attempt}");
        }
    }
}
