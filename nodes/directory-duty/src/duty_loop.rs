//! Runs one worker per directory while this node holds the duty.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::{Id, JoinSet},
    time::{sleep, timeout},
};
use tracing::{error, info, warn};
use twinbox_clock::BootInstant;
use twinbox_directory_store::DirectoryStore;
use twinbox_duty_service::Progress;
use twinbox_ids::{DirectoryId, Epoch};
use twinbox_mailbox::StoredDirectory;

use crate::{
    service::DutyParts,
    worker::{ALARMS, Worker},
};

/// Interval of the loop, so that a hung loop differs from an idle one.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Maximum wait for commits under way after the duty was lost.
const FINISH_WITHIN: Duration = Duration::from_secs(5);
/// Maximum number of directories.
const MOST_DIRECTORIES: usize = 32;
/// Maximum number of runs at a time: each holds the people of its directory in memory. A run whose server is slow does
/// not count while it waits: the bounds of the people of one directory hold for it.
const RUNS_AT_A_TIME: usize = 4;

/// The loop of the duty.
pub(crate) struct DutyLoop {
    parts: DutyParts,
    progress: Arc<Progress>,
    runs: Arc<Semaphore>,
}

/// The workers of one epoch.
#[derive(Default)]
struct Workers {
    tasks: JoinSet<()>,
    directories: HashMap<Id, DirectoryId>,
}

impl DutyLoop {
    pub(crate) fn new(parts: DutyParts, progress: Arc<Progress>) -> Self {
        Self { parts, progress, runs: Arc::new(Semaphore::new(RUNS_AT_A_TIME)) }
    }

    pub(crate) async fn serve(self) {
        let mut holding = self.parts.gate.holding();
        // An alarm of an earlier process of this node ends when another node holds the duty.
        let mut cleared = false;
        loop {
            self.progress.turn();
            let epoch = match timeout(HEARTBEAT, holding.wait_for(Option::is_some)).await {
                Ok(Ok(epoch)) => epoch.clone(),
                Ok(Err(_)) => return,
                Err(_) => {
                    cleared = cleared || self.clear_alarms();
                    continue;
                }
            };
            let Some(epoch) = epoch else { continue };
            info!(%epoch, "duty held; synchronising directories");
            self.parts.orders.open();
            let mut workers = Workers::default();
            let gate = self.parts.gate.clone();
            tokio::select! {
                biased;
                () = gate.lost(&epoch) => {}
                () = self.hold(&epoch, &mut workers) => {}
            }
            self.parts.orders.close("the duty moved to another node, which goes on: see 'twinbox directory runs'");
            // Workers end at the next step; a commit under way is finished.
            let begun = BootInstant::now();
            while begun.elapsed() < FINISH_WITHIN && !workers.tasks.is_empty() {
                self.progress.turn();
                let _ = timeout(HEARTBEAT, workers.tasks.join_next()).await;
            }
            cleared = self.clear_alarms();
            info!(%epoch, "duty not held any more");
        }
    }

    /// Keeps a worker for each directory until it is dropped.
    async fn hold(&self, epoch: &Epoch, workers: &mut Workers) {
        let mut names = HashMap::new();
        loop {
            self.progress.turn();
            match self.directories() {
                Ok(directories) => self.match_workers(epoch, workers, &directories, &mut names),
                Err(error) => warn!(%error, "directories cannot be read; retrying"),
            }
            if let Ok(Some(ended)) = timeout(HEARTBEAT, workers.tasks.join_next_with_id()).await {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(failed) => {
                        error!(error = %failed, "task of a directory has ended unexpectedly; starting it again");
                        sleep(HEARTBEAT).await;
                        failed.id()
                    }
                };
                workers.directories.remove(&id);
            } else if workers.tasks.is_empty() {
                // Without workers there is nothing to wait for in the join set.
                sleep(HEARTBEAT).await;
            }
        }
    }

    /// Starts workers of new directories. A worker ends when it finds its directory removed.
    fn match_workers(
        &self,
        epoch: &Epoch,
        workers: &mut Workers,
        directories: &[StoredDirectory],
        names: &mut HashMap<DirectoryId, String>,
    ) {
        if directories.len() > MOST_DIRECTORIES {
            warn!(most = MOST_DIRECTORIES, "there are too many directories; the last ones are not synchronised");
        }
        let have: HashSet<DirectoryId> = workers.directories.values().copied().collect();
        for directory in directories.iter().take(MOST_DIRECTORIES) {
            if have.contains(&directory.id) {
                continue;
            }
            let worker = Worker::new(self.parts.clone(), directory.id, epoch.clone(), self.runs.clone());
            let task = workers.tasks.spawn(worker.serve());
            workers.directories.insert(task.id(), directory.id);
        }
        // The alarms of a name that no directory has any more would stay.
        let now: HashMap<_, _> = directories.iter().map(|of| (of.id, of.name.clone())).collect();
        for (_, name) in names.iter().filter(|(id, name)| now.get(*id) != Some(*name)) {
            ALARMS.into_iter().for_each(|code| self.parts.alarms.clear(code, name.as_str()));
        }
        *names = now;
    }

    /// Ends the alarms of this node about directories; false if they cannot be read now.
    fn clear_alarms(&self) -> bool {
        if !self.parts.mailstore.has_all_records() {
            return false;
        }
        let Ok(directories) = self.directories() else { return false };
        for directory in directories {
            ALARMS.into_iter().for_each(|code| self.parts.alarms.clear(code, directory.name.as_str()));
        }
        true
    }

    fn directories(&self) -> Result<Vec<StoredDirectory>, twinbox_mailstore::MailError> {
        DirectoryStore::of(&self.parts.mailstore).directories()
    }
}
