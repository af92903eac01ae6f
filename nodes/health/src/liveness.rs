//! Liveness of this process: its runtime answers and its media threads turn. Nothing else is checked: a container's
//! health check or systemd's watchdog ends a process that fails it, with every call, and a hung duty, a full disk
//! or a lost peer is no reason for that.

use std::time::Duration;

use twinbox_media::Engine;

/// Time without a turn after which a media thread counts as hung: it turns 200 times a second with calls, and twice
/// a second without.
const STUCK: Duration = Duration::from_secs(5);

/// Reason why the process does not live, if so. An answer shows that the runtime works.
pub fn stall_reason(media: &Engine) -> Option<String> {
    stuck(media.stalled_for())
}

fn stuck(still_for: Duration) -> Option<String> {
    (still_for > STUCK).then(|| format!("a media thread has stood still for {} s", still_for.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resting_thread_is_alive_and_a_hung_one_is_not() {
        assert_eq!(stuck(Duration::from_millis(700)), None);
        assert!(stuck(Duration::from_secs(9)).is_some_and(|why| why.contains("9 s")));
    }
}
