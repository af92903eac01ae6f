//! Judges the outbox by the attempts and arrivals that really happened, not by the records.

use std::collections::BTreeMap;

use twinbox_ids::{EffectId, Epoch, Incarnation};
use twinbox_outbox::{Channel, Effect};

use super::store::Disk;
use crate::{Violation, clock::Micros};

/// An attempt that became durable on its holder's disk.
pub(super) struct Begun {
    pub(super) incarnation: Incarnation,
    pub(super) number: u32,
    /// Attempted with no other beside it.
    pub(super) alone: bool,
    /// Number of the change that made it durable.
    pub(super) change: usize,
}

/// A begun attempt, with its end.
struct History {
    begun: Begun,
    /// Its process came to an outcome.
    ended: bool,
    /// Number of the change that recorded the outcome.
    outcome: Option<usize>,
}

/// An effect that reached its receiver.
pub(super) struct Received {
    pub(super) incarnation: Incarnation,
    pub(super) epoch: Epoch,
    pub(super) solo: bool,
}

#[derive(Default)]
struct Story {
    attempts: Vec<History>,
    received: Vec<Received>,
    /// Attempts whose process was counted as dead.
    deaths: Vec<u32>,
}

/// The receivers of all effects, and the observer of all attempts.
#[derive(Default)]
pub(super) struct OutboxJudge {
    stories: BTreeMap<EffectId, Story>,
    pub(super) repeats: u64,
    pub(super) suspects: u64,
    pub(super) dead_letters: u64,
}

impl History {
    fn is(&self, incarnation: Incarnation, number: u32) -> bool {
        (self.begun.incarnation, self.begun.number) == (incarnation, number)
    }
}

impl OutboxJudge {
    /// An attempt begins on this disk. Rule R11: no third one follows two deaths, the second of them alone.
    pub(super) fn begins(
        &mut self,
        at: Micros,
        id: EffectId,
        begun: Begun,
        disk: &Disk,
        alive: impl Fn(Incarnation) -> bool,
    ) -> Result<(), Violation> {
        let story = self.stories.entry(id).or_default();
        let known: Vec<&History> = story.attempts.iter().filter(|it| disk.has(it.begun.change)).collect();
        let died = |it: &History| !it.ended && !alive(it.begun.incarnation);
        // Two nodes that did not see each other's attempts gave them one number. The records tell no outcome of the one from
        // that of the other: the death is counted as none, and one more attempt follows.
        let counts = |it: &History| {
            let known_outcome = |other: &History| other.outcome.is_some_and(|change| disk.has(change));
            !story.attempts.iter().any(|other| other.begun.number == it.begun.number && known_outcome(other))
        };
        if let [.., first, second] = known.as_slice()
            && second.begun.alone
            && second.begun.number == first.begun.number + 1
            && [first, second].into_iter().all(|it| died(it) && counts(it))
        {
            let detail = format!("effect {id} is attempted after two processes died of it");
            return Err(Violation::Outbox { at, detail });
        }
        story.attempts.push(History { begun, ended: false, outcome: None });
        Ok(())
    }

    /// An attempt came to its outcome; `change` recorded it, if there was still something to record.
    pub(super) fn ends(&mut self, id: EffectId, incarnation: Incarnation, number: u32, change: Option<usize>) {
        let story = self.stories.entry(id).or_default();
        if let Some(history) = story.attempts.iter_mut().find(|it| it.is(incarnation, number)) {
            history.ended = true;
            history.outcome = change;
        }
    }

    /// A member that takes the duty over counts the death of the process of an attempt.
    pub(super) fn counts_death(&mut self, id: EffectId, attempt: u32) {
        self.suspects += 1;
        self.stories.entry(id).or_default().deaths.push(attempt);
    }

    /// A member gives an effect up without an outcome. Rule R11: at the second death, not before.
    pub(super) fn gives_up(&mut self, at: Micros, effect: &Effect, disk: &Disk) -> Result<(), Violation> {
        self.dead_letters += 1;
        let Some(attempt) = effect.unfinished().filter(|_| !effect.new.channel.at_most_once()) else {
            return Ok(());
        };
        let story = self.stories.entry(effect.id).or_default();
        let known_outcome = |it: &History| it.outcome.is_some_and(|change| disk.has(change));
        let ended = story.attempts.iter().any(|it| it.is(attempt.incarnation, attempt.number) && known_outcome(it));
        let died_before = story.deaths.iter().any(|number| *number < attempt.number);
        if ended || !died_before {
            let id = effect.id;
            let detail = format!("effect {id} is dead at attempt {}, before a second death", attempt.number);
            return Err(Violation::Outbox { at, detail });
        }
        Ok(())
    }

    /// An effect reaches its receiver.
    pub(super) fn receives(
        &mut self,
        at: Micros,
        id: EffectId,
        channel: Channel,
        received: Received,
    ) -> Result<(), Violation> {
        let story = self.stories.entry(id).or_default();
        let (incarnation, epoch) = (received.incarnation, &received.epoch);
        for earlier in &story.received {
            let again = |reason: &str| {
                let before = &earlier.epoch;
                let detail = format!("{channel} {id} arrives in {epoch} and has arrived in {before}: {reason}");
                Err(Violation::Repeated { at, detail })
            };
            if earlier.epoch == *epoch {
                return match earlier.incarnation == incarnation {
                    true => again("its holder neither died nor lost the duty"),
                    false => again("two processes act in one epoch"),
                };
            }
            // Two nodes in solo mode may both act while neither sees the other.
            if channel.at_most_once() && !earlier.solo && !received.solo {
                return again("its receiver cannot tell a repeat");
            }
        }
        self.repeats += u64::from(!story.received.is_empty());
        story.received.push(received);
        Ok(())
    }

    pub(super) fn is_received(&self, id: EffectId) -> bool {
        self.stories.get(&id).is_some_and(|story| !story.received.is_empty())
    }

    /// Number of effects that reached their receivers.
    pub(super) fn received(&self) -> u64 {
        self.stories.values().filter(|story| !story.received.is_empty()).count() as u64
    }
}
