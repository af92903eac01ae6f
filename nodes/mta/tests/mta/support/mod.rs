//! Fake mail servers and name servers, certificates and owners of connections.

mod certificates;
mod names;
mod server;

use std::{
    any::Any,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use twinbox_mta::{
    Delivered, Mailer, MailerConfig, Notify, Outgoing, Problem, Route, SendFailure, SendStep, Smarthost,
    SocketOwner, Timeouts, TlsMode,
};

pub use certificates::{Authority, Served};
pub use names::Names;
pub use server::{Answer, Fake, Script};

/// Holder of the duty for a limited number of checks.
pub struct Holder {
    checks: AtomicI64,
    guards: Arc<AtomicUsize>,
    owns: bool,
}

impl Holder {
    pub fn always() -> Self {
        Self::for_checks(i64::MAX)
    }

    /// Holds the duty for this number of checks.
    pub fn for_checks(checks: i64) -> Self {
        Self { checks: AtomicI64::new(checks), guards: Arc::default(), owns: true }
    }

    /// Lost the duty before the connection was made.
    pub fn refusing() -> Self {
        Self { owns: false, ..Self::always() }
    }

    /// Connections that are owned at the moment.
    pub fn owned(&self) -> usize {
        self.guards.load(SeqCst)
    }
}

struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl SocketOwner for Holder {
    fn own(&self, _: BorrowedFd<'_>) -> Option<Box<dyn Any + Send>> {
        self.owns.then(|| {
            self.guards.fetch_add(1, SeqCst);
            Box::new(Guard(self.guards.clone())) as Box<dyn Any + Send>
        })
    }

    fn may_write(&self) -> bool {
        self.checks.fetch_sub(1, SeqCst) > 0
    }
}

pub fn quick() -> Timeouts {
    let short = Duration::from_millis(400);
    Timeouts {
        lookup: Duration::from_secs(2),
        connect: short,
        greeting: short,
        command: short,
        block: short,
        final_reply: short,
        quit: Duration::from_millis(100),
        total: Duration::from_secs(20),
    }
}

pub fn config(route: Route) -> MailerConfig {
    let mut config = MailerConfig::new(route, "node.example.com");
    config.timeouts = quick();
    // No name server: nothing leaves this machine.
    config.dns_servers = vec!["127.0.0.1:9".parse().expect("an address")];
    config
}

pub fn smarthost(host: &str, port: u16, tls: TlsMode) -> MailerConfig {
    config(Route::Smarthost(Smarthost { host: host.to_owned(), port, tls, login: None }))
}

/// Sender to a fake server without TLS.
pub fn plain(fake: &Fake) -> Mailer {
    Mailer::new(smarthost("127.0.0.1", fake.port(), TlsMode::Off)).expect("a configuration")
}

pub fn mail() -> Outgoing {
    Outgoing {
        sender: Some("post@example.com".to_owned()),
        recipient: "anna@example.net".to_owned(),
        bytes: Bytes::from_static(b"Subject: message\r\n\r\nhello\r\n.\r\nend\r\n"),
        envelope_id: "id-1".to_owned(),
        notify: Notify::FailureAndDelay,
    }
}

pub fn temporary(outcome: Result<Delivered, SendFailure>) -> Problem {
    match outcome {
        Err(SendFailure::Temporary(problem)) => problem,
        other => panic!("not temporary: {other:?}"),
    }
}

pub fn permanent(outcome: Result<Delivered, SendFailure>) -> Problem {
    match outcome {
        Err(SendFailure::Permanent(problem)) => problem,
        other => panic!("not permanent: {other:?}"),
    }
}

/// Class and step of an outcome.
pub fn class(outcome: &Result<Delivered, SendFailure>) -> (&'static str, Option<SendStep>) {
    match outcome {
        Ok(_) => ("delivered", None),
        Err(SendFailure::Temporary(problem)) => ("temporary", Some(problem.step)),
        Err(SendFailure::Permanent(problem)) => ("permanent", Some(problem.step)),
        Err(SendFailure::Unknown(problem)) => ("unknown", Some(problem.step)),
        Err(SendFailure::NotHolder) => ("not holder", None),
    }
}
