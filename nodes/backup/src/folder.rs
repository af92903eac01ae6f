//! A destination with its backups: `backups/<time>-<node>` with the records of each, `audio` with what they share.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::time::sleep;
use twinbox_clock::BootInstant;
use twinbox_ids::{ClusterId, NodeName, Timestamp};

use crate::{
    BackupError, Manifest, Observer, Phase, Progress,
    audio::AudioPool,
    blocking,
    place::{Bucket, Directory, Lock, S3Settings, SharedPlace, Use, is_s3},
    rows::ROWS,
};

/// Folder of the backups.
const BACKUPS: &str = "backups";
/// Time that commands which add or read wait for the end of a prune.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// Threads that read the entries of a destination.
const READERS: usize = 8;
/// Maximum pause between two attempts.
const PAUSE: Duration = Duration::from_secs(5);
/// Begin of the name of a backup: its time, with `0` for any digit. The node follows.
const TIME: &[u8; 21] = b"00000000T000000.000Z-";

/// A directory of this machine, or a bucket, with backups.
#[derive(Debug, Clone)]
pub struct BackupFolder {
    place: SharedPlace,
    /// Time that a command waits for one that it does not go together with.
    patience: Duration,
    /// Data folder of the node that is backed up, if it is known.
    data_dir: Option<PathBuf>,
}

/// A complete backup.
#[derive(Debug, Clone)]
pub struct Backup {
    /// Its name: time and node.
    pub name: String,
    pub(crate) place: SharedPlace,
    /// Its manifest.
    pub manifest: Manifest,
}

impl Backup {
    /// Its folder.
    pub(crate) fn dir(&self) -> String {
        format!("{BACKUPS}/{}", self.name)
    }
}

/// An entry among the backups.
#[derive(Debug)]
pub struct Entry {
    /// Its name: time and node.
    pub name: String,
    pub(crate) place: SharedPlace,
    /// State.
    pub state: EntryState,
}

/// State of an entry.
#[derive(Debug)]
pub enum EntryState {
    /// A complete backup.
    Complete(Box<Manifest>),
    /// No manifest: it is being made, or was interrupted.
    Unfinished,
    /// The manifest cannot be read.
    Unreadable(BackupError),
}

