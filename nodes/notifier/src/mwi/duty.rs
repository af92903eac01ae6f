//! Runs the queues while this node holds the duty.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    task::{Id, JoinError, JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use twinbox_clock::BootInstant;
use twinbox_gate::Gate;
use twinbox_ids::{Epoch, MailboxId};
use twinbox_mailstore::{CountsChange, CountsWatch, MailError, Mailstore};

use super::{MwiPolicy, MwiSender, MwiState, MwiUpdate, Receivers, SendError, Target, queue::MwiQueue};

/// Pause before everything is read again after the store could not be read.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Maximum wait before another node is retried: one call to a machine that is expected to be up.
const LONGEST_RETRY_OF_A_NODE: Duration = Duration::from_secs(2);

/// Number of mailboxes read before due states are sent.
const AT_A_TIME: usize = 64;

/// Interval of the idle loop, so that a hung loop differs from an idle one.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// The duty on this node. It acts only while it holds the lease, and ends when dropped.
pub struct Notifier {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    held: Mutex<Option<ActiveDuty>>,
    /// Time of the last turn of the loop, in nanoseconds since boot.
    turned: AtomicU64,
    #[cfg(debug_assertions)]
    wedged: std::sync::atomic::AtomicBool,
}

/// State that exists while the duty is held.
struct ActiveDuty {
    epoch: Epoch,
    queues: BTreeMap<Target, MwiQueue>,
}

impl Notifier {
    /// Starts the duty. It waits for the lease automatically, also after it lost the lease.
    pub fn start<S: MwiSender>(mailstore: Mailstore, gate: Gate, sender: S, policy: MwiPolicy) -> Self {
        let shared = Arc::new(Shared {
            held: Mutex::new(None),
            turned: AtomicU64::new(BootInstant::now().as_nanos()),
            #[cfg(debug_assertions)]
            wedged: Default::default(),
        });
        let duty = Duty { mailstore, gate, sender: Arc::new(sender), policy, shared: shared.clone() };
        Self { shared, task: tokio::spawn(duty.serve()) }
    }

    /// Epoch in which it works, if any.
    pub fn epoch(&self) -> Option<Epoch> {
        self.shared.lock().as_ref().map(|held| held.epoch.clone())
    }

    /// MWI state of every mailbox at every target; empty while another node holds the duty.
    pub fn snapshot(&self) -> Vec<MwiState> {
        let held = self.shared.lock();
        held.iter().flat_map(|held| held.queues.values()).flat_map(MwiQueue::snapshot).collect()
    }

    /// Sends the MWI state of all mailboxes, or of one, again to every target; returns the number of states. `None`: another
    /// node holds the duty. The loop sees it at its next turn, within half a second.
    pub fn resync(&self, mailbox: Option<MailboxId>) -> Option<usize> {
        let now = BootInstant::now();
        let mut held = self.shared.lock();
        held.as_mut().map(|held| held.queues.values_mut().map(|queue| queue.resync(mailbox, now)).sum())
    }

    /// Whether the task runs, with or without the duty.
    pub fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// Time since the last turn of the loop: up to half a second when idle, longer only while the store is slow. It
    /// grows without limit when the loop hangs.
    pub fn still_for(&self) -> Duration {
        BootInstant::from_nanos(self.shared.turned.load(Relaxed)).elapsed()
    }

