//! A cluster under measurement: its mailboxes, devices, configuration of mail, and metrics.

use std::{fs, net::SocketAddr, thread, time::Duration};

use twinbox_testkit::{Cluster, http_get, metric, wait_until};

/// Port on which nodes take mail, and of the receiver of mail out.
pub const SMTP: u16 = 2525;
/// First number of the mailboxes.
const FIRST: usize = 200_000;
/// Concurrent runs of the command line.
const AT_ONCE: usize = 4;

/// `[mail]` with mail in; mail out goes to `smarthost`, without TLS.
pub fn mail(smarthost: Option<SocketAddr>) -> Vec<String> {
    let mut lines = vec!["domain = \"voicemail.test\"".to_owned(), "hello = \"{node}.voicemail.test\"".to_owned()];
    lines.extend(smarthost.map(|smarthost| format!("smarthost = \"{smarthost}\"\ntls = \"off\"")));
    lines.push(format!("[mail.in]\nsmtp = [\"{{ip}}:{SMTP}\"]\nnetworks = [\"127.0.0.0/8\"]"));
    lines
}

/// `[voicemail]` without a bound on messages that a measurement could reach.
pub fn voicemail() -> Vec<String> {
    vec!["max_messages = 100000".to_owned()]
}

/// Makes mailboxes without PINs, known to both nodes; returns their numbers.
pub fn mailboxes(cluster: &Cluster, count: usize) -> Vec<String> {
    let numbers: Vec<String> = (0..count.max(1)).map(|n| (FIRST + n).to_string()).collect();
    let file = cluster.dir().join("mailboxes.csv");
    fs::write(&file, format!("number\n{}\n", numbers.join("\n"))).expect("the table of users can be written");
    cluster.cli("a").json(&["user", "import", &file.to_string_lossy()]);
    wait_until("both nodes know the mailboxes", Duration::from_secs(120), || {
        let last = &numbers[numbers.len() - 1];
        ["a", "b"].iter().all(|name| cluster.cli(name).try_messages(last).is_ok())
    });
    numbers
}

/// Gives each mailbox a mail device with these settings.
pub fn add_devices(cluster: &Cluster, numbers: &[String], settings: &[&str]) {
    let cli = cluster.cli("a");
    thread::scope(|scope| {
        for numbers in numbers.chunks(numbers.len().div_ceil(AT_ONCE).max(1)) {
            let cli = &cli;
            scope.spawn(move || {
                for number in numbers {
                    let address = format!("address={number}@example.test");
                    cli.json(&[&["device", "add", number, "bench", "mail", &address], settings].concat());
                }
            });
        }
    });
}

/// A metric of a node, summed over the labels; 0 if the node does not show it.
pub fn metric_of(cluster: &Cluster, node: &str, name: &str, labels: &str) -> f64 {
    let page = http_get(cluster.phones(), cluster.member(node).metrics(), "/metrics");
    page.and_then(|(_, page)| metric(&page, name, labels)).unwrap_or(0.0)
}
