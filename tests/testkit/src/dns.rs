//! A name server with a few names (RFC 1035): just enough to direct a node or a phone.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::NetPlace;

/// Data of a record.
#[derive(Debug, Clone)]
pub enum Data {
    /// An address.
    A(Ipv4Addr),
    /// Priority, weight, port, host.
    Srv(u16, u16, u16, String),
    /// Preference, host; an empty host with the preference 0 for a domain that accepts no mail.
    Mx(u16, String),
}

impl Data {
    /// Parses a line of a zone file: `A` and `10.0.0.1`, `SRV` and `10 50 5060 a.example.com.`.
    pub fn read(kind: &str, text: &str) -> Option<Self> {
        match kind {
            "A" => Some(Self::A(text.parse().ok()?)),
            "SRV" => {
                let mut words = text.split(' ');
                let mut number = || words.next()?.parse().ok();
                let (priority, weight, port) = (number()?, number()?, number()?);
                Some(Self::Srv(priority, weight, port, words.next()?.trim_end_matches('.').to_owned()))
            }
            _ => None,
        }
    }
}

type Records = Vec<(String, Data)>;

/// A running name server; dropping it ends it.
pub struct NameServer {
    address: SocketAddr,
    asked: Arc<AtomicU64>,
    records: Arc<Mutex<Records>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// Answers for these names (without a last dot, lower case) at `place` on this port, with a TTL of one second. If a
    /// name has several records of a kind, their order rotates with each answer.
    pub fn start(place: &NetPlace, port: u16, records: Vec<(String, Data)>) -> Self {
        let socket = place.udp(port);
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
        let address = socket.local_addr().expect("a bound socket has an address");
        let (asked, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let records = Arc::new(Mutex::new(records));
        let (count, told, known) = (asked.clone(), stop.clone(), records.clone());
        let thread = Some(thread::spawn(move || {
            let (mut buffer, mut turn) = ([0_u8; 4096], 0);
            while !told.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                let records = known.lock().expect("nobody panics with the records").clone();
                if let Some(reply) = answer(&buffer[..length], &records, &mut turn) {
                    let _ = socket.send_to(&reply, from);
                }
            }
        }));
        Self { address, asked, records, stop, thread }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the records.
    pub fn set(&self, records: Vec<(String, Data)>) {
        *self.records.lock().expect("nobody panics with the records") = records;
    }

    /// Number of queries so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The labels of a name.
fn encode(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|l| !l.is_empty());
    let mut bytes: Vec<u8> = labels.flat_map(|l| [&[l.len() as u8], l.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}

fn answer(query: &[u8], records: &[(String, Data)], turn: &mut usize) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let (name, kind) = (labels.join("."), u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]));
    let known = records.iter().any(|(n, _)| *n == name);
    let mut found: Vec<Vec<u8>> = records
        .iter()
        .filter(|(n, _)| *n == name)
        .filter_map(|(_, data)| match (kind, data) {
            (1, Data::A(ip)) => Some(ip.octets().to_vec()),
            (15, Data::Mx(preference, host)) => Some([&preference.to_be_bytes()[..], &encode(host)].concat()),
            (33, Data::Srv(priority, weight, port, host)) => {
                let numbers = [priority, weight, port].map(|n| n.to_be_bytes()).concat();
                Some([numbers, encode(host)].concat())
            }
            _ => None,
        })
        .collect();
    if found.len() > 1 {
        *turn += 1;
        let first = *turn % found.len();
        found.rotate_left(first);
    }
    let mut reply = query.get(..2)?.to_vec();
    // An authoritative answer; 3: there is no such name.
    reply.extend([0x84 | (query.get(2)? & 1), if known { 0x80 } else { 0x83 }, 0, 1]);
    reply.extend((found.len() as u16).to_be_bytes());
    reply.extend([0, 0, 0, 0]);
    reply.extend(query.get(12..at + 4)?);
    for data in found {
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 1]);
        reply.extend((data.len() as u16).to_be_bytes());
        reply.extend(data);
    }
    Some(reply)
}
