//! Kamailio as the proxy in front of both nodes, with the configuration that the documentation recommends
//! (`tests/data/kamailio`).

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{NetPlace, Process, Transport, wait_until};

/// A running proxy. Dropping it ends all of its processes.
pub struct Kamailio {
    process: Process,
    address: SocketAddr,
}

impl Kamailio {
    /// Its place: next to the phones, with a separate address.
    pub fn place(phones: &NetPlace) -> NetPlace {
        let [a, b, c, _] = phones.ip.octets();
        phones.at(Ipv4Addr::new(a, b, c, 50))
    }

    /// Starts it at `place` on port 5060, over UDP and TCP, with these nodes behind it, which it reaches over
    /// `transport`. Its files go into `folder`.
    pub fn start(place: &NetPlace, nodes: &[SocketAddr], transport: Transport, folder: &Path) -> Self {
        let files = folder.join("kamailio");
        fs::create_dir_all(&files).expect("the proxy's folder can be made");
        let list = files.join("dispatcher.list");
        let line = |node: &SocketAddr| {
            let sets = [("1", "", 0), ("2", ";transport=tcp", 0), ("11", "", 8), ("12", ";transport=tcp", 8)];
            sets.map(|(set, how, flags)| format!("{set} sip:{node}{how} {flags} 0\n")).concat()
        };
        let lines = nodes.iter().map(line);
        fs::write(&list, lines.collect::<String>()).expect("the list of nodes can be written");
        let set = if transport == Transport::Udp { "1" } else { "2" };
        let list = list.to_string_lossy();
        let config = configuration(place, "kamailio.cfg", &[("MY_LIST", &list), ("MY_SET", set)]);
        Self::run(place, &config, &files)
    }

    /// Starts it as a registrar, which asks for the password `secret`, and forwards calls to registered phones.
    pub fn registrar(place: &NetPlace, folder: &Path) -> Self {
        let files = folder.join("registrar");
        fs::create_dir_all(&files).expect("the registrar's folder can be made");
        Self::run(place, &configuration(place, "registrar.cfg", &[]), &files)
    }

    fn run(place: &NetPlace, text: &str, files: &Path) -> Self {
        let config = files.join("kamailio.cfg");
        fs::write(&config, text).expect("the configuration can be written");
        // In a separate process namespace: its workers end with it, however it is killed.
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "kamailio", "-DD", "-m", "32", "-M", "4", "-f"]);
        command.arg(&config).arg("-Y").arg(files).env("PATH", path());
        let process = Process::start("kamailio", command, place, &files.join("log"));
        let kamailio = Self { process, address: place.port(5060) };
        wait_until("Kamailio to listen", Duration::from_secs(20), || {
            assert!(!kamailio.process.is_dead(), "Kamailio has ended:\n{}", kamailio.process.tail(30));
            place.tcp(kamailio.address).is_ok()
        });
        kamailio
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The last lines of its log.
    pub fn tail(&self, lines: usize) -> String {
        self.process.tail(lines)
    }
}

/// A file of `tests/data/kamailio` with these substitutions for its own values.
fn configuration(place: &NetPlace, file: &str, values: &[(&str, &str)]) -> String {
    let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/kamailio").join(file);
    let text = fs::read_to_string(&original).unwrap_or_else(|e| panic!("{}: {e}", original.display()));
    let address = place.ip.to_string();
    let values = values.iter().copied().chain([("MY_ADDRESS", address.as_str())]);
    values.fold(text, |text, (name, value)| {
        let is = |line: &str| line.starts_with(&format!("#!substdef \"!{name}!"));
        assert!(text.lines().any(is), "{name} is not in {}", original.display());
        let line = |line: &str| match is(line) {
            true => format!("#!substdef \"!{name}!{value}!g\"\n"),
            false => format!("{line}\n"),
        };
        text.lines().map(line).collect()
    })
}

/// The search path, including the administrator's programs.
fn path() -> PathBuf {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path.into()
}
