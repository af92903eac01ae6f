//! Message counts per mailbox, and the space of its audio: counted by reading the present messages once, kept, and adjusted by the
//! messages that change. Pure: the owner of the records passes them in.
//!
//! Every change that is durable here, this node's own and those of peers, is reported to [`Counts::changed`] before any
//! other reader sees it. A change has only its delta, and the record of a recording may overrule a partial message: so
//! it is only noted, and the next reader reads the changed messages again and adjusts the counts by the difference to
//! their former shares. The shares of at most `MOST_SHARES` messages are remembered. The count of a mailbox with fewer
//! than `MIN_SHARES` messages, or without remembered shares, is dropped at a change, and the next reader counts that
//! one mailbox again. A count or adjustment during which its mailbox changes goes to its reader, and is not kept.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use twinbox_ids::{MailboxId, MessageId};
use twinbox_replication_core::Change;

use crate::{Message, MessageCounts, schema};

/// Maximum number of messages whose shares are remembered, of all mailboxes: 4 to 8 MB.
const MOST_SHARES: usize = 100_000;
/// A mailbox with fewer messages is read faster than its shares are worth.
const MIN_SHARES: usize = 32;

/// Counts of the present messages of a mailbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MailboxUsage {
    /// Their number by state.
    pub counts: MessageCounts,
    /// Their total length, in milliseconds.
    pub total_ms: u64,
    /// Bytes of their audio. Audio that several of them have is counted for each, though it is stored once.
    pub audio_bytes: u64,
}

impl MailboxUsage {
    /// The usage without one part and with another.
    fn replace(self, without: Self, with: Self) -> Self {
        let counts = MessageCounts {
            new: self.counts.new.saturating_sub(without.counts.new).saturating_add(with.counts.new),
            saved: self.counts.saved.saturating_sub(without.counts.saved).saturating_add(with.counts.saved),
        };
        let replace = |sum: u64, without, with| sum.saturating_sub(without).saturating_add(with);
        Self {
            counts,
            total_ms: replace(self.total_ms, without.total_ms, with.total_ms),
            audio_bytes: replace(self.audio_bytes, without.audio_bytes, with.audio_bytes),
        }
    }
}

/// The part of one message in the usage of its mailbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Share {
    length_ms: u32,
    audio_bytes: u32,
    new: bool,
    saved: bool,
    /// Its recording may still overrule its audio ([`Message::read`]); a deleted message counts in no case.
    partial: bool,
}

impl Share {
    fn of(message: &Message) -> Self {
        let mut counts = MessageCounts::default();
        counts.add(message);
        let audio = message.audio.as_ref().filter(|_| message.is_present());
        // 49 days, 4 GiB: no message is as long.
        let bounded = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            length_ms: audio.map_or(0, |_| bounded(message.length_ms)),
            audio_bytes: audio.map_or(0, |audio| bounded(audio.blob.length)),
            new: counts.new > 0,
            saved: counts.saved > 0,
            partial: !message.deleted && message.audio.as_ref().is_none_or(|audio| audio.partial),
        }
    }

    fn usage(self) -> MailboxUsage {
        let counts = MessageCounts { new: u32::from(self.new), saved: u32::from(self.saved) };
        MailboxUsage { counts, total_ms: self.length_ms.into(), audio_bytes: self.audio_bytes.into() }
    }

    /// It adds nothing, and only a change of its own record can alter that.
    fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// A count in progress, message by message.
#[derive(Debug, Default)]
pub struct Counting {
    usage: MailboxUsage,
    /// Messages whose recording may still overrule them.
    partial: HashSet<MessageId>,
    /// Shares of the messages that add anything, while there is room for them.
    shares: HashMap<MessageId, Share>,
    read: u64,
}

impl Counting {
    /// Counts one more message.
    pub fn add(&mut self, message: &Message) {
        self.read += 1;
        let share = Share::of(message);
        self.usage = self.usage.replace(MailboxUsage::default(), share.usage());
        if share.partial {
            self.partial.insert(message.id);
        }
        if !share.is_nothing() && self.shares.len() <= MOST_SHARES {
            self.shares.insert(message.id, share);
        }
    }
}

/// The kept counts.
#[derive(Default)]
pub struct Counts {
    state: Mutex<State>,
    read: AtomicU64,
}

