//! Builds the duty `timetable`: the work of each kind of job, in one list.

use std::{path::PathBuf, sync::Arc};

use twinbox_admin_api::{DirectoryOrders, MwiResync};
use twinbox_diagnostics::comparison::Comparison;
use twinbox_reports::{ReportSource, ReportWork};
use twinbox_roles::{Duty, Roles};
use twinbox_settings_service::SharedSettings;
use twinbox_timetable::JobKind;
use twinbox_timetable_duty::{JobOrder, JobWork, TimetableDuty, Works, ageing, backup, quota_warnings};

/// The duty `timetable`. It runs on every node; the publisher's jobs run only behind its gate.
pub(crate) fn build(
    settings: &SharedSettings,
    data_dir: PathBuf,
    roles: &Roles,
    work: ReportWork,
    resync: MwiResync,
    directories: DirectoryOrders,
    comparison: Arc<Comparison>,
) -> TimetableDuty {
    let ReportWork { source: ReportSource { mailstore, alarms }, mails, .. } = work.clone();
    let services = settings.clone();
    let open = move |destination: &str| {
        services.services().backup_folder(destination).map(|folder| folder.outside(&data_dir))
    };
    let works = Works::default()
        .with(JobKind::Ageing, by_clock(comparison, ageing(mailstore.clone(), mails.clone())))
        .with(JobKind::QuotaWarnings, quota_warnings(mailstore.clone(), alarms.clone(), mails))
        .with(JobKind::MwiResync, mwi_resync(resync))
        .with(JobKind::DirectorySync, directory_sync(directories))
        .with(JobKind::Report, report(work))
        .with(JobKind::Backup, backup(mailstore.clone(), open));
    TimetableDuty::new(mailstore, roles.gate(Duty::Timetable), alarms, works)
}

/// Work that deletes by age: only while this node's clock agrees with those of the others (rule D5).
fn by_clock(comparison: Arc<Comparison>, work: impl JobWork) -> impl JobWork {
    move |order: JobOrder| {
        let (comparison, run) = (comparison.clone(), work.run(order));
        async move {
            comparison
                .compared_clock()
                .await
                .map_err(|reason| format!("nothing is deleted: the clock of this node {reason}"))?;
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
            work.carry_out(&order.job, order.due, order.missed).await
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
