//! Days of use: messages are left, heard and deleted, and the folders of data end as large as they began.
//!
//! Method: two nodes' stores in this process, which replicate over mutual TLS on loopback. Each message is left at node a as calls leave
//! it ([`crate::population`]), then heard and deleted, each by a commit of its own that waits for the other node. Then both stores are
//! opened again (what a process has stored is pinned for an hour), the deletions become final, and once they are stable on both, each
//! node removes records and audio and compacts its packs ([`crate::cleaning`]: the store's own functions, without the reconciler's
//! graces, since a release build accepts no grace below a day). The log of changes, which a node keeps for an hour, is cut. Both stores
//! are opened once more, which removes packs that were made ahead and hold nothing. The folders are measured while the stores are closed.
//! The reconciler itself, with its graces, is tested by `tests/system/tests/purge.rs`.
//!
//! Each day from the second on is judged against the end of the first: a store that was never used is smaller, and growth adds up over the
//! days. The two newest packs are left out, of 16 to 64 MiB each by the speed of the writing, since compaction leaves them as they are. The
//! command ends with an error if a folder has grown by more than a tenth and [`FILES`], or if records stay.

use std::{ffi::OsString, fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use serde_json::json;
use tokio::{runtime::Runtime, time::sleep};
use twinbox_clock::BootInstant;
use twinbox_mailstore::MailError;
use twinbox_store_kit::{Node, pair_with};

use crate::{
    cleaning::{Cleaned, Cleaner},
    folder,
    population::{self, Population, Written},
    report::Report,
};

/// Growth that is allowed: this share, 32 MiB of the index, which is rewritten when it is so much longer than three times its rows
/// (`proto/disk/src/rewrite.rs`), a pack that a move of audio began, and a segment of the journal.
const SHARE: f64 = 0.1;
const FILES: u64 = (32 + 16 + 4) * 1024 * 1024;
/// Packs that compaction leaves as they are (`replication/store/src/compact.rs`).
const NEWEST: usize = 2;
/// Limit of the wait until deletions are stable.
const STABLE_WITHIN: Duration = Duration::from_secs(120);
/// Limit of the wait until the indexes have given their space back.
const SHRINKS_WITHIN: Duration = Duration::from_secs(300);
/// The wait ends after this many polls in a row without a rewrite.
const RESTS: u32 = 10;
/// Pause between two polls.
const ASKS_EVERY: Duration = Duration::from_millis(100);

/// Sizes of one node's folder, in bytes.
#[derive(Debug, Clone, Copy)]
struct Size {
    all: u64,
    audio: u64,
    /// The newest packs.
    newest: u64,
}

impl Size {
    fn of(store: &Path) -> Self {
        let audio = store.join("audio");
        let entries = fs::read_dir(&audio).into_iter().flatten().flatten();
        let size = |entry: fs::DirEntry| Some((entry.file_name(), entry.metadata().ok()?.blocks() * 512));
        let mut packs: Vec<(OsString, u64)> = entries.filter_map(size).collect();
        // By their numbers.
        packs.sort();
        let newest = packs.iter().rev().take(NEWEST).map(|(_, bytes)| bytes).sum();
        Self { all: folder::bytes(store), audio: folder::bytes(&audio), newest }
    }

    /// The judged size: all bytes without the newest packs.
    fn without_newest(self) -> u64 {
        self.all.saturating_sub(self.newest)
    }
}

/// Runs the days, two at least. The error names what must hold and did not.
pub fn run(report: &mut Report, mailboxes: usize, each: usize, audio: usize, days: usize) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a folder");
    let stores = ["a", "b"].map(|node| dir.path().join(node));
    let sizes = || [0, 1].map(|n| Size::of(&stores[n]));
    let owners = with_pair(dir.path(), async |a, _| population::mailboxes(&a.mailstore, mailboxes).await);
    let all = Population { mailboxes, messages: mailboxes * each, audio, imported: false, deleted: true };
    let columns = &[
        "day",
        "node",
        "MB begin",
        "MB used",
        "MB end",
        "grown MB",
        "end audio MB",
        "records removed",
        "packs removed",
        "use s",
        "purge s",
    ];
    let mut table = report.table("days of messages that are left, heard and deleted: the folders of data", columns);
    let mut wrong = Vec::new();
    // The ends of the first day.
    let mut first: Option<[Size; 2]> = None;
    for day in 1..=days.max(2) {
        let (begin, begun) = (sizes(), BootInstant::now());
        let written = with_pair(dir.path(), async |a, _| {
            population::messages(&a.mailstore, &owners, all, (day as u64) << 40).await
        });
        let (used, took) = (sizes(), begun.elapsed().as_secs_f64());
        let begun = BootInstant::now();
        let cleaned =
            with_pair(dir.path(), async |a, b| clean(a, b, &written).await.expect("the stores are purged"));
        let purging = begun.elapsed().as_secs_f64();
        // A start removes the pack that was made ahead.
        with_pair(dir.path(), async |_, _| ());
        let end = sizes();
        for (n, node) in ["a", "b"].into_iter().enumerate() {
            let megabytes = |bytes: u64| json!(bytes as f64 / 1e6);
            table.row(&[
                json!(day),
                json!(node),
                megabytes(begin[n].all),
                megabytes(used[n].all),
                megabytes(end[n].all),
                json!((end[n].all as f64 - begin[n].all as f64) / 1e6),
                megabytes(end[n].audio),
                json!(cleaned[n].records),
                json!(cleaned[n].packs.removed),
                json!(took),
                json!(purging),
            ]);
            let (from, to) = (first.unwrap_or(end)[n].without_newest(), end[n].without_newest());
            if to > most(from) {
                wrong.push(format!(
                    "node {node} ends day {day} with {} MB without its newest packs, {} more than the first day",
                    to / 1_000_000,
                    (to - from) / 1_000_000
                ));
            }
            if cleaned[n].records < 2 * written.len() as u64 {
                let (removed, records) = (cleaned[n].records, 2 * written.len());
                wrong.push(format!("node {node} removed {removed} of {records} records of day {day}"));
            }
        }
        first = first.or(Some(end));
    }
    drop(table);
    if wrong.is_empty() { Ok(()) } else { Err(format!("day: {}", wrong.join("; "))) }
}

