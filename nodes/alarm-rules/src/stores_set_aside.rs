//! Stores that were set aside, by a start because they were damaged or by order: their alarm stands as long as their folders are
//! there.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use twinbox_alarms::{Alarms, Code};
use twinbox_ids::NodeName;
use twinbox_rebuild::find;

/// Pause between two looks at the folders.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The index of the data store in a data folder.
fn data_index(data_dir: &Path) -> PathBuf {
    data_dir.join("store/db")
}

/// True when the index of the data store was set aside and its folder is still there: no mark of the founder makes the new
/// one complete.
pub fn is_data_rebuilt(data_dir: &Path) -> bool {
    !find(&data_index(data_dir)).is_ok_and(|found| found.is_empty())
}

/// The alarm's detail; empty when nothing was set aside.
fn detail(data_dir: &Path) -> String {
    let stores = [data_index(data_dir), data_dir.join("raft")];
    let found = stores.iter().flat_map(|store| find(store).unwrap_or_default());
    let text = found.map(|found| {
        let folder = found.folder.strip_prefix(data_dir).unwrap_or(&found.folder).display().to_string();
        found.taken_over.map_or_else(|| folder.clone(), |taken| format!("{folder}: {taken}"))
    });
    text.collect::<Vec<_>>().join("; ")
}

/// Raises and ends the alarm of the stores below this data folder that were set aside, until stopped.
pub fn watch(alarms: Alarms, node: NodeName, data_dir: PathBuf, stop: CancellationToken) -> BoxFuture<'static, ()> {
    async move {
        let mut reported = None;
        loop {
            let dir = data_dir.clone();
            let now = match tokio::task::spawn_blocking(move || detail(&dir)).await {
                Ok(now) => now,
                Err(error) => return warn!(%error, "stores that were set aside are not looked for"),
            };
            if reported.as_ref() != Some(&now) {
                match now.is_empty() {
                    true => alarms.clear(Code::StoreRebuilt, node.as_str()),
                    false => alarms.raise(Code::StoreRebuilt, node.as_str(), now.clone()),
                }
                reported = Some(now);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn detail_names_each_folder_and_what_was_taken_from_it() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(detail(dir.path()), "");
        assert!(!is_data_rebuilt(dir.path()));
        let aside = dir.path().join("store/db.unreadable-20261122T130000Z");
        fs::create_dir_all(&aside).expect("a folder");
        fs::create_dir_all(dir.path().join("raft.unreadable-20261122T130001Z")).expect("a folder");
        fs::write(aside.join("taken-over"), "7 changes\n").expect("a note");
        assert_eq!(
            detail(dir.path()),
            "store/db.unreadable-20261122T130000Z: 7 changes; raft.unreadable-20261122T130001Z"
        );
        assert!(is_data_rebuilt(dir.path()));
    }
}
