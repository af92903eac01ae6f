//! Forming a cluster by tokens, and certificates that renew themselves: real processes, the real command line.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use twinbox_clock::wall;
use twinbox_ids::Timestamp;
use twinbox_pki::{CertificateAuthority, JoinToken, MemberKind, NodeIdentity, Validity};
use twinbox_testkit::{Cli, Loopback, Place, Process, binary, holds, leave_message, wait_until};

const IN_SERVICE: Duration = Duration::from_secs(60);

/// A cluster that grows: each member has a folder and an address of its own.
struct Growing {
    members: Vec<Grown>,
    dir: TempDir,
    loopback: Loopback,
}

struct Grown {
    name: String,
    place: Place,
    home: PathBuf,
    process: Option<Process>,
}

fn twinbox(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().expect("the twinbox binary runs")
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Growing {
    /// One node, `a`, in service.
    fn new() -> Self {
        let mut growing = Self::formed(&["a"]);
        growing.start("a");
        growing.wait_in_service("a", &["a"]);
        growing
    }

    /// Made by `cluster init`, not started; `w` is a witness.
    fn formed(names: &[&str]) -> Self {
        let mut growing = Self {
            members: Vec::new(),
            dir: tempfile::Builder::new().prefix("twinbox-").tempdir().expect("a temporary folder"),
            loopback: Loopback::claim(),
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

    fn place(&self, name: &str) -> Place {
        self.loopback.place(name.bytes().next().unwrap_or(b'a') - b'a' + 1)
    }

    fn address(&self, name: &str) -> SocketAddr {
        self.place(name).port(7070)
    }

    fn cli(&self, name: &str) -> Cli {
        Cli::new(&self.dir.path().join(name).join("admin.sock"))
    }

    fn tls(&self, name: &str) -> PathBuf {
        self.dir.path().join(name).join("tls")
    }

    /// Gives a member's configuration the addresses of its place.
    fn settle(&mut self, name: &str) {
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
        fs::write(&config, text).expect("it can be changed");
        self.members.push(Grown { name: name.to_owned(), place, home, process: None });
    }

    fn member(&mut self, name: &str) -> &mut Grown {
        self.members.iter_mut().find(|m| m.name == name).unwrap_or_else(|| panic!("no member {name}"))
    }

    fn start(&mut self, name: &str) {
        let member = self.member(name);
        let mut command = Command::new(binary());
        command
            .arg(if name == "w" { "witness" } else { "node" })
            .arg("--config")
            .arg(member.home.join("twinbox.toml"));
        member.process = Some(Process::start(name, command, &member.place, &member.home.join("log")));
    }

    fn kill(&mut self, name: &str) {
        self.member(name).process = None;
    }

    fn token(&self, at: &str, more: &[&str]) -> String {
        let made = self.cli(at).json(&[&["cluster", "token"], more].concat());
        made["token"].as_str().expect("a token").to_owned()
    }

    fn join_command(&self, token: &str, name: &str, address: &str) -> Command {
        let mut command = Command::new(binary());
        command
            .args(["cluster", "join", token, "--name", name, "--address", address, "--dir"])
            .arg(self.dir.path());
        if name == "w" {
            command.arg("--witness");
        }
        command
    }

    fn join(&self, token: &str, name: &str, address: &str) -> Output {
        self.join_command(token, name, address).output().expect("the twinbox binary runs")
    }

    /// Joins by a token of `through`, and starts.
    fn grow(&mut self, through: &str, name: &str) {
        let token = self.token(through, if name == "w" { &["--witness"] } else { &[] });
        let joined = self.join(&token, name, &self.address(name).to_string());
        assert!(joined.status.success(), "{}", words(&joined));
        self.settle(name);
        self.start(name);
    }

    fn names(&self, at: &str) -> Vec<String> {
        let status = self.cli(at).status().unwrap_or_default();
        let members = status["members"].as_array().cloned().unwrap_or_default();
        members.iter().filter_map(|m| m["name"].as_str().map(str::to_owned)).collect()
    }

    fn wait_in_service(&mut self, at: &str, names: &[&str]) {
        let cli = self.cli(at);
        let mut last = None;
        let reached = holds(IN_SERVICE, || {
            last = cli.status();
            let members = last.as_ref()?["members"].as_array()?;
            let is = |name: &&str| members.iter().any(|m| m["name"] == **name && m["status"] == "in-service");
            let published = !last.as_ref()?["publisher"].as_str().unwrap_or_default().is_empty();
            (names.iter().all(is) && published).then_some(())
        });
        assert!(reached.is_some(), "{names:?} not in service for {at}: {last:#?}\n{}", self.tails());
    }

    fn tails(&self) -> String {
        self.members.iter().filter_map(|m| m.process.as_ref()).map(|p| p.tail(30)).collect()
    }

    /// The seconds that a node says its certificate has left.
    fn seconds_left(&self, name: &str) -> Option<f64> {
        let place = self.place(name);
        let mut stream = place.tcp(place.port(9090)).ok()?;
        std::io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
        let mut page = String::new();
        std::io::Read::read_to_string(&mut stream, &mut page).ok()?;
        let line = "twinbox_certificate_expires_seconds{certificate=\"node\"} ";
        page.lines().find_map(|l| l.strip_prefix(line)?.parse().ok())
    }
}

/// A number that protobuf's JSON may write as a text.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}

#[test]
fn a_cluster_grows_by_tokens_and_outlives_its_first_node() {
    let mut growing = Growing::new();
    growing.cli("a").json(&["user", "add", "1001", "--name", "Test", "--pin", "284617", "--keep-pin"]);
    growing.grow("a", "b");
    growing.wait_in_service("a", &["a", "b"]);
    growing.wait_in_service("b", &["a", "b"]);
    // What was there before it came is there, and what comes is on two.
    let b = growing.cli("b");
    wait_until("b has the user", Duration::from_secs(20), || b.try_messages("1001").is_ok());
    growing.grow("b", "w");
    growing.wait_in_service("a", &["a", "b", "w"]);
    let paired = |at: &str| {
        let status = growing.cli(at).status().unwrap_or_default();
        let members = status["members"].as_array().cloned().unwrap_or_default();
        members.iter().any(|m| m["name"] == at && number(&m["info"]["peers_counting"]) > 0)
    };
    wait_until("both nodes count", Duration::from_secs(20), || paired("a") && paired("b"));
    let (phones, a) = (growing.loopback.place(100), growing.place("a").port(5060));
    let deposit = leave_message(&phones, a, "1001", 1.5);
    assert!(deposit.acknowledged(), "{:?}", deposit.goodbye);
    let messages = || b.try_messages("1001").map_or(0, |m| m.len());
    wait_until("the message is on the node that joined", Duration::from_secs(10), || messages() == 1);

    // Its configuration names itself alone; it finds the others all the same, with its data and without.
    growing.kill("a");
    growing.start("a");
    growing.wait_in_service("a", &["a", "b", "w"]);
    growing.kill("a");
    fs::remove_dir_all(growing.dir.path().join("a/data")).expect("the disk is emptied");
    growing.start("a");
    growing.wait_in_service("a", &["a", "b", "w"]);
    let sealed = |name: &str| {
        let (tls, data) = (growing.tls(name), growing.dir.path().join(name).join("data"));
        twinbox_pki::Seal::new(&tls, &data.join("seal.key")).open().is_ok()
    };
    wait_until("the emptied node has the authority again", Duration::from_secs(20), || sealed("a"));
    assert!(sealed("b") && !growing.tls("w").join("ca.sealed").exists());

    // The first is lost for ever, and with it the folder of `cluster init`.
    growing.kill("a");
    for gone in ["a", "ca"] {
        fs::remove_dir_all(growing.dir.path().join(gone)).expect("lost");
    }
    growing.grow("b", "c");
    growing.wait_in_service("b", &["b", "c", "w"]);
    growing.wait_in_service("c", &["b", "c", "w"]);
    let c = growing.cli("c");
    wait_until("c has the message", Duration::from_secs(20), || c.try_messages("1001").is_ok_and(|m| m.len() == 1));
}

#[test]
fn tokens_and_wishes_that_will_not_do_are_refused_in_words_and_change_nothing() {
    let mut growing = Growing::new();
    growing.grow("a", "b");
    growing.wait_in_service("a", &["a", "b"]);
    let before = growing.names("a");
    let c = growing.address("c").to_string();
    let (good, witness) = (growing.token("a", &[]), growing.token("a", &["--witness"]));
    let short = growing.cli("a").json(&["cluster", "token", "--valid", "1s"]);
    let used = growing.token("b", &[]);
    let joined = growing.join(&used, "d", &growing.address("d").to_string());
    assert!(joined.status.success(), "{}", words(&joined));
    let expires = number(&short["expires_ms"]);
    wait_until("the short token ends", Duration::from_secs(10), || wall().0 > expires + 500);

    // Another cluster's token that leads here, and one of this cluster with a secret that nobody gave out.
    let token: JoinToken = good.parse().expect("a token");
    let ca_pem = fs::read_to_string(growing.dir.path().join("ca/ca.pem")).expect("the authority");
    let stranger = CertificateAuthority::create(token.cluster, "growing").expect("an authority");
    let made_up = |ca: &str| {
        JoinToken::new(token.cluster, ca, MemberKind::Node, token.expires, token.members.clone())
            .expect("a token")
            .to_string()
    };
    let cut = &good[..good.len() - 5];
    let (a, b) = (growing.address("a").to_string(), growing.address("b").to_string());
    let cases = [
        (used.as_str(), "c", c.as_str(), "used already, by 'd'"),
        (short["token"].as_str().expect("a token"), "c", &c, "expired"),
        (&made_up(stranger.certificate_pem()), "c", &c, "fingerprint differs"),
        (&made_up(&ca_pem), "c", &c, "does not know the token"),
        (cut, "c", &c, "damaged"),
        ("hello", "c", &c, "no join token"),
        (&witness, "c", &c, "add --witness"),
        (&good, "w", &c, "leave --witness out"),
        (&good, "b", &c, "is not empty"),
        (&good, "c", &b, "b is at"),
        (&good, "c", &a, "a is at"),
        (&good, "c", "nowhere", "HOST:PORT"),
    ];
    for (token, name, address, expected) in cases {
        let output = growing.join(token, name, address);
        assert!(!output.status.success() && words(&output).contains(expected), "{expected}: {}", words(&output));
        assert!(name == "b" || !growing.dir.path().join(name).exists(), "{expected}: something was left behind");
    }
    // A name that is taken, on a machine that does not have its folder.
    let elsewhere = TempDir::new().expect("a temporary folder");
    for taken in ["a", "b", "d"] {
        let mut command = Command::new(binary());
        command.args(["cluster", "join", &good, "--name", taken, "--address", &c, "--dir"]).arg(elsewhere.path());
        let output = command.output().expect("the twinbox binary runs");
        assert!(!output.status.success() && words(&output).contains("is taken"), "{}", words(&output));
        assert!(fs::read_dir(elsewhere.path()).expect("a folder").next().is_none(), "nothing is left behind");
    }
    assert_eq!(growing.names("a"), before);
    // After all of these it lets one in.
    let joined = growing.join(&good, "c", &c);
    assert!(joined.status.success(), "{}", words(&joined));
    let wrong = twinbox(&["--socket", "/nowhere", "cluster", "token", "--valid", "1x"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", words(&wrong));
}

#[test]
fn of_two_joins_at_once_with_one_token_exactly_one_wins() {
    let mut growing = Growing::new();
    growing.grow("a", "b");
    growing.wait_in_service("a", &["a", "b"]);
    let token = growing.token("a", &[]);
    let racers = ["c", "d", "e", "f"];
    let started: Vec<_> = racers
        .iter()
        .map(|name| {
            let mut command = growing.join_command(&token, name, &growing.address(name).to_string());
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().expect("the twinbox binary runs")
        })
        .collect();
    let outputs: Vec<_> = started.into_iter().map(|child| child.wait_with_output().expect("it ends")).collect();
    let winners: Vec<_> = racers.iter().zip(&outputs).filter(|(_, output)| output.status.success()).collect();
    assert_eq!(winners.len(), 1, "{}", outputs.iter().map(words).collect::<String>());
    let winner = *winners[0].0;
    for (name, output) in racers.iter().zip(&outputs).filter(|(name, _)| **name != winner) {
        assert!(words(output).contains(&format!("used already, by '{winner}'")), "{}", words(output));
        assert!(!growing.dir.path().join(name).exists(), "{name} left something behind");
    }
    growing.settle(winner);
    growing.start(winner);
    growing.wait_in_service("a", &["a", "b", winner]);
}

/// Certificates with seconds to live: renewed by the node itself, and for the witness by a node; when the old ones are
/// over, whoever comes back is let in.
#[test]
fn certificates_renew_themselves_before_they_end() {
    let mut growing = Growing::formed(&["a", "b", "w"]);
    let authority = CertificateAuthority::load(&growing.dir.path().join("ca")).expect("the authority");
    let now = wall().0;
    let short = Validity { from: Timestamp(now - 90_000), until: Timestamp(now + 20_000) };
    for (name, kind) in [("a", MemberKind::Node), ("b", MemberKind::Node), ("w", MemberKind::Witness)] {
        let issued = authority.issue_for(&name.parse().expect("a name"), kind, short).expect("a certificate");
        issued.save(&growing.tls(name)).expect("it can be written");
        growing.start(name);
    }
    const DAYS: f64 = 300.0 * 24.0 * 3_600.0;
    for name in ["a", "b"] {
        wait_until("a node's certificate is renewed", Duration::from_secs(15), || {
            growing.seconds_left(name).is_some_and(|left| left > DAYS)
        });
    }
    let renewed =
        |tls: &Path| NodeIdentity::load(tls).is_ok_and(|identity| identity.expires().0 > now + 86_400_000);
    wait_until("the witness's is, too", Duration::from_secs(15), || renewed(&growing.tls("w")));
    growing.wait_in_service("a", &["a", "b", "w"]);
    wait_until("the old ones are over", Duration::from_secs(40), || wall().0 > short.until.0 + 1_000);
    for name in ["b", "w"] {
        growing.kill(name);
        growing.start(name);
        growing.wait_in_service("a", &["a", "b", "w"]);
        growing.wait_in_service("b", &["a", "b", "w"]);
    }
}
