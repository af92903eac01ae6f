//! The SIP door: answers calls, drives one conversation per call, serves subscriptions to message lights.
//!
//! Everything that arrives passes `door` once: read strictly, from a known trunk, no retransmission, admitted; only
//! then does it cost anything. A call is one task (`call`) that owns its dialog, media session and conversation.
//! Answering waits for this node's own store and for nothing else.

mod access;
mod admission;
mod admit;
mod call;
mod config;
mod door;
mod notify;
mod outgoing;
mod register;
mod self_test;
mod stats;
mod subscribe;
mod timers;
mod wire;

use std::{net::SocketAddr, sync::Arc, time::Duration};

pub use access::{Network, NetworkError};
pub use admission::Passive;
pub use admit::{INCARNATION_PARAM, NODE_PARAM};
pub use config::{
    CallsConfig, ListenerConfig, Mistake, Pilots, Registration, RtpConfig, Transport, TrunkConfig, UnknownMailbox,
};
use futures::FutureExt;
pub use notify::{NotifyError, Subscription, SubscriptionId};
pub use self_test::SelfTestCall;
pub use stats::{Histogram, StatsView};
use twinbox_dns::Resolver;
use twinbox_ids::{Incarnation, MailboxId, NodeName};
use twinbox_mailstore::{Lights, Mailstore};
use twinbox_media::Engine;
pub use twinbox_overload::{View as LoadView, limiter::Signal as LoadSignal};
use twinbox_prompts::Prompts;
use twinbox_sip::transaction::Guard;

use access::Access;
use door::Door;
use wire::{tcp::TcpEndpoint, udp::UdpEndpoint};

/// How long calls may take to end when the door is shut: their messages are being stored.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How long anything else may take then.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the door stands on.
#[derive(Clone)]
pub struct CallsDeps {
    /// This node: it goes into our Contact (rule C4).
    pub node: NodeName,
    /// This life of the process: likewise.
    pub incarnation: Incarnation,
    /// The door to messages.
    pub mailstore: Mailstore,
    /// The prompts.
    pub prompts: Arc<Prompts>,
    /// The media engine.
    pub media: Engine,
}

/// Why the door could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum CallsError {
    /// A listener's address is taken or not ours.
    #[error(
        "cannot listen for SIP on {transport} {bind}: {source}; free the port or change the bind of that [[sip.listener]]"
    )]
    Bind {
        /// `udp` or `tcp`.
        transport: &'static str,
        /// The address.
        bind: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The settings are wrong.
    #[error("calls.{key} {what}")]
    Config {
        /// The key.
        key: String,
        /// What is wrong and the remedy.
        what: String,
    },
}

/// How the door does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallsHealth {
    /// It works.
    pub ok: bool,
    /// In words.
    pub detail: String,
}

/// How late the latest of a hundred media packets was handled, since it was last asked.
fn late_media(media: Engine) -> impl FnMut() -> Option<Duration> {
    let mut before = media.stats().lateness;
    move || {
        let now = media.stats().lateness;
        let late = now.since(&before).percentile(0.99);
        before = now;
        late
    }
}

/// The open door. Cheap to clone.
#[derive(Clone)]
pub struct Calls {
    door: Arc<Door>,
    addresses: Arc<[(Transport, SocketAddr)]>,
}