#[derive(Default)]
struct State {
    mailboxes: HashMap<MailboxId, Count>,
    /// The counted messages whose recording may still overrule them.
    partial: HashMap<MessageId, MailboxId>,
    /// Changes of recordings so far.
    recordings: u64,
    /// Number of the next count or change.
    next: u64,
    /// Number of remembered shares.
    shares: usize,
}

enum Count {
    /// Being counted; nothing has changed since its begin.
    Begun(u64),
    Known(KnownCount),
}

/// The counts of a mailbox before the noted changes.
struct KnownCount {
    usage: MailboxUsage,
    partial: HashSet<MessageId>,
    /// The share of each message that adds anything, if they are remembered.
    shares: Option<HashMap<MessageId, Share>>,
    /// Messages that have changed since.
    changed: HashSet<MessageId>,
    /// Number of the last change.
    version: u64,
}

/// A count that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    number: u64,
    recordings: u64,
}

/// An adjustment that has begun.
#[derive(Debug)]
pub struct Adjusting {
    /// The messages to read, as far as they are present.
    pub changed: Vec<MessageId>,
    version: u64,
    recordings: u64,
}

/// A look at the counts of a mailbox.
#[derive(Debug)]
pub enum Look {
    /// They are kept.
    Known(MailboxUsage),
    /// They are kept, and some messages have changed since.
    Changed(Adjusting),
    /// They are not kept.
    Unknown,
}

impl Counts {
    /// The counts of a mailbox, or what must be read for them.
    pub fn look(&self, mailbox: MailboxId) -> Look {
        let state = self.lock();
        match state.mailboxes.get(&mailbox) {
            Some(Count::Known(known)) if known.changed.is_empty() => Look::Known(known.usage),
            Some(Count::Known(known)) => Look::Changed(Adjusting {
                changed: known.changed.iter().copied().collect(),
                version: known.version,
                recordings: state.recordings,
            }),
            _ => Look::Unknown,
        }
    }

    /// Adjusts the counts by the present form of the changed messages; `found` lacks those that are deleted or cannot be read. `None`
    /// if something has changed since the look: then look again.
    pub fn adjust(&self, mailbox: MailboxId, adjusting: &Adjusting, found: &[Message]) -> Option<MailboxUsage> {
        self.read.fetch_add(adjusting.changed.len() as u64, Ordering::Relaxed);
        let mut state = self.lock();
        let state = &mut *state;
        let Some(Count::Known(known)) = state.mailboxes.get_mut(&mailbox) else { return None };
        let mut shares: HashMap<MessageId, Share> =
            adjusting.changed.iter().map(|id| (*id, Share::default())).collect();
        shares.extend(found.iter().map(|message| (message.id, Share::of(message))));
        let overruled = shares.values().any(|share| share.partial) && state.recordings != adjusting.recordings;
        let remembered = known.shares.as_mut().filter(|_| known.version == adjusting.version && !overruled)?;
        let before = remembered.len();
        for (id, share) in shares {
            let former = match share.is_nothing() {
                true => remembered.remove(&id),
                false => remembered.insert(id, share),
            };
            known.usage = known.usage.replace(former.unwrap_or_default().usage(), share.usage());
            match share.partial {
                true => {
                    known.partial.insert(id);
                    state.partial.insert(id, mailbox);
                }
                false => {
                    known.partial.remove(&id);
                    state.partial.remove(&id);
                }
            }
        }
        known.changed = HashSet::new();
        // A second adjustment that began with this one must not count the messages twice.
        (known.version, state.next) = (state.next, state.next + 1);
        let usage = known.usage;
        state.shares = state.shares + remembered.len() - before;
        if state.shares > MOST_SHARES {
            state.shares -= known.shares.take().map_or(0, |shares| shares.len());
        }
        Some(usage)
    }

    /// Begins a count; call it before reading the messages.
    pub fn begin(&self, mailbox: MailboxId) -> Begun {
        let mut state = self.lock();
        let (next, recordings) = (state.next, state.recordings);
        let number = match state.mailboxes.entry(mailbox).or_insert(Count::Begun(next)) {
            // A count begun by another reader that is still valid serves as well.
            Count::Begun(number) => *number,
            // Another reader was faster; its count stays.
            Count::Known(_) => next,
        };
        state.next += 1;
        Begun { number, recordings }
    }

