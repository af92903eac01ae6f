//! Admission of new requests: decided from the request alone, before it costs resources. A refusal keeps no state
//! here.

use std::sync::atomic::AtomicU64;

use twinbox_clock::BootInstant;
use twinbox_overload::admission::{CallPermit, Full, Passive};
use twinbox_sip::{
    Method, Request, Response,
    redirect::{Purpose, purpose},
    uri::Uri,
};

use crate::{sip_server::SipServer, stats::count};

/// Supported methods.
pub(crate) const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, UPDATE, SUBSCRIBE, NOTIFY";
/// Supported extensions.
const SUPPORTED: &[&str] = &["timer"];

/// `Retry-After` of a node that lacks records, in seconds.
pub(crate) const FILLING: u32 = 5;
/// `Retry-After` of a node under overload, in seconds.
const OVERLOADED: u32 = 2;
/// `Retry-After` of a node with a fault that needs a restart, in seconds.
const BROKEN: u32 = 30;

type Refusal = Box<Response>;

fn refuse<T>(counter: &AtomicU64, response: Response) -> Result<T, Refusal> {
    count(counter);
    Err(Box::new(response))
}

impl SipServer {
    /// Admits a request (with a permit, if it is a new call), or returns the answer.
    pub(crate) fn admit(&self, request: &Request, at: BootInstant) -> Result<Option<CallPermit>, Refusal> {
        let stats = &self.calls.stats;
        let known = match &request.method {
            Method::Other(_) => Some(501),
            Method::Refer | Method::Message | Method::Register | Method::Publish | Method::Prack => Some(405),
            _ => None,
        };
        if let Some(code) = known {
            return refuse(&stats.refused_method, request.respond(code).with("Allow", ALLOW));
        }
        if !Uri::parse(&request.uri).is_some_and(|u| u.is_sip() || u.scheme.eq_ignore_ascii_case("tel")) {
            return refuse(&stats.refused_offer, request.respond(416));
        }
        let unknown: Vec<&str> = request
            .headers
            .list("Require")
            .filter(|t| !SUPPORTED.iter().any(|s| s.eq_ignore_ascii_case(t)))
            .collect();
        if !unknown.is_empty() {
            return refuse(&stats.refused_extension, request.respond(420).with("Unsupported", unknown.join(", ")));
        }
        if request.headers.get("Content-Encoding").is_some_and(|e| !e.eq_ignore_ascii_case("identity")) {
            return refuse(&stats.refused_offer, request.respond(415).with("Accept-Encoding", "identity"));
        }
        if request.headers.tag("To").is_some() {
            return match self.has_dialog(request) {
                true => Ok(None),
                false => Err(self.no_dialog(request)),
            };
        }
        match request.method {
            Method::Invite => self.admit_call(request, at).map(Some),
            Method::Subscribe if !self.admission.others.take(at) => refuse(&stats.refused_rate, busy(request, 5)),
            Method::Subscribe if self.calls.lacks_records() => {
                refuse(&stats.refused_filling, busy(request, FILLING))
            }
            Method::Subscribe => Ok(None),
            Method::Options => Err(self.options(request, at)),
            // BYE, INFO, UPDATE and NOTIFY are not allowed outside of a dialog.
            _ => Err(self.no_dialog(request)),
        }
    }

    fn admit_call(&self, request: &Request, at: BootInstant) -> Result<CallPermit, Refusal> {
        let stats = &self.calls.stats;
        if self.calls.dialogs.is_merged(request) {
            return refuse(&stats.refused_merged, request.respond(482));
        }
        if self.admission.draining() {
            return refuse(&stats.refused_draining, busy(request, 10));
        }
        if let Some(Passive { retry_after, on_call }) = self.admission.passive() {
            tracing::warn!(
                taken = on_call,
                "a call has reached this passive node; check the path to the active node"
            );
            self.admission.reached.send_modify(|count| *count += 1);
            if !on_call {
                return refuse(&stats.refused_draining, busy(request, retry_after));
            }
        }
        if !self.calls.deps.mailstore.accepts_calls() {
            return refuse(&stats.refused_store, busy(request, BROKEN));
        }
        let purpose = purpose(request, self.calls.settings.config().rules());
        let deposit = matches!(purpose, Purpose::Leave(_));
        if self.calls.lacks_records() && !(deposit && self.admission.sole()) {
            return refuse(&stats.refused_filling, busy(request, FILLING));
        }
        // A sign-in with parties may turn out to be a message for one of them.
        if !purpose.parties().is_empty() && !self.calls.deps.mailstore.accepts_messages() {
            return refuse(&stats.refused_alone, busy(request, 5));
        }
        if !self.admission.calls.take(at) {
            return refuse(&stats.refused_rate, busy(request, 1));
        }
        match self.admission.enter(at) {
            Ok(permit) => Ok(permit),
            Err(Full::MaxCalls) => refuse(&stats.refused_busy, busy(request, 5)),
            Err(Full::Overload) => refuse(&stats.refused_overload, busy(request, OVERLOADED)),
        }
    }

