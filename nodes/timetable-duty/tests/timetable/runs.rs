//! Runs and their outcomes.

use twinbox_alarms::Code;
use twinbox_replication_store::Filled;
use twinbox_timetable::{JobChange, JobKind, RunState};
use twinbox_timetable_duty::{JobOrder, Works};
use twinbox_timetable_store::TimetableStore;

use crate::support::{HOUR_MS, Node, Workshop, eventually, name};

#[tokio::test]
async fn publishers_job_runs_once_when_the_node_holds_the_duty() {
    let node = Node::alone().await;
    let shop = Workshop::new();
    let duty = node.duty(shop.works());
    let job = node.request("nightly", &[]).await;
    node.commits().await;
    assert!(shop.begun().is_empty() && node.last(job).await.is_none(), "without the duty");

    node.hold(1);
    let run = node.until(job, RunState::Done).await;
    assert_eq!((run.outcome.as_str(), run.node.clone(), run.attempt), ("nightly is done", name("a"), 1));
    assert!(run.ended >= Some(run.began) && run.began >= run.due);
    // It is not run again in the next epoch, and another request runs it again.
    node.gate.close();
    node.hold(2);
    let other = node.request("other", &[]).await;
    node.until(other, RunState::Done).await;
    assert_eq!(shop.begun(), ["nightly", "other"]);
    TimetableStore::of(&node.mailstore).request_job_run(job).await.expect("requested");
    eventually("it runs again", async || shop.begun().len() == 3).await;
    assert!(duty.still_for().is_some() && node.has_no_alarm());
    duty.stop();
    assert!(duty.still_for().is_none());
}

#[tokio::test]
async fn job_that_hangs_holds_up_no_other_and_ends_at_its_limit() {
    let node = Node::alone().await;
    let shop = Workshop::new();
    for job in ["hangs", "limited"] {
        shop.keep(job);
    }
    let _duty = node.duty(shop.works());
    node.hold(1);
    let hangs = node.request("hangs", &[]).await;
    let limited = node.request("limited", &["limit=1"]).await;
    shop.under_way(&["hangs", "limited"]).await;
    let quick = node.request("quick", &[]).await;
    node.until(quick, RunState::Done).await;
    let ended = node.until(limited, RunState::Failed).await;
    assert!(ended.outcome.contains("limit of 1 seconds"), "{}", ended.outcome);
    assert!(node.alarm(Code::JobFailed, "limited").await.contains("limit of 1 seconds"));
    shop.under_way(&["hangs"]).await;
    // It does not run beside itself.
    TimetableStore::of(&node.mailstore).request_job_run(hangs).await.expect("requested");
    node.commits().await;
    assert_eq!(shop.begun().iter().filter(|name| *name == "hangs").count(), 1);
    shop.release("hangs");
    eventually("it runs again after its end", async || {
        shop.begun().iter().filter(|name| *name == "hangs").count() == 2
    })
    .await;
}

#[tokio::test]
async fn failure_and_panic_are_outcomes_with_an_alarm() {
    let node = Node::alone().await;
    let shop = Workshop::new();
    let _duty = node.duty(shop.works());
    node.hold(1);
    for (job, part) in [("fails", "fails by itself"), ("panics", "by a panic")] {
        let id = node.request(job, &[]).await;
        let run = node.until(id, RunState::Failed).await;
        assert!(run.outcome.contains(part), "{}", run.outcome);
        assert!(node.alarm(Code::JobFailed, job).await.contains(part));
    }
    let unknown = node.add_kind(JobKind::Report, "unknown", &["report=traffic", "folder=/tmp"]).await;
    TimetableStore::of(&node.mailstore).request_job_run(unknown).await.expect("requested");
    let run = node.until(unknown, RunState::Failed).await;
    assert!(run.outcome.contains("kind 'report'"), "{}", run.outcome);
}

