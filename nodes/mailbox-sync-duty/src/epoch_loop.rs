//! The loop over all accounts in one epoch: takes the steps of the schedule, and starts a task for each connection.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::oneshot,
    task::{Id, JoinError, JoinSet},
    time::{sleep, timeout},
};
use tracing::{error, warn};
use twinbox_clock::BootInstant;
use twinbox_duty_service::Progress;
use twinbox_ids::{MailServerId, MailboxId};
use twinbox_imap::{IdleEnd, ImapError};
use twinbox_mailbox_sync::{Account, ServerSettings};
use twinbox_mailbox_sync_store::{LeftOut, LeftOutReason, SyncChange};
use twinbox_mailstore::MailError;

use crate::{
    alarm_board::AlarmBoard,
    duty_lease::DutyLease,
    duty_loop::HEARTBEAT,
    error::SyncError,
    folder::ImapFolder,
    look::LookOptions,
    mail_server::MailServer,
    orders::SyncReport,
    schedule::{Command, Next, Schedule, Worked},
    service::DutyParts,
    session::RoundCounts,
    work::{Job, JobEnd},
};

/// Pause after a change of settings, in which further ones come.
const SETTLE: Duration = Duration::from_millis(200);
/// Pause after a change that a server reported, in which further ones come.
const SETTLE_THERE: Duration = Duration::from_secs(1);
/// Pause after the store could not be read.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// Longest IDLE before a look, which detects a dead connection.
const LONGEST_IDLE: Duration = Duration::from_secs(5 * 60);

/// Outcome of an order for a mailbox without an account.
const NOT_SYNCED: &str = "the mailbox is not synchronised: see 'twinbox mailbox-sync list'";

/// The accounts of an epoch.
pub(crate) struct EpochLoop {
    parts: DutyParts,
    lease: DutyLease,
    progress: Arc<Progress>,
    schedule: Schedule,
    board: AlarmBoard,
    servers: BTreeMap<MailServerId, Arc<MailServer>>,
    accounts: BTreeMap<MailboxId, Account>,
    /// Time at which servers and accounts are read from the store.
    refresh_at: Option<BootInstant>,
    /// Settings changed since the latest read: orders wait for the next one, so that they follow the new settings.
    settings_changed: bool,
    /// Time that the latest read took.
    refresh_took: Duration,
    tasks: JoinSet<(MailboxId, Use)>,
    mailboxes: HashMap<Id, MailboxId>,
    /// Ends the IDLE of an account.
    stops: HashMap<MailboxId, oneshot::Sender<()>>,
    /// Accounts whose work under way was ordered, with the counts of its rounds.
    ordered: HashMap<MailboxId, RoundCounts>,
    /// Orders for accounts whose look is continued in a further round.
    going_on: HashMap<MailboxId, LookOptions>,
}

/// End of a use of a connection.
enum Use {
    Worked(Box<JobEnd>),
    Watched(Result<(Box<ImapFolder>, IdleEnd), ImapError>),
    Closed,
}

impl EpochLoop {
    pub(crate) fn new(parts: DutyParts, lease: DutyLease, progress: Arc<Progress>) -> Self {
        Self {
            parts,
            lease,
            progress,
            schedule: Schedule::default(),
            board: AlarmBoard::default(),
            servers: BTreeMap::new(),
            accounts: BTreeMap::new(),
            refresh_at: None,
            settings_changed: false,
            refresh_took: Duration::ZERO,
            tasks: JoinSet::new(),
            mailboxes: HashMap::new(),
            stops: HashMap::new(),
            ordered: HashMap::new(),
            going_on: HashMap::new(),
        }
    }

