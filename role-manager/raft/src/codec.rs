//! Conversion between openraft's types and ours on the wire and on disk. All input is untrusted: missing or invalid
//! data is an error, never a panic.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{EntryPayload, raft::AppendEntriesResponse, vote::RaftVote};
use prost::Message;
use twinbox_ids::NodeName;
use twinbox_roles_core::MemberKind;
use twinbox_wire::roles as wire;

use super::{
    Peer, Types,
    types::{
        AppendRequest, Entry, LogId, Membership, Snapshot, SnapshotMeta, StoredMembership, Vote, VoteRequest,
        VoteResponse,
    },
};

/// Input of an unexpected form.
#[derive(Debug, thiserror::Error)]
#[error("a malformed {what}: {detail}")]
pub struct Malformed {
    what: &'static str,
    detail: String,
}

fn malformed(what: &'static str, detail: impl ToString) -> Malformed {
    Malformed { what, detail: detail.to_string() }
}

fn required<T>(value: Option<T>, what: &'static str) -> Result<T, Malformed> {
    value.ok_or_else(|| malformed(what, "it is missing"))
}

/// Reads a message from disk.
pub(crate) fn decode<M: Message + Default>(bytes: &[u8], what: &'static str) -> Result<M, Malformed> {
    M::decode(bytes).map_err(|e| malformed(what, e))
}

pub(crate) fn log_id(id: &LogId) -> wire::LogId {
    wire::LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn read_log_id(id: &wire::LogId) -> LogId {
    LogId::new_term_index(id.term, id.index)
}

pub(crate) fn vote(vote: &Vote) -> wire::Vote {
    wire::Vote { term: vote.leader_id.term, voted_for: vote.leader_id.voted_for, committed: vote.committed }
}

pub(crate) fn read_vote(vote: &wire::Vote) -> Vote {
    let leader_id = openraft::impls::leader_id_std::LeaderId { term: vote.term, voted_for: vote.voted_for };
    Vote::from_leader_id(leader_id, vote.committed)
}

/// A kind of member on the wire.
pub fn kind(kind: MemberKind) -> wire::Kind {
    match kind {
        MemberKind::Node => wire::Kind::Node,
        MemberKind::Witness => wire::Kind::Witness,
    }
}

/// Reads a kind of member from the wire.
pub fn read_kind(kind: i32) -> Result<MemberKind, Malformed> {
    match wire::Kind::try_from(kind) {
        Ok(wire::Kind::Node) => Ok(MemberKind::Node),
        Ok(wire::Kind::Witness) => Ok(MemberKind::Witness),
        _ => Err(malformed("kind of member", kind)),
    }
}

/// Reads the name of a member from the wire.
pub fn read_name(name: &str) -> Result<NodeName, Malformed> {
    name.parse().map_err(|e| malformed("name of a member", e))
}

fn membership(membership: &Membership) -> wire::Membership {
    let voters = membership.get_joint_config().iter();
    let members = membership.nodes().map(|(id, peer)| wire::Member {
        raft_id: *id,
        name: peer.name.as_str().to_owned(),
        kind: kind(peer.kind).into(),
        address: peer.address.clone(),
    });
    wire::Membership {
        voters: voters.map(|set| wire::Voters { raft_ids: set.iter().copied().collect() }).collect(),
        members: members.collect(),
    }
}

fn read_membership(message: &wire::Membership) -> Result<Membership, Malformed> {
    let sets = message.voters.iter().map(|set| set.raft_ids.iter().copied().collect::<BTreeSet<_>>());
    let mut members = BTreeMap::new();
    for member in &message.members {
        let peer =
            Peer { name: read_name(&member.name)?, kind: read_kind(member.kind)?, address: member.address.clone() };
        members.insert(member.raft_id, peer);
    }
    Membership::new(sets.collect(), members).map_err(|e| malformed("membership", e))
}

fn stored_membership(stored: &StoredMembership) -> wire::StoredMembership {
    wire::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id),
        membership: Some(membership(stored.membership())),
    }
}

fn read_stored_membership(stored: &wire::StoredMembership) -> Result<StoredMembership, Malformed> {
    let message = required(stored.membership.as_ref(), "membership")?;
    // Before the first membership there are neither voters nor members, which `Membership::new` refuses.
    let membership = match message.voters.is_empty() {
        true => Membership::default(),
        false => read_membership(message)?,
    };
    Ok(StoredMembership::new(stored.log_id.as_ref().map(read_log_id), membership))
}

pub(crate) fn entry(entry: &Entry) -> Result<wire::Entry, Malformed> {
    let payload = match &entry.payload {
        EntryPayload::Blank => wire::entry::Payload::Blank(wire::Empty {}),
        EntryPayload::Normal(command) => {
            let json = serde_json::to_vec(command).map_err(|e| malformed("command", e))?;
            wire::entry::Payload::Command(json.into())
        }
        EntryPayload::Membership(m) => wire::entry::Payload::Membership(membership(m)),
    };
    Ok(wire::Entry { log_id: Some(log_id(&entry.log_id)), payload: Some(payload) })
}

