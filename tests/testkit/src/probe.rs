//! Probes of a running process from outside: its HTTP listeners, its memory.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    time::Duration,
};

use crate::NetPlace;

/// `GET path`: status and body; `None` without an answer.
pub fn http_get(from: &NetPlace, address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = from.tcp(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// The sum of a metric's samples whose line begins with `name` and contains `labels`.
pub fn metric(text: &str, name: &str, labels: &str) -> Option<f64> {
    let samples = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| {
        let (series, value) = l.rsplit_once(' ')?;
        let its_name = series.split('{').next()?;
        (its_name == name && series.contains(labels)).then(|| value.parse::<f64>().ok())?
    });
    samples.reduce(|a, b| a + b)
}

/// Resident memory of a process, in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|p| p.parse::<u64>().ok()).unwrap_or(0);
    pages * 4096
}

/// The most memory, in bytes, that was resident in a process at one time since its start, or since that was reset.
pub fn peak_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1_024
}

#[cfg(test)]
#[path = "../tests/unit/probe.rs"]
mod tests;
