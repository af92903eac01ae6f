//! One simulated machine: the role manager as in production, on a simulated clock, disk and network, and a loop that
//! acts whenever its gate lets it.

use std::{
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

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
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
use twinbox_roles::{Duty, HealthReport, MemberAddress, MemberKind, Roles, RolesConfig, ServiceHealth, Timing};

use crate::board::Board;

/// Of the node-to-node listener of every machine.
pub const PORT: u16 = 7000;
/// Between one act and the next.
const ACT_EVERY: Duration = Duration::from_millis(4);
/// A handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A machine, and what of it outlives the process on it.
#[derive(Clone)]
pub struct Machine {
    pub name: NodeName,
    pub kind: MemberKind,
    pub cluster: ClusterId,
    pub members: Vec<MemberAddress>,
    pub timing: Timing,
    pub identity: Arc<NodeIdentity>,
    pub platter: Platter,
    pub board: Board,
    /// `cluster init` left its mark here: the first start uses it up.
    pub found: Arc<AtomicBool>,
}

/// Connects as one simulated machine to another.
pub fn connect(address: &str) -> Connecting {
    let address = address.to_owned();
    Box::pin(async move {
        let stream = TcpStream::connect(address).await?;
        Ok(Box::new(stream) as Box<dyn Wire>)
    })
}

impl Machine {
    /// The process: ends only with its machine.
    pub async fn run(self) -> turmoil::Result {
        let dir = PathBuf::from(format!("/simulated/{}", self.name));
        self.platter.mount(&dir);
        let config = RolesConfig {
            node: self.name.clone(),
            kind: self.kind,
            cluster: self.cluster,
            incarnation: Incarnation::random(),
            members: self.members.clone(),
            learned: Vec::new(),
            removed: Vec::new(),
            dir,
            timing: self.timing,
            tls: self.identity.clone(),
            found: self.found.swap(false, Relaxed),
        };
        let roles = Roles::start(config).await?;
        serve(self.identity.clone(), roles.clone()).await?;
        let services = vec![ServiceHealth { name: "calls".into(), ok: true, detail: String::new() }];
        roles.report(HealthReport { services });
        tokio::spawn(self.clone().tell(roles.clone()));
        self.act(roles).await
    }

    /// Tells the board how this member sees the cluster.
    async fn tell(self, roles: Roles) {
        let mut view = roles.watch();
        loop {
            let seen = view.borrow_and_update().clone();
            self.board.show(&self.name, seen);
            if view.changed().await.is_err() {
                return;
            }
        }
    }

    async fn act(self, roles: Roles) -> turmoil::Result {
        let gate = roles.gate(Duty::Notifier);
        let holding = gate.holding();
        loop {
            sleep(ACT_EVERY).await;
            while let Some(publisher) = self.board.next_order(&self.name) {
                let (roles, board, name) = (roles.clone(), self.board.clone(), self.name.clone());
                tokio::spawn(async move {
                    let outcome = roles.make_publisher(&publisher).await;
                    board.note(format!("{name} was asked to make {publisher} the publisher: {outcome:?}"));
                });
            }
            let held = holding.borrow().clone();
            if let Some(epoch) = held
                && let Ok(in_flight) = gate.enter(&epoch)
            {
                // Something on the way to the write takes a while; the gate is asked again right before it.
                sleep(Duration::from_millis(1)).await;
                if in_flight.check().is_ok() {
                    self.board.act(&self.name, &epoch);
                }
            }
        }
    }
}

/// The node-to-node listener.
async fn serve(identity: Arc<NodeIdentity>, roles: Roles) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let server = identity.server().add_service(roles.service());
    let (ready, incoming) = mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let Ok((stream, from)) = listener.accept().await else { continue };
            let (identity, ready) = (identity.clone(), ready.clone());
            tokio::spawn(async move {
                let local = stream.local_addr().ok();
                let shaken = timeout(HANDSHAKE, identity.accept(Accepted { stream, local, from })).await;
                if let Ok(Ok(stream)) = shaken {
                    let _ = ready.send(Ok::<_, io::Error>(stream)).await;
                }
            });
        }
    });
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(incoming)));
    Ok(())
}

/// A connection that was accepted.
struct Accepted {
    stream: TcpStream,
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
