//! Access control: a list of trunks, by address and transport (rule S3).

use std::{net::IpAddr, sync::Arc};

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
pub(crate) struct Access(Vec<Arc<Trunk>>);

impl Access {
    /// Creates the trunks of the configuration.
    pub(crate) fn new(trunks: &[TrunkConfig]) -> Self {
        let trunk = |config: &TrunkConfig| {
            let credentials = config.username.clone().zip(config.password.clone());
            let credentials = credentials.map(|(username, password)| Credentials { username, password });
            Arc::new(Trunk { config: config.clone(), credentials })
        };
        Self(trunks.iter().map(trunk).collect())
    }

    /// The trunk of a request from this address and transport.
    pub(crate) fn find(&self, address: IpAddr, transport: Transport) -> Option<&Arc<Trunk>> {
        self.0.iter().find(|trunk| trunk.covers(address, transport))
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Trunk>> {
        self.0.iter().find(|trunk| trunk.config.name == name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Trunk>> {
        self.0.iter()
    }
}
