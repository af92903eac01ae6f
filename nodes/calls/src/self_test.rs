//! Who may make a self-test call: this process alone. The caller's address is one of this machine's, and its From names
//! a secret that is made anew each time the door opens.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use twinbox_ids::Pii;
use twinbox_sip::{Method, Request, addr::NameAddr, uri::Uri};

use crate::{Transport, TrunkConfig, access::Trunk};

/// The reserved number that self-test calls go to. It is no number that a mailbox can have.
pub(crate) const MAILBOX: &str = "twinbox-self-test";

/// How a self-test call is made.
#[derive(Debug, Clone)]
pub struct SelfTestCall {
    /// The listener's transport.
    pub transport: Transport,
    /// The listener, as this machine reaches it.
    pub to: SocketAddr,
    /// The address to call from.
    pub local: IpAddr,
    /// The Request-URI.
    pub uri: String,
    /// The value of From: whoever knows it passes for this process.
    pub from: Pii<String>,
}

/// Tells self-test calls from others.
pub(crate) struct SelfTest {
    secret: String,
    /// Addresses that the listeners are bound to.
    own: Vec<IpAddr>,
    /// What such a call belongs to instead of a trunk of somebody's.
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

    /// Whether an address is this machine's own.
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

    /// Whether a trunk is that of self-test calls.
    pub(crate) fn is(&self, trunk: &Arc<Trunk>) -> bool {
        Arc::ptr_eq(trunk, &self.trunk)
    }

    /// The status to refuse its request with, if it is to be refused.
    pub(crate) fn refusal(request: &Request, has_dialog: bool) -> Option<u16> {
        match (request.headers.tag("To").is_some(), &request.method) {
            (true, _) if has_dialog => None,
            (true, _) => Some(481),
            (false, Method::Invite) => None,
            (false, _) => Some(405),
        }
    }

    /// How to call a listener.
    pub(crate) fn call(&self, transport: Transport, listener: SocketAddr) -> SelfTestCall {
        let local = match listener.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            // A socket for both families takes IPv4 too, and not every machine has the other.
            IpAddr::V6(ip) if ip.is_unspecified() => match crate::wire::local_address(Ipv6Addr::LOCALHOST.into()) {
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

/// Compares in a time that does not tell how much is right.
fn same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use twinbox_sip::strict::{self, Verdict};

    use super::*;

    fn invite(from: &str) -> Request {
        let text = format!(
            "INVITE sip:{MAILBOX}@127.0.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKa\r\n\
             Max-Forwards: 70\r\nFrom: {from};tag=1\r\nTo: <sip:{MAILBOX}@127.0.0.1:5060>\r\nCall-ID: a\r\n\
             CSeq: 1 INVITE\r\nContact: <sip:a@127.0.0.1:9>\r\nContent-Length: 0\r\n\r\n"
        );
        match strict::read(text.as_bytes()) {
            Verdict::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_who_has_the_secret_and_an_address_of_ours_is_taken_for_this_process() {
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
    fn a_listener_for_all_addresses_is_called_on_loopback() {
        for (bind, to) in [("0.0.0.0:5060", "127.0.0.1:5060"), ("192.0.2.1:5062", "192.0.2.1:5062")] {
            let call = SelfTest::new(&[]).call(Transport::Udp, bind.parse().unwrap());
            assert_eq!((call.to, call.local), (to.parse().unwrap(), call.to.ip()));
        }
    }
}
