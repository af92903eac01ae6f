//! Orders to the role manager and queries: settings, moves, removal, timing.

use std::collections::BTreeSet;

use tonic::{Request, Response, Status};
use tracing::info;
use twinbox_alarms::{Code, Kind};
use twinbox_ids::{NodeName, ParseIdError};
use twinbox_replication_store::Filled;
use twinbox_roles::{
    CallHeir, CommandError, Duty, DutyView, LongestGap, MemberView, Order, OrderId, RoleSettings, RolesView,
    Setting, Status as MemberStatus, Timing,
};
use twinbox_wire::admin::{Heir, NodeInfoReply};
use twinbox_wire::steering::{
    self as wire, Bound, OrderReply, OrderRequest, OutcomeRequest, SettingsReply, SettingsRequest, TimingReply,
    TimingRequest,
    order_request::Order as Wanted,
    steering_server::{Steering, SteeringServer},
};

use crate::AdminHandles;

/// Serves administrators' requests about roles.
pub(crate) struct SteeringService(AdminHandles);

impl SteeringService {
    /// Creates the service for this node.
    pub(crate) fn new(node: AdminHandles) -> Self {
        Self(node)
    }

    /// Converts it into a service of the administrators' socket.
    pub(crate) fn server(self) -> SteeringServer<Self> {
        SteeringServer::new(self)
    }

    fn read(&self, wanted: &Wanted) -> Result<Order, Status> {
        Ok(match wanted {
            Wanted::MakePublisher(wire::MakePublisher { node, force }) => {
                Order::MakePublisher { name: name(node)?, force: *force, on_call: false, facts: Default::default() }
            }
            Wanted::Set(change) => {
                let settings: Result<Vec<_>, _> = change.settings.iter().map(setting).collect();
                let settings = settings?;
                if settings.is_empty() {
                    return Err(Status::invalid_argument("no setting was named"));
                }
                Order::Set(settings)
            }
            Wanted::MoveDuty(wire::MoveDuty { duty: what, to }) => {
                Order::MoveDuty { duty: duty(what)?, to: name(to)? }
            }
            Wanted::Pin(wire::MoveDuty { duty: what, to }) => Order::Pin { duty: duty(what)?, to: name(to)? },
            Wanted::Unpin(what) => Order::Unpin(duty(what)?),
            Wanted::Remove(wire::Remove { node, lost, within_ms }) => {
                let (name, lost, within_ms) = (name(node)?, *lost, *within_ms);
                Order::Remove { name, lost, within_ms, facts: Default::default() }
            }
            Wanted::Failback(wire::Failback {}) => Order::Failback { facts: Default::default() },
        })
    }

    /// Note for the administrator about an executed order.
    fn note(&self, order: &Order) -> String {
        match order {
            Order::Remove { name, lost: true, .. } => self.lost_with(name),
            Order::Set(settings) => settings.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            _ => String::new(),
        }
    }

    /// Risks to report to an administrator who gives up all other members.
    fn stakes(&self, lost: &BTreeSet<NodeName>) -> Vec<String> {
        let names = lost.iter().map(NodeName::as_str).collect::<Vec<_>>().join(" and ");
        let both = format!(
            "should {names} be alive after all and only out of reach, both sides may act: both may send message-waiting indications, \
             and nothing prevents that but switching the others off for good"
        );
        let back = format!(
            "{names} will not be let in again with the disks of now: only with an empty folder and a new token"
        );
        let lost = lost.iter().map(|name| self.lost_with(name));
        [both].into_iter().chain(lost).chain([back]).collect()
    }

    /// Data that may have been lost with a node that hands nothing over (rule D2).
    fn lost_with(&self, name: &NodeName) -> String {
        let Some(peer) = self.0.peers.status().into_iter().find(|peer| peer.name == *name) else {
            return format!("{name} held no data");
        };
        let alone = match peer.last_contact_ms {
            Some(ms) => format!(
                "what {name} took or recorded alone after its last contact with this node, {} s ago, is \
                 lost with its disk",
                ms / 1_000
            ),
            None => format!(
                "{name} has had no contact with this node since this node started: what it took alone is \
                 lost with its disk"
            ),
        };
        let other = match self.0.store.filled() {
            Filled::Complete => "everything that was acknowledged on two is on another node",
            Filled::Partly | Filled::Records => {
                "this node still lacks data itself: what no other node has of it is lost, too"
            }
        };
        format!("{alone}; {other}")
    }
}

