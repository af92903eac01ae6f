//! Access control: a list of trunks, by address and transport (rule S3); the settings, which it is a part of; and requests with
//! their trunks.

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::watch;
use twinbox_clock::BootInstant;
use twinbox_ids::Network;
use twinbox_sip::{Request, digest::Credentials, transaction::ServerId};
use twinbox_sip_transport::Flow;

use crate::{CallsConfig, Transport, TrunkConfig};

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

/// A received request with its flow, trunk and arrival time.
pub(crate) struct IncomingRequest {
    pub(crate) id: ServerId,
    pub(crate) request: Request,
    pub(crate) flow: Flow,
    pub(crate) trunk: Arc<Trunk>,
    pub(crate) at: BootInstant,
}

impl IncomingRequest {
    /// Whether it came from an address of its trunk, which may have been removed since its dialog began.
    pub(crate) fn is_from_trunk(&self) -> bool {
        self.trunk.covers(self.flow.remote().ip(), self.flow.transport())
    }
}

/// The settings with their trunks; both may change while the SIP server runs.
pub(crate) struct CallsSettings {
    config: RwLock<Arc<CallsConfig>>,
    access: watch::Sender<Arc<Access>>,
}

impl CallsSettings {
    pub(crate) fn new(config: CallsConfig) -> Self {
        let access = watch::Sender::new(Arc::new(Access::default().renewed(&config.trunks)));
        Self { config: RwLock::new(Arc::new(config)), access }
    }

    /// The settings, as they are now.
    pub(crate) fn config(&self) -> Arc<CallsConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the settings. Calls in progress keep the trunk that they have.
    pub(crate) fn change(&self, config: Arc<CallsConfig>) {
        if self.config().trunks != config.trunks {
            self.access.send_modify(|access| *access = Arc::new(access.renewed(&config.trunks)));
        }
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// The trunks, as they are now.
    pub(crate) fn access(&self) -> Arc<Access> {
        self.access.borrow().clone()
    }

    /// The trunks, with their changes.
    pub(crate) fn watch_access(&self) -> watch::Receiver<Arc<Access>> {
        self.access.subscribe()
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