pub(crate) fn read_entry(entry: &wire::Entry) -> Result<Entry, Malformed> {
    let payload = match required(entry.payload.as_ref(), "payload of a log entry")? {
        wire::entry::Payload::Blank(_) => EntryPayload::Blank,
        wire::entry::Payload::Command(json) => {
            EntryPayload::Normal(serde_json::from_slice(json).map_err(|e| malformed("command", e))?)
        }
        wire::entry::Payload::Membership(m) => EntryPayload::Membership(read_membership(m)?),
    };
    let log_id = read_log_id(required(entry.log_id.as_ref(), "id of a log entry")?);
    Ok(Entry { log_id, payload })
}

pub(crate) fn snapshot(meta: &SnapshotMeta, state: Bytes) -> wire::Snapshot {
    let meta = wire::SnapshotMeta {
        last: meta.last_log_id.as_ref().map(log_id),
        membership: Some(stored_membership(&meta.last_membership)),
    };
    wire::Snapshot { meta: Some(meta), state }
}

pub(crate) fn read_snapshot(message: &wire::Snapshot) -> Result<Snapshot, Malformed> {
    let meta = required(message.meta.as_ref(), "description of a snapshot")?;
    let meta = SnapshotMeta {
        last_log_id: meta.last.as_ref().map(read_log_id),
        last_membership: read_stored_membership(required(meta.membership.as_ref(), "membership")?)?,
    };
    Ok(Snapshot { meta, snapshot: message.state.clone() })
}

pub(crate) fn append(request: &AppendRequest, envelope: wire::Envelope) -> Result<wire::AppendRequest, Malformed> {
    Ok(wire::AppendRequest {
        envelope: Some(envelope),
        vote: Some(vote(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id),
        entries: request.entries.iter().map(entry).collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.as_ref().map(log_id),
    })
}

pub(crate) fn read_append(request: &wire::AppendRequest) -> Result<AppendRequest, Malformed> {
    let prev_log_id = request.previous.as_ref().map(read_log_id);
    let entries = request.entries.iter().map(read_entry).collect::<Result<Vec<_>, _>>()?;
    // openraft trusts the order; a peer that breaks it is refused here.
    let first = prev_log_id.as_ref().map_or(0, |id| id.index.saturating_add(1));
    let consecutive = entries.iter().zip(first..).all(|(entry, index)| entry.log_id.index == index);
    if !consecutive {
        return Err(malformed("list of log entries", "they are not consecutive"));
    }
    Ok(AppendRequest {
        vote: read_vote(required(request.vote.as_ref(), "vote")?),
        prev_log_id,
        entries,
        leader_commit: request.leader_commit.as_ref().map(read_log_id),
    })
}

pub(crate) fn append_answer(answer: &AppendEntriesResponse<Types>) -> wire::AppendAnswer {
    use wire::append_answer::Result as Wire;
    let result = match answer {
        AppendEntriesResponse::Success => Wire::Success(wire::Empty {}),
        AppendEntriesResponse::PartialSuccess(Some(id)) => Wire::PartialUpTo(log_id(id)),
        AppendEntriesResponse::PartialSuccess(None) => Wire::PartialNothing(wire::Empty {}),
        AppendEntriesResponse::Conflict => Wire::Conflict(wire::Empty {}),
        AppendEntriesResponse::HigherVote(higher) => Wire::HigherVote(vote(higher)),
    };
    wire::AppendAnswer { result: Some(result) }
}

pub(crate) fn read_append_answer(answer: &wire::AppendAnswer) -> Result<AppendEntriesResponse<Types>, Malformed> {
    use wire::append_answer::Result as Wire;
    Ok(match required(answer.result.as_ref(), "answer to append")? {
        Wire::Success(_) => AppendEntriesResponse::Success,
        Wire::PartialUpTo(id) => AppendEntriesResponse::PartialSuccess(Some(read_log_id(id))),
        Wire::PartialNothing(_) => AppendEntriesResponse::PartialSuccess(None),
        Wire::Conflict(_) => AppendEntriesResponse::Conflict,
        Wire::HigherVote(higher) => AppendEntriesResponse::HigherVote(read_vote(higher)),
    })
}

pub(crate) fn vote_request(request: &VoteRequest, envelope: wire::Envelope) -> wire::VoteRequest {
    wire::VoteRequest {
        envelope: Some(envelope),
        vote: Some(vote(&request.vote)),
        last: request.last_log_id.as_ref().map(log_id),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn read_vote_request(request: &wire::VoteRequest) -> Result<VoteRequest, Malformed> {
    let last = request.last.as_ref().map(read_log_id);
    let mut read = VoteRequest::new(read_vote(required(request.vote.as_ref(), "vote")?), last);
    read.leadership_transfer = request.leadership_transfer;
    Ok(read)
}

pub(crate) fn vote_answer(answer: &VoteResponse) -> wire::VoteAnswer {
    wire::VoteAnswer {
        vote: Some(vote(&answer.vote)),
        granted: answer.vote_granted,
        last: answer.last_log_id.as_ref().map(log_id),
    }
}

pub(crate) fn read_vote_answer(answer: &wire::VoteAnswer) -> Result<VoteResponse, Malformed> {
    let vote = read_vote(required(answer.vote.as_ref(), "vote")?);
    Ok(VoteResponse::new(vote, answer.last.as_ref().map(read_log_id), answer.granted))
}
