//! The next step with one directory. Pure.

use std::time::Duration;

use twinbox_directory_core::DirectorySettings;
use twinbox_ids::{Backoff, Timestamp};

/// Intervals between two comparisons of ids with a server that does not report deletions to every account.
const COMPARE_EVERY: u32 = 2;
/// Intervals since the latest full search before another one settles refused changes.
const SETTLE_EVERY: u32 = 4;
/// Interval of the full search of a server that only tells changes.
const REREAD_EVERY: Duration = Duration::from_secs(24 * 3_600);
/// Pauses between attempts.
const RETRY: Backoff = Backoff::new(Duration::from_secs(30), Duration::from_secs(3_600));
/// Longest wait without another decision: settings may change meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// Facts about a directory from which the next step is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// An administrator has ordered a full search.
    pub ordered: bool,
    /// The directory is synchronised without an order.
    pub enabled: bool,
    /// There is a cursor from which changes can be read, and the server has not refused it.
    pub has_cursor: bool,
    /// The server keeps a connection on which it reports changes at once.
    pub follows: bool,
    /// The server does not report deletions to every account: ids are compared in every second interval.
    pub compares: bool,
    /// The server only tells changes: it is read as a whole once a day.
    pub rereads: bool,
    /// End of the latest full search.
    pub full_at: Option<Timestamp>,
    /// Interval between two searches for changes.
    pub every: Duration,
    /// End of the latest run that succeeded.
    pub succeeded: Option<Timestamp>,
    /// Latest time at which the ids were compared, by a full search too.
    pub compared: Option<Timestamp>,
    /// Changes of users were refused because of what others have: only all entries together can settle that.
    pub unsettled: bool,
    /// Settings were changed since the latest full search, and all entries may have other users now.
    pub finds_otherwise: bool,
    /// No attempt before this time, after failures.
    pub not_before: Option<Timestamp>,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Do this now.
    Run(Work),
    /// Nothing before this time.
    Wait(Timestamp),
}

/// Kind of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// All entries.
    Full,
    /// Entries that changed since the cursor.
    Changes,
    /// Changes, and ids of all entries, to find those that were deleted or left the search.
    Compare,
    /// Changes as the server reports them, until the connection ends.
    Follow,
}

/// Decides the next step.
pub(crate) fn decide(facts: &Facts, now: Timestamp) -> Next {
    if facts.ordered {
        return Next::Run(Work::Full);
    }
    if !facts.enabled {
        return Next::Wait(now + LONGEST_WAIT);
    }
    if let Some(until) = facts.not_before.filter(|until| *until > now) {
        // A clock that was set back must not keep the directory waiting for long.
        return Next::Wait(until.min(now + RETRY.longest()));
    }
    if facts.finds_otherwise {
        // No change of an entry tells that: neither the cursor nor the interval counts.
        return Next::Run(Work::Full);
    }
    if !facts.has_cursor {
        // A server whose position cannot be kept is read as a whole at each interval, not without a pause.
        return match facts.full_at {
            Some(last) if !is_due(Some(last), facts.every, now) => Next::Wait(last + facts.every),
            _ => Next::Run(Work::Full),
        };
    }
    if facts.rereads && reread_is_due(facts.full_at, now) {
        return Next::Run(Work::Full);
    }
    if facts.unsettled && settling_is_due(facts.full_at, facts.every, now) {
        return Next::Run(Work::Full);
    }
    if facts.compares && is_due(facts.compared, facts.every.saturating_mul(COMPARE_EVERY), now) {
        return Next::Run(Work::Compare);
    }
    if facts.follows {
        return Next::Run(Work::Follow);
    }
    match facts.succeeded {
        Some(last) if !is_due(Some(last), facts.every, now) => Next::Wait(last + facts.every),
        _ => Next::Run(Work::Changes),
    }
}

/// Whether a server that only tells changes is to be read as a whole. Values that went back with a restored backup are
/// in no change, and the end of a grace time is none either.
pub(crate) fn reread_is_due(full_at: Option<Timestamp>, now: Timestamp) -> bool {
    is_due(full_at, REREAD_EVERY, now)
}

