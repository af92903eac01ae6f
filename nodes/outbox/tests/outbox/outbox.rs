//! The outbox as a pure value: states under merge, attempts, decisions at a take-over, order and limits.

use proptest::prelude::*;
use twinbox_ids::{
    DeviceId, EffectId, Epoch, Incarnation, MailboxId, MessageId, NodeName, Origin, Stamp, Timestamp,
};
use twinbox_outbox::{
    Cause, Channel, Effect, EffectState, Limits, NewEffect, OutboxQueue, TakeOver, Transition, WaitingEffect,
    attempt, dead, death, done, failed, schema, take_over,
};
use twinbox_replication_core::{Edit, Record};

const NOW: Timestamp = Timestamp(1_000_000);
const A: Incarnation = Incarnation(0xa);
const B: Incarnation = Incarnation(0xb);

fn node(name: &str) -> NodeName {
    name.parse().expect("a name")
}

fn epoch(number: u64) -> Epoch {
    Epoch { generation: 1, number, node: node("a") }
}

fn new(channel: Channel) -> NewEffect {
    NewEffect {
        cause: Cause { mailbox: MailboxId(1), message: MessageId(2), transition: Transition::Filed },
        channel,
        target: DeviceId(3),
        repeat: 0,
        retry: 0,
        created: NOW,
        not_before: Timestamp(NOW.0 + 60_000),
        expires: Timestamp(NOW.0 + 1_000_000),
    }
}

/// A writer: applies edits to its copy of the record.
struct Writer {
    name: NodeName,
    record: Record,
    ticks: u64,
}

impl Writer {
    fn new(name: &str) -> Self {
        Self { name: node(name), record: Record::new(), ticks: 0 }
    }

    fn edit(&mut self, edits: Vec<Edit>) {
        for edit in edits {
            self.ticks += 1;
            let origin = Origin(u128::from(self.name == node("a")));
            let stamp = Stamp { wall: NOW.0 + self.ticks, counter: 0, origin };
            self.record.merge(edit.delta(&self.record, stamp, &self.name));
        }
    }

    fn effect(&self) -> Effect {
        Effect::read(&schema::effect_key(new(Channel::Mail).id()), &self.record)
            .expect("readable")
            .expect("present")
    }

    fn attempt(&mut self, who: Incarnation) -> u32 {
        let (number, edits) = attempt(&self.effect(), NOW, who, &epoch(7));
        self.edit(edits);
        number
    }
}

fn created(channel: Channel) -> Writer {
    let mut writer = Writer::new("a");
    writer.edit(new(channel).edits(None));
    writer
}

#[test]
fn an_effect_is_read_as_it_was_written_and_a_second_filing_changes_nothing() {
    let writer = created(Channel::Webhook);
    let effect = writer.effect();
    assert_eq!((effect.new, effect.state(), effect.attempts()), (new(Channel::Webhook), EffectState::Pending, 0));
    assert_eq!(effect.due(), new(Channel::Webhook).not_before);
    assert!(new(Channel::Webhook).edits(Some(&writer.record)).is_empty());
}

#[test]
fn ids_differ_by_each_part_of_the_identity_and_a_retry_shows_receivers_the_same() {
    let base = new(Channel::Mail);
    let others = [
        NewEffect { channel: Channel::Pager, ..base },
        NewEffect { target: DeviceId(4), ..base },
        NewEffect { repeat: 1, ..base },
        NewEffect { retry: 1, ..base },
        NewEffect { cause: Cause { message: MessageId(9), ..base.cause }, ..base },
        NewEffect { cause: Cause { transition: Transition::Test, ..base.cause }, ..base },
    ];
    assert!(others.iter().all(|other| other.id() != base.id()));
    let dead_letter = {
        let mut writer = created(Channel::Mail);
        writer.edit(dead(NOW, "refused"));
        writer.effect()
    };
    let again = dead_letter.again(Timestamp(NOW.0 + 5), NOW);
    assert_eq!((again.retry, again.not_before), (1, Timestamp(NOW.0 + 5)));
    let life = base.expires.0 - base.created.max(base.not_before).0;
    assert_eq!(again.expires, Timestamp(NOW.0 + 5 + life));
    let opens = Timestamp(NOW.0 + 9_000);
    let later = dead_letter.again(NOW, opens);
    assert_eq!((later.not_before, later.expires), (opens, Timestamp(opens.0 + life)));
    let mut writer = Writer::new("a");
    writer.edit(again.edits(None));
    assert_eq!(writer.effect().receiver_id(), dead_letter.receiver_id());
    assert_ne!(again.id(), base.id());
}

