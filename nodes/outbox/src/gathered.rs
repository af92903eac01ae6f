//! Notifications that have the messages of several effects: one effect, the leader, is attempted and covers the others.
//!
//! The set is fixed by the first attempt whose result may be unknown: the receiver may have it under the leader's id, and would
//! take a larger set under that id for a repeat. Each covered effect has the attempt too, so that no later holder takes it
//! for one that was never attempted. While nothing has left for certain, the set may change.

use twinbox_ids::{EffectId, Timestamp};
use twinbox_replication_core::Edit;

use crate::{
    Transition,
    effect::{Effect, done, failed, read_u32, set},
    schema,
};

/// Maximum number of effects that one notification covers.
pub const MOST_GATHERED: usize = 100;
/// Version of the registers.
const VERSION: u8 = 1;

/// The notification that has the message of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gathered {
    /// The effect that is attempted.
    pub into: EffectId,
    /// Number of the covered effect's attempt that was made with it.
    pub attempt: u32,
}

/// Result of a notification, for the effects that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatheredEnd {
    /// The receiver has it.
    Taken,
    /// The same set is attempted again at that time.
    Again(Timestamp),
    /// The receiver has nothing of it: at that time a notification may have another set.
    Apart(Timestamp),
    /// The leader is not attempted any more.
    Over {
        /// The receiver may have it.
        unknown: bool,
    },
}

impl Gathered {
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (into, attempt) = versioned(bytes)?.split_at_checked(16)?;
        Some(Self { into: EffectId::from_slice(into)?, attempt: read_u32(attempt)? })
    }
}

impl Effect {
    /// True if its receiver may know its id: its set of messages stays as it is, and it joins no other.
    pub fn is_fixed(&self) -> bool {
        self.new.retry > 0 || self.attempts() > self.not_taken
    }

    /// True if the outcome of this effect decides about another, which is not attempted until then. An effect with a set of
    /// its own, as a split may leave it, waits for no other.
    pub fn gathers(&self, other: &Self) -> bool {
        let with_this = |it: Gathered| it.into == self.id && it.attempt == other.attempts();
        !self.state().is_end()
            && self.covers.contains(&other.id)
            && other.covers.is_empty()
            && other.gathered.is_some_and(with_this)
    }
}

/// The edits that note the effects which a notification covers, at most [`MOST_GATHERED`].
pub fn covers(effects: &[EffectId]) -> Vec<Edit> {
    let ids = effects.iter().take(MOST_GATHERED).flat_map(|id| id.to_bytes());
    vec![set(schema::COVERS, std::iter::once(VERSION).chain(ids).collect())]
}

/// The edits that note in a covered effect that its attempt of that number was made with another.
pub fn gathered_in(leader: EffectId, attempt: u32) -> Vec<Edit> {
    vec![set(schema::IN, [&[VERSION][..], &leader.to_bytes(), &attempt.to_be_bytes()].concat())]
}

/// The edits that note that the latest attempt of a notification left nothing with the receiver; none if an earlier one may
/// have.
pub fn not_taken(effect: &Effect) -> Vec<Edit> {
    let number = effect.attempts();
    if effect.new.cause.transition != Transition::Filed || effect.not_taken.checked_add(1) != Some(number) {
        return Vec::new();
    }
    vec![set(schema::NOT_TAKEN, [&[VERSION][..], &number.to_be_bytes()].concat())]
}

/// The edits of a covered effect that follow from the result of its leader, with the reason of that.
pub fn covered_end(leader: &Effect, other: &Effect, end: GatheredEnd, now: Timestamp, reason: &str) -> Vec<Edit> {
    let number = other.attempts();
    match end {
        GatheredEnd::Taken => done(now, &format!("gathered into {}", leader.id)),
        GatheredEnd::Again(next) => failed(number, next, reason),
        GatheredEnd::Apart(next) => [failed(number, next, reason), not_taken(other)].concat(),
        GatheredEnd::Over { unknown: true } if leader.new.channel.at_most_once() => {
            done(now, &format!("in the digest of {}, result unknown", leader.id))
        }
        GatheredEnd::Over { .. } => failed(number, now, &format!("in the digest of {}: {reason}", leader.id)),
    }
}

pub(crate) fn read_covers(bytes: &[u8]) -> Option<Vec<EffectId>> {
    let (ids, rest) = versioned(bytes)?.as_chunks::<16>();
    let fits = rest.is_empty() && ids.len() <= MOST_GATHERED;
    fits.then(|| ids.iter().map(|id| EffectId(u128::from_be_bytes(*id))).collect())
}

pub(crate) fn read_not_taken(bytes: &[u8]) -> Option<u32> {
    versioned(bytes).and_then(read_u32)
}

