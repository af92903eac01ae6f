//! The conditions of a look, with role managers and replication of real nodes: while one of them is missing nothing is purged,
//! and purging goes on afterwards.

use std::net::SocketAddr;

use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::{Builder, Runtime},
    time::sleep,
};
use twinbox_call_records::schema::CALL_RECORD;
use twinbox_ids::Incarnation;
use twinbox_replication_core::{Edit, Value};
use twinbox_replication_peer::PeerAddress;
use twinbox_roles::{Facts, MemberAddress, Order, OrderId, RolesConfig, SUPPORTED_LEVELS, Status, Timing};
use twinbox_store_kit::{Authority, Node, name};

use super::*;
use crate::follow_members;

/// Longest time for any step; the machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between attempts.
const AGAIN: Duration = Duration::from_millis(10);
/// More looks than a purge takes.
const LOOKS: usize = 6;

async fn until(what: &str, mut true_now: impl FnMut() -> bool) {
    let begun = BootInstant::now();
    while !true_now() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(AGAIN).await;
    }
}

/// The folder, certificates and members of a group, which the first one founds.
struct Group {
    dir: TempDir,
    authority: Authority,
    members: Vec<MemberAddress>,
    /// Bound and never listening: the port stays reserved while its role manager does not run.
    _ports: Vec<TcpSocket>,
}

impl Group {
    fn of(names: &[&str]) -> Self {
        let (mut members, mut ports) = (Vec::new(), Vec::new());
        for node in names {
            let port = TcpSocket::new_v4().expect("a socket");
            port.set_reuseaddr(true).expect("an option");
            port.bind(([127, 0, 0, 1], 0).into()).expect("a port");
            let address = port.local_addr().expect("an address").to_string();
            members.push(MemberAddress { name: name(node), kind: MemberKind::Node, address });
            ports.push(port);
        }
        Self { dir: TempDir::new().expect("a folder"), authority: Authority::new(), members, _ports: ports }
    }

    /// Starts the role manager of a node. The resources of an earlier one are freed shortly after its end.
    async fn start(&self, node: &str) -> Manager {
        let own = self.members.iter().find(|member| member.name == name(node)).expect("a member");
        let (tls, address) =
            (self.authority.identity(node), own.address.parse::<SocketAddr>().expect("an address"));
        let config = RolesConfig {
            node: own.name.clone(),
            kind: own.kind,
            cluster: tls.cluster,
            incarnation: Incarnation::random(),
            members: self.members.clone(),
            learned: Vec::new(),
            removed: Vec::new(),
            dir: self.dir.path().join(format!("roles-{node}")),
            timing: Timing::lan(),
            tls: tls.clone(),
            speaks: SUPPORTED_LEVELS,
            found: own.name == self.members[0].name,
        };
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let started = runtime.spawn(async move {
            let begun = BootInstant::now();
            let roles = loop {
                match Roles::start(config.clone()).await {
                    Ok(roles) => break roles,
                    Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
                }
                sleep(AGAIN).await;
            };
            let listener = loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
                }
                sleep(AGAIN).await;
            };
            let incoming = tls.listen(listener);
            let services = tls.server().add_service(roles.service()).add_service(roles.exits());
            let serving = services.serve_with_incoming(incoming);
            tokio::spawn(async move { serving.await.expect("it serves") });
            roles
        });
        let process = Process(Some(runtime));
        Manager { roles: started.await.expect("the role manager starts"), _process: process }
    }

    /// The data of the nodes a and b, complete, and their addresses. Neither follows the other yet.
    async fn data(&self) -> ([Node; 2], [PeerAddress; 2]) {
        let listen = async || TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = |node: &str, listener: &TcpListener| PeerAddress {
            name: name(node),
            address: listener.local_addr().expect("an address").to_string(),
        };
        let (of_a, of_b) = (listen().await, listen().await);
        let addresses = [address("a", &of_a), address("b", &of_b)];
        let nodes = [("a", of_a), ("b", of_b)].map(|(node, listener)| {
            let dir = self.dir.path().join(node);
            self.authority.node(&dir, node, listener, addresses.to_vec(), |_| {})
        });
        for node in &nodes {
            node.store.set_filled(Filled::Complete).await.expect("stored");
        }
        (nodes, addresses)
    }

    /// The data of node a alone, whose first fill goes on.
    fn alone(&self) -> Node {
        Node::alone(&self.dir.path().join("a"), "a")
    }
}

