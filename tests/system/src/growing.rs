//! A cluster that is formed and grows by the command line, with an adjustable time of day.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use twinbox_testkit::{Cli, Loopback, NetPlace, Process, binary, holds};

const IN_SERVICE: Duration = Duration::from_secs(60);

/// The program under test, run to its end.
pub fn twinbox(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().expect("the twinbox binary runs")
}

/// Its whole output.
pub fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A number that protobuf's JSON may write as a text.
pub fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}

/// A cluster that grows: each member has a separate folder and address.
pub struct Growing {
    members: Vec<Grown>,
    /// The folder of all members.
    pub dir: TempDir,
    /// Its addresses.
    pub loopback: Loopback,
    clock: Option<Clock>,
}

struct Grown {
    name: String,
    place: NetPlace,
    home: PathBuf,
    process: Option<Process>,
}

impl Growing {
    /// One node, `a`, in service.
    pub fn founded() -> Self {
        let mut growing = Self::formed(&["a"]);
        growing.start("a");
        growing.wait_in_service("a", &["a"]);
        growing
    }

    /// The same, with a clock that [`Growing::move_clock`] moves.
    pub fn founded_with_a_clock() -> Self {
        let mut growing = Self::formed(&["a"]);
        growing.take_clock();
        growing.start("a");
        growing.wait_in_service("a", &["a"]);
        growing
    }

    /// A cluster made by `cluster init`, not started; `w` is a witness.
    pub fn formed(names: &[&str]) -> Self {
        let mut growing = Self {
            members: Vec::new(),
            dir: tempfile::Builder::new().prefix("twinbox-").tempdir().expect("a temporary folder"),
            loopback: Loopback::claim(),
            clock: None,
        };
        let mut command = Command::new(binary());
        command.args(["cluster", "init", "--name", "growing", "--dir"]).arg(growing.dir.path());
        for name in names {
            let kind = if *name == "w" { "--witness" } else { "--node" };
            command.arg(kind).arg(format!("{name}={}", growing.place(name).port(7070)));
        }
        let made = command.output().expect("the twinbox binary runs");
        assert!(made.status.success(), "{}", words(&made));
        names.iter().for_each(|name| growing.settle(name));
        growing
    }

    /// Place of a member.
    pub fn place(&self, name: &str) -> NetPlace {
        self.loopback.place(name.bytes().next().unwrap_or(b'a') - b'a' + 1)
    }

    /// Address of a member for other members.
    pub fn address(&self, name: &str) -> SocketAddr {
        self.place(name).port(7070)
    }

    /// The command line on a node.
    pub fn cli(&self, name: &str) -> Cli {
        Cli::new(&self.dir.path().join(name).join("admin.sock"))
    }

    /// A member's certificates.
    pub fn tls(&self, name: &str) -> PathBuf {
        self.dir.path().join(name).join("tls")
    }

    /// Sets the addresses of a member's place in its configuration.
    pub fn settle(&mut self, name: &str) {
        let (place, home) = (self.place(name), self.dir.path().join(name));
        let config = home.join("twinbox.toml");
        let text = fs::read_to_string(&config).expect("a configuration was written");
        let callers = self.loopback.place(0).ip.to_string() + "/24";
        let text = text
            .replace("0.0.0.0:", &format!("{}:", place.ip))
            .replace("bind = \"0.0.0.0\"", &format!("bind = \"{}\"", place.ip))
            .replace("127.0.0.1:9090", &format!("{}:9090", place.ip))
            .replace("ports = \"10000-19999\"", "ports = \"10000-12999\"")
            .replace("127.0.0.0/8", &callers);
        // Enough time for a machine that is busy with other tests; joining members take the setting over from the
        // member that admits them.
        let text = match text.contains("ack_timeout_ms") || name == "w" {
            true => text,
            false => text.replace("tls_dir = \"tls\"", "tls_dir = \"tls\"\nack_timeout_ms = 1000"),
        };
        fs::write(&config, text).expect("it can be changed");
        self.members.push(Grown { name: name.to_owned(), place, home, process: None });
    }

