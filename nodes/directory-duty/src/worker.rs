//! The worker of one directory in one epoch: decides the next step, does it, and records the result.

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{sleep, timeout},
};
use tracing::{info, warn};
use twinbox_alarms::Code;
use twinbox_clock::wall;
use twinbox_directory_core::{DirectorySettings, Flavour, Present, Scope};
use twinbox_directory_service::Cursor;
use twinbox_directory_store::DirectoryStore;
use twinbox_ids::{DirectoryId, Epoch, Timestamp};
use twinbox_mailbox::{BindingState, EntryId, StoredDirectory, StoredRun, SyncState};
use twinbox_mailstore::MailError;

use crate::{
    decide::{Facts, Next, Work, decide, finds_otherwise, reread_is_due, retry_at, settling_is_due},
    follow::{Follower, Gathered},
    found::{Answer, Found, read},
    orders::{Ordered, RunReport},
    run::{Ended, Run, RunError},
    service::DutyParts,
};

/// Alarms of a directory, whose subject is its name.
pub(crate) const ALARMS: [Code; 3] =
    [Code::DirectoryUnreachable, Code::DirectoryHeldBack, Code::DirectoryConflicts];
/// Longest pause until the settings are read again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Time for which a run that waits for its server counts among those that may be under way at a time.
const LONGEST_TURN: Duration = Duration::from_secs(10);
/// Pause after the store could not be read.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// The worker of one directory.
pub(crate) struct Worker {
    parts: DutyParts,
    id: DirectoryId,
    epoch: Epoch,
    runs: Arc<Semaphore>,
    /// Failures in a row, with the time of the next attempt.
    failures: u32,
    not_before: Option<Timestamp>,
    /// Kind of the server that answered last.
    flavour: Option<Flavour>,
    /// Failures to follow the server in a row, with the time of the next attempt: meanwhile changes are searched for.
    follow_failures: u32,
    no_follow_before: Option<Timestamp>,
    /// The server ended a connection that reported changes: the next step searches for changes.
    catch_up: bool,
    /// The server cannot report changes since the stored position, or the latest ones cannot be judged alone.
    needs_full: bool,
    /// Changes of users were refused for what others have, since the latest full search.
    unsettled: bool,
    /// Settings were changed since the latest full search, and all entries may have other users now.
    finds_otherwise: bool,
    compared: Option<Timestamp>,
    /// Settings with which the latest attempt was made: changed ones are tried at once.
    tried_with: Option<StoredDirectory>,
    /// Digest of the losses for which the latest run was stopped.
    held: Option<[u8; 32]>,
}

impl Worker {
    pub(crate) fn new(parts: DutyParts, id: DirectoryId, epoch: Epoch, runs: Arc<Semaphore>) -> Self {
        Self {
            parts,
            id,
            epoch,
            runs,
            failures: 0,
            not_before: None,
            flavour: None,
            follow_failures: 0,
            no_follow_before: None,
            catch_up: false,
            needs_full: false,
            unsettled: false,
            finds_otherwise: false,
            compared: None,
            tried_with: None,
            held: None,
        }
    }

    /// Works until the epoch ends or the directory is removed.
    pub(crate) async fn serve(mut self) {
        let (gate, epoch) = (self.parts.gate.clone(), self.epoch.clone());
        let mut orders = self.parts.orders.watch();
        while gate.check(&epoch).is_ok() {
            let now = wall();
            let pause = match self.next(now) {
                Ok(None) => return,
                Ok(Some((directory, Next::Run(work)))) => {
                    self.work(&directory, work).await;
                    continue;
                }
                Ok(Some((_, Next::Wait(until)))) => {
                    Duration::from_millis(until.0.saturating_sub(now.0)).min(LOOK_AGAIN)
                }
                Err(error) => {
                    warn!(directory = %self.id, %error, "directory cannot be read from the store; retrying");
                    READ_AGAIN
                }
            };
            tokio::select! {
                () = gate.lost(&epoch) => return,
                _ = orders.changed() => {}
                // Never without a pause, whatever the clock says.
                () = sleep(pause.max(Duration::from_millis(10))) => {}
            }
        }
    }

