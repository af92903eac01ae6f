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
    Headers, Method, Request,
    strict::{self, Verdict},
    via::COOKIE,
};

use super::{places::Place, rounds::Outcome};

/// One probe request: repeats are identical.
#[derive(Debug, Clone)]
pub struct Question {
    node: NodeName,
    life: Incarnation,
    /// Random branch, known only to receivers of the request.
    branch: String,
}

impl Question {
    /// Probe of this incarnation of a node; `token` is random.
    pub fn new(node: &NodeName, life: Incarnation, token: u64) -> Self {
        Self { node: node.clone(), life, branch: format!("{COOKIE}{token:016x}") }
    }

    /// The request as sent from `local` to `place`.
    pub fn to_bytes(&self, place: &Place, local: SocketAddr) -> Bytes {
        let Self { node, life, branch } = self;
        let (to, transport) = (place.address, place.transport.label());
        let mut headers = Headers::default();
        headers.push("Via", format!("SIP/2.0/{} {local};rport;branch={branch}", transport.to_ascii_uppercase()));
        headers.push("Max-Forwards", "70");
        headers.push("From", format!("<sip:member@{local}>;tag={branch}"));
        headers.push("To", format!("<sip:{to}>"));
        headers.push("Call-ID", branch.clone());
        headers.push("CSeq", "1 OPTIONS");
        let uri = format!("sip:{to};transport={transport};{NODE_PARAM}={node};{INCARNATION_PARAM}={life}");
        Request { method: Method::Options, uri, headers, body: Bytes::new() }.to_bytes()
    }

    /// Whether this message answers the request, and from which node: [`Outcome::Answered`] or
    /// [`Outcome::Another`].
    pub fn judge(&self, message: &[u8]) -> Option<Outcome> {
        let ours = |part: &[u8]| part == self.branch.as_bytes();
        if !message.starts_with(b"SIP/2.0 ") || !message.windows(self.branch.len()).any(ours) {
            return None;
        }
        // A response that cannot be parsed is also an answer.
        let Verdict::Response(response) = strict::read(message) else { return Some(Outcome::Answered) };
        let named = |product: &str| product.split_once('/').filter(|(key, _)| *key == NODE_PARAM)?.1.parse().ok();
        let who: Option<NodeName> =
            response.headers.get("Server").and_then(|server| server.split_whitespace().find_map(named));
        Some(if who.is_none_or(|who| who == self.node) { Outcome::Answered } else { Outcome::Another })
    }
}

#[cfg(test)]
mod tests {
    use twinbox_calls::Transport;

    use super::*;

    fn question(token: u64) -> Question {
        Question::new(&"b".parse().expect("a name"), Incarnation(7), token)
    }

    fn asked(transport: Transport) -> Request {
        let place = Place { transport, address: "[2001:db8::2]:5060".parse().expect("an address") };
        let bytes = question(5).to_bytes(&place, "[2001:db8::1]:40000".parse().expect("an address"));
        match strict::read(&bytes) {
            Verdict::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_question_is_a_proper_request_that_names_whom_it_asks() {
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
            (200, None, Outcome::Answered),
            (503, None, Outcome::Answered),
            (100, Some("twinbox-node/b"), Outcome::Answered),
            (403, Some("twinbox-node/b"), Outcome::Answered),
            (200, Some("SBC/1.0 twinbox-node/b"), Outcome::Answered),
            (200, Some("SBC/1.0"), Outcome::Answered),
            (200, Some("twinbox-node/"), Outcome::Answered),
            (200, Some("twinbox-node/a"), Outcome::Another),
            (403, Some("twinbox-node/a"), Outcome::Another),
        ] {
            let response = asked(Transport::Udp).respond(code).with_to_tag("t");
            let response = server.into_iter().fold(response, |response, server| response.with("Server", server));
            let bytes = response.to_bytes();
            assert_eq!(question(5).judge(&bytes), Some(expected), "{code} {server:?}");
            assert_eq!(question(6).judge(&bytes), None, "an answer to another question");
        }
        let request = asked(Transport::Udp);
        assert_eq!(question(5).judge(&request.to_bytes()), None, "our own question, come back");
        let odd = String::from_utf8_lossy(&request.respond(200).to_bytes()).replace("CSeq: ", "CSeq : ");
        assert_eq!(question(5).judge(odd.as_bytes()), Some(Outcome::Answered));
        for noise in [&b""[..], b"SIP/2.0 200 OK\r\n\r\n", b"\r\n\r\n", &[0; 100]] {
            assert_eq!(question(5).judge(noise), None);
        }
    }
}