#[tokio::test]
async fn missed_runs_are_skipped_or_made_up_for_and_written_down() {
    let node = Node::alone().await;
    let shop = Workshop::new();
    // Due at each half hour of the last three: the latest is late by chance or not, so half an hour is never on time.
    let minute = twinbox_clock::wall().0 / 60_000 % 60;
    let cron = format!("cron={} * * * *", (minute + 30) % 60);
    let skip = node.add("skips", &[&cron, "missed=skip"]).await;
    let once = node.add("once", &[&cron, "missed=run-once"]).await;
    let _duty = node.duty(shop.works());
    node.hold(1);
    let skipped = node.until(skip, RunState::Skipped).await;
    assert!(skipped.outcome.contains("3 missed runs were skipped"), "{}", skipped.outcome);
    let done = node.until(once, RunState::Done).await;
    assert!(done.outcome.contains("makes up for 2 missed runs"), "{}", done.outcome);
    assert_eq!((shop.begun(), done.due), (vec!["once".to_owned()], skipped.due));
    assert!(done.began.0 - done.due.0 < HOUR_MS && node.has_no_alarm());
}

#[tokio::test]
async fn work_is_told_the_due_times_that_its_run_makes_up_for() {
    let node = Node::alone().await;
    let told = |order: JobOrder| async move {
        Ok::<_, String>(format!("{:?}", order.missed.map(|missed| missed.first.0)))
    };
    let minute = twinbox_clock::wall().0 / 60_000 % 60;
    let cron = format!("cron={} * * * *", (minute + 30) % 60);
    let once = node.add("once", &[&cron, "missed=run-once"]).await;
    let _duty = node.duty(Works::default().with(JobKind::Ageing, told));
    node.hold(1);
    let late = node.until(once, RunState::Done).await;
    let first = format!("{:?}", Some(late.due.0 - 2 * HOUR_MS));
    assert!(late.outcome.starts_with(&first), "{} lacks {first}", late.outcome);
    TimetableStore::of(&node.mailstore).request_job_run(once).await.expect("requested");
    let by_hand = async || node.last(once).await.is_some_and(|run| run.due > late.due && run.outcome == "None");
    eventually("the next run makes up for none", by_hand).await;
}

#[tokio::test]
async fn job_of_every_node_runs_on_each_without_the_duty() {
    let [a, b] = Node::pair().await;
    let shops = [Workshop::new(), Workshop::new()];
    let job = a.request("everywhere", &["place=every-node"]).await;
    let _duties = [a.duty(shops[0].works()), b.duty(shops[1].works())];
    let both = async || {
        let runs = TimetableStore::of(&a.mailstore).job_runs(job).await.expect("readable");
        let done = runs.iter().filter(|run| run.state == RunState::Done);
        let mut nodes: Vec<_> = done.map(|run| run.node.clone()).collect();
        nodes.sort();
        nodes == [name("a"), name("b")]
    };
    eventually("both ran", both).await;
    assert!(shops.iter().all(|shop| shop.begun() == ["everywhere"]));
}

#[tokio::test]
async fn changed_and_removed_jobs_are_followed_at_once() {
    let node = Node::alone().await;
    let shop = Workshop::new();
    shop.keep("goes");
    let _duty = node.duty(shop.works());
    node.hold(1);
    let goes = node.request("goes", &[]).await;
    shop.under_way(&["goes"]).await;
    TimetableStore::of(&node.mailstore).remove_job(goes).await.expect("removed");
    shop.release("goes");
    shop.under_way(&[]).await;
    let stays = node.add("stays", &[]).await;
    let everywhere = JobChange::parse(JobKind::Ageing, "place=every-node").expect("a change");
    TimetableStore::of(&node.mailstore).change_job(stays, vec![everywhere]).await.expect("changed");
    node.gate.close();
    TimetableStore::of(&node.mailstore).request_job_run(stays).await.expect("requested");
    node.until(stays, RunState::Done).await;
    assert!(node.last(goes).await.is_none(), "the end of a removed job leaves no trace");
}

#[tokio::test]
async fn jobs_of_a_store_without_all_records_do_not_run() {
    let node = Node::without_records().await;
    let shop = Workshop::new();
    let duty = node.duty(shop.works());
    node.hold(1);
    let job = node.request("nightly", &[]).await;
    node.commits().await;
    assert!(shop.begun().is_empty() && duty.still_for().is_some());
    node.store.set_filled(Filled::Records).await.expect("a mark");
    node.until(job, RunState::Done).await;
}
