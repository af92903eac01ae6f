//! Processor time of a process by thread, as `/proc/PID/task` has it. The kernel counts in steps of 10 ms.

use std::{collections::BTreeMap, fs, time::Duration};

use serde_json::json;

use crate::{machine, report::Report};

/// Share of a core below which a thread gets no row of its own.
const LEAST_PERCENT: f64 = 0.05;

/// Processor time of each thread so far.
#[derive(Debug, Default)]
pub struct ThreadTimes(BTreeMap<u32, (String, Duration)>);

impl ThreadTimes {
    /// Reads the times of a process.
    pub fn of(pid: u32) -> Self {
        let read = |thread: u32| {
            let task = format!("/proc/{pid}/task/{thread}");
            let name = fs::read_to_string(format!("{task}/comm")).unwrap_or_default();
            (thread, (name.trim().to_owned(), machine::cpu_time(&format!("{task}/stat"))))
        };
        Self(machine::threads(pid).into_iter().map(read).collect())
    }

    /// Times since an earlier reading, by name of the threads: their number and the sum, the highest first. Threads
    /// that have ended in between are left out.
    pub fn since(&self, earlier: &Self) -> Vec<(String, usize, Duration)> {
        let mut by_name: BTreeMap<&str, (usize, Duration)> = BTreeMap::new();
        for (thread, (name, time)) in &self.0 {
            let before = earlier.0.get(thread).map_or(Duration::ZERO, |(_, time)| *time);
            let (count, sum) = by_name.entry(name).or_default();
            *count += 1;
            *sum += time.saturating_sub(before);
        }
        let mut all: Vec<_> =
            by_name.into_iter().map(|(name, (count, sum))| (name.to_owned(), count, sum)).collect();
        all.sort_by_key(|(_, _, sum)| std::cmp::Reverse(*sum));
        all
    }
}

/// Adds a table of these times, which passed in `wall`.
pub fn table(report: &mut Report, name: &'static str, times: &[(String, usize, Duration)], wall: Duration) {
    let mut table = report.table(name, &["thread", "number", "% of a core", "% of the process"]);
    let all: Duration = times.iter().map(|(_, _, time)| *time).sum();
    for (thread, count, time) in times {
        let core = time.as_secs_f64() / wall.as_secs_f64() * 100.0;
        if core >= LEAST_PERCENT {
            let share = time.as_secs_f64() / all.as_secs_f64() * 100.0;
            table.row(&[json!(thread), json!(count), json!(core), json!(share)]);
        }
    }
    let core = all.as_secs_f64() / wall.as_secs_f64() * 100.0;
    table.row(&[
        json!("all"),
        json!(times.iter().map(|(_, count, _)| count).sum::<usize>()),
        json!(core),
        json!(100.0),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_threads_with_one_name_are_added() {
        let thread = |name: &str, ms| (name.to_owned(), Duration::from_millis(ms));
        let before = ThreadTimes(BTreeMap::from([(1, thread("committer", 10)), (2, thread("worker", 100))]));
        let after = [(1, thread("committer", 40)), (2, thread("worker", 110)), (3, thread("worker", 30))];
        let since = ThreadTimes(BTreeMap::from(after)).since(&before);
        let ms = Duration::from_millis;
        assert_eq!(since, [("worker".to_owned(), 2, ms(40)), ("committer".to_owned(), 1, ms(30))]);
    }
}
