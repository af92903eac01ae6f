//! Delivery to outside receivers for the whole cluster: a duty (rule E3). Only its holder delivers, so each
//! transition of an alarm is sent once. The delivery state is in the replicated record of the alarm, so that the
//! next holder continues from it (rule E1). Without a majority no node holds the duty: alarms wait and are
//! delivered afterwards.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use twinbox_clock::wall;
use twinbox_gate::{Gate, NotHolder, Permit};
use twinbox_ids::{Backoff, Epoch};
use twinbox_replication_store::{CommitError, StoreError};

use crate::{
    Alarms, Code,
    alarm::{Alarm, Channel, Sent, Transition},
    notice::Notice,
    store,
    trap::TrapReceivers,
    webhook::Webhook,
};

/// Transitions older than this are not delivered: by then administrators have learned of them otherwise.
const STALE: Duration = Duration::from_secs(24 * 3_600);
/// Waits between attempts while a receiver is unreachable.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
/// Maximum attempts at a transition that the receiver refuses.
const ATTEMPTS: u32 = 5;
/// Attempts at a transition before those of other alarms go first: a receiver that fails at one of them gets the others.
const IN_TURN: u32 = 3;
/// Poll interval for due transitions, without a change.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Reason why a delivery failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// Not reachable, or to be retried later.
    #[error("{0}")]
    Later(String),
    /// The receiver refused the notice.
    #[error("refused: {0}")]
    Refused(String),
    /// This node does not hold the duty any more.
    #[error("this node no longer holds the duty")]
    NotHolder,
}

impl From<NotHolder> for DeliveryError {
    fn from(_: NotHolder) -> Self {
        Self::NotHolder
    }
}

enum Receiver {
    Webhook(Webhook),
    Traps(TrapReceivers),
}

impl Receiver {
    fn channel(&self) -> Channel {
        match self {
            Self::Webhook(_) => Channel::Webhook,
            Self::Traps(_) => Channel::Trap,
        }
    }

    async fn deliver(&self, notice: &Notice, permit: &Permit) -> Result<(), DeliveryError> {
        match self {
            Self::Webhook(webhook) => webhook.deliver(notice, permit).await,
            Self::Traps(traps) => traps.deliver(notice, permit).await,
        }
    }
}

/// Delivers to outside receivers while this node holds the duty.
pub struct Outbound {
    cluster: String,
    alarms: Alarms,
    gate: Gate,
}

impl Outbound {
    /// Creates the service for the cluster of this name, behind the gate of the duty.
    pub fn new(cluster: &str, alarms: Alarms, gate: Gate) -> Self {
        Self { cluster: cluster.to_owned(), alarms, gate }
    }

