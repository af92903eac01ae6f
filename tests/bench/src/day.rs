//! Days of use: messages are left, heard and deleted, and the folders of data end as large as they began.
//!
//! Method: two nodes' stores in this process, which replicate over mutual TLS on loopback. Each message is left at
//! node a as calls leave it ([`crate::population`]), then heard and deleted, each by a commit of its own that waits
//! for the other node. Then both stores are opened again (what a process has stored is pinned for an hour), the
//! deletions become final, and once they are stable on both, each node removes records and audio and compacts its
//! packs ([`crate::cleaning`]: the store's own functions, without the reconciler's graces, since a release build
//! accepts no grace below a day). The log of changes, which a node keeps for an hour, is cut. The folders are measured while the stores are closed.
//!
//! The last of the days is judged, against its own beginning: a store that was never used is smaller. The command
//! ends with an error if a folder has grown by more than a tenth, a pack and a segment, or if records stay.

use std::{path::Path, time::Duration};

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

/// Growth that is allowed: this share of the beginning, a pack and a segment of the journal.
const SHARE: f64 = 0.1;
const FILES: u64 = (16 + 4) * 1024 * 1024;
/// Limit of the wait until deletions are stable.
const STABLE_WITHIN: Duration = Duration::from_secs(120);
/// Limit of the wait until the indexes have given their space back, which is over when so many questions in a row say so.
const SHRINKS_WITHIN: Duration = Duration::from_secs(300);
const RESTS: u32 = 10;
/// Pause between two questions.
const ASKS_EVERY: Duration = Duration::from_millis(100);

/// Sizes of one node's folder, in bytes.
#[derive(Debug, Clone, Copy)]
struct Size {
    all: u64,
    audio: u64,
}

/// Runs the days. The error names what must hold and did not.
pub fn run(report: &mut Report, mailboxes: usize, each: usize, audio: usize, days: usize) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a folder");
    let stores = ["a", "b"].map(|node| dir.path().join(node));
    let sizes =
        || [0, 1].map(|n| Size { all: folder::bytes(&stores[n]), audio: folder::bytes(&stores[n].join("audio")) });
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
    for day in 1..=days.max(1) {
        wrong.clear();
        let (begin, begun) = (sizes(), BootInstant::now());
        let written = with_pair(dir.path(), async |a, _| {
            population::messages(&a.mailstore, &owners, all, (day as u64) << 40).await
        });
        let (used, took) = (sizes(), begun.elapsed().as_secs_f64());
        let begun = BootInstant::now();
        let cleaned =
            with_pair(dir.path(), async |a, b| clean(a, b, &written).await.expect("the stores are purged"));
        let (end, purging) = (sizes(), begun.elapsed().as_secs_f64());
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
            let (from, to) = (begin[n].all, end[n].all);
            if to > most(from) {
                wrong.push(format!(
                    "node {node} ends with {} MB, {} more than it began with",
                    to / 1_000_000,
                    (to - from) / 1_000_000
                ));
            }
            if cleaned[n].records < 2 * written.len() as u64 {
                let records = 2 * written.len();
                wrong.push(format!("node {node} removed {} of {records} records", cleaned[n].records));
            }
        }
    }
    drop(table);
    if wrong.is_empty() { Ok(()) } else { Err(format!("day: {}", wrong.join("; "))) }
}

/// The most that a folder may have at the end.
fn most(begin: u64) -> u64 {
    begin + (begin as f64 * SHARE) as u64 + FILES
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
    fn folder_may_grow_by_a_tenth_and_two_files() {
        assert_eq!(most(0), FILES);
        assert_eq!(most(1_000_000_000), 1_100_000_000 + FILES);
    }
}
