//! Composition of numbers, counts, dates and sentences from prompts, by the rules of English.

use jiff::{civil::DateTime, tz::TimeZone};
use twinbox_ids::Timestamp;

use crate::{GreetingKind, MailboxView, MessageView, Prompt, names};

/// Maximum digits of a caller number that is announced as an extension; longer ones are telephone numbers.
const LONGEST_EXTENSION: usize = 5;

/// Maximum digits of a caller number that is announced. No telephone number is longer (ITU-T E.164 allows 15), but
/// an untrusted number may be.
const MOST_DIGITS: usize = 20;

/// A prompt by its name.
pub(crate) fn named(name: &str) -> Prompt {
    Prompt::Named(name.to_owned())
}

/// Prompts by their names.
pub(crate) fn all(names: &[&str]) -> Vec<Prompt> {
    names.iter().map(|name| named(name)).collect()
}

/// All prompts that a conversation can request, sorted.
pub fn required_prompts() -> Vec<String> {
    let numbers = (0..=20).chain((30..=90).step_by(10)).map(|n| format!("digits/{n}"));
    let ordinals = (1..=20).chain([30]).map(|n| format!("digits/h-{n}"));
    let days = (0..7).map(|n| format!("digits/day-{n}"));
    let months = (0..12).map(|n| format!("digits/mon-{n}"));
    let mut all: Vec<String> = names::ALL.iter().map(|&name| name.to_owned()).collect();
    all.extend(numbers.chain(ordinals).chain(days).chain(months));
    all.sort();
    all.dedup();
    all
}

/// A number as spoken: 0 to 999,999,999 in words, larger ones digit by digit.
pub fn number(n: u64) -> Vec<Prompt> {
    if n > 999_999_999 {
        return digits(&n.to_string());
    }
    if n == 0 {
        return vec![named("digits/0")];
    }
    let mut words = Vec::new();
    for (unit, name) in [(1_000_000, Some(names::MILLION)), (1_000, Some(names::THOUSAND)), (1, None)] {
        let group = n / unit % 1_000;
        if group > 0 {
            below_thousand(group, &mut words);
            words.extend(name.map(named));
        }
    }
    words
}

fn below_thousand(n: u64, words: &mut Vec<Prompt>) {
    if n >= 100 {
        words.extend([named(&format!("digits/{}", n / 100)), named(names::HUNDRED)]);
    }
    match n % 100 {
        0 => {}
        n @ 1..=20 => words.push(named(&format!("digits/{n}"))),
        n => {
            words.push(named(&format!("digits/{}", n / 10 * 10)));
            if n % 10 > 0 {
                words.push(named(&format!("digits/{}", n % 10)));
            }
        }
    }
}

/// Digits one by one; other characters are skipped.
pub fn digits(text: &str) -> Vec<Prompt> {
    text.chars().filter(char::is_ascii_digit).take(MOST_DIGITS).map(|d| named(&format!("digits/{d}"))).collect()
}

/// "You have two new and one old message". The noun follows the last number.
pub fn counts(new: usize, old: usize) -> Vec<Prompt> {
    let mut words = vec![named(names::YOU_HAVE)];
    let folders: Vec<_> = [(new, names::NEW), (old, names::OLD)].into_iter().filter(|(n, _)| *n > 0).collect();
    for (i, (n, folder)) in folders.iter().enumerate() {
        if i > 0 {
            words.push(named(names::AND));
        }
        words.extend(number(*n as u64));
        words.push(named(folder));
    }
    match folders.last() {
        None => words.extend(all(&[names::NO, names::MESSAGES])),
        Some((1, _)) => words.push(named(names::MESSAGE)),
        Some(_) => words.push(named(names::MESSAGES)),
    }
    words
}

/// "First message", "message two", "last message": position `index` (from 0) of `of` messages.
pub fn title(index: usize, of: usize) -> Vec<Prompt> {
    if index == 0 {
        return all(&[names::FIRST, names::MESSAGE]);
    }
    if index + 1 == of {
        return all(&[names::LAST, names::MESSAGE]);
    }
    let mut words = vec![named(names::MESSAGE)];
    words.extend(number(index as u64 + 1));
    words
}

/// Time and caller: "received today at three oh five p m, from extension one zero zero two", in the time zone of the
/// mailbox. Announces also that the end of a partial message is missing.
pub fn envelope(message: &MessageView, timezone: &str, now: Timestamp) -> Vec<Prompt> {
    let mut words = Vec::new();
    let moment = moment(message.received, timezone, now);
    if !moment.is_empty() {
        words.push(named(names::RECEIVED));
        words.extend(moment);
    }
    words.extend(caller(message.caller.as_ref().map(|c| c.reveal().as_str())));
    if message.partial {
        words.push(named(names::PARTIAL));
    }
    words
}

