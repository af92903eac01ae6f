//! Weekly times in the user's zone.
//!
//! A schedule is open while a clock on the user's wall shows a time within a window. When the clock is set back, a time
//! that comes twice is within the window twice; when it is set forward, a time that does not come opens nothing.

use std::{fmt, str::FromStr};

use jiff::{
    Timestamp,
    civil::{Date, Weekday},
    tz::TimeZone,
};

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const ALL_DAYS: u8 = 0b111_1111;
const DAY_MINUTES: u16 = 24 * 60;
/// Most windows of one schedule.
const MOST_WINDOWS: usize = 20;
/// Days in which the next opening is searched: a weekly window whose time one change of the clock skips opens a week
/// later.
const SEARCH_DAYS: usize = 16;

/// A window on some days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Bits of the days on which it begins: 1 Monday, 64 Sunday.
    days: u8,
    /// Begin in minutes after midnight, 0 to 1439.
    from: u16,
    /// End (exclusive) in minutes after midnight, 1 to 1440. An end before the begin is on the next day.
    to: u16,
}

impl Window {
    /// A window; `None` without a day, or if begin and end are equal or beyond the day.
    pub fn new(days: &[Weekday], from: u16, to: u16) -> Option<Self> {
        let days = days.iter().fold(0, |bits, day| bits | bit(*day));
        let to = if to == 0 { DAY_MINUTES } else { to };
        (days != 0 && from < DAY_MINUTES && to <= DAY_MINUTES && from != to).then_some(Self { days, from, to })
    }

    /// Whether the window contains that minute of that day.
    fn contains(&self, day: Weekday, minute: u16) -> bool {
        let begins = |day| self.days & bit(day) != 0;
        match self.from < self.to {
            true => begins(day) && (self.from..self.to).contains(&minute),
            false => (begins(day) && minute >= self.from) || (begins(day.previous()) && minute < self.to),
        }
    }
}

/// Windows of a week; open in any of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(Vec<Window>);

impl Schedule {
    /// A schedule of 1 to 20 windows.
    pub fn new(windows: Vec<Window>) -> Result<Self, ScheduleError> {
        match windows.len() {
            0 => Err(ScheduleError::Empty),
            1..=MOST_WINDOWS => Ok(Self(windows)),
            _ => Err(ScheduleError::TooMany),
        }
    }

    /// Whether it is open at that moment in that zone.
    pub fn open_at(&self, at: Timestamp, zone: &TimeZone) -> bool {
        let local = zone.to_datetime(at);
        let minute = u16::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute())).unwrap_or_default();
        self.0.iter().any(|window| window.contains(local.date().weekday(), minute))
    }

    /// The first moment from `at` on at which it is open: `at` itself if it is open then.
    pub fn next_open(&self, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if self.open_at(at, zone) {
            return Some(at);
        }
        // It opens at the begin of a window, at midnight within one, or by a change of the clock.
        let dates = std::iter::successors(Some(zone.to_datetime(at).date()), |date| date.tomorrow().ok());
        let begins = dates.take(SEARCH_DAYS).flat_map(|date| self.begins(date, zone));
        let changes = zone.following(at).take(SEARCH_DAYS).map(|change| change.timestamp());
        begins.chain(changes).filter(|moment| *moment >= at && self.open_at(*moment, zone)).min()
    }

    /// The moments at which a clock shows midnight or the begin of a window on that date.
    fn begins(&self, date: Date, zone: &TimeZone) -> Vec<Timestamp> {
        let minutes = self.0.iter().map(|window| window.from).chain([0]);
        let local = minutes.filter_map(|minute| {
            let (hour, minute) = (i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?);
            Some(zone.to_ambiguous_timestamp(date.at(hour, minute, 0, 0)))
        });
        // A time that comes twice: both moments.
        local.flat_map(|moment| [moment.earlier(), moment.later()]).filter_map(Result::ok).collect()
    }
}

fn bit(day: Weekday) -> u8 {
    1 << day.to_monday_zero_offset()
}

/// A text is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// There is no window in it.
    #[error("there is no time in it: write for example mon-fri 08:00-18:00")]
    Empty,
    /// There are too many windows in it.
    #[error("it has more than 20 windows: join days with equal times, such as mon,wed 08:00-18:00")]
    TooMany,
    /// A day is none.
    #[error("'{0}' is not a day: use mon, tue, wed, thu, fri, sat, sun, or a range such as mon-fri")]
    Day(String),
    /// A time is none.
    #[error("'{0}' is not a window of time: write for example 08:00-18:00, or 22:00-06:00 over midnight")]
    Time(String),
    /// Days without a time.
    #[error("the days '{0}' have no time: write for example sat 00:00-24:00")]
    NoTime(String),
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    /// Reads windows with commas: `mon-fri 08:00-18:00, sat,sun 09:00-12:00`; a window without days is for every day.
    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let mut windows = Vec::new();
        // Days before the last comma that still wait for their time.
        let mut waiting = (0_u8, "");
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (days, time) = match part.split_once(char::is_whitespace) {
                _ if waiting.0 == 0 && part.starts_with(|c: char| c.is_ascii_digit()) => (ALL_DAYS, part),
                Some((days, time)) => (waiting.0 | parse_days(days)?, time),
                None => {
                    waiting = (waiting.0 | parse_days(part)?, part);
                    continue;
                }
            };
            waiting = (0, "");
            let (from, to) = parse_times(time).ok_or_else(|| ScheduleError::Time(time.trim().to_owned()))?;
            windows.push(Window { days, from, to });
        }
        match waiting {
            (0, _) => Self::new(windows),
            (_, days) => Err(ScheduleError::NoTime(days.to_owned())),
        }
    }
}

/// `mon`, or a range `mon-fri`, possibly over the end of the week.
fn parse_days(text: &str) -> Result<u8, ScheduleError> {
    let number = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
    let range = text.split_once('-').unwrap_or((text, text));
    match (number(range.0), number(range.1)) {
        (Some(first), Some(last)) => {
            let length = (last + 7 - first) % 7;
            Ok((first..=first + length).fold(0, |bits, day| bits | (1_u8 << (day % 7))))
        }
        _ => Err(ScheduleError::Day(text.to_owned())),
    }
}

/// `08:00-18:00` in minutes after midnight.
fn parse_times(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-')?;
    let (from, to) = (parse_time(from.trim())?, parse_time(to.trim())?);
    // An end at 00:00 is the end of the day on which the window begins.
    let to = if to == 0 { DAY_MINUTES } else { to };
    (from < DAY_MINUTES && from != to).then_some((from, to))
}

fn parse_time(text: &str) -> Option<u16> {
    let number = |digits: &str, most: u16| {
        let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|n| plain && *n <= most)
    };
    let (hour, minute) = text.split_once(':')?;
    let time = number(hour, 24)? * 60 + number(minute, 59).filter(|_| minute.len() == 2)?;
    (time <= DAY_MINUTES).then_some(time)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut day = 0;
        let mut separator = "";
        while let Some(first) = (day..7).find(|day| self.days & (1_u8 << day) != 0) {
            let end = (first..7).find(|day| self.days & (1_u8 << day) == 0).unwrap_or(7);
            write!(f, "{separator}{}", DAYS.get(first).unwrap_or(&""))?;
            if let Some(last) = DAYS.get(end - 1).filter(|_| end - 1 > first) {
                write!(f, "-{last}")?;
            }
            (day, separator) = (end, ",");
        }
        let (from, to) = (self.from, self.to);
        write!(f, " {:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(n, window)| {
            let separator = if n == 0 { "" } else { ", " };
            write!(f, "{separator}{window}")
        })
    }
}
