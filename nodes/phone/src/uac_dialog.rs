//! Client side of a dialog (RFC 3261 section 12), as needed by a phone.

use bytes::Bytes;
use twinbox_sip::{Headers, Method, Request, Response, addr::NameAddr};

use crate::core::token;

/// The phone's state of a dialog.
pub(crate) struct UacDialog {
    pub(crate) call_id: String,
    /// The phone's From, tag included.
    local: String,
    pub(crate) local_tag: String,
    /// The peer's To, with its tag as soon as known.
    remote: String,
    target: String,
    routes: Vec<String>,
    contact: String,
    pub(crate) cseq: u32,
}

impl UacDialog {
    pub(crate) fn new(call_id: Option<String>, from: &str, to: &str, target: &str, contact: String) -> Self {
        let local_tag = token();
        Self {
            call_id: call_id.unwrap_or_else(token),
            local: format!("{from};tag={local_tag}"),
            local_tag,
            remote: to.to_owned(),
            target: target.to_owned(),
            routes: Vec::new(),
            contact,
            cseq: 0,
        }
    }

    pub(crate) fn contact(&self) -> &str {
        &self.contact
    }

    /// Takes the dialog state from a 2xx (section 12.1.2).
    pub(crate) fn established(&mut self, response: &Response) {
        if let Some(to) = response.headers.get("To") {
            to.clone_into(&mut self.remote);
        }
        self.routes = response.headers.list("Record-Route").map(str::to_owned).collect();
        self.routes.reverse();
        self.moved(&response.headers);
    }

    /// Updates the peer's target from the Contact of a message.
    pub(crate) fn moved(&mut self, headers: &Headers) {
        let contact = headers.list("Contact").next().and_then(NameAddr::parse);
        if let Some(contact) = contact {
            contact.uri.clone_into(&mut self.target);
        }
    }

    /// URI of the next hop: the first route, else the target.
    pub(crate) fn next_hop(&self) -> &str {
        let route = self.routes.first().and_then(|route| NameAddr::parse(route));
        route.map_or(self.target.as_str(), |route| route.uri)
    }

    /// Creates the next request. An ACK has the CSeq number of its INVITE.
    pub(crate) fn request(&mut self, method: Method) -> Request {
        if method != Method::Ack {
            self.cseq += 1;
        }
        let mut headers = Headers::default();
        headers.push("Max-Forwards", "70");
        for route in &self.routes {
            headers.push("Route", route.as_str());
        }
        headers.push("From", self.local.as_str());
        headers.push("To", self.remote.as_str());
        headers.push("Call-ID", self.call_id.as_str());
        headers.push("CSeq", format!("{} {method}", self.cseq));
        if !matches!(method, Method::Ack | Method::Bye) {
            headers.push("Contact", self.contact.as_str());
        }
        headers.push("User-Agent", "twinbox-phone");
        Request { method, uri: self.target.clone(), headers, body: Bytes::new() }
    }
}

/// The ACK for a final answer other than 2xx: part of the INVITE's transaction (section 17.1.1.3).
pub(crate) fn ack_refusal(invite: &Request, response: &Response) -> Request {
    let mut headers = Headers::default();
    for name in ["Via", "Max-Forwards", "Route", "From", "Call-ID"] {
        for value in invite.headers.all(name) {
            headers.push(name, value);
        }
    }
    headers.push("To", response.headers.get("To").unwrap_or_default());
    headers.push("CSeq", format!("{} ACK", invite.headers.cseq()));
    Request { method: Method::Ack, uri: invite.uri.clone(), headers, body: Bytes::new() }
}
