//! Message counts per mailbox: counted by reading the messages once, and cached until one of them changes.
//!
//! Every change that is durable here, this node's own and those of peers, is reported to [`Counts::changed`] before any
//! other reader sees it, and the count of its mailbox is dropped. The next reader counts that one mailbox again. A
//! count that began before a change and ends after it goes to its reader, and is not cached.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use twinbox_ids::{MailboxId, MessageId};
use twinbox_mailbox::{Message, MessageCounts, schema};
use twinbox_replication_core::Change;

/// Counts of the present messages of a mailbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MailboxUsage {
    pub(crate) counts: MessageCounts,
    /// Their total length, in milliseconds.
    pub(crate) total_ms: u64,
}

/// A count in progress, message by message.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    usage: MailboxUsage,
    /// Messages whose recording may still overrule them.
    partial: Vec<MessageId>,
    read: u64,
}

impl Counting {
    pub(crate) fn add(&mut self, message: &Message) {
        self.read += 1;
        self.usage.counts.add(message);
        if message.is_present() {
            self.usage.total_ms += message.length_ms;
        }
        if message.audio.as_ref().is_none_or(|audio| audio.partial) {
            self.partial.push(message.id);
        }
    }
}

/// The cached counts.
#[derive(Default)]
pub(crate) struct Counts {
    state: Mutex<State>,
    read: AtomicU64,
}

#[derive(Default)]
struct State {
    mailboxes: HashMap<MailboxId, Count>,
    /// The counted messages whose recording may still overrule them ([`Message::read`]).
    partial: HashMap<MessageId, MailboxId>,
    /// Changes of recordings so far.
    recordings: u64,
    /// Number of the next count.
    next: u64,
}

enum Count {
    /// Being counted; nothing has changed since its begin.
    Begun(u64),
    Known {
        counts: MailboxUsage,
        partial: Vec<MessageId>,
    },
}

/// A count that has begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    number: u64,
    recordings: u64,
}

impl Counts {
    /// The counts of a mailbox, if they are cached.
    pub(crate) fn known(&self, mailbox: MailboxId) -> Option<MailboxUsage> {
        match self.lock().mailboxes.get(&mailbox) {
            Some(Count::Known { counts, .. }) => Some(*counts),
            _ => None,
        }
    }

    /// Begins a count; call it before reading the messages.
    pub(crate) fn begin(&self, mailbox: MailboxId) -> Begun {
        let mut state = self.lock();
        let (next, recordings) = (state.next, state.recordings);
        let number = match state.mailboxes.entry(mailbox).or_insert(Count::Begun(next)) {
            // A count begun by another reader that is still valid serves as well.
            Count::Begun(number) => *number,
            // Another reader was faster; its count stays.
            Count::Known { .. } => next,
        };
        state.next += 1;
        Begun { number, recordings }
    }

    /// Caches the counts of these messages, which must be all of the mailbox, unless something has changed since the
    /// begin.
    pub(crate) fn end(&self, mailbox: MailboxId, begun: Begun, counted: Counting) -> MailboxUsage {
        let Counting { usage: counts, partial, read } = counted;
        self.read.fetch_add(read, Ordering::Relaxed);
        let mut state = self.lock();
        let holds = matches!(state.mailboxes.get(&mailbox), Some(Count::Begun(number)) if *number == begun.number);
        if holds && (partial.is_empty() || state.recordings == begun.recordings) {
            state.partial.extend(partial.iter().map(|id| (*id, mailbox)));
            state.mailboxes.insert(mailbox, Count::Known { counts, partial });
        }
        counts
    }

    /// Drops the counts that a durable change affects.
    pub(crate) fn changed(&self, change: &Change) {
        match change.key.table {
            schema::MESSAGE => {
                if let Some((mailbox, _)) = schema::message_of(&change.key) {
                    self.lock().forget(mailbox);
                }
            }
            schema::RECORDING => {
                let mut state = self.lock();
                state.recordings += 1;
                let id = schema::recording_of(&change.key).map(MessageId::from);
                if let Some(mailbox) = id.and_then(|id| state.partial.get(&id).copied()) {
                    state.forget(mailbox);
                }
            }
            _ => {}
        }
    }