    /// Synchronises until dropped.
    pub(crate) async fn hold(&mut self) {
        // Before the accounts are read, so that no change is missed.
        let mut changes = self.parts.store.watch();
        let mut orders = self.parts.orders.watch();
        self.refresh_at = Some(BootInstant::now());
        loop {
            self.progress.turn();
            let now = BootInstant::now();
            if self.refresh_at.is_some_and(|at| at <= now) {
                // A failure is logged, and repeated after a pause.
                let _ = self.refresh().await;
            }
            self.take_orders().await;
            self.take_steps(BootInstant::now());
            self.publish();
            let next = [self.schedule.wake_at(), self.refresh_at].into_iter().flatten().min();
            let pause = next.map_or(HEARTBEAT, |at| at.since(BootInstant::now()).min(HEARTBEAT));
            tokio::select! {
                biased;
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                // Before the orders: one that follows a change of settings finds it noted.
                change = changes.next() => match change {
                    Some(change) => self.changed(change),
                    // The store is closed: the process ends.
                    None => sleep(HEARTBEAT).await,
                },
                _ = orders.changed() => {}
                // Never without a pause, whatever the clock.
                () = sleep(pause.max(Duration::from_millis(1))) => {}
            }
        }
    }

    /// Whether a task is under way.
    pub(crate) fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Waits for the end of a task, whose connection is dropped.
    pub(crate) async fn end_one(&mut self) {
        self.stops.clear();
        let _ = self.tasks.join_next().await;
    }

    /// Ends the alarms of this epoch: the next holder raises its own.
    pub(crate) fn clear_alarms(self) {
        self.board.clear().into_iter().for_each(|change| change.apply(&self.parts.alarms));
    }

    fn changed(&mut self, change: SyncChange) {
        let now = BootInstant::now();
        match change {
            SyncChange::Mailbox(mailbox) => self.schedule.changed_here(mailbox, now),
            SyncChange::Settings => self.refresh_soon(now + self.settle()),
            SyncChange::Everything => {
                self.refresh_soon(now + self.settle());
                self.schedule.all_changed_here(now);
            }
        }
    }

    /// Pause before the next read of all accounts. Reads fill at most a fifth of the time, however often settings
    /// change.
    fn settle(&self) -> Duration {
        SETTLE.max(self.refresh_took.saturating_mul(4))
    }

    fn refresh_soon(&mut self, at: BootInstant) {
        self.settings_changed = true;
        self.refresh_at = Some(self.refresh_at.map_or(at, |known| known.min(at)));
    }

    async fn refresh(&mut self) -> Result<(), MailError> {
        (self.refresh_at, self.settings_changed) = (None, false);
        let begun = BootInstant::now();
        let read = self.read().await;
        self.refresh_took = begun.elapsed();
        if let Err(error) = &read {
            warn!(%error, "mail accounts cannot be read from the store; retrying");
            self.refresh_at = Some(BootInstant::now() + READ_AGAIN);
        }
        read
    }

    /// Reads servers and accounts. Changed accounts are due now.
    async fn read(&mut self) -> Result<(), MailError> {
        if !self.parts.mailstore.has_all_records() {
            return Err(MailError::LacksRecords);
        }
        let effective = turning(&self.progress, self.parts.store.effective()).await?;
        let mut servers = BTreeMap::new();
        let mut new_servers = BTreeSet::new();
        for stored in self.parts.store.servers()? {
            // The accounts of a server whose settings cannot be used are left out.
            let Ok(settings) = ServerSettings::from_settings(&stored.settings) else { continue };
            let known = self.servers.get(&stored.id);
            let same = known.filter(|known| known.name == stored.name && known.settings == settings);
            let server = same.cloned().unwrap_or_else(|| {
                new_servers.insert(stored.id);
                Arc::new(match known {
                    Some(known) => known.changed(stored.name, settings),
                    None => MailServer::new(stored.id, stored.name, settings),
                })
            });
            servers.insert(server.id, server);
        }
        let accounts: BTreeMap<MailboxId, Account> =
            effective.accounts.into_iter().map(|(account, _)| (account.mailbox, account)).collect();
        let changed = accounts.iter().filter(|(mailbox, account)| {
            new_servers.contains(&account.server) || self.accounts.get(*mailbox) != Some(*account)
        });
        let changed = changed.map(|(mailbox, _)| *mailbox).collect();
        let rules = servers.iter().map(|(id, server)| (*id, server.rules())).collect();
        let targets = accounts.values().map(|account| (account.mailbox, account.server)).collect();
        self.schedule.set(&rules, &targets, &changed, BootInstant::now());
        // An acceptance is for the folder that it was given for.
        self.going_on.retain(|mailbox, _| self.accounts.get(mailbox) == accounts.get(mailbox));
        let ended: Vec<_> = self.ordered.extract_if(|mailbox, _| !accounts.contains_key(mailbox)).collect();
        (self.servers, self.accounts) = (servers, accounts);
        for (mailbox, counts) in ended {
            self.report(mailbox, &counts, Err(NOT_SYNCED.to_owned()));
        }
        self.note_left_out(&effective.left_out);
        Ok(())
    }