    /// The next step; `None`: the directory was removed.
    fn next(&mut self, now: Timestamp) -> Result<Option<(StoredDirectory, Next)>, MailError> {
        if !self.parts.mailstore.has_all_records() {
            return Err(MailError::LacksRecords);
        }
        let Some(directory) = self.parts.mailstore.directory(self.id)? else { return Ok(None) };
        let state = DirectoryStore::of(&self.parts.mailstore).sync_state(self.id)?;
        // Settings that cannot be read are tried, so that the failure is recorded.
        let settings = DirectorySettings::from_settings(&directory.settings).ok();
        if let Some(tried) = self.tried_with.take_if(|tried| *tried != directory) {
            (self.failures, self.not_before) = (0, None);
            let both = DirectorySettings::from_settings(&tried.settings).ok().zip(settings.as_ref());
            self.finds_otherwise |= both.is_none_or(|(before, after)| finds_otherwise(&before, after));
            if settings.as_ref().is_some_and(|settings| !settings.enabled) {
                // Nothing is expected of it, until a run is ordered.
                ALARMS.into_iter().for_each(|code| self.parts.alarms.clear(code, directory.name.as_str()));
            }
        }
        let facts = Facts {
            ordered: self.parts.orders.has(self.id),
            enabled: settings.as_ref().is_none_or(|settings| settings.enabled),
            has_cursor: !self.needs_full && cursor(&state).is_some(),
            follows: self.flavour == Some(Flavour::OpenLdap)
                && !self.catch_up
                && self.no_follow_before.is_none_or(|before| before <= now),
            compares: self.flavour == Some(Flavour::ActiveDirectory),
            rereads: matches!(self.flavour, Some(Flavour::OpenLdap | Flavour::ActiveDirectory)),
            full_at: state.full_at,
            every: settings.map_or(LOOK_AGAIN, |settings| settings.interval),
            succeeded: state.ended_at.filter(|_| !self.catch_up),
            compared: self.compared.max(state.full_at),
            unsettled: self.unsettled,
            finds_otherwise: self.finds_otherwise,
            not_before: self.not_before,
        };
        Ok(Some((directory, decide(&facts, now))))
    }

    /// Does one step, and records its result.
    async fn work(&mut self, directory: &StoredDirectory, work: Work) {
        let ordered = if work == Work::Full { self.parts.orders.next(self.id) } else { None };
        let run = ordered.as_ref().map_or_else(|| self.parts.orders.new_run(), |ordered| ordered.run);
        let began = wall();
        self.tried_with = Some(directory.clone());
        let result = self.attempt(directory, work, ordered.as_ref()).await;
        let order = ordered.as_ref().map(|ordered| &ordered.order);
        let dry = order.is_some_and(|order| order.dry_run);
        let accepted = order.is_some_and(|order| order.accept_deletions.is_some());
        let report = match &result {
            Ok(ended) => RunReport {
                run,
                ended: true,
                outcome: ended.outcome().to_owned(),
                counts: ended.counts,
                lines: ended.lines.clone(),
                more_lines: ended.more_lines,
            },
            Err(error) => {
                let outcome = format!("failed: {error}");
                RunReport { run, ended: true, outcome, ..RunReport::default() }
            }
        };
        let digest = result.as_ref().map_or([0; 32], |ended| ended.digest);
        let is_news = match &result {
            Ok(ended) if ended.held_back.is_some() => self.held != Some(ended.digest),
            Ok(ended) => ended.has_steps() || work == Work::Full,
            Err(_) => false,
        };
        if ordered.is_some() || is_news {
            let stored = StoredRun {
                directory: self.id,
                run,
                began,
                ended: Some(wall()),
                dry,
                outcome: report.outcome.clone(),
                counts: report.counts,
                accepted,
                digest,
            };
            self.record(stored).await;
        }
        if !dry {
            self.judge(directory, work, &result).await;
        }
        // The history has the run before its report ends: it can be accepted at once.
        if ordered.is_some() {
            self.parts.orders.ended(self.id, report);
        }
    }

