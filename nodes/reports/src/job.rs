//! The job `report` of the timetable: writes a report to a folder, and queues it as mails.

use std::{path::PathBuf, sync::Arc, time::Duration};

use twinbox_call_records::{Format, Query, ReportRange};
use twinbox_ids::{MailboxId, Pii, Timestamp};
use twinbox_mailstore::{SystemContent, SystemMail};
use twinbox_system_mail::{SystemMails, system_text};
use twinbox_timetable::{Job, MissedTimes};

use crate::{
    ReportSource, file,
    order::{Order, order},
};

/// The work of jobs of kind `report`.
#[derive(Clone)]
pub struct ReportWork {
    /// Sources of the reports.
    pub source: ReportSource,
    /// Queues the mails.
    pub mails: SystemMails,
    /// Time for which records of calls are kept, as it is at each call.
    pub keep: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl ReportWork {
    /// Writes the report of the time before `due`, and queues the mails with it, even if the file cannot be written. A repeated run
    /// replaces the file, and sends no second mail to an address. A report that makes up for `missed` ones covers the time since
    /// the last one, and says so. Returns the outcome for the history, or the reason of the failure.
    pub async fn carry_out(
        &self,
        job: &Job,
        due: Timestamp,
        missed: Option<MissedTimes>,
    ) -> Result<String, String> {
        let Order { query, range, makes_up, format, file, to } = order(job, due, missed, (self.keep)())?;
        let content = SystemContent::CallReport {
            job: job.name.clone(),
            report: query.kind.word().to_owned(),
            from: range.from,
            to: range.to,
            zone: job.zone.as_str().to_owned(),
            makes_up,
        };
        let heading = match (format, makes_up) {
            (Format::Table, true) => system_text(&content).body.into_revealed(),
            // Programs read the others.
            _ => String::new(),
        };
        let written = match file {
            Some(file) => Some(self.write(query, range, format, heading, file).await),
            None => None,
        };
        let queued = match to.is_empty() {
            false => Some(self.queue(job, due, content, to).await),
            true => None,
        };
        let said = makes_up.then(|| Ok("the report covers the time of missed ones, too".to_owned()));
        let parts: Vec<_> = [written, queued, said].into_iter().flatten().collect();
        let failed = parts.iter().any(Result::is_err);
        let texts: Vec<_> = parts.into_iter().map(|part| part.unwrap_or_else(|reason| reason)).collect();
        let text = texts.join("; ");
        if failed { Err(text) } else { Ok(text) }
    }

    /// Queues the mails to these addresses.
    async fn queue(
        &self,
        job: &Job,
        due: Timestamp,
        content: SystemContent,
        to: Vec<Pii<String>>,
    ) -> Result<String, String> {
        self.mails.ready().map_err(|error| error.to_string())?;
        let count = to.len();
        let mails = to.into_iter().map(|to| SystemMail { to, content: content.clone() }).collect();
        // Jobs have no mailbox: their ids are as random as those of mailboxes.
        let queued = self.mails.queue(MailboxId(job.id.0), due.0, mails).await;
        let queued = queued.map_err(|error| error.to_string())?;
        Ok(match count - queued {
            0 => format!("{queued} mails queued"),
            before => format!("{queued} mails queued, {before} were queued before"),
        })
    }

    async fn write(
        &self,
        query: Query,
        range: ReportRange,
        format: Format,
        heading: String,
        path: PathBuf,
    ) -> Result<String, String> {
        let report = self.source.make(query, range, None).await.map_err(|error| error.to_string())?;
        let text = heading + &format.render(&report);
        let cut = if report.truncated || report.next.is_some() { "; it is cut: give fewer days=" } else { "" };
        let shown = path.display().to_string();
        let written = tokio::task::spawn_blocking(move || file::write(&path, text.as_bytes())).await;
        match written {
            Ok(Ok(())) => Ok(format!("wrote {shown}{cut}")),
            Ok(Err(error)) => Err(format!("{shown} cannot be written: {error}; check folder= (docs/timetable.md)")),
            Err(_) => Err("the node is stopping".to_owned()),
        }
    }
}
