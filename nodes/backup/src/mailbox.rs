//! Restores the messages of one mailbox into a running cluster, as new messages (rule D8).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tokio::sync::Mutex;
use twinbox_ids::{MailboxId, MessageId, RecordingId};
use twinbox_mailbox::{Message, NewMessage, Number, Recording, schema};
use twinbox_mailstore::{Acknowledgement, Mailstore, RestoredMessage};
use twinbox_replication_core::{Key, Record};

use crate::{
    Backup, BackupError, BackupFolder, Observer, Phase, Progress, audio::AudioPool, blocking, rows::Records,
};

/// Held while a mailbox is restored: two restores of one mailbox would each find its messages absent.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// An order to restore a mailbox.
#[derive(Debug, Clone)]
pub struct MailboxRestore {
    /// Number of the mailbox in the backup.
    pub number: String,
    /// Number of the mailbox that gets the messages, also if it is another one; `None`: the same mailbox.
    pub to: Option<String>,
}

/// Result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailboxRestored {
    /// Ids of the restored messages: in the backup, and now.
    pub restored: Vec<(MessageId, MessageId)>,
    /// Number of messages that are present, or were restored before.
    pub present: u64,
    /// Messages that could not be restored.
    pub lost: Vec<NotRestored>,
    /// True when one of them is on this node's disk only (rule A3).
    pub alone: bool,
}

/// A message that could not be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotRestored {
    /// Its id in the backup; `None` if its record could not be read.
    pub id: Option<MessageId>,
    /// Reason.
    pub reason: String,
}

/// Messages of a mailbox in a backup.
struct Found {
    mailbox: MailboxId,
    messages: Vec<(Message, Record)>,
    lost: Vec<NotRestored>,
}

/// Restores the messages of a mailbox that were present at the time of the backup and are not present now. Each gets a new
/// id and a new UID; devices do not notify of it. Interrupted, it can be run again: restored messages are left alone. Waits
/// for the end of other restores in this process.
pub async fn restore_mailbox(
    mailstore: &Mailstore,
    folder: &BackupFolder,
    backup: &Backup,
    order: &MailboxRestore,
    observer: &Observer,
) -> Result<MailboxRestored, BackupError> {
    let _turn = ONE_AT_A_TIME.lock().await;
    let _lock = folder.after_prune(observer, BackupFolder::share).await?;
    let (of, number) = (backup.clone(), order.number.clone());
    let found = blocking(move || find(&of, &number)).await?;
    let Found { mailbox, messages, lost } = found;
    let target = order.to.as_ref().unwrap_or(&order.number);
    let into = mailstore.find_by_number(target).await?;
    let into = into.ok_or_else(|| BackupError::NoMailbox(target.clone()))?.id;
    if order.to.is_none() && into != mailbox {
        return Err(BackupError::OtherMailbox(order.number.clone()));
    }
    let present = mailstore.present_or_restored(into).await?;
    let mut restored = MailboxRestored { lost, ..MailboxRestored::default() };
    let (total, pool) = (messages.len() as u64, folder.audio());
    for (done, (message, record)) in (1..).zip(messages) {
        let Message { id, folder, received, codec, urgent, private, .. } = message;
        if present.contains(&id) {
            restored.present += 1;
            continue;
        }
        let (caller, caller_name, mail) =
            (message.caller.clone(), message.caller_name.clone(), message.mail.clone());
        let source = pool.clone();
        let (partial, audio) = match blocking(move || read_audio(&source, message, &record)).await {
            Ok(Some(read)) => read,
            Ok(None) => continue,
            Err(error) if error.is_of_destination() => return Err(error),
            Err(error) => {
                restored.lost.push(NotRestored { id: Some(id), reason: error.to_string() });
                continue;
            }
        };
        let new = NewMessage { received, caller, caller_name, codec, urgent, private, mail };
        let message = RestoredMessage { mailbox: into, from: id, new, folder, partial, audio };
        let (new, acknowledgement) = mailstore.restore_message(message).await?;
        restored.restored.push((id, new));
        restored.alone |= matches!(acknowledgement, Acknowledgement::Alone);
        observer(Progress { phase: Phase::Audio, done, total, bytes: 0 });
    }
    Ok(restored)
}

