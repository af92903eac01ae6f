//! ffmpeg, the reference and the encoder of these tests.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// Output of `ffmpeg <before> -i <input> <after> <output>`; the name of the output has this extension. `None` if the
/// program is missing: the test then passes but prints so, and fails where nothing may be left out (`CI=true`).
pub fn ffmpeg(input: &[u8], before: &[&str], after: &[&str], extension: &str) -> Option<Vec<u8>> {
    let (from, to) = (path("in"), path(extension));
    fs::write(&from, input).expect("the folder for tests is writable");
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-loglevel", "error", "-y"]).args(before).arg("-i").arg(&from);
    let ran = command.args(after).arg(&to).stdin(Stdio::null()).output();
    fs::remove_file(&from).expect("the input is there");
    match ran {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            not_run();
            None
        }
        ran => {
            let ran = ran.expect("ffmpeg starts");
            assert!(ran.status.success(), "ffmpeg {after:?}: {}", String::from_utf8_lossy(&ran.stderr));
            let output = fs::read(&to).expect("ffmpeg writes its output");
            fs::remove_file(&to).expect("the output is there");
            Some(output)
        }
    }
}

fn path(extension: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // Cargo names no folder to the tests inside the crate.
    let folder = option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
    folder.join(format!("audio-{}-{number}.{extension}", std::process::id()))
}

fn not_run() {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("not run: needs ffmpeg (apt-get install ffmpeg) ({test})");
    println!("{line}");
    if let Some(list) = std::env::var_os("TWINBOX_NOT_RUN") {
        let file = OpenOptions::new().create(true).append(true).open(list);
        file.and_then(|mut f| writeln!(f, "{line}")).expect("TWINBOX_NOT_RUN names a writable file");
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{line}: nothing is left out under CI=true");
}
