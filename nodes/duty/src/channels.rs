//! The part that each duty brings: how an effect of its channels is prepared and done.

use std::{future::Future, sync::Arc, time::Duration};

use twinbox_gate::Permit;
use twinbox_ids::{EffectId, Epoch, Timestamp};
use twinbox_mailstore::{MailError, ReturnedMessage};
use twinbox_outbox::{Channel, Effect, NewEffect};

/// Time without a success after which a destination raises an alarm, if its channels have no other. Greylisting takes
/// less.
const SILENCE: Duration = Duration::from_secs(15 * 60);

/// Test hook, only in builds with debug assertions, never in a release: `TWINBOX_TEST_SILENCE` is that time in seconds.
#[cfg(debug_assertions)]
fn silence_of_test() -> Option<Duration> {
    std::env::var("TWINBOX_TEST_SILENCE").ok()?.parse().ok().map(Duration::from_secs)
}

/// Result of the preparation of an attempt: reads the store, and writes nothing to the outside.
#[derive(Debug)]
pub enum Prepared<W> {
    /// Attempt it now.
    Act(W),
    /// It is not wanted any more, for this reason: the message was heard, the device removed.
    Unwanted(String),
    /// Not before that time, for this reason: outside the hours of the device.
    Later(Timestamp, String),
    /// It can never be done: a dead letter, with the effects that follow.
    Impossible(String, Vec<NewEffect>),
}

impl<W> Prepared<W> {
    /// The same result with another input of the act.
    pub fn map<V>(self, work: impl FnOnce(W) -> V) -> Prepared<V> {
        match self {
            Self::Act(input) => Prepared::Act(work(input)),
            Self::Unwanted(reason) => Prepared::Unwanted(reason),
            Self::Later(at, reason) => Prepared::Later(at, reason),
            Self::Impossible(reason, next) => Prepared::Impossible(reason, next),
        }
    }
}

/// Result of an attempt.
#[derive(Debug)]
pub enum ActOutcome {
    /// The receiver has it: its receipt, and the effects that follow.
    Done(String, Vec<NewEffect>),
    /// The receiver answers and has not taken it, for this reason: to be attempted again.
    Failed(String),
    /// The receiver may have it, for this reason: to be attempted again with the same id.
    Unclear(String),
    /// The route to the receiver does not work, for this reason: to be attempted again, and at once when something else
    /// gets through.
    Unreachable(String),
    /// The receiver refused it for good: a dead letter, with the effects that follow.
    Refused(String, Vec<NewEffect>),
    /// The receiver may have it and could not tell a repeat: a dead letter, with the effects that follow.
    GivenUp(String, Vec<NewEffect>),
    /// The duty was lost before anything left.
    NotHolder,
}

/// The channels of a duty.
pub trait Channels: Send + Sync + 'static {
    /// Input of [`Self::act`].
    type Work: Send + 'static;

    /// Whether effects of this channel belong to the duty.
    fn serves(&self, channel: Channel) -> bool;

    /// Time without a success after which a destination raises an alarm.
    fn silence(&self) -> Duration {
        #[cfg(debug_assertions)]
        if let Some(silence) = silence_of_test() {
            return silence;
        }
        SILENCE
    }

    /// Called when the node begins the duty, before the first attempt of this epoch: other nodes may have worked since
    /// the last one.
    fn begins(&self, _epoch: &Epoch) {}

    /// Prepares an attempt.
    fn prepare(&self, effect: &Effect) -> impl Future<Output = Prepared<Self::Work>> + Send;

    /// Other effects whose messages are in the same notification: they have its attempts and its outcome.
    fn covers(&self, _work: &Self::Work) -> Vec<EffectId> {
        Vec::new()
    }

    /// The route that an attempt takes, such as the smarthost: receivers behind one route are cut off together.
    fn route(&self, effect: &Effect, work: &Self::Work) -> String;

    /// Attempts an effect. `permit` is checked before each write, and owns the connections.
    fn act(
        &self,
        effect: &Effect,
        work: Self::Work,
        permit: Arc<Permit>,
    ) -> impl Future<Output = ActOutcome> + Send;

    /// The effects that follow when an effect is given up without the outcome of an attempt: it has expired, or the result of
    /// its attempt stays unknown.
    fn abandoned(&self, _effect: &Effect) -> impl Future<Output = Result<Vec<NewEffect>, MailError>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// The message that comes back to its sender because an effect is given up for this reason: it is filed with the dead
    /// letter.
    fn returned(
        &self,
        _effect: &Effect,
        _reason: &str,
    ) -> impl Future<Output = Result<Option<ReturnedMessage>, MailError>> + Send {
        std::future::ready(Ok(None))
    }

    /// Whether the commit that records the success of an effect also deletes its message: the receiver has the recording.
    fn deletes_message(&self, _effect: &Effect) -> impl Future<Output = Result<bool, MailError>> + Send {
        std::future::ready(Ok(false))
    }
}
