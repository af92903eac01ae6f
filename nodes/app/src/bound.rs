//! Resources that a node binds before it changes anything.

use std::sync::Arc;

use twinbox_admin_api::AdminSocket;
use twinbox_config::NodeConfig;
use twinbox_diagnostics::{
    allow_open_files,
    folder::{Folder, Owner},
    ports::{self, PortRange, RangeClaim},
};
use twinbox_mail_gateway::MailListener;
use twinbox_metrics::HttpListener;
use twinbox_recording_links::LinkListener;
use twinbox_runtime::{SideRuntime, StopSignals, Supervised};

use crate::{AppError, peering::PeerListener};

/// Everything that can refuse a start: an address in use or an invalid setting ends it here, and nothing is changed.
pub(crate) struct Bound {
    pub(crate) stop_signals: StopSignals,
    pub(crate) supervised: Arc<Supervised>,
    /// Runtime of the leases, which calls cannot starve.
    pub(crate) leases: SideRuntime,
    /// Runtime of probes and metrics, which answer while the event loop hangs.
    pub(crate) probes: SideRuntime,
    /// Taken by [`Node::start`].
    pub(crate) sockets: Option<Sockets>,
    _folder: Folder,
    _rtp_ports: RangeClaim,
}

pub(crate) struct Sockets {
    pub(crate) members: PeerListener,
    pub(crate) administrators: AdminSocket,
    pub(crate) pages: Vec<HttpListener>,
    pub(crate) mail: Vec<MailListener>,
    pub(crate) links: Option<LinkListener>,
}

impl Bound {
    pub(crate) async fn bind(config: &NodeConfig) -> Result<Self, AppError> {
        allow_open_files(config.calls.max_calls);
        let own = Owner { member: config.name.clone(), cluster: Some(config.cluster.id) };
        // Below this limit the store refuses even small writes (rule A4).
        let folder = Folder::take("node.data_dir", &config.data_dir, &own, config.reserve_bytes / 4)?;
        let supervised = Supervised::begin(&config.data_dir)?;
        let stop_signals = StopSignals::listen(supervised.is_supervised()).map_err(AppError::Runtime)?;
        let rtp_ports = ports::claim(PortRange { ip: config.calls.rtp.bind, ports: config.rtp.ports.clone() })?;
        let leases = SideRuntime::for_leases().map_err(AppError::Runtime)?;
        let members = PeerListener::bind(&config.cluster, leases.handle()).await?;
        let mut pages = vec![twinbox_metrics::bind_local(&config.admin_socket)?];
        if let Some(address) = config.metrics {
            pages.push(twinbox_metrics::bind(address)?);
        }
        ports::sip_is_free(&config.calls.listeners)?;
        let mut mail = Vec::new();
        for (address, protocol) in config.mail.incoming.iter().flat_map(|incoming| &incoming.listeners) {
            mail.push(MailListener::bind(*address, *protocol).await?);
        }
        let links = crate::links::bind(config).await?;
        let administrators = AdminSocket::bind(&config.admin_socket)?;
        Ok(Self {
            stop_signals,
            supervised: Arc::new(supervised),
            leases,
            probes: SideRuntime::for_probes().map_err(AppError::Runtime)?,
            sockets: Some(Sockets { members, administrators, pages, mail, links }),
            _folder: folder,
            _rtp_ports: rtp_ports,
        })
    }
}
