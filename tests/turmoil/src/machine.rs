//! One simulated machine: the role manager as in production, on a simulated clock, disk and network, and a loop for
//! each duty that acts whenever its gate permits.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};
use turmoil::net::{TcpListener, TcpStream};
use twinbox_disk::simulation::Platter;
use twinbox_ids::{ClusterId, Incarnation, NodeName};
use twinbox_pki::{
    NodeIdentity,
    simulation::{Connecting, Wire},
};
use twinbox_roles::{
    Duty, HealthReport, MemberAddress, MemberKind, OrderId, Roles, RolesConfig, RolesError, SUPPORTED_LEVELS,
    ServiceHealth, StoreError, Timing, simulation::Pausable,
};
use twinbox_simulation::Effect;
use twinbox_wire::roles::{self as wire, exits_client::ExitsClient};

use crate::{
    board::{Board, Exited},
    clocks,
    pauses::{self, Kind},
};

/// Port of the node-to-node listener of every machine.
pub const PORT: u16 = 7000;
/// Interval between two acts under a duty.
const ACT_EVERY: Duration = Duration::from_millis(4);
/// Maximum time that a write is under way after its check: less than the margin of a lease, by any clock.
const LONGEST_WRITE: Duration = Duration::from_millis(45);
/// A write that takes this much longer than it should was delayed by a pause of its process.
const PAUSED: Duration = Duration::from_millis(2);
/// Timeout of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A machine, with the state that outlives its process.
#[derive(Clone)]
pub struct Machine {
    pub index: usize,
    pub name: NodeName,
    pub kind: MemberKind,
    pub cluster: ClusterId,
    pub members: Vec<MemberAddress>,
    pub timing: Timing,
    pub identity: Arc<NodeIdentity>,
    pub platter: Platter,
    pub board: Board,
    /// `cluster init` left its mark here: the first start consumes it.
    pub found: Arc<AtomicBool>,
}

/// Connects from one simulated machine to another.
pub fn connect(address: &str) -> Connecting {
    let address = address.to_owned();
    Box::pin(async move {
        let stream = PausableStream { stream: TcpStream::connect(address).await?, held: None };
        Ok(Box::new(stream) as Box<dyn Wire>)
    })
}

impl Machine {
    /// The process: ends only with its machine.
    pub async fn run(self) -> turmoil::Result {
        Pausable::new(self.run_process()).await
    }

    async fn run_process(self) -> turmoil::Result {
        let incarnation = Incarnation::random();
        self.board.note_start(&self.name, incarnation);
        let dir = PathBuf::from(format!("/simulated/{}", self.name));
        self.platter.mount(&dir);
        let config = RolesConfig {
            node: self.name.clone(),
            kind: self.kind,
            cluster: self.cluster,
            incarnation,
            members: self.members.clone(),
            learned: Vec::new(),
            removed: Vec::new(),
            dir,
            timing: self.timing,
            tls: self.identity.clone(),
            speaks: SUPPORTED_LEVELS,
            found: self.found.swap(false, Relaxed),
        };
        let roles = match Roles::start(config).await {
            // It has been removed from the cluster: its machine has nothing to run.
            Err(RolesError::Store(StoreError::Removed { reason, .. })) => {
                self.board.note(format!("{} does not start: {reason}", self.name));
                return std::future::pending().await;
            }
            roles => roles?,
        };
        serve(self.identity.clone(), roles.clone()).await?;
        // It has no data that another node would need after its removal.
        roles.has_handed_over(true);
        let services = vec![ServiceHealth { name: "calls".into(), ok: true, detail: String::new() }];
        roles.report(HealthReport { services });
        tokio::spawn(Pausable::new(self.clone().publish_view(roles.clone())));
        for duty in Duty::ALL {
            tokio::spawn(Pausable::new(self.clone().act(duty, roles.clone(), incarnation)));
        }
        loop {
            sleep(ACT_EVERY).await;
            self.take_orders(&roles);
        }
    }

    /// Reports this member's view of the cluster to the board.
    async fn publish_view(self, roles: Roles) {
        let mut view = roles.watch();
        loop {
            let seen = view.borrow_and_update().clone();
            self.board.set_view(&self.name, seen);
            if view.changed().await.is_err() {
                return;
            }
        }
    }

