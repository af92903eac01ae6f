//! The sender: finds the hosts, and tries their addresses one after the other.

use std::{fmt, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tokio_rustls::TlsConnector;
use tracing::debug;
use twinbox_clock::BootInstant;

use crate::{
    MailerConfig, MailerError, MxTls, Notify, Outgoing, ProbeReport, Route, SocketOwner, Timeouts, TlsMode, config,
    dialogue::{Encryption, Plan},
    envelope::{Domain, Envelope},
    failure::{Delivered, Problem, SendFailure, SendStep},
    lookup::{Lookup, LookupError},
    probe::StepLog,
    route::MailHosts,
    session::Session,
    tls,
};

/// Sends mail; cheap to clone.
#[derive(Clone)]
pub struct Mailer(Arc<Inner>);

/// Shows the configuration, which hides the password.
impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mailer").field(&self.0.config).finish()
    }
}

struct Inner {
    config: MailerConfig,
    lookup: Lookup,
    tls: Option<TlsConnector>,
}

/// A host to try.
struct Host {
    /// Name in reports and certificates.
    name: String,
    /// Name or address to look up.
    lookup: String,
    /// Without an address of this host the recipient's domain cannot receive mail.
    only: bool,
}

/// An attempt with what all its addresses share.
struct Attempt<'a> {
    envelope: &'a Envelope<'a>,
    bytes: &'a Bytes,
    probe: bool,
    owner: &'a dyn SocketOwner,
    deadline: BootInstant,
}

impl Mailer {
    /// Checks the configuration and reads the CA certificates if the route needs them.
    pub fn new(config: MailerConfig) -> Result<Self, MailerError> {
        config::check(&config)?;
        let tls = match &config.route {
            Route::Smarthost(smarthost) if smarthost.tls == TlsMode::Off => None,
            Route::Mx { tls: MxTls::Opportunistic, .. } => Some(tls::unverified()?),
            Route::Smarthost(_) | Route::Mx { tls: MxTls::Required, .. } => {
                Some(tls::verified(&config.authorities)?)
            }
        };
        let lookup = Lookup::new(&config.dns_servers, config.timeouts.lookup)?;
        Ok(Self(Arc::new(Inner { config, lookup, tls })))
    }

    /// The same mailer with other time limits.
    pub fn with_timeouts(&self, timeouts: Timeouts) -> Result<Self, MailerError> {
        Self::new(MailerConfig { timeouts, ..self.0.config.clone() })
    }

    /// The servers that take mails for this recipient, as a word: the smarthost, or the recipient's domain.
    pub fn route_to(&self, recipient: &str) -> String {
        match &self.0.config.route {
            Route::Smarthost(_) => "smarthost".to_owned(),
            Route::Mx { .. } => {
                recipient.rsplit_once('@').map_or(recipient, |(_, domain)| domain).to_ascii_lowercase()
            }
        }
    }

    /// Makes one attempt to deliver a message.
    pub async fn send(&self, mail: &Outgoing, owner: &dyn SocketOwner) -> Result<Delivered, SendFailure> {
        self.0.deliver(mail, false, owner, &mut StepLog::default()).await
    }

    /// Tests the delivery from `sender` (`None` for `<>`) to `recipient` up to the server's reply to the recipient;
    /// no message is sent.
    pub async fn probe(&self, sender: Option<&str>, recipient: &str, owner: &dyn SocketOwner) -> ProbeReport {
        let mail = Outgoing {
            sender: sender.map(str::to_owned),
            recipient: recipient.to_owned(),
            bytes: Bytes::new(),
            envelope_id: String::new(),
            notify: Notify::Never,
        };
        let mut log = StepLog::default();
        let outcome = self.0.deliver(&mail, true, owner, &mut log).await;
        ProbeReport { steps: log.into_steps(), outcome }
    }
}

