//! Ended recordings that could not be filed because the store had no room or failed: remembered here, and filed when possible (rule A1).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;
use twinbox_clock::BootInstant;
use twinbox_ids::{MailboxId, RecordingId};
use twinbox_mailbox::{Filing, Recording};
use twinbox_replication_core::BlobRef;

use crate::{FileError, Filed, MailError, Mailstore};

/// A take that its caller has ended.
#[derive(Clone)]
pub(crate) struct EndedTake {
    recording: Arc<Recording>,
    take: u32,
    /// Some of it never reached the store.
    cut: bool,
    /// Its length in bytes.
    bytes: u64,
    /// The blob that it has become, once it is sealed.
    sealed: Option<(BlobRef, Filing)>,
}

impl EndedTake {
    pub(crate) fn new(recording: Arc<Recording>, take: u32, cut: bool, bytes: u64) -> Self {
        Self { recording, take, cut, bytes, sealed: None }
    }
}

/// A take that waits to be filed.
#[derive(Clone)]
enum UnfiledTake {
    /// A take of this incarnation.
    Ended(EndedTake),
    /// A take of an earlier incarnation, or of another node that died.
    Leftover { take: u32 },
}

/// All waiting takes, by recording.
pub(crate) struct Unfiled {
    waiting: Mutex<BTreeMap<RecordingId, UnfiledTake>>,
    count: watch::Sender<usize>,
}

impl Default for Unfiled {
    fn default() -> Self {
        Self { waiting: Mutex::default(), count: watch::Sender::new(0) }
    }
}

impl Unfiled {
    pub(crate) fn keep_leftover(&self, id: RecordingId, take: u32) {
        self.change(|waiting| {
            waiting.entry(id).or_insert(UnfiledTake::Leftover { take });
        });
    }

    pub(crate) fn remove(&self, id: RecordingId) {
        self.change(|waiting| {
            waiting.remove(&id);
        });
    }

    fn keep(&self, ended: EndedTake) {
        self.change(|waiting| {
            waiting.insert(ended.recording.id, UnfiledTake::Ended(ended));
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<RecordingId, UnfiledTake>)) {
        let mut waiting = self.lock();
        change(&mut waiting);
        let count = waiting.len();
        self.count.send_if_modified(|reported| std::mem::replace(reported, count) != count);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RecordingId, UnfiledTake>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Result of another attempt to file.
#[derive(Debug, Default)]
pub struct FiledAgain {
    /// The filed recordings.
    pub filed: Vec<Filed>,
    /// Error of the first recording that still waits; `None` when none waits.
    pub error: Option<FileError>,
}

impl Mailstore {
    /// Number of ended recordings that wait to be filed.
    pub fn unfiled(&self) -> watch::Receiver<usize> {
        self.inner.unfiled.count.subscribe()
    }

    /// Tries again to file each waiting recording.
    pub async fn file_again(&self) -> FiledAgain {
        let waiting = self.inner.unfiled.lock().clone();
        let mut again = FiledAgain::default();
        for (id, waiting) in waiting {
            let filed = match waiting {
                UnfiledTake::Ended(ended) => self.file_or_keep(ended).await.map(Some),
                UnfiledTake::Leftover { take } => self.leftover(id, take, |_| true).await.map_err(FileError::from),
            };
            match filed {
                Ok(filed) => {
                    self.inner.unfiled.remove(id);
                    again.filed.extend(filed);
                }
                Err(error) if is_temporary(&error) => again.error = again.error.or(Some(error)),
                Err(error) => {
                    tracing::warn!(recording = %id, %error, "recording that waited becomes no message");
                    self.inner.unfiled.remove(id);
                }
            }
        }
        again
    }

    /// The minimum length of a message for a mailbox, in milliseconds, if `length_ms` is less: no more than its class of service
    /// permits. A mailbox whose record cannot be read holds up no filing.
    pub(crate) fn minimum_above(&self, mailbox: MailboxId, length_ms: u64) -> Option<u64> {
        let most = Some(self.live().min_message_ms).filter(|most| length_ms < *most)?;
        let rules = self.get_now(mailbox).ok().flatten().and_then(|mailbox| self.rules(&mailbox).ok());
        let max_ms = rules.and_then(|rules| rules.max_message_ms()).unwrap_or(u64::MAX);
        Some(most.min(max_ms)).filter(|minimum| length_ms < *minimum)
    }

    /// Files a take, or remembers it for [`Self::file_again`].
    pub(crate) async fn file_or_keep(&self, mut ended: EndedTake) -> Result<Filed, FileError> {
        let filed = self.file_take(&mut ended).await;
        if filed.as_ref().is_err_and(is_temporary) {
            self.inner.unfiled.keep(ended);
        }
        filed
    }

    async fn file_take(&self, ended: &mut EndedTake) -> Result<Filed, FileError> {
        let (begun, measured) = (BootInstant::now(), Some(self.inner.commits.begin()));
        let EndedTake { recording, take, cut, bytes, sealed } = ended;
        let length_ms = *bytes / u64::from(twinbox_rtp::SAMPLES_PER_MS);
        if let Some(min_ms) = self.minimum_above(recording.mailbox, length_ms) {
            self.throw_away(recording.id, *take).await?;
            // If a recording is short because the rest was lost, the caller has not hung up early.
            return Err(if *cut { FileError::Lost } else { FileError::TooShort { length_ms, min_ms } });
        }
        let (blob, filing) = match *sealed {
            Some(sealed) => {
                // Nothing names it yet: each attempt keeps it for the next one.
                self.store().blobs().keep(&sealed.0.hash);
                sealed
            }
            None => {
                let became = self.store().recordings().seal(recording.id, *take).await.map_err(MailError::from)?;
                let is_whole = !*cut && became.whole >= *bytes;
                *sealed.insert((became.blob, if is_whole { Filing::Complete } else { Filing::Recovered }))
            }
        };
        Ok(self.file_blob(recording, filing, blob, begun, measured).await?)
    }
}

/// Whether the error is temporary, so that filing is retried.
fn is_temporary(error: &FileError) -> bool {
    match error {
        FileError::Full => true,
        FileError::Mail(error) => error.is_temporary(),
        FileError::TooShort { .. } | FileError::Lost | FileError::Closed => false,
    }
}