#[test]
fn a_failure_sets_the_time_of_the_next_attempt_and_success_ends_it() {
    let mut writer = created(Channel::Mail);
    assert_eq!(writer.attempt(A), 1);
    assert!(writer.effect().unfinished().is_some());
    writer.edit(failed(1, Timestamp(NOW.0 + 9), "no\r\nanswer"));
    let effect = writer.effect();
    assert_eq!(
        (effect.state(), effect.due(), effect.unfinished()),
        (EffectState::Failed, Timestamp(NOW.0 + 9), None)
    );
    assert_eq!(effect.failure.map(|(_, ended)| ended.text), Some("no  answer".to_owned()));
    assert_eq!(writer.attempt(A), 2);
    writer.edit(done(NOW, &"ü".repeat(500)));
    let effect = writer.effect();
    assert_eq!(effect.state(), EffectState::Done);
    assert!(effect.done.is_some_and(|ended| ended.text.len() <= 400));
}

#[test]
fn an_attempt_without_outcome_is_retried_alone_once_and_given_up_at_the_second_death() {
    let mut writer = created(Channel::Mail);
    assert_eq!(take_over(&writer.effect(), B), TakeOver::Attempt, "never attempted");
    writer.attempt(A);
    assert_eq!(take_over(&writer.effect(), A), TakeOver::Attempt, "the same process lost its lease");
    assert_eq!(take_over(&writer.effect(), B), TakeOver::Suspect { attempt: 1, deaths: 1 });
    writer.edit(death(1, 1));
    assert!(writer.effect().is_suspect());
    assert_eq!(take_over(&writer.effect(), Incarnation(0xc)), TakeOver::Attempt, "counted once");
    writer.attempt(B);
    assert!(matches!(take_over(&writer.effect(), A), TakeOver::GiveUp { .. }));
    // An attempt alone that merely failed clears it: a death during a later attempt is a first one again.
    writer.edit(failed(2, NOW, "deferred"));
    assert!(!writer.effect().is_suspect());
    writer.attempt(B);
    assert_eq!(take_over(&writer.effect(), A), TakeOver::Suspect { attempt: 3, deaths: 2 });
    // So does an outcome of the counted attempt that arrives late, or of another node's attempt of the same number.
    writer.edit(death(3, 2));
    writer.attempt(A);
    assert!(matches!(take_over(&writer.effect(), B), TakeOver::GiveUp { .. }));
    writer.edit(failed(3, NOW, "deferred"));
    assert_eq!(take_over(&writer.effect(), B), TakeOver::Suspect { attempt: 4, deaths: 3 });
}

#[test]
fn an_unknown_result_is_not_repeated_where_the_receiver_cannot_tell() {
    let mut writer = created(Channel::SmsHttp);
    writer.attempt(A);
    assert!(matches!(take_over(&writer.effect(), A), TakeOver::GiveUp { .. }));
    writer.edit(failed(1, NOW, "refused the connection"));
    assert_eq!(take_over(&writer.effect(), A), TakeOver::Attempt);
}

/// Earlier releases counted the life from the message: what was due after it was dead before its first attempt.
#[test]
fn a_notification_that_is_due_after_its_life_lives_as_long_from_then() {
    let late = Timestamp(NOW.0 + 9_000_000);
    let mut writer = Writer::new("a");
    writer.edit(NewEffect { not_before: late, ..new(Channel::Mail) }.edits(None));
    let effect = writer.effect();
    assert_eq!((effect.new.not_before, effect.new.expires), (late, Timestamp(late.0 + 1_000_000)));
    assert_eq!(effect.again(NOW, Timestamp(0)).expires, Timestamp(NOW.0 + 1_000_000));
}

/// Two nodes that do not see each other's attempts give them the same number.
#[test]
fn an_earlier_failure_of_the_same_number_does_not_end_the_latest_attempt() {
    let mut first = created(Channel::SmsHttp);
    let mut second = Writer { record: first.record.clone(), ticks: 100, ..Writer::new("b") };
    first.attempt(A);
    first.edit(failed(1, NOW, "waits for a second node"));
    second.attempt(B);
    second.record.merge(first.record);
    let effect = second.effect();
    assert_eq!((effect.attempts(), effect.unfinished().map(|attempt| attempt.incarnation)), (1, Some(B)));
    assert!(matches!(take_over(&effect, A), TakeOver::GiveUp { .. }));
    second.edit(failed(1, NOW, "refused the connection"));
    assert_eq!((second.effect().unfinished(), take_over(&second.effect(), A)), (None, TakeOver::Attempt));
}