impl Inner {
    async fn deliver(
        &self,
        mail: &Outgoing,
        probe: bool,
        owner: &dyn SocketOwner,
        log: &mut StepLog,
    ) -> Result<Delivered, SendFailure> {
        let envelope = Envelope::of(mail).inspect_err(|failure| log.failed(None, failure))?;
        let deadline = BootInstant::now() + self.config.timeouts.total;
        let attempt = Attempt { envelope: &envelope, bytes: &mail.bytes, probe, owner, deadline };
        let hosts = self.hosts(&envelope.domain, log).await.inspect_err(|failure| log.failed(None, failure))?;
        let mut furthest = None;
        'hosts: for host in &hosts {
            let addresses = match self.addresses(host, log).await {
                Ok(addresses) => addresses,
                Err(failure) => {
                    log.failed(None, &failure);
                    keep_furthest(&mut furthest, failure);
                    continue;
                }
            };
            for address in addresses {
                if !owner.may_write() {
                    return Err(SendFailure::NotHolder);
                }
                if BootInstant::now() >= deadline {
                    break 'hosts;
                }
                let failure = match self.try_address(&attempt, host, address, log).await {
                    Ok(delivered) => return Ok(delivered),
                    Err(failure) => failure,
                };
                debug!(host = host.name, %address, %failure, "attempt to send mail failed");
                log.failed(Some(address), &failure);
                if !another_may_accept(&failure) {
                    return Err(failure);
                }
                keep_furthest(&mut furthest, failure);
            }
        }
        Err(furthest.unwrap_or_else(|| self.too_late()))
    }

    /// Hosts to try, in order.
    async fn hosts(&self, domain: &Domain, log: &mut StepLog) -> Result<Vec<Host>, SendFailure> {
        if let Route::Smarthost(smarthost) = &self.config.route {
            let lookup = smarthost.host.trim_start_matches('[').trim_end_matches(']').to_owned();
            return Ok(vec![Host { name: smarthost.host.clone(), lookup, only: false }]);
        }
        let domain = match domain {
            Domain::Name(domain) => domain,
            Domain::Address(address) => {
                let name = address.to_string();
                return Ok(vec![Host { lookup: name.clone(), name, only: true }]);
            }
        };
        let complete = |name: String, only| Host { lookup: format!("{name}."), name, only };
        match self.lookup.mail_hosts(domain).await {
            Ok(MailHosts::Listed(hosts)) => {
                log.passed(SendStep::Lookup, domain, None, format!("MX: {}", hosts.join(", ")));
                Ok(hosts.into_iter().map(|host| complete(host, false)).collect())
            }
            Ok(MailHosts::Domain) => {
                log.passed(
                    SendStep::Lookup,
                    domain,
                    None,
                    "no MX record: the domain itself is the host".to_owned(),
                );
                Ok(vec![complete(domain.clone(), true)])
            }
            Ok(MailHosts::NullMx) => {
                let text = format!("the domain {domain} accepts no mail (null MX): use another address");
                Err(SendFailure::Permanent(Problem::new(domain, SendStep::Lookup, text)))
            }
            Err(error) => Err(lookup_failure(domain, &error, true)),
        }
    }

    async fn addresses(&self, host: &Host, log: &mut StepLog) -> Result<Vec<SocketAddr>, SendFailure> {
        let port = match &self.config.route {
            Route::Smarthost(smarthost) => smarthost.port,
            Route::Mx { port, .. } => *port,
        };
        let found = self.lookup.addresses(&host.lookup).await;
        let found = found.map_err(|error| lookup_failure(&host.name, &error, host.only))?;
        let found: Vec<SocketAddr> = found.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        let shown: Vec<String> = found.iter().map(|address| address.ip().to_string()).collect();
        log.passed(SendStep::Lookup, &host.name, None, format!("addresses: {}", shown.join(", ")));
        Ok(found)
    }

    async fn try_address(
        &self,
        attempt: &Attempt<'_>,
        host: &Host,
        address: SocketAddr,
        log: &mut StepLog,
    ) -> Result<Delivered, SendFailure> {
        let (encryption, login) = match &self.config.route {
            Route::Smarthost(smarthost) => {
                let encryption = match smarthost.tls {
                    TlsMode::Off => Encryption::Off,
                    TlsMode::Opportunistic => Encryption::IfOffered,
                    TlsMode::StartTls | TlsMode::Tls => Encryption::Required,
                };
                (encryption, smarthost.login.as_ref())
            }
            Route::Mx { tls: MxTls::Opportunistic, .. } => (Encryption::IfOffered, None),
            Route::Mx { tls: MxTls::Required, .. } => (Encryption::Required, None),
        };
        let mut session = Session {
            host: &host.name,
            address,
            tls: self.tls.as_ref(),
            implicit_tls: matches!(&self.config.route, Route::Smarthost(host) if host.tls == TlsMode::Tls),
            timeouts: &self.config.timeouts,
            deadline: attempt.deadline,
            owner: attempt.owner,
            log,
        };
        let smarthost = matches!(self.config.route, Route::Smarthost(_));
        let plan = Plan {
            host: &host.name,
            helo: &self.config.helo,
            encryption,
            smarthost,
            login,
            loopback: address.ip().is_loopback(),
            envelope: attempt.envelope,
            probe: attempt.probe,
        };
        let outcome = session.run(plan.clone(), attempt.bytes).await;
        match &outcome {
            // TLS that fails must not be worse than none where plain text would do (RFC 7435).
            Err(failure @ SendFailure::Temporary(problem))
                if problem.step == SendStep::Tls && encryption == Encryption::IfOffered && !smarthost =>
            {
                session.log.failed(Some(address), failure);
                session.run(Plan { encryption: Encryption::Off, ..plan }, attempt.bytes).await
            }
            _ => outcome,
        }
    }

    fn too_late(&self) -> SendFailure {
        let text = format!("no server was reached within {:?}: check the name servers", self.config.timeouts.total);
        SendFailure::Temporary(Problem { host: None, step: SendStep::Lookup, code: None, enhanced: None, text })
    }
}

/// `only`: without this name the recipient's domain cannot receive mail.
fn lookup_failure(name: &str, error: &LookupError, only: bool) -> SendFailure {
    let problem = Problem::new(name, SendStep::Lookup, format!("{name} {error}"));
    match error {
        LookupError::DomainMissing | LookupError::AddressMissing if only => SendFailure::Permanent(problem),
        _ => SendFailure::Temporary(problem),
    }
}

/// A password is not tried at further addresses: many servers lock an account after several failures.
fn another_may_accept(failure: &SendFailure) -> bool {
    matches!(failure, SendFailure::Temporary(problem) if problem.step != SendStep::Authentication)
}

/// Keeps the failure that came furthest: it says most about the message.
fn keep_furthest(furthest: &mut Option<SendFailure>, failure: SendFailure) {
    let step = |failure: &SendFailure| failure.problem().map(|problem| problem.step);
    if furthest.as_ref().is_none_or(|kept| step(kept) <= step(&failure)) {
        *furthest = Some(failure);
    }
}
