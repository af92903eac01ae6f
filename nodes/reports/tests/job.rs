//! The job `report` over the store of a node.

use std::{fs, path::Path};

use tempfile::TempDir;
use twinbox_alarms::Alarms;
use twinbox_ids::{JobId, Timestamp};
use twinbox_reports::{ReportSource, ReportWork};
use twinbox_store_kit::Node;
use twinbox_system_mail::SystemMails;
use twinbox_timetable::{Job, JobChange, JobKind};

const DUE: Timestamp = Timestamp(1_793_620_800_000);

fn job(folder: &Path) -> Job {
    let folder = format!("folder={}", folder.display());
    let settings = ["cron=0 6 * * *", "report=traffic", "to=ops@example.test", &folder];
    let changes = settings.map(|text| JobChange::parse(JobKind::Report, text).expect(text));
    Job::new(JobId(7), "daily", JobKind::Report, &changes, Timestamp(1)).expect("a job")
}

#[tokio::test]
async fn mails_of_a_job_are_queued_even_if_its_file_cannot_be_written() {
    let dir = TempDir::new().expect("a folder");
    let node = Node::alone(&dir.path().join("store"), "a");
    let alarms = Alarms::open(node.store.clone(), node.peers.clone()).await.expect("alarms");
    let work = ReportWork {
        source: ReportSource { mailstore: node.mailstore.clone(), alarms },
        mails: SystemMails::new(node.mailstore.clone(), || true),
    };
    let folder = dir.path().join("reports");
    fs::write(&folder, "a file, no folder").expect("written");
    let failed = work.carry_out(&job(&folder), DUE).await.expect_err("no folder");
    assert!(failed.contains("cannot be written") && failed.ends_with("; 1 mails queued"), "{failed}");
    assert_eq!(node.mailstore.effects().await.expect("effects").len(), 1);

    fs::remove_file(&folder).expect("removed");
    let done = work.carry_out(&job(&folder), DUE).await.expect("done");
    assert!(done.starts_with("wrote ") && done.ends_with("; 0 mails queued, 1 were queued before"), "{done}");
}