fn versioned(bytes: &[u8]) -> Option<&[u8]> {
    bytes.split_first().filter(|(version, _)| **version == VERSION).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use twinbox_ids::{DeviceId, Epoch, Incarnation, MailboxId, MessageId, Origin, Stamp};
    use twinbox_replication_core::{Record, Value};

    use super::*;
    use crate::{Cause, Channel, NewEffect, attempt};

    /// A record that is edited step by step.
    struct Written {
        record: Record,
        id: EffectId,
        wall: u64,
    }

    impl Written {
        fn new(channel: Channel, message: u128) -> Self {
            let cause = Cause { mailbox: MailboxId(1), message: MessageId(message), transition: Transition::Filed };
            let [created, not_before, expires] = [1, 2, 9].map(Timestamp);
            let target = DeviceId(3);
            let new = NewEffect { cause, channel, target, repeat: 0, retry: 0, created, not_before, expires };
            let mut written = Self { record: Record::new(), id: new.id(), wall: 0 };
            written.write(new.edits(None));
            written
        }

        fn write(&mut self, edits: Vec<Edit>) {
            for edit in edits {
                self.wall += 1;
                let stamp = Stamp { wall: self.wall, counter: 0, origin: Origin(1) };
                let delta = edit.delta(&self.record, stamp, &"a".parse().expect("a name"));
                self.record.merge(delta);
            }
        }

        fn attempt(&mut self) -> u32 {
            let epoch = Epoch { generation: 0, number: 1, node: "a".parse().expect("a name") };
            let (number, edits) = attempt(&self.effect(), Timestamp(5), Incarnation(7), &epoch);
            self.write(edits);
            number
        }

        fn effect(&self) -> Effect {
            Effect::read(&schema::effect_key(self.id), &self.record).expect("readable").expect("present")
        }
    }

    #[test]
    fn set_is_fixed_by_an_attempt_that_may_have_arrived_and_not_by_one_that_left_nothing() {
        let mut written = Written::new(Channel::Webhook, 1);
        assert!(!written.effect().is_fixed());
        written.attempt();
        assert!(written.effect().is_fixed(), "under way");
        let not_taken_now = not_taken(&written.effect());
        written.write(failed(1, Timestamp(6), "connection refused"));
        assert!(written.effect().is_fixed(), "unknown, as of an earlier release");
        written.write(not_taken_now);
        assert!(!written.effect().is_fixed());
        written.attempt();
        written.write(failed(2, Timestamp(7), "no answer"));
        assert!(written.effect().is_fixed());
        written.attempt();
        assert!(not_taken(&written.effect()).is_empty(), "the second may have arrived");
    }

    #[test]
    fn covered_effect_waits_for_its_leader_until_it_is_attempted_alone() {
        let [mut leader, mut other] = [1, 2].map(|message| Written::new(Channel::Webhook, message));
        leader.attempt();
        leader.write(covers(&[other.id]));
        assert!(!leader.effect().gathers(&other.effect()), "not attempted with it");
        let number = other.attempt();
        other.write(gathered_in(leader.id, number));
        assert_eq!(leader.effect().covers, [other.id]);
        assert!(leader.effect().gathers(&other.effect()));
        // Two nodes that did not see each other: each effect leads the other.
        other.write(covers(&[leader.id]));
        assert!(!leader.effect().gathers(&other.effect()), "else neither would be attempted");
        other.write(covers(&[]));
        assert!(leader.effect().gathers(&other.effect()));
        let mut ended = Written { record: leader.record.clone(), ..leader };
        ended.write(done(Timestamp(8), "taken"));
        assert!(!ended.effect().gathers(&other.effect()), "at its end");
        other.attempt();
        assert!(!leader.effect().gathers(&other.effect()), "on its own by now");
    }

    #[test]
    fn end_of_a_leader_repeats_no_text_message_and_loses_no_other() {
        for (channel, unknown, is_done) in [
            (Channel::SmsHttp, true, true),
            (Channel::SmsHttp, false, false),
            (Channel::Webhook, true, false),
            (Channel::Mail, false, false),
        ] {
            let [mut leader, mut other] = [1, 2].map(|message| Written::new(channel, message));
            leader.attempt();
            other.attempt();
            let over = GatheredEnd::Over { unknown };
            other.write(covered_end(&leader.effect(), &other.effect(), over, Timestamp(7), "refused"));
            let other = other.effect();
            assert_eq!(
                (other.done.is_some(), other.due() == Timestamp(7)),
                (is_done, !is_done),
                "{channel} {unknown}"
            );
            assert!(other.sent_at().is_none() || is_done);
        }
    }

    #[test]
    fn registers_of_a_newer_release_are_not_guessed() {
        let mut written = Written::new(Channel::Webhook, 1);
        written.write(vec![Edit::Set(schema::COVERS, Value::Bytes(vec![2; 17]))]);
        let read = Effect::read(&schema::effect_key(written.id), &written.record);
        assert!(read.is_err(), "{read:?}");
        assert_eq!(read_covers(&[VERSION; 18]), None);
        assert_eq!(read_covers(&[VERSION; 1 + 16 * (MOST_GATHERED + 1)]), None);
    }
}