impl Calls {
    /// Binds every listener, then serves.
    pub async fn start(config: CallsConfig, deps: CallsDeps) -> Result<Self, CallsError> {
        if let Some(Mistake { key, what }) = config.mistakes().into_iter().next() {
            return Err(CallsError::Config { key, what });
        }
        let access = Access::new(&config.trunks);
        let resolver = Resolver::new(&config.dns_servers)
            .map_err(|error| CallsError::Config { key: "dns_servers".to_owned(), what: error.to_string() })?;
        let (mut udp, mut tcp, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
        for ListenerConfig { transport, bind, advertise } in &config.listeners {
            let (bind, advertise) = (*bind, advertise.as_deref());
            match transport {
                Transport::Udp => {
                    let endpoint = UdpEndpoint::bind(bind, advertise, config.dscp)
                        .map_err(|source| CallsError::Bind { transport: "udp", bind, source })?;
                    addresses.push((Transport::Udp, endpoint.local));
                    udp.push(Arc::new(endpoint));
                }
                Transport::Tcp => {
                    let endpoint = TcpEndpoint::bind(bind, advertise, config.dscp)
                        .await
                        .map_err(|source| CallsError::Bind { transport: "tcp", bind, source })?;
                    addresses.push((Transport::Tcp, endpoint.local));
                    tcp.push(Arc::new(endpoint));
                }
            }
        }
        let door = Door::new(config, deps, access, resolver, udp, tcp);
        for endpoint in &door.udp {
            door.tasks.spawn(endpoint.clone().serve(door.clone(), door.stop.clone()));
        }
        for endpoint in &door.tcp {
            door.tasks.spawn(endpoint.clone().serve(door.clone(), door.stop.clone()));
        }
        door.tasks.spawn(door.clone().tick());
        let overload = door.admission.overload.clone().run(late_media(door.deps.media.clone()));
        door.tasks.spawn(door.stop.clone().run_until_cancelled_owned(overload).map(drop));
        door.tasks.spawn(subscribe::look_after(door.clone()));
        register::start(&door);
        for (transport, address) in &addresses {
            tracing::info!(?transport, %address, "listening for SIP");
        }
        Ok(Self { door, addresses: addresses.into() })
    }

    /// The bound address of each listener, in the order of the configuration.
    pub fn addresses(&self) -> &[(Transport, SocketAddr)] {
        &self.addresses
    }

    /// How this process calls itself, by way of its first listener: it is answered like any caller, with a tone. Such
    /// a call takes no place of `max_calls` and is not counted, and nobody else can make one.
    pub fn self_test(&self) -> Option<SelfTestCall> {
        self.addresses.first().map(|(transport, address)| self.door.self_test.call(*transport, *address))
    }

    /// Calls now in progress.
    pub fn active(&self) -> usize {
        self.door.admission.active()
    }

    /// Takes no new calls (`503`, and OPTIONS say so); those in progress go on.
    pub fn drain(&self) {
        self.door.admission.set_draining(true);
    }

    /// Drains for good, because the process ends: [`Self::undrain`] does not open the door again.
    pub fn leave(&self) {
        self.door.admission.leave();
    }

    /// Whether it drains for good.
    pub fn leaving(&self) -> bool {
        self.door.admission.leaving()
    }

    /// Ends the calls that are in progress as a shutdown would: BYE with a Reason, and what is being recorded is filed as
    /// it is. Returns at once; [`Self::active`] tells when they have ended.
    pub fn end_calls(&self) {
        for call in self.door.calls() {
            let _ = call.try_send(call::Input::TimeIsUp);
        }
    }

    /// Takes calls again.
    pub fn undrain(&self) {
        self.door.admission.set_draining(false);
    }

    /// Whether it drains.
    pub fn draining(&self) -> bool {
        self.door.admission.draining()
    }

    /// Leaves new calls to another node, or takes them again. Those in progress go on.
    pub fn set_passive(&self, passive: Option<Passive>) {
        self.door.admission.set_passive(passive);
    }

    /// Whether this node leaves new calls to another one.
    pub fn is_passive(&self) -> bool {
        self.door.admission.passive().is_some()
    }

    /// Whether no other node serves: then a node that lacks records still takes messages for the mailboxes that it has
    /// (rule D13). Until this is said, another is taken to serve.
    pub fn set_sole(&self, sole: bool) {
        self.door.admission.set_sole(sole);
    }

    /// How many new calls have come while this node was passive, taken or not.
    pub fn reached_while_passive(&self) -> tokio::sync::watch::Receiver<u64> {
        self.door.admission.reached.subscribe()
    }

    /// Waits until no call is in progress.
    pub async fn idle(&self) {
        self.door.admission.empty().await;
    }

    /// Ends every call with BYE, waits a little for what they still store, closes the sockets.
    pub async fn shutdown(&self) {
        self.leave();
        register::withdraw(&self.door).await;
        for call in self.door.calls() {
            let _ = call.try_send(call::Input::Shutdown);
        }
        if tokio::time::timeout(SHUTDOWN, self.idle()).await.is_err() {
            tracing::warn!(
                calls = self.active(),
                "calls are cut off; what they recorded is filed at the next start"
            );
        }
        // A BYE that nobody answers is not worth waiting for.
        self.door.farewells.close();
        let _ = tokio::time::timeout(FAREWELL, self.door.farewells.wait()).await;
        self.door.stop.cancel();
        self.door.tasks.close();
        let _ = tokio::time::timeout(FAREWELL, self.door.tasks.wait()).await;
        let _ = tokio::time::timeout(FAREWELL, self.door.farewells.wait()).await;
    }

    /// The overload control: how many new calls a second are admitted, and what limits them.
    pub fn overload(&self) -> LoadView {
        self.door.admission.overload.view()
    }

    /// Counters and histograms.
    pub fn stats(&self) -> StatsView {
        let load = door::lock(&self.door.layer).load();
        let transactions = load.servers + load.clients;
        self.door.stats.view(self.active(), self.door.subscriptions.count(), transactions, self.overload())
    }

    /// Whether the door works.
    pub fn health(&self) -> CallsHealth {
        match self.door.broken() {
            Some(detail) => CallsHealth { ok: false, detail },
            None => {
                let state = if self.draining() { "draining" } else { "open" };
                CallsHealth { ok: true, detail: format!("{state}, {} calls", self.active()) }
            }
        }
    }

    /// The subscriptions to the light of this mailbox whose dialogs this node holds.
    pub fn subscriptions(&self, mailbox: MailboxId) -> Vec<Subscription> {
        self.door.subscriptions.of(mailbox)
    }

    /// All subscriptions whose dialogs this node holds.
    pub fn all_subscriptions(&self) -> Vec<Subscription> {
        self.door.subscriptions.all()
    }

    /// Tells those who subscribed to the light of a mailbox, and whose dialogs this node holds, what it shows. All at
    /// once; who has accepted just that is not told again. `epoch` goes into `X-Twinbox-Epoch`. `guard` is asked at
    /// the write of every datagram, retransmissions included (rule R6).
    ///
    /// Fails when not all have accepted it within 2 s; who stays silent for half a minute in all is removed.
    pub async fn tell_subscribers(
        &self,
        mailbox: MailboxId,
        lights: Lights,
        epoch: &str,
        guard: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<(), NotifyError> {
        self.door.tell_subscribers(mailbox, lights, epoch, Guard(Arc::new(guard))).await
    }

    /// Sends an unsolicited NOTIFY for the mailbox with this number to a trunk, with this body (see
    /// [`twinbox_sip::mwi::Summary`]); epoch and guard as in [`Self::tell_subscribers`].
    pub async fn send_unsolicited_notify(
        &self,
        trunk: &str,
        mailbox_number: &str,
        body: &str,
        epoch: &str,
        guard: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<(), NotifyError> {
        let guard = Guard(Arc::new(guard));
        self.door.notify_unsolicited(trunk, mailbox_number, body, epoch, guard).await
    }
}
