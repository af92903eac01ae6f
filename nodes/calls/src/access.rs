//! Access control: a list of trunks, by address and transport (rule S3).

use std::{net::IpAddr, sync::Arc};

use twinbox_ids::Network;
use twinbox_sip::digest::Credentials;

use crate::{Transport, TrunkConfig, wire::Flow};

/// A configured trunk with its credentials.
pub(crate) struct Trunk {
    pub(crate) config: TrunkConfig,
    pub(crate) credentials: Option<Credentials>,
}

impl Trunk {
    /// Whether requests from this address and transport belong to this trunk.
    pub(crate) fn covers(&self, address: IpAddr, transport: Transport) -> bool {
        self.config.transport.is_none_or(|t| t == transport)
            && self.config.addresses.iter().any(|network| network.contains(address))
    }

    /// Credentials for a challenge on this flow: `None` if the flow leads to a host outside of the trunk, since a
    /// Contact or a route can name any host.
    pub(crate) fn credentials_for(&self, flow: &Flow) -> Option<&Credentials> {
        self.credentials.as_ref().filter(|_| self.covers(flow.remote().ip(), flow.transport()))
    }
}

/// All trunks.
#[derive(Default)]
pub(crate) struct Access(Vec<Arc<Trunk>>);

impl Access {
    /// The trunks of the configuration; those that did not change are the same as here.
    pub(crate) fn renewed(&self, trunks: &[TrunkConfig]) -> Self {
        let trunk = |config: &TrunkConfig| {
            if let Some(same) = self.0.iter().find(|trunk| trunk.config == *config) {
                return same.clone();
            }
            let credentials = config.username.clone().zip(config.password.clone());
            let credentials = credentials.map(|(username, password)| Credentials { username, password });
            Arc::new(Trunk { config: config.clone(), credentials })
        };
        Self(trunks.iter().map(trunk).collect())
    }

    /// The trunk of a request from this address and transport: that with the smallest network around the address; of
    /// equal ones that which names its transport, then the first.
    pub(crate) fn find(&self, address: IpAddr, transport: Transport) -> Option<&Arc<Trunk>> {
        let covering = self.0.iter().filter(|trunk| trunk.covers(address, transport));
        let rank = |trunk: &TrunkConfig| (Network::longest(&trunk.addresses, address), trunk.transport.is_some());
        // Of equal ones `max_by_key` takes the last.
        covering.rev().max_by_key(|trunk| rank(&trunk.config))
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Trunk>> {
        self.0.iter().find(|trunk| trunk.config.name == name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Trunk>> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_network_decides_then_the_transport_then_the_order() {
        let any = crate::self_test::SelfTest::new(&[]).trunk.config.clone();
        let trunk = |name: &str, network: &str, transport| {
            let (name, addresses) = (name.to_owned(), vec![network.parse().unwrap()]);
            TrunkConfig { name, addresses, transport, ..any.clone() }
        };
        let (near, tcp) = (trunk("near", "10.0.1.0/24", None), trunk("tcp", "10.0.1.0/24", Some(Transport::Tcp)));
        let access =
            [trunk("wide", "10.0.0.0/8", None), near.clone(), tcp, TrunkConfig { name: "late".into(), ..near }];
        let access = Access::default().renewed(&access);
        let found = |address: &str, by| Some(access.find(address.parse().unwrap(), by)?.config.name.as_str());
        assert_eq!((found("10.2.0.1", Transport::Udp), found("192.0.2.1", Transport::Udp)), (Some("wide"), None));
        assert_eq!(
            (found("10.0.1.9", Transport::Udp), found("10.0.1.9", Transport::Tcp)),
            (Some("near"), Some("tcp"))
        );
    }
}