    async fn act(self, duty: Duty, roles: Roles, incarnation: Incarnation) {
        let gate = roles.gate(duty);
        let holding = gate.holding();
        let mut rng = StdRng::seed_from_u64(rand::random());
        loop {
            sleep(ACT_EVERY).await;
            let held = holding.borrow().clone();
            if let Some(epoch) = held
                && let Ok(in_flight) = gate.enter(&epoch)
            {
                // A solo generation has not been agreed on.
                let solo = epoch.generation > roles.agreed().generation;
                // Work between the gate and the write takes some time; the gate is checked again right before the
                // write.
                sleep(Duration::from_millis(1)).await;
                if in_flight.check().is_err() {
                    continue;
                }
                let checked = clocks::global();
                if let Some(pause) = pauses::planned(self.index) {
                    self.board.note(format!("{} has checked its gate and pauses for {pause:?}", self.name));
                    pauses::begin(self.index, pause, Kind::Stopped);
                    yield_now().await;
                }
                let takes = match rng.random_range(0..8) {
                    0 => rng.random_range(Duration::ZERO..LONGEST_WRITE),
                    _ => Duration::ZERO,
                };
                if !takes.is_zero() {
                    sleep(takes).await;
                }
                let paused = clocks::global().saturating_sub(checked) > takes + PAUSED;
                self.board.act(&self.name, &Effect { duty, epoch, incarnation, solo, paused });
            }
        }
    }

    fn take_orders(&self, roles: &Roles) {
        while let Some(order) = self.board.next_order(&self.name) {
            let (roles, board, name) = (roles.clone(), self.board.clone(), self.name.clone());
            tokio::spawn(Pausable::new(async move {
                let outcome = roles.order(OrderId(rand::random()), order.clone()).await;
                board.note(format!("{name} was asked for {order:?}: {outcome:?}"));
            }));
        }
    }
}

/// The supervisors of all machines: they outlive a process and report its end.
#[derive(Clone)]
pub struct Supervisors {
    pub identities: BTreeMap<NodeName, Arc<NodeIdentity>>,
    pub board: Board,
}

impl Supervisors {
    /// Sends each report as soon as it is due.
    pub async fn run(self) -> turmoil::Result {
        loop {
            sleep(Duration::from_millis(2)).await;
            while let Some(exited) = self.board.next_exit() {
                if let Some(identity) = self.identities.get(&exited.of) {
                    tokio::spawn(report_exit(identity.clone(), exited, self.board.clone()));
                }
            }
        }
    }
}

async fn report_exit(identity: Arc<NodeIdentity>, exited: Exited, board: Board) {
    let Exited { of, incarnation, to } = exited;
    let exit = wire::Exit { incarnation: incarnation.to_bytes().to_vec().into(), ..wire::Exit::default() };
    let request = wire::ReportRequest { node: of.as_str().to_owned(), exits: vec![exit], port: 0 };
    let reported = async {
        let endpoint = identity.endpoint(&to, &format!("{to}:{PORT}")).map_err(|error| error.to_string())?;
        let channel = endpoint.connect_timeout(HANDSHAKE).connect().await.map_err(|error| error.to_string())?;
        ExitsClient::new(channel).report(request).await.map_err(|status| status.to_string())
    };
    match timeout(HANDSHAKE, reported).await {
        Ok(Ok(_)) => board.note(format!("{to} gets the report that an incarnation of {of} has exited")),
        _ => board.note(format!("the report on the exit of an incarnation of {of} does not reach {to}")),
    }
}

/// The node-to-node listener.
async fn serve(identity: Arc<NodeIdentity>, roles: Roles) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let server = identity.server().add_service(roles.service()).add_service(roles.exits());
    let (ready, incoming) = mpsc::channel(16);
    tokio::spawn(Pausable::new(async move {
        loop {
            let Ok((stream, from)) = listener.accept().await else { continue };
            let (identity, ready) = (identity.clone(), ready.clone());
            tokio::spawn(async move {
                let local = stream.local_addr().ok();
                let stream = PausableStream { stream, held: None };
                let accepted = timeout(HANDSHAKE, identity.accept(Accepted { stream, local, from })).await;
                if let Ok(Ok(stream)) = accepted {
                    let _ = ready.send(Ok::<_, io::Error>(stream)).await;
                }
            });
        }
    }));
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(incoming)));
    Ok(())
}

/// A connection on which nothing is read or written while the process is paused.
struct PausableStream {
    stream: TcpStream,
    held: Option<Duration>,
}

impl PausableStream {
    fn poll_unless_paused<T>(
        &mut self,
        cx: &mut Context<'_>,
        step: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        match pauses::hold(&mut self.held, cx.waker()) {
            true => Poll::Pending,
            false => step(Pin::new(&mut self.stream), cx),
        }
    }
}

impl AsyncRead for PausableStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_unless_paused(cx, |stream, cx| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for PausableStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_unless_paused(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_unless_paused(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_unless_paused(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}

/// An accepted connection.
struct Accepted {
    stream: PausableStream,
    local: Option<SocketAddr>,
    from: SocketAddr,
}

impl Connected for Accepted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.local, remote_addr: Some(self.from) }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
