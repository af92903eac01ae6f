//! The job `report` over the store of a node.

use std::{fs, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use twinbox_alarms::Alarms;
use twinbox_call_records::{Format, ReportKind, duration_ms};
use twinbox_ids::{JobId, Timestamp};
use twinbox_mailstore::SystemContent;
use twinbox_reports::{ReportSource, ReportWork};
use twinbox_store_kit::Node;
use twinbox_system_mail::SystemMails;
use twinbox_timetable::{Job, JobChange, JobKind, MissedTimes};

const DUE: Timestamp = Timestamp(1_793_620_800_000);

fn job(folder: &Path) -> Job {
    let folder = format!("folder={}", folder.display());
    let settings = ["cron=0 6 * * *", "report=traffic", "to=ops@example.test", &folder];
    let changes = settings.map(|text| JobChange::parse(JobKind::Report, text).expect(text));
    Job::new(JobId(7), "daily", JobKind::Report, &changes, Timestamp(1)).expect("a job")
}

#[test]
fn job_takes_every_report_in_every_form_and_for_every_unit_of_time() {
    let takes = |text: &str| assert!(JobChange::parse(JobKind::Report, text).is_ok(), "{text}");
    ReportKind::ALL.into_iter().for_each(|kind| takes(&format!("report={kind}")));
    for word in ["table", "csv", "json"] {
        assert!(Format::from_word(word).is_some(), "{word}");
        takes(&format!("format={word}"));
    }
    for last in ["30m", "24h", "7d", "2w"] {
        assert!(duration_ms(last).is_ok(), "{last}");
        takes(&format!("last={last}"));
    }
    ["days=1", "days=3650", "days=", "folder=", "folder=/var/lib/twinbox/reports"].into_iter().for_each(takes);
}

async fn work(node: &Node) -> ReportWork {
    let alarms = Alarms::open(node.store.clone(), node.peers.clone()).await.expect("alarms");
    ReportWork {
        source: ReportSource { mailstore: node.mailstore.clone(), alarms },
        mails: SystemMails::new(node.mailstore.clone(), || true),
        keep: Arc::new(|| Duration::from_secs(90 * 86_400)),
    }
}

#[tokio::test]
async fn mails_of_a_job_are_queued_even_if_its_file_cannot_be_written() {
    let dir = TempDir::new().expect("a folder");
    let node = Node::alone(&dir.path().join("store"), "a");
    let work = work(&node).await;
    let folder = dir.path().join("reports");
    fs::write(&folder, "a file, no folder").expect("written");
    let failed = work.carry_out(&job(&folder), DUE, None).await.expect_err("no folder");
    assert!(failed.contains("cannot be written") && failed.ends_with("; 1 mails queued"), "{failed}");
    assert_eq!(node.mailstore.effects().await.expect("effects").len(), 1);

    fs::remove_file(&folder).expect("removed");
    let done = work.carry_out(&job(&folder), DUE, None).await.expect("done");
    assert!(done.starts_with("wrote ") && done.ends_with("; 0 mails queued, 1 were queued before"), "{done}");
}

#[tokio::test]
async fn report_that_makes_up_for_missed_ones_says_so_in_its_file_and_in_its_mail() {
    let dir = TempDir::new().expect("a folder");
    let node = Node::alone(&dir.path().join("store"), "a");
    let (work, folder) = (work(&node).await, dir.path().join("reports"));
    let missed = MissedTimes { last: None, first: Timestamp(DUE.0 - 7 * 86_400_000) };
    let done = work.carry_out(&job(&folder), DUE, Some(missed)).await.expect("done");
    assert!(done.ends_with("; 1 mails queued; the report covers the time of missed ones, too"), "{done}");
    let file = fs::read_dir(&folder).expect("a folder").next().expect("a file").expect("readable").path();
    let text = fs::read_to_string(file).expect("readable");
    assert!(text.contains("Missed: ") && text.contains("From: 2026-10-19"), "{text}");
    let effects = node.mailstore.effects().await.expect("effects");
    let mail = node.mailstore.system_mail_of(&effects[0]).expect("readable").expect("a mail");
    assert!(matches!(mail.content, SystemContent::CallReport { makes_up: true, .. }), "{mail:?}");

    let usual = work.carry_out(&job(&folder), Timestamp(DUE.0 + 86_400_000), None).await.expect("done");
    assert!(!usual.contains("missed"), "{usual}");
}
