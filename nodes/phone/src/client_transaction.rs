//! Client transactions (RFC 3261 section 17.1): a request with retransmissions until its answer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::mpsc;
use twinbox_clock::BootInstant;
use twinbox_ids::Pii;
use twinbox_sip::{
    Method, Request, Response,
    digest::{self, Credentials},
};

use crate::{
    CallError, Transport,
    core::{Arrived, Core, Registration, TransactionKey, token},
    wire::Flow,
};

const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
/// Timers B and F: timeout of a transaction without an answer.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(32);

pub(crate) struct ClientTransaction {
    registration: Registration<TransactionKey, Response>,
    responses: mpsc::UnboundedReceiver<Arrived<Response>>,
    bytes: Bytes,
    pub(crate) flow: Flow,
    pub(crate) sent: BootInstant,
    /// Time of the next retransmission and the current interval; `None` if no more retransmissions are needed.
    again: Option<(BootInstant, Duration)>,
    deadline: Option<BootInstant>,
}

impl ClientTransaction {
    /// Adds a Via and sends the request.
    pub(crate) async fn start(core: &Arc<Core>, request: &mut Request, flow: Flow) -> Self {
        let (via, branch) = core.via();
        request.headers.push_front("Via", via);
        Self::send(core, branch, request, flow).await
    }

    /// Sends the CANCEL of an INVITE: the same Via, Request-URI, To and number (section 9.1).
    pub(crate) async fn cancel(core: &Arc<Core>, invite: &Request, flow: Flow) -> Self {
        let mut cancel = Request { method: Method::Cancel, body: Bytes::new(), ..invite.clone() };
        for name in ["Content-Type", "Contact", "Supported", "Allow", "Authorization", "Proxy-Authorization"] {
            cancel.headers.remove(name);
        }
        cancel.headers.set("CSeq", format!("{} CANCEL", invite.headers.cseq()));
        let branch = cancel.headers.top_via().and_then(|via| via.branch()).unwrap_or_default().to_owned();
        Self::send(core, branch, &cancel, flow).await
    }

    async fn send(core: &Arc<Core>, branch: String, request: &Request, flow: Flow) -> Self {
        let (registration, responses) = core.expect_responses((branch, request.method.clone()));
        let bytes = request.to_bytes();
        let (now, sent) = (BootInstant::now(), BootInstant::now());
        flow.send(bytes.clone()).await;
        let again = (core.wire.transport() == Transport::Udp).then_some((now + T1, T1));
        Self { registration, responses, bytes, flow, sent, again, deadline: Some(now + TRANSACTION_TIMEOUT) }
    }

    pub(crate) fn branch(&self) -> &str {
        &self.registration.key.0
    }

    /// The next response; retransmits meanwhile. `None` after the timeout.
    pub(crate) async fn next(&mut self) -> Option<Arrived<Response>> {
        loop {
            let until = self.again.map(|(at, _)| at).into_iter().chain(self.deadline).min();
            let response = match until {
                Some(until) => tokio::time::timeout(until.since(BootInstant::now()), self.responses.recv()).await,
                None => Ok(self.responses.recv().await),
            };
            if let Ok(response) = response {
                // An INVITE with a response is not retransmitted and has no timeout while it rings.
                if self.registration.key.1 == Method::Invite {
                    self.again = None;
                    self.deadline = None;
                }
                return response;
            }
            let now = BootInstant::now();
            if self.deadline.is_some_and(|deadline| now >= deadline) {
                return None;
            }
            if let Some((at, interval)) = self.again.filter(|(at, _)| now >= *at) {
                self.flow.send(self.bytes.clone()).await;
                // Timers A and E (sections 17.1.1.2 and 17.1.2.2).
                let double = interval * 2;
                let interval = if self.registration.key.1 == Method::Invite { double } else { double.min(T2) };
                self.again = Some((at + interval, interval));
            }
        }
    }

    /// The final response.
    pub(crate) async fn finish(&mut self) -> Option<Arrived<Response>> {
        loop {
            let response = self.next().await?;
            if !response.message.is_provisional() {
                return Some(response);
            }
        }
    }
}

/// Sends a request other than INVITE, again after a digest challenge; returns the final response. `request` is left as
/// last sent, so that its CSeq number can be read.
pub(crate) async fn ask(
    core: &Arc<Core>,
    request: &mut Request,
    flow: Flow,
    auth: Option<&(String, String)>,
) -> Result<(Arrived<Response>, Duration), CallError> {
    loop {
        let mut transaction = ClientTransaction::start(core, request, flow.clone()).await;
        let sent = transaction.sent;
        let response =
            transaction.finish().await.ok_or_else(|| CallError::new(408, "no answer from the target"))?;
        if !answer_challenge(request, &response.message, auth) {
            let time = response.at.since(sent);
            return Ok((response, time));
        }
    }
}

/// Prepares the request for a retry after a digest challenge; false if there is no retry.
pub(crate) fn answer_challenge(
    request: &mut Request,
    response: &Response,
    auth: Option<&(String, String)>,
) -> bool {
    let Some((username, password)) = auth else { return false };
    let credentials = Credentials { username: username.clone(), password: Pii::new(password.clone()) };
    let cseq = request.headers.cseq() + 1;
    let answered = digest::answer(request, response, &credentials, &token());
    if answered {
        request.headers.remove("Via");
        request.headers.set("CSeq", format!("{cseq} {}", request.method));
    }
    answered
}
