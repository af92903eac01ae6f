//! The disk that loses power, by itself: flushed bytes are there after a cut, others may be lost or torn, and no process
//! waits for a drive that has ended.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    fs::{self, File},
    io::{self, BufRead, BufReader},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use twinbox_power_cut::{NEEDS, PowerDisk, possible};
use twinbox_testkit::{
    need::{self, Need},
    parameter, wait_until,
};

const POWER: Need = Need { name: NEEDS, there: possible };
const LIMIT: Duration = Duration::from_secs(30);

/// Not a test of its own: the process of a drive.
#[test]
fn drive() {
    twinbox_power_cut::serve_if_asked();
}

fn seed() -> u64 {
    let seed = parameter("TWINBOX_POWER_SEED", 0);
    println!("TWINBOX_POWER_SEED={seed}");
    seed
}

/// Bytes at an address that direct writes need.
struct Aligned(*mut u8, Layout);

impl Aligned {
    fn new(byte: u8, length: usize) -> Self {
        let layout = Layout::from_size_align(length, 4096).unwrap();
        // SAFETY: the layout is not empty; the memory is freed by Drop alone.
        let memory = unsafe { alloc_zeroed(layout) };
        assert!(!memory.is_null());
        // SAFETY: the memory is that long and nothing else refers to it.
        unsafe { memory.write_bytes(byte, length) };
        Self(memory, layout)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is that long, initialized, and lives as long as self.
        unsafe { std::slice::from_raw_parts(self.0, self.1.size()) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
        unsafe { dealloc(self.0, self.1) }
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::write(path, bytes)?;
    File::open(path)?.sync_all()?;
    File::open(path.parent().unwrap())?.sync_all()
}

#[test]
fn synced_bytes_survive_each_cut_and_others_are_lost_or_torn() {
    if !need::all(&[POWER]) {
        return;
    }
    const BLOCKS: usize = 64;
    let mut disk = PowerDisk::new(32, seed());
    let path = disk.folder().join("file");
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    write_synced(&path, &[0; BLOCKS * 4096]).unwrap();
    for round in 1..=24_u8 {
        // Synced through the page cache ...
        write_synced(&path, &[round; BLOCKS * 4096]).unwrap();
        write_synced(&disk.folder().join("other"), &[round; 10_000]).unwrap();
        // ... then written around it without a flush: the drive acknowledges the writes and holds them.
        let direct = File::options().write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
        let new = Aligned::new(100 + round, 8192);
        for block in (0..BLOCKS).step_by(2) {
            direct.write_all_at(new.bytes(), block as u64 * 4096).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), [100 + round; BLOCKS * 4096], "reads see unflushed writes");
        let cut = disk.cut();
        assert!(cut.unflushed >= 8 * BLOCKS as u64, "{cut:?}");
        assert!(write_synced(&path, &[0]).is_err(), "a disk without power takes nothing");
        drop(direct);
        disk.restart();
        let found = fs::read(&path).unwrap();
        assert_eq!(found.len(), BLOCKS * 4096);
        for block in found.chunks(4096) {
            let sectors: Vec<bool> = block.chunks(512).map(|sector| sector[0] == 100 + round).collect();
            match sectors.iter().filter(|new| **new).count() {
                0 => lost += 1,
                8 => kept += 1,
                _ => torn += 1,
            }
            for sector in block.chunks(512) {
                assert!(sector == [round; 512] || sector == [100 + round; 512], "{cut:?}: {sector:?}");
            }
        }
        assert_eq!(fs::read(disk.folder().join("other")).unwrap(), [round; 10_000], "{cut:?}");
    }
    println!("blocks of unflushed writes: {kept} kept, {lost} lost, {torn} torn");
    assert!(kept > 0 && lost > 0 && torn > 0);
}

#[test]
fn power_fails_between_any_two_operations_and_acknowledged_writes_are_there() {
    if !need::all(&[POWER]) {
        return;
    }
    let mut disk = PowerDisk::new(32, seed());
    let folder = disk.folder();
    for operations in 0..30 {
        // A file is made, renamed and synced as programs do: all or nothing of it may be there, and the last one is.
        disk.cut_after(operations);
        let mut acknowledged = None;
        for n in 0_u32.. {
            let step = || {
                write_synced(&folder.join("new"), &[n as u8; 5_000])?;
                fs::rename(folder.join("new"), folder.join("current"))?;
                File::open(&folder)?.sync_all()
            };
            match step() {
                Ok(()) => acknowledged = Some(n as u8),
                Err(_) => break,
            }
        }
        let cut = disk.wait_cut(LIMIT).expect("the power is cut");
        disk.restart();
        let Ok(found) = fs::read(folder.join("current")) else {
            assert_eq!(acknowledged, None, "after {operations} operations: {cut:?}");
            continue;
        };
        assert!(found.len() == 5_000 && found.iter().all(|byte| *byte == found[0]), "torn: {cut:?}");
        let expected = acknowledged.map(|n| [n, n.wrapping_add(1)]);
        assert!(
            expected.is_none_or(|expected| expected.contains(&found[0])),
            "{} of {expected:?}: {cut:?}",
            found[0]
        );
    }
}

#[test]
fn without_a_cut_everything_is_there_after_a_restart() {
    if !need::all(&[POWER]) {
        return;
    }
    let mut disk = PowerDisk::new(32, seed());
    fs::write(disk.folder().join("file"), [7; 50_000]).unwrap();
    disk.restart();
    assert_eq!(fs::read(disk.folder().join("file")).unwrap(), [7; 50_000]);
}

/// The process that serves the image mounted at `image`.
fn drive_of(image: &Path) -> Option<i32> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut words = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let source = words.find(|words| Path::new(words[1]) == image)?[0].to_owned();
    source.strip_prefix("twinbox-power-cut:")?.split(':').next()?.parse().ok()
}

