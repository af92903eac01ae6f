//! Samba as an Active Directory of its own: nothing of it is shared with the machine's.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use tempfile::TempDir;
use twinbox_testkit::{NetPlace, Process, wait_until};

/// The program, which Debian installs outside of the path of users.
pub(crate) const PROGRAM: &str = "/usr/sbin/samba";
/// Its ports are fixed.
const LDAP_PORT: u16 = 389;
const LDAPS_PORT: u16 = 636;
const REALM: &str = "CORP.EXAMPLE.ORG";
/// Services of a controller: a second one finds it by datagrams of LDAP and joins by remote procedure calls.
const SERVICES: &str = "ldap cldap rpc";

/// A running domain controller. Dropping it ends it and removes its data. It takes passwords over TLS only.
#[derive(Debug)]
pub struct Samba {
    process: Option<Process>,
    place: NetPlace,
    /// NetBIOS name of the controller.
    name: String,
    folder: TempDir,
    authority: Arc<TempDir>,
}

impl Samba {
    /// Name of the root entry.
    pub const SUFFIX: &'static str = "DC=corp,DC=example,DC=org";
    /// Name of the administrator.
    pub const ADMIN: &'static str = "administrator@corp.example.org";
    /// Name of an account with the rights of every user, whose password does not expire.
    pub const READER: &'static str = "twinbox@corp.example.org";
    /// Password of both.
    pub const PASSWORD: &'static str = "Passw0rd.of.the.test";

    /// Makes a domain, starts its first controller at `place`, and applies these changes (LDIF).
    pub fn start(place: &NetPlace, changes: &str) -> Self {
        let authority = Arc::new(folder());
        openssl(
            authority.path(),
            &["-subj", "/CN=Test CA", "-addext", "basicConstraints=critical,CA:TRUE"],
            ("ca.key", "ca.pem"),
        );
        let mut samba = Self::new(place, "DC1", authority);
        let mut provision = samba.tool(&["domain", "provision", "--server-role=dc", "--use-rfc2307"]);
        provision.args(["--domain=CORP", &format!("--realm={REALM}"), &format!("--adminpass={}", Self::PASSWORD)]);
        provision.args(["--host-name=DC1", &format!("--host-ip={}", place.ip)]);
        samba.made(provision);
        let reader = format!(
            "dn: CN=twinbox,CN=Users,{}\nchangetype: add\nobjectClass: user\nsAMAccountName: twinbox\n\
             userPrincipalName: {}\nuserAccountControl: 66048\nunicodePwd:: {}\n\n",
            Self::SUFFIX,
            Self::READER,
            Self::password(Self::PASSWORD),
        );
        samba.modify(&(reader + changes));
        samba
    }

    /// A second controller at `place`: it has the entries of this one under update sequence numbers of its own.
    pub fn join(&self, place: &NetPlace) -> Self {
        let mut other = Self::new(place, "DC2", self.authority.clone());
        let mut join = other.tool(&["domain", "join", "corp.example.org", "DC"]);
        join.arg(format!("--server={}", self.place.ip)).args(credentials());
        other.made(join);
        other
    }

    /// Fetches the changes of another controller, which runs; this one may have stopped. Controllers do not replicate
    /// otherwise.
    pub fn fetch(&self, other: &Self) {
        let (own, from) = (self.place.ip.to_string(), other.place.ip.to_string());
        let mut command = Command::new("samba-tool");
        command.args(["drs", "replicate", "--local", &own, &from, Self::SUFFIX]);
        command.arg("--configfile").arg(self.file("smb.conf")).args(credentials());
        run(command);
    }

    /// Value of `unicodePwd` for a password, for LDIF (`unicodePwd:: VALUE`).
    pub fn password(password: &str) -> String {
        let quoted: Vec<u8> = format!("\"{password}\"").encode_utf16().flat_map(u16::to_le_bytes).collect();
        STANDARD.encode(quoted)
    }

    /// Address of LDAP.
    pub fn ldap(&self) -> SocketAddr {
        self.place.port(LDAP_PORT)
    }

    /// Address of LDAP over TLS.
    pub fn ldaps(&self) -> SocketAddr {
        self.place.port(LDAPS_PORT)
    }

    /// Certificate of the authority, which is that of all controllers of the domain.
    pub fn ca_file(&self) -> PathBuf {
        self.authority.path().join("ca.pem")
    }

    /// Applies changes (LDIF with `changetype` lines) as the administrator.
    pub fn modify(&self, changes: &str) {
        let mut command = self.client("ldapmodify", Self::ADMIN);
        let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = streams.spawn().expect("ldapmodify runs");
        // Dropped at the end of the statement: ldapmodify reads to the end.
        child.stdin.take().expect("a pipe").write_all(changes.as_bytes()).expect("ldapmodify reads");
        let output = child.wait_with_output().expect("ldapmodify ends");
        assert!(output.status.success(), "ldapmodify: {}\n{changes}", String::from_utf8_lossy(&output.stderr));
    }

    /// The values of an attribute of entries below the root that match a filter, as the reader sees them.
    pub fn values(&self, filter: &str, attribute: &str) -> Vec<String> {
        self.read(&["-b", Self::SUFFIX, filter, attribute], attribute)
    }