    async fn attempt(
        &mut self,
        directory: &StoredDirectory,
        work: Work,
        ordered: Option<&Ordered>,
    ) -> Result<Ended, RunError> {
        let (parts, epoch, runs) = (self.parts.clone(), self.epoch.clone(), self.runs.clone());
        let settings = DirectorySettings::from_settings(&directory.settings)?;
        let run = Run { parts: &parts, directory, settings: &settings, epoch: &epoch };
        let order = ordered.map(|ordered| &ordered.order);
        let state = DirectoryStore::of(&parts.mailstore).sync_state(self.id)?;
        let cursor = cursor(&state);
        if let (Work::Follow, Some(cursor)) = (work, cursor.clone()) {
            return self.follow(&run, cursor).await;
        }
        // Not within the select below: a permit must outlive its commit.
        if work == Work::Full && order.is_none_or(|order| !order.dry_run) {
            DirectoryStore::of(&parts.mailstore).settle_directory(self.id, || run.permit()).await?;
        }
        let is_judged = order.is_some_and(|order| order.dry_run || order.accept_deletions.is_some());
        // Of more directories than may run at a time, some wait here.
        let reading = async {
            let turn = take_turn(&runs).await?;
            let users = run.users().await?;
            let entries = known(&users, self.id);
            let mut reading = pin!(read(&settings, work, cursor.as_ref(), &entries, is_judged));
            let at_turn = match timeout(LONGEST_TURN, &mut reading).await {
                Ok(answer) => (turn, users, answer?),
                // A server may take its time: it holds up no other directory meanwhile, and the users are read again.
                Err(_) => {
                    drop((turn, users));
                    let answer = reading.await?;
                    let turn = take_turn(&runs).await?;
                    (turn, run.users().await?, answer)
                }
            };
            Ok::<_, RunError>(at_turn)
        };
        let (_turn, users, Answer { found, flavour, note }) = tokio::select! {
            biased;
            () = parts.gate.lost(&epoch) => return Err(RunError::DutyLost),
            read = reading => read?,
        };
        self.flavour = Some(flavour);
        let mut ended = self.finish(&run, found, users, ordered).await?;
        if let Some(note) = note {
            ended.lines.insert(0, note);
        }
        Ok(ended)
    }

    /// Applies what a search found, and stores the position after it.
    async fn finish(
        &mut self,
        run: &Run<'_>,
        found: Found,
        users: Vec<Present>,
        ordered: Option<&Ordered>,
    ) -> Result<Ended, RunError> {
        let is_full = found.scope == Scope::Full;
        let cursor = found.cursor.clone();
        let order = ordered.map(|ordered| &ordered.order);
        let ended = run.apply(found, users, order).await?;
        if order.is_some_and(|order| order.dry_run) || ended.held_back.is_some() {
            return Ok(ended);
        }
        // Two users who exchange their numbers may arrive in two runs: only all entries together show it.
        self.unsettled |= ended.unsettled;
        let before = DirectoryStore::of(&self.parts.mailstore).sync_state(self.id)?;
        let now = wall();
        let state = SyncState {
            cursor: cursor.to_bytes(),
            full_at: if is_full { Some(now) } else { before.full_at },
            ended_at: Some(now),
            error: None,
        };
        let _permit = run.permit().ok_or(RunError::DutyLost)?;
        DirectoryStore::of(&self.parts.mailstore).set_sync_state(self.id, state, &self.epoch).await?;
        Ok(ended)
    }

    /// Follows the server until the connection, the epoch or the settings end. Each group of changes is a run.
    async fn follow(&mut self, run: &Run<'_>, cursor: Cursor) -> Result<Ended, RunError> {
        let users = run.users().await?;
        let mut follower = Follower::begin(run.settings, cursor, &known(&users, self.id));
        let (parts, epoch) = (self.parts.clone(), self.epoch.clone());
        loop {
            let gathered = tokio::select! {
                biased;
                () = parts.gate.lost(&epoch) => return Err(RunError::DutyLost),
                () = self.is_disturbed(run.directory) => return Ok(Ended::default()),
                gathered = follower.next(run.settings) => gathered?,
            };
            let found = match gathered {
                Gathered::Changes(found) => found,
                Gathered::NeedFull(reason) => {
                    info!(directory = %self.id, %reason, "changes cannot be read; reading the whole directory");
                    self.needs_full = true;
                    return Ok(Ended::default());
                }
            };
            self.follow_failures = 0;
            let users = run.users().await?;
            let began = wall();
            let done = self.finish(run, found, users, None).await?;
            if done.held_back.is_some() {
                return Ok(done);
            }
            self.well(run.directory);
            if done.has_steps() {
                self.parts.counts.done.fetch_add(1, Relaxed);
                self.record(StoredRun {
                    directory: self.id,
                    run: self.parts.orders.new_run(),
                    began,
                    ended: Some(wall()),
                    dry: false,
                    outcome: done.outcome().to_owned(),
                    counts: done.counts,
                    accepted: false,
                    digest: done.digest,
                })
                .await;
            }
            if done.unsettled {
                return Ok(Ended::default());
            }
        }
    }