/// The caller. Only a number that looks like a telephone number is announced.
fn caller(number: Option<&str>) -> Vec<Prompt> {
    let number = number.filter(|n| n.chars().all(|c| c.is_ascii_digit() || "+-. ()".contains(c)));
    let spoken = digits(number.unwrap_or_default());
    if spoken.is_empty() {
        return vec![named(names::UNKNOWN_CALLER)];
    }
    let from = if spoken.len() <= LONGEST_EXTENSION { names::FROM_EXTENSION } else { names::FROM_PHONE_NUMBER };
    let mut words = vec![named(from)];
    words.extend(spoken);
    words
}

/// A time as spoken: "today at …", "yesterday at …", "Monday at …" within the last six days, "March twelfth at …" in
/// this year, and with the year otherwise. An unknown time zone counts as UTC. A time outside of the calendar is not
/// announced.
pub fn moment(then: Timestamp, timezone: &str, now: Timestamp) -> Vec<Prompt> {
    let zone = TimeZone::get(timezone).unwrap_or(TimeZone::UTC);
    let local = |t: Timestamp| {
        let utc = jiff::Timestamp::from_millisecond(i64::try_from(t.0).ok()?).ok()?;
        Some(zone.to_datetime(utc))
    };
    let (Some(then), Some(now)) = (local(then), local(now)) else {
        return Vec::new();
    };
    let mut words = day(&then, &now);
    words.push(named(names::AT));
    words.extend(clock(&then));
    words
}

fn day(then: &DateTime, now: &DateTime) -> Vec<Prompt> {
    let days_ago = now.date().duration_since(then.date()).as_hours() / 24;
    match days_ago {
        0 => vec![named(names::TODAY)],
        1 => vec![named(names::YESTERDAY)],
        2..=6 => vec![named(&format!("digits/day-{}", then.weekday().to_sunday_zero_offset()))],
        _ => {
            let mut words = vec![named(&format!("digits/mon-{}", then.month() - 1))];
            words.extend(ordinal(then.day().unsigned_abs()));
            if then.year() != now.year() {
                words.extend(number(u64::from(then.year().unsigned_abs())));
            }
            words
        }
    }
}

/// A day of the month: 1 to 31.
fn ordinal(n: u8) -> Vec<Prompt> {
    match n {
        1..=20 | 30 => vec![named(&format!("digits/h-{n}"))],
        n => vec![named(&format!("digits/{}", n / 10 * 10)), named(&format!("digits/h-{}", n % 10))],
    }
}

/// "Three o'clock p m", "three oh five p m", "twelve thirty a m".
fn clock(then: &DateTime) -> Vec<Prompt> {
    let (hour, minute) = (then.hour().unsigned_abs(), then.minute().unsigned_abs());
    let mut words = number(match hour % 12 {
        0 => 12,
        hour => u64::from(hour),
    });
    match minute {
        0 => words.push(named(names::OCLOCK)),
        minute @ 1..=9 => {
            words.push(named(names::OH));
            words.extend(number(u64::from(minute)));
        }
        minute => words.extend(number(u64::from(minute))),
    }
    words.push(named(if hour >= 12 { names::PM } else { names::AM }));
    words
}

/// "There were too many wrong PINs. Please try again in two minutes": seconds up to a minute, minutes (rounded up) up
/// to 90 minutes, then "later".
pub fn back_off(seconds: u64) -> Vec<Prompt> {
    let (count, one, many) = match seconds.max(1) {
        s @ 1..=60 => (s, names::SECOND, names::SECONDS),
        s if s <= 90 * 60 => (s.div_ceil(60), names::MINUTE, names::MINUTES),
        _ => return vec![named(names::TRY_LATER)],
    };
    let mut words = vec![named(names::BACK_OFF)];
    words.extend(number(count));
    words.push(named(if count == 1 { one } else { many }));
    words
}

/// "Your PIN must have at least four digits".
pub fn pin_too_short(at_least: u8) -> Vec<Prompt> {
    let mut words = vec![named(names::PIN_TOO_SHORT)];
    words.extend(number(u64::from(at_least)));
    words.push(named(names::DIGITS));
    words
}

/// Reason why a message did not reach a mailbox of another system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// The other system has no such mailbox.
    UnknownNumber,
    /// The mailbox is full.
    MailboxFull,
    /// The other system was not reached.
    Unreachable,
    /// Any other refusal.
    Refused,
}

