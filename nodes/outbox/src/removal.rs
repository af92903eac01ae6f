//! Removal of effects that have no use any more.

use twinbox_ids::EffectId;
use twinbox_replication_core::{Edit, Record};

use crate::{Effect, NewEffect, effect::set, schema};

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

#[cfg(test)]
mod tests {
    use twinbox_ids::{Origin, Stamp};

    use super::*;
    use crate::effect::done;

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
