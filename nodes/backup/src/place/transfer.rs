//! Large objects, piece by piece: uploads in parts that count when the last one is there, downloads by ranges.

use std::{collections::VecDeque, sync::mpsc};

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::{task::AbortHandle, time::timeout};

use super::{BackupPlace, NewFile, OldFile, bucket::Bucket, client};
use crate::BackupError;

/// Bytes of a part: stores take 10,000 parts, so a file may have 80 GB. Not below 5 MiB.
const PART: usize = 8 << 20;
/// Parts on their way; with the one that is being filled they are all that is in memory.
const UNDER_WAY: usize = 2;
/// Bytes of a range.
const RANGE: u64 = 8 << 20;

/// An object that is being written.
pub(super) struct Upload {
    bucket: Bucket,
    path: String,
    buffer: Vec<u8>,
    /// Dropped before the upload: an upload is aborted when nothing of it is on its way.
    under_way: VecDeque<PartUnderWay>,
    /// Begun with the first full part.
    parts: Option<Parts>,
}

/// An upload in parts; dropped before its end, it is aborted.
struct Parts {
    bucket: Bucket,
    path: String,
    upload: Option<Box<dyn MultipartUpload>>,
}

/// A part on its way; dropped, it is not sent on.
struct PartUnderWay {
    task: AbortHandle,
    outcome: mpsc::Receiver<Result<(), BackupError>>,
}

impl Drop for PartUnderWay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let Some(mut upload) = self.upload.take() else { return };
        let Ok(runtime) = client::runtime() else { return };
        let (limit, file) = (self.bucket.limit, self.bucket.locate(&self.path));
        runtime.spawn(async move {
            if !matches!(timeout(limit, upload.abort()).await, Ok(Ok(()))) {
                tracing::warn!(file = %file.display(), "parts of an upload stay; a rule of the bucket may remove them");
            }
        });
    }
}

impl Upload {
    pub(super) fn begin(bucket: Bucket, path: &str) -> Self {
        let (buffer, parts, under_way) = Default::default();
        Self { bucket, path: path.to_owned(), buffer, parts, under_way }
    }

    fn send_part(&mut self) -> Result<(), BackupError> {
        let bytes = PutPayload::from(Bytes::from(std::mem::take(&mut self.buffer)));
        let parts = match &mut self.parts {
            Some(parts) => parts,
            None => {
                let (store, key) = (self.bucket.store.clone(), self.bucket.key(&self.path)?);
                let begun =
                    self.bucket.wait("write", &self.path, async move { store.put_multipart(&key).await })?;
                let (bucket, path) = (self.bucket.clone(), self.path.clone());
                self.parts.insert(Parts { bucket, path, upload: Some(begun) })
            }
        };
        let part = parts.upload.as_mut().ok_or(BackupError::Stopped)?.put_part(bytes);
        while self.under_way.len() >= UNDER_WAY {
            self.wait_for_part()?;
        }
        let (done, outcome) = mpsc::sync_channel(1);
        let (bucket, path) = (self.bucket.clone(), self.path.clone());
        let task = client::runtime()?.spawn(async move {
            let sent = match timeout(bucket.limit, part).await {
                Ok(sent) => sent.map_err(|error| bucket.failed("write", &path, &error)),
                Err(_) => Err(bucket.silent("write", &path)),
            };
            // A writer that has gone needs no outcome.
            let _ = done.send(sent);
        });
        self.under_way.push_back(PartUnderWay { task: task.abort_handle(), outcome });
        Ok(())
    }

    fn wait_for_part(&mut self) -> Result<(), BackupError> {
        match self.under_way.pop_front() {
            Some(part) => part.outcome.recv().unwrap_or(Err(BackupError::Stopped)),
            None => Ok(()),
        }
    }
}

impl NewFile for Upload {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), BackupError> {
        loop {
            let room = PART.saturating_sub(self.buffer.len());
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            if self.buffer.len() < PART {
                return Ok(());
            }
            self.send_part()?;
            bytes = rest;
        }
    }

    fn finish(mut self: Box<Self>) -> Result<(), BackupError> {
        if self.parts.is_none() {
            let bytes = Bytes::from(std::mem::take(&mut self.buffer));
            return self.bucket.put(&self.path, bytes);
        }
        if !self.buffer.is_empty() {
            self.send_part()?;
        }
        while !self.under_way.is_empty() {
            self.wait_for_part()?;
        }
        let Some(mut parts) = self.parts.take() else { return Ok(()) };
        self.bucket.wait("write", &self.path, async move {
            if let Some(upload) = &mut parts.upload {
                upload.complete().await?;
            }
            drop(parts.upload.take());
            Ok(())
        })
    }
}

/// An object that is being read.
pub(super) struct Download {
    bucket: Bucket,
    path: String,
    length: u64,
    next: u64,
    buffer: Bytes,
}

impl Download {
    pub(super) fn open(bucket: Bucket, path: &str) -> Result<Self, BackupError> {
        let (store, key) = (bucket.store.clone(), bucket.key(path)?);
        let found = bucket.wait("read", path, async move { store.head(&key).await })?;
        Ok(Self { bucket, path: path.to_owned(), length: found.size, next: 0, buffer: Bytes::new() })
    }

    fn read_range(&mut self) -> Result<(), BackupError> {
        let (store, key) = (self.bucket.store.clone(), self.bucket.key(&self.path)?);
        let range = self.next..self.length.min(self.next.saturating_add(RANGE));
        let end = range.end;
        self.buffer = self.bucket.wait("read", &self.path, async move { store.get_range(&key, range).await })?;
        if self.buffer.len() as u64 != end - self.next {
            return Err(BackupError::damaged(&self.bucket.locate(&self.path), "it has another length than before"));
        }
        self.next = end;
        Ok(())
    }
}

impl OldFile for Download {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, BackupError> {
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            if self.buffer.is_empty() {
                if self.next >= self.length {
                    break;
                }
                self.read_range()?;
            }
            let now = self.buffer.split_to(rest.len().min(self.buffer.len()));
            for (to, from) in rest.iter_mut().zip(&now) {
                *to = *from;
            }
            filled += now.len();
        }
        Ok(filled)
    }
}