    /// Serves the configured receivers, each at its own pace, until stopped.
    pub fn run(
        &self,
        webhook: Option<Webhook>,
        traps: Option<TrapReceivers>,
        stop: CancellationToken,
    ) -> BoxFuture<'_, ()> {
        async move {
            let serve = |receiver: Option<Receiver>| async {
                match receiver {
                    Some(receiver) => self.serve(receiver).await,
                    None => std::future::pending().await,
                }
            };
            let both =
                async { tokio::join!(serve(webhook.map(Receiver::Webhook)), serve(traps.map(Receiver::Traps))) };
            stop.run_until_cancelled(both).await;
        }
        .boxed()
    }

    async fn serve(&self, receiver: Receiver) {
        let mut holding = self.gate.holding();
        loop {
            let epoch = match holding.wait_for(Option::is_some).await {
                Ok(epoch) => epoch.clone(),
                Err(_) => return,
            };
            let Some(epoch) = epoch else { continue };
            tokio::select! {
                biased;
                () = self.gate.lost(&epoch) => {}
                () = self.hold(&receiver, &epoch) => {}
            }
        }
    }

    /// Delivers due transitions while the duty is held.
    async fn hold(&self, receiver: &Receiver, epoch: &Epoch) {
        let channel = receiver.channel();
        let mut changed = self.alarms.inner().changed.subscribe();
        let mut retry = RETRY;
        loop {
            changed.mark_unchanged();
            let outcome = match self.next_due(channel) {
                Ok(None) => {
                    // The writer has ended: the node stops and the store closes soon.
                    let _ = timeout(POLL_INTERVAL, changed.changed()).await;
                    continue;
                }
                Ok(Some((alarm, transition))) => self.deliver(receiver, epoch, alarm, transition).await,
                Err(error) => Err(DeliveryError::Later(error.to_string())),
            };
            match outcome {
                Ok(()) => retry.reset(),
                Err(DeliveryError::NotHolder) => return,
                Err(error) => {
                    debug!(channel = channel.word(), %error, "alarm delivery failed; retrying");
                    sleep(retry.failed()).await;
                }
            }
        }
    }

    /// Oldest transition that is due for this receiver, of those that did not fail too often.
    fn next_due(&self, channel: Channel) -> Result<Option<(Alarm, Transition)>, StoreError> {
        let alarms = store::alarms(self.alarms.store(), None)?;
        let due = alarms.into_iter().filter_map(|alarm| {
            let first = alarm.due(channel).into_iter().next()?;
            Some((alarm, first))
        });
        let place = |alarm: &Alarm, transition: Transition| {
            let waits = alarm.sent(channel).attempts_at(transition) >= IN_TURN;
            (waits, alarm.at(transition), alarm.id)
        };
        Ok(due.min_by_key(|(alarm, transition)| place(alarm, *transition)))
    }

    async fn deliver(
        &self,
        receiver: &Receiver,
        epoch: &Epoch,
        alarm: Alarm,
        transition: Transition,
    ) -> Result<(), DeliveryError> {
        let (channel, outside) = (receiver.channel(), &self.alarms.inner().outside);
        let before = alarm.sent(channel).clone();
        let tried = before.attempts_at(transition);
        let done = Sent { done: transition.0, tried: transition.0, attempts: tried };
        let age = Duration::from_millis(wall().0.saturating_sub(alarm.at(transition).0));
        if age > STALE {
            info!(alarm = %alarm.id, channel = channel.word(), "alarm is too old; not delivered to outside receiver");
            return self.mark(&alarm, channel, done).await;
        }
        // The permit spans delivery and mark: the duty is not handed over between them.
        let permit = self.gate.enter(epoch)?;
        let attempts = tried.saturating_add(1);
        self.mark(&alarm, channel, Sent { done: before.done, tried: transition.0, attempts }).await?;
        let notice = Notice { cluster: self.cluster.clone(), alarm, transition };
        let delivered = receiver.deliver(&notice, &permit).await;
        let Notice { alarm, .. } = notice;
        match delivered {
            Ok(()) => {
                outside.delivered.fetch_add(1, Relaxed);
                self.mark(&alarm, channel, Sent { attempts, ..done }).await
            }
            Err(DeliveryError::Refused(reason)) if attempts >= ATTEMPTS => {
                outside.failed.fetch_add(1, Relaxed);
                outside.given_up.fetch_add(1, Relaxed);
                warn!(alarm = %alarm.id, channel = channel.word(), reason, "receiver refused the alarm; delivery given up");
                // A `DeadLetter` alarm that cannot be delivered must not raise another one.
                if alarm.code != Some(Code::DeadLetter) {
                    let detail = format!("the receiver refuses alarms: {reason}");
                    self.alarms.raise(Code::DeadLetter, channel.word(), detail);
                }
                self.mark(&alarm, channel, Sent { attempts, ..done }).await
            }
            Err(error) => {
                if error != DeliveryError::NotHolder {
                    outside.failed.fetch_add(1, Relaxed);
                    if attempts == 1 {
                        warn!(alarm = %alarm.id, channel = channel.word(), %error, "alarm delivery failed; retrying");
                    }
                }
                Err(error)
            }
        }
    }

    /// Writes the delivery state durably on two nodes, or alone if no other node answers (rule E1).
    async fn mark(&self, alarm: &Alarm, channel: Channel, sent: Sent) -> Result<(), DeliveryError> {
        let (key, edit) = (alarm.key(), alarm.delivery_edit(channel, &sent, self.alarms.node()));
        let id = alarm.id;
        let committed = self.alarms.store().commit(move |draft| {
            // The record may hold another alarm by now, of which nothing was delivered.
            let same =
                draft.get(&key)?.and_then(|record| Alarm::read(&key, &record)).is_some_and(|now| now.id == id);
            if same { draft.edit(key, vec![edit]) } else { Ok::<(), StoreError>(()) }
        });
        match committed.await {
            Ok(((), committed)) => {
                self.alarms.inner().peers.acknowledge(&committed).await;
                Ok(())
            }
            Err(CommitError::Refused(error) | CommitError::Store(error)) => {
                Err(DeliveryError::Later(error.to_string()))
            }
        }
    }
}
