//! SIPp as many foreign callers who leave messages, at a steady rate. Each has a number of its own, so that a message tells whose it
//! is. Calls may fail: the caller of these functions judges.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use twinbox_testkit::{Found, NetPlace, Process, Speech};

/// The scenario; the name of the audio file is inserted.
const SCENARIO: &str = include_str!("../../data/sipp/deposit.xml");
/// Time limit of SIPp beyond the calls themselves.
const GRACE: Duration = Duration::from_secs(30);
/// Length of the speech of all callers, in samples: 10 s. SIPp plays it from the beginning in each call, and again after its end.
const LENGTH: usize = 80_000;

fn speech() -> Speech {
    Speech::new(1)
}

/// The longest piece of these callers' speech that a message contains, bit for bit.
pub fn find_speech_of_depositors(message: &[u8]) -> Option<Found> {
    speech().find_in(message, LENGTH)
}

/// Callers who leave messages on a node.
#[derive(Debug, Clone, Copy)]
pub struct Depositors<'a> {
    /// The node.
    pub node: SocketAddr,
    /// Mailboxes, with the number of the caller who calls there; after the last, the first again.
    pub calls: &'a [(String, String)],
    /// Number of calls.
    pub times: u32,
    /// Calls per second.
    pub rate: u32,
    /// Time from the `#` that skips the greeting to the BYE.
    pub stay: Duration,
    /// First port of their media, which no other run at the same place has.
    pub media_port: u16,
}

/// A run.
pub struct Depositing {
    process: Process,
    told: PathBuf,
    limit: Duration,
}

/// Counts of SIPp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Calls that followed the scenario, `200` to BYE included.
    pub well: u64,
    /// Calls that failed.
    pub badly: u64,
}

impl Depositors<'_> {
    /// Begins the calls at `place`. SIPp's files go into `folder`, which is made; no other run may have it.
    pub fn start(&self, place: &NetPlace, folder: &Path) -> Depositing {
        fs::create_dir_all(folder).expect("the folder can be made");
        let write = |name: &str, content: &[u8]| {
            let file = folder.join(name);
            fs::write(&file, content).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            file
        };
        let speech = write("speech.ulaw", &speech().bytes(0, LENGTH));
        let scenario = write("deposit.xml", SCENARIO.replace("{speech}", &speech.to_string_lossy()).as_bytes());
        let numbers = write("calls.csv", table(self.calls).as_bytes());
        let told = folder.join("acknowledged");
        let mut command = Command::new("sipp");
        let ip = place.ip.to_string();
        command.arg(self.node.to_string()).arg("-sf").arg(&scenario).arg("-inf").arg(&numbers);
        command.args(["-t", "u1", "-i", &ip, "-mi", &ip, "-nostdin"]);
        command.args(["-mp", &self.media_port.to_string()]);
        command.arg("-trace_logs").arg("-log_file").arg(&told);
        let times = self.times.to_string();
        command.args(["-m", &times, "-l", &times, "-r", &self.rate.to_string()]);
        let limit = self.stay + Duration::from_secs(u64::from(self.times / self.rate.max(1))) + GRACE;
        command.args(["-d", &self.stay.as_millis().to_string(), "-timeout", &format!("{}s", limit.as_secs())]);
        command.env("TERM", "dumb").current_dir(folder);
        Depositing { process: Process::start("sipp", command, place, &folder.join("log")), told, limit }
    }
}

impl Depositing {
    /// Numbers of the callers whose BYE was answered `200` so far.
    pub fn acknowledged(&self) -> BTreeSet<String> {
        fs::read_to_string(&self.told).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Ends all calls at once; the numbers of the callers whose BYE was answered `200`.
    pub fn abandon(mut self) -> BTreeSet<String> {
        self.process.kill();
        self.acknowledged()
    }

    /// Waits for the end.
    pub fn finish(&mut self) -> Counted {
        self.process.wait(self.limit + GRACE);
        let log = self.process.log();
        let count = |what: &str| {
            let line = log.lines().rev().find(|line| line.trim_start().starts_with(what));
            line.and_then(|line| line.rsplit('|').next()?.trim().parse().ok()).unwrap_or(0)
        };
        Counted { well: count("Successful call"), badly: count("Failed call") }
    }
}

/// SIPp's table of calls: each takes the next line.
fn table(calls: &[(String, String)]) -> String {
    calls.iter().fold("SEQUENTIAL\n".to_owned(), |table, (mailbox, caller)| format!("{table}{mailbox};{caller}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenario_calls_the_mailboxes_of_the_table() {
        let calls = [("3000", "2001"), ("3001", "2002")].map(|(to, from)| (to.to_owned(), from.to_owned()));
        assert_eq!(table(&calls), "SEQUENTIAL\n3000;2001\n3001;2002\n");
        assert!(SCENARIO.contains("INVITE sip:[field0]@") && SCENARIO.contains("From: <sip:[field1]@"));
    }
}