impl BackupFolder {
    /// The directory at this path, which need not exist.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self::of(Arc::new(Directory::at(dir.into())))
    }

    fn of(place: SharedPlace) -> Self {
        Self { place, patience: PATIENCE, data_dir: None }
    }

    /// With this time that commands which add or read wait for the end of a prune, in place of five minutes.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Takes no new backup if it is in this data folder of a node: a repair or removal of the node would take its backups along.
    #[must_use]
    pub fn outside(self, data_dir: &Path) -> Self {
        Self { data_dir: Some(data_dir.to_owned()), ..self }
    }

    /// The directory or bucket of this name: a path, or `s3://BUCKET/PREFIX`. Makes no connection. Reads the file of CA
    /// certificates, if there is one.
    ///
    /// # Errors
    /// A bucket without settings, or with wrong ones.
    pub fn open(destination: &str, s3: Option<&S3Settings>) -> Result<Self, BackupError> {
        if !is_s3(destination) {
            return Ok(Self::at(destination));
        }
        let settings = s3.ok_or(BackupError::NoS3Settings)?;
        Ok(Self::of(Arc::new(Bucket::open(destination, settings)?)))
    }

    /// The destination as administrators write it.
    pub fn location(&self) -> String {
        self.place.locate("").display().to_string()
    }

    pub(crate) fn place(&self) -> &SharedPlace {
        &self.place
    }

    /// The audio that its backups share.
    pub(crate) fn audio(&self) -> AudioPool {
        AudioPool::at(self.place.clone())
    }

    /// Refuses a directory whose place depends on the process.
    pub(crate) fn check_absolute(&self) -> Result<(), BackupError> {
        let place = self.place.locate("");
        if self.place.is_remote() || place.is_absolute() { Ok(()) } else { Err(BackupError::Relative(place)) }
    }

    /// Refuses a directory inside the data folder of the node. Blocks.
    fn check_outside(&self) -> Result<(), BackupError> {
        let Some(data_dir) = self.data_dir.as_ref().filter(|_| !self.place.is_remote()) else { return Ok(()) };
        let dir = self.place.locate("");
        match without_links(&dir).starts_with(without_links(data_dir)) {
            true => Err(BackupError::InDataFolder { dir, data_dir: data_dir.clone() }),
            false => Ok(()),
        }
    }

    /// Begins a new backup.
    pub(crate) fn begin(&self, node: &NodeName, began: Timestamp) -> Result<Making, BackupError> {
        self.check_outside()?;
        self.place.prepare()?;
        let lock = self.place.lock(Use::Add)?;
        let time = i64::try_from(began.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let seconds = time.unwrap_or_default().strftime("%Y%m%dT%H%M%S").to_string();
        let usual = format!("{seconds}.{:03}Z-{node}", began.0 % 1_000);
        let mut name = usual.clone();
        let mut number = 1;
        while !self.place.begin(&format!("{BACKUPS}/{name}"))? {
            number += 1;
            name = format!("{usual}.{number}");
        }
        Ok(Making { name, began, place: self.place.clone(), lock: Some(lock) })
    }

    /// Makes the names of the backups durable.
    pub(crate) fn sync(&self) -> Result<(), BackupError> {
        self.place.sync(BACKUPS)
    }

    /// Fails if the records of a backup are not there any more, or not all.
    pub(crate) fn check_rows(&self, dir: &str, bytes: u64) -> Result<(), BackupError> {
        let (file, mut found) = (format!("{dir}/{ROWS}"), None);
        self.place.visit(BACKUPS, &mut |path, length| {
            if file.strip_prefix(BACKUPS).is_some_and(|wanted| wanted.trim_start_matches('/') == path) {
                found = Some(length);
            }
            Ok(())
        })?;
        if found == Some(bytes) { Ok(()) } else { Err(BackupError::Vanished(self.place.locate(&file))) }
    }

    /// Use beside others that read or add. Readers of a destination that they may not write to take no lock.
    pub(crate) fn share(&self) -> Result<Box<dyn Lock>, BackupError> {
        self.place.lock(Use::Read)
    }

    /// As [`Self::share`], after the end of a prune. Blocks.
    pub(crate) fn share_after_prune(&self, observer: &Observer) -> Result<Box<dyn Lock>, BackupError> {
        let began = BootInstant::now();
        loop {
            match self.share() {
                Err(error) if error.is_busy() => thread::sleep(self.pause(began, error, observer)?),
                shared => return shared,
            }
        }
    }

    /// Takes the lock of a use, such as [`Self::begin`], after the end of a prune.
    pub(crate) async fn after_prune<R: Send + 'static>(
        &self,
        observer: &Observer,
        attempt: impl Fn(&Self) -> Result<R, BackupError> + Clone + Send + 'static,
    ) -> Result<R, BackupError> {
        let began = BootInstant::now();
        loop {
            let (folder, attempt) = (self.clone(), attempt.clone());
            match blocking(move || attempt(&folder)).await {
                Err(error) if error.is_busy() => sleep(self.pause(began, error, observer)?).await,
                ended => return ended,
            }
        }
    }

    /// The pause before the next attempt; the error when the time is over.
    fn pause(&self, began: BootInstant, busy: BackupError, observer: &Observer) -> Result<Duration, BackupError> {
        let waited = began.elapsed();
        if waited >= self.patience {
            return Err(busy);
        }
        let (done, total) = (waited.as_secs(), self.patience.as_secs());
        observer(Progress { phase: Phase::Wait, done, total, bytes: 0 });
        Ok(PAUSE.min(self.patience / 10))
    }

    /// Use with no other beside: what no backup names may be removed.
    pub(crate) fn own(&self) -> Result<Box<dyn Lock>, BackupError> {
        self.place.lock(Use::Prune)
    }

    /// All entries, by name and so by time. Folders of other names, files and links are no entries: they are not ours.
    /// Blocks.
    pub fn entries(&self) -> Result<Vec<Entry>, BackupError> {
        self.place.check_used()?;
        let mut names = self.place.folders(BACKUPS)?;
        names.retain(|name| is_name(name));
        // A bucket answers many requests in the time of one.
        let part = names.len().div_ceil(READERS).max(1);
        let read = |names: &[String]| names.iter().map(|name| self.entry(name)).collect::<Result<Vec<_>, _>>();
        let entries: Result<Vec<Vec<Entry>>, BackupError> = thread::scope(|scope| {
            let readers: Vec<_> = names.chunks(part).map(|part| scope.spawn(move || read(part))).collect();
            readers.into_iter().map(|reader| reader.join().unwrap_or(Err(BackupError::Stopped))).collect()
        });
        Ok(entries?.into_iter().flatten().collect())
    }

    fn entry(&self, name: &str) -> Result<Entry, BackupError> {
        let state = match Manifest::read(self.place.as_ref(), &format!("{BACKUPS}/{name}")) {
            Ok(Some(manifest)) => EntryState::Complete(Box::new(manifest)),
            Ok(None) => EntryState::Unfinished,
            Err(error) if error.is_of_destination() => return Err(error),
            Err(error) => EntryState::Unreadable(error),
        };
        Ok(Entry { name: name.to_owned(), place: self.place.clone(), state })
    }

    /// The complete backups, oldest first. Blocks.
    pub fn backups_by_age(&self) -> Result<Vec<Backup>, BackupError> {
        let mut backups: Vec<_> = self.entries()?.into_iter().filter_map(Entry::complete).collect();
        backups.sort_by(|a, b| (a.manifest.began_ms, &a.name).cmp(&(b.manifest.began_ms, &b.name)));
        Ok(backups)
    }

    /// The complete backup of this name; without a name the newest of a node that had all records, of this cluster if one is
    /// given. Blocks.
    pub fn find(&self, name: Option<&str>, cluster: Option<ClusterId>) -> Result<Backup, BackupError> {
        let cluster = cluster.map(|id| id.to_string());
        let fits = |backup: &Backup| match name {
            Some(name) => backup.name == name,
            None => cluster.as_ref().is_none_or(|id| *id == backup.manifest.cluster),
        };
        let mut partial = false;
        let found = self.backups_by_age()?.into_iter().rev().filter(fits).find(|backup| {
            partial |= !backup.manifest.has_all_records;
            name.is_some() || backup.manifest.has_all_records
        });
        found.ok_or_else(|| BackupError::NoBackup {
            dir: self.place.locate(""),
            name: match (name, &cluster) {
                (Some(name), _) => name.to_owned(),
                _ if partial => {
                    "of a node that had all records (give another one by its name, with --backup)".to_owned()
                }
                (None, Some(cluster)) => format!("of cluster {cluster}"),
                (None, None) => "at all".to_owned(),
            },
        })
    }
}

