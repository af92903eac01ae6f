//! Runs the board while this node holds the duty.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use twinbox_clock::BootInstant;
use twinbox_ids::{Epoch, MailboxId};
use twinbox_mailstore::{LightsChange, LightsWatch, MailError, Mailstore};

use crate::{Guard, Lease, Light, LightSender, LightState, Policy, SendError, Target, board::Board};

/// After the store could not be read, everything is looked at again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The longest wait before another node is asked again: one call to a machine that is meant to be there.
const LONGEST_RETRY_OF_A_NODE: Duration = Duration::from_secs(2);

/// So many lights are read before what is due is sent.
const AT_A_TIME: usize = 64;

/// With nothing to do it turns this often all the same, so that one that hangs is told from one that rests.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// The duty, on this node. It acts only while the lease says so; dropped, it ends.
pub struct Notifier {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    held: Mutex<Option<Held>>,
    /// When its loop last came round, in nanoseconds since boot.
    turned: AtomicU64,
    #[cfg(debug_assertions)]
    wedged: std::sync::atomic::AtomicBool,
}

/// What there is while the duty is held.
struct Held {
    epoch: Epoch,
    boards: BTreeMap<Target, Board>,
}

impl Notifier {
    /// Starts it. It waits for the lease by itself, and again after losing it.
    pub fn start<L: Lease, S: LightSender>(mailstore: Mailstore, lease: L, sender: S, policy: Policy) -> Self {
        let shared = Arc::new(Shared {
            held: Mutex::new(None),
            turned: AtomicU64::new(BootInstant::now().as_nanos()),
            #[cfg(debug_assertions)]
            wedged: Default::default(),
        });
        let duty = Duty { mailstore, lease, sender: Arc::new(sender), policy, shared: shared.clone() };
        Self { shared, task: tokio::spawn(duty.serve()) }
    }

    /// The epoch in which it works, if it does.
    pub fn epoch(&self) -> Option<Epoch> {
        self.shared.lock().as_ref().map(|held| held.epoch.clone())
    }

    /// How every light is at every target; empty while another node holds the duty.
    pub fn snapshot(&self) -> Vec<LightState> {
        let held = self.shared.lock();
        held.iter().flat_map(|held| held.boards.values()).flat_map(Board::snapshot).collect()
    }

    /// Whether it runs, holding the duty or waiting for it.
    pub fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// How long its loop has not come round: half a second at rest, longer only while the store is slow. One that
    /// hangs stands still ever longer.
    pub fn still_for(&self) -> Duration {
        BootInstant::from_nanos(self.shared.turned.load(Relaxed)).elapsed()
    }

    /// For tests of those who watch it: from now on its loop hangs. Not there in release builds.
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
    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its loop has come round.
    async fn turn(&self) {
        #[cfg(debug_assertions)]
        if self.wedged.load(Relaxed) {
            std::future::pending::<()>().await;
        }
        self.turned.store(BootInstant::now().as_nanos(), Relaxed);
    }

    /// Does something with every board, if the duty is held.
    fn boards(&self, what: impl FnMut(&mut Board)) {
        self.lock().iter_mut().flat_map(|held| held.boards.values_mut()).for_each(what);
    }

    /// Does something with one board, if the duty is held.
    fn board(&self, target: &Target, what: impl FnOnce(&mut Board)) {
        if let Some(board) = self.lock().as_mut().and_then(|held| held.boards.get_mut(target)) {
            what(board);
        }
    }
}

struct Duty<L, S> {
    mailstore: Mailstore,
    lease: L,
    sender: Arc<S>,
    policy: Policy,
    shared: Arc<Shared>,
}

/// What is under way: the task of each light.
#[derive(Default)]
struct Sends {
    tasks: JoinSet<Result<(), SendError>>,
    lights: HashMap<Id, (Target, Light)>,
}

/// What is to be looked at in the store.
#[derive(Default)]
struct Look {
    everything: bool,
    mailboxes: BTreeSet<MailboxId>,
}

impl Look {
    fn add(&mut self, change: LightsChange) {
        match change {
            LightsChange::Everything => self.everything = true,
            LightsChange::Mailbox(mailbox) => {
                self.mailboxes.insert(mailbox);
            }
        }
    }
}

/// What woke the duty.
enum Event {
    Changed(LightsChange),
    Sent(Target, Light, Result<(), SendError>),
    Due,
    LookAgain,
    /// The store is closed.
    Closed,
}

impl<L: Lease, S: LightSender> Duty<L, S> {
    async fn serve(self) {
        let mut holding = self.lease.holding();
        loop {
            self.shared.turn().await;
            let epoch = match timeout(HEARTBEAT, holding.wait_for(Option::is_some)).await {
                Ok(Ok(epoch)) => epoch.clone(),
                Ok(Err(_)) => return,
                Err(_) => continue,
            };
            let Some(epoch) = epoch else { continue };
            tracing::info!(%epoch, "notifier begins: all message lights are sent anew");
            *self.shared.lock() = Some(Held { epoch: epoch.clone(), boards: self.boards() });
            let open = tokio::select! {
                biased;
                _ = lost(&mut holding, &epoch) => true,
                () = self.hold(&epoch) => false,
            };
            *self.shared.lock() = None;
            tracing::info!(%epoch, "notifier ends");
            if !open {
                return;
            }
        }
    }

