//! The SIP server: answers calls, runs one conversation per call, serves MWI subscriptions.
//!
//! Every received message passes `sip_server` once: strict parsing, known trunk, retransmission, admission. Only an
//! admitted message uses further resources. A call is one task (`call`) that owns its dialog, media session and
//! conversation. Answering a call waits only for this node's own store.

mod access;
mod admit;
mod call;
mod config;
mod dialogs;
mod notify;
mod outgoing;
mod register;
mod self_test;
mod service;
mod sip_server;
mod stats;
mod subscribe;
mod subscription_table;
mod timers;
mod wire;

use std::{net::SocketAddr, sync::Arc, time::Duration};

pub use admit::{INCARNATION_PARAM, NODE_PARAM};
pub use config::{
    CallsConfig, ListenerConfig, Mistake, Pilots, Registration, RtpConfig, Transport, TrunkConfig, UnknownMailbox,
};
use futures::FutureExt;
pub use notify::{NotifyError, Subscription, SubscriptionId};
pub use self_test::SelfTestCall;
pub use service::CallsService;
pub use stats::StatsView;
use twinbox_dns::Resolver;
use twinbox_ids::{Incarnation, MailboxId, NodeName};
use twinbox_mailstore::{Mailstore, MessageCounts};
use twinbox_media::Engine;
pub use twinbox_overload::{View as LoadView, admission::Passive, limiter::Signal as LoadSignal};
use twinbox_prompts::Prompts;
use twinbox_sip::transaction::Guard;

use sip_server::SipServer;
use wire::{tcp::TcpEndpoint, udp::UdpEndpoint};

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
    /// The media engine.
    pub media: Engine,
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
    server: Arc<SipServer>,
    addresses: Arc<[(Transport, SocketAddr)]>,
}