    /// `481`. Exception: `500` for the call of another node or another incarnation, recognized by the Contact in the
    /// Request-URI, since it may yet be taken over (rule C4). A subscription is not: its telephone makes a new one after `481`,
    /// and keeps the old one after `500` (RFC 6665 section 4.1.2.2).
    fn no_dialog(&self, request: &Request) -> Refusal {
        let is_call = request.method != Method::Subscribe && request.headers.tag("To").is_some();
        if is_call && self.is_foreign(request) {
            count(&self.calls.stats.refused_other_incarnation);
            return Box::new(request.respond(500).with("Retry-After", "2"));
        }
        count(&self.calls.stats.refused_no_dialog);
        Box::new(request.respond(481))
    }

    fn is_foreign(&self, request: &Request) -> bool {
        self.is_of_this_incarnation(request) == Some(false)
    }

    /// Whether the Request-URI names this incarnation of this node; `None` if it names no incarnation.
    fn is_of_this_incarnation(&self, request: &Request) -> Option<bool> {
        let uri = Uri::parse(&request.uri)?;
        let (node, incarnation) = (uri.param(NODE_PARAM)?, uri.param(INCARNATION_PARAM)?);
        Some(node == self.calls.deps.node.as_str() && incarnation == self.calls.deps.incarnation.to_string())
    }

    /// Whether the request is a member's probe of this incarnation, which strangers do not know.
    pub(crate) fn is_member_probe(&self, request: &Request) -> bool {
        request.method == Method::Options && self.is_of_this_incarnation(request) == Some(true)
    }

    /// Adds the name of the answering node if OPTIONS name a node (rule C3): a probe must not mistake another node at
    /// the same address for the silent one.
    pub(crate) fn with_node_name(&self, request: &Request, response: Response) -> Response {
        let names_node = || Uri::parse(&request.uri).is_some_and(|uri| uri.param(NODE_PARAM).is_some());
        match request.method == Method::Options && names_node() {
            true => response.with("Server", format!("{NODE_PARAM}/{}", self.calls.deps.node)),
            false => response,
        }
    }

    /// Answers OPTIONS with the status that an INVITE would get now (RFC 3261 section 11.2).
    fn options(&self, request: &Request, at: BootInstant) -> Refusal {
        let full = self.admission.active() >= self.calls.settings.config().max_calls;
        let retry_after =
            self.admission.passive().filter(|passive| !passive.on_call).map(|passive| passive.retry_after);
        let response = match () {
            () if !self.admission.others.take(at) => busy(request, 5),
            () if self.admission.draining() => busy(request, 10),
            () if self.calls.lacks_records() && !self.admission.sole() => busy(request, FILLING),
            () if retry_after.is_some() => busy(request, retry_after.unwrap_or_default()),
            () if full => busy(request, 5),
            () if self.broken().is_some() || !self.calls.deps.mailstore.accepts_calls() => busy(request, BROKEN),
            () => capabilities(request.respond(200)),
        };
        Box::new(self.with_node_name(request, response))
    }
}

/// URI parameter of the Contact that names the node (rule C4). In the Request-URI of OPTIONS it addresses that node;
/// the answer names the answering node as a product in `Server` (`twinbox-node/a`).
pub const NODE_PARAM: &str = "twinbox-node";
/// URI parameter that names the incarnation.
pub const INCARNATION_PARAM: &str = "twinbox-incarnation";

/// Adds the capabilities, for the answer to OPTIONS.
pub(crate) fn capabilities(response: Response) -> Response {
    response
        .with("Allow", ALLOW)
        .with("Accept", twinbox_sip::sdp::CONTENT_TYPE)
        .with("Supported", SUPPORTED.join(", "))
        .with("Allow-Events", twinbox_sip::mwi::EVENT)
}

pub(crate) fn busy(request: &Request, seconds: u32) -> Response {
    request.respond(503).with("Retry-After", seconds.to_string())
}
