//! Decisions about jobs and interrupted runs.

use proptest::prelude::*;
use twinbox_ids::{Incarnation, JobId, Timestamp};
use twinbox_timetable::{
    Decision, Job, JobChange, JobKind, JobPlace, JobRun, LOOK_BACK_MS, MOST_ATTEMPTS, Missed, MissedTimes,
    ON_TIME_MS, Recovery, RunState, decide, missed_before, recover,
};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
/// 2026-01-01 00:00 UTC.
const START: u64 = 1_767_225_600_000;

fn at(hours: u64, minutes: u64) -> Timestamp {
    Timestamp(START + hours * HOUR + minutes * MINUTE)
}

fn job(settings: &[&str]) -> Job {
    let parse = |text: &&str| JobChange::parse(JobKind::Ageing, text).expect(text);
    let changes: Vec<_> = settings.iter().map(parse).collect();
    Job::new(JobId(1), "job", JobKind::Ageing, &changes, at(0, 0)).expect("a job")
}

#[test]
fn missed_due_times_are_skipped_or_made_up_for_by_one_run() {
    let skip = job(&["cron=0 * * * *", "missed=skip"]);
    let once = job(&["cron=0 * * * *", "missed=run-once"]);
    let run = |due, missed: &[Timestamp]| Decision::Run { due, missed: missed.to_vec() };
    let wait = |until| Decision::Wait { until: Some(until) };
    for (job, last, now, expected) in [
        // On time, also a little late.
        (&skip, None, at(0, 59), wait(at(1, 0))),
        (&skip, None, at(1, 0), run(at(1, 0), &[])),
        (&skip, None, at(1, 2), run(at(1, 0), &[])),
        (&skip, Some(at(1, 0)), at(1, 2), wait(at(2, 0))),
        // Missed.
        (&skip, None, at(1, 3), Decision::Skip { missed: vec![at(1, 0)] }),
        (&once, None, at(1, 3), run(at(1, 0), &[])),
        (&skip, Some(at(1, 0)), at(4, 30), Decision::Skip { missed: vec![at(2, 0), at(3, 0), at(4, 0)] }),
        (&once, Some(at(1, 0)), at(4, 30), run(at(4, 0), &[at(2, 0), at(3, 0)])),
        // The latest one is on time: it runs in any case.
        (&skip, Some(at(1, 0)), at(4, 1), run(at(4, 0), &[at(2, 0), at(3, 0)])),
    ] {
        assert_eq!(decide(job, last, now), expected, "{:?} after {last:?} at {now:?}", job.missed);
    }
}

#[test]
fn due_times_before_a_change_of_the_times_or_beyond_the_look_back_do_not_count() {
    let first = job(&["cron=0 * * * *", "missed=run-once", "enabled=no"]);
    assert_eq!(decide(&first, None, at(5, 30)), Decision::Wait { until: None }, "a disabled job is never due");
    let enabled = first.changed(&[JobChange::Enabled(true)], at(5, 30)).expect("valid");
    assert_eq!(decide(&enabled, None, at(5, 40)), Decision::Wait { until: Some(at(6, 0)) });
    // A change of the name is none of the times.
    let named = enabled.changed(&[JobChange::Name("other".to_owned())], at(9, 0)).expect("valid");
    assert_eq!(named.since, at(5, 30));
    let daily = job(&["cron=0 0 * * *", "missed=run-once"]);
    let late = at(30 * 24, 30);
    let Decision::Run { due, missed } = decide(&daily, None, late) else { panic!("it runs once") };
    assert_eq!((due, missed.len()), (at(30 * 24, 0), 6));
    assert!(missed.iter().all(|due| late.0 - due.0 <= LOOK_BACK_MS));
}

#[test]
fn requested_run_takes_place_once_also_of_a_disabled_job() {
    let requested = |job: Job, at| Job { requested: Some(at), ..job };
    let disabled = requested(job(&["cron=0 * * * *", "enabled=no"]), at(2, 15));
    assert_eq!(decide(&disabled, None, at(2, 14)), Decision::Wait { until: Some(at(2, 15)) });
    assert_eq!(decide(&disabled, None, at(2, 15)), Decision::Run { due: at(2, 15), missed: vec![] });
    let run = Decision::Run { due: at(2, 15), missed: vec![] };
    assert_eq!(decide(&disabled, None, at(9, 0)), run, "never skipped");
    assert_eq!(decide(&disabled, Some(at(2, 15)), at(9, 0)), Decision::Wait { until: None }, "once");
    let enabled = requested(job(&["cron=0 * * * *"]), at(2, 15));
    let both = Decision::Run { due: at(2, 15), missed: vec![at(2, 0)] };
    assert_eq!(decide(&enabled, Some(at(1, 0)), at(2, 15)), both.clone());
    assert_eq!(decide(&enabled, Some(at(1, 0)), at(3, 1)), both, "the due time after it follows");
    assert_eq!(decide(&enabled, Some(at(2, 15)), at(3, 1)), Decision::Run { due: at(3, 0), missed: vec![] });
    assert_eq!(decide(&enabled, Some(at(2, 15)), at(2, 16)), Decision::Wait { until: Some(at(3, 0)) });
}

fn interrupted(due: Timestamp, attempt: u64) -> JobRun {
    JobRun {
        job: JobId(1),
        due,
        place: JobPlace::Publisher,
        node: "a".parse().expect("a name"),
        incarnation: Incarnation(1),
        began: due,
        ended: None,
        state: RunState::Running,
        attempt,
        outcome: String::new(),
    }
}

