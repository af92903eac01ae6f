//! Removes old backups, those that were interrupted, and the audio that no backup needs any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use crate::{
    Backup, BackupError, BackupFolder, EntryState, Manifest, audio::AudioList, manifest::MANIFEST, place::Lock,
};

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

/// Keeps the newest `keep` complete backups of each node of each cluster, and the audio that they need; removes the rest.
/// Refused while another command works in the folder. A backup with an unreadable manifest stays, with all audio. Blocks.
pub fn prune(folder: &BackupFolder, keep: NonZeroU32) -> Result<Pruned, BackupError> {
    let lock = folder.own()?;
    let pruned = under_lock(folder, keep, lock.as_ref());
    lock.release();
    pruned
}

fn under_lock(folder: &BackupFolder, keep: NonZeroU32, lock: &dyn Lock) -> Result<Pruned, BackupError> {
    let place = folder.place().as_ref();
    let keep = usize::try_from(keep.get()).unwrap_or(usize::MAX);
    let (mut pruned, mut backups) = (Pruned::default(), Vec::new());
    for entry in folder.entries()? {
        let dir = entry.dir();
        match entry.state {
            EntryState::Complete(manifest) => {
                backups.push(Backup { name: entry.name, place: entry.place, manifest: *manifest });
            }
            EntryState::Unfinished => {
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
    let (mut kept, mut old) = (Vec::new(), Vec::new());
    for backup in backups.into_iter().rev() {
        let count = counts.entry(origin(&backup.manifest)).or_default();
        *count += 1;
        if *count <= keep { kept.push(backup) } else { old.push(backup) }
    }
    kept.reverse();
    for backup in old.into_iter().rev() {
        // Without its manifest it counts as interrupted, so that a removal that does not end is ended later.
        let dir = backup.dir();
        place.remove(&[format!("{dir}/{MANIFEST}")])?;
        place.sync(&dir)?;
        place.remove_folder(&dir)?;
        pruned.removed.push(backup.name);
    }
    folder.sync()?;
    let mut needed = BTreeSet::new();
    for backup in &kept {
        match AudioList::read(place, &backup.dir(), &backup.manifest.audio.hash) {
            Ok(list) => needed.extend(list.0.into_keys()),
            Err(error) if error.is_of_destination() => return Err(error),
            Err(error) => pruned.audio_stays = Some(error.to_string()),
        }
    }
    if pruned.audio_stays.is_none() {
        lock.check()?;
        (pruned.audio, pruned.bytes) = folder.audio().retain(&needed)?;
    }
    pruned.kept = kept.into_iter().map(|backup| backup.name).collect();
    Ok(pruned)
}
