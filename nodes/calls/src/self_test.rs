//! Authentication of self-test calls, which only this process may make. The source address must be local, and From must
//! contain a secret that is created each time the SIP server opens.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use twinbox_ids::Pii;
use twinbox_sip::{Method, Request, addr::NameAddr, uri::Uri};
use twinbox_sip_transport::local_address;

use crate::{Transport, TrunkConfig, access::Trunk};

/// Reserved number for self-test calls; no mailbox can have it.
pub(crate) const MAILBOX: &str = "twinbox-self-test";

/// Parameters of a self-test call.
#[derive(Debug, Clone)]
pub struct SelfTestCall {
    /// The listener's transport.
    pub transport: Transport,
    /// Address of the listener, as reached from this machine.
    pub to: SocketAddr,
    /// Source address.
    pub local: IpAddr,
    /// The Request-URI.
    pub uri: String,
    /// Value of From; its secret authenticates this process.
    pub from: Pii<String>,
}

/// Recognizes self-test calls.
pub(crate) struct SelfTest {
    secret: String,
    /// Bind addresses of the listeners.
    own: Vec<IpAddr>,
    /// Pseudo trunk of self-test calls.
    pub(crate) trunk: Arc<Trunk>,
}

impl SelfTest {
    pub(crate) fn new(listeners: &[(Transport, SocketAddr)]) -> Self {
        let config = TrunkConfig {
            name: MAILBOX.to_owned(),
            addresses: Vec::new(),
            transport: None,
            username: None,
            password: None,
            proxy: None,
            register: None,
            mwi: None,
            transfer: None,
            media_from_any_host: false,
        };
        Self {
            secret: format!("{MAILBOX}-{:032x}", rand::random::<u128>()),
            own: listeners.iter().map(|(_, address)| address.ip()).filter(|ip| !ip.is_unspecified()).collect(),
            trunk: Arc::new(Trunk { config, credentials: None }),
        }
    }

    /// Whether the address is local.
    fn is_own(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || self.own.contains(&address)
    }

    /// Whether a request is part of a self-test call.
    pub(crate) fn owns(&self, request: &Request, source: IpAddr) -> bool {
        self.is_own(source)
            && request
                .headers
                .get("From")
                .and_then(NameAddr::parse)
                .and_then(|from| Uri::parse(from.uri)?.user)
                .is_some_and(|user| same(user, &self.secret))
    }

    /// Whether the trunk is that of self-test calls.
    pub(crate) fn is(&self, trunk: &Arc<Trunk>) -> bool {
        Arc::ptr_eq(trunk, &self.trunk)
    }

    /// Status to refuse a self-test request with; `None` to accept it.
    pub(crate) fn refusal(request: &Request, has_dialog: bool) -> Option<u16> {
        match (request.headers.tag("To").is_some(), &request.method) {
            (true, _) if has_dialog => None,
            (true, _) => Some(481),
            (false, Method::Invite) => None,
            (false, _) => Some(405),
        }
    }

    /// Parameters for calling a listener.
    pub(crate) fn call(&self, transport: Transport, listener: SocketAddr) -> SelfTestCall {
        let local = match listener.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            // A dual-stack socket takes IPv4 too, and the machine may have no IPv6.
            IpAddr::V6(ip) if ip.is_unspecified() => match local_address(Ipv6Addr::LOCALHOST.into()) {
                Some(ip) => ip,
                None => Ipv4Addr::LOCALHOST.into(),
            },
            ip => ip,
        };
        let to = SocketAddr::new(local, listener.port());
        SelfTestCall {
            transport,
            to,
            local,
            uri: format!("sip:{MAILBOX}@{to}"),
            from: Pii::new(format!("<sip:{}@{to}>", self.secret)),
        }
    }
}

/// Compares in constant time.
fn same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use twinbox_sip::strict::{self, MessageVerdict};

    use super::*;

    fn invite(from: &str) -> Request {
        let text = format!(
            "INVITE sip:{MAILBOX}@127.0.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKa\r\n\
             Max-Forwards: 70\r\nFrom: {from};tag=1\r\nTo: <sip:{MAILBOX}@127.0.0.1:5060>\r\nCall-ID: a\r\n\
             CSeq: 1 INVITE\r\nContact: <sip:a@127.0.0.1:9>\r\nContent-Length: 0\r\n\r\n"
        );
        match strict::read(text.as_bytes()) {
            MessageVerdict::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn self_test_call_needs_the_secret_and_a_local_address() {
        let listener = (Transport::Udp, "192.0.2.1:5060".parse().unwrap());
        let test = SelfTest::new(&[listener]);
        let from = test.call(listener.0, listener.1).from.into_revealed();
        let guess = format!("<sip:{MAILBOX}-{:032x}@192.0.2.1>", 7);
        let short = format!("<sip:{MAILBOX}@192.0.2.1>");
        for (from, source, expected) in [
            (&from, "192.0.2.1", true),
            (&from, "127.0.0.1", true),
            (&from, "::ffff:127.0.0.1", true),
            (&from, "192.0.2.2", false),
            (&guess, "127.0.0.1", false),
            (&short, "127.0.0.1", false),
        ] {
            assert_eq!(test.owns(&invite(from), source.parse().unwrap()), expected, "{from} {source}");
        }
        assert!(!format!("{:?}", test.call(listener.0, listener.1)).contains(&test.secret), "it is in no log");
        assert_ne!(SelfTest::new(&[listener]).secret, test.secret, "another each time");
    }

    #[test]
    fn listener_on_all_addresses_is_called_on_loopback() {
        for (bind, to) in [("0.0.0.0:5060", "127.0.0.1:5060"), ("192.0.2.1:5062", "192.0.2.1:5062")] {
            let call = SelfTest::new(&[]).call(Transport::Udp, bind.parse().unwrap());
            assert_eq!((call.to, call.local), (to.parse().unwrap(), call.to.ip()));
        }
    }
}
