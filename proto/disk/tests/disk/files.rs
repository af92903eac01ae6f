//! Opening, and files next to the index.

use std::{env, fs, io, process::Command};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use twinbox_disk::{Disk, DiskError, Folder, Need, OpenFile, Reserve, file};
use twinbox_journal::{Blocks, Medium, MediumFile};

#[test]
fn directory_in_use_is_refused_with_its_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(&dir.path().join("deep/down")).expect("a disk");
    let error = Disk::open(&dir.path().join("deep/down")).err().expect("a refusal");
    assert!(matches!(error, DiskError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("deep/down"), "{error}");
    let other = disk.clone();
    drop(disk);
    assert!(Disk::open(&dir.path().join("deep/down")).is_err(), "a clone still has it");
    drop(other);
    Disk::open(&dir.path().join("deep/down")).expect("free again");
}

#[test]
fn directory_that_cannot_be_created_is_named_in_the_error() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("file"), "").expect("a file");
    let error = Disk::open(&dir.path().join("file/db")).err().expect("a refusal");
    assert!(error.to_string().contains("file"), "{error}");
}

#[test]
fn written_file_is_complete_synced_and_leaves_no_temporary_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = Disk::fsync_count();
    file::write_durably(dir.path(), "name", b"old").expect("a write");
    assert!(Disk::fsync_count() >= before + 2, "the file and its directory are synced");
    file::write_durably(dir.path(), "name", b"new").expect("a write");
    assert_eq!(fs::read(dir.path().join("name")).expect("the file"), b"new");
    assert_eq!(file::list(dir.path()).expect("a list").len(), 1);

    // Temporary files of a dead process are removed; files with a merely similar name stay.
    for name in [".name.1.2.aside", "name.aside", ".name"] {
        fs::write(dir.path().join(name), "").expect("a file");
    }
    file::remove_asides(dir.path()).expect("a clean-up");
    assert!(!dir.path().join(".name.1.2.aside").exists());
    assert_eq!(file::list(dir.path()).expect("a list").len(), 3);

    // A failed write leaves no temporary file.
    fs::create_dir(dir.path().join("folder")).expect("a folder");
    assert!(file::write_durably(dir.path(), "folder", b"").is_err());
    assert_eq!(file::list(dir.path()).expect("a list").len(), 4);
}

#[test]
fn new_data_is_refused_before_small_writes_are() {
    let dir = tempfile::tempdir().expect("a directory");
    let free = Reserve::new(dir.path(), 0).space().expect("space").free;
    // Free space varies on a busy machine: the margins here are far wider than that.
    let roomy = Reserve::new(dir.path(), 0);
    assert_eq!(roomy.check(Need::Data(1)), Ok(()));
    assert!(matches!(roomy.check(Need::Data(free * 2)), Err(DiskError::StoreFull { .. })));
    let tight = Reserve::new(dir.path(), free * 2);
    assert!(matches!(tight.check(Need::Data(0)), Err(DiskError::StoreFull { .. })));
    assert_eq!(tight.check(Need::Small), Ok(()));
    assert!(!tight.space().expect("space").takes_data());
    let full = Reserve::new(dir.path(), u64::MAX);
    assert!(matches!(full.check(Need::Small), Err(DiskError::StoreFull { .. })));
}

/// Mutants: a last part that the device refuses is left out; all later writes pass the page cache by, and are refused as too short.
#[test]
fn new_file_has_zeros_of_any_length_and_takes_writes_of_any_length() {
    // The second one lies on a disk where the first one may lie in memory.
    let dirs = [tempfile::tempdir(), tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))];
    for dir in dirs.map(|dir| dir.expect("a directory")) {
        let folder = Folder::open(dir.path()).expect("a folder");
        for (name, length) in [("a", 1), ("b", 4_096), ("c", 1_048_576), ("d", 3_000_001), ("e", 16_777_216)] {
            for blocks in [Blocks::Zeroed, Blocks::Reserved] {
                let name = format!("{name}-{blocks:?}");
                let file = folder.create(&name, length, blocks).unwrap_or_else(|error| panic!("{name}: {error}"));
                file.write_at(&[b"odd", b"parts"], length).unwrap_or_else(|error| panic!("{name}: {error}"));
                file.sync().expect("a sync");
                let written = fs::read(dir.path().join(&name)).expect("a file");
                let (zeros, rest) = written.split_at(length as usize);
                assert!(zeros.iter().all(|byte| *byte == 0) && rest == b"oddparts", "{name} in {:?}", dir.path());
            }
        }
    }
}

/// Set in the process that runs only the test below: other tests must not run out of files.
const FEW_FILES: &str = "TWINBOX_TEST_FEW_FILES";

#[test]
fn file_that_cannot_be_made_for_too_many_open_ones_is_made_later() {
    if env::var_os(FEW_FILES).is_none() {
        let mut alone = Command::new(env::current_exe().expect("this program"));
        alone.args(["--exact", "files::file_that_cannot_be_made_for_too_many_open_ones_is_made_later"]);
        assert!(alone.env(FEW_FILES, "").status().expect("a process").success());
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let folder = Folder::open(dir.path()).expect("a folder");
    folder.create("old", 4096, Blocks::Zeroed).expect("a file");
    let mut open = Vec::new();
    let limit = Rlimit { current: Some(64), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).expect("a limit");
    while let Ok(file) = fs::File::open("/dev/null") {
        open.push(file);
    }
    let refused = |made: io::Result<OpenFile>| made.err().map(|error| error.kind());
    assert_eq!(refused(folder.create("a", 4096, Blocks::Zeroed)), Some(io::ErrorKind::StorageFull));
    let renamed = folder.rename("old", "new").map_err(|error| error.kind());
    assert_eq!(renamed, Err(io::ErrorKind::StorageFull));
    // Room for the file, and none for its directory.
    drop(open.pop());
    assert_eq!(refused(folder.create("b", 4096, Blocks::Zeroed)), Some(io::ErrorKind::StorageFull));
    drop(open);
    assert_eq!(refused(folder.create("a", 4096, Blocks::Zeroed)), None);
    folder.rename("old", "new").expect("it has its old name still");
}