    /// Accounts of a server whose settings cannot be used fail; others without an account are no failure.
    fn note_left_out(&mut self, left_out: &[LeftOut]) {
        let of_settings = |left: &LeftOut| match &left.reason {
            LeftOutReason::ServerSettings { server, reason } => {
                Some((left.mailbox, server.clone(), reason.clone()))
            }
            _ => None,
        };
        let failing: Vec<(MailboxId, String, String)> = left_out.iter().filter_map(of_settings).collect();
        let mailboxes: BTreeSet<MailboxId> = failing.iter().map(|(mailbox, ..)| *mailbox).collect();
        let accounts = &self.accounts;
        self.board.retain(|mailbox| accounts.contains_key(&mailbox) || mailboxes.contains(&mailbox));
        for (mailbox, server, reason) in failing {
            self.board.failed(&server, mailbox, 1, true, reason);
        }
    }

    /// Makes ordered accounts due. An order for an unknown mailbox is refused if a new read does not find it.
    async fn take_orders(&mut self) {
        let now = BootInstant::now();
        let mut unknown = self.parts.orders.waiting();
        unknown.retain(|mailbox| !self.settings_changed && !self.schedule.ordered(*mailbox, now));
        if unknown.is_empty() {
            return;
        }
        let reason = match self.refresh().await {
            Ok(()) => NOT_SYNCED.to_owned(),
            Err(error) => error.to_string(),
        };
        let now = BootInstant::now();
        for mailbox in unknown {
            if !self.schedule.ordered(mailbox, now) {
                self.parts.orders.begin(mailbox);
                self.report(mailbox, &RoundCounts::default(), Err(reason.clone()));
            }
        }
    }

    fn take_steps(&mut self, now: BootInstant) {
        while let Some(command) = self.schedule.next(now) {
            match command {
                Command::Start(mailbox) => self.work(mailbox, None, false),
                Command::Stop(mailbox) => {
                    if let Some(stop) = self.stops.remove(&mailbox) {
                        // An IDLE that has ended already is in the set of tasks.
                        let _ = stop.send(());
                    }
                }
            }
        }
        let (connections, watching) = self.schedule.connections();
        self.parts.counts.connections.store(connections as u64, Relaxed);
        self.parts.counts.watching.store(watching as u64, Relaxed);
    }

    /// Starts work on an account, on its connection or a new one. `expunged`: removals were reported live.
    fn work(&mut self, mailbox: MailboxId, mut folder: Option<ImapFolder>, expunged: bool) {
        let account = self.accounts.get(&mailbox).cloned();
        let server = account.as_ref().and_then(|account| self.servers.get(&account.server)).cloned();
        let (Some(account), Some(server)) = (account, server) else {
            self.close(mailbox, folder);
            return;
        };
        // A connection of earlier settings may be of another person.
        let stale = folder.take_if(|folder| !folder.is_of(&server, &account));
        let order = if self.settings_changed { None } else { self.parts.orders.begin(mailbox) };
        if order.is_some() {
            self.ordered.entry(mailbox).or_default();
        }
        let kept = self.going_on.remove(&mailbox).unwrap_or_default();
        let accepted = order.unwrap_or_default() || kept.accepted;
        let options = LookOptions { watched: expunged, accepted, retry: order.is_some() || kept.retry };
        let (parts, lease) = (self.parts.clone(), self.lease.clone());
        let job = Job { parts, lease, server, account, options };
        self.start(mailbox, async move {
            if let Some(stale) = stale {
                stale.close().await;
            }
            Use::Worked(Box::new(job.work(folder).await))
        });
    }

