//! Resolves names to addresses, in bounded time.

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
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType},
};
use twinbox_clock::BootInstant;

use crate::{SrvTarget, Transport, in_order};

/// Default port of SIP.
const PORT: u16 = 5060;
/// Timeout of a resolution, independent of the number of name servers.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of one name server.
const SERVER_TIMEOUT: Duration = Duration::from_millis(900);
/// Maximum time that an answer is cached, if its TTL is longer: a moved host is found again.
const MAX_CACHED: Duration = Duration::from_secs(300);
/// Maximum number of targets of one name.
const MAX_TARGETS: usize = 16;
/// Period in which a target that did not answer is tried after all others.
const AVOID_FAILED: Duration = Duration::from_secs(30);

/// Name to resolve and its constraints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// A name or an address.
    pub host: &'a str,
    /// Port, if given: then there is no service look-up (RFC 3263 section 4.2).
    pub port: Option<u16>,
    /// Transport, if given.
    pub transport: Option<Transport>,
    /// Transports that can be used, the preferred one first; never empty.
    pub usable: &'a [Transport],
}

/// Transport and address to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// Transport of the target.
    pub transport: Transport,
    /// Address of the target.
    pub address: SocketAddr,
}

/// Reason why a name has no targets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The name does not exist or has no address.
    #[error("'{0}' has no address: correct the name, or add its records to the zone")]
    NoAddress(String),
    /// No name server answered.
    #[error("no name server answered for '{0}' in time: check sip.dns_servers, or /etc/resolv.conf")]
    NoAnswer(String),
    /// The name server's settings cannot be used.
    #[error("name servers cannot be used: {0}")]
    Settings(String),
}

/// Resolver of single records, without the rules of SIP: it uses these name servers, or with none those of the system and
/// the names of `/etc/hosts`. It waits for one server as long as `server_timeout`, and caches the absence of a record as
/// long as `max_absence` at most.
pub fn record_resolver(
    servers: &[SocketAddr],
    server_timeout: Duration,
    max_absence: Duration,
) -> Result<TokioResolver, NetError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio()?
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
    options.timeout = server_timeout;
    options.attempts = 2;
    options.positive_max_ttl = Some(MAX_CACHED);
    options.negative_max_ttl = Some(max_absence);
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.build()
}

/// Resolves names; cheap to clone. Answers are cached for their TTL.
#[derive(Clone)]
pub struct Resolver {
    resolver: TokioResolver,
    failed: Arc<Mutex<HashMap<SocketAddr, BootInstant>>>,
}

impl Resolver {
    /// Uses these name servers; with none, those of the system (`/etc/resolv.conf`) and the names of `/etc/hosts`.
    pub fn new(servers: &[SocketAddr]) -> Result<Self, ResolveError> {
        // Short, so that a newly added name is found soon.
        let max_absence = Duration::from_secs(5);
        let resolver = record_resolver(servers, SERVER_TIMEOUT, max_absence);
        let resolver = resolver.map_err(|error| ResolveError::Settings(error.to_string()))?;
        Ok(Self { resolver, failed: Arc::default() })
    }

    /// Targets of a name in the order of attempts (RFC 3263 section 4), at least one. Targets recently reported as
    /// [`failed`](Self::failed) come last.
    pub async fn targets(&self, wanted: Wanted<'_>) -> Result<Vec<Target>, ResolveError> {
        let found = tokio::time::timeout(TOTAL_TIMEOUT, self.look_up(wanted)).await;
        let mut found = found.map_err(|_| ResolveError::NoAnswer(wanted.host.to_owned()))??;
        found.truncate(MAX_TARGETS);
        let now = BootInstant::now();
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.retain(|_, since| now.since(*since) < AVOID_FAILED);
        // Stable sort: otherwise the order stays.
        found.sort_by_key(|target| failed.contains_key(&target.address));
        Ok(found)
    }

    /// Records that this target did not answer.
    pub fn failed(&self, address: SocketAddr) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        // Strangers may choose the called hosts: the size of the table is limited.
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

    async fn services(&self, host: &str, transport: Transport) -> Vec<SrvTarget> {
        let name = format!("_sip._{}.{}.", transport.label(), host.trim_end_matches('.'));
        let answer = match self.resolver.lookup(name, RecordType::SRV).await {
            Ok(answer) => answer,
            // No such record, or no answer: try the addresses of the name next.
            Err(_) => return Vec::new(),
        };
        let service = |data: &RData| match data {
            // A single dot as the target: there is no such service (RFC 2782).
            RData::SRV(srv) if !srv.target.is_root() => Some(SrvTarget {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                host: srv.target.to_string(),
            }),
            _ => None,
        };
        let services = answer.answers().iter().filter_map(|record| service(&record.data)).take(MAX_TARGETS);
        in_order(services.collect(), |n| rand::random_range(0..n))
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        match self.resolver.lookup_ip(host).await {
            Ok(answer) => {
                let mut found: Vec<IpAddr> = answer.iter().collect();
                // IPv4 addresses first: most telephones have no other.
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
                tracing::debug!(%error, "name cannot be resolved");
                Err(ResolveError::NoAnswer(host.to_owned()))
            }
        }
    }
}
