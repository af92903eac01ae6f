//! MWI subscriptions (RFC 3842, RFC 6665).

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use twinbox_sip::{Method, Request, mwi};

use crate::{
    Answer, CallError, Handle, Notify, Target,
    call::answer,
    client_transaction,
    core::{Arrived, Core, DialogKey, Registration, notify},
    uac_dialog::UacDialog,
};

/// An MWI subscription for a mailbox. Its NOTIFYs are answered 200 immediately. After it is dropped, further ones are
/// answered 481.
pub struct Subscription {
    handle: Arc<Handle>,
    dialog: UacDialog,
    notifies: mpsc::UnboundedReceiver<Arrived<Request>>,
    _stop: DropGuard,
}

impl Subscription {
    pub(crate) async fn start(handle: Arc<Handle>, target: Target, expires: Duration) -> Result<Self, CallError> {
        let core = &handle.core;
        let from = core.contact("phone");
        let dialog = UacDialog::new(None, &from, &format!("<{}>", target.uri), &target.uri, from.clone());
        let (registration, requests) = core.expect_requests((dialog.call_id.clone(), dialog.local_tag.clone()));
        let (sender, notifies) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let serve = serve(core.clone(), registration, requests, sender);
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve));
        let mut subscription = Self { handle, dialog, notifies, _stop: stop.drop_guard() };
        subscription.subscribe(target.address, expires).await?;
        Ok(subscription)
    }

    /// The next NOTIFY.
    pub async fn next(&mut self) -> Option<Notify> {
        let request = self.notifies.recv().await?;
        self.dialog.moved(&request.message.headers);
        Some(notify(&request))
    }

    /// Refreshes the subscription in its dialog.
    pub async fn refresh(&mut self, expires: Duration) -> Result<Answer, CallError> {
        self.subscribe(None, expires).await
    }

    /// Ends the subscription; [`Self::next`] still returns the last NOTIFY.
    pub async fn end(&mut self) -> Result<Answer, CallError> {
        self.subscribe(None, Duration::ZERO).await
    }

    async fn subscribe(
        &mut self,
        address: Option<std::net::SocketAddr>,
        expires: Duration,
    ) -> Result<Answer, CallError> {
        let core = &self.handle.core;
        let to = match address {
            Some(address) => address,
            None => core.address(self.dialog.next_hop()).await?,
        };
        let flow = core
            .wire
            .flow(to)
            .await
            .map_err(|e| CallError::new(503, format!("the target cannot be reached: {e}")))?;
        let mut request = self.dialog.request(Method::Subscribe);
        request.headers.push("Event", mwi::EVENT);
        request.headers.push("Accept", mwi::CONTENT_TYPE);
        request.headers.push("Expires", expires.as_secs().to_string());
        let (response, time) = client_transaction::ask(core, &mut request, flow, None).await?;
        if !response.message.is_success() {
            return Err(CallError::from(&response.message));
        }
        self.dialog.established(&response.message);
        Ok(answer(response.message, time))
    }
}

async fn serve(
    core: Arc<Core>,
    _registration: Registration<DialogKey, Request>,
    mut requests: mpsc::UnboundedReceiver<Arrived<Request>>,
    notifies: mpsc::UnboundedSender<Arrived<Request>>,
) {
    while let Some(request) = requests.recv().await {
        if request.message.method == Method::Notify {
            core.reply(&request, request.message.respond(200)).await;
            // The subscription may have been dropped.
            let _ = notifies.send(request);
        } else {
            core.reply(&request, request.message.respond(405).with("Allow", "NOTIFY")).await;
        }
    }
}
