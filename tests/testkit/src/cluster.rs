//! A cluster of real processes: two nodes, a witness, their disks, and the faults they suffer.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use tempfile::TempDir;
use twinbox_clock::BootInstant;

use crate::{
    Cli, Lab, Loopback, NetPlace, Process, Spec, Speech, StoredMessage, config::Page, g711::Law, process::binary,
    wait_for, wait_until,
};

/// Timeout for a cluster to be in service, on a slow machine with other tests running.
const IN_SERVICE: Duration = Duration::from_secs(60);

/// A user with a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The mailbox number.
    pub number: &'static str,
    /// The PIN, which need not be changed.
    pub pin: &'static str,
}

/// A member: its folder, its place, its process while it runs.
#[derive(Debug)]
pub struct Member {
    /// `a`, `b` or `w`.
    pub name: String,
    /// Its address and network namespace.
    pub place: NetPlace,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its data.
    pub data_dir: PathBuf,
    /// Its folder: configuration, TLS files, socket, log.
    pub home: PathBuf,
    /// Its environment, in addition to the common one.
    pub env: Vec<(&'static str, String)>,
    /// Its program, instead of the one under test.
    pub program: Option<PathBuf>,
    /// Its process, unless it was killed.
    pub process: Option<Process>,
}

impl Member {
    /// Its SIP address.
    pub fn sip(&self) -> SocketAddr {
        self.place.port(5060)
    }

    /// Its metrics address.
    pub fn metrics(&self) -> SocketAddr {
        self.place.port(9090)
    }

    /// The command line on this node.
    pub fn cli(&self) -> Cli {
        Cli::new(&self.home.join("admin.sock"))
    }

    /// The pid of the process that takes calls or votes: a node's own process, not its supervisor.
    pub fn pid(&self) -> u32 {
        let process = self.process.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        if self.kind() == "node" { process.child_pid() } else { process.pid() }
    }

    fn kind(&self) -> &'static str {
        if self.name == "w" { "witness" } else { "node" }
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.home.join("log")).unwrap_or_default()).into_owned()
    }
}

/// A cluster. Dropping it kills its processes and removes its files; after a failure it prints the ends of their
/// logs first (`TWINBOX_KEEP=1` keeps the files).
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    phones: NetPlace,
    dir: Option<TempDir>,
    _loopback: Option<Loopback>,
}

impl Cluster {
    /// Two users that every cluster has.
    pub const USERS: [User; 2] = [User { number: "1001", pin: "284617" }, User { number: "1002", pin: "739528" }];

    /// A cluster on separate loopback addresses, in service.
    pub fn start(spec: &Spec) -> Self {
        Self::start_at(spec, Loopback::claim())
    }

    /// As [`Cluster::start`], with a helper at the phones' place that exists before the cluster: both are made from
    /// that place.
    pub fn start_with<T>(spec: impl FnOnce(&NetPlace) -> Spec, make: impl FnOnce(&NetPlace) -> T) -> (Self, T) {
        let loopback = Loopback::claim();
        let phones = loopback.place(PHONES);
        let made = make(&phones);
        (Self::start_at(&spec(&phones), loopback), made)
    }

    fn start_at(spec: &Spec, loopback: Loopback) -> Self {
        let places =
            ["a", "b", "w"].iter().zip(1..).map(|(n, last)| (n.to_string(), loopback.place(last))).collect();
        let callers = loopback.place(0).ip.to_string() + "/24";
        let phones = loopback.place(PHONES);
        Self::form(spec, places, phones, callers, Some(loopback))
    }

    /// A cluster in a lab that has machines `a`, `b` and `w`.
    pub fn start_in(lab: &Lab, spec: &Spec) -> Self {
        let places = ["a", "b", "w"].iter().map(|n| (n.to_string(), lab.place(n))).collect();
        Self::form(spec, places, lab.phones(), "10.77.0.0/24".to_owned(), None)
    }

