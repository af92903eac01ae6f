//! A process whose syncs do nothing: a small library that is loaded before libc.

use std::{path::Path, process::Command};

/// The library's source.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/no_sync.c");

/// The environment of a process whose `fsync` and `fdatasync` do nothing: of all files, or of those that have `of` in
/// their path. `folder` takes the library.
pub fn no_sync(folder: &Path, of: Option<&str>) -> Vec<(&'static str, String)> {
    let library = folder.join("no_sync.so");
    let built = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(SOURCE).status();
    assert!(built.is_ok_and(|status| status.success()), "{SOURCE} can be compiled");
    let preload = ("LD_PRELOAD", library.display().to_string());
    [preload].into_iter().chain(of.map(|of| ("TWINBOX_NO_SYNC_OF", of.to_owned()))).collect()
}
