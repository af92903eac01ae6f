//! Session refreshes by this side (RFC 4028): by UPDATE if the caller's Allow contains it, else by an INVITE with the
//! latest description.

use std::time::Duration;

use futures::{FutureExt, future::BoxFuture};
use twinbox_sip::{
    Headers, Method, Response,
    sdp::{self, Sdp},
    session::{Refresher, Timer},
};

use super::{Call, Reason, after};
use crate::{lock, stats::count, transactions::SendError};

/// Retry interval of a refused refresh without a given time.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Retry interval while an INVITE of the caller is not acknowledged (RFC 3261 section 14.1).
const ACK_WAIT: Duration = Duration::from_secs(1);
/// Maximum wait after a `491` of the side that did not create the Call-ID (RFC 3261 section 14.1).
const GLARE_MS: u64 = 2_000;

/// A pending refresh.
pub(super) struct Refresh {
    /// The refresh is an INVITE, with an unanswered offer.
    pub(super) offers: bool,
    pub(super) sending: BoxFuture<'static, Result<Response, SendError>>,
}

/// The outcome of a refresh.
pub(super) async fn refreshed(refresh: &mut Option<Refresh>) -> Result<Response, SendError> {
    match refresh {
        Some(refresh) => (&mut refresh.sending).await,
        None => std::future::pending().await,
    }
}

impl Call {
    /// Applies the agreed session timer.
    pub(super) fn set_session(&mut self, timer: Option<Timer>) {
        let seconds = |n: u32| after(Duration::from_secs(u64::from(n)));
        let ours = timer.filter(|t| t.refresher == Refresher::Us);
        self.session = timer;
        self.refresh_due = ours.and_then(|t| seconds(t.interval / 2));
        self.session_due = timer.and_then(|t| seconds(t.last()));
    }

    /// Updates from an Allow header whether the caller supports UPDATE.
    pub(super) fn note_allow(&mut self, headers: &Headers) {
        if headers.get("Allow").is_some() {
            self.allows_update = headers.has_token("Allow", "UPDATE");
        }
    }

    /// The session was not refreshed: ends it shortly before its expiry.
    pub(super) fn session_expired(&mut self) {
        count(&self.parts.stats.callers_vanished);
        tracing::info!("session was not refreshed in time; the call ends");
        self.hang_up(Reason::NotRefreshed);
    }

    /// Refreshes the session.
    pub(super) fn refresh_session(&mut self) {
        let Some(timer) = self.session.filter(|_| self.refresh.is_none()) else { return };
        if !self.allows_update && (self.answer_due || !self.confirmed) {
            self.refresh_due = after(ACK_WAIT);
        } else {
            self.refresh(timer);
        }
    }

    fn refresh(&mut self, timer: Timer) {
        let offers = !self.allows_update;
        let mut request = lock(&self.dialog).request(if offers { Method::Invite } else { Method::Update });
        let headers = &mut request.headers;
        headers.push("Session-Expires", format!("{};refresher=uac", timer.interval));
        if let Some(min) = self.session_min {
            headers.push("Min-SE", min.to_string());
        }
        headers.push("Supported", "timer");
        headers.push("Allow", crate::admit::ALLOW);
        if offers {
            headers.push("Content-Type", sdp::CONTENT_TYPE);
            request.body = self.described.clone().into();
        }
        self.refresh = Some(Refresh { offers, sending: self.send(request).boxed() });
    }

    pub(super) fn refresh_answered(&mut self, outcome: Result<Response, SendError>) {
        let Some(refresh) = self.refresh.take() else { return };
        let Some(timer) = self.session else { return };
        let response = match outcome {
            Ok(response) => response,
            Err(SendError::TimedOut) => return self.hang_up(Reason::NotRefreshed),
            Err(error) => {
                tracing::info!(%error, "session refresh cannot be sent; it is retried");
                self.refresh_due = after(RETRY_INTERVAL);
                return;
            }
        };
        self.note_allow(&response.headers);
        match response.code {
            200..=299 => {
                if refresh.offers {
                    self.refresh_described(&response);
                }
                self.set_session(Some(timer.confirmed(&response)));
            }
            // Rule C5: no BYE to a peer that does not know the dialog.
            481 | 408 => {
                self.over = true;
                self.hang_up(Reason::NotRefreshed);
            }
            405 | 501 if !refresh.offers => {
                self.allows_update = false;
                self.refresh_due = after(Duration::ZERO);
            }
            422 => match timer.lengthened(&response) {
                Some(longer) => {
                    self.session = Some(longer);
                    let repeated = self.session_min.replace(longer.interval).is_some();
                    self.refresh_due = after(if repeated { RETRY_INTERVAL } else { Duration::ZERO });
                }
                None => self.refresh_due = after(RETRY_INTERVAL),
            },
            491 => self.refresh_due = after(Duration::from_millis(rand::random_range(0..=GLARE_MS / 10) * 10)),
            code => {
                tracing::info!(code, "session refresh refused; it is retried");
                let wanted = response.headers.get("Retry-After").and_then(|s| s.trim().parse::<u32>().ok());
                self.refresh_due =
                    after(wanted.map_or(RETRY_INTERVAL, |s| Duration::from_secs(u64::from(s).max(1))));
            }
        }
    }

    /// Handles the answer to the offer in a refresh: usually unchanged.
    fn refresh_described(&mut self, response: &Response) {
        let content_type = response.headers.get("Content-Type").unwrap_or_default();
        let answer = sdp::in_body(content_type, &response.body)
            .and_then(|body| Sdp::parse(body).ok()?.answers(&self.described).ok());
        match answer {
            Some(stream) if self.stream != Some(stream) => self.set_stream(stream),
            Some(_) => {}
            None => {
                tracing::info!("answer to the session refresh has no usable session description; media unchanged")
            }
        }
    }
}
