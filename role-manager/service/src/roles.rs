//! What callers hold.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync::watch, task::JoinHandle, time::timeout};
use twinbox_clock::wall;
use twinbox_disk::Disk;
use twinbox_ids::NodeName;
use twinbox_roles_core::{Duty, HealthReport, Known, Order, OrderId, RolesView, State};
use twinbox_wire::roles::roles_server::RolesServer;

use crate::{
    CommandError, Gate, MemberAddress, RolesConfig, RolesError, RolesService,
    dialer::{Dialer, MESSAGE_LIMIT},
    gate::Warden,
    keeper::Keeper,
    leader::Leadership,
    members::Members,
    orders::Orders,
    raft::{Core, Pulse},
    roster::Roster,
    standing::Standing,
};

/// This member's part in the cluster. Clones are one; when the last is dropped everything stops at once, as in
/// a crash: nothing is released, and the others wait for the leases to run out. [`Roles::shutdown`] is the end
/// in good order.
#[derive(Clone)]
pub struct Roles(Arc<Running>);

struct Running {
    service: RolesService,
    orders: Orders,
    gates: BTreeMap<Duty, Gate>,
    health: watch::Sender<Option<HealthReport>>,
    leave: watch::Sender<bool>,
    view: watch::Receiver<Arc<RolesView>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    keeper: Mutex<Option<JoinHandle<()>>>,
    raft: Mutex<Option<JoinHandle<()>>>,
}

impl Roles {
    /// Opens the store, starts Raft, and goes on to join the group or to found it. Returns before that is done:
    /// [`Roles::watch`] shows how far it is.
    pub async fn start(config: RolesConfig) -> Result<Self, RolesError> {
        check(&config)?;
        let config = Arc::new(config);
        let timing = config.timing;
        let disk = Disk::open(&config.dir)?;
        let standing = Arc::new(Standing::open(&config, disk.clone()).await?);
        let roster = Arc::new(Roster::new(&config));
        let dialer = Arc::new(Dialer::new(config.tls.clone(), roster.clone(), &timing));
        let core = Arc::new(Core::open(&config, disk, standing.clone(), dialer.clone())?);
        let leadership = Arc::new(Leadership::new(core.clone(), timing));
        let members = Arc::new(Members {
            config: config.clone(),
            standing: standing.clone(),
            core: core.clone(),
            leadership: leadership.clone(),
            dialer: dialer.clone(),
            roster: roster.clone(),
        });
        let gates: BTreeMap<Duty, Gate> = Duty::ALL.into_iter().map(|duty| (duty, Gate::new(duty))).collect();
        let warden = Warden::start(gates.values().cloned().collect()).map_err(RolesError::Thread)?;
        let health = watch::Sender::new(None);
        let leave = watch::Sender::new(false);
        let known = Known { obstacle: standing.obstacle(), ..Known::default() };
        let shown = watch::Sender::new(Arc::new(RolesView::new(&config.node, &State::default(), &known)));
        let view = shown.subscribe();

        let raft = core.start().await?;
        let keeper = Keeper {
            config: config.clone(),
            standing: standing.clone(),
            core: core.clone(),
            leadership: leadership.clone(),
            dialer: dialer.clone(),
            gates: gates.clone(),
            warden,
            health: health.subscribe(),
            leave: leave.subscribe(),
            view: shown,
        };
        let tasks = vec![
            tokio::spawn({
                let (roster, core) = (roster.clone(), core.clone());
                async move { roster.follow(&core).await }
            }),
            tokio::spawn({
                let members = members.clone();
                async move { members.enter().await }
            }),
            tokio::spawn({
                let members = members.clone();
                async move { members.prove_age().await }
            }),
            tokio::spawn({
                let members = members.clone();
                async move { members.tend().await }
            }),
            tokio::spawn({
                let leadership = leadership.clone();
                async move { leadership.run().await }
            }),
        ];
        let orders = Orders { config: config.clone(), core: core.clone(), leadership: leadership.clone(), dialer };
        Ok(Self(Arc::new(Running {
            service: RolesService { config, standing, core, leadership, members, roster },
            orders,
            gates,
            health,
            leave,
            view,
            tasks: Mutex::new(tasks),
            keeper: Mutex::new(Some(tokio::spawn(keeper.run()))),
            raft: Mutex::new(Some(raft)),
        })))
    }