/// Whether refused changes are to be settled by reading the whole directory. Where a conflict lasts, not at each change.
pub(crate) fn settling_is_due(full_at: Option<Timestamp>, every: Duration, now: Timestamp) -> bool {
    is_due(full_at, every.saturating_mul(SETTLE_EVERY), now)
}

/// Whether the settings search for other entries, or make other users of the same ones.
pub(crate) fn finds_otherwise(before: &DirectorySettings, after: &DirectorySettings) -> bool {
    before.search != after.search || before.map != after.map
}

/// Time of the next attempt after this many failures in a row, from 1. `random` is from 0 to 1 and spreads the attempts
/// over the second half of the pause.
pub(crate) fn retry_at(failures: u32, random: f64, now: Timestamp) -> Timestamp {
    now + Backoff::spread(RETRY.after(failures), 0.5..=1.0, random)
}

/// Whether the interval since `last` is over. A time in the future is of a clock that was set back: then it is.
fn is_due(last: Option<Timestamp>, every: Duration, now: Timestamp) -> bool {
    last.is_none_or(|last| last > now || last + every <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000_000);
    const MINUTE: u64 = 60_000;
    const DAY: u64 = 24 * 60 * MINUTE;

    fn ago(ms: u64) -> Option<Timestamp> {
        Some(Timestamp(NOW.0 - ms))
    }

    /// A directory that was synchronised a minute ago, every five minutes.
    fn facts() -> Facts {
        Facts {
            ordered: false,
            enabled: true,
            has_cursor: true,
            follows: false,
            compares: false,
            rereads: false,
            full_at: ago(60 * MINUTE),
            every: Duration::from_secs(300),
            succeeded: ago(MINUTE),
            compared: ago(60 * MINUTE),
            unsettled: false,
            finds_otherwise: false,
            not_before: None,
        }
    }

    #[test]
    fn next_step_follows_from_cursor_order_interval_and_failures() {
        let in_4_minutes = Next::Wait(Timestamp(NOW.0 + 4 * MINUTE));
        let cases: &[(&str, Facts, Next)] = &[
            ("within the interval", facts(), in_4_minutes),
            ("interval over", Facts { succeeded: ago(5 * MINUTE), ..facts() }, Next::Run(Work::Changes)),
            ("refused changes", Facts { unsettled: true, ..facts() }, Next::Run(Work::Full)),
            (
                "refused changes, whole directory read just now",
                Facts { unsettled: true, follows: true, full_at: ago(MINUTE), ..facts() },
                Next::Run(Work::Follow),
            ),
            (
                "other templates, whole directory read just now",
                Facts { finds_otherwise: true, follows: true, full_at: ago(MINUTE), ..facts() },
                Next::Run(Work::Full),
            ),
            (
                "another base, without a cursor for it, whole directory read just now",
                Facts { finds_otherwise: true, has_cursor: false, full_at: ago(MINUTE), ..facts() },
                Next::Run(Work::Full),
            ),
            (
                "other templates while disabled",
                Facts { finds_otherwise: true, enabled: false, ..facts() },
                Next::Wait(Timestamp(NOW.0 + 60 * MINUTE)),
            ),
            (
                "other templates, pause after a failure",
                Facts { finds_otherwise: true, not_before: Some(Timestamp(NOW.0 + 5)), ..facts() },
                Next::Wait(Timestamp(NOW.0 + 5)),
            ),
            ("no run yet in this epoch", Facts { succeeded: None, ..facts() }, Next::Run(Work::Changes)),
            ("no cursor", Facts { has_cursor: false, ..facts() }, Next::Run(Work::Full)),
            (
                "no cursor that can be kept, read as a whole within the interval",
                Facts { has_cursor: false, full_at: ago(MINUTE), ..facts() },
                in_4_minutes,
            ),
            ("ordered", Facts { ordered: true, ..facts() }, Next::Run(Work::Full)),
            ("ordered while disabled", Facts { ordered: true, enabled: false, ..facts() }, Next::Run(Work::Full)),
            (
                "ordered during a pause",
                Facts { ordered: true, not_before: Some(Timestamp(NOW.0 + 1)), ..facts() },
                Next::Run(Work::Full),
            ),
            (
                "disabled",
                Facts { enabled: false, has_cursor: false, ..facts() },
                Next::Wait(Timestamp(NOW.0 + 60 * MINUTE)),
            ),
            (
                "pause after a failure",
                Facts { has_cursor: false, not_before: Some(Timestamp(NOW.0 + 5)), ..facts() },
                Next::Wait(Timestamp(NOW.0 + 5)),
            ),
            (
                "pause over",
                Facts { succeeded: ago(10 * MINUTE), not_before: ago(0), ..facts() },
                Next::Run(Work::Changes),
            ),
            (
                "pause of a clock that was set back",
                Facts { not_before: Some(Timestamp(NOW.0 + 9 * DAY)), ..facts() },
                Next::Wait(Timestamp(NOW.0 + 60 * MINUTE)),
            ),
            (
                "success in the future, of a clock that was set back",
                Facts { succeeded: Some(Timestamp(NOW.0 + DAY)), ..facts() },
                Next::Run(Work::Changes),
            ),
            ("server reports changes", Facts { follows: true, ..facts() }, Next::Run(Work::Follow)),
            (
                "server reports changes, whole directory read today",
                Facts { follows: true, rereads: true, ..facts() },
                Next::Run(Work::Follow),
            ),
            (
                "server reports changes, whole directory read yesterday",
                Facts { follows: true, rereads: true, full_at: ago(DAY), ..facts() },
                Next::Run(Work::Full),
            ),
            (
                "server is searched for changes, whole directory read yesterday",
                Facts { rereads: true, full_at: ago(DAY), ..facts() },
                Next::Run(Work::Full),
            ),
            (
                "whole directory read yesterday, pause after a failure",
                Facts { rereads: true, full_at: ago(DAY), not_before: Some(Timestamp(NOW.0 + 5)), ..facts() },
                Next::Wait(Timestamp(NOW.0 + 5)),
            ),
            (
                "ids compared in the interval before",
                Facts { compares: true, compared: ago(9 * MINUTE), ..facts() },
                in_4_minutes,
            ),
            (
                "ids compared two intervals ago",
                Facts { compares: true, compared: ago(10 * MINUTE), ..facts() },
                Next::Run(Work::Compare),
            ),
            (
                "ids compared two intervals ago, whole directory read yesterday",
                Facts { compares: true, rereads: true, compared: ago(10 * MINUTE), full_at: ago(DAY), ..facts() },
                Next::Run(Work::Full),
            ),
            ("ids never compared", Facts { compares: true, compared: None, ..facts() }, Next::Run(Work::Compare)),
        ];
        for (name, facts, next) in cases {
            assert_eq!(decide(facts, NOW), *next, "{name}");
        }
    }

    #[test]
    fn other_bases_filters_templates_and_classes_make_other_users_and_limits_do_not() {
        let settings = |further: &str| {
            DirectorySettings::parse(&["url=ldaps://dc1.example.com", "base=dc=example,dc=com", further]).unwrap()
        };
        let before = settings("filter=(objectClass=person)");
        for further in [
            "base=ou=staff,dc=example,dc=com",
            "filter=(telephoneNumber=*)",
            "number={telephoneNumber:digits:last(4)}",
            "name={cn}",
            "mail=-",
            "class=cn=sales,dc=example,dc=com -> sales",
        ] {
            assert!(finds_otherwise(&before, &settings(further)), "{further}");
        }
        for further in ["enabled=yes", "loss-percent=20", "interval=60", "timeout=20", "grace-days=3"] {
            assert!(!finds_otherwise(&before, &settings(further)), "{further}");
        }
    }

    #[test]
    fn pauses_double_up_to_an_hour_and_are_spread() {
        let pause = |failures, random| retry_at(failures, random, NOW).0 - NOW.0;
        assert_eq!([1, 2, 3].map(|failures| pause(failures, 1.0)), [30_000, 60_000, 120_000]);
        assert_eq!(pause(1, 0.0), 15_000);
        for failures in [8, 40, u32::MAX] {
            assert_eq!((pause(failures, 0.0), pause(failures, 1.0)), (1_800_000, 3_600_000), "{failures}");
        }
    }
}