/// The most that a folder may have at the end of a day, by its bytes at the end of the first.
fn most(first: u64) -> u64 {
    first + (first as f64 * SHARE) as u64 + FILES
}

/// Opens both stores, runs `work`, and closes them.
fn with_pair<R>(dir: &Path, work: impl AsyncFnOnce(&Node, &Node) -> R) -> R {
    let runtime: Runtime = {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime starts")
    };
    let result = runtime.block_on(async {
        let (a, b) = pair_with(dir, |settings| settings.min_message_ms = 0).await;
        let result = work(&a, &b).await;
        a.peers.shutdown().await;
        b.peers.shutdown().await;
        result
    });
    runtime.shutdown_timeout(Duration::from_secs(30));
    for node in ["a", "b"] {
        population::wait_closed(&dir.join(node));
    }
    result
}

/// Makes the deletions final, and removes what was deleted from both stores.
async fn clean(a: &Node, b: &Node, written: &[Written]) -> Result<[Cleaned; 2], MailError> {
    let mut cleaners = [a, b].map(|node| Cleaner::new(&node.mailstore));
    cleaners[0].delete(written).await?;
    for node in [a, b] {
        node.mailstore.commit(|_| Ok(())).await?;
        let (mark, begun) = (node.peers.mark(), BootInstant::now());
        while !node.peers.is_stable(&mark) {
            assert!(begun.elapsed() < STABLE_WITHIN, "the deletions are not stable");
            sleep(ASKS_EVERY).await;
        }
    }
    for node in [a, b] {
        node.cut_log().await;
    }
    for cleaner in &mut cleaners {
        cleaner.purge().await?;
        // A round that removes nothing is the last.
        loop {
            let before = cleaner.cleaned.packs.removed;
            while !cleaner.compact().await? {}
            if cleaner.cleaned.packs.removed == before {
                break;
            }
        }
    }
    let begun = BootInstant::now();
    for node in [a, b] {
        // A run of giving space back begins when the last writes are in the index.
        let mut rests = 0;
        while rests < RESTS && begun.elapsed() < SHRINKS_WITHIN {
            let shrinks = node.store.index_space().is_none_or(|space| space.rewriting);
            rests = if shrinks { 0 } else { rests + 1 };
            sleep(ASKS_EVERY).await;
        }
    }
    Ok(cleaners.map(|cleaner| cleaner.cleaned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_may_grow_by_a_tenth_and_some_files() {
        assert_eq!(most(0), FILES);
        assert_eq!(most(1_000_000_000), 1_100_000_000 + FILES);
    }

    #[test]
    fn newest_packs_are_left_out() {
        let store = tempfile::tempdir().unwrap();
        fs::create_dir(store.path().join("audio")).unwrap();
        let before = Size::of(store.path()).without_newest();
        for pack in ["00000001.pack", "00000002.pack", "00000010.pack"] {
            fs::write(store.path().join("audio").join(pack), vec![1; 100_000]).unwrap();
        }
        let size = Size::of(store.path());
        assert!(size.newest >= 200_000 && size.audio >= 300_000, "{size:?}");
        assert!((100_000..200_000).contains(&(size.without_newest() - before)), "{size:?}, {before} before");
    }
}
