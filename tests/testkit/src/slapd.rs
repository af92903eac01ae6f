//! slapd, OpenLDAP's directory server, with a database of its own.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{NetPlace, Process, wait_until};

const LDAP_PORT: u16 = 3389;
const LDAPS_PORT: u16 = 3636;

/// A running slapd for `dc=example,dc=org`. Dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Slapd {
    process: Option<Process>,
    place: NetPlace,
    tls: bool,
    folder: TempDir,
}

/// Settings of a [`Slapd`].
#[derive(Debug, Clone, Default)]
pub struct SlapdSettings {
    /// Certificate and key of the server for StartTLS and `ldaps`.
    pub tls: Option<SlapdTls>,
    /// The database tells its changes (RFC 4533).
    pub syncprov: bool,
    /// Changes of which the server can name deletions; without it names what is present.
    pub session_log: Option<u32>,
    /// Further lines of the database's configuration.
    pub lines: Vec<String>,
}

/// Files for TLS, in PEM.
#[derive(Debug, Clone)]
pub struct SlapdTls {
    /// Certificate of the server.
    pub certificate: PathBuf,
    /// Key of the server.
    pub key: PathBuf,
}

impl Slapd {
    /// Name of the root entry.
    pub const SUFFIX: &'static str = "dc=example,dc=org";
    /// Name of the administrator.
    pub const ADMIN: &'static str = "cn=admin,dc=example,dc=org";
    /// Password of the administrator.
    pub const PASSWORD: &'static str = "directory-secret";

    /// Starts it at `place` with these entries (LDIF).
    pub fn start(place: &NetPlace, settings: &SlapdSettings, entries: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("twinbox-slapd-").tempdir().expect("a temporary folder");
        let mut slapd = Self { process: None, place: place.clone(), tls: settings.tls.is_some(), folder };
        fs::create_dir(slapd.file("data")).expect("a folder can be made");
        fs::write(slapd.file("slapd.conf"), slapd.configuration(settings)).expect("slapd.conf can be written");
        fs::write(slapd.file("entries.ldif"), entries).expect("entries can be written");
        let mut command = Command::new("/usr/sbin/slapadd");
        command.args(["-q", "-w", "-f", "slapd.conf", "-l", "entries.ldif"]).current_dir(slapd.folder.path());
        let output = command.output().expect("slapadd runs");
        assert!(output.status.success(), "slapadd: {}", String::from_utf8_lossy(&output.stderr));
        slapd.resume();
        slapd
    }

    fn configuration(&self, settings: &SlapdSettings) -> String {
        let mut text = String::new();
        for schema in ["core", "cosine", "inetorgperson"] {
            text += &format!("include /etc/ldap/schema/{schema}.schema\n");
        }
        text += "modulepath /usr/lib/ldap\nmoduleload back_mdb\n";
        if settings.syncprov {
            text += "moduleload syncprov\n";
        }
        // Paths relative to the folder: slapadd 2.5 corrupts its heap with some long ones.
        text += "pidfile pid\nsizelimit unlimited\n";
        if let Some(tls) = &settings.tls {
            let (certificate, key) = (tls.certificate.display(), tls.key.display());
            text += &format!("TLSCertificateFile {certificate}\nTLSCertificateKeyFile {key}\n");
        }
        text += &format!(
            "database mdb\nmaxsize 4294967296\nsuffix \"{}\"\nrootdn \"{}\"\nrootpw {}\ndirectory data\n\
             index objectClass eq\nindex uid eq\nindex entryUUID eq\nindex entryCSN eq\n",
            Self::SUFFIX,
            Self::ADMIN,
            Self::PASSWORD,
        );
        for line in &settings.lines {
            text += &format!("{line}\n");
        }
        if settings.syncprov {
            text += "overlay syncprov\n";
        }
        if let Some(changes) = settings.session_log {
            text += &format!("syncprov-sessionlog {changes}\n");
        }
        text
    }

    /// Address of LDAP.
    pub fn ldap(&self) -> SocketAddr {
        self.place.port(LDAP_PORT)
    }

    /// Address of LDAP over TLS.
    pub fn ldaps(&self) -> SocketAddr {
        self.place.port(LDAPS_PORT)
    }

    /// Applies changes (LDIF with `changetype` lines) as the administrator.
    pub fn modify(&self, changes: &str) {
        let mut command = Command::new("ldapmodify");
        command.args(["-x", "-H", &format!("ldap://{}", self.ldap()), "-D", Self::ADMIN, "-w", Self::PASSWORD]);
        let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = streams.spawn().expect("ldapmodify runs");
        // Dropped at the end of the statement: ldapmodify reads to the end.
        child.stdin.take().expect("a pipe").write_all(changes.as_bytes()).expect("ldapmodify reads");
        let output = child.wait_with_output().expect("ldapmodify ends");
        assert!(output.status.success(), "ldapmodify: {}\n{changes}", String::from_utf8_lossy(&output.stderr));
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(Duration::from_secs(20));
        }
    }

    /// Starts it again after a stop.
    pub fn resume(&mut self) {
        let tls = if self.tls { format!(" ldaps://{}/", self.ldaps()) } else { String::new() };
        let mut command = Command::new("/usr/sbin/slapd");
        // With a level of debugging, even none, it stays in the foreground.
        command.args(["-d", "0", "-h", &format!("ldap://{}/{tls}", self.ldap())]);
        command.args(["-f", "slapd.conf"]).current_dir(self.folder.path());
        let process = Process::start("slapd", command, &self.place, &self.file("log"));
        wait_until("slapd to listen", Duration::from_secs(30), || {
            assert!(!process.is_dead(), "slapd has ended:\n{}", process.tail(30));
            self.place.tcp(self.ldap()).is_ok()
        });
        self.process = Some(process);
    }

    /// Stops it, keeps a copy of its database under this name, and starts it again.
    pub fn save(&mut self, name: &str) {
        self.stop();
        copy(&self.file("data"), &self.file(name));
        self.resume();
    }

    /// Stops it, puts the copy of this name in place of its database, and starts it again.
    pub fn restore(&mut self, name: &str) {
        self.stop();
        fs::remove_dir_all(self.file("data")).expect("the database can be removed");
        copy(&self.file(name), &self.file("data"));
        self.resume();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Copies a folder of files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder can be made");
    for file in fs::read_dir(from).expect("the folder can be read") {
        let file = file.expect("the folder can be read");
        fs::copy(file.path(), to.join(file.file_name())).expect("a file can be copied");
    }
}
