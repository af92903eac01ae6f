//! Memory of tokens and of failures: pure, the time is given.

use std::time::Duration;

use twinbox_clock::BootInstant;
use twinbox_ids::Backoff;

use crate::{error::TokenError, grant::Granted, secret::AccessToken};

/// A token is renewed this long before its expiry, or after half of its life if that is later.
const RENEWED_BEFORE: Duration = Duration::from_secs(300);
/// Life of a token whose answer does not state it (RFC 6749 §5.1: recommended only).
const ASSUMED_LIFE: Duration = Duration::from_secs(600);
/// Longest life that is believed.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// A token that is younger than this is not replaced when a mail server refuses it: the account is the reason then, and
/// a thousand accounts without a permission must not cause a thousand requests.
const YOUNG: Duration = Duration::from_secs(10);
/// Pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Pauses of one user.
const USER_PAUSES: Backoff = Backoff::new(FIRST_PAUSE, Duration::from_secs(600));
/// Pauses of the source, after failures that concern all users.
const SOURCE_PAUSES: Backoff = Backoff::new(FIRST_PAUSE, Duration::from_secs(300));
/// Pauses of the source, after refusals that each may concern one user alone.
const REFUSALS_PAUSES: Backoff = Backoff::new(FIRST_PAUSE, Duration::from_secs(60));
/// Consecutive refusals after which the source pauses.
const REFUSALS: u32 = 3;

/// Next step for a caller that wants a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TokenStep {
    /// Use this token.
    Use(AccessToken),
    /// Do not ask yet: this is why the last request failed.
    Wait(TokenError),
    /// Ask the endpoint.
    Ask,
}

/// Token of one user, or of all users if the grant names none.
#[derive(Default)]
pub(crate) struct CachedToken {
    token: Option<ValidToken>,
    failure: Option<Failure>,
    failures: u32,
}

struct ValidToken {
    token: AccessToken,
    asked: BootInstant,
    renewal: BootInstant,
    expiry: BootInstant,
}

struct Failure {
    error: TokenError,
    until: BootInstant,
}

impl CachedToken {
    /// Next step. While a renewal fails, the token counts until its expiry.
    pub(crate) fn step(&self, now: BootInstant) -> TokenStep {
        let fresh = self.token.as_ref().filter(|valid| now < valid.renewal);
        let failure = self.failure.as_ref().filter(|failure| now < failure.until);
        match (fresh, failure) {
            (Some(valid), _) => TokenStep::Use(valid.token.clone()),
            (None, Some(failure)) => {
                self.valid(now).map_or_else(|| TokenStep::Wait(failure.error.clone()), TokenStep::Use)
            }
            (None, None) => TokenStep::Ask,
        }
    }

    /// The token, unless it has expired.
    pub(crate) fn valid(&self, now: BootInstant) -> Option<AccessToken> {
        self.token.as_ref().filter(|valid| now < valid.expiry).map(|valid| valid.token.clone())
    }

    /// Remembers a token that a request begun at `asked` has brought.
    pub(crate) fn granted(&mut self, asked: BootInstant, granted: Granted) {
        let life = granted.expires_in.unwrap_or(ASSUMED_LIFE).min(LONGEST_LIFE);
        let renewal = asked + life.saturating_sub(RENEWED_BEFORE).max(life / 2);
        let valid = ValidToken { token: granted.token, asked, renewal, expiry: asked + life };
        *self = Self { token: Some(valid), ..Self::default() };
    }

    /// Remembers a failure.
    pub(crate) fn failed(&mut self, now: BootInstant, error: TokenError) {
        self.failures = self.failures.saturating_add(1);
        self.failure = Some(Failure { error, until: now + USER_PAUSES.after(self.failures) });
    }

    /// Forgets this token, which a server refused, unless it is young; another one that came meanwhile stays.
    pub(crate) fn discard(&mut self, now: BootInstant, token: &AccessToken) {
        let is_it = |valid: &ValidToken| valid.token == *token && now.since(valid.asked) >= YOUNG;
        if self.token.as_ref().is_some_and(is_it) {
            self.token = None;
        }
    }

    /// There is nothing to remember any more.
    pub(crate) fn is_over(&self, now: BootInstant) -> bool {
        self.valid(now).is_none() && self.failure.as_ref().is_none_or(|failure| failure.until <= now)
    }
}

/// Pauses of a source after failures that concern all of its users.
#[derive(Default)]
pub(crate) struct SourcePause {
    failure: Option<Failure>,
    since: Option<BootInstant>,
    pauses: u32,
    refusals: u32,
}

impl SourcePause {
    /// Reason why no request may be sent now.
    pub(crate) fn reason(&self, now: BootInstant) -> Option<TokenError> {
        self.failure.as_ref().filter(|failure| now < failure.until).map(|failure| failure.error.clone())
    }

    /// A request has succeeded.
    pub(crate) fn granted(&mut self) {
        *self = Self::default();
    }

