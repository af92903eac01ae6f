//! Orders to the role manager and questions about it: settings, moves, removal, timing.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::info;
use twinbox_alarms::Kind;
use twinbox_ids::{NodeName, ParseIdError};
use twinbox_roles::{CommandError, Duty, DutyView, Mode, Order, OrderId, RolesView, Setting, Settings, Timing};
use twinbox_wire::steering::{
    self as wire, Bound, OrderReply, OrderRequest, OutcomeRequest, SettingsReply, SettingsRequest, TimingReply,
    TimingRequest,
    order_request::Order as Wanted,
    steering_server::{Steering, SteeringServer},
};

use crate::node::Node;

/// Answers administrators about roles.
pub(super) struct Service(Arc<Node>);

impl Service {
    /// For this node.
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self(node)
    }

    /// As a service of the administrators' socket.
    pub(super) fn server(self) -> SteeringServer<Self> {
        SteeringServer::new(self)
    }

    fn read(&self, wanted: &Wanted) -> Result<Order, Status> {
        Ok(match wanted {
            Wanted::MakePublisher(wire::MakePublisher { node, force }) => {
                Order::MakePublisher { name: name(node)?, force: *force, facts: Default::default() }
            }
            Wanted::Set(change) => {
                let setting = |s: &wire::NamedValue| Setting::parse(&s.name, &s.value);
                let settings: Result<Vec<_>, _> = change.settings.iter().map(setting).collect();
                let settings = settings.map_err(|error| Status::invalid_argument(error.to_string()))?;
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
            Wanted::Remove(wire::Remove { node, lost }) => {
                Order::Remove { name: name(node)?, lost: *lost, facts: Default::default() }
            }
            Wanted::Failback(wire::Failback {}) => Order::Failback { facts: Default::default() },
        })
    }

    /// What whoever gave the order should know beside that it was done.
    fn note(&self, order: &Order) -> String {
        match order {
            Order::Remove { name, lost: true, .. } => self.lost_with(name),
            Order::Set(settings) => settings.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            _ => String::new(),
        }
    }

    /// What may have been lost with a node that hands nothing over (rule D2).
    fn lost_with(&self, name: &NodeName) -> String {
        let Some(peer) = self.0.peers.status().into_iter().find(|peer| peer.name == *name) else {
            return format!("{name} held no data");
        };
        match peer.last_heard_ms {
            Some(ms) => format!(
                "what {name} took or recorded by itself after it was last heard here, {} s ago, and told no other node, is \
                 lost with its disk; everything that was acknowledged on two is here",
                ms / 1_000
            ),
            None => format!(
                "{name} has not been heard here since this node started: what it took by itself and told no other node is \
                 lost with its disk; everything that was acknowledged on two is on two"
            ),
        }
    }
}

#[tonic::async_trait]
impl Steering for Service {
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
        info!(%id, ?order, "ordered by an administrator");
        let outcome = self.0.roles.order(id, order.clone()).await;
        if let (Ok(()), Order::Set(settings)) = (&outcome, &order) {
            let told = |s: &Setting| self.0.alarms.event(Kind::SettingChanged, &s.name(), s.value());
            settings.iter().for_each(told);
        }
        reply(id, outcome, note)
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
        let defaults = Settings::default().list();
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
            value_ms: u64::try_from(row.value.as_millis()).unwrap_or(u64::MAX),
        });
        Ok(Response::new(TimingReply {
            profile: if profile == Timing::wan() { "wan" } else { "lan" }.to_owned(),
            durations: durations(&timing),
            bounds: bounds.collect(),
        }))
    }

    async fn moves(&self, _: Request<wire::MovesRequest>) -> Result<Response<wire::MovesReply>, Status> {
        let view = self.0.roles.watch().borrow().clone();
        let moves = view.moves.iter().map(|m| wire::Move {
            what: m.what.to_string(),
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

/// What is not as it should be beside members' statuses, in words.
pub(super) fn notes(view: &RolesView) -> Vec<String> {
    let cut = |(from, to): &(NodeName, NodeName)| format!("{from} does not reach {to}");
    let duty = |duty: &DutyView| (!duty.reason.is_empty()).then(|| format!("{}: {}", duty.duty, duty.reason));
    let passive = (view.settings.mode == Mode::ActivePassive)
        .then(|| "active-passive: the publisher answers calls, the others while it cannot".to_owned());
    view.cuts.iter().map(cut).chain(view.duties.iter().filter_map(duty)).chain(passive).collect()
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
        row("M", "margin: a gate closes so long before its lease is out", ms(timing.margin)),
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

fn name(text: &str) -> Result<NodeName, Status> {
    text.parse().map_err(|e: ParseIdError| Status::invalid_argument(e.to_string()))
}

fn duty(text: &str) -> Result<Duty, Status> {
    Duty::from_name(text).ok_or_else(|| {
        let names = Duty::ALL.map(Duty::name).join(", ");
        Status::invalid_argument(format!("there is no duty '{text}'; the duties are: {names}"))
    })
}
