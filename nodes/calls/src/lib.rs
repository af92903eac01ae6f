//! The SIP server: answers calls, runs one conversation per call, serves MWI subscriptions.
//!
//! Every received message passes `sip_server` once: strict parsing, known trunk, retransmission, admission. Only an
//! admitted message uses further resources. A call is one task (`call`) that owns its dialog, media session and
//! conversation. Answering a call waits only for this node's own store. [`Calls::start`] builds the parts: each has the
//! handles that it needs, and none has the SIP server.

mod access;
mod admit;
mod call;
mod config;
mod dialogs;
mod notify;
mod outgoing;
mod registrations;
mod self_test;
mod service;
mod sip_server;
mod stats;
mod subscriptions;
mod timers;
mod transactions;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use admit::{INCARNATION_PARAM, NODE_PARAM};
pub use config::{
    CallsConfig, ListenerConfig, Mistake, Pilots, Registration, RtpConfig, Transport, TrunkConfig, UnknownMailbox,
};
use futures::{FutureExt, future::BoxFuture};
pub use notify::{NotifyError, SubscriptionId};
pub use self_test::SelfTestCall;
pub use service::CallsService;
pub use stats::StatsView;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use twinbox_clock::BootClock;
use twinbox_dns::Resolver;
use twinbox_ids::{Incarnation, MailboxId, NodeName};
use twinbox_mailstore::{Mailstore, MessageCounts};
use twinbox_media::Engine;
use twinbox_overload::{Overload, admission::Admission};
pub use twinbox_overload::{View as LoadView, admission::Passive, limiter::Signal as LoadSignal};
use twinbox_prompts::Prompts;
use twinbox_sip::transaction::Guard;
use twinbox_sip_transport::{Connections, TcpEndpoint, TcpHandles, UdpEndpoint};

use access::CallsSettings;
use call::CallParts;
use dialogs::Dialogs;
use notify::TrunkMwi;
use outgoing::Outgoing;
use registrations::Registrations;
use self_test::SelfTest;
use sip_server::SipServer;
use stats::Stats;
use subscriptions::Subscriptions;
use transactions::Transactions;

/// Maximum time for calls to end at shutdown: their messages are being stored.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of other steps of the shutdown.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Dependencies of the SIP server.
#[derive(Clone)]
pub struct CallsDeps {
    /// Name of this node, for the Contact (rule C4).
    pub node: NodeName,
    /// This incarnation of the process, for the Contact (rule C4).
    pub incarnation: Incarnation,
    /// The mail store.
    pub mailstore: Mailstore,
    /// The prompts.
    pub prompts: Arc<Prompts>,
    /// The media engine. It runs in real time.
    pub media: Engine,
    /// Clock of all SIP: transactions, subscriptions, admission.
    pub clock: BootClock,
}

/// Error while opening the SIP server.
#[derive(Debug, thiserror::Error)]
pub enum CallsError {
    /// A listener's address is in use or not local.
    #[error(
        "cannot listen for SIP on {transport} {bind}: {source}; free the port or change the bind of that [[sip.listener]]"
    )]
    Bind {
        /// `udp` or `tcp`.
        transport: &'static str,
        /// The address.
        bind: SocketAddr,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The configuration is invalid.
    #[error("calls.{key} {what}")]
    Config {
        /// The key.
        key: String,
        /// The error and its remedy.
        what: String,
    },
}

/// Health of the SIP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallsHealth {
    /// Whether the SIP server works.
    pub ok: bool,
    /// Description as text.
    pub detail: String,
}

/// The open SIP server. Cheap to clone.
#[derive(Clone)]
pub struct Calls {
    parts: Arc<ServerParts>,
    addresses: Arc<[(Transport, SocketAddr)]>,
}

/// The parts of the open SIP server.
struct ServerParts {
    server: Arc<SipServer>,
    calls: Arc<CallParts>,
    subscriptions: Arc<Subscriptions>,
    registrations: Arc<Registrations>,
    trunk_mwi: TrunkMwi,
}