    fn form(
        spec: &Spec,
        mut places: Vec<(String, NetPlace)>,
        phones: NetPlace,
        callers: String,
        loopback: Option<Loopback>,
    ) -> Self {
        if !spec.witness {
            places.pop();
        }
        let dir = tempfile::Builder::new().prefix("twinbox-").tempdir().expect("a temporary folder");
        let home = dir.path().join("cluster");
        let members: Vec<(String, &'static str, SocketAddr)> = places
            .iter()
            .map(|(n, p)| (n.clone(), if n == "w" { "witness" } else { "node" }, p.port(7070)))
            .collect();
        let id = init(spec.program.clone().unwrap_or_else(binary), &home, &members);
        let members = places
            .iter()
            .map(|(name, place)| {
                let home = home.join(name);
                let elsewhere = spec.data_dirs.iter().find(|(n, _)| n == name).map(|(_, d)| d.clone());
                let data_dir = elsewhere.unwrap_or_else(|| home.join("data"));
                if data_dir != home.join("data") {
                    move_into(&home.join("data"), &data_dir);
                }
                let (cluster_name, cluster_id, callers) = (NAME, id.as_str(), callers.clone());
                let page = Page {
                    spec,
                    cluster_name,
                    cluster_id,
                    name,
                    place,
                    home: &home,
                    data_dir: &data_dir,
                    members: &members,
                    callers,
                };
                let config = home.join("twinbox.toml");
                fs::write(&config, page.text()).expect("the configuration can be written");
                let own = spec.env.iter().filter(|(whose, ..)| whose == name);
                let env = own.map(|(_, key, value)| (*key, value.clone())).collect();
                Member {
                    name: name.clone(),
                    place: place.clone(),
                    config,
                    data_dir,
                    home,
                    env,
                    program: spec.program.clone(),
                    process: None,
                }
            })
            .collect();
        let mut cluster = Self { members, phones, dir: Some(dir), _loopback: loopback };
        cluster.start_all();
        if !spec.raw {
            cluster.wait_in_service();
            for user in Self::USERS {
                let cli = cluster.member("a").cli();
                cli.json(&["user", "add", user.number, "--name", "Test", "--pin", user.pin, "--keep-pin"]);
            }
            let knows = |n: &str| cluster.cli(n).try_messages(Self::USERS[1].number).is_ok();
            wait_until("both nodes know the users", Duration::from_secs(10), || knows("a") && knows("b"));
        }
        cluster
    }

    /// A member by name.
    pub fn member(&self, name: &str) -> &Member {
        self.members.iter().find(|m| m.name == name).unwrap_or_else(|| panic!("no member {name}"))
    }

    /// A member by name, to change it.
    pub fn member_mut(&mut self, name: &str) -> &mut Member {
        self.members.iter_mut().find(|m| m.name == name).unwrap_or_else(|| panic!("no member {name}"))
    }

    /// All members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The command line on a node.
    pub fn cli(&self, name: &str) -> Cli {
        self.member(name).cli()
    }

    /// A node's SIP address.
    pub fn sip(&self, name: &str) -> SocketAddr {
        self.member(name).sip()
    }

    /// Place of the phones and the PBX.
    pub fn phones(&self) -> &NetPlace {
        &self.phones
    }

    /// The folder of all members.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("a cluster has its folder until it is dropped").path()
    }

    /// Starts a member that does not run.
    pub fn start_member(&mut self, name: &str) {
        let member = self.member_mut(name);
        assert!(member.process.is_none(), "{name} runs already");
        let mut command = Command::new(member.program.clone().unwrap_or_else(binary));
        command.arg(member.kind()).arg("--config").arg(&member.config).env("RUST_BACKTRACE", "1");
        command.envs(member.env.iter().map(|(key, value)| (key, value)));
        member.process = Some(Process::start(name, command, &member.place, &member.home.join("log")));
    }

    /// Starts all members that do not run.
    pub fn start_all(&mut self) {
        let idle: Vec<String> =
            self.members.iter().filter(|m| m.process.is_none()).map(|m| m.name.clone()).collect();
        idle.iter().for_each(|name| self.start_member(name));
    }

    /// `kill -9` of a node and its supervisor, or of a witness, as when its host is lost: no supervisor reports it.
    pub fn kill(&mut self, name: &str) {
        self.member_mut(name).process = None;
    }

