//! Requests of a comparison to a peer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};
use twinbox_replication_core::{Holdings, Key, Vector, buckets::BucketSet, range_sums::RangeList};
use twinbox_replication_store::{RepairedRow, RowPage, StoredRow, codec::hashes};
use twinbox_wire::replication::{
    self as wire, compare_reply, compare_request::Part, replication_client::ReplicationClient,
};

use super::frames;
use crate::{
    config::limits,
    error::StreamError,
    frames::{bad, read_prefixes, read_report},
    link::Link,
    peers::Inner,
};

/// Timeout of an answer, for which the peer may read some thousand rows.
const ANSWER: Duration = Duration::from_secs(30);
/// Timeout of a repair at the peer, which asks back and may wait for changes and audio.
const REPAIR: Duration = Duration::from_secs(120);

/// The answer of a peer to a request for repairs.
pub(super) struct Repairs {
    pub(super) repaired: Vec<RepairedRow>,
    /// The rows that it could not repair, with what they lack.
    pub(super) failed: Vec<RepairedRow>,
    /// The rows that it could not decide.
    pub(super) undecided: Vec<Key>,
}

/// Rows of a peer.
pub(crate) struct PeerRows {
    pub(crate) rows: Vec<StoredRow>,
    /// Everything durable there after they were read.
    pub(super) holdings: Holdings,
    /// Changes that they may show beyond that, of interrupted scans.
    pub(super) seen: Vector,
}

pub(crate) struct Client {
    client: ReplicationClient<Channel>,
    /// The peer has answered with ranges of keys, and reads buckets by their numbers.
    knows_ranges: bool,
}

impl Client {
    pub(crate) fn new(inner: &Arc<Inner>, link: &Link) -> Result<Self, StreamError> {
        let endpoint = inner.config.tls.endpoint(&link.name, &link.address())?.connect_timeout(limits::SILENCE);
        let client = ReplicationClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(limits::MESSAGE)
            .max_encoding_message_size(limits::MESSAGE);
        Ok(Self { client, knows_ranges: false })
    }

    async fn ask(&mut self, part: Part) -> Result<compare_reply::Part, StreamError> {
        let request = wire::CompareRequest { hashes: hashes::VERSION, part: Some(part) };
        let reply = in_time(ANSWER, self.client.compare(request)).await?.into_inner();
        reply.part.ok_or_else(|| bad("an empty answer"))
    }

    pub(super) async fn group_sums(&mut self) -> Result<Vec<u128>, StreamError> {
        match self.ask(Part::Groups(wire::GroupSumsRequest {})).await? {
            compare_reply::Part::Groups(reply) => frames::read_group_sums(&reply),
            _ => Err(other()),
        }
    }

    /// The sums of the buckets of these groups, one group after the other.
    pub(super) async fn bucket_sums(&mut self, groups: &[u8]) -> Result<Vec<u128>, StreamError> {
        let request = wire::BucketSumsRequest { groups: Bytes::copy_from_slice(groups) };
        match self.ask(Part::Buckets(request)).await? {
            compare_reply::Part::Buckets(reply) => frames::read_bucket_sums(&reply, groups.len()),
            _ => Err(other()),
        }
    }

    /// The first ranges of keys, at least `most` if there are more; `None` of a peer of an earlier release.
    pub(super) async fn range_sums(&mut self, most: usize) -> Result<Option<RangeList<Key>>, StreamError> {
        let mut list = RangeList { ends: Vec::new(), rest: None };
        while list.rest.is_none() && list.ends.len() < most {
            let after = list.ends.last().map(|(end, _)| frames::key_to_wire(end));
            match self.ask(Part::Ranges(wire::RangeSumsRequest { after })).await {
                Ok(compare_reply::Part::Ranges(reply)) => frames::read_ranges(reply, &mut list)?,
                Ok(_) => return Err(other()),
                Err(StreamError::Rpc(status)) if status.code() == Code::InvalidArgument => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        self.knows_ranges = true;
        Ok(Some(list))
    }

    pub(super) async fn list(
        &mut self,
        buckets: &BucketSet,
        (after, upto): (Option<&Key>, Option<&Key>),
    ) -> Result<RowPage, StreamError> {
        let numbers = buckets.numbers().filter(|_| self.knows_ranges);
        let request = wire::RowListRequest {
            buckets: numbers.map_or_else(|| Bytes::copy_from_slice(buckets.as_bytes()), Bytes::from),
            after: after.map(frames::key_to_wire),
            upto: upto.map(frames::key_to_wire),
        };
        match self.ask(Part::List(request)).await? {
            compare_reply::Part::List(reply) => frames::read_list(reply, after, upto),
            _ => Err(other()),
        }
    }

    /// The rows, in the order of the keys.
    pub(crate) async fn rows(&mut self, keys: &[Key]) -> Result<PeerRows, StreamError> {
        let request = wire::RowsRequest { key: keys.iter().map(frames::key_to_wire).collect() };
        let compare_reply::Part::Rows(reply) = self.ask(Part::Rows(request)).await? else { return Err(other()) };
        if reply.row.len() != keys.len() {
            return Err(bad("another number of rows than requested"));
        }
        let (holdings, _) = read_report(reply.report.ok_or_else(|| bad("rows without a report"))?)?;
        let seen = read_prefixes(reply.seen.as_ref())?;
        Ok(PeerRows { rows: reply.row.into_iter().map(frames::read_row).collect(), holdings, seen })
    }

    /// Requests that the peer takes the data that it lacks in these rows.
    pub(super) async fn repair(&mut self, keys: &[Key]) -> Result<Repairs, StreamError> {
        let request =
            wire::RepairRequest { hashes: hashes::VERSION, key: keys.iter().map(frames::key_to_wire).collect() };
        let reply = in_time(REPAIR, self.client.repair(request)).await?.into_inner();
        let rows = reply.row.into_iter().take(keys.len()).map(frames::read_repaired);
        let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
        rows.retain(|row| keys.contains(&row.key));
        let mut undecided = frames::read_keys(reply.unsettled, keys.len())?;
        undecided.retain(|key| keys.contains(key));
        let (failed, repaired): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| undecided.contains(&row.key));
        undecided.retain(|key| failed.iter().all(|row| row.key != *key));
        Ok(Repairs { repaired, failed, undecided })
    }
}

fn other() -> StreamError {
    bad("an answer to another request")
}

async fn in_time<T>(within: Duration, answer: impl Future<Output = Result<T, Status>>) -> Result<T, StreamError> {
    match timeout(within, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(StreamError::Silent),
    }
}
