//! A dialog (RFC 3261 section 12) as a value: it can be stored and continue on another node.

use serde::{Deserialize, Serialize};

use crate::{
    Headers, Method, Request,
    addr::{self, NameAddr},
    uri::Uri,
};

/// The UAS side of a dialog created by a peer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialog {
    /// Chosen by the peer. Alone, it identifies nothing on this node (rule C1).
    pub call_id: String,
    /// The local tag.
    pub local_tag: String,
    /// The peer's tag.
    pub remote_tag: String,
    /// The local address as in the peer's To, with the local tag.
    local: String,
    /// The peer's From, with its tag.
    remote: String,
    /// Destination of in-dialog requests: the peer's Contact URI.
    pub remote_target: String,
    /// Proxies in the path of in-dialog requests, in local order, unchanged.
    route_set: Vec<String>,
    /// CSeq number of the last sent request.
    local_seq: u32,
    /// CSeq number of the peer's last request.
    remote_seq: u32,
}

impl Dialog {
    /// The dialog created by this request when it is answered with `local_tag` (section 12.1.1). `None` without a
    /// usable Contact.
    pub fn accept(request: &Request, local_tag: &str) -> Option<Self> {
        let headers = &request.headers;
        Some(Self {
            call_id: headers.call_id().to_owned(),
            local_tag: local_tag.to_owned(),
            remote_tag: headers.tag("From")?.to_owned(),
            local: format!("{};tag={local_tag}", headers.get("To")?),
            remote: headers.get("From")?.to_owned(),
            remote_target: contact(headers)?,
            route_set: headers.list("Record-Route").map(str::to_owned).collect(),
            local_seq: 0,
            remote_seq: headers.cseq(),
        })
    }

    /// Registers a request within the dialog. Returns `false` if it is not newer than the last one (answer `500`,
    /// section 12.2.2).
    pub fn received(&mut self, request: &Request) -> bool {
        if request.headers.cseq() <= self.remote_seq && request.method != Method::Ack {
            return false;
        }
        self.remote_seq = self.remote_seq.max(request.headers.cseq());
        true
    }

    /// Takes over the Contact of a target refresh (INVITE, UPDATE, SUBSCRIBE, NOTIFY), or of its `2xx`, for later
    /// requests. A sender that is not `trusted` may change port and parameters, not the host.
    pub fn retarget(&mut self, method: &Method, headers: &Headers, trusted: bool) {
        if !matches!(method, Method::Invite | Method::Update | Method::Subscribe | Method::Notify) {
            return;
        }
        let Some(target) = contact(headers) else { return };
        if trusted || host(&target) == host(&self.remote_target) {
            self.remote_target = target;
        }
    }

    /// Creates a request within the dialog (section 12.2.1.1). The sender adds Via and Contact.
    pub fn request(&mut self, method: Method) -> Request {
        self.local_seq += 1;
        self.numbered(method, self.local_seq)
    }

    /// The ACK of the `2xx` to a sent INVITE (section 13.2.2.4): with the INVITE's number and credentials.
    pub fn acknowledge(&self, invite: &Request) -> Request {
        let mut ack = self.numbered(Method::Ack, invite.headers.cseq());
        for name in ["Authorization", "Proxy-Authorization"] {
            for value in invite.headers.all(name) {
                ack.headers.push(name, value);
            }
        }
        ack
    }

    fn numbered(&self, method: Method, number: u32) -> Request {
        let mut headers = Headers::default();
        headers.push("Max-Forwards", "70");
        let mut uri = self.remote_target.clone();
        let strict = self.route_set.first().map(|r| (!is_loose(r)).then(|| route_uri(r).to_owned()));
        let mut routes: Vec<String> = self.route_set.clone();
        if let Some(Some(first)) = strict {
            // A strict router becomes the Request-URI, and the target becomes the last route.
            routes.remove(0);
            routes.push(format!("<{}>", self.remote_target));
            uri = first;
        }
        for route in routes {
            headers.push("Route", route);
        }
        headers.push("From", self.local.as_str());
        headers.push("To", self.remote.as_str());
        headers.push("Call-ID", self.call_id.as_str());
        headers.push("CSeq", format!("{number} {method}"));
        Request { method, uri, headers, body: Default::default() }
    }

    /// Gives a challenged request a new number for its retry (section 22.2).
    pub fn renumber(&mut self, request: &mut Request) {
        self.local_seq += 1;
        request.headers.set("CSeq", format!("{} {}", self.local_seq, request.method));
    }

    /// URI of the next hop of in-dialog requests: the first route, else the remote target.
    pub fn next_hop(&self) -> &str {
        self.route_set.first().map_or(self.remote_target.as_str(), |r| route_uri(r))
    }

    /// Leaves a gap in the numbers: a node that takes a call over does not know the last number of its predecessor.
    pub fn skip_numbers(&mut self, by: u32) {
        self.local_seq = self.local_seq.saturating_add(by);
    }
}

fn host(uri: &str) -> Option<String> {
    Uri::parse(uri).map(|uri| uri.host.to_ascii_lowercase())
}

fn contact(headers: &Headers) -> Option<String> {
    let line = headers.get("Contact")?;
    let uri = NameAddr::parse(addr::split_list(line).next()?)?.uri;
    Uri::parse(uri).filter(Uri::is_sip)?;
    Some(uri.to_owned())
}

fn route_uri(route: &str) -> &str {
    NameAddr::parse(route).map_or(route, |r| r.uri)
}

fn is_loose(route: &str) -> bool {
    Uri::parse(route_uri(route)).is_some_and(|u| u.param("lr").is_some())
}