fn kill(pid: i32) {
    // SAFETY: kill takes two numbers and touches no memory.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}

#[test]
fn no_process_waits_for_a_drive_that_was_killed() {
    if !need::all(&[POWER]) {
        return;
    }
    let disk = PowerDisk::new(32, seed());
    let image = disk.folder().parent().unwrap().join("drive");
    kill(drive_of(&image).expect("its image is mounted"));
    assert!(write_synced(&disk.folder().join("file"), &[1; 10_000]).is_err(), "the disk is lost");
    drop(disk);
    assert_eq!(drive_of(&image), None);
}

/// Not a test of its own: a test that is killed while it has a disk.
#[test]
fn killed_test() {
    if std::env::var_os("TWINBOX_POWER_KILLED_TEST").is_some() {
        let disk = PowerDisk::new(32, 0);
        println!("\nfolder {}", disk.folder().display());
        loop {
            std::thread::park();
        }
    }
}

/// A test with a disk, in a process that is killed; the folder of the disk.
fn kill_a_test(with_its_drive: bool) -> PathBuf {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed_test", "--nocapture"])
        .env("TWINBOX_POWER_KILLED_TEST", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let folder = lines.find_map(|line| line.strip_prefix("folder ").map(PathBuf::from)).expect("it has a disk");
    let image = folder.parent().unwrap().join("drive");
    if with_its_drive {
        kill(drive_of(&image).expect("its image is mounted"));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    image.parent().unwrap().to_owned()
}

#[test]
fn disk_of_a_killed_test_is_removed_by_its_drive() {
    if !need::all(&[POWER]) {
        return;
    }
    let folder = kill_a_test(false);
    wait_until("the folder of the killed test to be removed", LIMIT, || !folder.exists());
    assert_eq!(drive_of(&folder.join("drive")), None);
}

#[test]
fn disk_of_a_test_that_was_killed_with_its_drive_is_removed_by_the_next_disk() {
    if !need::all(&[POWER]) {
        return;
    }
    let folder = kill_a_test(true);
    wait_until("the folder of the killed test to be removed", LIMIT, || {
        drop(PowerDisk::new(16, 0));
        !folder.exists()
    });
    assert_eq!(drive_of(&folder.join("drive")), None);
}