    fn watch(&mut self, mailbox: MailboxId, mut folder: ImapFolder, longest: Duration) {
        let (stop, mut stopped) = oneshot::channel::<()>();
        self.stops.insert(mailbox, stop);
        let lease = self.lease.clone();
        self.start(mailbox, async move {
            let mut is_stopped = false;
            let until = async {
                let _ = (&mut stopped).await;
                is_stopped = true;
            };
            let mut end = folder.idle(until, longest.min(LONGEST_IDLE)).await;
            // A change here does not wait for further changes on the server.
            if matches!(end, Ok(IdleEnd::Changed { .. })) && !is_stopped {
                let pause = async {
                    let _ = timeout(SETTLE_THERE, stopped).await;
                    Ok(())
                };
                if let Err(error) = lease.while_held(pause).await {
                    end = Err(error);
                }
            }
            Use::Watched(end.map(|end| (Box::new(folder), end)))
        });
    }

    fn close(&mut self, mailbox: MailboxId, folder: Option<ImapFolder>) {
        self.start(mailbox, async move {
            if let Some(folder) = folder {
                folder.close().await;
            }
            Use::Closed
        });
    }

    fn start(&mut self, mailbox: MailboxId, task: impl Future<Output = Use> + Send + 'static) {
        let handle = self.tasks.spawn(async move { (mailbox, task.await) });
        self.mailboxes.insert(handle.id(), mailbox);
    }

    /// Handles the end of a task.
    fn ended(&mut self, ended: Result<(Id, (MailboxId, Use)), JoinError>) {
        let now = BootInstant::now();
        let (mailbox, end) = match ended {
            Ok((id, ended)) => {
                self.mailboxes.remove(&id);
                ended
            }
            Err(failed) => {
                error!(error = %failed, "task of a mail account has ended unexpectedly; retrying after a pause");
                let Some(mailbox) = self.mailboxes.remove(&failed.id()) else { return };
                self.stops.remove(&mailbox);
                let (options, counts) = (LookOptions::default(), RoundCounts::default());
                let end =
                    JobEnd { options, counts, result: Err(SyncError::Ended), refused: false, held_back: None };
                (mailbox, Use::Worked(Box::new(end)))
            }
        };
        match end {
            Use::Worked(end) => self.worked(mailbox, *end, now),
            Use::Watched(Ok((folder, end))) => {
                self.stops.remove(&mailbox);
                let changed = matches!(end, IdleEnd::Changed { .. });
                let expunged = matches!(end, IdleEnd::Changed { expunged: true });
                let next = self.schedule.watched(mailbox, changed, now);
                self.go_on(mailbox, next, *folder, expunged);
            }
            Use::Watched(Err(_)) => {
                self.stops.remove(&mailbox);
                self.schedule.failed(mailbox, false, rand::random(), now);
            }
            Use::Closed => self.schedule.closed(mailbox, now),
        }
    }

    fn go_on(&mut self, mailbox: MailboxId, next: Next, folder: ImapFolder, expunged: bool) {
        match next {
            Next::Work => self.work(mailbox, Some(folder), expunged),
            Next::Watch(longest) => self.watch(mailbox, folder, longest),
            Next::Close => self.close(mailbox, Some(folder)),
        }
    }

