//! The work `backup`.

use std::{fs, path::Path};

use tempfile::TempDir;
use twinbox_backup::BackupFolder;
use twinbox_timetable::{JobKind, JobRun, RunState};
use twinbox_timetable_duty::{Works, backup};
use twinbox_timetable_store::TimetableStore;

use crate::support::{HOUR_MS, Node};

/// Runs a job that keeps one backup in `dir`.
async fn back_up(node: &Node, dir: &Path, job: &str, state: RunState) -> JobRun {
    let dir = format!("dir={}", dir.display());
    let job = node.add_kind(JobKind::Backup, job, &[&dir, "keep=1"]).await;
    TimetableStore::of(&node.mailstore).request_job_run(job).await.expect("requested");
    node.until(job, state).await
}

fn works(node: &Node) -> Works {
    Works::default().with(JobKind::Backup, backup(node.mailstore.clone(), |dir| Ok(BackupFolder::at(dir))))
}

#[tokio::test]
async fn run_fails_with_the_reason_when_no_recordings_may_be_removed() {
    let (node, dir) = (Node::alone().await, TempDir::new().expect("a folder"));
    let _duty = node.duty(works(&node));
    node.hold(1);
    let unreadable = dir.path().join("backups/20260101T000000.000Z-a");
    fs::create_dir_all(&unreadable).expect("a folder");
    fs::write(unreadable.join("manifest.json"), "{}").expect("written");
    let run = back_up(&node, dir.path(), "first", RunState::Failed).await;
    assert!(run.outcome.contains("no recordings were removed: "), "{}", run.outcome);
    assert!(run.outcome.contains("20260101T000000.000Z-a"), "{}", run.outcome);
    fs::remove_dir_all(&unreadable).expect("removed");
    let run = back_up(&node, dir.path(), "second", RunState::Done).await;
    assert!(run.outcome.contains("1 old backup removed"), "{}", run.outcome);
}

#[tokio::test]
async fn run_keeps_its_backup_although_the_clock_was_ahead_before() {
    let (node, dir) = (Node::alone().await, TempDir::new().expect("a folder"));
    let _duty = node.duty(works(&node));
    node.hold(1);
    back_up(&node, dir.path(), "first", RunState::Done).await;
    let first = BackupFolder::at(dir.path()).find(None, None).expect("a backup");
    let file = dir.path().join("backups").join(&first.name).join("manifest.json");
    let began = |ms: u64| format!("\"began_ms\": {ms}");
    let (right, ahead) = (began(first.manifest.began_ms), began(first.manifest.began_ms + 12 * HOUR_MS));
    fs::write(&file, fs::read_to_string(&file).expect("text").replace(&right, &ahead)).expect("written");
    let run = back_up(&node, dir.path(), "second", RunState::Done).await;
    assert!(run.outcome.contains("0 old backups removed"), "{}", run.outcome);
    assert_eq!(BackupFolder::at(dir.path()).backups_by_age().expect("backups").len(), 2);
}