    /// Resolves when an order waits, the directory has other settings, or it is to be read as a whole.
    async fn is_disturbed(&self, directory: &StoredDirectory) {
        let mut orders = self.parts.orders.watch();
        loop {
            let current = self.parts.mailstore.directory(self.id);
            let same = current.is_ok_and(|current| current.as_ref() == Some(directory));
            let state = DirectoryStore::of(&self.parts.mailstore).sync_state(self.id);
            let settings = DirectorySettings::from_settings(&directory.settings).ok();
            let every = settings.filter(|_| self.unsettled).map(|settings| settings.interval);
            let reread = state.is_ok_and(|SyncState { full_at, .. }| {
                reread_is_due(full_at, wall()) || every.is_some_and(|every| settling_is_due(full_at, every, wall()))
            });
            if !same || reread || self.parts.orders.has(self.id) {
                return;
            }
            tokio::select! {
                _ = orders.changed() => {}
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }

    async fn record(&self, run: StoredRun) {
        let Ok(_permit) = self.parts.gate.enter(&self.epoch) else { return };
        if let Err(error) = DirectoryStore::of(&self.parts.mailstore).write_run(run).await {
            warn!(directory = %self.id, %error, "run of a directory is not in its history");
        }
    }

    /// Counts the result, raises or clears alarms, and sets the time of the next attempt.
    async fn judge(&mut self, directory: &StoredDirectory, work: Work, result: &Result<Ended, RunError>) {
        let (alarms, counts) = (self.parts.alarms.clone(), self.parts.counts.clone());
        let name = directory.name.as_str();
        let now = wall();
        let failed = match result {
            Ok(Ended { held_back: Some(held), digest, .. }) => {
                counts.held_back.fetch_add(1, Relaxed);
                alarms.raise(Code::DirectoryHeldBack, name, held.to_string());
                alarms.clear(Code::DirectoryUnreachable, name);
                self.held = Some(*digest);
                held.to_string()
            }
            // Each group of changes has been judged in its turn.
            Ok(_) if work == Work::Follow => return,
            Ok(_) => {
                counts.done.fetch_add(1, Relaxed);
                self.well(directory);
                if matches!(work, Work::Full | Work::Compare) {
                    self.compared = Some(now);
                }
                self.catch_up = false;
                self.needs_full = self.needs_full && work != Work::Full;
                self.unsettled = self.unsettled && work != Work::Full;
                self.finds_otherwise = self.finds_otherwise && work != Work::Full;
                return;
            }
            Err(_) if self.parts.gate.check(&self.epoch).is_err() => return,
            Err(error) if work == Work::Follow => {
                info!(directory = %self.id, %error, "connection to a directory has ended; searching for changes");
                self.follow_failures = self.follow_failures.saturating_add(1);
                self.no_follow_before = Some(retry_at(self.follow_failures, rand::random(), now));
                self.catch_up = true;
                return;
            }
            Err(error) => {
                counts.failed.fetch_add(1, Relaxed);
                warn!(directory = %self.id, %error, "directory is not synchronised; retrying after a pause");
                // Names of the settings and addresses of servers, no entries.
                alarms.raise(Code::DirectoryUnreachable, name, error.to_string());
                error.to_string()
            }
        };
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(retry_at(self.failures, rand::random(), now));
        if let Err(error) = self.store_error(failed).await {
            warn!(directory = %self.id, %error, "error of a directory is not stored");
        }
    }

    /// The directory works: earlier failures and their alarms end.
    fn well(&mut self, directory: &StoredDirectory) {
        if self.failures > 0 {
            info!(directory = %self.id, "directory is synchronised again");
        }
        (self.failures, self.not_before, self.held) = (0, None, None);
        for code in [Code::DirectoryUnreachable, Code::DirectoryHeldBack] {
            self.parts.alarms.clear(code, directory.name.as_str());
        }
    }

    async fn store_error(&self, error: String) -> Result<(), MailError> {
        let before = DirectoryStore::of(&self.parts.mailstore).sync_state(self.id)?;
        if before.error.as_ref() == Some(&error) {
            return Ok(());
        }
        let Ok(_permit) = self.parts.gate.enter(&self.epoch) else { return Ok(()) };
        let state = SyncState { error: Some(error), ..before };
        DirectoryStore::of(&self.parts.mailstore).set_sync_state(self.id, state, &self.epoch).await?;
        Ok(())
    }
}

/// Waits for one of the runs that may be under way at a time.
async fn take_turn(runs: &Semaphore) -> Result<SemaphorePermit<'_>, RunError> {
    runs.acquire().await.map_err(|_| RunError::DutyLost)
}

/// The stored position; `None` when there is none, or this release cannot read it.
fn cursor(state: &SyncState) -> Option<Cursor> {
    Cursor::from_bytes(&state.cursor).ok().filter(|_| state.full_at.is_some())
}

/// The entries that users of the directory come from, without those that are gone.
fn known(users: &[Present], directory: DirectoryId) -> BTreeSet<EntryId> {
    let bindings = users.iter().filter_map(|user| user.binding.as_ref());
    let there = bindings.filter(|of| of.directory == directory && of.state != BindingState::Gone);
    there.map(|binding| binding.entry).collect()
}
