//! Recordings of a dead node: any node that has their chunks files them as partial messages under the same id (rules
//! C1, C2).

use bytes::Bytes;
use twinbox_clock::BootInstant;
use twinbox_ids::{Incarnation, MessageId, NodeName, RecordingId};
use twinbox_mailbox::{Filing, Recording, RecordingState, is_message_purged, is_of_purged_record, schema};
use twinbox_replication_core::{BlobRef, Ranges};

use crate::{Filed, MailError, Mailstore};

impl Mailstore {
    /// Files the recordings that earlier incarnations of this node left. Call it once at the start, before calls are
    /// answered.
    pub async fn file_own_leftovers(&self) -> Result<Vec<Filed>, MailError> {
        let (node, incarnation) = (self.settings().node.clone(), self.settings().incarnation);
        self.file_leftovers(|recording| recording.owner == node && recording.incarnation != incarnation).await
    }

    /// Files the recordings of a node that is dead by our clock, from the chunks that are here; `incarnation` names the
    /// incarnation that ended, `None` all of them. A repetition adds only chunks that came since. A complete filing by
    /// the node itself takes precedence at any time.
    pub async fn file_orphans_of(
        &self,
        node: &NodeName,
        incarnation: Option<Incarnation>,
    ) -> Result<Vec<Filed>, MailError> {
        if *node == self.settings().node {
            return self.file_own_leftovers().await;
        }
        self.file_leftovers(|recording| {
            recording.owner == *node && incarnation.is_none_or(|ended| ended == recording.incarnation)
        })
        .await
    }

    /// A recording that cannot be filed must not keep the others from being filed: it waits for
    /// [`Mailstore::file_again`], and the first error is returned at the end.
    async fn file_leftovers(&self, wanted: impl Fn(&Recording) -> bool) -> Result<Vec<Filed>, MailError> {
        let (mut all, mut failed) = (Vec::new(), None);
        for (id, take, _) in self.store().recordings().open() {
            match self.leftover(id, take, &wanted).await {
                Ok(Some(filed)) => {
                    self.inner.unfiled.remove(id);
                    all.push(filed);
                }
                Ok(None) => {}
                Err(error) => {
                    self.inner.unfiled.keep_leftover(id, take);
                    tracing::warn!(recording = %id, take, %error, "orphan recording cannot be filed; it is retried");
                    failed = failed.or(Some(error));
                }
            }
        }
        match failed {
            Some(error) if all.is_empty() => Err(error),
            _ => Ok(all),
        }
    }

    pub(crate) async fn leftover(
        &self,
        id: RecordingId,
        take: u32,
        wanted: impl Fn(&Recording) -> bool,
    ) -> Result<Option<Filed>, MailError> {
        let Some(recording) = self.recording(id)? else {
            // Chunks may come before the record of their recording: they are left for later, but not for ever.
            // Not by the wall clock, which may be wrong: no record was purged that was young by the clock of the purge.
            let purged_by = self.store().purge_clock()?;
            let is_old = purged_by.is_some_and(|now| is_of_purged_record(id, now));
            if is_old && self.store().filled().has_records() {
                self.store().recordings().discard_here(id, take).await?;
            }
            return Ok(None);
        };
        let own = recording.owner == self.settings().node;
        if recording.state == RecordingState::Discarded || take < recording.take {
            self.store().recordings().discard(id, take).await?;
            return Ok(None);
        }
        if !wanted(&recording) {
            return Ok(None);
        }
        let message = schema::message_key(recording.mailbox, MessageId::from(id));
        let record = self.store().get(&message)?.unwrap_or_default();
        if record.is_empty() && self.was_purged(id)? {
            // Here only: the node that recorded may have more, and files it.
            if recording.is_settled(twinbox_clock::wall()) {
                self.store().recordings().discard_here(id, take).await?;
            }
            return Ok(None);
        }
        // The filed audio is nowhere: these chunks are what is left of it.
        if record.blobs().any(|blob| blob.recording == Some((id, take)) && !self.store().blobs().has(&blob.hash)) {
            return Ok(None);
        }
        if !Filing::Complete.adds_to(&record, u64::MAX) {
            self.store().recordings().discard(id, take).await?;
            return Ok(None);
        }
        let Some(coverage) = self.store().recordings().coverage(id, take) else { return Ok(None) };
        let length = coverage.end();
        let filing = if own { Filing::Recovered } else { Filing::Partial { take } };
        if self.minimum_above(recording.mailbox, length / u64::from(twinbox_rtp::SAMPLES_PER_MS)).is_some() {
            self.note_died(&recording, length);
            // A recording that is too short is discarded; but only its own node may decide that no more of it exists.
            if own && record.is_empty() {
                self.throw_away(id, take).await?;
            }
            return Ok(None);
        }
        if !filing.adds_to(&record, length) {
            if recording.is_settled(twinbox_clock::wall()) {
                self.store().recordings().discard(id, take).await?;
            }
            return Ok(None);
        }
        // The chunks stay: more may come, and the audio is a separate blob until then.
        let audio = self.assemble(&recording, take, &coverage).await?;
        let blob = self.store().blobs().put(audio).await?;
        let blob = BlobRef { recording: None, ..blob };
        self.file_blob(&recording, filing, blob, BootInstant::now(), None).await.map(Some)
    }

    /// Whether the message of a recording was purged, and its record may be gone.
    pub(crate) fn was_purged(&self, id: RecordingId) -> Result<bool, MailError> {
        Ok(self.store().get(&schema::recording_key(id))?.is_some_and(|record| is_message_purged(&record)))
    }

    /// The audio here of a take; holes are filled with silence.
    pub(crate) async fn assemble(
        &self,
        recording: &Recording,
        take: u32,
        coverage: &Ranges,
    ) -> Result<Bytes, MailError> {
        let mut audio = Vec::new();
        for range in coverage.iter() {
            audio.resize(usize::try_from(range.start).unwrap_or(audio.len()), recording.codec.silence());
            audio.extend_from_slice(&self.store().recordings().read(recording.id, take, range).await?);
        }
        Ok(audio.into())
    }
}
