//! Pauses between attempts.

use std::time::Duration;

use twinbox_ids::Backoff;

/// Pauses before their jitter.
const RETRY: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(30 * 60));

/// Pause before the attempt after this one, in milliseconds: doubled with each attempt up to half an hour, with a jitter
/// of a quarter to either side. `random` is uniform in 0..=65535.
pub fn retry_after_ms(attempt: u32, random: u16) -> u64 {
    let random = f64::from(random) / f64::from(u16::MAX);
    let pause = Backoff::spread(RETRY.after(attempt), 0.75..=1.25, random);
    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
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