impl Undelivered {
    /// The reason by the first status code (RFC 3463) in the text of a failure, else by the reply code.
    pub fn of_report(text: &str) -> Self {
        let words = || text.split(|c: char| !c.is_ascii_digit() && c != '.').map(|word| word.trim_matches('.'));
        let number = |digits: &str| (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        let status = words().find_map(|word| {
            let mut parts = word.split('.');
            let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
            let is_status =
                matches!(class, "4" | "5") && number(subject) && number(detail) && parts.next().is_none();
            is_status.then_some((subject, detail))
        });
        match status {
            Some(("1", _) | ("2", "1")) => Self::UnknownNumber,
            Some(("2", "2")) => Self::MailboxFull,
            Some(("4", _)) => Self::Unreachable,
            Some(_) => Self::Refused,
            None if words().any(|word| matches!(word, "550" | "551" | "553")) => Self::UnknownNumber,
            None if words().any(|word| matches!(word, "452" | "552")) => Self::MailboxFull,
            None if words().any(|word| matches!(word, "554" | "555" | "556")) => Self::Refused,
            // No server answered.
            None if text.starts_with("expired") => Self::Unreachable,
            None => Self::Refused,
        }
    }
}

/// Names of the prompts before a message that came back: "Your message to seven one zero zero one could not be
/// delivered. This number is unknown there. Your message follows."
pub fn undelivered(number: &str, reason: Undelivered) -> Vec<String> {
    let reason = match reason {
        Undelivered::UnknownNumber => names::NUMBER_UNKNOWN_THERE,
        Undelivered::MailboxFull => names::MAILBOX_FULL_THERE,
        Undelivered::Unreachable => names::SYSTEM_UNREACHABLE,
        Undelivered::Refused => names::DELIVERY_REFUSED,
    };
    let digits = number.chars().filter(char::is_ascii_digit).take(MOST_DIGITS).map(|d| format!("digits/{d}"));
    let mut words = vec![names::YOUR_MESSAGE_TO.to_owned()];
    words.extend(digits);
    words.extend([names::NOT_DELIVERED, reason, names::MESSAGE_FOLLOWS].map(str::to_owned));
    words
}

/// The greeting of a mailbox: the first recorded one of temporary, requested kind and standard. If none is recorded:
/// composed from the owner's name, or the number, and prompts.
pub fn greeting(mailbox: &MailboxView, kind: GreetingKind) -> Vec<Prompt> {
    let recorded =
        |kind| mailbox.greetings.iter().find(|(k, _)| *k == kind).map(|(_, audio)| Prompt::Audio(*audio));
    let own = [GreetingKind::Temporary, kind, GreetingKind::Standard]
        .into_iter()
        .filter(|kind| *kind != GreetingKind::Name)
        .find_map(recorded);
    if let Some(own) = own {
        return vec![own];
    }
    let mut words = person(mailbox);
    let why = if kind == GreetingKind::Busy { names::IS_ON_PHONE } else { names::IS_UNAVAILABLE };
    words.extend(all(&[why, names::INTRO]));
    words
}

/// "The person at one zero zero one is unavailable. Goodbye.": no message can be left.
pub(crate) fn unavailable(mailbox: &MailboxView) -> Vec<Prompt> {
    let mut words = person(mailbox);
    words.extend(all(&[names::IS_UNAVAILABLE, names::GOODBYE]));
    words
}

/// The owner: the recorded name, or the number.
fn person(mailbox: &MailboxView) -> Vec<Prompt> {
    let name = mailbox.greetings.iter().find(|(kind, _)| *kind == GreetingKind::Name);
    match name {
        Some((_, audio)) => vec![Prompt::Audio(*audio)],
        None => {
            let mut words = vec![named(names::THE_PERSON)];
            words.extend(digits(&mailbox.number));
            words
        }
    }
}

/// The instruction before a greeting or name is recorded.
pub(crate) fn record(kind: GreetingKind) -> Prompt {
    named(match kind {
        GreetingKind::Standard => names::RECORD_STANDARD,
        GreetingKind::Busy => names::RECORD_BUSY,
        GreetingKind::Temporary => names::RECORD_TEMPORARY,
        GreetingKind::Name => names::RECORD_NAME,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spoken_reason_follows_from_the_status_or_the_reply() {
        use Undelivered::*;
        for (text, expected) in [
            ("mail.example refused the recipient: 550 5.1.1 mailbox unknown; check the address", UnknownNumber),
            ("5.1.1 smtp; 550 no such user", UnknownNumber),
            ("a.example refused the recipient: 550 no such user", UnknownNumber),
            ("expired after 90 attempts; the last: a deferred the recipient: 452 4.2.2 mailbox full", MailboxFull),
            ("a.example refused the message: 552 over quota", MailboxFull),
            ("5.4.1 (host 192.0.2.7[192.0.2.7] said nothing)", Unreachable),
            ("expired after 90 attempts; the last: connection to 192.0.2.7:25 refused", Unreachable),
            ("a.example refused the message: 554 5.6.1 no sound", Refused),
            ("the location was removed", Refused),
        ] {
            assert_eq!(Undelivered::of_report(text), expected, "{text}");
        }
    }
}