    fn worked(&mut self, mailbox: MailboxId, end: JobEnd, now: BootInstant) {
        let JobEnd { options, counts, result, refused, held_back } = end;
        // Also after a refused step: otherwise an alarm without a cause would stay open.
        if let Some(change) = held_back.and_then(|held| self.board.held_back(mailbox, held)) {
            change.apply(&self.parts.alarms);
        }
        self.count(&counts, &result.as_ref().map(|_| ()));
        if let Some(mut sum) = self.ordered.remove(&mailbox) {
            sum.add(&counts);
            match &result {
                // The look has only begun: a later round reports.
                Ok((_, end)) if end.goes_on => {
                    self.ordered.insert(mailbox, sum);
                }
                Ok((_, end)) => self.report(mailbox, &sum, Ok(end.held_back)),
                Err(error) => self.report(mailbox, &sum, Err(error.to_string())),
            }
        }
        match result {
            Ok((folder, end)) => {
                match (&end.refused, self.server_name(mailbox)) {
                    (Some(waits), Some(name)) => self.board.waits(&name, mailbox, waits.without_names()),
                    (None, Some(name)) => self.board.well(&name, mailbox),
                    (_, None) => {}
                }
                if end.goes_on && (options.accepted || options.retry) {
                    self.going_on.insert(mailbox, options);
                }
                let can_watch = folder.can_watch();
                let worked = Worked { changed: counts.has_changes(), again: end.again, can_watch };
                let next = self.schedule.worked(mailbox, worked, now);
                self.go_on(mailbox, next, folder, false);
            }
            // Its new settings, or the loss of the duty, are handled elsewhere.
            Err(error) if error.is_of_the_duty() => self.schedule.closed(mailbox, now),
            // The account is not the cause, and the alarm names the refusal that began the pause.
            Err(SyncError::Paused(until)) => self.schedule.paused(mailbox, until, rand::random()),
            Err(error) => {
                let permanent = error.is_permanent();
                let failures = if refused {
                    self.schedule.refused(mailbox, permanent, rand::random(), now)
                } else {
                    self.schedule.failed(mailbox, permanent, rand::random(), now)
                };
                if let Some(name) = self.server_name(mailbox) {
                    self.board.failed(&name, mailbox, failures, permanent, error.without_names());
                }
            }
        }
    }

    fn server_name(&self, mailbox: MailboxId) -> Option<String> {
        let account = self.accounts.get(&mailbox)?;
        Some(self.servers.get(&account.server)?.name.clone())
    }

    fn count(&self, round: &RoundCounts, result: &Result<(), &SyncError>) {
        let counts = &self.parts.counts;
        let add = |to: &AtomicU64, count: u64| {
            to.fetch_add(count, Relaxed);
        };
        match result {
            Ok(()) => add(&counts.done, 1),
            Err(error) if error.is_of_the_duty() => {}
            Err(_) => add(&counts.failed, 1),
        }
        add(&counts.appended, round.appended);
        add(&counts.marked_here, round.marked_here);
        add(&counts.flagged_there, round.flagged_there);
        add(&counts.removed_there, round.removed_there);
    }

    /// Reports on an ordered round: the number of deletions that are held back, or the reason of a failure.
    fn report(&self, mailbox: MailboxId, counts: &RoundCounts, outcome: Result<u32, String>) {
        let held_back = outcome.as_ref().copied().unwrap_or_default();
        let outcome = match outcome {
            Ok(0) => "done".to_owned(),
            Ok(_) => "held-back".to_owned(),
            Err(reason) => format!("failed: {reason}"),
        };
        let RoundCounts { appended, marked_here, flagged_there, removed_there } = *counts;
        let report =
            SyncReport { ended: true, outcome, appended, marked_here, flagged_there, removed_there, held_back };
        self.parts.orders.ended(mailbox, report);
    }

    fn publish(&mut self) {
        let changes = self.board.changes(BootInstant::now());
        changes.into_iter().for_each(|change| change.apply(&self.parts.alarms));
    }
}

/// Awaits work that may take long, while the loop counts as alive.
async fn turning<T>(progress: &Progress, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        if let Ok(done) = timeout(HEARTBEAT, work.as_mut()).await {
            return done;
        }
        progress.turn();
    }
}