    /// A request begun at `asked` has failed. One that was under way when the pause began says nothing new.
    pub(crate) fn failed(&mut self, asked: BootInstant, now: BootInstant, error: &TokenError) {
        if self.since.is_some_and(|since| asked < since) {
            return;
        }
        let pauses = match error.is_of_a_user() {
            true => {
                self.refusals = self.refusals.saturating_add(1);
                if self.refusals < REFUSALS {
                    return;
                }
                REFUSALS_PAUSES
            }
            false => SOURCE_PAUSES,
        };
        self.pauses = self.pauses.saturating_add(1);
        self.since = Some(now);
        self.failure = Some(Failure { error: error.clone(), until: now + pauses.after(self.pauses) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootInstant {
        BootInstant::from_nanos(seconds * 1_000_000_000)
    }

    fn granted(text: &str, seconds: Option<u64>) -> Granted {
        let token = AccessToken::new(text).expect("a token");
        Granted { token, expires_in: seconds.map(Duration::from_secs) }
    }

    fn refused(code: &str) -> TokenError {
        TokenError::Refused { host: "h".to_owned(), code: code.to_owned(), text: "t".to_owned() }
    }

    #[test]
    fn token_is_used_until_shortly_before_its_expiry() {
        for (life, renewal) in
            [(Some(3_600), 3_300), (Some(400), 200), (Some(0), 0), (None, 300), (Some(u64::MAX), 86_100)]
        {
            let mut cached = CachedToken::default();
            assert_eq!(cached.step(at(1_000)), TokenStep::Ask);
            cached.granted(at(1_000), granted("a", life));
            if renewal > 0 {
                assert!(matches!(cached.step(at(1_000 + renewal - 1)), TokenStep::Use(_)), "{life:?}");
            }
            assert_eq!(cached.step(at(1_000 + renewal)), TokenStep::Ask, "{life:?}");
        }
    }

    #[test]
    fn old_token_counts_until_its_expiry_while_the_renewal_fails() {
        let mut cached = CachedToken::default();
        cached.granted(at(0), granted("a", Some(3_600)));
        cached.failed(at(3_590), refused("invalid_client"));
        assert!(matches!(cached.step(at(3_591)), TokenStep::Use(_)));
        assert_eq!(cached.step(at(3_595)), TokenStep::Ask);
        cached.failed(at(3_595), refused("invalid_client"));
        assert_eq!(cached.step(at(3_600)), TokenStep::Wait(refused("invalid_client")));
        assert!(!cached.is_over(at(3_600)));
        assert!(cached.is_over(at(3_605)));
    }

    #[test]
    fn pauses_of_a_user_grow_up_to_ten_minutes() {
        let mut cached = CachedToken::default();
        for (failure, seconds) in [5, 10, 20, 40, 80, 160, 320, 600, 600].into_iter().enumerate() {
            let now = at(10_000 * (failure as u64 + 1));
            cached.failed(now, refused("invalid_grant"));
            assert!(matches!(cached.step(now + Duration::from_secs(seconds - 1)), TokenStep::Wait(_)), "{failure}");
            assert_eq!(cached.step(now + Duration::from_secs(seconds)), TokenStep::Ask, "{failure}");
        }
    }

    #[test]
    fn discarded_token_is_not_used_and_a_young_or_newer_one_stays() {
        let [old, new] = ["old", "new"].map(|text| AccessToken::new(text).expect("a token"));
        let mut cached = CachedToken::default();
        cached.granted(at(0), granted("new", Some(3_600)));
        cached.discard(at(60), &old);
        cached.discard(at(9), &new);
        assert!(matches!(cached.step(at(60)), TokenStep::Use(_)));
        cached.discard(at(60), &new);
        assert_eq!(cached.step(at(60)), TokenStep::Ask);
    }

    #[test]
    fn source_pauses_at_once_for_a_refused_client_and_after_three_refusals_of_users() {
        let mut pause = SourcePause::default();
        pause.failed(at(0), at(1), &refused("invalid_client"));
        assert_eq!(pause.reason(at(5)), Some(refused("invalid_client")));
        assert_eq!(pause.reason(at(6)), None);
        // Requests that were under way do not lengthen the pause.
        pause.failed(at(0), at(7), &refused("invalid_client"));
        assert_eq!(pause.reason(at(7)), None);
        pause.failed(at(7), at(7), &refused("invalid_client"));
        assert!(pause.reason(at(16)).is_some() && pause.reason(at(17)).is_none());

        let mut pause = SourcePause::default();
        for n in 0..2 {
            pause.failed(at(n), at(n), &refused("invalid_grant"));
            assert_eq!(pause.reason(at(n)), None);
        }
        pause.failed(at(2), at(2), &refused("invalid_grant"));
        assert!(pause.reason(at(6)).is_some());
        pause.granted();
        assert_eq!(pause.reason(at(3)), None);
        pause.failed(at(4), at(4), &refused("invalid_grant"));
        assert_eq!(pause.reason(at(4)), None);
    }
}