    /// Keeps the counts of these messages, which must be all present ones of the mailbox, unless something has changed since
    /// the begin.
    pub fn end(&self, mailbox: MailboxId, begun: Begun, counted: Counting) -> MailboxUsage {
        let Counting { usage, partial, mut shares, read } = counted;
        self.read.fetch_add(read, Ordering::Relaxed);
        shares.shrink_to_fit();
        let mut state = self.lock();
        let holds = matches!(state.mailboxes.get(&mailbox), Some(Count::Begun(number)) if *number == begun.number);
        if holds && (partial.is_empty() || state.recordings == begun.recordings) {
            state.partial.extend(partial.iter().map(|id| (*id, mailbox)));
            let remember = read >= MIN_SHARES as u64 && state.shares + shares.len() <= MOST_SHARES;
            let shares = remember.then_some(shares);
            state.shares += shares.as_ref().map_or(0, HashMap::len);
            let (version, changed) = (begun.number, HashSet::new());
            let known = KnownCount { usage, partial, shares, changed, version };
            state.mailboxes.insert(mailbox, Count::Known(known));
        }
        usage
    }

    /// Notes a durable change, which may affect counts. Short: runs on the committer thread.
    pub fn changed(&self, change: &Change) {
        match change.key.table {
            schema::MESSAGE => {
                if let Some((mailbox, id)) = schema::message_of(&change.key) {
                    self.lock().note(mailbox, id);
                }
            }
            schema::RECORDING => {
                let mut state = self.lock();
                state.recordings += 1;
                let id = schema::recording_of(&change.key).map(MessageId::from);
                let counted = id.and_then(|id| Some((*state.partial.get(&id)?, id)));
                if let Some((mailbox, id)) = counted {
                    state.note(mailbox, id);
                }
            }
            _ => {}
        }
    }

