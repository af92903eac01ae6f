//! Texts of the mails, in English.

use jiff::tz::TimeZone;
use twinbox_ids::{Pii, Timestamp};
use twinbox_mailstore::SystemContent;

/// Share of a mailbox that is full, in percent.
const FULL: u64 = 100;

/// Line in the head of a report that makes up for missed ones.
const MISSED: &str = "Missed: earlier reports were not made; this one covers their time, too.\n";

/// Subject and text of a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemText {
    /// Subject, in one line.
    pub subject: Pii<String>,
    /// Text, in lines that end with `\n`. Of a report of calls its head: the rows follow it.
    pub body: Pii<String>,
}

/// The text of a mail.
pub fn system_text(content: &SystemContent) -> SystemText {
    let (subject, body) = match content {
        SystemContent::FirstPin { number, name, pin } => (
            format!("Your voicemail PIN for mailbox {number}"),
            format!(
                "{}You have a voicemail mailbox with the number {number}.\n\n\
                 First PIN: {}\n\n\
                 Sign in by telephone with the mailbox number and this PIN. You then choose a PIN of your own.\n\
                 Delete this mail after that. If the PIN is not accepted, ask your administrator for another.\n",
                greeting(name),
                pin.reveal()
            ),
        ),
        SystemContent::Quota { number, name, percent } if *percent >= FULL => (
            format!("Voicemail mailbox {number} is full"),
            format!(
                "{}Your voicemail mailbox {number} is full: callers cannot leave messages.\n\
                 Delete messages that you do not need any more.\n",
                greeting(name)
            ),
        ),
        SystemContent::Quota { number, name, percent } => (
            format!("Voicemail mailbox {number} is nearly full"),
            format!(
                "{}Your voicemail mailbox {number} is filled to {percent} %. When it is full, callers cannot leave \
                 messages.\nDelete messages that you do not need any more.\n",
                greeting(name)
            ),
        ),
        SystemContent::Ageing { number, name, messages, first, zone } => {
            let what = if *messages == 1 { "1 message".to_owned() } else { format!("{messages} messages") };
            let first = local(*first, zone);
            (
                format!("{what} in voicemail mailbox {number} will be deleted"),
                format!(
                    "{}{what} in your voicemail mailbox {number} will be deleted because of age, the first after {first}.\n\
                     Save messages that you want to keep, or mark them as new: their time then begins again.\n",
                    greeting(name)
                ),
            )
        }
        SystemContent::CallReport { job, report, from, to, zone, makes_up } => {
            let (from, to) = (local(*from, zone), local(*to, zone));
            let missed = if *makes_up { MISSED } else { "" };
            (
                format!("Voicemail report {report} ({job}) up to {to}"),
                format!("Report: {report}\nJob: {job}\nFrom: {from}\nTo: {to}\n{missed}\n"),
            )
        }
    };
    SystemText { subject: Pii::new(subject), body: Pii::new(body) }
}

fn greeting(name: &Pii<String>) -> String {
    match name.reveal().trim() {
        "" => "Hello,\n\n".to_owned(),
        name => format!("Hello {},\n\n", name.split_whitespace().collect::<Vec<_>>().join(" ")),
    }
}

/// A time in a zone; in UTC if there is no such zone.
fn local(at: Timestamp, zone: &str) -> String {
    let zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
    let at = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.unwrap_or_default().to_zoned(zone).strftime("%Y-%m-%d %H:%M %Z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_say_what_the_reader_needs() {
        let number = || "1001".to_owned();
        let name = || Pii::new(" Zoë\nMüller ".to_owned());
        let first = Timestamp(1_793_620_800_000);
        let berlin = || "Europe/Berlin".to_owned();
        for (content, parts) in [
            (
                SystemContent::FirstPin { number: number(), name: name(), pin: Pii::new("482913".to_owned()) },
                &["Hello Zoë Müller,", "1001", "482913"][..],
            ),
            (SystemContent::Quota { number: number(), name: Pii::default(), percent: 91 }, &["Hello,", "91 %"]),
            (SystemContent::Quota { number: number(), name: name(), percent: 104 }, &["is full:"]),
            (
                SystemContent::Ageing { number: number(), name: name(), messages: 1, first, zone: berlin() },
                &["1 message in", "2026-11-02 13:00 CET"],
            ),
            (
                SystemContent::Ageing {
                    number: number(),
                    name: name(),
                    messages: 2,
                    first,
                    zone: "Mars/Base".into(),
                },
                &["2 messages in", "2026-11-02 12:00 UTC"],
            ),
            (
                SystemContent::CallReport {
                    job: "weekly".to_owned(),
                    report: "traffic".to_owned(),
                    from: Timestamp(0),
                    to: first,
                    zone: berlin(),
                    makes_up: true,
                },
                &["traffic", "weekly", "From: 1970-01-01 01:00 CET", "To: 2026-11-02 13:00 CET", "Missed: "],
            ),
        ] {
            let SystemText { subject, body } = system_text(&content);
            for part in parts {
                assert!(body.reveal().contains(part), "no '{part}' in: {}", body.reveal());
            }
            assert!(!subject.reveal().is_empty() && !subject.reveal().contains('\n'), "{}", subject.reveal());
            assert!(!subject.reveal().contains("482913"), "lists of mails show subjects");
        }
    }
}
