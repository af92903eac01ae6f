//! The rate of new calls that went through in time, here or on another node. A node that starts, or that takes over the
//! calls of another, admits this rate from the first call on.

use std::{
    fs,
    path::{Path, PathBuf},
};

use twinbox_disk::file;
use twinbox_wire::admin::CompareReply;

/// File in the data folder with the rate that this node has carried: a number, and a line feed.
const FILE: &str = "carried-calls-per-minute";
/// A rate is noted from here on: a node that has measured nothing takes as many.
const WORTH_NOTING: u32 = 30 * 60;

/// A rate in calls a minute.
pub(super) fn per_minute(per_second: f64) -> u32 {
    (per_second * 60.0) as u32
}

/// The rate that this node has carried, in this process or an earlier one.
#[derive(Debug)]
pub(super) struct Carried {
    dir: PathBuf,
    noted: u32,
}

impl Carried {
    /// Reads the rate of earlier processes; 0 if there is none that makes sense.
    pub(super) fn open(dir: &Path) -> Self {
        let text = fs::read_to_string(dir.join(FILE)).unwrap_or_default();
        Self { dir: dir.to_owned(), noted: text.trim().parse().unwrap_or(0) }
    }

    /// The rate that this node has carried, in calls a minute.
    pub(super) fn by_node(&self) -> u32 {
        self.noted
    }

    /// The highest rate that this node or one of the others has carried, in calls a minute.
    pub(super) fn by_any<'a>(&self, others: impl Iterator<Item = &'a CompareReply>) -> u32 {
        others.map(|reply| reply.carried_per_minute).chain([self.noted]).max().unwrap_or(0)
    }

    /// Notes the rate that this process has carried if it is a tenth higher than the noted one. A thread writes the file; if that
    /// fails, the next higher rate is the next attempt.
    pub(super) fn note(&mut self, carried: u32) {
        if carried <= self.noted.saturating_add(self.noted / 10).max(WORTH_NOTING) {
            return;
        }
        self.noted = carried;
        let dir = self.dir.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = file::write_durably(&dir, FILE, format!("{carried}\n").as_bytes()) {
                tracing::warn!(%error, "the rate of calls that this node carries is not noted for its next start");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn reply(carried_per_minute: u32) -> CompareReply {
        CompareReply { carried_per_minute, ..Default::default() }
    }

    #[tokio::test]
    async fn highest_rate_of_any_node_counts_and_that_of_this_one_is_there_after_a_restart() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut carried = Carried::open(dir.path());
        assert_eq!(carried.by_any([].iter()), 0);
        assert_eq!(carried.by_any([reply(0), reply(4_000), reply(3_000)].iter()), 4_000);
        for (now, noted) in [(1_800, 0), (2_400, 2_400), (2_600, 2_400), (2_700, 2_700), (600, 2_700)] {
            carried.note(now);
            assert_eq!(carried.by_node(), noted, "{now}");
            let is_there = async || {
                while Carried::open(dir.path()).by_node() != noted {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), is_there()).await.expect("the file");
        }
        assert_eq!(carried.by_any([reply(1_000)].iter()), 2_700);
        fs::write(dir.path().join(FILE), "many").expect("written");
        assert_eq!(Carried::open(dir.path()).by_node(), 0, "of which nothing is known");
    }
}