/// The runtime of a role manager, which ends with it, as with its process.
struct Process(Option<Runtime>);

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A running role manager.
struct Manager {
    _process: Process,
    roles: Roles,
}

impl Manager {
    /// Both nodes are members, and each is needed for a majority.
    fn is_paired(&self) -> bool {
        let are_members = self.roles.agreed().members.len() == 2;
        are_members && self.roles.voters().len() == 2 && !self.roles.voters_change()
    }

    /// Orders the removal of a member; a leader may have to be elected first.
    async fn remove(&self, member: &str) {
        let order = Order::Remove { name: name(member), lost: false, within_ms: None, facts: Facts::default() };
        let begun = BootInstant::now();
        while let Err(error) = self.roles.order(OrderId(rand::random()), order.clone()).await {
            assert!(begun.elapsed() < PATIENCE, "{error}");
            sleep(AGAIN).await;
        }
    }
}

/// The purge of node a, with a grace that ends immediately.
struct Looks {
    purge: Purge,
    progress: Progress,
}

impl Looks {
    fn of(node: &Node, roles: &Roles) -> Self {
        let purge = Purge {
            name: name("a"),
            store: node.store.clone(),
            peers: node.peers.clone(),
            mailstore: node.mailstore.clone(),
            roles: roles.clone(),
            grace: Box::new(|| Duration::ZERO),
        };
        Self { purge, progress: Progress::default() }
    }

    fn is_here(&self) -> bool {
        self.purge.store.get(&row()).expect("a read").is_some()
    }

    /// Looks more often than a purge takes: nothing may go. The record may be noted only if all conditions of a look are met.
    async fn in_vain(&mut self, is_noted: bool, why: &str) {
        for _ in 0..LOOKS {
            self.purge.look(&mut self.progress).await.expect("a look");
        }
        assert_eq!((self.is_here(), self.progress.waiting.is_some()), (true, is_noted), "{why}");
    }

    /// Looks until the record is purged.
    async fn until_purged(&mut self) {
        let begun = BootInstant::now();
        while self.is_here() {
            assert!(begun.elapsed() < PATIENCE, "it is not purged");
            self.purge.look(&mut self.progress).await.expect("a look");
            sleep(AGAIN).await;
        }
    }
}

/// A record that is purged as a whole.
fn row() -> Key {
    Key::new(CALL_RECORD, "row")
}

