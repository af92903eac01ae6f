//! Runs the board while this node holds the duty.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinHandle, JoinSet},
    time::sleep,
};
use twinbox_clock::BootInstant;
use twinbox_ids::{Epoch, MailboxId};
use twinbox_mailstore::{LightsChange, LightsWatch, MailError, Mailstore};

use crate::{Guard, Lease, Light, LightSender, LightState, Policy, SendError, board::Board};

/// After the store could not be read, everything is looked at again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// So many lights are read before what is due is sent.
const AT_A_TIME: usize = 64;

/// The duty, on this node. It acts only while the lease says so; dropped, it ends.
pub struct Notifier {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared(Mutex<Option<Held>>);

/// What there is while the duty is held.
struct Held {
    epoch: Epoch,
    board: Board,
}

impl Notifier {
    /// Starts it. It waits for the lease by itself, and again after losing it.
    pub fn start<L: Lease, S: LightSender>(mailstore: Mailstore, lease: L, sender: S, policy: Policy) -> Self {
        let shared = Arc::new(Shared::default());
        let duty = Duty { mailstore, lease, sender: Arc::new(sender), policy, shared: shared.clone() };
        Self { shared, task: tokio::spawn(duty.serve()) }
    }

    /// The epoch in which it works, if it does.
    pub fn epoch(&self) -> Option<Epoch> {
        self.shared.lock().as_ref().map(|held| held.epoch.clone())
    }

    /// How every light is; empty while another node holds the duty.
    pub fn snapshot(&self) -> Vec<LightState> {
        self.shared.lock().as_ref().map(|held| held.board.snapshot()).unwrap_or_default()
    }

    /// Whether it runs, holding the duty or waiting for it.
    pub fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the board, if the duty is held.
    fn board<R>(&self, what: impl FnOnce(&mut Board) -> R) -> Option<R> {
        self.lock().as_mut().map(|held| what(&mut held.board))
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
    lights: HashMap<Id, Light>,
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
    Sent(Light, Result<(), SendError>),
    Due,
    LookAgain,
    /// The store is closed.
    Closed,
}

impl<L: Lease, S: LightSender> Duty<L, S> {
    async fn serve(self) {
        let mut holding = self.lease.holding();
        loop {
            let epoch = match holding.wait_for(Option::is_some).await {
                Ok(epoch) => epoch.clone(),
                Err(_) => return,
            };
            let Some(epoch) = epoch else { continue };
            tracing::info!(%epoch, "notifier begins: all message lights are sent anew");
            *self.shared.lock() = Some(Held { epoch: epoch.clone(), board: Board::new(self.policy) });
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

    /// Works until it is dropped, which ends everything under way, or the store is closed.
    async fn hold(&self, epoch: &Epoch) {
        // Watched before it is read, so that nothing is missed between.
        let mut changes = self.mailstore.watch_lights();
        let mut look = Look { everything: true, ..Look::default() };
        let (mut sends, mut look_again) = (Sends::default(), None);
        loop {
            if let Err(error) = self.look(&mut look, &mut changes).await {
                tracing::warn!(%error, "message lights cannot be read");
                look_again = Some(BootInstant::now() + LOOK_AGAIN);
            }
            self.send_due(epoch, &mut sends);
            let more = !look.mailboxes.is_empty();
            match self.event(&mut changes, &mut sends, look_again, more).await {
                Event::Changed(change) => look.add(change),
                Event::Sent(light, result) => {
                    if let Err(error) = &result {
                        tracing::debug!(mailbox = %light.mailbox, %epoch, %error, "a message light did not arrive");
                    }
                    let now = BootInstant::now();
                    self.shared.board(|board| board.finished(&light, result, now, rand::random()));
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
        if std::mem::take(&mut look.everything) {
            look.mailboxes.extend(self.mailstore.mailboxes().await?.iter().map(|mailbox| mailbox.id));
            look.mailboxes.extend(self.shared.board(|board| board.mailboxes()).unwrap_or_default());
        }
        // Coalesced: a burst of changes to one mailbox is looked at once.
        while let Some(change) = changes.try_next() {
            look.add(change);
        }
        for _ in 0..AT_A_TIME {
            let Some(mailbox) = look.mailboxes.pop_first() else { break };
            match self.mailstore.get(mailbox).await? {
                // A number that went to another mailbox shows that one's light.
                Some(found) if !found.number_lost => {
                    let lights = self.mailstore.lights(mailbox).await?;
                    let light = Light { mailbox, number: found.number, lights };
                    self.shared.board(|board| board.want(light, BootInstant::now()));
                }
                _ => {
                    self.shared.board(|board| board.remove(mailbox, BootInstant::now()));
                }
            }
        }
        Ok(())
    }

    fn send_due(&self, epoch: &Epoch, sends: &mut Sends) {
        while let Some(light) = self.shared.board(|board| board.next(BootInstant::now())).flatten() {
            let (lease, sender, epoch) = (self.lease.clone(), self.sender.clone(), epoch.clone());
            let sent = light.clone();
            let task = sends.tasks.spawn(async move {
                // Held until both are done: the duty is not handed over with a write under way (rule R6).
                let _entered = lease.enter(&epoch).ok_or(SendError::NotHolder)?;
                let guard = Guard::new({
                    let epoch = epoch.clone();
                    move || lease.allows(&epoch)
                });
                let (unsolicited, subscribed) = tokio::join!(
                    sender.send(&sent, &epoch, guard.clone()),
                    sender.changed(&sent, &epoch, guard.clone()),
                );
                unsolicited.and(subscribed)
            });
            sends.lights.insert(task.id(), light);
        }
    }

    async fn event(
        &self,
        changes: &mut LightsWatch,
        sends: &mut Sends,
        look_again: Option<BootInstant>,
        more: bool,
    ) -> Event {
        let due = self.shared.board(|board| board.wake()).flatten();
        let due = if more { Some(BootInstant::now()) } else { due };
        tokio::select! {
            change = changes.next() => change.map_or(Event::Closed, Event::Changed),
            Some(ended) = sends.tasks.join_next_with_id() => sends.ended(ended).unwrap_or(Event::Due),
            () = until(due) => Event::Due,
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
        Some(Event::Sent(self.lights.remove(&id)?, result))
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