    /// Highest update sequence number of the controller.
    pub fn highest_usn(&self) -> u64 {
        let attribute = "highestCommittedUSN";
        let values = self.read(&["-s", "base", "-b", "", "(objectClass=*)", attribute], attribute);
        values.first().and_then(|usn| usn.parse().ok()).expect("a controller has a number")
    }

    fn read(&self, arguments: &[&str], attribute: &str) -> Vec<String> {
        let mut command = self.client("ldapsearch", Self::READER);
        let found = run_for(command.args(["-LLL", "-o", "ldif-wrap=no"]).args(arguments));
        let prefix = format!("{attribute}: ");
        found.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(Duration::from_secs(20));
        }
    }

    /// Starts it again after a stop.
    pub fn resume(&mut self) {
        let mut command = Command::new(PROGRAM);
        command.args(["--interactive", "--model=single", "--debuglevel=1", "--configfile"]);
        command.arg(self.file("smb.conf"));
        let process = Process::start("samba", command, &self.place, &self.file("log"));
        wait_until("samba to listen", Duration::from_secs(90), || {
            assert!(!process.is_dead(), "samba has ended:\n{}", process.tail(30));
            self.place.tcp(self.ldaps()).is_ok()
        });
        self.process = Some(process);
    }

    /// A controller without data, with a certificate for its address.
    fn new(place: &NetPlace, name: &str, authority: Arc<TempDir>) -> Self {
        let samba =
            Self { process: None, place: place.clone(), name: name.to_owned(), folder: folder(), authority };
        let (ca, key) = (samba.ca_file(), samba.authority.path().join("ca.key"));
        let (ca, key) = (ca.to_string_lossy().into_owned(), key.to_string_lossy().into_owned());
        let name = format!("subjectAltName=IP:{}", place.ip);
        openssl(
            samba.folder.path(),
            &[
                "-subj",
                "/CN=controller",
                "-CA",
                &ca,
                "-CAkey",
                &key,
                "-addext",
                &name,
                "-addext",
                "basicConstraints=critical,CA:FALSE",
            ],
            ("tls.key", "tls.pem"),
        );
        for name in ["lock", "cache", "run"] {
            fs::create_dir(samba.file(name)).expect("a folder can be made");
        }
        fs::write(samba.file("smb.conf"), samba.configuration()).expect("smb.conf can be written");
        samba
    }

    fn configuration(&self) -> String {
        let file = |name: &str| self.file(name).display().to_string();
        let global = [
            ("server role", "active directory domain controller".to_owned()),
            ("server services", SERVICES.to_owned()),
            ("realm", REALM.to_owned()),
            ("workgroup", "CORP".to_owned()),
            ("netbios name", self.name.clone()),
            ("interfaces", format!("{}/8", self.place.ip)),
            ("bind interfaces only", "yes".to_owned()),
            ("private dir", file("data/private")),
            ("state directory", file("data/state")),
            ("binddns dir", file("data/bind-dns")),
            ("cache directory", file("cache")),
            ("lock directory", file("lock")),
            ("pid directory", file("run")),
            ("ncalrpc dir", file("run/ncalrpc")),
            ("log file", file("log.samba")),
            ("tls enabled", "yes".to_owned()),
            ("tls certfile", file("tls.pem")),
            ("tls keyfile", file("tls.key")),
            ("tls cafile", self.ca_file().display().to_string()),
            ("idmap_ldb:use rfc2307", "yes".to_owned()),
            ("vfs objects", "dfs_samba4 acl_xattr xattr_tdb".to_owned()),
        ];
        let mut text = "[global]\n".to_owned();
        for (word, value) in global {
            text += &format!("{word} = {value}\n");
        }
        let state = file("data/state");
        text += &format!("[sysvol]\npath = {state}/sysvol\nread only = no\n");
        text += &format!("[netlogon]\npath = {state}/sysvol/corp.example.org/scripts\nread only = no\n");
        text
    }

    /// A command of samba-tool that makes the data. It writes a configuration of its own beside them, which is not
    /// used.
    fn tool(&self, words: &[&str]) -> Command {
        let mut command = Command::new("samba-tool");
        command.args(words).arg("--configfile").arg(self.file("smb.conf"));
        command.arg(format!("--targetdir={}", self.file("data").display())).arg("--dns-backend=NONE");
        command
    }

    /// Makes the data, and starts.
    fn made(&mut self, tool: Command) {
        run(tool);
        self.resume();
    }

    /// A client of the controller that is signed in over TLS.
    fn client(&self, program: &str, user: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LDAPTLS_CACERT", self.ca_file());
        command.args(["-x", "-H", &format!("ldaps://{}", self.ldaps()), "-D", user, "-w", Self::PASSWORD]);
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("twinbox-ad-").tempdir().expect("a temporary folder")
}

/// The administrator, for samba-tool. Without DNS there is no Kerberos.
fn credentials() -> [String; 2] {
    [format!("-Uadministrator%{}", Samba::PASSWORD), "--use-kerberos=off".to_owned()]
}

/// Makes a key and a certificate for 30 days.
fn openssl(folder: &Path, arguments: &[&str], (key, certificate): (&str, &str)) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-days", "30", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.arg("-noenc").args(arguments).args(["-keyout", key, "-out", certificate]).current_dir(folder);
    run(command);
}

fn run(mut command: Command) {
    run_for(&mut command);
}

/// Runs a command; returns its output.
fn run_for(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
