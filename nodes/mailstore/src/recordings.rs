//! Recordings of callers: begin, append, file or discard (rules A1, C1).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use twinbox_clock::BootInstant;
use twinbox_ids::{CallId, MailboxId, MessageId, Pii, RecordingId};
use twinbox_mailbox::{
    Codec, Filing, Numbers, Recording, RecordingState, discarded, filed, has_uid, next_take, schema,
};
use twinbox_overload::Commit;
use twinbox_replication_core::BlobRef;
use twinbox_replication_store::{Draft, Urgency};

use crate::{
    Acknowledgement, Audio, FileError, MailError, Mailstore, devices::notify_of, mailboxes::mailbox_in,
    unfiled::EndedTake, work::run_to_end,
};

/// The data known when a recording begins.
#[derive(Debug, Clone)]
pub struct RecordingMeta {
    /// The mailbox that it is for.
    pub mailbox: MailboxId,
    /// Number of the caller, if known.
    pub caller: Option<Pii<String>>,
    /// Display name of the caller.
    pub caller_name: Option<Pii<String>>,
    /// Codec of the audio.
    pub codec: Codec,
    /// The call.
    pub call: CallId,
}

/// A recording that has become a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filed {
    /// The message.
    pub message: MessageId,
    /// The audio is complete. If not, the message is stored, marked partial, and must not be acknowledged (rule A1).
    pub whole: bool,
    /// Durability: on two disks or on this one (rule A3).
    pub acknowledgement: Acknowledgement,
}

/// A recording in progress. Cheap to clone; all clones are the same recording.
///
/// If dropped without being filed or discarded, it stays on disk; the next start files it as partial, or discards it if
/// it is shorter than `min_message_ms`.
#[derive(Clone)]
pub struct LiveRecording {
    mailstore: Mailstore,
    recording: Arc<Recording>,
    progress: Arc<Mutex<Progress>>,
}

struct Progress {
    take: u32,
    bytes: u64,
    failed: bool,
    over: bool,
}

impl Mailstore {
    /// Begins a recording. Its record is durable here when this returns, so that a node which gets its chunks can file them.
    pub async fn begin_recording(&self, meta: RecordingMeta) -> Result<LiveRecording, MailError> {
        let began = twinbox_clock::wall();
        let recording = Recording {
            id: RecordingId::at(began),
            mailbox: meta.mailbox,
            owner: self.settings().node.clone(),
            incarnation: self.settings().incarnation,
            call: meta.call,
            caller: meta.caller,
            caller_name: meta.caller_name,
            codec: meta.codec,
            began,
            call_began: self.inner.calls.began(meta.call),
            state: RecordingState::Recording,
            take: 1,
        };
        let (id, edits, commits) = (recording.id, recording.edits(), self.inner.commits.clone());
        let begun = move |draft: &mut Draft<'_>| {
            // Only now: while it waits for others, nothing is late.
            let measured = commits.begin();
            mailbox_in(draft, meta.mailbox)?;
            draft.edit(schema::recording_key(id), edits)?;
            Ok::<_, MailError>(measured)
        };
        drop(self.store().commit_with(Urgency::Soon, begun).await?);
        self.store().recordings().begin(id, 1).await?;
        Ok(LiveRecording {
            mailstore: self.clone(),
            recording: Arc::new(recording),
            progress: Arc::new(Mutex::new(Progress { take: 1, bytes: 0, failed: false, over: false })),
        })
    }

    /// Makes a message of a recording's audio, or adds the audio to the message that another filing made; a message that has more already
    /// stays as it is. Durable when this returns; `measured` ends when it is durable here. A caller waits since `begun`.
    pub(crate) async fn file_blob(
        &self,
        recording: &Recording,
        filing: Filing,
        blob: BlobRef,
        begun: BootInstant,
        measured: Option<Commit>,
    ) -> Result<Filed, MailError> {
        let message = MessageId::from(recording.id);
        let (new, mailbox, id) = (recording.message(), recording.mailbox, recording.id);
        let ((), committed) = self
            .commit_here(move |draft| {
                let (key, counters) = (schema::message_key(mailbox, message), schema::counters_key(mailbox));
                let record = draft.get(&key)?.unwrap_or_default();
                if filing.adds_to(&record, blob.length) {
                    let numbers = Numbers::after(&draft.get(&counters)?.unwrap_or_default());
                    let taken = if has_uid(&record) { Numbers::take_modseq() } else { numbers.take_both() };
                    draft.edit(key.clone(), new.edits(&record, filing, blob, numbers))?;
                    draft.edit(counters, taken)?;
                    // A mailbox that was removed during the call keeps the message, and notifies of nothing.
                    if let Ok(mailbox) = mailbox_in(draft, mailbox) {
                        notify_of(draft, &mailbox, &key)?;
                    }
                }
                // Only its own node may end it.
                if !matches!(filing, Filing::Partial { .. }) {
                    draft.edit(schema::recording_key(id), filed())?;
                }
                Ok(())
            })
            .await?;
        drop(measured);
        if filing != Filing::Complete {
            self.note_died(recording, blob.length);
        }
        let acknowledgement = self.inner.peers.acknowledge_since(&committed, begun).await;
        Ok(Filed { message, whole: filing == Filing::Complete, acknowledgement })
    }
}