#[test]
fn an_attempt_whose_outcome_arrives_after_it_was_counted_is_no_first_death() {
    let mut writer = created(Channel::Mail);
    writer.attempt(A);
    writer.edit(death(1, 1));
    writer.attempt(B);
    writer.edit(failed(1, NOW, "the duty was lost"));
    assert_eq!(take_over(&writer.effect(), Incarnation(0xc)), TakeOver::Suspect { attempt: 2, deaths: 2 });
}

proptest! {
    #[test]
    fn states_only_rise_whatever_two_nodes_write_and_however_often_they_merge(
        steps in proptest::collection::vec((any::<bool>(), 0..6_u8), 0..30)
    ) {
        let mut writers = [created(Channel::Mail), Writer::new("b")];
        writers[1].record = writers[0].record.clone();
        let mut highest = EffectState::Pending;
        for (second, step) in steps {
            let writer = &mut writers[usize::from(second)];
            let number = writer.effect().attempts();
            match step {
                0 => { writer.attempt(A); }
                1 => writer.edit(failed(number, NOW, "later")),
                2 => writer.edit(dead(NOW, "refused")),
                3 => writer.edit(done(NOW, "taken")),
                4 => writer.edit(death(number, 1)),
                _ => {
                    let (first, other) = (writers[0].record.clone(), writers[1].record.clone());
                    writers[0].record.merge(other);
                    writers[1].record.merge(first);
                    let states = writers.each_ref().map(|writer| writer.effect().state());
                    prop_assert_eq!(states[0], states[1]);
                    prop_assert!(states[0] >= highest, "{:?} after {:?}", states, highest);
                    highest = states[0];
                }
            }
        }
    }

    #[test]
    fn no_record_makes_the_reader_panic(fields in proptest::collection::vec((1..14_u16, proptest::collection::vec(any::<u8>(), 0..60)), 0..12)) {
        let mut writer = Writer::new("a");
        for (tag, bytes) in fields {
            writer.edit(vec![Edit::Set(tag, twinbox_replication_core::Value::Bytes(bytes))]);
        }
        let _ = Effect::read(&schema::effect_key(EffectId(1)), &writer.record);
    }

    #[test]
    fn the_queue_keeps_its_limits_and_forgets_nothing(
        effects in proptest::collection::vec((0..20_u64, 0..3_u128, prop::bool::weighted(0.1)), 1..80),
        ends in proptest::collection::vec(any::<prop::sample::Index>(), 200)
    ) {
        let limits = Limits { attempts: 5, per_mailbox: 2 };
        let mut queue = OutboxQueue::new(limits);
        let all: Vec<_> = effects.iter().enumerate().map(|(n, (due, group, alone))| WaitingEffect {
            id: EffectId(n as u128), due: Timestamp(*due), group: *group, alone: *alone,
        }).collect();
        all.iter().for_each(|waiting| queue.want(*waiting));
        let (mut active, mut ended) = (Vec::new(), 0);
        let mut ends = ends.into_iter();
        for now in 0..400 {
            while let Some(id) = queue.next(Timestamp(now)) {
                let begun = all[id.0 as usize];
                prop_assert!(begun.due <= Timestamp(now));
                active.push(begun);
                let alone = active.iter().any(|waiting: &WaitingEffect| waiting.alone);
                prop_assert!(!alone || active.len() == 1, "one that must be alone is not");
                prop_assert!(active.len() <= limits.attempts);
                prop_assert!(active.iter().filter(|other| other.group == begun.group).count() <= limits.per_mailbox);
            }
            if let Some(end) = ends.next().filter(|_| !active.is_empty()) {
                let gone = active.swap_remove(end.index(active.len()));
                queue.finished(gone.id);
                ended += 1;
            }
        }
        while let Some(gone) = active.pop() {
            queue.finished(gone.id);
            ended += 1;
            while let Some(id) = queue.next(Timestamp(1_000)) {
                active.push(all[id.0 as usize]);
            }
        }
        prop_assert_eq!((ended, queue.is_empty()), (all.len(), true));
    }
}

#[test]
fn a_change_during_an_attempt_counts_after_it() {
    let mut queue = OutboxQueue::new(Limits::default());
    let waiting = WaitingEffect { id: EffectId(1), due: NOW, group: 1, alone: false };
    queue.want(waiting);
    assert_eq!(queue.next(NOW), Some(EffectId(1)));
    queue.want(WaitingEffect { due: Timestamp(NOW.0 + 5), ..waiting });
    assert_eq!((queue.next(Timestamp(NOW.0 + 9)), queue.wake()), (None, None));
    queue.finished(EffectId(1));
    assert_eq!(queue.wake(), Some(Timestamp(NOW.0 + 5)));
    queue.remove(EffectId(1));
    assert!(queue.is_empty());
}
