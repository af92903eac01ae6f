//! Probe of a SIP address by OPTIONS (RFC 3261 section 11), and the check of its answer. Pure.
//!
//! Any response is an answer, whatever its code: a node that refuses is alive. The Request-URI names the node and
//! the incarnation; the SIP server of a node then names itself in `Server`, also to members that are in no trunk
//! list. An answer that names another node does not count for this node. An answer without a name counts for this
//! node: an SBC on the path may rewrite headers, and a wrong death is worse than a missed one.

use std::net::SocketAddr;

use bytes::Bytes;
use twinbox_calls::{INCARNATION_PARAM, NODE_PARAM};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_sip::{
    strict::{self, MessageVerdict},
    via::COOKIE,
};

use super::{rounds::ProbeOutcome, targets::SipTarget};
use crate::options::options;

/// One probe request: repeats are identical.
#[derive(Debug, Clone)]
pub struct ProbeRequest {
    node: NodeName,
    incarnation: Incarnation,
    /// Random branch, known only to receivers of the request.
    branch: String,
}

impl ProbeRequest {
    /// Probe of this incarnation of a node; `token` is random.
    pub fn new(node: &NodeName, incarnation: Incarnation, token: u64) -> Self {
        Self { node: node.clone(), incarnation, branch: format!("{COOKIE}{token:016x}") }
    }

    /// The request as sent from `local` to `target`.
    pub fn to_bytes(&self, target: &SipTarget, local: SocketAddr) -> Bytes {
        let Self { node, incarnation, branch } = self;
        let SipTarget { transport, address: to } = *target;
        let label = transport.label();
        let uri = format!("sip:{to};transport={label};{NODE_PARAM}={node};{INCARNATION_PARAM}={incarnation}");
        options("member", uri, (transport, to), local, branch)
    }

    /// Whether this message answers the request, and from which node: [`ProbeOutcome::Answered`] or
    /// [`ProbeOutcome::OtherNode`].
    pub fn judge(&self, message: &[u8]) -> Option<ProbeOutcome> {
        let ours = |part: &[u8]| part == self.branch.as_bytes();
        if !message.starts_with(b"SIP/2.0 ") || !message.windows(self.branch.len()).any(ours) {
            return None;
        }
        // A response that cannot be parsed is also an answer.
        let MessageVerdict::Response(response) = strict::read(message) else { return Some(ProbeOutcome::Answered) };
        let named = |product: &str| product.split_once('/').filter(|(key, _)| *key == NODE_PARAM)?.1.parse().ok();
        let who: Option<NodeName> =
            response.headers.get("Server").and_then(|server| server.split_whitespace().find_map(named));
        Some(if who.is_none_or(|who| who == self.node) { ProbeOutcome::Answered } else { ProbeOutcome::OtherNode })
    }
}

#[cfg(test)]
mod tests {
    use twinbox_calls::Transport;
    use twinbox_sip::{Method, Request};

    use super::*;

    fn probe(token: u64) -> ProbeRequest {
        ProbeRequest::new(&"b".parse().expect("a name"), Incarnation(7), token)
    }

    fn asked(transport: Transport) -> Request {
        let target = SipTarget { transport, address: "[2001:db8::2]:5060".parse().expect("an address") };
        let bytes = probe(5).to_bytes(&target, "[2001:db8::1]:40000".parse().expect("an address"));
        match strict::read(&bytes) {
            MessageVerdict::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_request_is_valid_and_names_the_probed_node() {
        for (transport, label) in [(Transport::Udp, "UDP"), (Transport::Tcp, "TCP")] {
            let request = asked(transport);
            assert_eq!(request.method, Method::Options);
            let uri = twinbox_sip::uri::Uri::parse(&request.uri).expect("a URI");
            assert_eq!((uri.host, uri.port), ("2001:db8::2", Some(5060)));
            assert_eq!(uri.param(NODE_PARAM), Some("b"));
            assert_eq!(uri.param(INCARNATION_PARAM), Some(Incarnation(7).to_string().as_str()));
            assert_eq!(request.headers.top_via().map(|via| via.transport), Some(label));
        }
    }

    #[test]
    fn any_response_is_an_answer_unless_another_node_says_that_it_is_from_it() {
        for (code, server, expected) in [
            (200, None, ProbeOutcome::Answered),
            (503, None, ProbeOutcome::Answered),
            (100, Some("twinbox-node/b"), ProbeOutcome::Answered),
            (403, Some("twinbox-node/b"), ProbeOutcome::Answered),
            (200, Some("SBC/1.0 twinbox-node/b"), ProbeOutcome::Answered),
            (200, Some("SBC/1.0"), ProbeOutcome::Answered),
            (200, Some("twinbox-node/"), ProbeOutcome::Answered),
            (200, Some("twinbox-node/a"), ProbeOutcome::OtherNode),
            (403, Some("twinbox-node/a"), ProbeOutcome::OtherNode),
        ] {
            let response = asked(Transport::Udp).respond(code).with_to_tag("t");
            let response = server.into_iter().fold(response, |response, server| response.with("Server", server));
            let bytes = response.to_bytes();
            assert_eq!(probe(5).judge(&bytes), Some(expected), "{code} {server:?}");
            assert_eq!(probe(6).judge(&bytes), None, "an answer to another probe");
        }
        let request = asked(Transport::Udp);
        assert_eq!(probe(5).judge(&request.to_bytes()), None, "our own probe, come back");
        let odd = String::from_utf8_lossy(&request.respond(200).to_bytes()).replace("CSeq: ", "CSeq : ");
        assert_eq!(probe(5).judge(odd.as_bytes()), Some(ProbeOutcome::Answered));
        for noise in [&b""[..], b"SIP/2.0 200 OK\r\n\r\n", b"\r\n\r\n", &[0; 100]] {
            assert_eq!(probe(5).judge(noise), None);
        }
    }
}
