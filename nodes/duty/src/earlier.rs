//! The attempts of earlier holders, where a receiver cannot tell a repeat (rule E1).
//!
//! An attempt is on two nodes before its act. In a cluster of three, the third may become the holder without it: its stream
//! from the dead holder broke before, and the other node has not passed it on yet. So a new holder makes a change of its own
//! first, in the record of an effect that waits. A member that has that change says what it has after this epoch began, hence
//! after the last act of the earlier holder. When all that is here, from all members but one that is away, each attempt is
//! here.

use std::{
    collections::BTreeSet,
    sync::{MutexGuard, PoisonError},
};

use tokio::time::sleep;
use tracing::{info, warn};
use twinbox_clock::BootInstant;
use twinbox_ids::{EffectId, Epoch};
use twinbox_mailstore::StabilityMark;
use twinbox_outbox::Effect;

use crate::{
    Channels,
    outbox_loop::{HEARTBEAT, OutboxLoop, READ_AGAIN},
};

/// Whether this node knows the attempts of earlier holders, since the beginning of the epoch.
#[derive(Default)]
pub(crate) struct EarlierAttempts {
    known: bool,
    /// The changes that were here after the question.
    asked: Option<StabilityMark>,
    /// Time of the latest look at the answers, which costs more than a turn of the loop should.
    looked: Option<BootInstant>,
    /// Effects that wait for the answers.
    waiting: BTreeSet<EffectId>,
}

impl<C: Channels> OutboxLoop<C> {
    /// Whether an effect needs no knowledge of earlier attempts, or this node has it. Otherwise the effect waits for
    /// [`Self::learn_attempts`].
    pub(crate) fn may_be_attempted(&self, effect: &Effect) -> bool {
        let mut earlier = self.earlier();
        let may = earlier.known || !effect.new.channel.at_most_once();
        if !may {
            earlier.waiting.insert(effect.id);
        }
        may
    }

    /// Asks for the attempts of earlier holders as soon as an effect waits for them. True once, when all are here.
    pub(crate) async fn learn_attempts(&self, epoch: &Epoch) -> bool {
        let ask = {
            let mut earlier = self.earlier();
            if earlier.known {
                return false;
            }
            if earlier.looked.is_none_or(|looked| looked.elapsed() >= HEARTBEAT) {
                earlier.looked = Some(BootInstant::now());
                if self.mailstore.knows_all_attempts(earlier.asked.as_ref()) {
                    earlier.known = true;
                    earlier.waiting.clear();
                    return true;
                }
            }
            if earlier.asked.is_some() { None } else { earlier.waiting.first().copied() }
        };
        let Some(effect) = ask else { return false };
        match self.mailstore.ask_for_attempts(effect, epoch).await {
            Ok(Some(mark)) => {
                info!(%epoch, "text messages wait until the other members have sent the attempts of earlier holders");
                self.earlier().asked = Some(mark);
            }
            // It is at its end; another one asks.
            Ok(None) => {
                self.earlier().waiting.remove(&effect);
            }
            Err(error) => {
                warn!(%effect, %error, "attempts of earlier holders cannot be asked for; retrying");
                sleep(READ_AGAIN).await;
            }
        }
        false
    }

    pub(crate) fn earlier(&self) -> MutexGuard<'_, EarlierAttempts> {
        self.earlier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
