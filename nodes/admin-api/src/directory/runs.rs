//! Runs of directories: ordered from the holder of the duty, wherever it is, and their history.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tonic::{Code, Status};
use tracing::info;
use twinbox_admin_kit::holder;
use twinbox_directory_core::{AdoptBy, Setting};
use twinbox_directory_duty::{DirectoryDuty, RunReport, SyncOrder};
use twinbox_directory_store::DirectoryStore;
use twinbox_ids::{DirectoryId, NodeName};
use twinbox_mailbox::{RunCounts, StoredDirectory, StoredRun};
use twinbox_mailstore::Mailstore;
use twinbox_members::MemberClients;
use twinbox_roles::{Duty, Roles};
use twinbox_wire::{
    admin::{SyncDirectoryReply, SyncDirectoryRequest},
    directory::{self, DirectoryRun, DirectoryRunsReply, DirectorySyncReply, DirectorySyncRequest},
};

use super::records;
use crate::{AdminHandles, admin::internal};

/// Maximum wait for the end of a run in one request: an administrator's command asks again.
const ENDED_WITHIN: Duration = Duration::from_secs(5);
/// Timeout for the answer of the holder, beyond that wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Way to the holder of the duty `directory-sync`.
#[derive(Clone)]
pub struct DirectoryOrders {
    /// Name of this node.
    pub name: NodeName,
    /// Role manager.
    pub roles: Roles,
    /// Connections to the other members.
    pub members: Arc<MemberClients>,
    /// Store with the directories and their runs.
    pub mailstore: Mailstore,
    /// The duty on this node.
    pub duty: DirectoryDuty,
}

impl DirectoryOrders {
    pub(crate) fn new(node: &AdminHandles) -> Self {
        Self {
            name: node.name.clone(),
            roles: node.roles.clone(),
            members: node.members.clone(),
            mailstore: node.mailstore.clone(),
            duty: node.directory_sync.clone(),
        }
    }

    /// Runs a full search of the directory with that name, or of all enabled ones, and waits for the end. Returns the
    /// outcomes as text; the error has those of all directories if one failed.
    pub fn run<'a>(&'a self, name: Option<&'a str>) -> BoxFuture<'a, Result<String, String>> {
        self.run_each(name).boxed()
    }

    async fn run_each(&self, name: Option<&str>) -> Result<String, String> {
        let directories = DirectoryStore::of(&self.mailstore).directories().map_err(|error| error.to_string())?;
        let is_meant = |directory: &StoredDirectory| match name {
            Some(name) => directory.name.eq_ignore_ascii_case(name),
            None => Setting::Enabled.text(&directory.settings) == "yes",
        };
        let meant: Vec<_> = directories.into_iter().filter(is_meant).collect();
        if let (true, Some(name)) = (meant.is_empty(), name) {
            return Err(format!("there is no directory '{name}': see 'twinbox directory list'"));
        }
        let (mut outcomes, mut well) = (Vec::new(), true);
        for directory in meant {
            let order = SyncDirectoryRequest {
                directory: directory.id.to_bytes().to_vec().into(),
                ..SyncDirectoryRequest::default()
            };
            let outcome = match self.to_the_end(&directory, order).await {
                Ok(reply) => reply.outcome,
                Err(status) => format!("failed: {}", status.message()),
            };
            well = well && outcome == "done";
            outcomes.push(format!("{}: {outcome}", directory.name));
        }
        let text = if outcomes.is_empty() { "no directory is enabled".to_owned() } else { outcomes.join("; ") };
        if well { Ok(text) } else { Err(text) }
    }

    async fn to_the_end(
        &self,
        directory: &StoredDirectory,
        mut order: SyncDirectoryRequest,
    ) -> Result<DirectorySyncReply, Status> {
        loop {
            let reply = self.ask(directory, order.clone()).await?;
            if reply.ended {
                return Ok(reply);
            }
            order.run = reply.run;
        }
    }

