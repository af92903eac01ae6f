//! Session timers (RFC 4028), as the side that is called.

use crate::{Request, Response};

/// What this node wants of session timers, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The interval offered when the caller leaves it to us.
    pub interval: u32,
    /// The shortest accepted.
    pub min_se: u32,
}

/// Who sends the refreshes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresher {
    /// The caller.
    Caller,
    /// We.
    Us,
}

/// An agreed session timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// Seconds from each refresh to the end.
    pub interval: u32,
    /// Who refreshes.
    pub refresher: Refresher,
    /// The caller knows RFC 4028 (then the answer carries `Require: timer`).
    pub required: bool,
}

impl Timer {
    /// The Session-Expires header of the `2xx`. In it the caller is `uac`.
    pub fn header(&self) -> String {
        let refresher = match self.refresher {
            Refresher::Caller => "uac",
            Refresher::Us => "uas",
        };
        format!("{};refresher={refresher}", self.interval)
    }

    /// Seconds after a refresh at which a session that was not refreshed again is ended: a third of the interval or
    /// 32 s before its end, whichever is nearer to it (section 10).
    pub fn last(&self) -> u32 {
        self.interval - (self.interval / 3).min(32)
    }

    /// What the `2xx` to a refresh of ours agrees on (section 7.2); in it we are `uac`. Without Session-Expires all
    /// stays as it was.
    pub fn confirmed(self, response: &Response) -> Self {
        let Some(value) = response.headers.get("Session-Expires") else { return self };
        let theirs = refresher(value).is_some_and(|r| r.eq_ignore_ascii_case("uas"));
        Self {
            interval: seconds(value).unwrap_or(self.interval).max(LEAST),
            refresher: if theirs { Refresher::Caller } else { Refresher::Us },
            ..self
        }
    }

    /// As a `422` wants it (section 7.3); `None` when its Min-SE asks for no more than we did.
    pub fn lengthened(self, response: &Response) -> Option<Self> {
        let min = response.headers.get("Min-SE").and_then(seconds)?;
        (min > self.interval).then_some(Self { interval: min, ..self })
    }
}

/// The shortest interval that RFC 4028 allows, in seconds.
const LEAST: u32 = 90;

/// What to answer to the session timer of an INVITE or UPDATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No session timer.
    None,
    /// `422` with this Min-SE.
    TooSmall(u32),
    /// As agreed.
    Timer(Timer),
}

/// Negotiates (section 9). A caller that does not know session timers gets none: nobody would refresh.
pub fn negotiate(request: &Request, policy: Policy) -> Outcome {
    let headers = &request.headers;
    let supported = headers.has_token("Supported", "timer") || headers.has_token("Require", "timer");
    let Some(wanted) = headers.get("Session-Expires") else {
        return match supported {
            true => {
                let min = headers.get("Min-SE").and_then(seconds).unwrap_or(0);
                let interval = policy.interval.max(min);
                Outcome::Timer(Timer { interval, refresher: Refresher::Caller, required: true })
            }
            false => Outcome::None,
        };
    };
    let Some(interval) = seconds(wanted) else { return Outcome::None };
    if interval < policy.min_se {
        // A proxy asked on behalf of a caller that would not understand a 422: raise it instead.
        if supported {
            return Outcome::TooSmall(policy.min_se);
        }
    }
    let interval = interval.max(policy.min_se);
    let ours = refresher(wanted).is_some_and(|r| r.eq_ignore_ascii_case("uas"));
    let refresher = if ours || !supported { Refresher::Us } else { Refresher::Caller };
    Outcome::Timer(Timer { interval, refresher, required: supported })
}

fn refresher(value: &str) -> Option<&str> {
    crate::addr::params(value).find(|(k, _)| k.eq_ignore_ascii_case("refresher")).and_then(|(_, v)| v)
}

fn seconds(value: &str) -> Option<u32> {
    value.split(';').next()?.trim().parse().ok()
}