/// Reads the audio of a message; if it is lost, the longest part of it. True for a part; `None` without audio.
fn read_audio(
    pool: &AudioPool,
    mut message: Message,
    record: &Record,
) -> Result<Option<(bool, Bytes)>, BackupError> {
    let Some(whole) = message.audio.clone() else { return Ok(None) };
    match pool.read(&whole.blob.hash) {
        Ok(bytes) => Ok(Some((whole.partial, bytes))),
        Err(error) if error.is_of_destination() => Err(error),
        Err(error) => {
            message.offer_part(record, |part| pool.read(&part.hash).is_ok());
            match message.audio.filter(|part| part.blob.hash != whole.blob.hash) {
                Some(part) => Ok(Some((true, pool.read(&part.blob.hash)?))),
                None => Err(error),
            }
        }
    }
}

/// Reads the mailbox with this number and its messages, on a thread that may block: one pass for the claims, one for
/// the mailboxes and messages, and one for the recordings of partial ones.
fn find(backup: &Backup, number: &str) -> Result<Found, BackupError> {
    let none = || BackupError::NoMailboxInBackup { backup: backup.name.clone(), number: number.to_owned() };
    let number = Number::normalise(number).map_err(|_| none())?;
    let key = schema::number_key(&number);
    let claims = rows(backup, |row| *row == key)?.pop().and_then(|(_, claims)| claims.ok()).ok_or_else(none)?;
    let claimants = Number::claimants(&claims);
    let owner = |row: &Key| schema::mailbox_of(row).or_else(|| Some(schema::message_of(row)?.0));
    let theirs = rows(backup, |row| owner(row).is_some_and(|owner| claimants.contains(&owner)))?;
    let (mailboxes, mut records): (Vec<_>, Vec<_>) =
        theirs.into_iter().partition(|(row, _)| schema::mailbox_of(row).is_some());
    let readable = mailboxes.into_iter().filter_map(|(row, record)| Some((row, record.ok()?)));
    let read: BTreeMap<Key, Record> = readable.chain([(key, claims)]).collect();
    let holder = number.holder(|key| Ok::<_, BackupError>(read.get(key).cloned()))?;
    // Messages are wanted of a mailbox that is removed or damaged, too.
    let mailbox = holder.or(claimants.first().copied()).ok_or_else(none)?;
    records.retain(|(row, _)| owner(row) == Some(mailbox));
    // The recording of a complete message says nothing about it.
    let partial: BTreeSet<Key> = records
        .iter()
        .filter(|(_, record)| record.as_ref().is_ok_and(|record| record.register(schema::message::AUDIO).is_none()))
        .filter_map(|(key, _)| Some(schema::recording_key(RecordingId(schema::message_of(key)?.1.0))))
        .collect();
    let recordings = match partial.is_empty() {
        true => Vec::new(),
        false => rows(backup, |row| partial.contains(row))?,
    };
    let recordings: BTreeMap<Key, Recording> = recordings
        .into_iter()
        .filter_map(|(key, record)| {
            let recording = Recording::read(&key, &record.ok()?).ok()?;
            Some((key, recording))
        })
        .collect();
    let mut found = Found { mailbox, messages: Vec::new(), lost: Vec::new() };
    for (key, record) in records {
        let recording = |id: MessageId| recordings.get(&schema::recording_key(RecordingId(id.0))).cloned();
        let message = record.and_then(|record| {
            let message = Message::read(&key, &record, recording).map_err(|error| error.to_string())?;
            Ok((message, record))
        });
        match message {
            Ok((message, record)) if message.is_present() && !message.purged => {
                found.messages.push((message, record));
            }
            Ok(_) => {}
            Err(reason) => {
                let id = schema::message_of(&key).map(|(_, id)| id);
                found.lost.push(NotRestored { id, reason });
            }
        }
    }
    found.messages.sort_by_key(|(message, _)| (message.received, message.id));
    Ok(found)
}

/// A row with its record, or the reason why it cannot be read.
type ReadRow = (Key, Result<Record, String>);

/// The records of a backup that are wanted.
fn rows(backup: &Backup, wanted: impl Fn(&Key) -> bool) -> Result<Vec<ReadRow>, BackupError> {
    let mut records = Records::open(backup)?;
    let mut rows = Vec::new();
    while let Some(row) = records.next_record()? {
        if wanted(&row.0) {
            rows.push(row);
        }
    }
    Ok(rows)
}