    /// Orders a run from the holder, or asks it for the outcome of one.
    async fn ask(
        &self,
        directory: &StoredDirectory,
        order: SyncDirectoryRequest,
    ) -> Result<DirectorySyncReply, Status> {
        let holder = holder::of(&self.roles, Duty::DirectorySync)?;
        let run = order.run;
        let answered = if holder == self.name {
            answer(&self.duty, order).await
        } else {
            self.ask_other(&holder, order).await
        };
        match answered {
            Ok(reply) => Ok(shown(&holder, reply)),
            // The duty has moved, or the run was long ago: the history of runs is on every node.
            Err(status) if run != 0 && status.code() == Code::NotFound => self.stored(&holder, directory, run),
            Err(status) => Err(holder::refused(Duty::DirectorySync, &holder, &status)),
        }
    }

    async fn ask_other(
        &self,
        holder: &NodeName,
        request: SyncDirectoryRequest,
    ) -> Result<SyncDirectoryReply, Status> {
        let mut client = holder::client(&self.members, holder)?;
        let answer = tokio::time::timeout(ANSWER_WITHIN, client.sync_directory(request)).await;
        answer.unwrap_or_else(|_| Err(Status::unavailable("no answer in time"))).map(tonic::Response::into_inner)
    }

    /// The outcome of a run from the history, without its lines.
    fn stored(
        &self,
        holder: &NodeName,
        directory: &StoredDirectory,
        run: u64,
    ) -> Result<DirectorySyncReply, Status> {
        let found = DirectoryStore::of(&self.mailstore).run(directory.id, run).map_err(internal)?;
        let Some(found) = found.filter(|stored| stored.ended.is_some()) else {
            return Err(Status::failed_precondition(format!(
                "the duty directory-sync moved to {holder} during run {run}, and {holder} goes on with directory \
                 '{0}': give the command again, or see 'twinbox directory runs {0}'",
                directory.name
            )));
        };
        Ok(DirectorySyncReply {
            node: holder.to_string(),
            run,
            ended: true,
            outcome: found.outcome,
            counts: Some(counts(found.counts)),
            lines: Vec::new(),
            more_lines: 0,
        })
    }
}

/// Orders a run from the holder of the duty, or reports on one.
pub async fn sync(node: &AdminHandles, request: DirectorySyncRequest) -> Result<DirectorySyncReply, Status> {
    let directory = records::find(node, &request.name)?;
    adopt_by(&request.adopt_by)?;
    if request.run == 0 && request.accept_deletions != 0 {
        let runs = DirectoryStore::of(&node.mailstore).runs(directory.id).map_err(internal)?;
        may_accept(&runs, request.accept_deletions, request.dry_run)?;
    }
    if request.run == 0 {
        info!(directory = %directory.id, dry_run = request.dry_run, "administrator has a directory synchronised");
    }
    let order = SyncDirectoryRequest {
        directory: directory.id.to_bytes().to_vec().into(),
        dry_run: request.dry_run,
        adopt_by: request.adopt_by,
        accept_deletions: request.accept_deletions,
        run: request.run,
    };
    DirectoryOrders::new(node).ask(&directory, order).await
}

/// Answers another member, or this node's administrator.
pub async fn answer(duty: &DirectoryDuty, request: SyncDirectoryRequest) -> Result<SyncDirectoryReply, Status> {
    let directory = DirectoryId::from_slice(&request.directory)
        .ok_or_else(|| Status::invalid_argument("a directory has an id of 16 bytes"))?;
    let order = SyncOrder {
        dry_run: request.dry_run,
        adopt_by: adopt_by(&request.adopt_by)?,
        accept_deletions: Some(request.accept_deletions).filter(|run| *run != 0),
    };
    let run = match request.run {
        0 => {
            let run = duty.order(directory, order);
            run.map_err(|error| Status::failed_precondition(error.to_string()))?
        }
        run => run,
    };
    let report = duty.report(directory, run, ENDED_WITHIN).await;
    let report = report.ok_or_else(|| Status::not_found(format!("run {run} is not known here")))?;
    let RunReport { run, ended, outcome, counts, lines, more_lines } = report;
    let RunCounts { new, changed, disabled, gone, returned, refused, unchanged } = counts;
    let counts = vec![new, changed, disabled, gone, returned, refused, unchanged];
    Ok(SyncDirectoryReply { run, ended, outcome, counts, lines, more_lines })
}

/// The runs of a directory, the latest first.
pub fn list(node: &AdminHandles, name: &str) -> Result<DirectoryRunsReply, Status> {
    let directory = records::find(node, name)?;
    let runs = DirectoryStore::of(&node.mailstore).runs(directory.id).map_err(internal)?;
    Ok(DirectoryRunsReply { runs: runs.into_iter().map(shown_run).collect() })
}

