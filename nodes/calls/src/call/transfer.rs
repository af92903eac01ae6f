//! Transfer to an operator by REFER (RFC 3515): the PBX transfers the call and reports the result.

use std::time::Duration;

use futures::{FutureExt, future::BoxFuture};
use twinbox_conversation::Input as ConversationInput;
use twinbox_sip::{Method, Request, Response, uri::Uri};

use super::{Call, Reason};
use crate::{access::IncomingRequest, lock, stats::count, transactions::SendError};

/// Time for the PBX to hang up after a transfer; then this side hangs up.
const HANGUP_WAIT: Duration = Duration::from_secs(5);

/// A pending transfer.
pub(super) enum Transfer {
    /// REFER was sent.
    Requested(BoxFuture<'static, Result<Response, SendError>>),
    /// REFER was accepted; NOTIFYs report the progress.
    Accepted,
    /// The transfer succeeded.
    Done(BoxFuture<'static, ()>),
}

/// An event of a transfer.
pub(super) enum TransferEvent {
    Answered(Result<Response, SendError>),
    NotHungUp,
}

/// The next event of a transfer, except NOTIFYs.
pub(super) async fn next_event(transfer: &mut Option<Transfer>) -> TransferEvent {
    match transfer {
        Some(Transfer::Requested(response)) => TransferEvent::Answered(response.await),
        Some(Transfer::Done(wait)) => {
            wait.await;
            TransferEvent::NotHungUp
        }
        Some(Transfer::Accepted) | None => std::future::pending().await,
    }
}

impl Transfer {
    pub(super) fn begin(call: &mut Call, to: &str) -> Self {
        let Some(target) = target(call, to) else {
            tracing::warn!("transfer failed: the operator number is neither a number nor a SIP URI; correct it");
            let nowhere = SendError::Unreachable("no target".to_owned());
            return Self::Requested(async move { Err(nowhere) }.boxed());
        };
        let mut refer = lock(&call.dialog).request(Method::Refer);
        let referrer = call.parts.outgoing.contact(&call.flow);
        refer.headers.push("Refer-To", format!("<{target}>"));
        refer.headers.push("Referred-By", referrer);
        Self::Requested(call.send(refer).boxed())
    }
}

/// The URI of an operator: as configured for the trunk, or at the host that the call came from.
fn target(call: &Call, to: &str) -> Option<String> {
    if to.contains(':') {
        return Uri::parse(to).map(|_| to.to_owned());
    }
    let uri = match &call.trunk.config.transfer {
        Some(template) => template.replace("{number}", to),
        None => {
            let dialog = lock(&call.dialog);
            let remote = Uri::parse(&dialog.remote_target)?;
            let host =
                if remote.host.contains(':') { format!("[{}]", remote.host) } else { remote.host.to_owned() };
            let port = remote.port.map(|p| format!(":{p}")).unwrap_or_default();
            format!("sip:{to}@{host}{port}")
        }
    };
    Uri::parse(&uri)?.number()?;
    Some(uri)
}

impl Call {
    pub(super) fn transfer_event(&mut self, event: TransferEvent) {
        match event {
            TransferEvent::Answered(Ok(response)) if response.is_success() => {
                self.transfer = Some(Transfer::Accepted)
            }
            TransferEvent::Answered(outcome) => {
                let code = outcome.map(|r| r.code).unwrap_or_default();
                tracing::info!(code, "transfer refused");
                self.transfer_failed();
            }
            TransferEvent::NotHungUp => {
                self.transfer = None;
                self.hang_up(Reason::Done);
            }
        }
    }

    /// Handles NOTIFY within the dialog: progress of the REFER (a status line as body, RFC 3515 section 2.4.4).
    pub(super) fn notified(&mut self, incoming: &IncomingRequest) {
        let request = &incoming.request;
        let event = request.headers.get("Event").and_then(|e| e.split(';').next()).unwrap_or_default().trim();
        if !event.eq_ignore_ascii_case("refer") {
            return self.parts.respond(&incoming.id, request.respond(489).with("Allow-Events", "refer"));
        }
        self.parts.respond(&incoming.id, request.respond(200));
        if self.transfer.is_none() {
            return;
        }
        match status(request) {
            Some(200..=299) => {
                count(&self.parts.stats.transfers);
                tracing::info!("call transferred");
                self.transfer = Some(Transfer::Done(tokio::time::sleep(HANGUP_WAIT).boxed()));
            }
            Some(code @ 300..) => {
                tracing::info!(code, "transfer failed");
                self.transfer_failed();
            }
            _ => {}
        }
    }

    fn transfer_failed(&mut self) {
        count(&self.parts.stats.transfers_failed);
        self.transfer = None;
        self.advance(ConversationInput::TransferFailed);
    }
}

fn status(notify: &Request) -> Option<u16> {
    let line = notify.body.split(|&b| b == b'\r' || b == b'\n').next()?;
    std::str::from_utf8(line).ok()?.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
}
