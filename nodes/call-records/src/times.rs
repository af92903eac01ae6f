//! Times of reports: their range, their zone, and times as text.

use jiff::{Span, civil::DateTime, tz::TimeZone};
use twinbox_ids::Timestamp;

use crate::Period;

/// Maximum length of a report's range, in milliseconds: ten years.
pub const LONGEST_RANGE_MS: u64 = 3_653 * DAY_MS;
/// A range above this length is shown by day, unless the reader says otherwise.
const BY_HOUR_MS: u64 = 2 * DAY_MS;
const DAY_MS: u64 = 86_400_000;
const HOUR_S: i64 = 3_600;

/// A range of a report is not valid, or its zone is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The end is not after the begin.
    #[error("the report ends before it begins: give a --to that is later than --from")]
    Order,
    /// The range is too long.
    #[error("the report covers more than ten years: give a --from that is later")]
    Long,
    /// The text is no duration.
    #[error("'{0}' is no duration: write a number and m, h, d or w, such as 7d")]
    Duration(String),
    /// The text is no time.
    #[error("'{0}' is no time: write a date, or a date and a time, such as 2026-11-01 or '2026-11-01 14:00'")]
    Time(String),
    /// The text is no time zone.
    #[error("'{0}' is no time zone: use an IANA name such as Europe/Berlin")]
    Zone(String),
}

/// The calls of a report: those that began at `from` or later, and before `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportRange {
    /// The begin.
    pub from: Timestamp,
    /// The end, not included.
    pub to: Timestamp,
}

impl ReportRange {
    /// A range of at most ten years.
    pub fn new(from: Timestamp, to: Timestamp) -> Result<Self, RangeError> {
        match to.0.checked_sub(from.0) {
            None | Some(0) => Err(RangeError::Order),
            Some(length) if length > LONGEST_RANGE_MS => Err(RangeError::Long),
            Some(_) => Ok(Self { from, to }),
        }
    }

    /// The period of the rows of traffic that suits the range: hours up to two days, days above.
    pub fn period(&self) -> Period {
        if self.to.0.saturating_sub(self.from.0) > BY_HOUR_MS { Period::Day } else { Period::Hour }
    }
}

/// Milliseconds of a duration such as `30m`, `24h`, `7d` or `2w`, at most ten years.
pub fn duration_ms(text: &str) -> Result<u64, RangeError> {
    let wrong = || RangeError::Duration(text.escape_debug().to_string());
    let unit = match text.chars().last() {
        Some('m') => 60_000,
        Some('h') => 3_600_000,
        Some('d') => DAY_MS,
        Some('w') => 7 * DAY_MS,
        _ => return Err(wrong()),
    };
    let digits = text.get(..text.len() - 1).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let number: u64 = digits.and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    number.checked_mul(unit).filter(|ms| (1..=LONGEST_RANGE_MS).contains(ms)).ok_or_else(wrong)
}

/// The begin of the range of a duration, such as `24h` or `7d`, up to this end. Days and weeks are those of the calendar in
/// the zone: the range begins at the same time of day, and one of its days may have 23 or 25 hours.
pub fn range_start(to: Timestamp, last: &str, zone: &TimeZone) -> Result<Timestamp, RangeError> {
    let length = duration_ms(last)?;
    let days = last.ends_with(['d', 'w']).then_some(length / DAY_MS);
    let before = days.and_then(|days| {
        let span = Span::new().try_days(i64::try_from(days).ok()?).ok()?;
        let before = moment(to).to_zoned(zone.clone()).checked_sub(span).ok()?;
        u64::try_from(before.timestamp().as_millisecond()).ok()
    });
    Ok(Timestamp(before.unwrap_or_else(|| to.0.saturating_sub(length))))
}

/// The time of a date, or of a date and a time of day, in a zone.
pub fn time(text: &str, zone: &TimeZone) -> Result<Timestamp, RangeError> {
    let moment = text.parse::<DateTime>().and_then(|moment| zone.to_zoned(moment));
    let ms = moment.ok().and_then(|moment| u64::try_from(moment.timestamp().as_millisecond()).ok());
    ms.map(Timestamp).ok_or_else(|| RangeError::Time(text.escape_debug().to_string()))
}

/// The time zone of an IANA name.
pub fn zone(name: &str) -> Result<TimeZone, RangeError> {
    TimeZone::get(name).map_err(|_| RangeError::Zone(name.escape_debug().to_string()))
}

/// A time as text, with the offset of the zone, so that it is unambiguous on days when the clock changes.
pub(crate) fn shown(at: Timestamp, zone: &TimeZone) -> String {
    moment(at).to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
}

/// The begin of the hour or day of the zone that contains a time. An hour that the clock repeats is two periods.
pub(crate) fn period_start(at: Timestamp, period: Period, zone: &TimeZone) -> Timestamp {
    let moment = moment(at);
    let start = match period {
        Period::Hour => {
            let local = moment.as_second() + i64::from(zone.to_offset(moment).seconds());
            jiff::Timestamp::from_second(moment.as_second() - local.rem_euclid(HOUR_S)).ok()
        }
        Period::Day => moment.to_zoned(zone.clone()).start_of_day().ok().map(|day| day.timestamp()),
    };
    let start = start.and_then(|start| u64::try_from(start.as_millisecond()).ok());
    Timestamp(start.unwrap_or(at.0))
}

/// A time of the calendar; the last one for a time beyond it.
fn moment(at: Timestamp) -> jiff::Timestamp {
    let ms = i64::try_from(at.0).ok();
    ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or(jiff::Timestamp::MAX)
}