    /// Makes the loop hang, for tests of the health checks. Not in release builds.
    #[cfg(debug_assertions)]
    pub fn wedge(&self) {
        self.shared.wedged.store(true, Relaxed);
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<ActiveDuty>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a turn of the loop.
    async fn turn(&self) {
        #[cfg(debug_assertions)]
        if self.wedged.load(Relaxed) {
            std::future::pending::<()>().await;
        }
        self.turned.store(BootInstant::now().as_nanos(), Relaxed);
    }

    /// Applies a function to every queue, if the duty is held.
    fn queues(&self, what: impl FnMut(&mut MwiQueue)) {
        self.lock().iter_mut().flat_map(|held| held.queues.values_mut()).for_each(what);
    }

    /// Applies a function to one queue, if the duty is held.
    fn queue(&self, target: &Target, what: impl FnOnce(&mut MwiQueue)) {
        if let Some(queue) = self.lock().as_mut().and_then(|held| held.queues.get_mut(target)) {
            what(queue);
        }
    }
}

struct Duty<S> {
    mailstore: Mailstore,
    gate: Gate,
    sender: Arc<S>,
    policy: MwiPolicy,
    shared: Arc<Shared>,
}

/// Result of a send, one for each state.
type Outcomes = Vec<Result<(), SendError>>;

/// Sends and requests for lists in progress: the task of each.
#[derive(Default)]
struct Sends {
    tasks: JoinSet<Answer>,
    running: HashMap<Id, (Target, Work)>,
}

/// Work of a task.
enum Work {
    Send(Vec<MwiUpdate>),
    List,
}

/// Result of a task.
enum Answer {
    Sent(Outcomes),
    Listed(Result<Receivers, SendError>),
}

/// Mailboxes to be read from the store.
#[derive(Default)]
struct Look {
    everything: bool,
    /// Mailboxes whose messages changed: read before the others.
    changed: BTreeSet<MailboxId>,
    mailboxes: BTreeSet<MailboxId>,
}

impl Look {
    fn add(&mut self, change: CountsChange) {
        match change {
            CountsChange::Everything => self.everything = true,
            CountsChange::Mailbox(mailbox) => {
                self.changed.insert(mailbox);
            }
        }
    }

    /// Takes the next mailbox, and whether its messages changed.
    fn pop(&mut self) -> Option<(MailboxId, bool)> {
        match self.changed.pop_first() {
            Some(mailbox) => {
                self.mailboxes.remove(&mailbox);
                Some((mailbox, true))
            }
            None => Some((self.mailboxes.pop_first()?, false)),
        }
    }

    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.mailboxes.is_empty()
    }
}

/// Event that wakes the duty.
enum Event {
    Changed(CountsChange),
    Sent(Target, Vec<MwiUpdate>, Outcomes),
    Listed(Target, Result<Receivers, SendError>),
    Due,
    LookAgain,
    /// The store was closed.
    Closed,
}

impl<S: MwiSender> Duty<S> {
    async fn serve(self) {
        let mut holding = self.gate.holding();
        loop {
            self.shared.turn().await;
            let epoch = match timeout(HEARTBEAT, holding.wait_for(Option::is_some)).await {
                Ok(Ok(epoch)) => epoch.clone(),
                Ok(Err(_)) => return,
                Err(_) => continue,
            };
            let Some(epoch) = epoch else { continue };
            tracing::info!(%epoch, "notifier holds its duty; sending the MWI state of all mailboxes");
            *self.shared.lock() = Some(ActiveDuty { epoch: epoch.clone(), queues: self.queues() });
            let open = tokio::select! {
                biased;
                () = self.gate.lost(&epoch) => true,
                () = self.hold(&epoch) => false,
            };
            *self.shared.lock() = None;
            tracing::info!(%epoch, "notifier no longer holds its duty");
            if !open {
                return;
            }
        }
    }

    fn queues(&self) -> BTreeMap<Target, MwiQueue> {
        self.sender.targets().into_iter().map(|target| (target.clone(), self.queue(target))).collect()
    }

    fn queue(&self, target: Target) -> MwiQueue {
        let mut policy = self.policy;
        if let Target::Subscribers(_) = target {
            policy.longest_retry = policy.longest_retry.min(LONGEST_RETRY_OF_A_NODE);
        }
        MwiQueue::new(target, policy)
    }

