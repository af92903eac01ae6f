//! The process of a drive. Its standard input is a socket to the test: orders come as lines and are answered by lines.
//! When the test's process ends, in whatever way, the socket closes: then this process unmounts everything and ends.

use std::{
    env, fs,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::fd::{FromRawFd, OwnedFd},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crate::{
    drive::{Cut, Drive},
    leftovers::{DATA, IMAGE, is_mounted, remove, run, source, unmount},
    session,
};

/// Environment of the process: folder of the disk, and seed of the cut.
pub const FOLDER: &str = "TWINBOX_POWER_CUT_FOLDER";
/// See [`FOLDER`].
pub const SEED: &str = "TWINBOX_POWER_CUT_SEED";
/// Name of the image of the medium in the disk's folder.
pub const MEDIUM: &str = "medium";

/// Serves a drive and ends the process, if this process was started for one. For the test `drive` of a test
/// program.
pub fn serve_if_asked() {
    let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) else { return };
    let seed = env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or_default();
    // SAFETY: descriptor 0 is the socket that the test gave this process, and nothing else of this program uses it.
    let test = UnixStream::from(unsafe { OwnedFd::from_raw_fd(0) });
    let tell = |error: io::Error| {
        let _gone = writeln!(&test, "error {}", error.to_string().replace('\n', " "));
    };
    let served = serve(&folder, seed, &test);
    unmount(&folder);
    served.unwrap_or_else(tell);
    process::exit(0);
}

fn serve(folder: &Path, seed: u64, test: &UnixStream) -> io::Result<()> {
    let medium = File::options().read(true).write(true).open(folder.join(MEDIUM))?;
    let drive = Arc::new(Mutex::new(Drive::new(medium, seed)?));
    let (image, data) = (folder.join(IMAGE), folder.join(DATA));
    File::create(&image)?;
    fs::create_dir_all(&data)?;
    let kernel = session::mount(&image, &source())?;
    let (served, output) = (Arc::clone(&drive), test.try_clone()?);
    thread::Builder::new().name("drive".to_owned()).spawn(move || {
        let ended = session::serve(&kernel, &served, |cut| say_cut(&output, cut));
        // Without this thread each access to the disk would wait for ever: the kernel ends them with the descriptor.
        if let Err(error) = ended {
            let _gone = writeln!(&output, "error {}", error.to_string().replace('\n', " "));
        }
    })?;
    run(Command::new("mount").args(["-t", "ext4", "-o", "loop,noatime"]).args([&image, &data]))?;
    writeln!(&*test, "ready")?;

    for line in BufReader::new(test).lines() {
        let line = line?;
        let mut drive = session::lock(&drive);
        match *line.split(' ').collect::<Vec<_>>() {
            ["cut"] => {
                if let Some(cut) = drive.cut()? {
                    say_cut(test, &cut);
                }
            }
            ["cut", operations] => {
                drive.cut_after(operations.parse().map_err(io::Error::other)?);
                writeln!(&*test, "armed")?;
            }
            ["fail-flush"] => {
                drive.fail_next_flush()?;
                writeln!(&*test, "armed")?;
            }
            ["off"] => {
                drop(drive);
                return power_off(folder, test);
            }
            _ => return Err(io::Error::other(format!("no such order: {line}"))),
        }
    }
    // The test's process has ended: what is left is not needed.
    session::lock(&drive).cut()?;
    remove(folder);
    Ok(())
}

/// Unmounts. The file system may be in use for a moment after the processes that used it were killed.
fn power_off(folder: &Path, test: &UnixStream) -> io::Result<()> {
    let data = folder.join(DATA);
    for _ in 0..200 {
        let unmounted = run(Command::new("umount").arg(&data));
        if unmounted.is_ok() || !is_mounted(&data) {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    unmount(folder);
    writeln!(&*test, "off")
}

fn say_cut(test: &UnixStream, cut: &Cut) {
    // A test that has ended needs no answer.
    let _gone = writeln!(&*test, "cut {cut}");
}
