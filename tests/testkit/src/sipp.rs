//! SIPp: a foreign caller. Its session description names an [`Endpoint`](crate::Endpoint), since it cannot record;
//! scenarios are in `tests/data/sipp`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{Lab, NetPlace, Process, Transport};

/// A run of SIPp.
#[derive(Debug, Clone)]
pub struct Sipp<'a> {
    /// The scenario's name: `deposit`, `deposit-late` …
    pub scenario: &'a str,
    /// UDP or TCP.
    pub transport: Transport,
    /// The node.
    pub node: SocketAddr,
    /// A name to call instead, and the lab whose name server resolves it.
    pub name: Option<(&'a str, &'a Lab)>,
    /// The called number.
    pub to: &'a str,
    /// The calling number.
    pub from: &'a str,
    /// The endpoint that its session description names.
    pub media: SocketAddr,
    /// Duration of each call.
    pub hold: Duration,
    /// Number of calls.
    pub calls: u32,
    /// Calls per second.
    pub rate: u32,
}

impl<'a> Sipp<'a> {
    /// One call.
    pub fn new(scenario: &'a str, node: SocketAddr, to: &'a str, media: SocketAddr, hold: Duration) -> Self {
        let (transport, name) = (Transport::Udp, None);
        Self { scenario, transport, node, name, to, from: "2001", media, hold, calls: 1, rate: 1 }
    }

    /// Sets the transport.
    pub fn over(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Sets a host name as target, resolved by SIPp itself at the phones' place of this lab.
    pub fn at(mut self, name: &'a str, lab: &'a Lab) -> Self {
        self.name = Some((name, lab));
        self
    }

    /// Sets the calling number.
    pub fn from(mut self, number: &'a str) -> Self {
        self.from = number;
        self
    }

    /// Sets the number of calls, and of calls per second.
    pub fn times(mut self, calls: u32, rate: u32) -> Self {
        (self.calls, self.rate) = (calls, rate);
        self
    }

    /// Starts it at `place`; its log goes into `folder`.
    pub fn start(&self, place: &NetPlace, folder: &Path) -> Running {
        let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/sipp").join(self.scenario);
        let scenario = fs::canonicalize(scenario.with_extension("xml"));
        let scenario = scenario.unwrap_or_else(|e| panic!("tests/data/sipp/{}.xml: {e}", self.scenario));
        let name = format!("sipp-{}-{}", self.scenario, self.media.port());
        let errors = folder.join(format!("{name}.errors"));
        let messages = folder.join(format!("{name}.messages"));
        let (mut command, here) = match self.name {
            // The lab's own command enters the place.
            Some((name, lab)) => {
                let mut command = lab.command(Path::new("sipp"));
                command.arg(name);
                (command, NetPlace::here(place.ip))
            }
            None => {
                let mut command = Command::new("sipp");
                command.arg(self.node.to_string());
                (command, place.clone())
            }
        };
        command.arg("-sf").arg(scenario).args(["-s", self.to]);
        command.args(["-t", if self.transport == Transport::Udp { "u1" } else { "t1" }]);
        if self.transport == Transport::Tcp {
            // A port that no other SIPp has or had: a closed connection leaves its port unusable for the same target.
            command.args(["-p", &self.media.port().to_string()]);
        }
        command.args(["-i", &place.ip.to_string(), "-mp", &sipp_port(self.media).to_string()]);
        command.args(["-m", &self.calls.to_string(), "-r", &self.rate.to_string()]);
        command.args(["-l", &self.calls.to_string(), "-d", &self.hold.as_millis().to_string()]);
        for (key, value) in [
            ("caller", self.from.to_owned()),
            ("kit_ip", self.media.ip().to_string()),
            ("kit_port", self.media.port().to_string()),
        ] {
            command.args(["-key", key, &value]);
        }
        // Long enough for the call and a slow machine, and no longer.
        let limit = self.hold + Duration::from_secs(30 + u64::from(self.calls / self.rate.max(1)));
        command.args(["-timeout", &format!("{}s", limit.as_secs()), "-timeout_error", "-nostdin"]);
        command.arg("-trace_err").arg("-error_file").arg(&errors);
        command.arg("-trace_msg").arg("-message_file").arg(&messages);
        command.args(["-trace_rtt", "-rtt_freq", "1"]);
        command.env("TERM", "dumb").current_dir(folder);
        let log = folder.join(format!("{name}.log"));
        let process = Process::start(&name, command, &here, &log);
        let setups = folder.join(format!("{}_{}_rtt.csv", self.scenario, process.pid()));
        Running { process, limit, errors, messages, setups }
    }
}

/// SIPp requires a media port though it sends no media; one that no endpoint has.
fn sipp_port(media: SocketAddr) -> u16 {
    20_000 + media.port() % 5_000 * 2
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

/// A running SIPp.
pub struct Running {
    process: Process,
    limit: Duration,
    errors: PathBuf,
    messages: PathBuf,
    setups: PathBuf,
}

/// Result of a run in which every call followed the scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Number of calls.
    pub calls: u32,
    /// Maximum time from INVITE to 200.
    pub longest_setup: Duration,
}

impl Running {
    /// Stops new calls; those in progress continue. Then as [`Running::finish`].
    pub fn stop(mut self) -> Finished {
        assert!(self.process.runs(), "SIPp has ended before it was told to\n{}", self.process.tail(60));
        self.process.signal(libc::SIGUSR1);
        self.finish()
    }

    /// True while it runs; false when it was told to come again later (`503`). Any other end fails the test.
    pub fn runs(&mut self) -> bool {
        let runs = self.process.runs();
        assert!(runs || read(&self.messages).contains("SIP/2.0 503"), "SIPp has ended\n{}", read(&self.messages));
        runs
    }

    /// Waits for its end; fails the test unless all calls followed the scenario.
    pub fn finish(mut self) -> Finished {
        let status = self.process.wait(self.limit + Duration::from_secs(10));
        let good = status.is_some_and(|s| s.success());
        assert!(good, "SIPp ended with {status:?}\n{}\n{}", read(&self.errors), read(&self.messages));
        let log = self.process.log();
        let count = |what: &str| {
            let line = log.lines().rev().find(|line| line.trim_start().starts_with(what));
            line.and_then(|line| line.rsplit('|').next()?.trim().parse().ok())
        };
        let (well, badly) = (count("Successful call"), count("Failed call"));
        let counted = (well, badly);
        assert!(badly == Some(0), "SIPp counted {counted:?} calls\n{}", self.process.tail(60));
        // After a heading: time, milliseconds, name of the timer.
        let setups = read(&self.setups);
        let times = setups.lines().filter_map(|line| line.split(';').nth(1)?.parse::<f64>().ok());
        let longest = times.fold(0.0, f64::max);
        Finished { calls: well.unwrap_or(0), longest_setup: Duration::from_secs_f64(longest / 1000.0) }
    }
}