fn adopt_by(word: &str) -> Result<Option<AdoptBy>, Status> {
    if word.is_empty() {
        return Ok(None);
    }
    let found = AdoptBy::ALL.into_iter().find(|field| field.word() == word);
    found.map(Some).ok_or_else(|| {
        let words = AdoptBy::ALL.map(AdoptBy::word).join(", ");
        Status::invalid_argument(format!("'{word}' is not a field by which users are adopted: use one of {words}"))
    })
}

/// Checks that deletions of that run can be accepted.
fn may_accept(runs: &[StoredRun], accepted: u64, dry_run: bool) -> Result<(), Status> {
    if dry_run {
        return Err(Status::invalid_argument(
            "a dry run deletes nothing: leave out --dry-run or --accept-deletions",
        ));
    }
    let Some(run) = runs.iter().find(|run| run.run == accepted) else {
        let text =
            format!("there is no run {accepted} of this directory: 'twinbox directory runs NAME' lists them");
        return Err(Status::not_found(text));
    };
    match run.dry || run.outcome == "held-back" {
        true => Ok(()),
        false => Err(Status::failed_precondition(format!(
            "run {accepted} was not stopped and is not a dry run: there is nothing in it to accept"
        ))),
    }
}

fn shown(holder: &NodeName, reply: SyncDirectoryReply) -> DirectorySyncReply {
    let SyncDirectoryReply { run, ended, outcome, counts: numbers, lines, more_lines } = reply;
    // A newer member may send more numbers.
    let mut known = [0; 7];
    known.iter_mut().zip(numbers).for_each(|(known, number)| *known = number);
    let [new, changed, disabled, gone, returned, refused, unchanged] = known;
    let counts = Some(directory::RunCounts { new, changed, disabled, gone, returned, refused, unchanged });
    DirectorySyncReply { node: holder.to_string(), run, ended, outcome, counts, lines, more_lines }
}

fn shown_run(run: StoredRun) -> DirectoryRun {
    DirectoryRun {
        run: run.run,
        began_ms: run.began.0,
        ended_ms: run.ended.map_or(0, |ended| ended.0),
        dry: run.dry,
        outcome: run.outcome,
        counts: Some(counts(run.counts)),
        accepted: run.accepted,
    }
}

fn counts(counts: RunCounts) -> directory::RunCounts {
    let RunCounts { new, changed, disabled, gone, returned, refused, unchanged } = counts;
    directory::RunCounts { new, changed, disabled, gone, returned, refused, unchanged }
}

#[cfg(test)]
mod tests {
    use twinbox_ids::Timestamp;

    use super::*;

    fn run(number: u64, dry: bool, outcome: &str) -> StoredRun {
        StoredRun {
            directory: DirectoryId(1),
            run: number,
            began: Timestamp(number),
            ended: Some(Timestamp(number + 1)),
            dry,
            outcome: outcome.to_owned(),
            counts: RunCounts::default(),
            accepted: false,
            digest: [0; 32],
        }
    }

    #[test]
    fn deletions_are_accepted_of_dry_and_of_stopped_runs_only() {
        let runs = [run(7, true, "done"), run(8, false, "held-back"), run(9, false, "done")];
        assert!(may_accept(&runs, 7, false).is_ok() && may_accept(&runs, 8, false).is_ok());
        for (number, dry, part) in [(9, false, "nothing in it"), (10, false, "no run 10"), (7, true, "--dry-run")] {
            let refused = may_accept(&runs, number, dry).expect_err(part);
            assert!(refused.message().contains(part), "{}", refused.message());
        }
    }

    #[test]
    fn reply_of_a_newer_or_older_holder_is_shown() {
        let holder: NodeName = "b".parse().expect("a name");
        for numbers in [vec![1, 2, 3, 4, 5, 6, 7, 8], vec![1]] {
            let reply = SyncDirectoryReply { run: 5, counts: numbers, ..SyncDirectoryReply::default() };
            let shown = shown(&holder, reply);
            assert_eq!((shown.run, shown.counts.expect("counts").new), (5, 1));
        }
    }
}