    /// Makes the queues those of the present targets; true if there is a new one. The end of a send to one that vanished
    /// is ignored: the target may come back with a new queue.
    fn follow_targets(&self, sends: &mut Sends) -> bool {
        let targets: BTreeSet<Target> = self.sender.targets().into_iter().collect();
        let mut held = self.shared.lock();
        let Some(held) = held.as_mut() else { return false };
        held.queues.retain(|target, _| targets.contains(target));
        sends.running.retain(|_, (target, _)| targets.contains(target));
        let known = held.queues.len();
        for target in targets {
            held.queues.entry(target.clone()).or_insert_with(|| self.queue(target));
        }
        held.queues.len() > known
    }

    /// Works until it is dropped, which ends all sends in progress, or until the store is closed.
    async fn hold(&self, epoch: &Epoch) {
        // Subscribed before the read, so that no change is missed.
        let mut changes = self.mailstore.watch_counts();
        let mut look = Look { everything: true, ..Look::default() };
        let (mut sends, mut look_again) = (Sends::default(), None);
        let mut checked = BootInstant::now();
        loop {
            self.shared.turn().await;
            if checked.elapsed() >= HEARTBEAT {
                checked = BootInstant::now();
                look.everything |= self.follow_targets(&mut sends);
            }
            if let Err(error) = self.look(&mut look, &mut changes).await {
                tracing::warn!(%error, "message counts cannot be read");
                // Everything is read after the pause; until then a failed store is left alone.
                look = Look { everything: look.everything, ..Look::default() };
                look_again = Some(BootInstant::now() + LOOK_AGAIN);
            }
            // One list for all mailboxes that were read.
            if look.is_empty() {
                self.request_lists(&mut sends);
            }
            self.send_due(epoch, &mut sends);
            let more = !look.is_empty();
            match self.event(&mut changes, &mut sends, look_again, more).await {
                Event::Changed(change) => look.add(change),
                Event::Sent(target, updates, outcomes) => {
                    for (update, result) in updates.into_iter().zip(outcomes) {
                        if let Err(error) = &result {
                            let mailbox = update.mailbox;
                            tracing::debug!(?target, %mailbox, %epoch, %error, "MWI was not delivered");
                        }
                        let now = BootInstant::now();
                        self.shared.queue(&target, |queue| queue.finished(&update, result, now, rand::random()));
                    }
                }
                Event::Listed(target, list) => {
                    if let Err(error) = &list {
                        tracing::debug!(?target, %epoch, %error, "mailboxes with subscribers were not listed");
                    }
                    let now = BootInstant::now();
                    self.shared.queue(&target, |queue| queue.listed(list, now, rand::random()));
                }
                Event::Due => {}
                Event::LookAgain => {
                    look_again = None;
                    look.everything = true;
                }
                Event::Closed => return,
            }
        }
    }

