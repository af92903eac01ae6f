//! Session timers (RFC 4028), on the called side.

use crate::{Request, Response};

/// Session timer settings of this node, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerPolicy {
    /// Interval offered if the caller does not choose one.
    pub interval: u32,
    /// Minimum accepted interval.
    pub min_se: u32,
}

/// Side that sends the refreshes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresher {
    /// The caller.
    Caller,
    /// This node.
    Us,
}

/// An agreed session timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// Seconds from a refresh to the end of the session.
    pub interval: u32,
    /// Side that sends the refreshes.
    pub refresher: Refresher,
    /// The caller supports RFC 4028 (the answer then carries `Require: timer`).
    pub required: bool,
}

impl Timer {
    /// The Session-Expires header of the `2xx`; the caller is `uac` in it.
    pub fn header(&self) -> String {
        let refresher = match self.refresher {
            Refresher::Caller => "uac",
            Refresher::Us => "uas",
        };
        format!("{};refresher={refresher}", self.interval)
    }

    /// Seconds after a refresh at which a session without another refresh is ended: before the end of the interval by a
    /// third of it, at most 32 s (section 10).
    pub fn last(&self) -> u32 {
        self.interval - (self.interval / 3).min(32)
    }

    /// The timer agreed in the `2xx` to a refresh sent by this node (section 7.2), which is `uac` here. Without
    /// Session-Expires the timer is unchanged.
    pub fn confirmed(self, response: &Response) -> Self {
        let Some(value) = response.headers.get("Session-Expires") else { return self };
        let theirs = refresher(value).is_some_and(|r| r.eq_ignore_ascii_case("uas"));
        Self {
            interval: seconds(value).unwrap_or(self.interval).max(LEAST),
            refresher: if theirs { Refresher::Caller } else { Refresher::Us },
            ..self
        }
    }

    /// The timer with the Min-SE of a `422` (section 7.3); `None` if Min-SE is not above the current interval.
    pub fn lengthened(self, response: &Response) -> Option<Self> {
        let min = response.headers.get("Min-SE").and_then(seconds)?;
        (min > self.interval).then_some(Self { interval: min, ..self })
    }
}

/// Minimum interval of RFC 4028, in seconds.
const LEAST: u32 = 90;

/// Answer to the session timer of an INVITE or UPDATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerOutcome {
    /// No session timer.
    None,
    /// `422` with this Min-SE.
    TooSmall(u32),
    /// The agreed timer.
    Timer(Timer),
}

/// Negotiates (section 9). A caller without RFC 4028 support gets no timer, unless a proxy requested one.
pub fn negotiate(request: &Request, policy: TimerPolicy) -> TimerOutcome {
    let headers = &request.headers;
    let supported = headers.has_token("Supported", "timer") || headers.has_token("Require", "timer");
    let Some(wanted) = headers.get("Session-Expires") else {
        return match supported {
            true => {
                let min = headers.get("Min-SE").and_then(seconds).unwrap_or(0);
                let interval = policy.interval.max(min);
                // Some telephones say that they can, and then do not refresh a timer that they did not ask for.
                TimerOutcome::Timer(Timer { interval, refresher: Refresher::Us, required: true })
            }
            false => TimerOutcome::None,
        };
    };
    let Some(interval) = seconds(wanted) else { return TimerOutcome::None };
    if interval < policy.min_se {
        // A proxy requested this for a caller that would not understand a 422: raise the interval instead.
        if supported {
            return TimerOutcome::TooSmall(policy.min_se);
        }
    }
    let interval = interval.max(policy.min_se);
    let ours = refresher(wanted).is_some_and(|r| r.eq_ignore_ascii_case("uas"));
    let refresher = if ours || !supported { Refresher::Us } else { Refresher::Caller };
    TimerOutcome::Timer(Timer { interval, refresher, required: supported })
}

fn refresher(value: &str) -> Option<&str> {
    crate::addr::params(value).find(|(k, _)| k.eq_ignore_ascii_case("refresher")).and_then(|(_, v)| v)
}

fn seconds(value: &str) -> Option<u32> {
    value.split(';').next()?.trim().parse().ok()
}
