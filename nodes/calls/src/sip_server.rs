//! Dispatch of received messages, in this order: strict parsing, known trunk, retransmission, admission. Only an
//! admitted message uses further resources.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use twinbox_clock::BootInstant;
use twinbox_overload::admission::{Admission, CallPermit};
use twinbox_sip::{
    Headers, Method, Request,
    strict::{self, MessageVerdict},
    transaction, via,
};
use twinbox_sip_transport::{Flow, MessageReceiver};

use crate::{
    Transport,
    access::{IncomingRequest, Trunk},
    call::{self, CallParts},
    dialogs::{Delivery, dialog_key},
    lock,
    self_test::SelfTest,
    stats::count,
    subscriptions::Subscriptions,
};

/// Receives, admits and dispatches requests: to the tasks of calls, and to the subscriptions.
pub(crate) struct SipServer {
    pub(crate) self_test: SelfTest,
    pub(crate) admission: Arc<Admission>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    /// Handles of the calls that it starts, which are also its own.
    pub(crate) calls: Arc<CallParts>,
    /// The failure of a socket.
    pub(crate) broken: Mutex<Option<String>>,
}

impl MessageReceiver for SipServer {
    fn handle_message(&self, data: &[u8], flow: Flow) -> bool {
        let at = self.calls.deps.clock.now();
        let (source, transport) = (flow.remote(), flow.transport());
        let verdict = match transport {
            Transport::Udp => strict::read(data),
            Transport::Tcp => strict::read_framed(data),
        };
        match verdict {
            MessageVerdict::Drop(strict::Fault::KeepAlive) => {}
            MessageVerdict::Drop(fault) => self.calls.stats.malformed(fault.name()),
            MessageVerdict::Refuse(mut response, fault) => {
                self.calls.stats.malformed(fault.name());
                if self.calls.settings.access().find(source.ip(), transport).is_some()
                    || self.may_answer_stranger(at)
                {
                    let flow = flow.towards(response.headers.top_via().map(|via| via.reply_to(source)));
                    let tag = format!("{:016x}", rand::random::<u64>());
                    note_source(&mut response.headers, source);
                    let response = response.with_to_tag(&tag);
                    self.calls.transactions.send(&flow, response.to_bytes(), None);
                }
            }
            MessageVerdict::Response(response) => self.calls.transactions.response_received(response),
            MessageVerdict::Request(mut request) => {
                let flow = flow.towards(request.headers.top_via().map(|via| via.reply_to(source)));
                note_source(&mut request.headers, source);
                if self.self_test.owns(&request, source.ip()) {
                    self.request(request, flow, self.self_test.trunk.clone(), at);
                    return true;
                }
                let trunk = self.calls.settings.access().find(source.ip(), transport).cloned();
                if let Some(trunk) = trunk {
                    self.request(request, flow, trunk, at);
                } else if let Some(trunk) = self.trunk_of_dialog(&request) {
                    self.request(request, flow, trunk, at);
                    return true;
                } else if self.calls.transactions.knows(&request) {
                    self.calls.transactions.request_received(request, flow, |_| transaction::Admission::Ignore);
                    return true;
                } else {
                    self.refuse_stranger(&request, &flow, at);
                }
            }
        }
        false
    }

    fn failed(&self, what: String) {
        tracing::error!("{what}");
        *lock(&self.broken) = Some(what);
    }

    fn connection_refused(&self) {
        count(&self.calls.stats.connections_refused);
    }
}

impl SipServer {
    /// The failure of a socket, if one has failed.
    pub(crate) fn broken(&self) -> Option<String> {
        lock(&self.broken).clone()
    }

    /// The trunk of the request's dialog, by Call-ID and both tags. Behind a proxy that leaves the path, the source
    /// address of such a request may not be a trunk's.
    fn trunk_of_dialog(&self, request: &Request) -> Option<Arc<Trunk>> {
        let (key, remote_tag) = (dialog_key(request), request.headers.tag("From"));
        let call = self.calls.dialogs.trunk_of(&key, remote_tag);
        call.or_else(|| self.subscriptions.trunk_of(&key, remote_tag))
    }

    fn refuse_stranger(&self, request: &Request, flow: &Flow, at: BootInstant) {
        let allowed = if self.is_member_probe(request) {
            count(&self.calls.stats.members_asked);
            self.admission.members.take(at)
        } else {
            count(&self.calls.stats.strangers);
            request.method != Method::Ack && self.may_answer_stranger(at)
        };
        if allowed {
            let tag = self.calls.transactions.tag(request);
            let response = self.with_node_name(request, request.respond(403)).with_to_tag(&tag);
            self.calls.transactions.send(flow, response.to_bytes(), None);
        }
    }

    fn may_answer_stranger(&self, at: BootInstant) -> bool {
        let allowed = self.admission.strangers.take(at);
        if !allowed {
            count(&self.calls.stats.strangers_unanswered);
        }
        allowed
    }

    fn request(&self, request: Request, flow: Flow, trunk: Arc<Trunk>, at: BootInstant) {
        let mut permit = None;
        let begun = self.calls.transactions.request_received(request, flow.clone(), |request| {
            if self.self_test.is(&trunk) {
                return match SelfTest::refusal(request, self.has_dialog(request)) {
                    None => transaction::Admission::Accept,
                    Some(code) => transaction::Admission::Refuse(request.respond(code)),
                };
            }
            match self.admit(request, at) {
                Ok(admitted) => {
                    permit = admitted;
                    transaction::Admission::Accept
                }
                Err(response) => transaction::Admission::Refuse(*response),
            }
        });
        if let Some((id, request)) = begun {
            self.dispatch(IncomingRequest { id, request, flow, trunk, at }, permit);
        }
    }

    fn dispatch(&self, incoming: IncomingRequest, permit: Option<CallPermit>) {
        if incoming.request.headers.tag("To").is_some() {
            self.within_dialog(incoming);
        } else if permit.is_some() || self.self_test.is(&incoming.trunk) {
            call::start(&self.calls, incoming, permit);
        } else {
            self.calls.tasks.spawn(self.subscriptions.clone().accept(incoming));
        }
    }

    fn within_dialog(&self, incoming: IncomingRequest) {
        let key = dialog_key(&incoming.request);
        match self.calls.dialogs.deliver(incoming, &key) {
            Delivery::Delivered => {}
            Delivery::NoCall(incoming) => self.subscriptions.handle_in_dialog(incoming, &key),
            Delivery::Full(incoming) => {
                let response = incoming.request.respond(503).with("Retry-After", "1");
                self.calls.transactions.respond(&incoming.id, response);
            }
            Delivery::Ended(incoming) => {
                self.calls.transactions.respond(&incoming.id, call::too_late(&incoming.request));
            }
        }
    }

    pub(crate) fn has_dialog(&self, request: &Request) -> bool {
        let key = dialog_key(request);
        self.calls.dialogs.has(&key) || self.subscriptions.has_dialog(&key)
    }
}

/// Notes the source address of a message in its top Via (RFC 3261 section 18.2.1).
fn note_source(headers: &mut Headers, source: SocketAddr) {
    if let Some(line) = headers.get("Via") {
        let line = via::received(line, source);
        headers.set_first("Via", line);
    }
}