    fn member(&mut self, name: &str) -> &mut Grown {
        self.members.iter_mut().find(|m| m.name == name).unwrap_or_else(|| panic!("no member {name}"))
    }

    /// Starts a member.
    pub fn start(&mut self, name: &str) {
        let clock = self.clock.clone();
        let member = self.member(name);
        let mut command = Command::new(binary());
        command
            .arg(if name == "w" { "witness" } else { "node" })
            .arg("--config")
            .arg(member.home.join("twinbox.toml"));
        clock.iter().for_each(|clock| clock.give_to(&mut command));
        member.process = Some(Process::start(name, command, &member.place, &member.home.join("log")));
    }

    /// `kill -9`, as when its host is lost.
    pub fn kill(&mut self, name: &str) {
        self.member(name).process = None;
    }

    /// Waits until a member's process has ended on its own, with success.
    pub fn wait_end(&mut self, name: &str) {
        let status = self.end_of(name);
        assert!(status.success(), "{name} ended with {status:?}\n{}", self.log(name));
    }

    /// Waits until the process of a removed member has refused to run.
    pub fn wait_failure(&mut self, name: &str) {
        let status = self.end_of(name);
        assert_eq!(status.code(), Some(2), "{name}\n{}", self.log(name));
    }

    fn end_of(&mut self, name: &str) -> std::process::ExitStatus {
        let member = self.member(name);
        let process = member.process.as_mut().unwrap_or_else(|| panic!("{name} does not run"));
        let ended = process.wait(IN_SERVICE).unwrap_or_else(|| panic!("{name} runs on\n{}", process.tail(40)));
        member.process = None;
        ended
    }

    /// Forgets a member here, so that another may be settled under its name.
    pub fn drop_member(&mut self, name: &str) {
        self.members.retain(|member| member.name != name);
    }

    /// A token from a node.
    pub fn token(&self, at: &str, more: &[&str]) -> String {
        let made = self.cli(at).json(&[&["cluster", "token"], more].concat());
        made["token"].as_str().expect("a token").to_owned()
    }

    /// The command of a joining member.
    pub fn join_command(&self, token: &str, name: &str, address: &str) -> Command {
        let mut command = Command::new(binary());
        command
            .args(["cluster", "join", token, "--name", name, "--address", address, "--dir"])
            .arg(self.dir.path());
        if name == "w" {
            command.arg("--witness");
        }
        command
    }

    /// Tries to join.
    pub fn join(&self, token: &str, name: &str, address: &str) -> Output {
        self.join_command(token, name, address).output().expect("the twinbox binary runs")
    }

    /// Joins by a token of `through`, and starts.
    pub fn grow(&mut self, through: &str, name: &str) {
        let token = self.token(through, if name == "w" { &["--witness"] } else { &[] });
        let joined = self.join(&token, name, &self.address(name).to_string());
        assert!(joined.status.success(), "{}", words(&joined));
        self.settle(name);
        self.start(name);
    }

    /// The members that a node knows.
    pub fn names(&self, at: &str) -> Vec<String> {
        let status = self.cli(at).status().unwrap_or_default();
        let members = status["members"].as_array().cloned().unwrap_or_default();
        members.iter().filter_map(|m| m["name"].as_str().map(str::to_owned)).collect()
    }

    /// Waits until these are in service, as `at` sees it.
    pub fn wait_in_service(&self, at: &str, names: &[&str]) {
        let cli = self.cli(at);
        let mut last = None;
        let reached = holds(IN_SERVICE, || {
            last = cli.status();
            let members = last.as_ref()?["members"].as_array()?;
            let is = |name: &&str| members.iter().any(|m| m["name"] == **name && m["status"] == "in-service");
            let published = !last.as_ref()?["publisher"].as_str().unwrap_or_default().is_empty();
            // The agreed status may be old; the quorum is current.
            let of_now = last.as_ref()?["quorum"] == true;
            (names.iter().all(is) && published && of_now).then_some(())
        });
        assert!(reached.is_some(), "{names:?} not in service for {at}: {last:#?}\n{}", self.tails());
    }

