//! The comparison of a store with the data that its disk must have.

use std::collections::BTreeSet;

use twinbox_replication_core::{Key, Record};
use twinbox_replication_store::{Store, StoreError};

use crate::{
    content::{self, BODY, COUNT, MESSAGES, RowId, TAKE, VERSIONS},
    finding::{
        Finding,
        FindingKind::{Audio, Lost, Torn, Unexpected},
    },
    model::{Owed, Tried},
};

/// Compares a store that was just opened. All that is found counts as acknowledged from then on: a reader has seen it. With
/// `is_alone` no other node may have begun a recording again that is filed here.
pub(crate) async fn judge(store: &Store, owed: &mut Owed, tried: &Tried, is_alone: bool) -> Result<(), Finding> {
    let common = store.get(&content::common())?.unwrap_or_default();
    let members: BTreeSet<Vec<u8>> = common.set(VERSIONS).map(<[u8]>::to_vec).collect();
    for (row, newest) in &tried.versions {
        let found = version(store, *row)?;
        let least = owed.versions.get(row).copied().unwrap_or(0);
        if !(least..=*newest).contains(&found) {
            return Err(
                Lost.finding(format!("{row:?} has version {found}, acknowledged was {least}, tried {newest}"))
            );
        }
        if found > 0 && !members.contains(&row.member(found)) {
            return Err(Torn.finding(format!(
                "{row:?} has version {found}, of which another record of the commit is missing"
            )));
        }
        owed.versions.insert(*row, found);
    }
    let counted = common.counter(COUNT);
    if !(owed.counted..=tried.counted).contains(&counted) {
        return Err(
            Lost.finding(format!("{counted} versions are counted of {} to {}", owed.counted, tried.counted))
        );
    }
    owed.counted = counted;
    judge_log(store)?;
    judge_present(store)?;
    judge_messages(store, owed, tried).await?;
    judge_recordings(store, owed, tried, is_alone).await
}

/// The version of both halves of a row; 0 if it is not there.
fn version(store: &Store, row: RowId) -> Result<u64, Finding> {
    let mut versions = Vec::new();
    for half in RowId::HALVES {
        let record = store.get(&row.key(half))?;
        let body = record.as_ref().and_then(|record| record.bytes(BODY)).unwrap_or_default();
        let version = content::version_of(body);
        if version > 0 && body != row.half(half, version) {
            return Err(Unexpected.finding(format!("{row:?} has another content in version {version}")));
        }
        versions.push(version);
    }
    match versions[..] {
        [first, second] if first == second => Ok(first),
        _ => Err(Torn.finding(format!("{row:?} has the versions {versions:?} of one commit"))),
    }
}

/// The log has all changes from its beginning up to the vector.
fn judge_log(store: &Store) -> Result<(), Finding> {
    let begins = store.log_begins();
    for (origin, upto) in store.vector().iter() {
        let after = begins.get(origin);
        let found = store.oldest_changes(origin, after, usize::MAX)?.len() as u64;
        if found != upto.saturating_sub(after) {
            return Err(Torn.finding(format!("the log has {found} changes of {origin} from {after} to {upto}")));
        }
    }
    Ok(())
}

/// The index of present messages has those of the table.
fn judge_present(store: &Store) -> Result<(), Finding> {
    let mut present: Vec<Key> = Vec::new();
    for row in store.rows(MESSAGES, b"") {
        let (key, record) = row?;
        present.extend((!record.is_deleted()).then_some(key));
    }
    let indexed = store.present_rows(b"").map(|row| row.map(|(key, _)| key));
    match indexed.collect::<Result<Vec<Key>, StoreError>>()? == present {
        true => Ok(()),
        false => Err(Torn.finding("the index of present messages is not that of the table")),
    }
}

async fn judge_messages(store: &Store, owed: &mut Owed, tried: &Tried) -> Result<(), Finding> {
    for (number, message) in &tried.messages {
        let record = store.get(&content::message_key(*number))?;
        let Some(record) = record.filter(|record| !record.is_deleted()) else {
            judge_absent(store, owed, *number, message.length as u64)?;
            continue;
        };
        if owed.deleted.contains(number) {
            return Err(Lost.finding(format!("message {number} was deleted and is here again")));
        }
        judge_audio(store, &record, *number, message.length).await?;
        if !message.is_deleting {
            owed.sealed.remove(number);
            owed.filed.insert(*number);
        }
    }
    Ok(())
}

fn judge_absent(store: &Store, owed: &Owed, number: u64, length: u64) -> Result<(), Finding> {
    if owed.filed.contains(&number) {
        return Err(Lost.finding(format!("message {number} is lost")));
    }
    let covered = store.recordings().coverage(content::recording(number), TAKE).unwrap_or_default();
    if owed.sealed.contains(&number) && !covered.covers(0..length) {
        return Err(Audio.finding(format!("recording {number} of {length} bytes was sealed, and has {covered:?}")));
    }
    Ok(())
}

async fn judge_audio(store: &Store, record: &Record, number: u64, length: usize) -> Result<(), Finding> {
    let Some(blob) = record.blobs().next().copied() else {
        return Err(Torn.finding(format!("message {number} names no audio")));
    };
    let audio = store.blobs().read(&blob.hash).await;
    let audio = audio.map_err(|error| Finding::from(error).with_place(&format!("audio of message {number}")))?;
    if audio != content::audio(number, length) {
        return Err(Audio.finding(format!("message {number} has other audio")));
    }
    Ok(())
}

async fn judge_recordings(store: &Store, owed: &Owed, tried: &Tried, is_alone: bool) -> Result<(), Finding> {
    for (id, take, _) in store.recordings().open() {
        let known = u64::try_from(id.0).ok().and_then(|number| Some((number, tried.messages.get(&number)?)));
        let Some((number, message)) = known else {
            return Err(Unexpected.finding(format!("recording {id} was never begun")));
        };
        if is_alone && owed.filed.contains(&number) {
            return Err(Lost.finding(format!("message {number} was filed, and its recording is in progress again")));
        }
        let expected = content::audio(number, message.length);
        for range in store.recordings().coverage(id, take).unwrap_or_default().iter() {
            let bytes = store.recordings().read(id, take, range.clone()).await?;
            if expected.get(range.start as usize..range.end as usize) != Some(&bytes[..]) {
                return Err(Audio.finding(format!("recording {number} has other audio in {range:?}")));
            }
        }
    }
    Ok(())
}
