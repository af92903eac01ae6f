//! SIPp as the generator: foreign callers, at the rate of a step.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use twinbox_testkit::{Place, Process, Speech};

/// The scenario; the name of the audio file is inserted.
const SCENARIO: &str = include_str!("../../data/sipp/deposit.xml");
/// Time limit of SIPp beyond the calls themselves.
const GRACE: Duration = Duration::from_secs(30);

/// Whether SIPp is installed.
pub fn is_there() -> bool {
    Command::new("sipp").arg("-v").output().is_ok()
}

/// Counts of SIPp.
pub struct Counted {
    /// Calls that followed the scenario, `200` to BYE included.
    pub well: u64,
    /// Calls that failed.
    pub badly: u64,
}

/// A run.
pub struct Sipp(Process);

impl Sipp {
    /// Begins `calls` calls at `rate` per second to `mailboxes` in turn, each `stay` long.
    pub fn start(
        place: &Place,
        folder: &Path,
        node: SocketAddr,
        mailboxes: &[String],
        rate: u32,
        calls: u32,
        stay: Duration,
    ) -> Self {
        let speech = folder.join("speech.ulaw");
        fs::write(&speech, Speech::new(1).bytes(0, 80_000)).expect("the audio can be written");
        let scenario = folder.join("deposit.xml");
        fs::write(&scenario, SCENARIO.replace("{speech}", &speech.to_string_lossy())).expect("it can be written");
        let numbers = folder.join("mailboxes.csv");
        fs::write(&numbers, table(mailboxes)).expect("the mailboxes can be written");
        let mut command = Command::new("sipp");
        let ip = place.ip.to_string();
        command.arg(node.to_string()).arg("-sf").arg(&scenario).arg("-inf").arg(&numbers);
        command.args(["-t", "u1", "-i", &ip, "-mi", &ip]);
        command.args(["-mp", "30000", "-key", "caller", "2001", "-nostdin"]);
        command.args(["-m", &calls.to_string(), "-l", &calls.to_string(), "-r", &rate.to_string()]);
        command.args(["-d", &stay.as_millis().to_string(), "-timeout"]);
        let long = stay + Duration::from_secs(u64::from(calls / rate.max(1))) + GRACE;
        command.arg(format!("{}s", long.as_secs())).env("TERM", "dumb").current_dir(folder);
        Self(Process::start("sipp", command, place, &folder.join("sipp.log")))
    }

    /// Waits for the end.
    pub fn finish(mut self, within: Duration) -> Counted {
        self.0.wait(within + GRACE * 2);
        let log = self.0.log();
        let count = |what: &str| {
            let line = log.lines().rev().find(|line| line.trim_start().starts_with(what));
            line.and_then(|line| line.rsplit('|').next()?.trim().parse().ok()).unwrap_or(0)
        };
        Counted { well: count("Successful call"), badly: count("Failed call") }
    }
}

/// SIPp's table of mailboxes: each call takes the next line, after the last the first again.
fn table(mailboxes: &[String]) -> String {
    format!("SEQUENTIAL\n{}\n", mailboxes.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenario_calls_the_mailboxes_of_the_table() {
        assert_eq!(table(&["3000".to_owned(), "3001".to_owned()]), "SEQUENTIAL\n3000\n3001\n");
        assert!(SCENARIO.contains("INVITE sip:[field0]@") && !SCENARIO.contains("[service]"));
    }
}
