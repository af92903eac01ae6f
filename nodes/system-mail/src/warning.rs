//! Decisions about warnings to owners: each occasion has one warning.

use twinbox_ids::Timestamp;
use twinbox_mailbox::{Ageing, MessageTime, Rule, Rules};
use twinbox_replication_core::{Edit, Record, Tag, Value};

use crate::schema;

/// Share of a mailbox that is full, in percent.
const FULL: u64 = 100;
/// Points by which a mailbox must become emptier, so that its owner is warned when it fills again: one message more or less
/// brings no mail.
const EMPTIER: u64 = 5;
/// A day, in milliseconds.
const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// Rules that end the time of a message; [`Rule::DeletedDays`] deletes nothing that its owner still has.
const RULES: [Rule; 3] = [Rule::NewDays, Rule::RetentionDays, Rule::SavedDays];

/// Earlier warnings of a mailbox's used share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuotaNote {
    /// Share of which the owner knows, in percent: that of the latest warning, or a lower one used since.
    pub share: u64,
    /// Number of warnings so far.
    pub count: u64,
}

/// Step for the used share of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaStep {
    /// Nothing.
    Nothing,
    /// The mailbox has become emptier: note it, so that the owner is warned when it fills again.
    Note(QuotaNote),
    /// Warn the owner, and note it.
    Warn(QuotaNote),
}

/// The step for a mailbox whose used share is `used`, where owners are warned from `share` on and when it is full. Several
/// jobs with different shares warn once for each share that is passed.
pub fn quota_step(note: QuotaNote, used: u64, share: u64) -> QuotaStep {
    let reached = [FULL, share].into_iter().find(|limit| used >= *limit).unwrap_or_default();
    let known = if used.saturating_add(EMPTIER) <= note.share { used } else { note.share };
    if reached > known {
        QuotaStep::Warn(QuotaNote { share: reached, count: note.count.saturating_add(1) })
    } else if known < note.share {
        QuotaStep::Note(QuotaNote { share: known, ..note })
    } else {
        QuotaStep::Nothing
    }
}

/// The latest warning of messages that are about to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgeingNote {
    /// Its time.
    pub at: Timestamp,
    /// End of the time that it covered: it named all messages whose time ended before.
    pub until: Timestamp,
    /// Digest of the rules then in force.
    pub rules: u64,
    /// Number of warnings so far.
    pub count: u64,
}

/// A warning of messages that are about to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgeingWarning {
    /// The note of it.
    pub note: AgeingNote,
    /// Number of the messages that no earlier warning named.
    pub messages: u64,
    /// Time from which the first of them may be deleted.
    pub first: Timestamp,
}

/// The warning that is due for the messages of a mailbox, by their times under `rules`; `None`: none is due, or the rules
/// ask for none. A message whose time is over is not named: it is deleted.
pub fn ageing_warning(
    note: Option<AgeingNote>,
    rules: &Rules,
    times: impl IntoIterator<Item = MessageTime>,
    now: Timestamp,
) -> Option<AgeingWarning> {
    let days = rules.get(Rule::WarnDays)?;
    let until = Timestamp(now.0.saturating_add(days.saturating_mul(DAY_MS)));
    let digest = digest(rules);
    let told_of = |time: &MessageTime| {
        // A message that changed since then may end within the covered time, and so may one under other rules.
        note.is_some_and(|note| note.rules == digest && time.ends <= note.until && time.since <= note.at)
    };
    let due = times
        .into_iter()
        .filter(|time| time.action == Ageing::Delete && time.ends > now && time.ends <= until && !told_of(time));
    let (messages, first) =
        due.fold((0, Timestamp(u64::MAX)), |(messages, first), time| (messages + 1, first.min(time.ends)));
    let count = note.map_or(0, |note| note.count).saturating_add(1);
    (messages > 0).then_some(AgeingWarning {
        note: AgeingNote { at: now, until, rules: digest, count },
        messages,
        first,
    })
}

/// Digest of the rules that end the time of a message.
fn digest(rules: &Rules) -> u64 {
    let days = RULES.map(|rule| rules.get(rule).map_or(0, |days| days.saturating_add(1)));
    days.into_iter().fold(0, |digest: u64, days| digest.wrapping_mul(1_000_003).wrapping_add(days))
}

impl QuotaNote {
    /// The note in the record of a mailbox; none yet, or one that this release cannot read, is that of an empty mailbox.
    pub fn read(record: &Record) -> Self {
        match numbers(record, schema::QUOTA).as_deref() {
            Some([share, count, ..]) => Self { share: *share, count: *count },
            _ => Self::default(),
        }
    }

    /// The edits that write it.
    pub fn edits(&self) -> Vec<Edit> {
        vec![set(schema::QUOTA, &[self.share, self.count])]
    }
}

impl AgeingNote {
    /// The note in the record of a mailbox; `None` if there is none that this release can read.
    pub fn read(record: &Record) -> Option<Self> {
        match numbers(record, schema::AGEING).as_deref() {
            Some([at, until, rules, count, ..]) => {
                Some(Self { at: Timestamp(*at), until: Timestamp(*until), rules: *rules, count: *count })
            }
            _ => None,
        }
    }

    /// The edits that write it.
    pub fn edits(&self) -> Vec<Edit> {
        vec![set(schema::AGEING, &[self.at.0, self.until.0, self.rules, self.count])]
    }
}