async fn edit(node: &Node, key: Key, edits: Vec<Edit>) {
    node.store.commit(move |draft: &mut Draft<'_>| draft.edit(key, edits)).await.expect("committed");
}

/// Writes that record and deletes it.
async fn delete_row(node: &Node) {
    edit(node, row(), vec![Edit::Set(1, Value::Bytes(vec![1]))]).await;
    edit(node, row(), vec![Edit::Delete]).await;
}

#[tokio::test]
async fn node_that_lacks_records_purges_nothing() {
    let group = Group::of(&["a"]);
    let manager = group.start("a").await;
    let node = group.alone();
    let mut looks = Looks::of(&node, &manager.roles);
    until("all else is in order", || looks.purge.knows_members() && looks.purge.hears_leader()).await;
    delete_row(&node).await;
    looks.in_vain(false, "its first fill goes on").await;
    node.store.set_filled(Filled::Records).await.expect("stored");
    looks.until_purged().await;
}

#[tokio::test]
async fn nothing_is_purged_while_a_change_is_set_aside() {
    let group = Group::of(&["a"]);
    let manager = group.start("a").await;
    let node = group.alone();
    node.store.set_filled(Filled::Complete).await.expect("stored");
    let mut looks = Looks::of(&node, &manager.roles);
    until("all else is in order", || looks.purge.knows_members() && looks.purge.hears_leader()).await;
    // Each half fits into a record, and both together do not.
    let other = Node::alone(&group.dir.path().join("b"), "b");
    let (large, half) = (Key::new(CALL_RECORD, "large"), |tag| vec![Edit::Set(tag, Value::Bytes(vec![0; 30_000]))]);
    edit(&node, large.clone(), half(1)).await;
    edit(&other, large.clone(), half(2)).await;
    let changes = other.store.changes_after(&node.store.vector(), usize::MAX).expect("changes");
    node.store.apply(changes).await.expect("applied");
    assert_eq!(node.store.health().set_aside, 1);

    delete_row(&node).await;
    looks.in_vain(false, "the change that is set aside may undelete it").await;
    edit(&node, large, vec![Edit::Set(1, Value::Bytes(vec![1]))]).await;
    assert_eq!(node.store.retry_set_aside().await, Ok(0));
    looks.until_purged().await;
}

#[tokio::test]
async fn nothing_is_purged_while_replication_does_not_know_an_agreed_member() {
    let group = Group::of(&["a", "b"]);
    let ([a, b], [_, to_b]) = group.data().await;
    let (first, _second) = (group.start("a").await, group.start("b").await);
    a.peers.remove(&to_b.name);
    a.peers.start();
    let mut looks = Looks::of(&a, &first.roles);
    until("all else is in order", || first.is_paired() && looks.purge.hears_leader()).await;
    delete_row(&a).await;
    looks.in_vain(false, "b may have a change to it").await;
    // As far as replication knows there is no other node.
    assert!(a.peers.is_stable(&a.peers.mark()));
    a.peers.add(to_b);
    b.peers.start();
    looks.until_purged().await;
    assert!(b.store.get(&row()).expect("a read").is_some_and(|record| record.is_deleted()));
}

#[tokio::test]
async fn nothing_is_purged_before_a_node_that_started_again_hears_the_leader() {
    // b founds the group and leads it.
    let group = Group::of(&["b", "a"]);
    let ([a, b], _) = group.data().await;
    a.peers.start();
    b.peers.start();
    let (second, first) = (group.start("b").await, group.start("a").await);
    until("both are needed for a majority", || first.is_paired() && second.is_paired()).await;
    drop((first, second));

    let again = group.start("a").await;
    let mut looks = Looks::of(&a, &again.roles);
    until("all else is in order", || looks.purge.knows_members() && a.peers.clocks_agree(CLOCKS_WITHIN)).await;
    delete_row(&a).await;
    looks.in_vain(false, "a member may have been let in since").await;
    let _second = group.start("b").await;
    looks.until_purged().await;
}

#[tokio::test]
async fn nothing_is_purged_before_the_clock_of_each_other_node_was_heard() {
    let group = Group::of(&["a", "b"]);
    let ([a, b], _) = group.data().await;
    let (first, _second) = (group.start("a").await, group.start("b").await);
    a.peers.start();
    let mut looks = Looks::of(&a, &first.roles);
    until("all else is in order", || first.is_paired() && looks.purge.hears_leader()).await;
    assert!(looks.purge.knows_members() && !a.peers.clocks_agree(CLOCKS_WITHIN));
    delete_row(&a).await;
    looks.in_vain(false, "by a wrong clock every deletion is old").await;
    b.peers.start();
    looks.until_purged().await;
}

/// A member that leaves may have changes that no other one has (rules D2, D3).
#[tokio::test]
async fn deleted_record_stays_as_long_as_a_leaving_member_lacks_the_deletion() {
    let group = Group::of(&["a", "b"]);
    let ([a, b], [to_a, to_b]) = group.data().await;
    let (first, _second) = (group.start("a").await, group.start("b").await);
    a.peers.start();
    b.peers.start();
    let mut looks = Looks::of(&a, &first.roles);
    until("all is in order", || {
        first.is_paired() && looks.purge.hears_leader() && a.peers.clocks_agree(CLOCKS_WITHIN)
    })
    .await;
    first.remove("b").await;
    let is_leaving =
        || first.roles.agreed().members.get(&to_b.name).is_some_and(|member| member.status == Status::Leaving);
    until("b is leaving", is_leaving).await;
    // Replication follows the list of members, as on a running node. Here the data of a node has an address of its own.
    let data_of = |member: &MemberAddress| {
        let address = if member.name == to_a.name { &to_a.address } else { &to_b.address };
        MemberAddress { address: address.clone(), ..member.clone() }
    };
    let members: Vec<MemberAddress> = first.roles.members().borrow().iter().map(data_of).collect();
    follow_members(&a.peers, &members);
    assert_eq!(a.peers.known(), 1);

    b.peers.add(PeerAddress { address: "127.0.0.1:1".to_owned(), ..to_a.clone() });
    until("b is cut off", || a.peers.status().iter().all(|peer| !peer.connected)).await;
    delete_row(&a).await;
    looks.in_vain(true, "it waits for b, which may have a change to it").await;
    b.peers.add(to_a.clone());
    looks.until_purged().await;
    assert!(is_leaving());
    assert!(b.store.get(&row()).expect("a read").is_some_and(|record| record.is_deleted()));
}
