//! Mailboxes and messages in bulk, through the commit path of a node: recordings begin, get their audio, are sealed and
//! filed, as calls do it, many at once so that their syncs are shared. No SIP and no RTP.
//!
//! With `imported` they are imports instead, which have no recording of their own: fewer records, and shared audio.

use std::{
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use twinbox_ids::{MailboxId, MessageId, Timestamp};
use twinbox_mailstore::{
    Audio, Codec, CreateError, Folder, ImportOutcome, ImportedMessage, Mailstore, Mark, NewMailbox,
};
use twinbox_store_kit::meta;
use twinbox_testkit::{Speech, wait_until};

/// Number of the first mailbox.
const FIRST: usize = 200_000;
/// Messages that are written at once.
const AT_ONCE: usize = 256;
/// Different pieces of audio of imports.
const SHARED: usize = 1_000;
/// Time of the first import, in milliseconds since 1970.
const RECEIVED_MS: u64 = 1_763_625_600_000;
/// Bytes of a chunk: a quarter of a second.
pub const CHUNK: usize = 2_000;

/// The content of a bulk.
#[derive(Debug, Clone, Copy)]
pub struct Population {
    /// Number of mailboxes.
    pub mailboxes: usize,
    /// Number of messages, spread evenly over the mailboxes.
    pub messages: usize,
    /// Audio of each message, in bytes.
    pub audio: usize,
    /// Imports instead of recordings.
    pub imported: bool,
    /// Each message is heard and deleted, each by a commit of its own.
    pub deleted: bool,
}

/// A message that was written.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// Its mailbox.
    pub mailbox: MailboxId,
    /// Its id.
    pub message: MessageId,
    /// Length of its audio in bytes.
    pub bytes: usize,
}

/// Audio of a message: the first bytes name it, so that no two messages share it.
pub fn audio(number: u64, bytes: usize) -> Bytes {
    let mut audio = BytesMut::from(&Speech::new(1).bytes(0, bytes.max(8))[..]);
    audio[..8].copy_from_slice(&number.to_be_bytes());
    audio.freeze()
}

/// Makes the mailboxes, or finds those of an earlier bulk.
pub async fn mailboxes(mailstore: &Mailstore, count: usize) -> Vec<MailboxId> {
    let next = Arc::new(AtomicUsize::new(0));
    let made = each(AT_ONCE, || {
        let (mailstore, next) = (mailstore.clone(), Arc::clone(&next));
        async move {
            let mut made = Vec::new();
            loop {
                let n = next.fetch_add(1, Relaxed);
                if n >= count {
                    return made;
                }
                let number = (FIRST + n).to_string();
                let new = NewMailbox { pin: None, ..NewMailbox::new(number.clone(), "") };
                let id = match mailstore.create(new).await {
                    Ok((mailbox, _)) => mailbox.id,
                    Err(CreateError::Taken { .. }) => {
                        let found = mailstore.find_by_number(&number).await.expect("a read");
                        found.expect("the mailbox that has the number").id
                    }
                    Err(error) => panic!("mailbox {number}: {error}"),
                };
                made.push((n, id));
            }
        }
    });
    made.await
}

/// Writes the messages, and returns them in about the order of their writing; `first` numbers their audio.
pub async fn messages(
    mailstore: &Mailstore,
    mailboxes: &[MailboxId],
    population: Population,
    first: u64,
) -> Vec<Written> {
    let (next, mailboxes) = (Arc::new(AtomicUsize::new(0)), Arc::new(mailboxes.to_vec()));
    each(AT_ONCE, || {
        let (mailstore, next, mailboxes) = (mailstore.clone(), Arc::clone(&next), Arc::clone(&mailboxes));
        async move {
            let mut written = Vec::new();
            loop {
                let n = next.fetch_add(1, Relaxed);
                if n >= population.messages {
                    return written;
                }
                let mailbox = mailboxes[n % mailboxes.len()];
                let message = match population.imported {
                    true => import(&mailstore, mailbox, n, population.audio).await,
                    false => leave(&mailstore, mailbox, audio(first + n as u64, population.audio)).await,
                };
                if population.deleted {
                    for mark in [Mark::Heard, Mark::Deleted] {
                        mailstore.mark(mailbox, message, mark).await.expect("the message is marked");
                    }
                }
                written.push((n, Written { mailbox, message, bytes: population.audio.max(8) }));
            }
        }
    })
    .await
}

/// Runs this many tasks to their ends; all that they return, in the order of its numbers.
async fn each<T: Send + 'static, F: Future<Output = Vec<(usize, T)>> + Send + 'static>(
    count: usize,
    task: impl Fn() -> F,
) -> Vec<T> {
    let tasks: Vec<_> = (0..count).map(|_| tokio::spawn(task())).collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("a task of the bulk runs to its end"));
    }
    all.sort_unstable_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, made)| made).collect()
}

async fn leave(mailstore: &Mailstore, mailbox: MailboxId, audio: Bytes) -> MessageId {
    let live = mailstore.begin_recording(meta(mailbox)).await.expect("a recording begins");
    let mut offset = 0;
    while offset < audio.len() {
        let end = (offset + CHUNK).min(audio.len());
        live.append(offset as u64, audio.slice(offset..end)).expect("audio is taken");
        offset = end;
    }
    let filed = live.file().await.expect("the message is filed");
    assert!(filed.whole, "a part of the audio was lost");
    filed.message
}

async fn import(mailstore: &Mailstore, mailbox: MailboxId, n: usize, bytes: usize) -> MessageId {
    let message = ImportedMessage {
        mailbox,
        received: Timestamp(RECEIVED_MS + n as u64),
        caller: None,
        caller_name: None,
        folder: Folder::New,
        cause: n.to_string(),
        audio: Audio { codec: Codec::Pcmu, bytes: audio((n % SHARED) as u64, bytes) },
    };
    let (id, outcome) = mailstore.import_message(message).await.expect("the message is imported");
    assert!(matches!(outcome, ImportOutcome::Taken(_)), "message {n}: {outcome:?}");
    id
}

/// Waits until no process has the store in `dir` open: its last thread may end after the store was dropped.
pub fn wait_closed(dir: &Path) {
    wait_until("the store to be closed", Duration::from_secs(120), || {
        File::open(dir.join("db/lock")).is_ok_and(|lock| lock.try_lock().is_ok())
    });
}