    /// `kill -9` of a node's own process: its supervisor reports it, and starts the next. Returns the old pid.
    pub fn kill_child(&self, name: &str) -> u32 {
        let pid = self.member(name).pid();
        // SAFETY: kill takes two numbers and touches no memory.
        unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        pid
    }

    /// `kill -9` of a node's supervisor: the node continues, with the returned pid.
    pub fn lose_supervisor(&mut self, name: &str) -> u32 {
        let process = self.member_mut(name).process.as_mut();
        process.unwrap_or_else(|| panic!("{name} does not run")).lose_supervisor()
    }

    /// Starts the next supervisor of a node whose supervisor was lost.
    pub fn replace_supervisor(&mut self, name: &str) {
        let lost = self.member_mut(name).process.take().unwrap_or_else(|| panic!("{name} does not run"));
        self.start_member(name);
        if let Some(process) = &mut self.member_mut(name).process {
            process.inherit(lost);
        }
    }

    /// `kill -9` of all members concurrently, supervisors too: every signal is sent before any exit is awaited.
    pub fn kill_all(&mut self) {
        for step in [Process::hold, Process::send_kill] {
            self.members.iter_mut().filter_map(|m| m.process.as_mut()).for_each(step);
        }
        self.members.iter_mut().for_each(|m| m.process = None);
    }

    /// SIGTERM; the member must end on its own, with success.
    pub fn stop(&mut self, name: &str) {
        let status = self.member_mut(name).process.as_mut().map(|p| p.stop(Duration::from_secs(15)));
        assert!(status.is_some_and(|s| s.success()), "{name} ended with {status:?}");
        self.member_mut(name).process = None;
    }