impl LiveRecording {
    /// The id of the message that it becomes.
    pub fn message(&self) -> MessageId {
        self.recording.id.into()
    }

    /// Appends audio at its offset, in bytes from the beginning. Never blocks: for the thread that serves the media.
    /// After an error the rest is refused, and the audio accepted so far is filed as partial.
    pub fn append(&self, offset: u64, bytes: Bytes) -> Result<(), MailError> {
        let mut progress = self.progress();
        if progress.failed || progress.over {
            return Ok(());
        }
        let end = offset.saturating_add(bytes.len() as u64);
        match self.mailstore.store().recordings().append(self.recording.id, progress.take, offset, bytes) {
            Ok(()) => progress.bytes = progress.bytes.max(end),
            Err(error) => {
                progress.failed = true;
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Some audio never arrived here: the rest is filed as partial.
    pub fn mark_cut(&self) {
        self.progress().failed = true;
    }

    /// Whether some audio was refused: no room, or the disk does not keep up. The caller should end the recording.
    pub fn failed(&self) -> bool {
        self.progress().failed
    }

    /// Length of the accepted audio, in milliseconds.
    pub fn length_ms(&self) -> u64 {
        self.progress().bytes / u64::from(twinbox_rtp::SAMPLES_PER_MS)
    }

    /// The audio accepted so far, for playback.
    pub async fn audio(&self) -> Result<Audio, MailError> {
        let (take, bytes) = {
            let progress = self.progress();
            (progress.take, progress.bytes)
        };
        self.mailstore.has_take(self.recording.id, take, bytes).await?;
        let coverage = self.mailstore.store().recordings().coverage(self.recording.id, take).unwrap_or_default();
        let bytes = self.mailstore.assemble(&self.recording, take, &coverage).await?;
        Ok(Audio { codec: self.recording.codec, bytes })
    }

    /// Whether all audio is in the store; waits for audio that is still queued. A chunk may be lost after it was
    /// accepted, when the disk turns out to be full.
    pub async fn whole(&self) -> bool {
        let (take, bytes, failed) = {
            let progress = self.progress();
            (progress.take, progress.bytes, progress.failed)
        };
        !failed && self.mailstore.has_take(self.recording.id, take, bytes).await.unwrap_or(false)
    }

    /// Files it as a message; acknowledged when this returns, within the timeout for peers. It is filed even if the caller of this stops
    /// waiting, and even if some of it was lost: see [`Filed::whole`]. If the store fails now, [`Mailstore::file_again`] files it later.
    pub async fn file(&self) -> Result<Filed, FileError> {
        let (take, cut, bytes) = self.finish()?;
        let spoken = EndedTake::new(self.recording.clone(), take, cut, bytes);
        let mailstore = self.mailstore.clone();
        run_to_end(async move { mailstore.file_or_keep(spoken).await }).await
    }

    /// Discards it, on the peers too.
    pub async fn discard(&self) -> Result<(), FileError> {
        let (take, ..) = self.finish()?;
        let this = self.clone();
        run_to_end(async move { Ok(this.throw_away(take).await?) }).await
    }

    /// Discards the audio so far and begins again, as the same recording.
    pub async fn retake(&self) -> Result<(), FileError> {
        let before = {
            let progress = self.progress();
            if progress.over {
                return Err(FileError::Closed);
            }
            progress.take
        };
        let (this, take) = (self.clone(), before.saturating_add(1));
        run_to_end(async move {
            let (store, id) = (&this.mailstore, this.recording.id);
            store.commit_here(move |draft| Ok(draft.edit(schema::recording_key(id), next_take(take))?)).await?;
            let recordings = store.store().recordings();
            recordings.begin(id, take).await.map_err(MailError::from)?;
            *this.progress() = Progress { take, bytes: 0, failed: false, over: false };
            recordings.discard(id, before).await.map_err(MailError::from)?;
            store.store().feed().urge();
            Ok(())
        })
        .await
    }

    async fn throw_away(&self, take: u32) -> Result<(), MailError> {
        self.mailstore.throw_away(self.recording.id, take).await
    }

    /// Ends it, once.
    fn finish(&self) -> Result<(u32, bool, u64), FileError> {
        let mut progress = self.progress();
        if std::mem::replace(&mut progress.over, true) {
            return Err(FileError::Closed);
        }
        Ok((progress.take, progress.failed, progress.bytes))
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailstore {
    /// Whether this many bytes of a take are in the store; waits for queued ones.
    pub(crate) async fn has_take(&self, id: RecordingId, take: u32, bytes: u64) -> Result<bool, MailError> {
        let recordings = self.store().recordings();
        recordings.written().await?;
        let coverage = recordings.coverage(id, take);
        Ok(coverage.is_some_and(|coverage| coverage.covers(0..bytes)))
    }

    /// Discards a recording of this node: first in its record, then its chunks.
    pub(crate) async fn throw_away(&self, id: RecordingId, take: u32) -> Result<(), MailError> {
        self.commit_here(move |draft| Ok(draft.edit(schema::recording_key(id), discarded())?)).await?;
        self.store().recordings().discard(id, take).await?;
        // A peer that has not heard of it files the take when this node dies.
        self.store().feed().urge();
        Ok(())
    }
}
