//! Between the core's words and the wire's. What comes in is bounded and checked here.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tonic::Status;
use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{Duty, Grant, KeepAlive, MemberKind, Order, OrderId, ServiceHealth, Timing};
use twinbox_wire::roles as wire;

use crate::raft;

/// How many failing services a node may name …
const SERVICES: usize = 16;
/// … and in how many characters each.
const WORDS: usize = 100;

pub(crate) fn name(text: &str) -> Result<NodeName, Status> {
    text.parse().map_err(|e| Status::invalid_argument(format!("{e}")))
}

pub(crate) fn incarnation(bytes: &[u8]) -> Result<Incarnation, Status> {
    Incarnation::from_slice(bytes).ok_or_else(|| Status::invalid_argument("an incarnation has 16 bytes"))
}

fn digest(bytes: &[u8]) -> Result<[u8; 32], Status> {
    bytes.try_into().map_err(|_| Status::invalid_argument("a digest has 32 bytes"))
}

fn kind(kind: i32) -> Result<MemberKind, Status> {
    raft::read_kind(kind).map_err(|e| Status::invalid_argument(e.to_string()))
}

fn shortened(text: &str) -> String {
    text.chars().take(WORDS).collect()
}

pub(crate) fn timing(timing: &Timing) -> wire::Timing {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    wire::Timing {
        election_ms: millis(timing.election_max),
        lease_ms: millis(timing.lease),
        drift_ppm: u64::from(timing.drift_ppm),
    }
}

fn epoch(epoch: &Epoch) -> wire::Epoch {
    wire::Epoch { generation: epoch.generation, number: epoch.number, node: epoch.node.as_str().to_owned() }
}

fn duty_epochs(epochs: &BTreeMap<Duty, Epoch>) -> Vec<wire::DutyEpoch> {
    let one = |(duty, e): (&Duty, &Epoch)| wire::DutyEpoch { duty: duty.name().to_owned(), epoch: Some(epoch(e)) };
    epochs.iter().map(one).collect()
}

/// Duties that this version does not know are passed over.
fn read_duty_epochs(epochs: &[wire::DutyEpoch]) -> Result<BTreeMap<Duty, Epoch>, Status> {
    let mut read = BTreeMap::new();
    for entry in epochs {
        let Some(duty) = Duty::from_name(&entry.duty) else { continue };
        let epoch = entry.epoch.as_ref().ok_or_else(|| Status::invalid_argument("an epoch is missing"))?;
        let node = name(&epoch.node)?;
        read.insert(duty, Epoch { generation: epoch.generation, number: epoch.number, node });
    }
    Ok(read)
}

pub(crate) fn keep_alive(request: &KeepAlive, own: &Timing) -> wire::KeepAliveRequest {
    let failing = request.failing.iter().flatten().take(SERVICES);
    wire::KeepAliveRequest {
        node: request.node.as_str().to_owned(),
        incarnation: Bytes::copy_from_slice(&request.incarnation.to_bytes()),
        timing: Some(timing(own)),
        reported: request.failing.is_some(),
        failing: failing
            .map(|service| wire::Failing { service: shortened(&service.name), detail: shortened(&service.detail) })
            .collect(),
        released: duty_epochs(&request.released),
        leaving: request.leaving,
        raft_id: request.raft_id,
        run: request.run,
    }
}

pub(crate) fn read_keep_alive(request: &wire::KeepAliveRequest) -> Result<KeepAlive, Status> {
    let failing = request.failing.iter().take(SERVICES).map(|service| ServiceHealth {
        name: shortened(&service.service),
        ok: false,
        detail: shortened(&service.detail),
    });
    Ok(KeepAlive {
        node: name(&request.node)?,
        raft_id: request.raft_id,
        run: request.run,
        incarnation: incarnation(&request.incarnation)?,
        failing: request.reported.then(|| failing.collect()),
        released: read_duty_epochs(&request.released)?,
        leaving: request.leaving,
    })
}

pub(crate) fn grant(grant: &Grant) -> wire::Granted {
    wire::Granted {
        term: grant.term,
        lease_ms: u64::try_from(grant.lease.as_millis()).unwrap_or(u64::MAX),
        duties: duty_epochs(&grant.duties),
        running: grant.running.iter().map(|duty| duty.name().to_owned()).collect(),
    }
}

pub(crate) fn read_grant(granted: &wire::Granted) -> Result<Grant, Status> {
    Ok(Grant {
        term: granted.term,
        lease: Duration::from_millis(granted.lease_ms),
        duties: read_duty_epochs(&granted.duties)?,
        running: granted.running.iter().filter_map(|name| Duty::from_name(name)).collect(),
    })
}

/// An order with its id; `None` asks what became of it.
pub(crate) fn operate(id: OrderId, order: Option<&Order>) -> wire::OperateRequest {
    use wire::operate_request::Order as Wire;
    let order = match order {
        Some(Order::MakePublisher(name)) => Wire::MakePublisher(name.as_str().to_owned()),
        Some(Order::Activate(name)) => Wire::Activate(name.as_str().to_owned()),
        Some(Order::Deactivate(name)) => Wire::Deactivate(name.as_str().to_owned()),
        Some(Order::Invite { token, kind, valid_ms, .. }) => Wire::Invite(wire::Invite {
            token: Bytes::copy_from_slice(token),
            kind: raft::kind(*kind).into(),
            valid_ms: *valid_ms,
        }),
        Some(Order::Redeem { token, name, kind, address, key, .. }) => Wire::Redeem(wire::Redeem {
            token: Bytes::copy_from_slice(token),
            name: name.as_str().to_owned(),
            kind: raft::kind(*kind).into(),
            address: address.clone(),
            key: Bytes::copy_from_slice(key),
        }),
        None => Wire::Settle(wire::Empty {}),
    };
    wire::OperateRequest { id: Bytes::copy_from_slice(&id.0.to_be_bytes()), order: Some(order) }
}

pub(crate) fn read_operate(request: &wire::OperateRequest) -> Result<(OrderId, Option<Order>), Status> {
    use wire::operate_request::Order as Wire;
    let id = <[u8; 16]>::try_from(&*request.id).map_err(|_| Status::invalid_argument("an id has 16 bytes"))?;
    let order = match request.order.as_ref().ok_or_else(|| Status::invalid_argument("an order is missing"))? {
        Wire::MakePublisher(node) => Some(Order::MakePublisher(name(node)?)),
        Wire::Activate(node) => Some(Order::Activate(name(node)?)),
        Wire::Deactivate(node) => Some(Order::Deactivate(name(node)?)),
        Wire::Invite(invite) => Some(Order::Invite {
            token: digest(&invite.token)?,
            kind: kind(invite.kind)?,
            valid_ms: invite.valid_ms,
            at_ms: 0,
        }),
        Wire::Redeem(redeem) => Some(Order::Redeem {
            token: digest(&redeem.token)?,
            name: name(&redeem.name)?,
            kind: kind(redeem.kind)?,
            address: redeem.address.clone(),
            key: digest(&redeem.key)?,
            at_ms: 0,
        }),
        Wire::Settle(_) => None,
    };
    Ok((OrderId(u128::from_be_bytes(id)), order))
}
