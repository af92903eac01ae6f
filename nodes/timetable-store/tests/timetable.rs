//! Jobs, and the history of their runs.

use tempfile::TempDir;
use twinbox_clock::wall;
use twinbox_ids::{Incarnation, JobId, Timestamp};
use twinbox_store_kit::{Node, name};
use twinbox_timetable::{Job, JobChange, JobKind, JobPlace, JobRun, RunState, schema::RUN_SLOTS};
use twinbox_timetable_store::{MOST_JOBS, TimetableChange, TimetableError, TimetableStore};

fn changes(settings: &[&str]) -> Vec<JobChange> {
    settings.iter().map(|text| JobChange::parse(JobKind::Ageing, text).expect(text)).collect()
}

fn job(id: u128, name: &str, settings: &[&str]) -> Job {
    let mut all = changes(&["cron=0 3 * * *"]);
    all.extend(changes(settings));
    Job::new(JobId(id), name, JobKind::Ageing, &all, Timestamp(1_000)).expect("a job")
}

fn run(job: &Job, due: u64, node: &str) -> JobRun {
    JobRun {
        job: job.id,
        due: Timestamp(due),
        place: job.place,
        node: name(node),
        incarnation: Incarnation(1),
        began: Timestamp(due),
        ended: None,
        state: RunState::Running,
        attempt: 1,
        outcome: String::new(),
    }
}

#[tokio::test]
async fn jobs_are_listed_by_name_and_change_and_go() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let store = TimetableStore::of(&node.mailstore);
    let (nightly, first) = (job(1, "nightly", &[]), job(2, "first", &[]));
    let mut watch = store.watch_timetable();
    store.add_job(nightly.clone()).await.unwrap();
    assert_eq!(watch.next().await, Some(TimetableChange::Job(nightly.id)));
    store.add_job(first.clone()).await.unwrap();
    assert_eq!(store.jobs().unwrap(), [first.clone(), nightly.clone()]);

    let taken = store.add_job(job(3, "Nightly", &[])).await.unwrap_err();
    assert!(matches!(&taken, TimetableError::Name(name) if name == "nightly"), "{taken}");
    let taken = store.change_job(first.id, changes(&["name=nightly"])).await.unwrap_err();
    assert!(matches!(taken, TimetableError::Name(_)), "{taken}");
    let before = wall();
    store.change_job(first.id, changes(&["cron=@hourly", "name=hourly"])).await.unwrap();
    let changed = store.job(first.id).unwrap().unwrap();
    assert_eq!((changed.name.as_str(), changed.cron.as_str()), ("hourly", "@hourly"));
    assert!(changed.since >= before && changed.requested.is_none());
    store.request_job_run(first.id).await.unwrap();
    assert!(store.job(first.id).unwrap().unwrap().requested >= Some(before));
    let mut watch = store.watch_timetable();
    assert!(store.write_job_run(run(&first, 60_000, "a")).await.unwrap());
    assert_eq!(watch.next().await, Some(TimetableChange::Job(first.id)), "a run of it");

    store.remove_job(nightly.id).await.unwrap();
    assert_eq!((store.job(nightly.id).unwrap(), store.jobs().unwrap().len()), (None, 1));
    for refused in [
        store.change_job(nightly.id, changes(&["enabled=no"])).await,
        store.request_job_run(nightly.id).await,
        store.remove_job(nightly.id).await,
    ] {
        assert!(matches!(refused, Err(TimetableError::None(id)) if id == nightly.id));
    }
}

/// Two sides of a split made a job of one name each, and together too many.
#[tokio::test]
async fn jobs_of_a_split_can_be_changed_although_their_name_and_number_are_too_many() {
    let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, b) = (Node::alone(first.path(), "a"), Node::alone(second.path(), "b"));
    let (on_a, on_b) = (TimetableStore::of(&a.mailstore), TimetableStore::of(&b.mailstore));
    for n in 1..MOST_JOBS as u128 {
        on_a.add_job(job(n, &format!("job-{n}"), &[])).await.unwrap();
    }
    let (ours, theirs) = (job(1_000, "nightly", &[]), job(1_001, "nightly", &[]));
    on_a.add_job(ours.clone()).await.unwrap();
    on_b.add_job(theirs.clone()).await.unwrap();
    b.hand_over(&a).await;
    assert_eq!(on_a.jobs().unwrap().len(), MOST_JOBS + 1);
    for id in [ours.id, theirs.id] {
        on_a.change_job(id, changes(&["enabled=no"])).await.unwrap();
        assert!(!on_a.job(id).unwrap().unwrap().enabled);
    }
    let refused = on_a.change_job(theirs.id, changes(&["name=job-1"])).await.unwrap_err();
    assert!(matches!(refused, TimetableError::Name(_)), "{refused}");
    on_a.change_job(theirs.id, changes(&["name=of-b"])).await.unwrap();
}

