//! Builds the duty `timetable`: the work of each kind of job, in one list.

use std::{num::NonZeroU32, sync::Arc};

use twinbox_admin_api::{DirectoryOrders, MwiResync};
use twinbox_backup::{BackupError, BackupFolder, Created, Observer, Progress, S3Settings};
use twinbox_config::NodeConfig;
use twinbox_diagnostics::comparison::Comparison;
use twinbox_mailstore::Mailstore;
use twinbox_reports::{ReportSource, ReportWork};
use twinbox_roles::{Duty, Roles};
use twinbox_timetable::JobKind;
use twinbox_timetable_duty::{JobOrder, JobWork, TimetableDuty, Works, ageing, quota_warnings};

/// The duty `timetable`. It runs on every node; the publisher's jobs run only behind its gate.
pub(crate) fn build(
    config: &NodeConfig,
    roles: &Roles,
    work: ReportWork,
    resync: MwiResync,
    directories: DirectoryOrders,
    comparison: Arc<Comparison>,
) -> TimetableDuty {
    let ReportWork { source: ReportSource { mailstore, alarms }, mails } = work.clone();
    let works = Works::default()
        .with(JobKind::Ageing, by_clock(comparison, ageing(mailstore.clone(), mails.clone())))
        .with(JobKind::QuotaWarnings, quota_warnings(mailstore.clone(), alarms.clone(), mails))
        .with(JobKind::MwiResync, mwi_resync(resync))
        .with(JobKind::DirectorySync, directory_sync(directories))
        .with(JobKind::Report, report(work))
        .with(JobKind::Backup, backup(mailstore.clone(), config.backup_s3.clone()));
    TimetableDuty::new(mailstore, roles.gate(Duty::Timetable), alarms, works)
}

/// Work that deletes by age: only while this node's clock agrees with those of the others (rule D5).
fn by_clock(comparison: Arc<Comparison>, work: impl JobWork) -> impl JobWork {
    move |order: JobOrder| {
        let (fits, run) = (comparison.clock(), work.run(order));
        async move {
            fits.map_err(|reason| format!("nothing is deleted: the clock of this node {reason}"))?;
            run.await
        }
    }
}

/// Writes a report to a folder, and sends it by mail.
fn report(work: ReportWork) -> impl JobWork {
    move |order: JobOrder| {
        let work = work.clone();
        async move {
            order.check()?;
            work.carry_out(&order.job, order.due).await
        }
    }
}

/// Writes a backup to a folder of this node or to a bucket, then removes old ones: not after one that lacks audio.
fn backup(mailstore: Mailstore, s3: Option<S3Settings>) -> impl JobWork {
    move |order: JobOrder| {
        let (mailstore, s3) = (mailstore.clone(), s3.clone());
        async move {
            order.check()?;
            let arguments = &order.job.arguments;
            let dir = arguments.get("dir").ok_or("the job has no dir=")?;
            let keep = arguments.get("keep").map(|keep| keep.parse::<NonZeroU32>());
            let keep = keep.transpose().map_err(|error| format!("keep= is not a number of backups: {error}"))?;
            if !mailstore.has_all_records() {
                return Err("this node still receives records of the others".to_owned());
            }
            let folder = BackupFolder::open(dir, s3.as_ref()).map_err(|error| error.to_string())?;
            let silent: Observer = Arc::new(|_: Progress| {});
            let made = twinbox_backup::create(&mailstore, &folder, env!("CARGO_PKG_VERSION"), &silent).await;
            let Created { name, location, manifest } = made.map_err(|error| error.to_string())?;
            let (lost, audio) = (manifest.audio.missing.len(), &manifest.audio);
            if lost > 0 {
                return Err(format!("{location} lacks {lost} recordings, which no node has; nothing was pruned"));
            }
            let made = format!(
                "{name}: {} records, {} new of {} recordings",
                manifest.records(),
                audio.copied,
                audio.count
            );
            let Some(keep) = keep else { return Ok(made) };
            let pruned = tokio::task::spawn_blocking(move || twinbox_backup::prune(&folder, keep)).await;
            match pruned.map_err(|_| "the node is stopping".to_owned())? {
                Ok(pruned) => Ok(format!("{made}; {} old backups removed", pruned.removed.len())),
                // The job of another node, whose backup prunes too.
                Err(BackupError::Busy(_) | BackupError::BusyBucket(_)) => {
                    Ok(format!("{made}; old backups stay: another command works in the folder"))
                }
                Err(error) => Err(format!("{made}; old backups stay: {error}")),
            }
        }
    }
}

/// Has the holder of the duty `notifier`, this node or another, send all MWI states again.
fn mwi_resync(resync: MwiResync) -> impl JobWork {
    move |order: JobOrder| {
        let resync = resync.clone();
        async move {
            order.check()?;
            let (holder, states) = resync.resync(None).await.map_err(|status| status.message().to_owned())?;
            Ok::<_, String>(format!("{holder} sends {states} states"))
        }
    }
}

/// Has the holder of the duty `directory-sync`, this node or another, search directories as a whole.
fn directory_sync(directories: DirectoryOrders) -> impl JobWork {
    move |order: JobOrder| {
        let directories = directories.clone();
        async move {
            order.check()?;
            let name = order.job.arguments.get("directory").cloned();
            directories.run(name.as_deref()).await
        }
    }
}
