//! Whether this process lives: its runtime answers and its media threads turn. Nothing else is asked: whoever asks
//! (a container's health check, systemd's watchdog) ends the process for a "no", and with it every call, which a
//! hung duty, a full disk or a lost peer is no reason for.

use std::time::Duration;

use twinbox_media::Engine;

/// A media thread that has not come round for so long is stuck: it turns 200 times a second with calls and twice
/// without.
const STUCK: Duration = Duration::from_secs(5);

/// Why the process does not live, if it does not. That this is answered shows that the runtime does.
pub fn why_not(media: &Engine) -> Option<String> {
    stuck(media.still_for())
}

fn stuck(still_for: Duration) -> Option<String> {
    (still_for > STUCK).then(|| format!("a media thread has stood still for {} s", still_for.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_rests_is_alive_and_one_that_hangs_is_not() {
        assert_eq!(stuck(Duration::from_millis(700)), None);
        assert!(stuck(Duration::from_secs(9)).is_some_and(|why| why.contains("9 s")));
    }
}
