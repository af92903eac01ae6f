//! Removal of effects that have no use any more.

use twinbox_ids::{EffectId, MailboxId, MessageId, Timestamp};
use twinbox_replication_core::{Edit, Record};

use crate::{
    Effect, NewEffect, Transition,
    effect::{read_u64, set},
    schema,
};

/// Thirty days: no effect lives as long, and no chunk of a recording comes as late, which could file its message again.
const KEPT_FOR_MS: u64 = 30 * 86_400_000;

/// The id of an administrator's next retry of an effect, which reads the content of the first.
pub fn next_retry(effect: &Effect) -> EffectId {
    NewEffect { retry: effect.new.retry.saturating_add(1), ..effect.new }.id()
}

/// The edits that remove an effect. Its content is blanked: a removed record keeps its registers.
pub fn removal(record: &Record) -> Vec<Edit> {
    let contents = [schema::REPORT, schema::SYSTEM_MAIL].into_iter();
    let filled = contents.filter(|tag| record.bytes(*tag).is_some_and(|bytes| !bytes.is_empty()));
    filled.map(|tag| set(tag, Vec::new())).chain([Edit::Delete]).collect()
}

/// The message that caused a removed effect, if the effect is so old that its record has no use any more once that message and the
/// record of its recording are gone: nothing evaluates the cause again. `None` for an effect without a message of a mailbox.
pub fn outlived_cause(record: &Record, now: Timestamp) -> Option<(MailboxId, MessageId)> {
    let created = record.bytes(schema::CREATED).and_then(read_u64)?;
    let [transition, _] = record.bytes(schema::KIND)? else { return None };
    let is_filed = Transition::from_byte(*transition) == Some(Transition::Filed);
    if !is_filed || !record.is_deleted() || now.0.saturating_sub(created) <= KEPT_FOR_MS {
        return None;
    }
    let (mailbox, message) = record.bytes(schema::CAUSE)?.split_at_checked(16)?;
    Some((MailboxId::from_slice(mailbox)?, MessageId::from_slice(message)?))
}

#[cfg(test)]
mod tests {
    use twinbox_ids::{DeviceId, Origin, Stamp};

    use super::*;
    use crate::{Cause, Channel, effect::done};

    #[test]
    fn cause_of_a_removed_old_effect_of_a_message_is_outlived() {
        const DAY: u64 = 86_400_000;
        for (transition, removed, age, outlived) in [
            (Transition::Filed, true, 31 * DAY, true),
            (Transition::Filed, true, 30 * DAY, false),
            (Transition::Filed, false, 31 * DAY, false),
            (Transition::Sent, true, 31 * DAY, false),
            (Transition::Quota, true, 31 * DAY, false),
        ] {
            let cause = Cause { mailbox: MailboxId(1), message: MessageId(2), transition };
            let (created, not_before, expires) = (Timestamp(0), Timestamp(0), Timestamp(9));
            let new = NewEffect {
                cause,
                channel: Channel::Mail,
                target: DeviceId(3),
                repeat: 0,
                retry: 0,
                created,
                not_before,
                expires,
            };
            let mut record = Record::new();
            let removal = if removed { removal(&record) } else { Vec::new() };
            for (wall, edit) in (1..).zip(new.edits(None).into_iter().chain(removal)) {
                let delta = edit.delta(
                    &record,
                    Stamp { wall, counter: 0, origin: Origin(1) },
                    &"a".parse().expect("a name"),
                );
                record.merge(delta);
            }
            let found = outlived_cause(&record, Timestamp(age));
            assert_eq!(found, outlived.then_some((MailboxId(1), MessageId(2))), "{transition:?} {removed} {age}");
        }
    }

    #[test]
    fn removed_effect_has_no_content() {
        let mut record = Record::new();
        let mut wall = 0;
        let mut write = |record: &mut Record, edits: Vec<Edit>| {
            for edit in edits {
                wall += 1;
                let stamp = Stamp { wall, counter: 0, origin: Origin(1) };
                let delta = edit.delta(record, stamp, &"a".parse().expect("a name"));
                record.merge(delta);
            }
        };
        write(&mut record, done(twinbox_ids::Timestamp(1), "taken"));
        assert_eq!(removal(&record).len(), 1, "nothing to blank");
        write(&mut record, vec![set(schema::REPORT, vec![1; 900]), set(schema::SYSTEM_MAIL, vec![2; 90])]);
        let edits = removal(&record);
        write(&mut record, edits);
        assert!(record.is_deleted());
        for tag in [schema::REPORT, schema::SYSTEM_MAIL] {
            assert_eq!(record.bytes(tag), Some(&[][..]), "{tag}");
        }
    }
}