impl Calls {
    /// Binds every listener, then serves.
    pub fn start(config: CallsConfig, deps: CallsDeps) -> BoxFuture<'static, Result<Self, CallsError>> {
        Self::open(config, deps).boxed()
    }

    async fn open(config: CallsConfig, deps: CallsDeps) -> Result<Self, CallsError> {
        if let Some(Mistake { key, what }) = config.mistakes().into_iter().next() {
            return Err(CallsError::Config { key, what });
        }
        let resolver = Resolver::new(&config.dns_servers)
            .map_err(|error| CallsError::Config { key: "dns_servers".to_owned(), what: error.to_string() })?;
        let (stats, tasks, stop) = (Arc::new(Stats::default()), TaskTracker::new(), CancellationToken::new());
        let settings = Arc::new(CallsSettings::new(config.clone()));
        let (connections, trunks) = (Arc::<Connections>::default(), settings.clone());
        let tcp_handles = TcpHandles {
            is_trunk: Arc::new(move |address| trunks.access().find(address, Transport::Tcp).is_some()),
            connections: connections.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let (mut udp, mut tcp, mut listening, mut addresses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for ListenerConfig { transport, bind, advertise } in &config.listeners {
            let (bind, advertise) = (*bind, advertise.as_deref());
            let failed = |transport| move |source| CallsError::Bind { transport, bind, source };
            match transport {
                Transport::Udp => {
                    let endpoint = UdpEndpoint::bind(bind, advertise, config.dscp).map_err(failed("udp"))?;
                    addresses.push((Transport::Udp, endpoint.local));
                    udp.push(Arc::new(endpoint));
                }
                Transport::Tcp => {
                    let bound = TcpEndpoint::bind(bind, advertise, config.dscp, tcp_handles.clone()).await;
                    let (endpoint, incoming) = bound.map_err(failed("tcp"))?;
                    addresses.push((Transport::Tcp, endpoint.local));
                    listening.push((endpoint.clone(), incoming));
                    tcp.push(endpoint);
                }
            }
        }
        let dialogs = Arc::new(Dialogs::default());
        let transactions =
            Arc::new(Transactions::new(dialogs.clone(), stats.clone(), stop.clone(), deps.clock.clone()));
        let outgoing = Arc::new(Outgoing {
            node: deps.node.clone(),
            incarnation: deps.incarnation,
            resolver,
            udp: udp.clone(),
            tcp,
            connections,
            transactions: transactions.clone(),
        });
        let overload = Overload::new(config.bye_timeout(), deps.mailstore.commits(), deps.clock.clone());
        let admission =
            Admission::new(config.max_calls, config.max_calls_per_second, overload.clone(), deps.clock.now());
        let admission = Arc::new(admission);
        let subscriptions = Arc::new(Subscriptions::new(
            config.max_subscriptions,
            deps.mailstore.clone(),
            outgoing.clone(),
            stats.clone(),
            tasks.clone(),
            stop.clone(),
            deps.clock.clone(),
        ));
        let registrations = Arc::new(Registrations {
            settings: settings.clone(),
            admission: admission.clone(),
            outgoing: outgoing.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        });
        let trunk_mwi = TrunkMwi { settings: settings.clone(), outgoing: outgoing.clone(), stats: stats.clone() };
        let media_lateness = twinbox_media::recent_lateness(deps.media.clone());
        let calls = Arc::new(CallParts {
            deps,
            settings,
            stats,
            dialogs,
            transactions: transactions.clone(),
            outgoing,
            tasks: tasks.clone(),
            pending_byes: TaskTracker::new(),
            stop: stop.clone(),
        });
        let server = Arc::new(SipServer {
            self_test: SelfTest::new(&addresses),
            admission,
            subscriptions: subscriptions.clone(),
            calls: calls.clone(),
            broken: Mutex::default(),
        });
        for endpoint in udp {
            tasks.spawn(endpoint.serve(server.clone(), stop.clone()));
        }
        for (endpoint, incoming) in listening {
            tasks.spawn(endpoint.serve(incoming, server.clone()));
        }
        tasks.spawn(transactions.tick());
        tasks.spawn(stop.run_until_cancelled_owned(overload.run(media_lateness)).map(drop));
        tasks.spawn(subscriptions.clone().maintain());
        tasks.spawn(registrations.clone().follow());
        for (transport, address) in &addresses {
            tracing::info!(?transport, %address, "listening for SIP");
        }
        let parts = Arc::new(ServerParts { server, calls, subscriptions, registrations, trunk_mwi });
        Ok(Self { parts, addresses: addresses.into() })
    }

    /// Changes the settings that new calls have.
    pub(crate) fn set_config(&self, config: Arc<CallsConfig>) {
        self.parts.calls.settings.change(config);
    }

    /// The bound address of each listener, in the order of the configuration.
    pub fn addresses(&self) -> &[(Transport, SocketAddr)] {
        &self.addresses
    }

    /// Parameters of a self-test call by this process to its first listener. Such a call is answered with a tone. It
    /// does not count towards `max_calls` or in the statistics, and no other caller can make one.
    pub fn self_test(&self) -> Option<SelfTestCall> {
        self.addresses.first().map(|(transport, address)| self.parts.server.self_test.call(*transport, *address))
    }

    /// Number of calls in progress.
    pub fn active(&self) -> usize {
        self.parts.server.admission.active()
    }

    /// Drains: refuses new calls (`503`, also to OPTIONS); calls in progress continue.
    pub fn drain(&self) {
        self.parts.server.admission.set_draining(true);
    }

    /// Drains permanently, because the process ends: [`Self::undrain`] has no effect.
    pub fn leave(&self) {
        self.parts.server.admission.leave();
    }

    /// Whether the node drains permanently.
    pub fn leaving(&self) -> bool {
        self.parts.server.admission.leaving()
    }

    /// Ends the calls in progress like a shutdown: BYE with a Reason; recordings are filed as they are. Returns
    /// immediately; [`Self::active`] is 0 when all calls have ended.
    pub fn end_calls(&self) {
        self.parts.calls.dialogs.notify_all(|| call::Input::DrainTimeout);
    }

    /// Accepts calls again.
    pub fn undrain(&self) {
        self.parts.server.admission.set_draining(false);
    }

    /// Whether the node drains.
    pub fn draining(&self) -> bool {
        self.parts.server.admission.draining()
    }

    /// Leaves new calls to another node, or accepts them again. Calls in progress continue.
    pub fn set_passive(&self, passive: Option<Passive>) {
        self.parts.server.admission.set_passive(passive);
    }

    /// Whether this node leaves new calls to another node.
    pub fn is_passive(&self) -> bool {
        self.parts.server.admission.passive().is_some()
    }

    /// Sets whether no other node serves calls. If so, a node that lacks records still takes messages for the mailboxes
    /// that it has (rule D13). Default: another node serves.
    pub fn set_sole(&self, sole: bool) {
        self.parts.server.admission.set_sole(sole);
    }

    /// Number of new calls that arrived while this node was passive, accepted or not.
    pub fn reached_while_passive(&self) -> tokio::sync::watch::Receiver<u64> {
        self.parts.server.admission.reached.subscribe()
    }

    /// Waits until no call is in progress.
    pub async fn idle(&self) {
        self.parts.server.admission.empty().await;
    }

    /// Ends all calls with BYE, waits up to 5 s for their storage, closes the sockets.
    pub fn shutdown(&self) -> BoxFuture<'_, ()> {
        async move {
            self.leave();
            self.parts.registrations.withdraw().await;
            self.parts.calls.dialogs.notify_all(|| call::Input::Shutdown);
            if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.idle()).await.is_err() {
                tracing::warn!(
                    calls = self.active(),
                    "calls did not end in time and are cut off; their recordings are filed at the next start"
                );
            }
            // Do not wait for a BYE without an answer.
            self.parts.calls.pending_byes.close();
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.parts.calls.pending_byes.wait()).await;
            self.parts.calls.stop.cancel();
            self.parts.calls.tasks.close();
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.parts.calls.tasks.wait()).await;
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.parts.calls.pending_byes.wait()).await;
        }
        .boxed()
    }

    /// Sets the rate, in new calls a second, that this node carried in time before its restart, or another node.
    pub fn expect(&self, calls: f64) {
        self.parts.server.admission.overload.expect(calls);
    }

    /// State of the overload control: admitted new calls per second, and their limiting factor.
    pub fn overload(&self) -> LoadView {
        self.parts.server.admission.overload.view()
    }

    /// Counters and histograms.
    pub fn stats(&self) -> StatsView {
        let (calls, subscriptions) = (&self.parts.calls, self.parts.subscriptions.count());
        calls.stats.view(subscriptions, calls.transactions.count(), self.overload())
    }

    /// Whether the SIP server works.
    pub fn health(&self) -> CallsHealth {
        let state = if self.draining() { "draining" } else { "open" };
        let open = || CallsHealth { ok: true, detail: format!("{state}, {} calls", self.active()) };
        self.parts.server.broken().map_or_else(open, |detail| CallsHealth { ok: false, detail })
    }

    /// Mailboxes with MWI subscriptions whose dialogs this node holds, in ascending order, each once. A later subscriber gets its
    /// first state from the store, which corrects it until [`Self::notify_subscribers`] is called for its mailbox.
    pub fn subscribed_mailboxes(&self) -> Vec<MailboxId> {
        self.parts.subscriptions.mailboxes()
    }

    /// Sends the MWI state of a mailbox to its subscribers whose dialogs this node holds, in the order of their
    /// subscriptions; none waits for the answer of another. A subscriber that has already accepted this state gets no
    /// NOTIFY. `epoch` goes into `X-Twinbox-Epoch`. `guard` is checked before the write of every datagram,
    /// retransmissions included (rule R6).
    ///
    /// Fails if not all subscribers accept within 2 s. A subscriber without an answer for about 30 s in total is
    /// removed.
    pub async fn notify_subscribers(
        &self,
        mailbox: MailboxId,
        counts: MessageCounts,
        epoch: &str,
        guard: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<(), NotifyError> {
        self.parts.subscriptions.notify_all(mailbox, counts, epoch, Guard(Arc::new(guard))).await
    }

    /// Sends an unsolicited NOTIFY with this body (see [`twinbox_sip::mwi::Summary`]) for this mailbox number to a
    /// trunk; epoch and guard as in [`Self::notify_subscribers`].
    pub async fn send_unsolicited_notify(
        &self,
        trunk: &str,
        mailbox_number: &str,
        body: &str,
        epoch: &str,
        guard: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<(), NotifyError> {
        let guard = Guard(Arc::new(guard));
        self.parts.trunk_mwi.notify(trunk, mailbox_number, body, epoch, guard).await
    }
}

/// Locks; a panic of another thread that held the lock is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
