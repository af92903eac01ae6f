//! A job: its settings and its record.

use std::collections::BTreeMap;

use twinbox_ids::{JobId, Timestamp};
use twinbox_mailbox::ViewError;
use twinbox_replication_core::{Edit, Key, Record};

use crate::{
    CronText, JobChange, JobError, JobKind, Zone,
    change::{FIRST_LIMIT_S, name, name_of_argument, value_of_argument},
    schema::{self, job as tag},
    value::{Fields, read_text, read_u64, set, set_u64},
};

/// Kind of the record, for error texts.
const WHAT: &str = "a job";

/// Nodes that run a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobPlace {
    /// The node with the duty `timetable`.
    Publisher,
    /// Every node for itself.
    EveryNode,
}

impl JobPlace {
    /// All places.
    pub const ALL: [Self; 2] = [Self::Publisher, Self::EveryNode];

    /// The word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Publisher => "publisher",
            Self::EveryNode => "every-node",
        }
    }

    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Publisher => 1,
            Self::EveryNode => 2,
        }
    }
}

/// Rule for due times that passed without a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missed {
    /// They are skipped.
    Skip,
    /// One run makes up for all of them.
    RunOnce,
}

impl Missed {
    /// All rules.
    pub const ALL: [Self; 2] = [Self::Skip, Self::RunOnce];

    /// The word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::RunOnce => "run-once",
        }
    }

    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Skip => 1,
            Self::RunOnce => 2,
        }
    }
}

/// A job of the timetable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Opaque, never changes.
    pub id: JobId,
    /// The name in lists, in lower case.
    pub name: String,
    /// Kind of its work.
    pub kind: JobKind,
    /// Arguments of its work, by word.
    pub arguments: BTreeMap<String, String>,
    /// Its due times.
    pub cron: CronText,
    /// Time zone of the due times.
    pub zone: Zone,
    /// Nodes that run it.
    pub place: JobPlace,
    /// Rule for missed runs.
    pub missed: Missed,
    /// Whether it runs at its due times. A run by hand is possible at any time.
    pub enabled: bool,
    /// Maximum time of a run, in seconds.
    pub limit_s: u64,
    /// Time of its creation.
    pub created: Timestamp,
    /// Time of the latest change of its times, place or rule: earlier due times do not count as missed.
    pub since: Timestamp,
    /// Time of the latest request of a run by hand.
    pub requested: Option<Timestamp>,
}

impl Job {
    /// A new job with these settings. `cron` is required; the others have usual values.
    pub fn new(
        id: JobId,
        text: &str,
        kind: JobKind,
        changes: &[JobChange],
        created: Timestamp,
    ) -> Result<Self, JobError> {
        let cron = changes.iter().rev().find_map(|change| match change {
            JobChange::Cron(cron) => Some(cron.clone()),
            _ => None,
        });
        let job = Self {
            id,
            name: name(text)?,
            kind,
            arguments: BTreeMap::new(),
            cron: cron.ok_or(JobError::Missing)?,
            zone: Zone::utc(),
            place: JobPlace::Publisher,
            missed: Missed::Skip,
            enabled: true,
            limit_s: FIRST_LIMIT_S,
            created,
            since: created,
            requested: None,
        };
        job.changed(changes, created)
    }

    /// The job with these changes, made at this time.
    pub fn changed(&self, changes: &[JobChange], now: Timestamp) -> Result<Self, JobError> {
        let mut job = self.clone();
        for change in changes {
            job.change(change)?;
        }
        let times = |job: &Self| (job.cron.clone(), job.zone.clone(), job.place, job.missed, job.enabled);
        if times(&job) != times(self) {
            job.since = now;
        }
        job.complete()
    }

    fn change(&mut self, change: &JobChange) -> Result<(), JobError> {
        match change.clone() {
            JobChange::Name(name) => self.name = name,
            JobChange::Cron(cron) => self.cron = cron,
            JobChange::Zone(zone) => self.zone = zone,
            JobChange::Place(place) => self.place = place,
            JobChange::Missed(missed) => self.missed = missed,
            JobChange::Enabled(on) => self.enabled = on,
            JobChange::Limit(seconds) => self.limit_s = seconds,
            JobChange::Argument(word, value) => {
                name_of_argument(self.kind, &word)?;
                if value.is_empty() {
                    self.arguments.remove(&word);
                } else {
                    self.arguments.insert(word, value);
                }
            }
        }
        Ok(())
    }

    /// The job, if its arguments suffice for its kind.
    fn complete(self) -> Result<Self, JobError> {
        let lacking = self.kind.required().iter().copied().find(|word| !self.arguments.contains_key(*word));
        let (kind, words) = (self.kind.word(), self.kind.one_of());
        if let Some([first, second]) = self.kind.exclusive()
            && self.arguments.contains_key(first)
            && self.arguments.contains_key(second)
        {
            return Err(JobError::Both { kind, first, second });
        }
        match lacking {
            Some(word) => Err(JobError::Argument { kind, word }),
            None if !words.is_empty() && !words.iter().any(|word| self.arguments.contains_key(*word)) => {
                Err(JobError::OneOf { kind, words })
            }
            None => Ok(self),
        }
    }

