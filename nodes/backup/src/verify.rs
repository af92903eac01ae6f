//! Verifies backups without a node: every record, and all audio by its hash.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
};

use twinbox_ids::BlobHash;
use twinbox_replication_store::codec;

use crate::{
    Backup, BackupError, BackupFolder, Observer, Phase, Progress,
    audio::{AudioList, AudioPool},
    rows::RowsReader,
};

/// Maximum number of reported faults of a backup; the others are counted.
const MOST_FAULTS: usize = 100;
/// Records between two reports of progress.
const STEP: u64 = 1_000;
/// Pieces of audio that are read concurrently.
const WORKERS: usize = 8;

/// Result for one backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Name of the backup.
    pub name: String,
    /// Number of records, without changes.
    pub records: u64,
    /// Number of pieces of audio.
    pub audio: u64,
    /// Bytes of all audio.
    pub bytes: u64,
    /// Number of pieces of audio that no node had when the backup was made.
    pub missing: u64,
    /// Faults, each with the file and the remedy: at most a hundred.
    pub faults: Vec<String>,
    /// Number of further faults.
    pub more_faults: u64,
}

impl Verified {
    /// True when all that the backup is to have is there and right.
    pub fn is_whole(&self) -> bool {
        self.faults.is_empty() && self.missing == 0
    }

    fn fault(&mut self, fault: impl ToString) {
        match self.faults.len() < MOST_FAULTS {
            true => self.faults.push(fault.to_string()),
            false => self.more_faults += 1,
        }
    }
}

/// Verifies backups of a folder, oldest first; audio that several have is read once. Those that a prune has removed since they
/// were listed are left out. Blocks.
pub fn verify(
    folder: &BackupFolder,
    backups: &[Backup],
    observer: &Observer,
) -> Result<Vec<Verified>, BackupError> {
    let lock = folder.share_after_prune(observer)?;
    let pool = folder.audio();
    let mut known = BTreeMap::new();
    let verified = folder.entries().and_then(|entries| {
        let names: BTreeSet<String> = entries.into_iter().map(|entry| entry.name).collect();
        let there = backups.iter().filter(|backup| names.contains(&backup.name));
        there.map(|backup| one(&pool, backup, &mut known, observer)).collect()
    });
    lock.release();
    verified
}

fn one(
    pool: &AudioPool,
    backup: &Backup,
    known: &mut BTreeMap<BlobHash, Option<String>>,
    observer: &Observer,
) -> Result<Verified, BackupError> {
    let missing = &backup.manifest.audio.missing;
    let mut verified = Verified { name: backup.name.clone(), missing: missing.len() as u64, ..Verified::default() };
    let named = rows(backup, &mut verified, observer)?;
    let list = match AudioList::read(backup.place.as_ref(), &backup.dir(), &backup.manifest.audio.hash) {
        Ok(list) => list,
        Err(error) => {
            verified.fault(of_file(error)?);
            return Ok(verified);
        }
    };
    let missing: BTreeSet<BlobHash> = missing.iter().filter_map(|missing| missing.hash.parse().ok()).collect();
    for hash in named.into_iter().filter(|hash| !list.0.contains_key(hash) && !missing.contains(hash)) {
        verified.fault(format!("audio {hash} is named by a record of backup {}, and is not in it", backup.name));
    }
    let (total, mut done) = (list.0.len() as u64, 0);
    let unread: Vec<BlobHash> = list.0.keys().filter(|hash| !known.contains_key(hash)).copied().collect();
    let mut bytes = 0;
    read_all(pool, &unread, |hash, fault| {
        done += 1;
        bytes += if fault.is_none() { list.0.get(&hash).copied().unwrap_or_default() } else { 0 };
        known.insert(hash, fault);
        observer(Progress { phase: Phase::Audio, done, total, bytes });
    })?;
    for (hash, length) in &list.0 {
        match known.get(hash) {
            Some(Some(fault)) => verified.fault(fault),
            _ => verified.bytes += length,
        }
        verified.audio += 1;
    }
    Ok(verified)
}

/// Reads audio, several pieces concurrently; each is reported with its fault, if it has one.
fn read_all(
    pool: &AudioPool,
    wanted: &[BlobHash],
    mut report: impl FnMut(BlobHash, Option<String>),
) -> Result<(), BackupError> {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, results) = mpsc::channel();
        for _ in 0..WORKERS.min(wanted.len()) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some(hash) = wanted.get(next.fetch_add(1, Relaxed)) {
                    if sender.send((*hash, pool.read(hash).err())).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (hash, error) in results {
            let fault = match error.map(of_file).transpose() {
                Ok(fault) => fault.map(|error| error.to_string()),
                Err(error) => {
                    // The others read nothing more.
                    next.store(wanted.len(), Relaxed);
                    return Err(error);
                }
            };
            report(hash, fault);
        }
        Ok(())
    })
}

/// The error, if it is one of a file: that of a destination which cannot be used now says nothing of its backups.
fn of_file(error: BackupError) -> Result<BackupError, BackupError> {
    if error.is_of_destination() { Err(error) } else { Ok(error) }
}

/// Reads all records. Returns the audio that present ones name.
fn rows(backup: &Backup, verified: &mut Verified, observer: &Observer) -> Result<BTreeSet<BlobHash>, BackupError> {
    let mut named = BTreeSet::new();
    let reader = match RowsReader::open(backup) {
        Ok(reader) => reader,
        Err(error) => {
            verified.fault(of_file(error)?);
            return Ok(named);
        }
    };
    for row in reader {
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                verified.fault(of_file(error)?);
                break;
            }
        };
        // A record of a newer release: its checksum was right.
        let Ok(record) = codec::decode_record(&row.value) else { continue };
        if !record.is_deleted() {
            named.extend(record.blobs().map(|blob| blob.hash));
        }
        verified.records += u64::from(!row.is_change);
        if verified.records.is_multiple_of(STEP) {
            observer(Progress {
                phase: Phase::Rows,
                done: verified.records,
                total: backup.manifest.records(),
                bytes: 0,
            });
        }
    }
    Ok(named)
}
