//! Answers to a peer that compares its store with this one.

use std::sync::Arc;

use bytes::Bytes;
use tonic::Status;
use twinbox_replication_core::buckets::GROUPS;
use twinbox_replication_store::{
    Store, StoreError,
    codec::{self, hashes::VERSION},
};
use twinbox_wire::replication::{self as wire, compare_reply, compare_request::Part};

use super::{frames, session};
use crate::{error::StreamError, link::Link, peers::Inner, state_scan::blocking};

fn not_counted() -> Status {
    Status::unavailable("the rows of that node are still being counted")
}

fn check(store: &Store, hashes: u32) -> Result<(), Status> {
    if hashes != VERSION {
        let text =
            format!("that node computes row hashes of version {VERSION}, not {hashes}: upgrade the older one");
        return Err(Status::failed_precondition(text));
    }
    if !store.filled().has_records() {
        return Err(Status::unavailable("the first fill of that node is in progress"));
    }
    Ok(())
}

/// Sums and rows of this store.
pub(crate) async fn compare(
    inner: &Arc<Inner>,
    request: wire::CompareRequest,
) -> Result<wire::CompareReply, Status> {
    let store = inner.store.clone();
    check(&store, request.hashes)?;
    let part = match request.part.ok_or_else(|| Status::invalid_argument("an empty request"))? {
        Part::Groups(wire::GroupSumsRequest {}) => {
            let (sums, rows) = store.group_sums().ok_or_else(not_counted)?;
            compare_reply::Part::Groups(wire::GroupSums { sums: frames::sums_to_wire(sums), rows })
        }
        Part::Buckets(request) => {
            if request.groups.len() > GROUPS {
                return Err(Status::invalid_argument("too many groups"));
            }
            let mut sums = Vec::with_capacity(request.groups.len());
            for group in &request.groups {
                sums.push(frames::sums_to_wire(store.bucket_sums(*group).ok_or_else(not_counted)?));
            }
            compare_reply::Part::Buckets(wire::BucketSums { sums: Bytes::from(sums.concat()) })
        }
        Part::Ranges(request) => {
            let after = request.after.map(frames::read_key).transpose()?;
            let list = store.range_sums(after.as_ref(), frames::LIST).ok_or_else(not_counted)?;
            compare_reply::Part::Ranges(frames::ranges_to_wire(list))
        }
        Part::List(request) => {
            let buckets = frames::read_buckets(&request.buckets)?;
            let after = request.after.map(frames::read_key).transpose()?;
            let upto = request.upto.map(frames::read_key).transpose()?;
            let page = blocking(move || store.rows_of_buckets(&buckets, after.as_ref(), upto.as_ref()));
            compare_reply::Part::List(frames::list_to_wire(page.await.map_err(StreamError::from)?))
        }
        Part::Rows(request) => {
            let keys = frames::read_keys(request.key, frames::ROWS)?;
            let reading = store.clone();
            let read = move || {
                let rows = keys.iter().map(|key| reading.stored_row(key).map(|row| frames::row_to_wire(&row)));
                // The marks behind the rows, which came with theirs.
                Ok((rows.collect::<Result<Vec<_>, StoreError>>()?, codec::vector_to_wire(&reading.scanned()?)))
            };
            let (row, seen) = blocking(read).await.map_err(StreamError::from)?;
            // The report after the rows, and after the changes that they show are announced: all of them are in it.
            store.announced().await.map_err(StreamError::from)?;
            compare_reply::Part::Rows(wire::Rows { row, report: frames::report(&store), seen: Some(seen) })
        }
    };
    Ok(wire::CompareReply { part: Some(part) })
}

/// Compares rows with those of the peer that asks, and takes the data that this store lacks.
pub(crate) async fn repair(
    inner: &Arc<Inner>,
    link: &Arc<Link>,
    request: wire::RepairRequest,
) -> Result<wire::RepairReply, Status> {
    check(&inner.store, request.hashes)?;
    let keys = frames::read_keys(request.key, frames::ROWS)?;
    let settled = session::take_lacking(inner, link, keys).await?;
    inner.comparisons.repaired_for(&link.name, settled.repaired.len() as u64);
    // A row in both lists was decided, and could not be repaired.
    let rows = settled.repaired.iter().chain(&settled.failed);
    let unsettled = settled.undecided.iter().chain(settled.failed.iter().map(|row| &row.key));
    Ok(wire::RepairReply {
        row: rows.map(frames::repaired_to_wire).collect(),
        unsettled: unsettled.map(frames::key_to_wire).collect(),
    })
}
