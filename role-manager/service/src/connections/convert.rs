//! Conversion between the core's and the wire's types. Input is bounded and checked here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use tonic::Status;
use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{
    CallCounts, Duty, Echo, FeatureLevels, Grant, KeepAlive, Measures, Order, OrderId, PersistedBounds, Report,
    ServiceHealth, Timing,
};
use twinbox_roles_member::KeepAliveExtras;
use twinbox_wire::roles as wire;

/// Maximum number of failing services that a node may name.
const SERVICES: usize = 16;
/// Maximum number of characters of each name and detail.
const WORDS: usize = 100;
/// Maximum number of members that a node may name.
const MEMBERS: usize = 64;
/// Maximum number of incarnations that a leader may report.
const INCARNATIONS: usize = 4 * MEMBERS;

pub(crate) fn name(text: &str) -> Result<NodeName, Status> {
    text.parse().map_err(|e| Status::invalid_argument(format!("{e}")))
}

pub(crate) fn incarnation(bytes: &[u8]) -> Result<Incarnation, Status> {
    Incarnation::from_slice(bytes).ok_or_else(|| Status::invalid_argument("an incarnation has 16 bytes"))
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

/// Duties unknown to this version are skipped.
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

pub(crate) fn keep_alive(request: &KeepAlive, extras: &KeepAliveExtras, own: &Timing) -> wire::KeepAliveRequest {
    let failing = request.failing.iter().flatten().take(SERVICES);
    let Report { reaches, measures, feature_levels, persisted, solo, unanswered } = &request.report;
    let reach = |node: &NodeName| wire::Reach {
        node: node.as_str().to_owned(),
        round_trip_us: extras
            .round_trips
            .get(node)
            .map_or(0, |took| u32::try_from(took.as_micros()).unwrap_or(u32::MAX)),
    };
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
        reaches: reaches.iter().map(reach).collect(),
        measures: Some(wire::Measures {
            cpu_permille: measures.cpu_permille.map(u32::from),
            free_bytes: measures.free_bytes,
            alarms: measures.alarms,
            behind: measures.behind,
            calls: measures.calls,
        }),
        speaks_min: feature_levels.min,
        speaks_max: feature_levels.max,
        solo: solo.as_ref().and_then(|solo| serde_json::to_vec(solo).ok()).unwrap_or_default().into(),
        echo: request.echo.map(|echo| wire::Echo { term: echo.term, at_ns: nanos(echo.at) }),
        handed_over: extras.handed_over,
        learned_generation: persisted.generation,
        learned_lease_ms: persisted.longest_lease_ms,
        unanswered: unanswered.iter().map(|node| node.as_str().to_owned()).collect(),
    }
}

