//! From a name to addresses, in bounded time.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{RData, RecordType},
};
use twinbox_clock::BootInstant;

use crate::{Service, Transport, in_order};

/// The port of SIP, where nothing says otherwise.
const PORT: u16 = 5060;
/// However many servers are asked, and however they do not answer: a name is resolved in this time or not at all.
const AT_MOST: Duration = Duration::from_secs(3);
/// How long one name server may take.
const ONE_SERVER: Duration = Duration::from_millis(900);
/// Answers are kept as long as they say, and no longer than this: what moved is found again.
const KEPT_AT_MOST: Duration = Duration::from_secs(300);
/// More than these of one name are not tried.
const MOST_TARGETS: usize = 16;
/// A target that did not answer is tried after all others for so long.
const AVOIDED: Duration = Duration::from_secs(30);

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// A name or an address.
    pub host: &'a str,
    /// The port, if it is said: then there is no service to look up (RFC 3263 section 4.2).
    pub port: Option<u16>,
    /// The transport, if it is said.
    pub transport: Option<Transport>,
    /// Those that can be used, the preferred one first; never empty.
    pub usable: &'a [Transport],
}

/// Where to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// How.
    pub transport: Transport,
    /// Where.
    pub address: SocketAddr,
}

/// A name that leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is no such name, or it has no address.
    #[error("'{0}' has no address: correct the name, or add its records to the zone")]
    NoAddress(String),
    /// No name server answered.
    #[error("no name server answered for '{0}' in time: check sip.dns_servers, or /etc/resolv.conf")]
    NoAnswer(String),
    /// The name server's settings cannot be used.
    #[error("name servers cannot be used: {0}")]
    Settings(String),
}

/// Resolves names; cheap to clone. Answers are kept for as long as they say.
#[derive(Clone)]
pub struct Resolver {
    resolver: TokioResolver,
    failed: Arc<Mutex<HashMap<SocketAddr, BootInstant>>>,
}

impl Resolver {
    /// By these name servers; without any by those of the system (`/etc/resolv.conf`), with the names of `/etc/hosts`.
    pub fn new(servers: &[SocketAddr]) -> Result<Self, ResolveError> {
        let settings = |error: &dyn std::fmt::Display| ResolveError::Settings(error.to_string());
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(|e| settings(&e))?
        } else {
            let server = |server: &SocketAddr| {
                let mut config = NameServerConfig::udp_and_tcp(server.ip());
                for connection in &mut config.connections {
                    connection.port = server.port();
                }
                config
            };
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = ONE_SERVER;
        options.attempts = 2;
        options.positive_max_ttl = Some(KEPT_AT_MOST);
        // A name that is added is found soon.
        options.negative_max_ttl = Some(Duration::from_secs(5));
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let resolver = builder.build().map_err(|e| settings(&e))?;
        Ok(Self { resolver, failed: Arc::default() })
    }

    /// The targets of a name in the order to try them (RFC 3263 section 4), at least one. Those that were reported as
    /// [`failed`](Self::failed) a short while ago come last.
    pub async fn targets(&self, wanted: Wanted<'_>) -> Result<Vec<Target>, ResolveError> {
        let found = tokio::time::timeout(AT_MOST, self.look_up(wanted)).await;
        let mut found = found.map_err(|_| ResolveError::NoAnswer(wanted.host.to_owned()))??;
        found.truncate(MOST_TARGETS);
        let now = BootInstant::now();
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.retain(|_, since| now.since(*since) < AVOIDED);
        // Stable: their own order is kept.
        found.sort_by_key(|target| failed.contains_key(&target.address));
        Ok(found)
    }

    /// This target did not answer.
    pub fn failed(&self, address: SocketAddr) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever is called may be chosen by strangers: the table stays small.
        if failed.len() < 1024 {
            failed.insert(address, BootInstant::now());
        }
    }

    async fn look_up(&self, wanted: Wanted<'_>) -> Result<Vec<Target>, ResolveError> {
        let transport = wanted.transport.or(wanted.usable.first().copied()).unwrap_or(Transport::Udp);
        let at = |ip: IpAddr, port: u16| Target { transport, address: SocketAddr::new(ip, port) };
        let host = wanted.host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = host.parse() {
            return Ok(vec![at(ip, wanted.port.unwrap_or(PORT))]);
        }
        if wanted.port.is_none() {
            let one = wanted.transport.map(|t| [t]);
            let transports = one.as_ref().map_or(wanted.usable, |one| one.as_slice());
            for transport in transports {
                let services = self.services(host, *transport).await;
                if !services.is_empty() {
                    let asked = services.iter().map(|s| async move { (s.port, self.addresses(&s.host).await) });
                    let answered = join_all(asked).await;
                    let mut found = Vec::new();
                    for (port, addresses) in answered {
                        let to = |ip| Target { transport: *transport, address: SocketAddr::new(ip, port) };
                        found.extend(addresses.unwrap_or_default().into_iter().map(to));
                    }
                    if !found.is_empty() {
                        return Ok(found);
                    }
                }
            }
        }
        let addresses = self.addresses(host).await?;
        Ok(addresses.into_iter().map(|ip| at(ip, wanted.port.unwrap_or(PORT))).collect())
    }

    async fn services(&self, host: &str, transport: Transport) -> Vec<Service> {
        let name = format!("_sip._{}.{}.", transport.label(), host.trim_end_matches('.'));
        let answer = match self.resolver.lookup(name, RecordType::SRV).await {
            Ok(answer) => answer,
            // No such record, or no answer: the name's own addresses are next.
            Err(_) => return Vec::new(),
        };
        let service = |data: &RData| match data {
            // A single dot as the target: there is no such service (RFC 2782).
            RData::SRV(srv) if !srv.target.is_root() => Some(Service {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                host: srv.target.to_string(),
            }),
            _ => None,
        };
        let services = answer.answers().iter().filter_map(|record| service(&record.data)).take(MOST_TARGETS);
        in_order(services.collect(), |n| rand::random_range(0..n))
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        match self.resolver.lookup_ip(host).await {
            Ok(answer) => {
                let mut found: Vec<IpAddr> = answer.iter().collect();
                // Where there is an IPv4 address it is tried first: most telephones have no other.
                found.sort_by_key(|ip| !ip.is_ipv4());
                match found.is_empty() {
                    true => Err(ResolveError::NoAddress(host.to_owned())),
                    false => Ok(found),
                }
            }
            Err(error) if error.is_nx_domain() || error.is_no_records_found() => {
                Err(ResolveError::NoAddress(host.to_owned()))
            }
            Err(error) => {
                tracing::debug!(%error, "a name could not be resolved");
                Err(ResolveError::NoAnswer(host.to_owned()))
            }
        }
    }
}