    /// Empties the disk of a member that does not run.
    pub fn wipe(&mut self, name: &str) {
        let member = self.member(name);
        assert!(member.process.is_none(), "{name} still runs");
        for entry in fs::read_dir(&member.data_dir).expect("the data folder is there").flatten() {
            let path = entry.path();
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }

    /// Waits until every member that runs is in service, as every node that runs sees it.
    pub fn wait_in_service(&self) -> Duration {
        let names: Vec<&str> =
            self.members.iter().filter(|m| m.process.is_some()).map(|m| m.name.as_str()).collect();
        self.wait_for_status(&names, "in-service")
    }

    /// Waits until these members have this status, as every node that runs sees it.
    pub fn wait_for_status(&self, names: &[&str], status: &str) -> Duration {
        let begun = BootInstant::now();
        let running = || self.members.iter().filter(|m| m.kind() == "node" && m.process.is_some());
        let nodes = running().count();
        // A status may be that of before a loss: only a majority makes it that of now.
        let alive = self.members.iter().filter(|m| m.process.is_some()).count();
        let majority = status == "in-service" && 2 * alive > self.members.len();
        for node in running() {
            let mut last = None;
            let reached = crate::holds(IN_SERVICE, || {
                for member in &self.members {
                    assert!(!member.process.as_ref().is_some_and(Process::is_dead), "{} has ended", member.name);
                }
                last = node.cli().status();
                let members = last.as_ref()?["members"].as_array()?;
                let has = |name: &str, status| members.iter().any(|m| m["name"] == *name && m["status"] == status);
                let is = |name: &&str| has(name, status);
                // From here on writes are acknowledged on two, if two nodes run.
                let counts = |m: &serde_json::Value| m["info"]["peers_counting"].as_u64().unwrap_or(0) > 0;
                let paired = nodes < 2 || members.iter().any(|m| m["name"] == *node.name && counts(m));
                let published = !last.as_ref()?["publisher"].as_str().unwrap_or_default().is_empty();
                // A status with an ended node in service is that of before. A shared witness is no process of this cluster.
                let old = |m: &Member| m.kind() == "node" && m.process.is_none() && has(&m.name, "in-service");
                let agreed = !majority || (last.as_ref()?["quorum"] == true && !self.members.iter().any(old));
                (names.iter().all(is) && published && paired && agreed).then_some(())
            });
            assert!(reached.is_some(), "{names:?} not {status} for {} after {IN_SERVICE:?}: {last:#?}", node.name);
        }
        begun.elapsed()
    }

    /// The publisher, as `asked` sees it; waits for one.
    pub fn publisher(&self, asked: &str) -> String {
        wait_for("a publisher", IN_SERVICE, || self.cli(asked).publisher())
    }

    /// The publisher and the other node, as `a` or another running node sees it.
    pub fn publisher_and_other(&self) -> (String, String) {
        let publisher = self.publisher("a");
        let other = if publisher == "a" { "b" } else { "a" };
        (publisher, other.to_owned())
    }

    /// Waits until `node` has exactly `count` messages in `mailbox`.
    pub fn wait_for_messages(
        &self,
        node: &str,
        mailbox: &str,
        count: usize,
        limit: Duration,
    ) -> Vec<StoredMessage> {
        let mut last = Err("not asked yet".to_owned());
        let cli = self.cli(node);
        let found = crate::holds(limit, || {
            last = cli.try_messages(mailbox);
            last.as_ref().ok().filter(|m| m.len() == count).cloned()
        });
        found.unwrap_or_else(|| {
            panic!("{node} does not have {count} messages in {mailbox} within {limit:?}: {last:#?}")
        })
    }

    /// The one message of `mailbox` on `node` that contains `speech`; its audio must be only a piece of the spoken
    /// bytes, bit for bit. Returns it with the piece.
    pub fn find(
        &self,
        node: &str,
        mailbox: &str,
        speech: &Speech,
        spoken: usize,
    ) -> Option<(StoredMessage, crate::Found, usize)> {
        let cli = self.cli(node);
        cli.messages(mailbox).into_iter().find_map(|message| {
            let audio = cli.audio(mailbox, &message.id, Law::Mu).ok()?;
            let found = speech.find_in(&audio, spoken)?;
            Some((message, found, audio.len()))
        })
    }

    /// All messages of `mailbox` on `node`, each with its audio in G.711 µ-law.
    pub fn heard(&self, node: &str, mailbox: &str) -> Vec<(StoredMessage, Vec<u8>)> {
        let cli = self.cli(node);
        let audio =
            |message: StoredMessage| Some((message.clone(), cli.audio(mailbox, &message.id, Law::Mu).ok()?));
        cli.messages(mailbox).into_iter().filter_map(audio).collect()
    }

    /// The ends of all logs.
    pub fn tails(&self, lines: usize) -> String {
        let tail = |m: &Member| {
            let log = m.log();
            let all: Vec<&str> = log.lines().collect();
            format!(
                "--- {}: last lines of {} ---\n{}\n",
                m.name,
                all.len(),
                all[all.len().saturating_sub(lines)..].join("\n")
            )
        };
        self.members.iter().map(tail).collect()
    }
}

const NAME: &str = "test";
/// Last byte of the phones' address.
const PHONES: u8 = 100;

/// `cluster init`; returns the cluster's id, from the files that it wrote.
fn init(program: PathBuf, dir: &Path, members: &[(String, &'static str, SocketAddr)]) -> String {
    let mut command = Command::new(program);
    command.args(["cluster", "init", "--name", NAME, "--dir"]).arg(dir);
    for (name, kind, address) in members {
        command.arg(format!("--{kind}")).arg(format!("{name}={address}"));
    }
    let output = command.output().expect("the twinbox binary runs");
    assert!(output.status.success(), "cluster init: {}", String::from_utf8_lossy(&output.stderr));
    let made = fs::read_to_string(dir.join("a/twinbox.toml")).expect("cluster init writes a/twinbox.toml");
    let id = made.lines().find_map(|l| l.strip_prefix("id = \"")?.strip_suffix('"'));
    id.unwrap_or_else(|| panic!("no id in\n{made}")).to_owned()
}

fn move_into(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the data folder can be made");
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("what init left can be copied");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Let the effects of the failure reach the logs.
            sleep(Duration::from_millis(200));
            eprintln!("{}", self.tails(60));
        }
        self.kill_all();
        if std::env::var_os("TWINBOX_KEEP").is_some()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("kept: {}", dir.keep().display());
        }
    }
}