#[test]
fn interrupted_run_is_attempted_once_again_by_the_rule_of_the_job() {
    let skip = job(&["cron=0 * * * *", "missed=skip"]);
    let once = job(&["cron=0 * * * *", "missed=run-once"]);
    let off = job(&["cron=0 * * * *", "missed=run-once", "enabled=no"]);
    let later = once.changed(&[JobChange::Missed(Missed::Skip), JobChange::Missed(Missed::RunOnce)], at(3, 0));
    let changed = once.changed(&[JobChange::Enabled(false)], at(3, 0)).expect("valid");
    let changed = changed.changed(&[JobChange::Enabled(true)], at(3, 1)).expect("valid");
    let done = interrupted(at(2, 0), 1).ended(RunState::Done, "", at(2, 1));
    for (job, run, now, expected) in [
        (&once, interrupted(at(2, 0), 1), at(2, 5), Recovery::RunAgain),
        (&later.expect("valid"), interrupted(at(2, 0), 1), at(3, 5), Recovery::RunAgain),
        (&skip, interrupted(at(2, 0), 1), at(2, 5), Recovery::Leave),
        (&off, interrupted(at(2, 0), 1), at(2, 5), Recovery::Leave),
        (&changed, interrupted(at(2, 0), 1), at(3, 5), Recovery::Leave),
        (&once, interrupted(at(2, 0), MOST_ATTEMPTS), at(2, 5), Recovery::Leave),
        (&once, interrupted(at(2, 0), 1), at(8 * 24, 0), Recovery::Leave),
        (&once, done, at(2, 5), Recovery::Leave),
    ] {
        assert_eq!(recover(job, &run, now), expected, "{run:?} of {:?} at {now:?}", job.missed);
    }
}

#[test]
fn run_makes_up_for_all_due_times_since_the_latest_run_with_a_result() {
    let daily = ["cron=0 0 * * *", "missed=run-once"];
    let (once, skip) = (job(&daily), job(&["cron=0 0 * * *", "missed=skip"]));
    let since = once.changed(&[JobChange::Enabled(false)], at(20 * 24, 0)).expect("valid");
    let since = since.changed(&[JobChange::Enabled(true)], at(20 * 24, 1)).expect("valid");
    let day = |days: u64| at(days * 24, 0);
    let missed = |last, first| Some(MissedTimes { last, first });
    let with = |days, state| interrupted(day(days), 1).ended(state, "", day(days));
    let done = with(2, RunState::Done);
    let (failed, open) = (with(3, RunState::Failed), interrupted(day(3), 1));
    let given_up = interrupted(day(3), MOST_ATTEMPTS).ended(RunState::Interrupted, "", day(3));
    let by_hand = interrupted(at(5 * 24, 30), 1).ended(RunState::Done, "", day(6));
    for (job, runs, due, expected) in [
        (&once, vec![done.clone()], day(3), None),
        // Longer ago than the decision to run looks back.
        (&once, vec![done.clone()], day(30), missed(Some(day(2)), day(3))),
        (&once, vec![], day(30), missed(None, day(1))),
        (&once, vec![], day(1), None),
        (&since, vec![done.clone()], day(30), missed(Some(day(2)), day(21))),
        (&skip, vec![done.clone()], day(30), None),
        // A failure has its alarm; a run without a result has no report.
        (&once, vec![done.clone(), failed], day(4), None),
        (&once, vec![open, done.clone()], day(4), missed(Some(day(2)), day(3))),
        (&once, vec![given_up, done.clone()], day(4), None),
        (&once, vec![done.clone(), by_hand.clone()], day(6), None),
        (&once, vec![done.clone()], by_hand.due, missed(Some(day(2)), day(3))),
        // The second attempt makes up for as much as the first.
        (&once, vec![interrupted(day(6), 1), done], day(6), missed(Some(day(2)), day(3))),
    ] {
        assert_eq!(missed_before(job, &runs, due), expected, "{runs:?} before {due:?}");
    }
}

proptest! {
    /// However often a node decides: each due time is run, made up for or skipped exactly once, in order.
    #[test]
    fn each_due_time_is_handled_exactly_once(
        pauses in prop::collection::vec(1..5 * HOUR, 1..60),
        minutes in prop::sample::select(vec![1_u64, 7, 15, 30]),
        run_once in any::<bool>(),
    ) {
        let rule = if run_once { "missed=run-once" } else { "missed=skip" };
        let job = job(&[&format!("cron=*/{minutes} * * * *"), rule]);
        let (mut now, mut last, mut handled) = (START, None, Vec::new());
        for pause in pauses {
            now += pause;
            match decide(&job, last, Timestamp(now)) {
                Decision::Run { due, missed } => {
                    prop_assert!(run_once || now - due.0 <= ON_TIME_MS, "a missed run was not skipped");
                    handled.extend(missed);
                    handled.push(due);
                    last = Some(due);
                }
                Decision::Skip { missed } => {
                    prop_assert!(!run_once);
                    last = missed.last().copied();
                    handled.extend(missed);
                }
                Decision::Wait { until } => prop_assert!(until.is_some_and(|until| until.0 > now)),
            }
        }
        let (mut expected, mut next) = (Vec::new(), job.cron.next_after(Timestamp(START), &job.zone));
        while let Some(due) = next.filter(|due| due.0 <= now) {
            expected.push(due);
            next = job.cron.next_after(due, &job.zone);
        }
        prop_assert_eq!(handled, expected);
    }
}