#[tokio::test]
async fn more_jobs_than_the_maximum_are_refused() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    for n in 0..MOST_JOBS {
        TimetableStore::of(&node.mailstore).add_job(job(n as u128, &format!("job-{n}"), &[])).await.unwrap();
    }
    let refused = TimetableStore::of(&node.mailstore).add_job(job(1_000, "one-more", &[])).await.unwrap_err();
    assert!(refused.to_string().contains("twinbox timetable remove"), "{refused}");
}

#[tokio::test]
async fn history_is_bounded_and_goes_with_its_job() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let (store, job) = (TimetableStore::of(&node.mailstore), job(1, "nightly", &[]));
    assert!(!store.write_job_run(run(&job, 60_000, "a")).await.unwrap(), "there is no such job");
    store.add_job(job.clone()).await.unwrap();
    let last = (RUN_SLOTS + 20) * 60_000;
    for minute in 1..=RUN_SLOTS + 20 {
        assert!(store.write_job_run(run(&job, minute * 60_000, "a")).await.unwrap());
    }
    let runs = store.job_runs(job.id).await.unwrap();
    assert_eq!((runs.len() as u64, runs[0].due), (RUN_SLOTS, Timestamp(last)), "the latest, latest first");
    assert!(runs.is_sorted_by(|a, b| a.due > b.due));
    assert_eq!(store.last_job_run(&job).await.unwrap().map(|run| run.due), Some(Timestamp(last)));

    let begun = run(&job, last, "a");
    let done = begun.ended(RunState::Done, "3 messages deleted", Timestamp(last + 5));
    let stale = [
        JobRun { attempt: 2, ..done.clone() },
        JobRun { incarnation: Incarnation(2), ..done.clone() },
        JobRun { due: Timestamp(last - RUN_SLOTS * 1_000), ..done.clone() },
    ];
    for stale in stale {
        assert!(!store.end_job_run(stale).await.unwrap(), "the row has another run");
    }
    assert!(store.end_job_run(done.clone()).await.unwrap());
    assert!(!store.end_job_run(begun.ended(RunState::Failed, "late", Timestamp(last + 9))).await.unwrap());
    assert_eq!(store.last_job_run(&job).await.unwrap(), Some(done.clone()));

    store.remove_job(job.id).await.unwrap();
    assert!(store.job_runs(job.id).await.unwrap().is_empty());
    assert!(!store.end_job_run(done).await.unwrap());
}

#[tokio::test]
async fn request_follows_a_run_of_a_clock_ahead_and_runs_of_a_wrong_clock_do_not_count() {
    let dir = TempDir::new().unwrap();
    let node = Node::alone(dir.path(), "a");
    let (store, job) = (TimetableStore::of(&node.mailstore), job(1, "nightly", &[]));
    store.add_job(job.clone()).await.unwrap();
    let (ahead, wrong) = (wall().0 + 60_000, wall().0 + 365 * 86_400_000);
    for due in [ahead, wrong] {
        store.write_job_run(run(&job, due, "a")).await.unwrap();
    }
    assert_eq!(store.last_job_run(&job).await.unwrap().map(|run| run.due), Some(Timestamp(ahead)));
    store.request_job_run(job.id).await.unwrap();
    let requested = store.job(job.id).unwrap().unwrap().requested;
    assert_eq!(requested, Some(Timestamp(ahead + 1)), "otherwise the run counts as the answer");
}

#[tokio::test]
async fn job_of_every_node_has_a_history_on_each_and_both_nodes_have_all() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, b) = (Node::alone(one.path(), "a"), Node::alone(two.path(), "b"));
    let everywhere = job(1, "everywhere", &["place=every-node"]);
    let publisher = job(2, "publisher", &[]);
    TimetableStore::of(&a.mailstore).add_job(everywhere.clone()).await.unwrap();
    TimetableStore::of(&a.mailstore).add_job(publisher.clone()).await.unwrap();
    a.hand_over(&b).await;
    TimetableStore::of(&a.mailstore).write_job_run(run(&everywhere, 60_000, "a")).await.unwrap();
    TimetableStore::of(&b.mailstore).write_job_run(run(&everywhere, 120_000, "b")).await.unwrap();
    TimetableStore::of(&a.mailstore).write_job_run(run(&publisher, 60_000, "a")).await.unwrap();
    a.hand_over(&b).await;
    b.hand_over(&a).await;
    for node in [&a, &b] {
        assert_eq!(TimetableStore::of(&node.mailstore).jobs().unwrap().len(), 2);
        let runs = TimetableStore::of(&node.mailstore).job_runs(everywhere.id).await.unwrap();
        assert_eq!(runs, [run(&everywhere, 120_000, "b"), run(&everywhere, 60_000, "a")]);
    }
    let last = async |node: &Node, job: &Job| {
        TimetableStore::of(&node.mailstore).last_job_run(job).await.unwrap().map(|run| run.node)
    };
    assert_eq!((last(&a, &everywhere).await, last(&b, &everywhere).await), (Some(name("a")), Some(name("b"))));
    assert_eq!(last(&b, &publisher).await, Some(name("a")));
    // A job that moves to another place has no run there yet.
    let moved = Job { place: JobPlace::EveryNode, ..publisher };
    assert_eq!(last(&b, &moved).await, None);
}