    /// What the other members call; to be served with mutual TLS on this member's node-to-node listener.
    pub fn service(&self) -> RolesServer<RolesService> {
        RolesServer::new(self.0.service.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// The cluster as this member sees it.
    pub fn watch(&self) -> watch::Receiver<Arc<RolesView>> {
        self.0.view.clone()
    }

    /// Everyone who may be a member, this one included: by configuration, and whoever has joined since.
    pub fn members(&self) -> watch::Receiver<Arc<Vec<MemberAddress>>> {
        self.0.service.roster.watch()
    }

    /// Whether newcomers may come now: a join token is out, or has ended so recently that whoever comes with it should
    /// be told why it will not do.
    pub fn expects_newcomers(&self) -> bool {
        self.0.service.core.applied().borrow().state.expects_newcomers(wall().0)
    }

    /// What this node says of its critical services; until the first report it is `starting`. Report at each
    /// change: the leader hears of it at once.
    pub fn report(&self, report: HealthReport) {
        self.0.health.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&report);
            *known = Some(report);
            changed
        });
    }

    /// Makes a node the publisher; its duties follow within a moment.
    pub async fn make_publisher(&self, node: &NodeName) -> Result<(), CommandError> {
        self.order(OrderId(rand::random()), Order::MakePublisher(node.clone())).await
    }

    /// Lets a node serve again.
    pub async fn activate(&self, node: &NodeName) -> Result<(), CommandError> {
        self.order(OrderId(rand::random()), Order::Activate(node.clone())).await
    }

    /// Takes a node out; its duties move to another.
    pub async fn deactivate(&self, node: &NodeName) -> Result<(), CommandError> {
        self.order(OrderId(rand::random()), Order::Deactivate(node.clone())).await
    }

    /// Carries out an order under an id of the caller's choice: at most once, however often it is asked.
    pub async fn order(&self, id: OrderId, order: Order) -> Result<(), CommandError> {
        self.give(id, Some(&order)).await
    }

    /// What became of an order whose outcome was unknown. One that had not been carried out never will be.
    pub async fn outcome(&self, id: OrderId) -> Result<(), CommandError> {
        self.give(id, None).await
    }

    async fn give(&self, id: OrderId, order: Option<&Order>) -> Result<(), CommandError> {
        if self.0.service.standing.stopped() {
            return Err(CommandError::Stopping);
        }
        let view = self.0.view.borrow().clone();
        self.0.orders.give(id, order, &view).await
    }

    /// The gate of a duty on this node.
    pub fn gate(&self, duty: Duty) -> Gate {
        // Every duty has one from the start; a gate that nobody opens is the answer to any other.
        self.0.gates.get(&duty).cloned().unwrap_or_else(|| Gate::new(duty))
    }

    /// Ends in good order: leadership and duties are handed over, then Raft stops.
    pub async fn shutdown(&self) {
        let running = &self.0;
        let timing = running.service.config.timing;
        running.hand_over_leadership().await;
        running.leave.send_replace(true);
        let keeper = running.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            let _ = keeper.await;
        }
        running.stop();
        let raft = running.raft.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(raft) = raft
            && timeout(timing.lease * 4, raft).await.is_err()
        {
            tracing::warn!("Raft did not stop in time");
        }
    }
}

impl Running {
    async fn hand_over_leadership(&self) {
        let RolesService { standing, core, config, .. } = &self.service;
        let own = standing.raft_id();
        let mut pulse = core.pulse();
        let now = pulse.borrow_and_update().clone();
        let behind = |id: &u64| std::cmp::Reverse(now.matched.get(id).copied().unwrap_or(0));
        let heir = now.voters.iter().copied().filter(|id| *id != own).min_by_key(behind);
        let Some(heir) = heir.filter(|_| now.leading) else { return };
        if core.transfer_to(heir).await.is_ok() {
            let another = pulse.wait_for(|p: &Pulse| p.leader.is_some_and(|leader| leader != own));
            let _ = timeout(config.timing.order_limit(), another).await;
        }
    }

    fn stop(&self) {
        self.service.standing.stop();
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|task| task.abort());
        self.gates.values().for_each(Gate::close);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        keeper.inspect(JoinHandle::abort);
    }
}

fn check(config: &RolesConfig) -> Result<(), RolesError> {
    if config.member(&config.node).is_none() {
        return Err(RolesError::NotAMember { node: config.node.clone() });
    }
    if config.tls.name != config.node || config.tls.cluster != config.cluster {
        return Err(RolesError::Certificate {
            name: config.tls.name.clone(),
            cluster: config.tls.cluster,
            node: config.node.clone(),
            expected: config.cluster,
        });
    }
    Ok(())
}
