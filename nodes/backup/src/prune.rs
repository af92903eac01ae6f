//! Removes old backups, those that were interrupted, and the audio that no backup needs any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use twinbox_clock::wall;
use twinbox_ids::BlobHash;

use crate::{
    Backup, BackupError, BackupFolder, Entry, EntryState, Manifest, audio::AudioList, manifest::MANIFEST,
    place::Lock,
};

/// Milliseconds by which the begin of a backup may be ahead of this machine's clock: the clocks of two nodes differ.
const MOST_AHEAD_MS: u64 = 86_400_000;

/// Result of pruning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names of the backups that stay, oldest first.
    pub kept: Vec<String>,
    /// Names of the removed backups, oldest first.
    pub removed: Vec<String>,
    /// Names of the removed backups that were interrupted.
    pub unfinished: Vec<String>,
    /// Number of removed files of audio.
    pub audio: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// Reason why no audio was removed: a backup that stays cannot tell the audio that it needs.
    pub audio_stays: Option<String>,
}

/// Keeps the newest `keep` complete backups of each node of each cluster, and the audio that they need; removes the rest. One
/// whose list of audio is damaged stays and does not count: it must not push out a whole one.
/// The backup `made` stays also if it is not among these: the clock may have been behind when it was made. Refused while
/// another command works in the folder, and if a backup began in the future. A backup with an unreadable manifest stays, with
/// all audio. Blocks.
pub fn prune(folder: &BackupFolder, keep: NonZeroU32, made: Option<&str>) -> Result<Pruned, BackupError> {
    let lock = folder.own()?;
    let pruned = under_lock(folder, keep, made, lock.as_ref());
    lock.release();
    pruned
}

fn under_lock(
    folder: &BackupFolder,
    keep: NonZeroU32,
    made: Option<&str>,
    lock: &dyn Lock,
) -> Result<Pruned, BackupError> {
    let place = folder.place().as_ref();
    let keep = usize::try_from(keep.get()).unwrap_or(usize::MAX);
    let (mut pruned, mut backups) = (Pruned::default(), Vec::new());
    let entries = folder.entries()?;
    entries.iter().try_for_each(refuse_future)?;
    for entry in entries {
        let dir = entry.dir();
        match entry.state {
            EntryState::Complete(manifest) => {
                backups.push(Backup { name: entry.name, place: entry.place, manifest: *manifest });
            }
            EntryState::Unfinished => {
                lock.check()?;
                place.remove_folder(&dir)?;
                pruned.unfinished.push(entry.name);
            }
            EntryState::Unreadable(error) => pruned.audio_stays = Some(error.to_string()),
        }
    }
    // Of the one reading: a manifest that cannot be read a second time would lose its audio.
    backups.sort_by(|a, b| (a.manifest.began_ms, &a.name).cmp(&(b.manifest.began_ms, &b.name)));
    let origin = |manifest: &Manifest| (manifest.cluster.clone(), manifest.node.clone());
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    let (mut kept, mut old, mut needed) = (Vec::new(), Vec::new(), BTreeSet::new());
    for backup in backups.into_iter().rev() {
        let count = counts.entry(origin(&backup.manifest)).or_default();
        if *count >= keep && made != Some(backup.name.as_str()) {
            old.push(backup);
            continue;
        }
        match audio_of(&backup) {
            // One of a node without all records is no newer state of it.
            Ok(audio) => {
                needed.extend(audio.0.into_keys());
                *count += usize::from(backup.manifest.has_all_records);
            }
            Err(error) if error.is_of_destination() => return Err(error),
            Err(error) => pruned.audio_stays = Some(error.to_string()),
        }
        kept.push(backup);
    }
    kept.reverse();
    for backup in old.into_iter().rev() {
        // Without its manifest it counts as interrupted, so that a removal that does not end is ended later.
        let dir = backup.dir();
        lock.check()?;
        place.remove(&[format!("{dir}/{MANIFEST}")])?;
        place.sync(&dir)?;
        place.remove_folder(&dir)?;
        pruned.removed.push(backup.name);
    }
    folder.sync()?;
    if pruned.audio_stays.is_none() {
        (pruned.audio, pruned.bytes) = folder.audio().retain(&needed, lock)?;
    }
    pruned.kept = kept.into_iter().map(|backup| backup.name).collect();
    Ok(pruned)
}

/// The audio that a backup needs.
fn audio_of(backup: &Backup) -> Result<AudioList, BackupError> {
    AudioList::read(backup.place.as_ref(), &backup.dir(), &backup.manifest.audio.hash)
}

/// Removes audio that a failed backup copied, so that it does not stay on a disk that is short of space. It stays if another
/// backup needs it, or may need it: then a prune removes it. Blocks.
pub(crate) fn remove_copied(folder: &BackupFolder, copied: &BTreeSet<BlobHash>) {
    let remove = || {
        let _lock = folder.own()?;
        let mut backups = Vec::new();
        for entry in folder.entries()? {
            match entry.state {
                EntryState::Complete(manifest) => {
                    backups.push(Backup { name: entry.name, place: entry.place, manifest: *manifest });
                }
                EntryState::Unfinished => {}
                EntryState::Unreadable(error) => return Err(error),
            }
        }
        let mut needed = BTreeSet::new();
        for backup in &backups {
            needed.extend(audio_of(backup)?.0.into_keys());
        }
        folder.audio().remove(copied.difference(&needed))
    };
    if let Err(error) = remove() {
        tracing::warn!(dir = folder.location(), %error, "audio of a failed backup stays; 'twinbox backup prune' removes it");
    }
}

/// Refuses a backup of a time that is still to come: it would count as the newest one for as long, in place of right ones.
fn refuse_future(entry: &Entry) -> Result<(), BackupError> {
    match &entry.state {
        EntryState::Complete(manifest) if manifest.began_ms > wall().0.saturating_add(MOST_AHEAD_MS) => {
            Err(BackupError::FromFuture(entry.place.locate(&entry.dir())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicU32, Ordering::Relaxed},
    };

    use super::*;

    /// A lock that is lost after this many checks.
    struct Lost(AtomicU32);

    impl Lock for Lost {
        fn check(&self) -> Result<(), BackupError> {
            let left = self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
            left.map(|_| ()).map_err(|_| BackupError::LockLost("s3://voicemail".into()))
        }

        fn release(self: Box<Self>) {}
    }

    #[test]
    fn nothing_is_removed_after_the_lock_was_lost() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = BackupFolder::at(dir.path());
        let files = [
            "backups/20260101T000000.000Z-a/rows".to_owned(),
            "backups/20260102T000000.000Z-a/rows".to_owned(),
            format!("audio/ab/{}", "ab".repeat(32)),
        ];
        for file in &files {
            let file = dir.path().join(file);
            fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            fs::write(file, wall().0.to_string()).expect("written");
        }
        for left in (1..=files.len()).rev() {
            let lost = under_lock(&folder, NonZeroU32::MIN, None, &Lost(AtomicU32::new(u32::from(left < 3))));
            assert!(matches!(lost, Err(BackupError::LockLost(_))), "{lost:?}");
            let stay = files.iter().filter(|file| dir.path().join(file).exists()).count();
            assert_eq!(stay, left);
        }
    }
}
