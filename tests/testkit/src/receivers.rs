//! Receivers of alarms: an HTTP receiver, a syslog listener, and snmptrapd as receiver of traps.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{NetPlace, Process, wait_until};

/// An HTTP receiver that accepts every request. Ends with the test.
#[derive(Debug)]
pub struct WebReceiver {
    got: Arc<Mutex<Vec<(String, Value)>>>,
}

impl WebReceiver {
    /// Listens at a place.
    pub fn open(place: &NetPlace, port: u16) -> Self {
        let listener = place.listen(port);
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = got.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
                let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
                let whole = |text: &[u8]| {
                    let text = String::from_utf8_lossy(text).into_owned();
                    let (head, body) = text.split_once("\r\n\r\n")?;
                    let head = head.to_ascii_lowercase();
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
                    (length.parse() == Ok(body.len())).then(|| (head.clone(), body.to_owned()))
                };
                while whole(&text).is_none() {
                    match stream.read(&mut buffer) {
                        Ok(read) if read > 0 => text.extend_from_slice(&buffer[..read]),
                        _ => break,
                    }
                }
                let Some((head, body)) = whole(&text) else { continue };
                let body = serde_json::from_str(&body).unwrap_or(Value::Null);
                kept.lock().unwrap_or_else(PoisonError::into_inner).push((head, body));
                // A client that has disconnected does not need it.
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
            }
        });
        Self { got }
    }

    /// The received requests: head in lower case, and body.
    pub fn got(&self) -> Vec<(String, Value)> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A listener for syslog over UDP. Ends with the test.
#[derive(Debug)]
pub struct SyslogReceiver {
    got: Arc<Mutex<Vec<String>>>,
}

impl SyslogReceiver {
    /// Listens at a place.
    pub fn open(place: &NetPlace, port: u16) -> Self {
        let socket = place.udp(port);
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = got.clone();
        thread::spawn(move || {
            let mut line = [0; 4096];
            while let Ok(length) = socket.recv(&mut line) {
                let line = String::from_utf8_lossy(&line[..length]).into_owned();
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { got }
    }

    /// The received lines.
    pub fn got(&self) -> Vec<String> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// snmptrapd, from Debian's package of that name.
#[derive(Debug)]
pub struct Snmptrapd {
    log: std::path::PathBuf,
    process: Process,
}

impl Snmptrapd {
    /// Starts it at a place with these lines of configuration; its files are in `dir`.
    pub fn start(place: &NetPlace, port: u16, dir: &Path, lines: &[String]) -> Self {
        let (config, log) = (dir.join("snmptrapd.conf"), dir.join("snmptrapd.log"));
        fs::write(&config, lines.join("\n") + "\n").expect("written");
        let address: SocketAddr = place.port(port);
        let mut command = Command::new("snmptrapd");
        // In the foreground, with only its own configuration; one line per trap, with numeric names, tabs between.
        command
            .args(["-f", "-Lo", "-C", "-On", "-F", "TRAP\t%v\n", "-m", "", "-c"])
            .arg(&config)
            .arg(address.to_string());
        command.env("SNMP_PERSISTENT_DIR", dir).env("SNMPCONFPATH", dir);
        let process = Process::start("snmptrapd", command, place, &log);
        let started = Self { log, process };
        wait_until("snmptrapd to listen", Duration::from_secs(10), || {
            assert!(!started.process.is_dead(), "{}", started.process.tail(20));
            started.text().contains("NET-SNMP version")
        });
        started
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The received traps that it accepted: each as snmptrapd shows its bindings.
    pub fn got(&self) -> Vec<String> {
        self.text().lines().filter_map(|line| line.strip_prefix("TRAP\t").map(str::to_owned)).collect()
    }
}