impl Calls {
    /// Binds every listener, then serves.
    pub async fn start(config: CallsConfig, deps: CallsDeps) -> Result<Self, CallsError> {
        if let Some(Mistake { key, what }) = config.mistakes().into_iter().next() {
            return Err(CallsError::Config { key, what });
        }
        let resolver = Resolver::new(&config.dns_servers)
            .map_err(|error| CallsError::Config { key: "dns_servers".to_owned(), what: error.to_string() })?;
        let (mut udp, mut tcp, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
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
                    let endpoint = TcpEndpoint::bind(bind, advertise, config.dscp).await.map_err(failed("tcp"))?;
                    addresses.push((Transport::Tcp, endpoint.local));
                    tcp.push(Arc::new(endpoint));
                }
            }
        }
        let server = SipServer::new(config, deps, resolver, udp, tcp);
        for endpoint in &server.udp {
            server.tasks.spawn(endpoint.clone().serve(server.clone(), server.stop.clone()));
        }
        for endpoint in &server.tcp {
            server.tasks.spawn(endpoint.clone().serve(server.clone(), server.stop.clone()));
        }
        server.tasks.spawn(server.clone().tick());
        let overload =
            server.admission.overload.clone().run(twinbox_media::recent_lateness(server.deps.media.clone()));
        server.tasks.spawn(server.stop.clone().run_until_cancelled_owned(overload).map(drop));
        server.tasks.spawn(subscribe::maintain(server.clone()));
        server.tasks.spawn(register::follow(server.clone()));
        for (transport, address) in &addresses {
            tracing::info!(?transport, %address, "listening for SIP");
        }
        Ok(Self { server, addresses: addresses.into() })
    }

    /// Changes the settings that new calls have.
    pub(crate) fn set_config(&self, config: Arc<CallsConfig>) {
        self.server.set_config(config);
    }

    /// The bound address of each listener, in the order of the configuration.
    pub fn addresses(&self) -> &[(Transport, SocketAddr)] {
        &self.addresses
    }

    /// Parameters of a self-test call by this process to its first listener. Such a call is answered with a tone. It
    /// does not count towards `max_calls` or in the statistics, and no other caller can make one.
    pub fn self_test(&self) -> Option<SelfTestCall> {
        self.addresses.first().map(|(transport, address)| self.server.self_test.call(*transport, *address))
    }

    /// Number of calls in progress.
    pub fn active(&self) -> usize {
        self.server.admission.active()
    }

    /// Drains: refuses new calls (`503`, also to OPTIONS); calls in progress continue.
    pub fn drain(&self) {
        self.server.admission.set_draining(true);
    }

    /// Drains permanently, because the process ends: [`Self::undrain`] has no effect.
    pub fn leave(&self) {
        self.server.admission.leave();
    }

    /// Whether the node drains permanently.
    pub fn leaving(&self) -> bool {
        self.server.admission.leaving()
    }

    /// Ends the calls in progress like a shutdown: BYE with a Reason; recordings are filed as they are. Returns
    /// immediately; [`Self::active`] is 0 when all calls have ended.
    pub fn end_calls(&self) {
        self.server.dialogs.notify_all(|| call::Input::DrainTimeout);
    }

    /// Accepts calls again.
    pub fn undrain(&self) {
        self.server.admission.set_draining(false);
    }

    /// Whether the node drains.
    pub fn draining(&self) -> bool {
        self.server.admission.draining()
    }

    /// Leaves new calls to another node, or accepts them again. Calls in progress continue.
    pub fn set_passive(&self, passive: Option<Passive>) {
        self.server.admission.set_passive(passive);
    }

    /// Whether this node leaves new calls to another node.
    pub fn is_passive(&self) -> bool {
        self.server.admission.passive().is_some()
    }

    /// Sets whether no other node serves calls. If so, a node that lacks records still takes messages for the mailboxes
    /// that it has (rule D13). Default: another node serves.
    pub fn set_sole(&self, sole: bool) {
        self.server.admission.set_sole(sole);
    }

    /// Number of new calls that arrived while this node was passive, accepted or not.
    pub fn reached_while_passive(&self) -> tokio::sync::watch::Receiver<u64> {
        self.server.admission.reached.subscribe()
    }

    /// Waits until no call is in progress.
    pub async fn idle(&self) {
        self.server.admission.empty().await;
    }

    /// Ends all calls with BYE, waits up to 5 s for their storage, closes the sockets.
    pub async fn shutdown(&self) {
        self.leave();
        register::withdraw(&self.server).await;
        self.server.dialogs.notify_all(|| call::Input::Shutdown);
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.idle()).await.is_err() {
            tracing::warn!(
                calls = self.active(),
                "calls did not end in time and are cut off; their recordings are filed at the next start"
            );
        }
        // Do not wait for a BYE without an answer.
        self.server.pending_byes.close();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.server.pending_byes.wait()).await;
        self.server.stop.cancel();
        self.server.tasks.close();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.server.tasks.wait()).await;
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.server.pending_byes.wait()).await;
    }

    /// Takes so many new calls a second for granted: they went through in time before, here or on another node.
    pub fn expect(&self, calls: f64) {
        self.server.admission.overload.expect(calls);
    }

    /// State of the overload control: admitted new calls per second, and their limiting factor.
    pub fn overload(&self) -> LoadView {
        self.server.admission.overload.view()
    }

    /// Counters and histograms.
    pub fn stats(&self) -> StatsView {
        let load = sip_server::lock(&self.server.layer).load();
        let transactions = load.servers + load.clients;
        self.server.stats.view(self.server.subscriptions.count(), transactions, self.overload())
    }

    /// Whether the SIP server works.
    pub fn health(&self) -> CallsHealth {
        let state = if self.draining() { "draining" } else { "open" };
        let open = || CallsHealth { ok: true, detail: format!("{state}, {} calls", self.active()) };
        self.server.broken().map_or_else(open, |detail| CallsHealth { ok: false, detail })
    }

    /// Sends the MWI state of a mailbox to its subscribers whose dialogs this node holds, concurrently. A subscriber
    /// that has already accepted this state gets no NOTIFY. `epoch` goes into `X-Twinbox-Epoch`. `guard` is checked
    /// before the write of every datagram, retransmissions included (rule R6).
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
        self.server.notify_subscribers(mailbox, counts, epoch, Guard(Arc::new(guard))).await
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
        self.server.notify_unsolicited(trunk, mailbox_number, body, epoch, guard).await
    }
}
