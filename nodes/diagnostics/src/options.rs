//! The request of both SIP probes, OPTIONS (RFC 3261 section 11): of `doctor`, and of members for a silent node.

use std::net::SocketAddr;

use bytes::Bytes;
use twinbox_dns::Transport;
use twinbox_sip::{Headers, Method, Request};

/// The request from `user` at `local` to `to`. `uri` is the Request-URI; the branch also serves as tag and Call-ID.
pub(crate) fn options(
    user: &str,
    uri: String,
    (transport, to): (Transport, SocketAddr),
    local: SocketAddr,
    branch: &str,
) -> Bytes {
    let transport = transport.label().to_ascii_uppercase();
    let mut headers = Headers::default();
    headers.push("Via", format!("SIP/2.0/{transport} {local};rport;branch={branch}"));
    headers.push("Max-Forwards", "70");
    headers.push("From", format!("<sip:{user}@{local}>;tag={branch}"));
    headers.push("To", format!("<sip:{to}>"));
    headers.push("Call-ID", branch);
    headers.push("CSeq", "1 OPTIONS");
    Request { method: Method::Options, uri, headers, body: Bytes::new() }.to_bytes()
}
