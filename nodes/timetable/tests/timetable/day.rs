//! A day of 25 hours in simulated time: the duty moves three times, and each job runs as its rule says.

use std::collections::BTreeMap;

use twinbox_ids::{Incarnation, JobId, NodeName, Timestamp};
use twinbox_replication_core::Key;
use twinbox_timetable::{Job, JobChange, JobKind, JobPlace, JobRun, JobStep, RunState, Runner, next_step};

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
/// 2026-10-24 22:00 UTC: midnight in Berlin, before the night in which the clock goes back.
const START: u64 = 1_792_879_200_000;
const END: u64 = START + 25 * HOUR;
const TICK: u64 = 10 * SECOND;

/// Times at which a node begins to hold the duty, loses it, and whether its process dies then.
static HOLDS: [(&str, u64, u64, bool); 4] = [
    // A move by an administrator, in a moment without runs.
    ("a", START, START + 6 * HOUR + 7 * MINUTE, false),
    // The process dies in the middle of the slow job: taken over within the time of a lease.
    ("b", START + 6 * HOUR + 7 * MINUTE + 20 * SECOND, START + 10 * HOUR + 2 * MINUTE, true),
    // Both are away for forty minutes.
    ("a", START + 10 * HOUR + 3 * MINUTE, START + 15 * HOUR + 7 * MINUTE, false),
    ("b", START + 15 * HOUR + 47 * MINUTE, END, false),
];

/// One start of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Start {
    job: JobId,
    due: Timestamp,
    attempt: u64,
    missed: Vec<Timestamp>,
    at: u64,
    node: NodeName,
}

/// The replicated timetable, and the nodes with their runs under way.
#[derive(Default)]
struct Cluster {
    jobs: Vec<(Job, u64)>,
    history: BTreeMap<Key, JobRun>,
    /// Ends of the runs under way, by job and node.
    active: BTreeMap<(JobId, NodeName), (JobRun, u64)>,
    starts: Vec<Start>,
    skipped: Vec<(JobId, Vec<Timestamp>)>,
}

fn name(node: &str) -> NodeName {
    node.parse().expect("a name")
}

impl Cluster {
    /// Adds a job whose work takes that time, in milliseconds.
    fn add(&mut self, takes: u64, settings: &[&str]) -> JobId {
        let id = JobId(1 + self.jobs.len() as u128);
        let parse = |text: &&str| JobChange::parse(JobKind::Ageing, text).expect(text);
        let changes: Vec<_> = settings.iter().map(parse).collect();
        let job = Job::new(id, &format!("job-{}", id.0), JobKind::Ageing, &changes, Timestamp(START));
        self.jobs.push((job.expect("a job"), takes));
        id
    }

    /// The latest run of a job that concerns this node.
    fn last(&self, job: &Job, node: &NodeName) -> Option<JobRun> {
        let runs = self.history.values().filter(|run| run.job == job.id && run.is_of(node));
        runs.max_by_key(|run| run.due).cloned()
    }

    fn write(&mut self, run: JobRun) {
        self.history.insert(run.key(), run);
    }

    /// One turn of a node's loop over the jobs of this place.
    fn turn(&mut self, node: &NodeName, place: JobPlace, now: u64) {
        let mine = |run: &(JobRun, u64), job: &Job| run.0.job == job.id && run.1 <= now;
        for (job, takes) in self.jobs.clone().into_iter().filter(|(job, _)| job.place == place) {
            let key = (job.id, node.clone());
            if self.active.get(&key).is_some_and(|run| mine(run, &job)) {
                let (run, ends) = self.active.remove(&key).expect("it is under way");
                self.write(run.ended(RunState::Done, "done", Timestamp(ends)));
            }
            if self.active.contains_key(&key) {
                continue;
            }
            let runner = Runner { node: node.clone(), incarnation: Incarnation(1) };
            loop {
                match next_step(&job, self.last(&job, node).as_ref(), &runner, Timestamp(now)) {
                    // The step after it may attempt it again.
                    JobStep::Interrupted(run) => self.write(run),
                    JobStep::Skipped { run, missed } => {
                        self.write(run);
                        self.skipped.push((job.id, missed));
                    }
                    JobStep::Begin { run, missed } => {
                        self.write(run.clone());
                        let (due, attempt) = (run.due, run.attempt);
                        self.starts.push(Start { job: job.id, due, attempt, missed, at: now, node: node.clone() });
                        self.active.insert(key, (run, now + takes));
                        break;
                    }
                    JobStep::Wait(_) => break,
                }
            }
        }
    }

    /// The holder's process dies, or gives the duty up: then it records that its runs were interrupted.
    fn lose(&mut self, node: &NodeName, dies: bool, now: u64) {
        let publisher: Vec<_> = self.active.keys().filter(|(_, of)| of == node).cloned().collect();
        for key in publisher {
            let Some((run, _)) = self.active.remove(&key) else { continue };
            if !dies {
                self.write(run.ended(RunState::Interrupted, "the duty moved", Timestamp(now)));
            }
        }
    }

    fn run_the_day(&mut self) {
        let mut now = START;
        let mut held = None;
        while now < END {
            let holds = HOLDS.iter().find(|(_, from, until, _)| (*from..*until).contains(&now));
            if held != holds.map(|hold| hold.1) {
                let former = HOLDS.iter().find(|hold| Some(hold.1) == held);
                if let Some((node, _, _, dies)) = former {
                    self.lose(&name(node), *dies, now);
                }
                held = holds.map(|hold| hold.1);
            }
            if let Some((node, ..)) = holds {
                self.turn(&name(node), JobPlace::Publisher, now);
            }
            now += TICK;
        }
    }