    /// The ends of all logs.
    pub fn tails(&self) -> String {
        self.members.iter().filter_map(|m| m.process.as_ref()).map(|p| p.tail(30)).collect()
    }

    /// Members started from now on have an adjustable clock, which [`Growing::move_clock`] moves.
    pub fn take_clock(&mut self) {
        self.clock = Some(Clock::new(self.dir.path()));
    }

    /// Moves the time of day of all members started since [`Growing::take_clock`], while they run: `+40d` from the real
    /// one.
    pub fn move_clock(&self, offset: &str) {
        self.clock.as_ref().expect("a clock was taken").move_to(offset);
    }

    /// The program under test, run to its end, at the members' time of day.
    pub fn twinbox(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        self.clock.iter().for_each(|clock| clock.give_to(&mut command));
        command.args(arguments).output().expect("the twinbox binary runs")
    }

    /// The same as an operator on another machine.
    pub fn operate(&self, node: SocketAddr, identity: &Path, command: &[&str]) -> Output {
        let (node, identity) = (node.to_string(), identity.to_string_lossy().into_owned());
        self.twinbox(&[&["--socket", "/nowhere", "--node", &node, "--identity", &identity], command].concat())
    }

    /// The log of a member.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name).join("log")).unwrap_or_default()
    }

    /// The subjects of the active alarms about certificates, as a node shows them.
    pub fn certificate_alarms(&self, at: &str) -> Vec<String> {
        let list = self.cli(at).json(&["alarm", "list"]);
        let all = list["alarms"].as_array().cloned().unwrap_or_default();
        let about = all.iter().filter(|alarm| alarm["code"] == "certificate-expiry" && alarm["state"] != "cleared");
        about.filter_map(|alarm| alarm["subject"].as_str().map(str::to_owned)).collect()
    }

    /// The remaining seconds of a node's certificate, by its metrics.
    pub fn seconds_left(&self, name: &str) -> Option<f64> {
        let place = self.place(name);
        let mut stream = place.tcp(place.port(9090)).ok()?;
        std::io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
        let mut page = String::new();
        std::io::Read::read_to_string(&mut stream, &mut page).ok()?;
        let line = "twinbox_certificate_expires_seconds{certificate=\"node\"} ";
        page.lines().find_map(|l| l.strip_prefix(line)?.parse().ok())
    }
}

/// The time of day of some processes, by Debian's faketime: a library that replaces the C library's functions, and
/// reads a file at each call. Monotonic and boot time stay real: they cannot be stepped.
#[derive(Debug, Clone)]
pub struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// The real time of day, kept in a file of this folder.
    pub fn new(dir: &Path) -> Self {
        let library = ["x86_64", "aarch64"].map(|m| format!("/usr/lib/{m}-linux-gnu/faketime/libfaketimeMT.so.1"));
        let library = library.iter().find(|path| Path::new(path).exists()).expect("faketime brings its library");
        let clock = Self { file: dir.join("clock"), library: library.into() };
        clock.move_to("+0");
        clock
    }

    /// The environment of processes that have this time of day.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
    }

    fn give_to(&self, command: &mut Command) {
        command.envs(self.environment());
    }

    /// Moves it, such as `+11m` from the real one, in one step: a reader finds the old offset or the new one.
    pub fn move_to(&self, offset: &str) {
        let aside = self.file.with_extension("new");
        fs::write(&aside, format!("{offset}\n")).expect("it can be written");
        fs::rename(&aside, &self.file).expect("it can be put in place");
    }
}