#[tonic::async_trait]
impl Steering for SteeringService {
    async fn give(&self, request: Request<OrderRequest>) -> Result<Response<OrderReply>, Status> {
        let OrderRequest { id, order } = request.into_inner();
        let id = match id.is_empty() {
            true => OrderId(rand::random()),
            false => OrderId(u128::from_be_bytes(
                <[u8; 16]>::try_from(&*id).map_err(|_| Status::invalid_argument("an order's id has 16 bytes"))?,
            )),
        };
        let order = self.read(&order.ok_or_else(|| Status::invalid_argument("an order is missing"))?)?;
        let note = self.note(&order);
        info!(%id, ?order, "administrator gives an order");
        let outcome = self.0.roles.order(id, order.clone()).await;
        if let (Ok(()), Order::Set(settings)) = (&outcome, &order) {
            let event = |s: &Setting| self.0.alarms.event(Kind::SettingChanged, &s.name(), s.value());
            settings.iter().for_each(event);
        }
        reply(id, outcome, note)
    }

    async fn go_on_alone(
        &self,
        request: Request<wire::GoOnAloneRequest>,
    ) -> Result<Response<wire::GoOnAloneReply>, Status> {
        let wire::GoOnAloneRequest { lost, look } = request.into_inner();
        let lost = lost.iter().map(|text| name(text)).collect::<Result<BTreeSet<_>, _>>()?;
        let refused = |error: CommandError| Status::failed_precondition(error.to_string());
        self.0.roles.may_go_on_alone(&lost).map_err(refused)?;
        let stakes = self.stakes(&lost);
        if !look {
            info!(?lost, "administrator orders this node to go on alone");
            self.0.roles.go_on_alone(&lost).await.map_err(refused)?;
        }
        Ok(Response::new(wire::GoOnAloneReply { node: self.0.name.to_string(), stakes }))
    }

    async fn outcome(&self, request: Request<OutcomeRequest>) -> Result<Response<OrderReply>, Status> {
        let id = request.into_inner().id;
        let id = (id.len() == 32).then(|| u128::from_str_radix(&id, 16).ok()).flatten().ok_or_else(|| {
            Status::invalid_argument(format!("'{id}' is no id of an order: it has 32 hexadecimal digits"))
        })?;
        reply(OrderId(id), self.0.roles.outcome(OrderId(id)).await, String::new())
    }

    async fn settings(&self, _: Request<SettingsRequest>) -> Result<Response<SettingsReply>, Status> {
        let view = self.0.roles.watch().borrow().clone();
        let defaults = RoleSettings::default().list();
        let default =
            |name: &str| defaults.iter().find(|s| s.name() == name).map(Setting::value).unwrap_or_default();
        let settings = view.settings.list().into_iter().map(|setting| wire::Setting {
            default: default(&setting.name()),
            name: setting.name(),
            value: setting.value(),
            expected: setting.expected().to_owned(),
        });
        let pin = |(duty, node): (&Duty, &NodeName)| wire::Pin { duty: duty.to_string(), node: node.to_string() };
        Ok(Response::new(SettingsReply {
            settings: settings.collect(),
            pins: view.settings.pins.iter().map(pin).collect(),
            reason: view.reason.clone(),
        }))
    }

    async fn timing(&self, _: Request<TimingRequest>) -> Result<Response<TimingReply>, Status> {
        let profile = self.0.config.cluster.timing;
        let timing = profile.agreed(&self.0.roles.agreed());
        let bounds = timing.bounds().into_iter().map(|row| Bound {
            event: row.event.to_owned(),
            formula: row.formula.to_owned(),
            value_ms: millis(row.value),
        });
        Ok(Response::new(TimingReply {
            profile: if profile == Timing::wan() { "wan" } else { "lan" }.to_owned(),
            durations: durations(&timing),
            bounds: bounds.collect(),
            lease_ms: millis(timing.lease),
            longest_gap_ms: self.0.roles.longest_gap().map(millis),
            window_seconds: LongestGap::WINDOW.as_secs(),
        }))
    }

    async fn moves(&self, _: Request<wire::MovesRequest>) -> Result<Response<wire::MovesReply>, Status> {
        let view = self.0.roles.watch().borrow().clone();
        let moves = view.moves.iter().map(|m| wire::Move {
            what: m.object.to_string(),
            from: m.from.as_ref().map(ToString::to_string).unwrap_or_default(),
            to: m.to.to_string(),
            epoch: m.epoch.to_string(),
            cause: m.cause.to_string(),
            at_ms: m.at_ms,
            idle_ms: m.idle_ms,
        });
        Ok(Response::new(wire::MovesReply { moves: moves.collect() }))
    }
}

