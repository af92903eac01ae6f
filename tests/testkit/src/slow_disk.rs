//! A disk with slow syncs, for one process: a small library that is loaded before libc.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// The library's source.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/slow_sync.c");

/// The environment of a process whose syncs each take longer by `by`; `folder` takes the library.
pub fn slow_disk(folder: &Path, by: Duration) -> [(&'static str, String); 2] {
    let library: PathBuf = folder.join("slow_sync.so");
    let built = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(SOURCE).status();
    assert!(built.is_ok_and(|status| status.success()), "{SOURCE} can be compiled");
    [("LD_PRELOAD", library.display().to_string()), ("TWINBOX_SYNC_TAKES_US", by.as_micros().to_string())]
}