fn numbers(record: &Record, tag: Tag) -> Option<Vec<u64>> {
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
    record.bytes(tag)?.chunks(8).map(number).collect()
}

fn set(tag: Tag, numbers: &[u64]) -> Edit {
    Edit::Set(tag, Value::Bytes(numbers.iter().flat_map(|number| number.to_be_bytes()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_is_warned_once_for_each_share_that_is_passed_until_the_mailbox_is_emptier() {
        let mut note = QuotaNote::default();
        // Used share, the job's share, and the warning.
        for (used, share, warned) in [
            (80, 90, None),
            (90, 90, Some(90)),
            (95, 90, None),
            // Another job with a lower share has nothing to add.
            (95, 80, None),
            (100, 90, Some(100)),
            (120, 90, None),
            // Hardly emptier, and full again.
            (96, 90, None),
            (100, 90, None),
            // Emptier, though above the share: the owner knows.
            (92, 90, None),
            (92, 80, None),
            (100, 90, Some(100)),
            (40, 90, None),
            (85, 90, None),
            (85, 80, Some(80)),
            (91, 90, Some(90)),
            (100, 100, Some(100)),
        ] {
            let step = quota_step(note, used, share);
            let before = note.count;
            if let QuotaStep::Note(next) | QuotaStep::Warn(next) = step {
                note = next;
            }
            let is = matches!(step, QuotaStep::Warn(_)).then_some(note.share);
            assert_eq!((is, note.count - before), (warned, u64::from(warned.is_some())), "{used} of {share}");
        }
    }

    fn rules(said: &[&str]) -> Rules {
        use twinbox_ids::{ClassId, Origin, Stamp};
        use twinbox_mailbox::{Class, schema};
        let mut record = Record::new();
        let edits = said.iter().flat_map(|text| {
            let (rule, value) = Rule::parse(text).expect(text);
            rule.edits(value)
        });
        for (n, edit) in (1..).zip(edits) {
            let stamp = Stamp { wall: n, counter: 0, origin: Origin(1) };
            record.merge(edit.delta(&record, stamp, &"a".parse().expect("a name")));
        }
        let class = Class::read(&schema::class_key(ClassId(0)), &record).expect("readable").expect("a class");
        class.rules
    }

    fn time(since: u64, days: u64) -> MessageTime {
        MessageTime {
            action: Ageing::Delete,
            since: Timestamp(since * DAY_MS),
            ends: Timestamp((since + days) * DAY_MS),
        }
    }

    #[test]
    fn each_message_is_told_of_once_before_its_time_ends() {
        let rules = rules(&["retention-days=30", "warn-days=7"]);
        let day = |day: u64| Timestamp(day * DAY_MS);
        let warning = |note, times: &[MessageTime], now| ageing_warning(note, &rules, times.to_vec(), day(now));
        // One ends on day 30, one on day 34.
        let times = [time(0, 30), time(4, 30)];
        assert_eq!(warning(None, &times, 22), None, "8 days before");
        let first = warning(None, &times, 23).expect("7 days before");
        assert_eq!((first.messages, first.first, first.note.count), (1, day(30), 1));
        let note = Some(first.note);
        assert_eq!(warning(note, &times, 23), None, "a repeated run");
        assert_eq!(warning(note, &times, 26), None);
        let second = warning(note, &times, 27).expect("the other message");
        assert_eq!((second.messages, second.first, second.note.count), (1, day(34), 2));
        assert_eq!(warning(Some(second.note), &times, 30), None);
        assert_eq!(warning(None, &times[..1], 30), None, "its time is over");

        // Changed since the warning, with a time that ends within the time that it covered.
        let short = [time(24, 5)];
        assert!(warning(Some(first.note), &short, 25).is_some());
        // Other rules let a message that was not named end earlier.
        let others = super::tests::rules(&["retention-days=29", "warn-days=7"]);
        let earlier = [time(0, 29)];
        assert!(ageing_warning(note, &others, earlier, day(24)).is_some());
        // A deleted message is not named, and without the rule none is.
        let purged = MessageTime { action: Ageing::Purge, ..time(0, 30) };
        assert_eq!(warning(None, &[purged], 25), None);
        assert_eq!(ageing_warning(None, &super::tests::rules(&["retention-days=30"]), times, day(25)), None);
    }

    #[test]
    fn notes_are_read_back_and_damaged_ones_are_none() {
        use twinbox_ids::{Origin, Stamp};
        let record = |edits: Vec<Edit>| {
            let mut record = Record::new();
            for (n, edit) in (1..).zip(edits) {
                let stamp = Stamp { wall: n, counter: 0, origin: Origin(1) };
                record.merge(edit.delta(&record, stamp, &"a".parse().expect("a name")));
            }
            record
        };
        let quota = QuotaNote { share: 90, count: 3 };
        let ageing = AgeingNote { at: Timestamp(5), until: Timestamp(9), rules: 7, count: 2 };
        let both = record([quota.edits(), ageing.edits()].concat());
        assert_eq!((QuotaNote::read(&both), AgeingNote::read(&both)), (quota, Some(ageing)));
        let cut = |tag| record(vec![Edit::Set(tag, Value::Bytes(vec![0; 15]))]);
        assert_eq!(QuotaNote::read(&cut(schema::QUOTA)), QuotaNote::default());
        assert_eq!(AgeingNote::read(&cut(schema::AGEING)), None);
    }
}