    /// The settings, as [`JobChange::parse`] reads them.
    pub fn settings(&self) -> Vec<(String, String)> {
        let yes = |on| if on { "yes" } else { "no" };
        let settings = [
            ("cron", self.cron.as_str()),
            ("zone", self.zone.as_str()),
            ("place", self.place.word()),
            ("missed", self.missed.word()),
            ("enabled", yes(self.enabled)),
        ];
        let owned = |(word, value): (&str, &str)| (word.to_owned(), value.to_owned());
        let mut settings: Vec<_> = settings.into_iter().map(owned).collect();
        settings.push(("limit".to_owned(), self.limit_s.to_string()));
        settings.extend(self.arguments.clone());
        settings
    }

    /// The edits that write its record; with `before`, only of the fields that differ.
    pub fn edits(&self, before: Option<&Self>) -> Vec<Edit> {
        let mut edits = self.fields();
        if let Some(before) = before {
            let old = before.fields();
            edits.retain(|edit| !old.contains(edit));
        }
        edits
    }

    fn fields(&self) -> Vec<Edit> {
        let arguments: Vec<_> = self.arguments.iter().map(|(word, value)| format!("{word}={value}")).collect();
        let mut fields = vec![
            set_u64(tag::CREATED, self.created.0),
            set(tag::NAME, self.name.as_bytes()),
            set(tag::KIND, &[self.kind.number()]),
            set(tag::ARGUMENTS, arguments.join("\n").as_bytes()),
            set(tag::CRON, self.cron.as_str().as_bytes()),
            set(tag::ZONE, self.zone.as_str().as_bytes()),
            set(tag::PLACE, &[self.place.byte()]),
            set(tag::MISSED, &[self.missed.byte()]),
            set(tag::ENABLED, &[u8::from(self.enabled)]),
            set_u64(tag::SINCE, self.since.0),
            set_u64(tag::LIMIT, self.limit_s),
        ];
        fields.extend(self.requested.map(|at| set_u64(tag::REQUESTED, at.0)));
        fields
    }

    /// The edits of its record that ask for a run at this time.
    pub fn request(now: Timestamp) -> Vec<Edit> {
        vec![set_u64(tag::REQUESTED, now.0)]
    }

    /// The edits of its record that remove it.
    pub fn removal() -> Vec<Edit> {
        vec![Edit::Delete]
    }

    /// Reads a job; `Ok(None)` when it was removed.
    pub fn read(key: &Key, record: &Record) -> Result<Option<Self>, ViewError> {
        let id = schema::job_of(key).ok_or(ViewError::Key { what: WHAT })?;
        if record.tombstone().is_some() {
            return Ok(None);
        }
        let fields = Fields { what: WHAT, record };
        let one_of = |bytes: &[u8]| <[u8; 1]>::try_from(bytes).ok().map(|[byte]| byte);
        let created = Timestamp(fields.required(tag::CREATED, read_u64)?);
        Ok(Some(Self {
            id,
            name: fields.required(tag::NAME, read_text)?,
            kind: fields.required(tag::KIND, |bytes| one_of(bytes).and_then(JobKind::from_number))?,
            arguments: fields.required(tag::ARGUMENTS, read_arguments)?,
            cron: fields.required(tag::CRON, |bytes| CronText::parse(&read_text(bytes)?).ok())?,
            zone: fields.required(tag::ZONE, |bytes| Zone::parse(&read_text(bytes)?).ok())?,
            place: fields
                .required(tag::PLACE, |bytes| JobPlace::ALL.into_iter().find(|place| bytes == [place.byte()]))?,
            missed: fields
                .required(tag::MISSED, |bytes| Missed::ALL.into_iter().find(|rule| bytes == [rule.byte()]))?,
            enabled: fields.required(tag::ENABLED, |bytes| one_of(bytes).map(|byte| byte == 1))?,
            limit_s: fields.optional(tag::LIMIT, read_u64)?.unwrap_or(FIRST_LIMIT_S),
            created,
            since: fields.optional(tag::SINCE, read_u64)?.map_or(created, Timestamp),
            requested: fields.optional(tag::REQUESTED, read_u64)?.map(Timestamp),
        }))
    }
}

fn read_arguments(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    let text = read_text(bytes)?;
    let pair = |line: &str| {
        let (word, value) = line.split_once('=')?;
        Some((word.to_owned(), value_of_argument(value).ok()?))
    };
    text.lines().map(pair).collect()
}