/// The path with its symbolic links followed, as far as it exists: a backup makes the rest.
fn without_links(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|above| Some((above, fs::canonicalize(above).ok()?)));
    let Some((above, real)) = existing else { return path.to_owned() };
    real.join(path.strip_prefix(above).unwrap_or(path))
}

/// True for the name of a backup: time, then node.
fn is_name(name: &str) -> bool {
    name.as_bytes().split_first_chunk::<{ TIME.len() }>().is_some_and(|(time, node)| {
        let fits =
            |(found, shape): (&u8, &u8)| if *shape == b'0' { found.is_ascii_digit() } else { found == shape };
        !node.is_empty() && time.iter().zip(TIME).all(fits)
    })
}

impl Entry {
    /// Its folder.
    pub(crate) fn dir(&self) -> String {
        format!("{BACKUPS}/{}", self.name)
    }

    /// The backup, if it is complete.
    fn complete(self) -> Option<Backup> {
        match self.state {
            EntryState::Complete(manifest) => {
                Some(Backup { name: self.name, place: self.place, manifest: *manifest })
            }
            EntryState::Unfinished | EntryState::Unreadable(_) => None,
        }
    }
}

/// A backup that is being made, and the lock of the destination. Dropped, it removes what was written.
pub(crate) struct Making {
    name: String,
    began: Timestamp,
    place: SharedPlace,
    /// `None` after the end.
    lock: Option<Box<dyn Lock>>,
}

impl Making {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Time of its begin.
    pub(crate) fn began(&self) -> Timestamp {
        self.began
    }

    /// Its folder.
    pub(crate) fn dir(&self) -> String {
        format!("{BACKUPS}/{}", self.name)
    }

    /// Writes the manifest, while the lock still holds. Then the backup is complete. After a failure it is not, and what was
    /// written is removed. Blocks.
    pub(crate) fn complete(mut self, manifest: &Manifest) -> Result<(), BackupError> {
        match self.write(manifest) {
            Ok(()) => {
                if let Some(lock) = self.lock.take() {
                    lock.release();
                }
                Ok(())
            }
            Err(error) => {
                self.discard();
                Err(error)
            }
        }
    }

    fn write(&self, manifest: &Manifest) -> Result<(), BackupError> {
        self.lock.iter().try_for_each(|lock| lock.check())?;
        manifest.write(self.place.as_ref(), &self.dir())
    }

    /// Removes what was written, and ends the use. Blocks.
    pub(crate) fn discard(mut self) {
        if let Some(cleanup) = self.cleanup() {
            cleanup();
        }
    }

    /// The work that removes what was written; `None` if there is none to do.
    fn cleanup(&mut self) -> Option<impl FnOnce() + Send + 'static> {
        let lock = self.lock.take()?;
        let (place, dir) = (self.place.clone(), self.dir());
        Some(move || {
            if let Err(error) = place.remove_folder(&dir) {
                let dir = place.locate(&dir);
                tracing::warn!(dir = %dir.display(), %error, "unfinished backup stays; 'twinbox backup prune' removes it");
            }
            lock.release();
        })
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let is_remote = self.place.is_remote();
        let Some(cleanup) = self.cleanup() else { return };
        if !is_remote {
            return cleanup();
        }
        // A future may be dropped on a thread that must not wait for a network.
        if let Err(error) = thread::Builder::new().name("backup-cleanup".to_owned()).spawn(cleanup) {
            tracing::warn!(%error, "unfinished backup stays; 'twinbox backup prune' removes it");
        }
    }
}
