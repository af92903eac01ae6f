//! Runs whose process died, or whose node lost the duty.

use twinbox_alarms::Code;
use twinbox_clock::wall;
use twinbox_ids::{Incarnation, JobId};
use twinbox_timetable::{JobPlace, JobRun, RunState};
use twinbox_timetable_store::TimetableStore;

use crate::support::{Node, Workshop, eventually, name};

const DEAD: Incarnation = Incarnation(0xdead);

/// A run as a process left it that died.
fn left_behind(job: JobId, attempt: u64) -> JobRun {
    JobRun {
        job,
        due: wall(),
        place: JobPlace::Publisher,
        node: name("b"),
        incarnation: DEAD,
        began: wall(),
        ended: None,
        state: RunState::Running,
        attempt,
        outcome: String::new(),
    }
}

#[tokio::test]
async fn run_of_a_dead_process_is_reported_and_run_again_by_the_rule_of_its_job() {
    let node = Node::alone().await;
    let shop = Workshop::new();
    let careless = node.add("careless", &["missed=skip"]).await;
    let thorough = node.add("thorough", &["missed=run-once"]).await;
    let hopeless = node.add("hopeless", &["missed=run-once"]).await;
    let mut dues = Vec::new();
    for (job, attempt) in [(careless, 1), (thorough, 1), (hopeless, 2)] {
        let run = left_behind(job, attempt);
        dues.push(run.due);
        assert!(TimetableStore::of(&node.mailstore).write_job_run(run).await.expect("written"));
    }
    let _duty = node.duty(shop.works());
    node.hold(1);
    let again = node.until(thorough, RunState::Done).await;
    assert_eq!((again.attempt, again.due, again.node.clone()), (2, dues[1], name("a")));
    assert!(again.outcome.contains("attempt 2"), "{}", again.outcome);
    for (job, of, attempt) in [(careless, "careless", 1), (hopeless, "hopeless", 2)] {
        let run = node.until(job, RunState::Interrupted).await;
        assert_eq!((run.attempt, run.node.clone()), (attempt, name("b")));
        assert!(run.outcome.contains("node b"), "{}", run.outcome);
        assert!(node.alarm(Code::JobFailed, of).await.contains("node b"));
    }
    assert_eq!(shop.begun(), ["thorough"]);
}

#[tokio::test]
async fn duty_is_released_after_its_runs_are_recorded_as_interrupted() {
    let node = Node::alone().await;
    let shop = Workshop::new();
    for job in ["careless", "thorough"] {
        shop.keep(job);
    }
    let _duty = node.duty(shop.works());
    node.hold(1);
    let careless = node.request("careless", &["missed=skip"]).await;
    let thorough = node.request("thorough", &["missed=run-once"]).await;
    shop.under_way(&["careless", "thorough"]).await;
    assert!(node.gate.is_busy(), "the duty is not released during a run");
    node.gate.close();
    node.gate.idle().await;
    for job in [careless, thorough] {
        let run = node.last(job).await.expect("a run");
        assert_eq!((run.state, run.attempt), (RunState::Interrupted, 1));
    }
    shop.under_way(&[]).await;
    shop.release("thorough");
    node.hold(2);
    let again = node.until(thorough, RunState::Done).await;
    assert_eq!(again.attempt, 2);
    assert!(node.alarm(Code::JobFailed, "careless").await.contains("lost the duty"));
    assert_eq!(node.until(careless, RunState::Interrupted).await.attempt, 1);
    let begun = shop.begun();
    assert_eq!(begun.iter().filter(|name| *name == "thorough").count(), 2);
    assert_eq!(begun.len(), 3);
}

#[tokio::test]
async fn run_under_way_at_a_move_ends_on_one_node_and_begins_again_on_the_other() {
    let [a, b] = Node::pair().await;
    let (here, there) = (Workshop::new(), Workshop::new());
    here.keep("moves");
    let _duties = [a.duty(here.works()), b.duty(there.works())];
    a.hold(1);
    let job = a.request("moves", &["missed=run-once"]).await;
    here.under_way(&["moves"]).await;
    a.gate.close();
    a.gate.idle().await;
    b.hold(2);
    let done = b.until(job, RunState::Done).await;
    assert_eq!((done.attempt, done.node.clone()), (2, name("b")));
    eventually("both nodes have it", async || a.last(job).await.as_ref() == Some(&done)).await;
    assert_eq!((here.begun(), there.begun()), (vec!["moves".to_owned()], vec!["moves".to_owned()]));
}

#[tokio::test]
async fn restarted_duty_finds_the_runs_of_its_former_tasks() {
    let node = Node::alone().await;
    let shop = Workshop::new();
    shop.keep("everywhere");
    let duty = node.duty(shop.works());
    let job = node.request("everywhere", &["place=every-node", "missed=run-once"]).await;
    shop.under_way(&["everywhere"]).await;
    duty.stop();
    shop.under_way(&[]).await;
    shop.release("everywhere");
    duty.restart();
    let done = node.until(job, RunState::Done).await;
    assert_eq!((done.attempt, shop.begun().len()), (2, 2));
}
