//! Transfer to an operator by REFER (RFC 3515): the PBX transfers the call and reports the result.

use std::time::Duration;

use futures::{FutureExt, future::BoxFuture};
use twinbox_conversation::Input as Heard;
use twinbox_sip::{Method, Request, Response, uri::Uri};

use super::{Call, Reason};
use crate::{
    door::{Arrival, lock},
    outgoing::SendError,
    stats::count,
};

/// Time for the PBX to hang up after a transfer; then this side hangs up.
const LINGER: Duration = Duration::from_secs(5);

/// A pending transfer.
pub(super) enum Transfer {
    /// REFER was sent.
    Asked(BoxFuture<'static, Result<Response, SendError>>),
    /// REFER was accepted; NOTIFYs report the progress.
    Accepted,
    /// The transfer succeeded.
    Done(BoxFuture<'static, ()>),
}

/// An event of a transfer.
pub(super) enum Step {
    Answered(Result<Response, SendError>),
    LingeredOn,
}

/// The next event of a transfer, except NOTIFYs.
pub(super) async fn referred(transfer: &mut Option<Transfer>) -> Step {
    match transfer {
        Some(Transfer::Asked(response)) => Step::Answered(response.await),
        Some(Transfer::Done(wait)) => {
            wait.await;
            Step::LingeredOn
        }
        Some(Transfer::Accepted) | None => std::future::pending().await,
    }
}

impl Transfer {
    pub(super) fn begin(call: &mut Call, to: &str) -> Self {
        let Some(target) = target(call, to) else {
            tracing::warn!("the operator's number is no number and no URI");
            let nowhere = SendError::Unreachable("no target".to_owned());
            return Self::Asked(async move { Err(nowhere) }.boxed());
        };
        let mut refer = lock(&call.dialog).request(Method::Refer);
        let referrer = call.door.contact(&call.flow);
        refer.headers.push("Refer-To", format!("<{target}>"));
        refer.headers.push("Referred-By", referrer);
        Self::Asked(call.send(refer).boxed())
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
    pub(super) fn referred(&mut self, step: Step) {
        match step {
            Step::Answered(Ok(response)) if response.is_success() => self.transfer = Some(Transfer::Accepted),
            Step::Answered(outcome) => {
                let code = outcome.map(|r| r.code).unwrap_or_default();
                tracing::info!(code, "the transfer was refused");
                self.transfer_failed();
            }
            Step::LingeredOn => {
                self.transfer = None;
                self.hang_up(Reason::Done);
            }
        }
    }

    /// Handles NOTIFY within the dialog: progress of the REFER (a status line as body, RFC 3515 section 2.4.4).
    pub(super) fn notified(&mut self, arrival: &Arrival) {
        let request = &arrival.request;
        let event = request.headers.get("Event").and_then(|e| e.split(';').next()).unwrap_or_default().trim();
        if !event.eq_ignore_ascii_case("refer") {
            return self.door.respond(&arrival.id, request.respond(489).with("Allow-Events", "refer"));
        }
        self.door.respond(&arrival.id, request.respond(200));
        if self.transfer.is_none() {
            return;
        }
        match status(request) {
            Some(200..=299) => {
                count(&self.door.stats.transfers);
                tracing::info!("the call was transferred");
                self.transfer = Some(Transfer::Done(tokio::time::sleep(LINGER).boxed()));
            }
            Some(code @ 300..) => {
                tracing::info!(code, "the transfer did not come about");
                self.transfer_failed();
            }
            _ => {}
        }
    }

    fn transfer_failed(&mut self) {
        count(&self.door.stats.transfers_failed);
        self.transfer = None;
        self.hear(Heard::TransferFailed);
    }
}

fn status(notify: &Request) -> Option<u16> {
    let line = notify.body.split(|&b| b == b'\r' || b == b'\n').next()?;
    std::str::from_utf8(line).ok()?.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
}
