//! Backups: makes one, then removes old ones.

use std::{num::NonZeroU32, sync::Arc};

use twinbox_backup::{BackupError, BackupFolder, Created, Observer, Progress, Pruned, create, prune};
use twinbox_ids::counted;
use twinbox_mailstore::Mailstore;

use crate::{JobOrder, JobWork};

/// The work of the kind `backup`: writes a backup to a folder of this node or to a bucket, then removes old ones, but not after
/// a backup that lacks audio. `open` opens the destination, as administrators write it, by the settings of the moment.
pub fn backup<F>(mailstore: Mailstore, open: F) -> impl JobWork
where
    F: Fn(&str) -> Result<BackupFolder, BackupError> + Send + Sync + 'static,
{
    let open = Arc::new(open);
    move |order| back_up(mailstore.clone(), open.clone(), order)
}

async fn back_up<F>(mailstore: Mailstore, open: Arc<F>, order: JobOrder) -> Result<String, String>
where
    F: Fn(&str) -> Result<BackupFolder, BackupError> + Send + Sync + 'static,
{
    order.check()?;
    let dir = order.argument("dir").ok_or("the job has no dir=")?;
    let keep = order.argument("keep").map(str::parse::<NonZeroU32>);
    let keep = keep.transpose().map_err(|error| format!("keep= is not a number of backups: {error}"))?;
    if !mailstore.has_all_records() {
        return Err("this node still receives records of the others".to_owned());
    }
    let folder = open(dir).map_err(|error| error.to_string())?;
    let silent: Observer = Arc::new(|_: Progress| {});
    let made = create(&mailstore, &folder, env!("CARGO_PKG_VERSION"), &silent).await;
    let Created { name, location, manifest } = made.map_err(|error| error.to_string())?;
    let (lost, audio) = (manifest.audio.missing.len(), &manifest.audio);
    if lost > 0 {
        return Err(format!(
            "{location} lacks {}, which no node has; nothing was pruned",
            counted(lost, "recording")
        ));
    }
    let made =
        format!("{name}: {} records, {} new of {} recordings", manifest.records(), audio.copied, audio.count);
    let Some(keep) = keep else { return Ok(made) };
    let pruned = tokio::task::spawn_blocking(move || prune(&folder, keep, Some(&name))).await;
    match pruned.map_err(|_| "the node is stopping".to_owned())? {
        Ok(Pruned { audio_stays: Some(reason), .. }) => {
            Err(format!("{made}; no recordings were removed: {reason}"))
        }
        Ok(pruned) => Ok(format!("{made}; {} removed", counted(pruned.removed.len(), "old backup"))),
        // The job of another node, whose backup prunes too.
        Err(BackupError::Busy(_) | BackupError::BusyBucket(_)) => {
            Ok(format!("{made}; old backups stay: another command works in the folder"))
        }
        Err(error) => Err(format!("{made}; old backups stay: {error}")),
    }
}
