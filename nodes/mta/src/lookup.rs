//! Look-up of mail hosts and their addresses, in bounded time.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    net::NetError,
    proto::rr::{Name, RData, Record, RecordType},
};
use tokio::time::timeout;
use twinbox_dns::record_resolver;

use crate::{
    MailerError,
    route::{self, MailHosts, MxRecord},
};

/// Timeout of one name server.
const SERVER_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum time that the absence of a record is cached: a mended zone is found soon.
const MAX_CACHED_ABSENCE: Duration = Duration::from_secs(30);
/// Maximum number of MX records of a domain that are read.
const MAX_RECORDS: usize = 50;

/// Reason why a look-up has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("does not exist: correct the address")]
    DomainMissing,
    #[error("has no address: correct the name, or add its records to the zone")]
    AddressMissing,
    #[error("cannot be resolved, {0}: check the name servers")]
    Unanswered(String),
}

/// Resolver of mail hosts.
pub(crate) struct Lookup {
    resolver: TokioResolver,
    limit: Duration,
}

impl Lookup {
    /// Uses these name servers; with none, those of the system. `limit` bounds the look-up of one name.
    pub fn new(servers: &[SocketAddr], limit: Duration) -> Result<Self, MailerError> {
        let resolver = record_resolver(servers, SERVER_TIMEOUT.min(limit), MAX_CACHED_ABSENCE);
        let resolver = resolver.map_err(|error| MailerError::NameServers(error.to_string()))?;
        Ok(Self { resolver, limit })
    }

    /// Hosts that receive the mail of a domain.
    pub async fn mail_hosts(&self, domain: &str) -> Result<MailHosts, LookupError> {
        // The resolver has no other way to say that a text is no name.
        let name = Name::from_utf8(format!("{domain}.")).map_err(|_| LookupError::DomainMissing)?;
        let record = |record: &Record| match &record.data {
            RData::MX(mx) => {
                let host = (!mx.exchange.is_root()).then(|| mx.exchange.to_ascii());
                Some(MxRecord { preference: mx.preference, host })
            }
            _ => None,
        };
        match self.limited(self.resolver.lookup(name, RecordType::MX)).await? {
            Ok(answer) => {
                let records = answer.answers().iter().filter_map(record).take(MAX_RECORDS).collect();
                Ok(route::mail_hosts(records, |n| rand::random_range(0..n)))
            }
            Err(error) if error.is_nx_domain() => Err(LookupError::DomainMissing),
            Err(error) if error.is_no_records_found() => Ok(MailHosts::Domain),
            Err(error) => Err(LookupError::Unanswered(error.to_string())),
        }
    }

    /// Addresses of a host in the order of attempts, at least one. A name with a final dot is complete; to others the
    /// search domains of the system apply.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        match self.limited(self.resolver.lookup_ip(host)).await? {
            Ok(answer) => match route::addresses(answer.iter()) {
                found if found.is_empty() => Err(LookupError::AddressMissing),
                found => Ok(found),
            },
            Err(error) if error.is_no_records_found() => Err(LookupError::AddressMissing),
            Err(error) => Err(LookupError::Unanswered(error.to_string())),
        }
    }

    async fn limited<T>(
        &self,
        lookup: impl Future<Output = Result<T, NetError>>,
    ) -> Result<Result<T, NetError>, LookupError> {
        let late = |_| LookupError::Unanswered(format!("no answer within {:?}", self.limit));
        timeout(self.limit, lookup).await.map_err(late)
    }
}
