//! A brake for a wrong shared secret: otherwise each account of the server would try it, and servers lock such clients.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use twinbox_clock::BootInstant;

use crate::error::SyncError;

/// Refused sign-ins in a row from which the accounts pause.
const MOST: u32 = 5;
/// Pause of the accounts; the text of [`SyncError::Paused`] names it.
const PAUSE: Duration = Duration::from_secs(5 * 60);

/// Refused sign-ins of one server with its shared secret.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// Refused in a row, and the end of the pause.
    state: Mutex<(u32, Option<BootInstant>)>,
}

impl Refusals {
    /// Fails during a pause. After it, one more refusal begins the next.
    pub(crate) fn check(&self, now: BootInstant) -> Result<(), SyncError> {
        let mut state = self.state();
        match state.1 {
            Some(until) if until > now => return Err(SyncError::Paused),
            Some(_) => *state = (MOST - 1, None),
            None => {}
        }
        Ok(())
    }

    /// Counts a sign-in that the server refused.
    pub(crate) fn refused(&self, now: BootInstant) {
        let mut state = self.state();
        state.0 = state.0.saturating_add(1);
        if state.0 >= MOST {
            state.1 = Some(now + PAUSE);
        }
    }

    /// A sign-in succeeded: the secret is right.
    pub(crate) fn reset(&self) {
        *self.state() = (0, None);
    }

    fn state(&self) -> MutexGuard<'_, (u32, Option<BootInstant>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_shared_secret_pauses_the_server_and_one_account_tries_it_again() {
        let refusals = Refusals::default();
        let now = BootInstant::from_nanos(1_000_000_000);
        for _ in 0..MOST {
            assert!(refusals.check(now).is_ok());
            refusals.refused(now);
        }
        assert!(matches!(refusals.check(now), Err(SyncError::Paused)));
        let later = now + PAUSE;
        assert!(refusals.check(later).is_ok());
        refusals.refused(later);
        assert!(matches!(refusals.check(later), Err(SyncError::Paused)), "the first account decides");
        refusals.reset();
        assert!(refusals.check(later).is_ok());
        refusals.refused(later);
        assert!(refusals.check(later).is_ok());
    }
}
