//! Telling receivers outside, on behalf of all: a duty (rule E3). Only its holder tells, so each transition of an alarm
//! goes out once; what was told stands in the replicated record of the alarm, so that the next holder goes on where
//! the last one stopped (rule E1). Without a majority nobody holds the duty: alarms wait, and are told afterwards.

use std::{
    any::Any,
    os::fd::BorrowedFd,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use twinbox_clock::wall;
use twinbox_ids::Epoch;
use twinbox_replication_store::{CommitError, StoreError};

use crate::{
    Alarms, Code,
    alarm::{Alarm, Channel, Sent, Transition},
    notice::Notice,
    store,
    trap::TrapReceivers,
    webhook::Webhook,
};

/// What happened longer ago is not told any more: whoever is told a day later has seen it in another way.
const STALE: Duration = Duration::from_secs(24 * 3_600);
/// Between attempts while a receiver does not take anything: from, doubling, to.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Attempts at something that the receiver refuses, or that whoever tried did not live to finish.
const ATTEMPTS: u32 = 5;
/// How often it is looked for something to tell, without a change.
const LOOK_EACH: Duration = Duration::from_secs(10);

/// The right to act on the outside: what the gate of the duty is to this crate, which does not know the role manager.
pub trait Permission: Send + Sync + 'static {
    /// The epoch in which this node holds the duty.
    fn holding(&self) -> watch::Receiver<Option<Epoch>>;

    /// Begins a write that is over in a moment; the duty is not handed over while the result lives. `None`: this node
    /// does not hold it in that epoch.
    fn enter(&self, epoch: &Epoch) -> Option<Box<dyn Any + Send>>;

    /// The same for a connection, which is reset when the duty ends.
    fn own(&self, epoch: &Epoch, socket: BorrowedFd<'_>) -> Option<Box<dyn Any + Send>>;
}

/// Why a receiver was not told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TellError {
    /// Not reached, or it is to be tried again later.
    #[error("{0}")]
    Later(String),
    /// It said no, to this.
    #[error("refused: {0}")]
    Refused(String),
    /// This node does not hold the duty any more.
    #[error("this node does not hold the duty any more")]
    NotHolder,
}

/// The right to act in one epoch.
#[derive(Clone)]
pub(crate) struct Permit {
    permission: Arc<dyn Permission>,
    epoch: Epoch,
}

impl Permit {
    pub(crate) fn enter(&self) -> Result<Box<dyn Any + Send>, TellError> {
        self.permission.enter(&self.epoch).ok_or(TellError::NotHolder)
    }

    pub(crate) fn own(&self, socket: BorrowedFd<'_>) -> Result<Box<dyn Any + Send>, TellError> {
        self.permission.own(&self.epoch, socket).ok_or(TellError::NotHolder)
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

    async fn tell(&self, notice: &Notice, permit: &Permit) -> Result<(), TellError> {
        match self {
            Self::Webhook(webhook) => webhook.tell(notice, permit).await,
            Self::Traps(traps) => traps.tell(notice, permit).await,
        }
    }
}

/// Tells receivers outside while this node holds the duty.
pub struct Outbound {
    cluster: String,
    alarms: Alarms,
    permission: Arc<dyn Permission>,
}

impl Outbound {
    /// For the cluster of this name.
    pub fn new(cluster: &str, alarms: Alarms, permission: impl Permission) -> Self {
        Self { cluster: cluster.to_owned(), alarms, permission: Arc::new(permission) }
    }

    /// Tells those that there are, each at its own pace, until stopped.
    pub async fn run(self, webhook: Option<Webhook>, traps: Option<TrapReceivers>, stop: CancellationToken) {
        let serve = |receiver: Option<Receiver>| async {
            match receiver {
                Some(receiver) => self.serve(receiver).await,
                None => std::future::pending().await,
            }
        };
        let both = async { tokio::join!(serve(webhook.map(Receiver::Webhook)), serve(traps.map(Receiver::Traps))) };
        stop.run_until_cancelled(both).await;
    }

    async fn serve(&self, receiver: Receiver) {
        let mut holding = self.permission.holding();
        loop {
            let epoch = match holding.wait_for(Option::is_some).await {
                Ok(epoch) => epoch.clone(),
                Err(_) => return,
            };
            let Some(epoch) = epoch else { continue };
            let permit = Permit { permission: self.permission.clone(), epoch: epoch.clone() };
            tokio::select! {
                biased;
                _ = holding.wait_for(|held| held.as_ref() != Some(&epoch)) => {}
                () = self.hold(&receiver, &permit) => {}
            }
        }
    }