    fn boards(&self) -> BTreeMap<Target, Board> {
        let board = |target: Target| {
            let mut policy = self.policy;
            if let Target::Subscribers(_) = target {
                policy.longest_retry = policy.longest_retry.min(LONGEST_RETRY_OF_A_NODE);
            }
            (target.clone(), Board::new(target, policy))
        };
        self.sender.targets().into_iter().map(board).collect()
    }

    /// Works until it is dropped, which ends everything under way, or the store is closed.
    async fn hold(&self, epoch: &Epoch) {
        // Watched before it is read, so that nothing is missed between.
        let mut changes = self.mailstore.watch_lights();
        let mut look = Look { everything: true, ..Look::default() };
        let (mut sends, mut look_again) = (Sends::default(), None);
        loop {
            self.shared.turn().await;
            if let Err(error) = self.look(&mut look, &mut changes).await {
                tracing::warn!(%error, "message lights cannot be read");
                // All will be looked at then; until then a store that does not work is left alone.
                look.mailboxes.clear();
                look_again = Some(BootInstant::now() + LOOK_AGAIN);
            }
            self.send_due(epoch, &mut sends);
            let more = !look.mailboxes.is_empty();
            match self.event(&mut changes, &mut sends, look_again, more).await {
                Event::Changed(change) => look.add(change),
                Event::Sent(target, light, result) => {
                    if let Err(error) = &result {
                        tracing::debug!(?target, mailbox = %light.mailbox, %epoch, %error, "a light did not arrive");
                    }
                    let now = BootInstant::now();
                    self.shared.board(&target, |board| board.finished(&light, result, now, rand::random()));
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

    /// Reads what lights should show, as far as they may have changed.
    async fn look(&self, look: &mut Look, changes: &mut LightsWatch) -> Result<(), MailError> {
        // A light that shows half of the messages is worse than one that shows nothing new.
        if !self.mailstore.has_all_records() {
            look.everything = true;
            return Err(MailError::LacksRecords);
        }
        if std::mem::take(&mut look.everything) {
            look.mailboxes.extend(self.mailstore.mailboxes().await?.iter().map(|mailbox| mailbox.id));
            self.shared.boards(|board| look.mailboxes.extend(board.mailboxes()));
        }
        // Coalesced: a burst of changes to one mailbox is looked at once.
        while let Some(change) = changes.try_next() {
            look.add(change);
        }
        for _ in 0..AT_A_TIME {
            let Some(mailbox) = look.mailboxes.pop_first() else { break };
            match self.mailstore.get(mailbox).await {
                // A number that went to another mailbox shows that one's light.
                Ok(Some(found)) if !found.number_lost => {
                    let lights = self.mailstore.lights(mailbox).await?;
                    let light = Light { mailbox, number: found.number, lights };
                    self.shared.boards(|board| board.want(light.clone(), BootInstant::now()));
                }
                Ok(_) => self.shared.boards(|board| board.remove(mailbox, BootInstant::now())),
                // As in the list of mailboxes. What its light shows stays: nobody said that it is empty.
                Err(MailError::View(error)) => tracing::warn!(%mailbox, %error, "a message light is left out"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn send_due(&self, epoch: &Epoch, sends: &mut Sends) {
        let mut due = Vec::new();
        if let Some(held) = self.shared.lock().as_mut() {
            for (target, board) in &mut held.boards {
                due.extend(
                    std::iter::from_fn(|| board.next(BootInstant::now())).map(|light| (target.clone(), light)),
                );
            }
        }
        for (target, light) in due {
            let (lease, sender, epoch) = (self.lease.clone(), self.sender.clone(), epoch.clone());
            let (to, sent) = (target.clone(), light.clone());
            let task = sends.tasks.spawn(async move {
                // Held until it is done: the duty is not handed over with a write under way (rule R6).
                let _entered = lease.enter(&epoch).ok_or(SendError::NotHolder)?;
                let guard = Guard::new({
                    let epoch = epoch.clone();
                    move || lease.allows(&epoch)
                });
                sender.send(&to, &sent, &epoch, guard).await
            });
            sends.lights.insert(task.id(), (target, light));
        }
    }

    async fn event(
        &self,
        changes: &mut LightsWatch,
        sends: &mut Sends,
        look_again: Option<BootInstant>,
        more: bool,
    ) -> Event {
        let mut due = more.then(BootInstant::now);
        self.shared.boards(|board| due = due.into_iter().chain(board.wake()).min());
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
    fn ended(&mut self, ended: Result<(Id, Result<(), SendError>), JoinError>) -> Option<Event> {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(SendError::Unreachable("sending it broke off".to_owned()))),
        };
        let (target, light) = self.lights.remove(&id)?;
        Some(Event::Sent(target, light, result))
    }
}

/// Resolves when the duty is not held in this epoch any more.
async fn lost(holding: &mut watch::Receiver<Option<Epoch>>, epoch: &Epoch) {
    let _ = holding.wait_for(|held| held.as_ref() != Some(epoch)).await;
}

/// Resolves at that time; never if there is none.
async fn until(at: Option<BootInstant>) {
    match at {
        Some(at) => sleep(at.since(BootInstant::now())).await,
        None => std::future::pending().await,
    }
}