    /// Number of messages read so far to count them.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A message has changed: notes it, or drops the count of its mailbox.
    fn note(&mut self, mailbox: MailboxId, id: MessageId) {
        let version = self.next;
        if let Some(Count::Known(known)) = self.mailboxes.get_mut(&mailbox)
            && let Some(shares) = &known.shares
            // When more has changed than a part of the mailbox, to read all is as fast.
            && known.changed.len() < (shares.len() / 2).max(MIN_SHARES)
        {
            known.changed.insert(id);
            known.version = version;
            self.next += 1;
            return;
        }
        if let Some(Count::Known(KnownCount { partial, shares, .. })) = self.mailboxes.remove(&mailbox) {
            for id in partial {
                self.partial.remove(&id);
            }
            self.shares -= shares.map_or(0, |shares| shares.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use twinbox_ids::{BlobHash, Origin, RecordingId, Timestamp};
    use twinbox_replication_core::{BlobRef, Key, Record};

    use super::*;
    use crate::{Codec, Folder, StoredAudio};

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
        Change { origin: Origin(1), seq: 1, key, delta: Record::new(), part: Default::default() }
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

    /// The kept counts without changes.
    fn known(counts: &Counts, mailbox: MailboxId) -> Option<MailboxUsage> {
        match counts.look(mailbox) {
            Look::Known(usage) => Some(usage),
            Look::Changed(_) | Look::Unknown => None,
        }
    }

    #[test]
    fn a_count_is_known_until_a_message_of_its_mailbox_changes() {
        let counts = Counts::default();
        let messages = [message(1, Folder::New, false), message(2, Folder::Saved, false)];
        count(&counts, &messages);
        let expected =
            MailboxUsage { counts: MessageCounts { new: 1, saved: 1 }, total_ms: 2_000, audio_bytes: 16_000 };
        counts.changed(&change(schema::message_key(MailboxId(2), MessageId(1))));
        counts.changed(&change(schema::recording_key(RecordingId(1))));
        assert_eq!((known(&counts, BOX), known(&counts, MailboxId(2))), (Some(expected), None));
        counts.changed(&change(schema::message_key(BOX, MessageId(1))));
        assert_eq!((known(&counts, BOX), counts.read()), (None, 2));
    }

    #[test]
    fn counts_of_a_mailbox_with_many_deleted_messages_are_adjusted_too() {
        let counts = Counts::default();
        let messages: Vec<_> =
            (0..40).map(|id| Message { deleted: id > 0, ..message(id, Folder::New, false) }).collect();
        count(&counts, &messages);
        counts.changed(&change(schema::message_key(BOX, MessageId(0))));
        assert!(matches!(counts.look(BOX), Look::Changed(_)), "one message is read again, and not forty");
    }

    #[test]
    fn mailbox_that_changes_during_a_count_is_counted_again() {
        let counts = Counts::default();
        let slow = counts.begin(BOX);
        counts.changed(&change(schema::message_key(BOX, MessageId(1))));
        let quick = counts.begin(BOX);
        counts.end(BOX, slow, counting(&[]));
        assert_eq!(known(&counts, BOX), None, "it did not see the change");
        counts.end(BOX, quick, counting(&[message(1, Folder::New, false)]));
        assert_eq!(known(&counts, BOX).map(|usage| usage.counts.new), Some(1));
        // A count that ends after another is correct, too, and changes nothing.
        counts.end(BOX, slow, counting(&[]));
        assert_eq!(known(&counts, BOX).map(|usage| usage.counts.new), Some(1));
    }

    #[test]
    fn a_partial_message_is_counted_again_when_its_recording_changes() {
        let counts = Counts::default();
        let recording = change(schema::recording_key(RecordingId(1)));
        count(&counts, &[message(1, Folder::New, true)]);
        assert!(known(&counts, BOX).is_some());
        counts.changed(&recording);
        assert!(known(&counts, BOX).is_none());
        let begun = counts.begin(BOX);
        counts.changed(&recording);
        counts.end(BOX, begun, counting(&[message(1, Folder::New, true)]));
        assert!(known(&counts, BOX).is_none(), "the recording may have changed after it was looked at");
        assert!(counts.lock().partial.is_empty());
    }

    #[test]
    fn counts_of_a_large_mailbox_are_adjusted_by_the_changed_messages_only() {
        let counts = Counts::default();
        let mut messages: Vec<Message> = (0..100).map(|id| message(id, Folder::New, id == 7)).collect();
        count(&counts, &messages);
        let all = counts.read();
        counts.changed(&change(schema::message_key(BOX, MessageId(3))));
        counts.changed(&change(schema::recording_key(RecordingId(7))));
        messages[3].folder = Folder::Saved;
        let Look::Changed(adjusting) = counts.look(BOX) else { panic!("two have changed") };
        assert_eq!(adjusting.changed.len(), 2);
        let found = || vec![messages[3].clone(), message(7, Folder::New, true)];
        // Between the look and the adjustment another recording changes: it may be that of a partial message.
        counts.changed(&change(schema::recording_key(RecordingId(50))));
        assert_eq!(counts.adjust(BOX, &adjusting, &found()), None);
        let Look::Changed(adjusting) = counts.look(BOX) else { panic!("still") };
        let usage = counts.adjust(BOX, &adjusting, &found()).expect("nothing has changed since");
        assert_eq!((usage.counts, usage.total_ms), (MessageCounts { new: 99, saved: 1 }, 100_000));
        assert_eq!(counts.adjust(BOX, &adjusting, &found()), None, "not twice");
        assert_eq!((known(&counts, BOX), counts.read() - all), (Some(usage), 6));

        // Removed, and deleted: neither counts, nor is remembered.
        messages[5].deleted = true;
        for id in [4, 5] {
            counts.changed(&change(schema::message_key(BOX, MessageId(id))));
        }
        let Look::Changed(adjusting) = counts.look(BOX) else { panic!("two have changed") };
        let usage = counts.adjust(BOX, &adjusting, &[messages[5].clone()]).expect("nothing has changed since");
        assert_eq!((usage.counts, usage.total_ms), (MessageCounts { new: 97, saved: 1 }, 98_000));
        assert_eq!(counts.lock().shares, 98);

        // Too many changes: all is read again.
        for id in 0..60 {
            counts.changed(&change(schema::message_key(BOX, MessageId(id))));
        }
        assert!(matches!(counts.look(BOX), Look::Unknown));
        let state = counts.lock();
        assert_eq!((state.shares, state.partial.len()), (0, 0));
    }
}