    /// All due times of a job on this day.
    fn due(&self, id: JobId) -> Vec<Timestamp> {
        let (job, _) = self.jobs.iter().find(|(job, _)| job.id == id).expect("a job");
        let next = |at: Timestamp| job.cron.next_after(at, &job.zone).filter(|due| due.0 < END - TICK);
        std::iter::successors(next(Timestamp(START)), |at| next(*at)).collect()
    }

    fn starts_of(&self, id: JobId) -> Vec<&Start> {
        self.starts.iter().filter(|start| start.job == id).collect()
    }

    /// Due times that a run handled, by itself or because it made up for them, and those that were skipped.
    fn handled(&self, id: JobId) -> Vec<Timestamp> {
        let run = self.starts_of(id).into_iter().filter(|start| start.attempt == 1);
        let mut handled: Vec<_> = run.flat_map(|start| start.missed.iter().copied().chain([start.due])).collect();
        handled.extend(self.skipped.iter().filter(|(job, _)| *job == id).flat_map(|(_, missed)| missed.clone()));
        handled.sort_unstable();
        handled
    }
}

const BERLIN: &str = "zone=Europe/Berlin";

#[test]
fn each_job_runs_as_its_rule_says_and_no_publisher_job_twice() {
    let mut cluster = Cluster::default();
    let often = cluster.add(SECOND, &["cron=*/10 * * * *", "missed=skip", BERLIN]);
    let thorough = cluster.add(SECOND, &["cron=*/10 * * * *", "missed=run-once", BERLIN]);
    let nightly = cluster.add(MINUTE, &["cron=30 2 * * *", "missed=run-once", BERLIN]);
    let slow = cluster.add(5 * MINUTE, &["cron=0 * * * *", "missed=run-once", BERLIN]);
    let careless = cluster.add(5 * MINUTE, &["cron=0 * * * *", "missed=skip", BERLIN]);
    cluster.run_the_day();

    for id in [often, thorough, nightly, slow, careless] {
        assert_eq!(cluster.handled(id), cluster.due(id), "each due time of job {id} once");
        let mut attempts: Vec<_> = cluster.starts_of(id).iter().map(|run| (run.due, run.attempt)).collect();
        let all = attempts.len();
        attempts.sort_unstable();
        attempts.dedup();
        assert_eq!(attempts.len(), all, "no run of job {id} begins twice");
    }
    // 25 hours have 150 of these due times, less the one at the very end of the day.
    assert_eq!(cluster.due(often).len(), 149);

    // The night has two half past two; the first counts.
    let at: Vec<_> = cluster.starts_of(nightly).iter().map(|start| start.due.0 - START).collect();
    assert_eq!(at, [2 * HOUR + 30 * MINUTE]);

    // Four due times passed while no node held the duty.
    let gap = START + 15 * HOUR + 7 * MINUTE..START + 15 * HOUR + 47 * MINUTE;
    let skipped: Vec<_> = cluster.skipped.iter().filter(|(id, _)| *id == often).map(|(_, due)| due.len()).collect();
    assert_eq!(skipped, [4], "skipped together");
    let starts = cluster.starts_of(thorough);
    let made_up = starts.iter().find(|start| !start.missed.is_empty()).expect("a run that makes up");
    assert_eq!((made_up.missed.len(), made_up.at), (3, gap.end));
    assert!(starts.iter().all(|start| !gap.contains(&start.at)));

    // Two jobs were under way when their process died: one runs once more, on the other node, and one does not.
    let again = cluster.starts.iter().filter(|start| start.attempt > 1);
    let again: Vec<_> = again.map(|start| (start.job, start.due, start.attempt, start.node.clone())).collect();
    let due_at_death = Timestamp(START + 10 * HOUR);
    assert_eq!(again, [(slow, due_at_death, 2, name("a"))]);
    let at_death = |id| cluster.history.values().find(|run| run.job == id && run.due == due_at_death);
    let died = at_death(careless).expect("its run");
    assert_eq!((died.state, &died.node), (RunState::Interrupted, &name("b")));
    assert_eq!(at_death(slow).map(|run| run.state), Some(RunState::Done));
    // Nothing else was interrupted.
    let open = cluster.history.values().filter(|run| run.state == RunState::Interrupted);
    assert_eq!(open.count(), 1);
}

#[test]
fn job_of_every_node_runs_on_each_node_while_it_is_up() {
    let mut cluster = Cluster::default();
    let job = cluster.add(SECOND, &["cron=0 * * * *", "place=every-node", "missed=skip", BERLIN]);
    // Node b is away from the tenth to the twelfth hour.
    let away = START + 9 * HOUR + MINUTE..START + 12 * HOUR + 30 * MINUTE;
    let mut now = START;
    while now < END {
        cluster.turn(&name("a"), JobPlace::EveryNode, now);
        if away.contains(&now) {
            cluster.lose(&name("b"), true, now);
        } else {
            cluster.turn(&name("b"), JobPlace::EveryNode, now);
        }
        now += TICK;
    }
    let due = cluster.due(job);
    let of = |node: &str| -> Vec<Timestamp> {
        let starts = cluster.starts_of(job).into_iter().filter(|start| start.node == name(node));
        starts.map(|start| start.due).collect()
    };
    assert_eq!((due.len(), of("a")), (24, due.clone()));
    let up: Vec<_> = due.iter().copied().filter(|due| !away.contains(&due.0)).collect();
    assert_eq!((up.len(), of("b")), (21, up));
    assert_eq!(cluster.skipped.len(), 1);
    assert_eq!(cluster.skipped[0].1.len(), 3);
}
