//! A disk with slow syncs, for one process: a small library that is loaded before libc.

use std::{path::Path, process::Command, time::Duration};

/// The library's source.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/slow_sync.c");

/// The environment of a process whose syncs each take longer by `by`, while the file `only_while` exists if one is given;
/// `folder` takes the library.
pub fn slow_disk(folder: &Path, by: Duration, only_while: Option<&Path>) -> Vec<(&'static str, String)> {
    let library = folder.join("slow_sync.so");
    let built = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(SOURCE).status();
    assert!(built.is_ok_and(|status| status.success()), "{SOURCE} can be compiled");
    let all =
        [("LD_PRELOAD", library.display().to_string()), ("TWINBOX_SYNC_TAKES_US", by.as_micros().to_string())];
    all.into_iter().chain(only_while.map(|file| ("TWINBOX_SYNC_SLOW_WHILE", file.display().to_string()))).collect()
}
