//! The side that has the blobs.

use std::time::Duration;

use tokio::{sync::mpsc, time::timeout};
use tonic::Status;
use tracing::warn;
use twinbox_ids::BlobHash;
use twinbox_replication_store::{BlobReader, Store, StoreError, codec};
use twinbox_wire::replication::{Absence, BlobPiece, BlobPieces, FetchBlobsRequest};

use crate::{MAX_ASKED, MESSAGE};

/// Time within which a peer takes a message; one that asks again comes sooner.
const READS_WITHIN: Duration = Duration::from_secs(60);

/// A request that is in order.
#[derive(Debug)]
pub struct BlobsRequest {
    hashes: Vec<BlobHash>,
    /// Of the first blob: where it goes on.
    offset: u64,
}

impl BlobsRequest {
    /// Reads a peer's request.
    pub fn read(request: &FetchBlobsRequest) -> Result<Self, Status> {
        if request.hash.is_empty() || request.hash.len() > MAX_ASKED {
            return Err(Status::invalid_argument(format!("a request names 1 to {MAX_ASKED} blobs")));
        }
        let read = |hash| codec::hash_from_wire(hash).map_err(|error| Status::invalid_argument(error.to_string()));
        let hashes = request.hash.iter().map(|hash| read(hash)).collect::<Result<_, _>>()?;
        Ok(Self { hashes, offset: request.offset })
    }
}

/// The next byte to send.
struct Cursor {
    request: BlobsRequest,
    number: usize,
    at: u64,
}

/// Sends what was asked for, until all of it is sent or the peer has gone.
pub async fn serve(store: Store, request: BlobsRequest, answer: mpsc::Sender<Result<BlobPieces, Status>>) {
    let at = request.offset;
    let mut cursor = Cursor { request, number: 0, at };
    while cursor.number < cursor.request.hashes.len() {
        let reader = store.clone();
        let read = tokio::task::spawn_blocking(move || {
            let pieces = cursor.next(&reader);
            (pieces, cursor)
        });
        // The runtime shuts down.
        let Ok((pieces, next)) = read.await else { return };
        cursor = next;
        // A peer that reads nothing keeps no other from being served.
        if !matches!(timeout(READS_WITHIN, answer.send(Ok(pieces))).await, Ok(Ok(()))) {
            return;
        }
    }
}

impl Cursor {
    /// The next message. Waits for the disk.
    fn next(&mut self, store: &Store) -> BlobPieces {
        let (mut piece, mut bytes, mut reader) = (Vec::new(), 0, store.blobs().reader());
        while bytes < MESSAGE
            && let Some(hash) = self.request.hashes.get(self.number)
        {
            let number = u32::try_from(self.number).unwrap_or(u32::MAX);
            let end = match read(store, &mut reader, hash, self.at, (MESSAGE - bytes) as u64) {
                Ok((data, last)) => {
                    bytes += data.len();
                    self.at += data.len() as u64;
                    piece.push(BlobPiece { number, data, last, ..BlobPiece::default() });
                    last
                }
                Err(absence) => {
                    piece.push(BlobPiece { number, absence: absence.into(), ..BlobPiece::default() });
                    true
                }
            };
            if end {
                self.number += 1;
                self.at = 0;
            }
        }
        BlobPieces { piece }
    }
}

/// At most this many bytes of a blob, and whether they are its last.
fn read(
    store: &Store,
    reader: &mut BlobReader<'_>,
    hash: &BlobHash,
    at: u64,
    most: u64,
) -> Result<(bytes::Bytes, bool), Absence> {
    // A blob that a peer was promised stays until it has all of it (rule D9).
    match reader.keep_and_read(hash, at, most) {
        Ok(Some(read)) => Ok(read),
        // Being stored, or being removed: it is not known yet whether it stays.
        Ok(None) if store.blobs().is_changing(hash) => Err(Absence::Changing),
        Ok(None) => Err(match is_given_up(store, hash) {
            Ok(true) => Absence::GivenUp,
            Ok(false) => Absence::NotHere,
            Err(error) => unreadable(hash, &error),
        }),
        Err(error) => Err(unreadable(hash, &error)),
    }
}

fn unreadable(hash: &BlobHash, error: &StoreError) -> Absence {
    warn!(%hash, %error, "blob requested by a peer cannot be read");
    Absence::Unreadable
}

/// True when every record that named the blob was deleted and purged here, as far as this node knows of records.
fn is_given_up(store: &Store, hash: &BlobHash) -> Result<bool, StoreError> {
    let knows_all = store.filled().has_records() && store.is_indexed() && store.health().set_aside == 0;
    Ok(knows_all && !store.is_referenced(hash)?)
}
