//! Texts and records of jobs and runs.

use twinbox_ids::{Incarnation, JobId, Origin, Stamp, Timestamp};
use twinbox_replication_core::{Edit, Record};
use twinbox_timetable::{
    Job, JobChange, JobError, JobKind, JobPlace, JobRun, LONGEST_OUTCOME, RunState,
    schema::{self, RUN_SLOTS},
};

fn changes(kind: JobKind, settings: &[&str]) -> Vec<JobChange> {
    settings.iter().map(|text| JobChange::parse(kind, text).expect(text)).collect()
}

/// A record with these edits, the first of them at this wall time.
fn write(record: &mut Record, edits: Vec<Edit>, wall: u64) {
    for (counter, edit) in (0..).zip(edits) {
        let stamp = Stamp { wall, counter, origin: Origin(1) };
        record.merge(edit.delta(record, stamp, &"a".parse().expect("a name")));
    }
}

fn job() -> Job {
    let settings = ["cron=30 2 * * *", "zone=Europe/Berlin", "missed=run-once", "share=80", "limit=600"];
    let changes = changes(JobKind::QuotaWarnings, &settings);
    Job::new(JobId(7), "Nightly", JobKind::QuotaWarnings, &changes, Timestamp(5)).expect("a job")
}

#[test]
fn job_is_read_back_from_its_record_and_from_its_settings() {
    let (first, key) = (job(), schema::job_key(JobId(7)));
    let mut record = Record::new();
    write(&mut record, first.edits(None), 1);
    assert_eq!(Job::read(&key, &record), Ok(Some(first.clone())));
    assert_eq!((first.name.as_str(), first.place, first.enabled), ("nightly", JobPlace::Publisher, true));
    let texts: Vec<_> = first.settings().iter().map(|(word, value)| format!("{word}={value}")).collect();
    let again: Vec<_> = texts.iter().map(|text| JobChange::parse(first.kind, text).expect(text)).collect();
    assert_eq!(Job::new(first.id, &first.name, first.kind, &again, first.created), Ok(first.clone()));

    // A change writes its fields only; an argument without a value goes.
    let change = changes(first.kind, &["share=", "place=every-node"]);
    let changed = first.changed(&change, Timestamp(9)).expect("valid");
    let edits = changed.edits(Some(&first));
    assert_eq!(edits.len(), 3, "arguments, place, and the time since which due times count");
    write(&mut record, edits, 2);
    write(&mut record, Job::request(Timestamp(11)), 3);
    let read = Job::read(&key, &record).expect("readable").expect("a job");
    assert_eq!((read.arguments.len(), read.place, read.since), (0, JobPlace::EveryNode, Timestamp(9)));
    assert_eq!(read, Job { requested: Some(Timestamp(11)), ..changed });

    write(&mut record, Job::removal(), 4);
    assert_eq!(Job::read(&key, &record), Ok(None));
    assert!(Job::read(&key, &Record::new()).is_err());
}