/// Irregularities other than members' statuses, as text.
pub(crate) fn notes(view: &RolesView) -> Vec<String> {
    let cut = |(from, to): &(NodeName, NodeName)| format!("{from} does not reach {to}");
    let duty = |duty: &DutyView| (!duty.reason.is_empty()).then(|| format!("{}: {}", duty.duty, duty.reason));
    let rival = |name: &NodeName| {
        format!(
            "{name} acts in another group of this cluster: decide which side stays, and stop the other (docs/roles.md)"
        )
    };
    view.rivals
        .iter()
        .map(rival)
        .chain(view.cuts.iter().map(cut))
        .chain(view.duties.iter().filter_map(duty))
        .collect()
}

/// Status of a member and its reason as text: a deactivated node drains while calls go on there.
pub(crate) fn shown(member: &MemberView, info: Option<&NodeInfoReply>) -> (String, String) {
    let (status, reason) = (member.status.to_string(), member.reason.clone());
    let out = matches!(member.status, MemberStatus::Deactivated | MemberStatus::Leaving);
    let Some(info) = info.filter(|info| out && info.calls > 0) else { return (status, reason) };
    let calls = if info.calls == 1 { "1 call is".to_owned() } else { format!("{} calls are", info.calls) };
    let left = match info.drain_left_ms {
        Some(ms) => format!("ended in {} s", ms.div_ceil(1_000)),
        None => "to end without a limit ('--within' sets one)".to_owned(),
    };
    let status = if member.status == MemberStatus::Deactivated { "draining".to_owned() } else { status };
    (status, format!("{reason}; {calls} left, {left}"))
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Heirs of calls, with the node and incarnation of the calls.
pub(crate) fn heirs(view: &RolesView) -> Vec<Heir> {
    let heir = |item: &CallHeir| Heir {
        node: item.node.to_string(),
        incarnation: item.incarnation.to_string(),
        heir: item.heir.to_string(),
        heir_incarnation: item.heir_incarnation.to_string(),
        epoch: item.epoch.as_ref().map(ToString::to_string).unwrap_or_default(),
        calls: item.calls,
        cause: item.cause.to_string(),
        at_ms: item.at_ms,
    };
    view.heirs.iter().map(heir).collect()
}

fn durations(timing: &Timing) -> Vec<wire::Duration> {
    let row = |symbol: &str, what: &str, value: String| wire::Duration {
        symbol: symbol.to_owned(),
        what: what.to_owned(),
        value,
    };
    let ms = |d: std::time::Duration| format!("{} ms", d.as_millis());
    vec![
        row("E", "election timeout of Raft, at most", ms(timing.election_max)),
        row("K", "keep-alive interval", ms(timing.keep_alive)),
        row("", "keep-alives that may be missed in a row", timing.missed.to_string()),
        row("L", "lease: the missed keep-alives, and the answer to the last", ms(timing.lease)),
        row("M", "margin: a gate closes so long before its lease expires", ms(timing.margin)),
        row("G", "grace for a local restart of a failed service", ms(timing.health_grace)),
        row("ρ", "bound of clock drift", format!("{} %", f64::from(timing.drift_ppm) / 10_000.0)),
        row("", "heartbeat of Raft's leader", ms(timing.heartbeat)),
    ]
}

fn reply(id: OrderId, outcome: Result<(), CommandError>, note: String) -> Result<Response<OrderReply>, Status> {
    let unknown = match outcome {
        Ok(()) => false,
        Err(CommandError::Unknown { .. }) => true,
        Err(error) => return Err(Status::failed_precondition(error.to_string())),
    };
    Ok(Response::new(OrderReply { id: id.to_string(), unknown, note }))
}

fn setting(named: &wire::NamedValue) -> Result<Setting, Status> {
    let setting = Setting::parse(&named.name, &named.value);
    let setting = setting.map_err(|error| Status::invalid_argument(error.to_string()))?;
    if let Setting::AlarmRule(Some(rule)) = &setting {
        // The role manager accepts any code; a rule with an unknown code is a mistake.
        let known: Result<Code, _> = rule.code.parse();
        known.map_err(|error| Status::invalid_argument(error.to_string()))?;
    }
    Ok(setting)
}

fn name(text: &str) -> Result<NodeName, Status> {
    text.parse().map_err(|e: ParseIdError| Status::invalid_argument(e.to_string()))
}

fn duty(text: &str) -> Result<Duty, Status> {
    Duty::from_name(text).ok_or_else(|| {
        let names = Duty::ALL.map(Duty::name).join(", ");
        Status::invalid_argument(format!("there is no duty '{text}'; the duties are: {names}"))
    })
}