    /// Reads the desired states that may have changed.
    async fn look(&self, look: &mut Look, changes: &mut CountsWatch) -> Result<(), MailError> {
        // An MWI state computed from half of the messages is worse than an outdated one.
        if !self.mailstore.has_all_records() {
            look.everything = true;
            return Err(MailError::LacksRecords);
        }
        if std::mem::take(&mut look.everything) {
            look.mailboxes.extend(self.mailstore.mailbox_ids().await?);
            self.shared.queues(|queue| look.mailboxes.extend(queue.mailboxes()));
        }
        // Coalesced: several changes to one mailbox cause one read.
        while let Some(change) = changes.try_next() {
            look.add(change);
        }
        for _ in 0..AT_A_TIME {
            let Some((mailbox, is_changed)) = look.pop() else { break };
            match self.mailstore.get(mailbox).await {
                // A number that moved to another mailbox shows that mailbox's state.
                Ok(Some(found)) if !found.number_lost => {
                    let counts = self.mailstore.message_counts(mailbox).await?;
                    let update = MwiUpdate { mailbox, number: found.number, counts };
                    let want = if is_changed { MwiQueue::want_first } else { MwiQueue::want };
                    self.shared.queues(|queue| want(queue, update.clone(), BootInstant::now()));
                }
                Ok(_) => self.shared.queues(|queue| queue.remove(mailbox, BootInstant::now())),
                // As in the list of mailboxes. The displayed state stays: the mailbox is not known to be empty.
                Err(MailError::View(error)) => tracing::warn!(%mailbox, %error, "MWI of a mailbox is left out"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Requests the lists for which states wait. A list changes nothing outside: it needs no permit.
    fn request_lists(&self, sends: &mut Sends) {
        let (mut wanted, now) = (Vec::new(), BootInstant::now());
        if let Some(held) = self.shared.lock().as_mut() {
            let queues = held.queues.iter_mut();
            wanted.extend(queues.filter_map(|(to, queue)| queue.begin_list(now).then(|| to.clone())));
        }
        for target in wanted {
            let (sender, to) = (self.sender.clone(), target.clone());
            let task = sends.tasks.spawn(async move { Answer::Listed(sender.receivers(&to).await) });
            sends.running.insert(task.id(), (target, Work::List));
        }
    }

    fn send_due(&self, epoch: &Epoch, sends: &mut Sends) {
        let mut due = Vec::new();
        if let Some(held) = self.shared.lock().as_mut() {
            for (target, queue) in &mut held.queues {
                let batches = std::iter::from_fn(|| Some(queue.next_batch(BootInstant::now())));
                let batches = batches.take_while(|batch| !batch.is_empty());
                due.extend(batches.map(|batch| (target.clone(), batch)));
            }
        }
        for (target, updates) in due {
            let (gate, sender, epoch) = (self.gate.clone(), self.sender.clone(), epoch.clone());
            let (to, sent) = (target.clone(), updates.clone());
            let task = sends.tasks.spawn(async move {
                // Held until the send ends: the duty is not handed over with a write in progress (rule R6).
                Answer::Sent(match gate.enter(&epoch) {
                    Ok(permit) => sender.send(&to, &sent, &permit).await,
                    Err(lost) => vec![Err(lost.into()); sent.len()],
                })
            });
            sends.running.insert(task.id(), (target, Work::Send(updates)));
        }
    }

    async fn event(
        &self,
        changes: &mut CountsWatch,
        sends: &mut Sends,
        look_again: Option<BootInstant>,
        more: bool,
    ) -> Event {
        let mut due = more.then(BootInstant::now);
        self.shared.queues(|queue| due = due.into_iter().chain(queue.wake()).min());
        tokio::select! {
            change = changes.next() => change.map_or(Event::Closed, Event::Changed),
            Some(ended) = sends.tasks.join_next_with_id() => sends.ended(ended).unwrap_or(Event::Due),
            () = until(due) => Event::Due,
            () = sleep(HEARTBEAT) => Event::Due,
            () = until(look_again) => Event::LookAgain,
        }
    }
}

impl Sends {
    fn ended(&mut self, ended: Result<(Id, Answer), JoinError>) -> Option<Event> {
        let (id, answer) = match ended {
            Ok((id, answer)) => (id, Some(answer)),
            Err(error) => (error.id(), None),
        };
        let (target, work) = self.running.remove(&id)?;
        let failed = || Err(SendError::Unreachable("its task ended".to_owned()));
        Some(match (work, answer) {
            (Work::Send(updates), Some(Answer::Sent(outcomes))) => Event::Sent(target, updates, outcomes),
            (Work::Send(updates), _) => {
                let outcomes = updates.iter().map(|_| failed()).collect();
                Event::Sent(target, updates, outcomes)
            }
            (Work::List, Some(Answer::Listed(list))) => Event::Listed(target, list),
            (Work::List, _) => Event::Listed(target, Err(SendError::Unreachable("its task ended".to_owned()))),
        })
    }
}

/// Resolves at that time; never without a time.
async fn until(at: Option<BootInstant>) {
    match at {
        Some(at) => sleep(at.since(BootInstant::now())).await,
        None => std::future::pending().await,
    }
}
