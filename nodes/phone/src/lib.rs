//! A test phone: calls, sends and receives audio, presses keys, subscribes to MWI.
//!
//! Real SIP over UDP or TCP and real RTP, with measurements for tests: answer times, the received audio bit for bit,
//! loss and jitter, and delays of the phone itself. One [`Phone`] carries many [`Call`]s. The phone has its own simple
//! transactions, so that it does not share faults with a node.

mod api;
mod call;
mod client_transaction;
mod core;
mod dialing;
mod phone_media;
mod sdp;
mod subscription;
mod uac_dialog;
mod wire;

use std::{net::SocketAddr, sync::Arc, time::Duration};

pub use api::{
    Answer, CallError, CallOptions, CallStats, Digits, Direction, Ended, Notify, Offer, PhoneConfig, Target,
    Transport,
};
pub use call::Call;
pub use dialing::Dialing;
pub use subscription::Subscription;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
pub use twinbox_rtp::Codec;
use twinbox_sip::Method;

use crate::{core::Core, uac_dialog::UacDialog, wire::Wire};

/// Time without an answer after which the next address of a name is tried; a node sends `100` within milliseconds.
pub const NEXT_ADDRESS: Duration = Duration::from_secs(2);

/// A phone: one SIP socket. Clones share it. The socket closes with the last clone, call and subscription.
#[derive(Clone)]
pub struct Phone {
    handle: Arc<Handle>,
}

struct Handle {
    core: Arc<Core>,
    _stop: DropGuard,
}

impl Phone {
    /// Opens the SIP socket.
    pub async fn bind(config: PhoneConfig) -> std::io::Result<Self> {
        let stop = CancellationToken::new();
        let (sender, received) = mpsc::unbounded_channel();
        let address = SocketAddr::new(config.local, config.port);
        let wire = Wire::open(address, config.transport, sender, stop.clone()).await?;
        let core = Core::new(wire);
        tokio::spawn(stop.clone().run_until_cancelled_owned(core.clone().run(received)));
        Ok(Self { handle: Arc::new(Handle { core, _stop: stop.drop_guard() }) })
    }

    /// The phone's SIP address.
    pub fn address(&self) -> SocketAddr {
        self.handle.core.wire.address()
    }

    /// Calls and waits for the answer. If the target is a name, its addresses are tried in order (RFC 3263): the next
    /// one if an address answers `503`, cannot be reached or does not answer within [`NEXT_ADDRESS`].
    pub async fn call(&self, target: impl Into<Target>, options: CallOptions) -> Result<Call, CallError> {
        let Target { uri, address } = target.into();
        let core = &self.handle.core;
        let mut addresses = match address {
            Some(address) => vec![address],
            None => core.addresses(&uri).await?,
        };
        let last = addresses.pop();
        for address in addresses {
            let target = Target { uri: uri.clone(), address: Some(address) };
            match self.try_one(target, options.clone()).await {
                Ok(Some(call)) => return Ok(call),
                Err(error) if error.status != 503 => return Err(error),
                Ok(None) | Err(_) => core.silent(address),
            }
        }
        self.dial(Target { uri, address: last }, options).await?.answered().await
    }

    /// `None` if the target does not answer within [`NEXT_ADDRESS`].
    async fn try_one(&self, target: Target, options: CallOptions) -> Result<Option<Call>, CallError> {
        let mut dialing = self.dial(target, options).await?;
        if dialing.answered_within(NEXT_ADDRESS).await {
            return dialing.answered().await.map(Some);
        }
        dialing.abandon();
        Ok(None)
    }

    /// Calls the target's first address; [`Dialing::answered`] waits for the answer.
    pub async fn dial(&self, target: impl Into<Target>, options: CallOptions) -> Result<Dialing, CallError> {
        Dialing::start(self.handle.clone(), target.into(), options).await
    }

    /// Sends a request outside of a dialog, such as OPTIONS; returns its final answer, whatever the status.
    pub async fn request(
        &self,
        method: &str,
        target: impl Into<Target>,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, CallError> {
        let (core, target) = (&self.handle.core, target.into());
        let to = match target.address {
            Some(address) => address,
            None => core.address(&target.uri).await?,
        };
        let flow = core
            .wire
            .flow(to)
            .await
            .map_err(|e| CallError::new(503, format!("the target cannot be reached: {e}")))?;
        let contact = core.contact("phone");
        let mut dialog = UacDialog::new(None, &contact, &format!("<{}>", target.uri), &target.uri, contact.clone());
        let mut request = dialog.request(Method::parse(method));
        call::fill(&mut request, headers, body);
        let (response, time) = client_transaction::ask(core, &mut request, flow, None).await?;
        Ok(call::answer(response.message, time))
    }

    /// Subscribes to a mailbox's MWI (RFC 3842).
    pub async fn subscribe(&self, target: impl Into<Target>, expires: Duration) -> Result<Subscription, CallError> {
        Subscription::start(self.handle.clone(), target.into(), expires).await
    }

    /// All NOTIFYs outside of the phone's subscriptions, from now on. Each is answered 200 and reported once, without
    /// retransmissions.
    pub fn unsolicited(&self) -> mpsc::UnboundedReceiver<Notify> {
        self.handle.core.listen()
    }
}