    /// Number of messages read so far to count them.
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, mailbox: MailboxId) {
        if let Some(Count::Known { partial, .. }) = self.mailboxes.remove(&mailbox) {
            for id in partial {
                self.partial.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use twinbox_ids::{BlobHash, Origin, RecordingId, Timestamp};
    use twinbox_mailbox::{Codec, Folder, StoredAudio};
    use twinbox_replication_core::{BlobRef, Key, Record};

    use super::*;

    const BOX: MailboxId = MailboxId(1);

    fn message(id: u128, folder: Folder, partial: bool) -> Message {
        let blob = BlobRef { hash: BlobHash([0; 32]), length: 8_000, recording: None };
        Message {
            id: MessageId(id),
            mailbox: BOX,
            folder,
            deleted: false,
            purged: false,
            received: Timestamp(id as u64),
            caller: None,
            caller_name: None,
            codec: Codec::Pcmu,
            length_ms: 1_000,
            audio: Some(StoredAudio { blob, partial }),
            uid: None,
            modseq: 0,
            urgent: false,
            private: false,
            mail: None,
        }
    }

    fn change(key: Key) -> Change {
        Change { origin: Origin(1), seq: 1, key, delta: Record::new() }
    }

    fn counting(messages: &[Message]) -> Counting {
        let mut counting = Counting::default();
        messages.iter().for_each(|message| counting.add(message));
        counting
    }

    fn count(counts: &Counts, messages: &[Message]) {
        let begun = counts.begin(BOX);
        counts.end(BOX, begun, counting(messages));
    }

    #[test]
    fn a_count_is_known_until_a_message_of_its_mailbox_changes() {
        let counts = Counts::default();
        let messages = [message(1, Folder::New, false), message(2, Folder::Saved, false)];
        count(&counts, &messages);
        let expected = MailboxUsage { counts: MessageCounts { new: 1, saved: 1 }, total_ms: 2_000 };
        counts.changed(&change(schema::message_key(MailboxId(2), MessageId(1))));
        counts.changed(&change(schema::recording_key(RecordingId(1))));
        assert_eq!((counts.known(BOX), counts.known(MailboxId(2))), (Some(expected), None));
        counts.changed(&change(schema::message_key(BOX, MessageId(1))));
        assert_eq!((counts.known(BOX), counts.read()), (None, 2));
    }

    #[test]
    fn mailbox_that_changes_during_a_count_is_counted_again() {
        let counts = Counts::default();
        let slow = counts.begin(BOX);
        counts.changed(&change(schema::message_key(BOX, MessageId(1))));
        let quick = counts.begin(BOX);
        counts.end(BOX, slow, counting(&[]));
        assert_eq!(counts.known(BOX), None, "it did not see the change");
        counts.end(BOX, quick, counting(&[message(1, Folder::New, false)]));
        assert_eq!(counts.known(BOX).map(|usage| usage.counts.new), Some(1));
        // A count that ends after another is correct, too, and changes nothing.
        counts.end(BOX, slow, counting(&[]));
        assert_eq!(counts.known(BOX).map(|usage| usage.counts.new), Some(1));
    }

    #[test]
    fn a_partial_message_is_counted_again_when_its_recording_changes() {
        let counts = Counts::default();
        let recording = change(schema::recording_key(RecordingId(1)));
        count(&counts, &[message(1, Folder::New, true)]);
        assert!(counts.known(BOX).is_some());
        counts.changed(&recording);
        assert!(counts.known(BOX).is_none());
        let begun = counts.begin(BOX);
        counts.changed(&recording);
        counts.end(BOX, begun, counting(&[message(1, Folder::New, true)]));
        assert!(counts.known(BOX).is_none(), "the recording may have changed after it was looked at");
        assert!(counts.lock().partial.is_empty());
    }
}
