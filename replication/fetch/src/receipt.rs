//! The answer to one request, piece by piece. Pure.

use bytes::{Bytes, BytesMut};
use twinbox_ids::BlobHash;
use twinbox_wire::replication::{Absence, BlobPiece, FetchBlobsRequest};

use crate::{MAX_BLOB, MESSAGE, error::AskError};

/// Bytes for which room is made before any have come.
const ROOM: u64 = 1024 * 1024;

/// A message that is not the last has more bytes: full ones are twice as large.
const LEAST: usize = MESSAGE / 2;

/// A blob that is asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) hash: BlobHash,
    /// Its length according to the record that names it; `None`: the hash alone decides.
    pub(crate) length: Option<u64>,
    /// The beginning, as far as it has come.
    pub(crate) bytes: BytesMut,
}

impl Wanted {
    pub(crate) fn new(hash: BlobHash, length: Option<u64>) -> Self {
        Self { hash, length, bytes: BytesMut::new() }
    }

    /// All that has come; nothing of it stays.
    pub(crate) fn take_bytes(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes).freeze()
    }

    fn add(&mut self, data: &[u8]) -> Result<(), AskError> {
        let limit = self.length.unwrap_or(MAX_BLOB);
        if (self.bytes.len() + data.len()) as u64 > limit {
            self.bytes = BytesMut::new();
            return Err(AskError::Length);
        }
        if self.bytes.is_empty() {
            self.bytes.reserve(self.length.map_or(data.len(), |length| length.min(ROOM) as usize));
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

/// The answer of one node so far, to a request for these blobs in this order.
#[derive(Debug)]
pub(crate) struct Receipt<'a> {
    wanted: &'a mut [Wanted],
    /// Of each blob: whether it is whole, or why it does not come. `None`: no end has come.
    ends: Vec<Option<Result<(), AskError>>>,
    /// No piece of a blob before this one may come.
    at: usize,
}

impl<'a> Receipt<'a> {
    pub(crate) fn new(wanted: &'a mut [Wanted]) -> Self {
        let ends = wanted.iter().map(|_| None).collect();
        Self { wanted, ends, at: 0 }
    }

    pub(crate) fn request(&self) -> FetchBlobsRequest {
        let hash = self.wanted.iter().map(|wanted| Bytes::copy_from_slice(&wanted.hash.0)).collect();
        let offset = self.wanted.first().map_or(0, |first| first.bytes.len() as u64);
        FetchBlobsRequest { hash, offset }
    }

    /// Takes a message. After an error nothing more is to be taken.
    pub(crate) fn take(&mut self, pieces: Vec<BlobPiece>) -> Result<(), AskError> {
        let bytes: usize = pieces.iter().map(|piece| piece.data.len()).sum();
        pieces.into_iter().try_for_each(|piece| self.take_piece(piece))?;
        // Each message has its own time: an answer of small ones would hold up the request for hours, although another node
        // has the blobs.
        if bytes < LEAST && !self.is_complete() {
            return Err(AskError::Invalid("a message of few bytes that is not the last"));
        }
        Ok(())
    }

    fn take_piece(&mut self, piece: BlobPiece) -> Result<(), AskError> {
        let number = piece.number as usize;
        let (Some(wanted), Some(end)) = (self.wanted.get_mut(number), self.ends.get_mut(number)) else {
            return Err(AskError::Invalid("a blob that was not asked for"));
        };
        if number < self.at || end.is_some() {
            return Err(AskError::Invalid("blobs out of order"));
        }
        self.at = number;
        let absence = piece.absence();
        if absence != Absence::Unspecified {
            *end = Some(Err(AskError::Absent(absence)));
        } else if piece.data.is_empty() && !piece.last {
            // An answer of such pieces would never end.
            return Err(AskError::Invalid("a piece without data"));
        } else {
            wanted.add(&piece.data)?;
            if piece.last {
                let is_whole = wanted.length.is_none_or(|length| wanted.bytes.len() as u64 == length);
                *end = Some(if is_whole { Ok(()) } else { Err(AskError::Length) });
            }
        }
        Ok(())
    }

    /// True when nothing more is to come.
    pub(crate) fn is_complete(&self) -> bool {
        self.ends.last().is_none_or(Option::is_some)
    }

    /// The end of each blob; `None` for those whose end did not come.
    pub(crate) fn ends(self) -> Vec<Option<Result<(), AskError>>> {
        self.ends
    }
}

#[cfg(test)]
#[path = "../tests/unit/receipt.rs"]
mod tests;