    /// Tells what is due, again and again.
    async fn hold(&self, receiver: &Receiver, permit: &Permit) {
        let channel = receiver.channel();
        let mut changed = self.alarms.inner().changed.subscribe();
        let mut pause = RETRY.0;
        loop {
            changed.mark_unchanged();
            let outcome = match self.next_due(channel) {
                Ok(None) => {
                    // The writer is gone when the node is being stopped; the store is closed soon.
                    let _ = timeout(LOOK_EACH, changed.changed()).await;
                    continue;
                }
                Ok(Some((alarm, transition))) => self.tell(receiver, permit, alarm, transition).await,
                Err(error) => Err(TellError::Later(error.to_string())),
            };
            match outcome {
                Ok(()) => pause = RETRY.0,
                Err(TellError::NotHolder) => return,
                Err(error) => {
                    debug!(channel = channel.word(), %error, "an alarm was not told; it is tried again");
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    /// What happened first of all that this receiver has not been told.
    fn next_due(&self, channel: Channel) -> Result<Option<(Alarm, Transition)>, StoreError> {
        let alarms = store::alarms(self.alarms.store(), None)?;
        let due = alarms.into_iter().filter_map(|alarm| {
            let first = alarm.due(channel).into_iter().next()?;
            Some((alarm, first))
        });
        Ok(due.min_by_key(|(alarm, transition)| (alarm.at(*transition), alarm.id)))
    }

    async fn tell(
        &self,
        receiver: &Receiver,
        permit: &Permit,
        alarm: Alarm,
        transition: Transition,
    ) -> Result<(), TellError> {
        let (channel, outside) = (receiver.channel(), &self.alarms.inner().outside);
        let before = alarm.sent(channel).clone();
        let tried = if before.tried == transition.0 { before.attempts } else { 0 };
        let done = Sent { done: transition.0, tried: transition.0, attempts: tried };
        let age = Duration::from_millis(wall().0.saturating_sub(alarm.at(transition).0));
        if age > STALE {
            info!(alarm = %alarm.id, channel = channel.word(), "an alarm is too old to be told to the outside");
            return self.mark(&alarm, channel, done).await;
        }
        // The duty is not handed over between telling and the mark that says so.
        let _entered = permit.enter()?;
        let attempts = tried.saturating_add(1);
        self.mark(&alarm, channel, Sent { done: before.done, tried: transition.0, attempts }).await?;
        let notice = Notice { cluster: self.cluster.clone(), alarm, transition };
        let told = receiver.tell(&notice, permit).await;
        let Notice { alarm, .. } = notice;
        match told {
            Ok(()) => {
                outside.told.fetch_add(1, Relaxed);
                self.mark(&alarm, channel, Sent { attempts, ..done }).await
            }
            Err(TellError::Refused(reason)) if attempts >= ATTEMPTS => {
                outside.failed.fetch_add(1, Relaxed);
                outside.given_up.fetch_add(1, Relaxed);
                warn!(alarm = %alarm.id, channel = channel.word(), reason, "an alarm is refused and given up");
                // Nobody is told that nobody can be told.
                if alarm.code != Some(Code::DeadLetter) {
                    let detail = format!("the receiver refuses alarms: {reason}");
                    self.alarms.raise(Code::DeadLetter, channel.word(), detail);
                }
                self.mark(&alarm, channel, Sent { attempts, ..done }).await
            }
            Err(error) => {
                if error != TellError::NotHolder {
                    outside.failed.fetch_add(1, Relaxed);
                    if attempts == 1 {
                        warn!(alarm = %alarm.id, channel = channel.word(), %error, "an alarm was not told; it is tried again");
                    }
                }
                Err(error)
            }
        }
    }

    /// Durable on two nodes, or alone where no other answers (rule E1).
    async fn mark(&self, alarm: &Alarm, channel: Channel, sent: Sent) -> Result<(), TellError> {
        let (key, edit) = (alarm.key(), alarm.told(channel, &sent, self.alarms.node()));
        let id = alarm.id;
        let committed = self.alarms.store().commit(move |draft| {
            // The place may be another alarm's by now: that one has been told nothing.
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
                Err(TellError::Later(error.to_string()))
            }
        }
    }
}