pub(crate) fn read_keep_alive(request: &wire::KeepAliveRequest) -> Result<(KeepAlive, KeepAliveExtras), Status> {
    let failing = request.failing.iter().take(SERVICES).map(|service| ServiceHealth {
        name: shortened(&service.service),
        ok: false,
        detail: shortened(&service.detail),
    });
    let mut round_trips = BTreeMap::new();
    for reach in request.reaches.iter().take(MEMBERS) {
        round_trips.insert(name(&reach.node)?, Duration::from_micros(u64::from(reach.round_trip_us)));
    }
    let measures = request.measures.unwrap_or_default();
    let solo = match request.solo.is_empty() {
        true => None,
        false => Some(serde_json::from_slice(&request.solo).map_err(|e| Status::invalid_argument(e.to_string()))?),
    };
    let report = Report {
        reaches: round_trips.keys().cloned().collect(),
        measures: Measures {
            cpu_permille: measures.cpu_permille.map(|cpu| u16::try_from(cpu).unwrap_or(u16::MAX)),
            free_bytes: measures.free_bytes,
            alarms: measures.alarms,
            behind: measures.behind,
            calls: measures.calls,
        },
        feature_levels: FeatureLevels { min: request.speaks_min, max: request.speaks_max },
        persisted: PersistedBounds {
            generation: request.learned_generation,
            longest_lease_ms: request.learned_lease_ms,
        },
        solo,
        unanswered: request.unanswered.iter().take(MEMBERS).map(|node| name(node)).collect::<Result<_, _>>()?,
    };
    let keep_alive = KeepAlive {
        node: name(&request.node)?,
        raft_id: request.raft_id,
        run: request.run,
        incarnation: incarnation(&request.incarnation)?,
        failing: request.reported.then(|| failing.collect()),
        released: read_duty_epochs(&request.released)?,
        leaving: request.leaving,
        echo: request.echo.map(|echo| Echo { term: echo.term, at: Duration::from_nanos(echo.at_ns) }),
        report,
    };
    Ok((keep_alive, KeepAliveExtras { round_trips, handed_over: request.handed_over }))
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn grant(grant: &Grant) -> wire::Granted {
    let failed = grant.failed.iter().take(SERVICES);
    let cuts = grant.cuts.iter().take(MEMBERS * MEMBERS);
    wire::Granted {
        term: grant.term,
        lease_ms: u64::try_from(grant.lease.as_millis()).unwrap_or(u64::MAX),
        duties: duty_epochs(&grant.duties),
        running: grant.running.iter().map(|duty| duty.name().to_owned()).collect(),
        at_ns: nanos(grant.at),
        failed: failed
            .map(|(duty, detail)| wire::FailedDuty { duty: duty.name().to_owned(), detail: shortened(detail) })
            .collect(),
        cuts: cuts
            .map(|(from, to)| wire::Cut { from: from.as_str().to_owned(), to: to.as_str().to_owned() })
            .collect(),
        lives: grant.call_counts.iter().take(INCARNATIONS).map(life_calls).collect(),
    }
}

fn life_calls((node, incarnation, calls): (&NodeName, Incarnation, u32)) -> wire::LifeCalls {
    let incarnation = Bytes::copy_from_slice(&incarnation.to_bytes());
    wire::LifeCalls { node: node.as_str().to_owned(), incarnation, calls }
}

pub(crate) fn read_grant(granted: &wire::Granted) -> Result<Grant, Status> {
    let mut cuts = BTreeSet::new();
    for cut in granted.cuts.iter().take(MEMBERS * MEMBERS) {
        cuts.insert((name(&cut.from)?, name(&cut.to)?));
    }
    let mut call_counts = CallCounts::default();
    for entry in granted.lives.iter().take(INCARNATIONS) {
        call_counts.note(&name(&entry.node)?, incarnation(&entry.incarnation)?, entry.calls);
    }
    let failed = granted.failed.iter().take(SERVICES);
    Ok(Grant {
        term: granted.term,
        lease: Duration::from_millis(granted.lease_ms),
        duties: read_duty_epochs(&granted.duties)?,
        running: granted.running.iter().filter_map(|name| Duty::from_name(name)).collect(),
        failed: failed.filter_map(|f| Some((Duty::from_name(&f.duty)?, shortened(&f.detail)))).collect(),
        cuts,
        call_counts,
        at: Duration::from_nanos(granted.at_ns),
    })
}

/// An order with its id; `None` queries its outcome. Orders are sent in the format of the log.
pub(crate) fn operate(id: OrderId, order: Option<&Order>) -> Result<wire::OperateRequest, serde_json::Error> {
    use wire::operate_request::Order as Wire;
    let order = match order {
        Some(order) => Wire::Other(serde_json::to_vec(order)?.into()),
        None => Wire::Settle(wire::Empty {}),
    };
    Ok(wire::OperateRequest { id: Bytes::copy_from_slice(&id.0.to_be_bytes()), order: Some(order) })
}

pub(crate) fn read_operate(request: &wire::OperateRequest) -> Result<(OrderId, Option<Order>), Status> {
    use wire::operate_request::Order as Wire;
    let id = <[u8; 16]>::try_from(&*request.id).map_err(|_| Status::invalid_argument("an id has 16 bytes"))?;
    let order = match request.order.as_ref().ok_or_else(|| Status::invalid_argument("an order is missing"))? {
        Wire::Other(json) => {
            let order = serde_json::from_slice(json);
            // Possibly an order of a later release.
            Some(order.map_err(|e| Status::invalid_argument(format!("an order unknown to this version: {e}")))?)
        }
        Wire::Settle(_) => None,
    };
    Ok((OrderId(u128::from_be_bytes(id)), order))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    /// A later release may send more with its keep-alives: the known part is understood.
    #[test]
    fn unknown_fields_of_a_later_release_are_ignored() {
        let request = wire::KeepAliveRequest {
            node: "b".to_owned(),
            incarnation: Bytes::copy_from_slice(&Incarnation(7).to_bytes()),
            reported: true,
            speaks_min: 1,
            speaks_max: 2,
            measures: Some(wire::Measures { behind: Some(3), ..Default::default() }),
            released: vec![wire::DutyEpoch { duty: "of-a-later-release".to_owned(), epoch: None }],
            ..Default::default()
        };
        // Field 1000, a length and two bytes; field 1001, a number.
        let more = [0xc2, 0x3e, 2, 0xff, 0xff, 0xc8, 0x3e, 5];
        let bytes = [&request.encode_to_vec()[..], &more].concat();
        let read = wire::KeepAliveRequest::decode(&*bytes).expect("it is read");
        assert_eq!(read, request);
        let (keep_alive, _) = read_keep_alive(&read).expect("it is understood");
        assert_eq!(keep_alive.report.feature_levels, FeatureLevels { min: 1, max: 2 });
        assert_eq!((keep_alive.report.measures.behind, keep_alive.released.len()), (Some(3), 0));
    }
}
