//! A member probes the nodes that it does not hear, at real sockets: which of them it reports as unanswered.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{net::UdpSocket, sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use twinbox_diagnostics::{ProbeCounts, ProbedCluster, SipProber};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_roles::{LocalFacts, MemberKind, MemberView, RolesView, State, Status};
use twinbox_sip::strict::{MAX_MESSAGE, MessageVerdict, read};
use twinbox_wire::admin::NodeInfoReply;

/// Longest wait for anything; the machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

/// Incarnation of all nodes.
const INCARNATION: Incarnation = Incarnation(7);

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

/// Reaction of a node's SIP address to a probe.
#[derive(Debug, Clone, Copy)]
enum Reaction {
    /// A response with this code, from the node itself.
    Code(u16),
    /// A response from a node of this name.
    As(&'static str),
    /// Bytes that are no SIP.
    Noise,
    /// None.
    Nothing,
}

/// The SIP address of a node.
struct SipAddress {
    address: SocketAddr,
    reaction: Arc<Mutex<Reaction>>,
    /// Number of reactions.
    probes: watch::Receiver<u64>,
}

impl SipAddress {
    async fn open(node: NodeName) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let address = socket.local_addr().expect("bound");
        let reaction = Arc::new(Mutex::new(Reaction::Code(200)));
        let (count, probes) = watch::channel(0);
        let current = reaction.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; MAX_MESSAGE];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.expect("a probe");
                let MessageVerdict::Request(request) = read(&buffer[..length]) else { panic!("no request") };
                let respond = |code: u16, as_node: &str| {
                    let server = format!("twinbox-node/{as_node}");
                    request.respond(code).with_to_tag("t").with("Server", server.as_str()).to_bytes().to_vec()
                };
                let reaction = *current.lock().expect("not poisoned");
                let bytes = match reaction {
                    Reaction::Code(code) => respond(code, node.as_str()),
                    Reaction::As(other) => respond(200, other),
                    Reaction::Noise => b"SIP/2.0 200 of nothing\r\n\r\n".to_vec(),
                    Reaction::Nothing => Vec::new(),
                };
                if !bytes.is_empty() {
                    socket.send_to(&bytes, from).await.expect("sent");
                }
                count.send_modify(|count| *count += 1);
            }
        });
        Self { address, reaction, probes }
    }
}

/// A cluster of node a, which probes, and others.
struct Cluster {
    view: Arc<RolesView>,
    addresses: BTreeMap<NodeName, SocketAddr>,
    /// Whether the others are heard.
    is_heard: AtomicBool,
    /// Others whose process is known to have ended.
    exited: BTreeSet<NodeName>,
    /// Last report of the prober; each one notifies those who wait.
    unanswered: watch::Sender<BTreeSet<NodeName>>,
}

impl Cluster {
    fn of(addresses: BTreeMap<NodeName, SocketAddr>, exited: &[&str]) -> Self {
        let member = |name: &NodeName| MemberView {
            name: name.clone(),
            kind: MemberKind::Node,
            status: Status::InService,
            reason: String::new(),
            incarnation: Some(INCARNATION),
        };
        let members = addresses.keys().chain([&name("a")]).map(member).collect();
        let facts = LocalFacts { quorum: true, ..LocalFacts::default() };
        let view = RolesView::new(&name("a"), &State::default(), &facts);
        let view = RolesView { members, duties: Vec::new(), ..view };
        Self {
            view: Arc::new(view),
            addresses,
            is_heard: AtomicBool::new(true),
            exited: exited.iter().map(|node| name(node)).collect(),
            unanswered: watch::Sender::new(BTreeSet::new()),
        }
    }

    /// Waits until `is_so` holds for a report of the prober.
    async fn until(&self, what: &str, is_so: impl Fn(&BTreeSet<NodeName>) -> bool) {
        let mut reports = self.unanswered.subscribe();
        let waited = timeout(PATIENCE, reports.wait_for(is_so)).await;
        assert!(matches!(waited, Ok(Ok(_))), "not within {PATIENCE:?}: {what}");
    }
}

impl ProbedCluster for Cluster {
    fn view(&self) -> Arc<RolesView> {
        self.view.clone()
    }

    fn is_heard(&self, _: &NodeName) -> bool {
        self.is_heard.load(SeqCst)
    }

    fn has_exited(&self, member: &NodeName) -> bool {
        self.exited.contains(member)
    }

    fn unanswered(&self, nodes: BTreeSet<NodeName>) {
        self.unanswered.send_replace(nodes);
    }

    async fn info(&self, node: &NodeName) -> Option<(String, NodeInfoReply)> {
        let sip = vec![format!("udp {}", self.addresses.get(node)?)];
        let info = NodeInfoReply { incarnation: INCARNATION.to_string(), sip, ..Default::default() };
        Some(("127.0.0.1:7070".to_owned(), info))
    }
}

#[tokio::test]
async fn silent_node_is_unanswered_if_its_sip_address_gives_no_response_and_until_it_is_heard_again() {
    // Reaction while it is not heard, and the result of a round.
    let cases = [
        ("serves", Reaction::Code(200), Some("yes")),
        ("refuses", Reaction::Code(503), Some("yes")),
        ("quiet", Reaction::Nothing, Some("no")),
        ("noisy", Reaction::Noise, Some("no")),
        ("replaced", Reaction::As("serves"), Some("unknown")),
        ("exited", Reaction::Nothing, None),
    ];
    let mut sip = BTreeMap::new();
    for (node, ..) in cases {
        sip.insert(name(node), SipAddress::open(name(node)).await);
    }
    let addresses = sip.iter().map(|(node, sip)| (node.clone(), sip.address)).collect();
    let cluster = Arc::new(Cluster::of(addresses, &["exited"]));
    let (counts, stop) = (Arc::new(ProbeCounts::default()), CancellationToken::new());
    let prober = SipProber { own: name("a"), cluster: cluster.clone(), counts: counts.clone() };
    let running = tokio::spawn(prober.run(stop.clone()));

    for (node, sip) in &mut sip {
        let probed = timeout(PATIENCE, sip.probes.wait_for(|probes| *probes > 0)).await;
        assert!(matches!(probed, Ok(Ok(_))), "{node} is probed while it is heard");
    }
    assert!(counts.counts().is_empty(), "no node is in doubt");
    for (node, reaction, _) in cases {
        *sip[&name(node)].reaction.lock().expect("not poisoned") = reaction;
    }
    cluster.is_heard.store(false, SeqCst);
    let expected: BTreeSet<NodeName> = ["quiet", "noisy"].map(name).into();
    let has_results = || {
        let counts = counts.counts();
        let of = |node: &str, result: &str| {
            counts.iter().any(|(n, what, count)| n.as_str() == node && *what == result && *count > 0)
        };
        cases.iter().filter_map(|(node, _, result)| Some((node, (*result)?))).all(|(node, result)| of(node, result))
    };
    cluster.until("each node has its result", |nodes| *nodes == expected && has_results()).await;
    for (node, what, count) in counts.counts() {
        let expected = cases.iter().find(|(name, ..)| node.as_str() == *name).and_then(|(_, _, result)| *result);
        // A round in which this process stood still has no result.
        assert!(count == 0 || what == "unknown" || Some(what) == expected, "{node}: {what}");
    }

    cluster.is_heard.store(true, SeqCst);
    cluster.until("all are heard again", BTreeSet::is_empty).await;
    stop.cancel();
    running.await.expect("it ends");
}