#[test]
fn wrong_settings_are_refused_with_input_and_remedy() {
    for (kind, text, part) in [
        (JobKind::Ageing, "zone", "write word=value"),
        (JobKind::Ageing, "zonne=UTC", "did you mean 'zone'"),
        (JobKind::Ageing, "share=80", "does not exist for jobs of kind 'ageing'"),
        (JobKind::QuotaWarnings, "share=0", "1 to 100"),
        (JobKind::QuotaWarnings, "share=101", "'101'"),
        (JobKind::QuotaWarnings, "owners=perhaps", "yes to warn"),
        (JobKind::Report, "to=ops@example.com,nobody", "'ops@example.com,nobody'"),
        (JobKind::Report, "report=calls", "traffic, users"),
        (JobKind::Report, "format=xml", "table, csv or json"),
        (JobKind::Report, "days=0", "1 to 3650"),
        (JobKind::Report, "days=3651", "'3651'"),
        (JobKind::Report, "last=7", "such as 24h"),
        (JobKind::Report, "last=h", "such as 24h"),
        (JobKind::Report, "last=0d", "such as 24h"),
        (JobKind::Report, "folder=reports", "from the root on"),
        (JobKind::Backup, "dir=backups", "from the root on"),
        (JobKind::Backup, "dir=s3://", "s3://backups/voicemail"),
        (JobKind::Backup, "dir=s3:///voicemail", "s3://backups/voicemail"),
        (JobKind::Backup, "keep=0", "1 to 10000"),
        (JobKind::Ageing, "place=everywhere", "publisher or every-node"),
        (JobKind::Ageing, "missed=later", "skip or run-once"),
        (JobKind::Ageing, "enabled=maybe", "yes or no"),
        (JobKind::Ageing, "limit=0", "1 to 86400"),
        (JobKind::Ageing, "name=two words", "'two words'"),
        (JobKind::Ageing, "zone=Mars/Base", "Europe/Berlin"),
        (JobKind::Ageing, "cron=* *", "five fields"),
        (JobKind::DirectorySync, "directory=a\nb", "a\\nb"),
    ] {
        let error = JobChange::parse(kind, text).expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    for dir in ["dir=/srv/backup", "dir=s3://backups", "dir=s3://backups/voicemail"] {
        assert!(JobChange::parse(JobKind::Backup, dir).is_ok(), "{dir}");
    }
    let new = |kind, settings: &[&str]| Job::new(JobId(1), "x", kind, &changes(kind, settings), Timestamp(0));
    let error = new(JobKind::Ageing, &["zone=UTC"]).expect_err("no times").to_string();
    assert!(error.contains("cron='30 2 * * *'"), "{error}");
    let error = new(JobKind::Report, &["cron=@daily"]).expect_err("no report").to_string();
    assert!(error.contains("kind 'report'") && error.contains("report=VALUE"), "{error}");
    let report = ["cron=@daily", "report=traffic"];
    let error = new(JobKind::Report, &report).expect_err("nowhere to send it").to_string();
    assert!(error.contains("folder, to"), "{error}");
    for way in ["folder=/tmp", "to=ops@example.com, boss@example.com"] {
        assert!(new(JobKind::Report, &[&report[..], &[way]].concat()).is_ok(), "{way}");
    }
    let both = [&report[..], &["to=ops@example.com", "days=7", "last=24h"]].concat();
    let error = new(JobKind::Report, &both).expect_err("two times").to_string();
    assert!(error.contains("takes days= or last=, not both: leave one of them out"), "{error}");
    let seven_days = new(JobKind::Report, &both[..both.len() - 1]).expect("one time");
    let change = |settings: &[&str]| seven_days.changed(&changes(JobKind::Report, settings), Timestamp(1));
    assert!(matches!(change(&["last=24h"]), Err(JobError::Both { first: "days", second: "last", .. })));
    assert!(change(&["days=", "last=24h"]).is_ok());
}

#[test]
fn kinds_have_unique_words_and_numbers() {
    for kind in JobKind::ALL {
        assert_eq!(JobKind::from_word(kind.word()), Some(kind));
        assert_eq!(JobKind::from_number(kind.number()), Some(kind));
        for word in kind.required().iter().chain(kind.one_of()) {
            assert!(kind.arguments().iter().any(|(known, _)| known == word), "{word}");
        }
    }
    assert_eq!((JobKind::from_word("restore"), JobKind::from_number(0)), (None, None));
}

fn run(due: u64, place: JobPlace) -> JobRun {
    JobRun {
        job: JobId(7),
        due: Timestamp(due),
        place,
        node: "node-a".parse().expect("a name"),
        incarnation: Incarnation(3),
        began: Timestamp(due + 1),
        ended: None,
        state: RunState::Running,
        attempt: 1,
        outcome: String::new(),
    }
}

#[test]
fn run_is_read_back_and_a_later_one_in_its_slot_replaces_it_whole() {
    for place in JobPlace::ALL {
        let first = run(1_000_000, place);
        let mut record = Record::new();
        write(&mut record, first.edits(), 1);
        assert_eq!(JobRun::read(&first.key(), &record), Ok(Some(first.clone())));
        let long = "ä".repeat(LONGEST_OUTCOME);
        let ended = first.ended(RunState::Failed, &long, Timestamp(1_000_500));
        assert!(ended.outcome.len() <= LONGEST_OUTCOME && ended.outcome.starts_with('ä'));
        write(&mut record, ended.edits(), 2);
        assert_eq!(JobRun::read(&first.key(), &record), Ok(Some(ended)));

        let later = run(1_000_000 + RUN_SLOTS * 1_000, place);
        assert_eq!(later.key(), first.key());
        write(&mut record, later.edits(), 3);
        assert_eq!(JobRun::read(&first.key(), &record), Ok(Some(later)));
    }
    assert_ne!(run(0, JobPlace::Publisher).key(), run(0, JobPlace::EveryNode).key());
    assert!(JobRun::read(&schema::job_key(JobId(7)), &Record::new()).is_err());
}

#[test]
fn regular_due_times_use_all_slots() {
    for seconds in [60, 300, 900, 3_600, 86_400, 7 * 86_400] {
        let keys = (0..RUN_SLOTS).map(|n| run(1_767_225_600_000 + n * seconds * 1_000, JobPlace::Publisher).key());
        let mut keys: Vec<_> = keys.collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len() as u64, RUN_SLOTS, "every {seconds} s");
    }
}
