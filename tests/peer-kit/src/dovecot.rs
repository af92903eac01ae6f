//! Dovecot as an IMAP server of its own: nothing of it is shared with the machine's.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;
use twinbox_testkit::{Authority, NetPlace, Process, wait_until};

use crate::ImapUser;

/// The program, which Debian installs outside of the path of users.
pub(crate) const PROGRAM: &str = "/usr/sbin/dovecot";
const IMAP_PORT: u16 = 1143;
const IMAPS_PORT: u16 = 1993;
/// User and group of the mails: `nobody`. Dovecot's own users are refused for that.
const MAIL_OWNER: u32 = 65_534;
/// Extensions offered to clients, unless they are masked.
const CAPABILITIES: &str = "\
    IMAP4rev1 SASL-IR LITERAL+ ID ENABLE IDLE NAMESPACE CHILDREN UNSELECT UIDPLUS MOVE CONDSTORE QRESYNC ESEARCH \
    LIST-EXTENDED LIST-STATUS SPECIAL-USE QUOTA";

/// A running Dovecot. Dropping it ends all of its processes and removes its mails.
#[derive(Debug)]
pub struct Dovecot {
    process: Option<Process>,
    place: NetPlace,
    folder: TempDir,
}

/// Settings of a [`Dovecot`].
#[derive(Debug, Clone, Default)]
pub struct DovecotSettings {
    /// Names of the accounts.
    pub accounts: Vec<String>,
    /// Accounts that are limited to this many bytes.
    pub quotas: Vec<(String, u64)>,
    /// Extensions that it does not offer, such as `QRESYNC`.
    pub masked: Vec<&'static str>,
    /// Certificate and key of the server, for STARTTLS and for the port with TLS from the start.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// URL that verifies access tokens (RFC 7662), for XOAUTH2 and OAUTHBEARER.
    pub introspection: Option<String>,
    /// An access token opens the account of its owner alone; otherwise one of an application opens all accounts.
    pub personal_tokens: bool,
}

impl DovecotSettings {
    /// With the certificate of the authority's server.
    #[must_use]
    pub fn with_tls(self, authority: &Authority) -> Self {
        Self { tls: Some((authority.server_certificate(), authority.server_key())), ..self }
    }
}

impl Dovecot {
    /// The user that may sign in as the owner of any account: SASL PLAIN with the account as authorization identity.
    pub const MASTER: &'static str = "twinbox";
    /// Password of the master user.
    pub const MASTER_PASSWORD: &'static str = "master secret";

    /// Password of an account.
    pub fn password(account: &str) -> String {
        format!("secret of {account}")
    }

    /// Starts it at `place`.
    pub fn start(place: &NetPlace, settings: &DovecotSettings) -> Self {
        let folder = tempfile::Builder::new().prefix("twinbox-imap-").tempdir().expect("a temporary folder");
        // Its processes run under several accounts.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("the mode can be set");
        let mut dovecot = Self { process: None, place: place.clone(), folder };
        fs::create_dir(dovecot.file("mail")).expect("a folder can be made");
        chown(dovecot.file("mail"), Some(MAIL_OWNER), Some(MAIL_OWNER)).expect("root gives the folder away");
        let quota = |name: &String| {
            let limit = settings.quotas.iter().find(|(account, _)| account == name);
            limit.map(|(_, bytes)| format!("userdb_quota_rule=*:bytes={bytes}")).unwrap_or_default()
        };
        let account = |name: &String| format!("{name}:{{PLAIN}}{}::::::{}\n", Self::password(name), quota(name));
        let accounts: String = settings.accounts.iter().map(account).collect();
        let master = format!("{}:{{PLAIN}}{}::::::\n", Self::MASTER, Self::MASTER_PASSWORD);
        let files = [
            ("accounts", accounts),
            ("masters", master),
            ("oauth2.conf", oauth2(settings)),
            ("dovecot.conf", dovecot.configuration(settings)),
        ];
        for (name, text) in files {
            fs::write(dovecot.file(name), text).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        dovecot.resume();
        dovecot
    }

    /// The configuration, in the syntax of Dovecot 2.3.
    fn configuration(&self, settings: &DovecotSettings) -> String {
        let base = self.folder.path().display();
        let offered = CAPABILITIES.split(' ').filter(|word| !word.is_empty() && !settings.masked.contains(word));
        let offered = offered.collect::<Vec<_>>().join(" ");
        let (mechanisms, oauth2) = match settings.introspection {
            Some(_) => ("plain xoauth2 oauthbearer", OAUTH2.replace("{base}", &base.to_string())),
            None => ("plain", String::new()),
        };
        let tls = settings.tls.as_ref().map_or("ssl = no\n".to_owned(), |(certificate, key)| {
            format!("ssl = yes\nssl_cert = <{}\nssl_key = <{}\n", certificate.display(), key.display())
        });
        let imaps = if settings.tls.is_some() { IMAPS_PORT } else { 0 };
        CONFIGURATION
            .replace("{base}", &base.to_string())
            .replace("{ip}", &self.place.ip.to_string())
            .replace("{offered}", &offered)
            .replace("{mechanisms}", mechanisms)
            .replace("{imap}", &IMAP_PORT.to_string())
            .replace("{imaps}", &imaps.to_string())
            .replace("{owner}", &MAIL_OWNER.to_string())
            + &tls
            + &oauth2
            + &PASSWORDS.replace("{base}", &base.to_string()).replace("{owner}", &MAIL_OWNER.to_string())
    }

    /// Address without TLS, or with STARTTLS.
    pub fn imap(&self) -> SocketAddr {
        self.place.port(IMAP_PORT)
    }

    /// Address with TLS from the start.
    pub fn imaps(&self) -> SocketAddr {
        self.place.port(IMAPS_PORT)
    }

    /// The owner of an account with a mail program, signed in.
    pub fn sign_in(&self, account: &str) -> ImapUser {
        ImapUser::sign_in(&self.place, self.imap(), account, &Self::password(account))
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
        command.arg("-F").arg("-c").arg(self.file("dovecot.conf"));
        let process = Process::start("Dovecot", command, &self.place, &self.file("log"));
        wait_until("Dovecot to listen", Duration::from_secs(90), || {
            assert!(!process.is_dead(), "Dovecot has ended:\n{}", process.tail(30));
            self.place.tcp(self.imap()).is_ok()
        });
        self.process = Some(process);
    }

    /// Gives the mails of a folder other UIDs under another UIDVALIDITY, as after a restore from a backup of the mails
    /// alone. Only while it is stopped.
    pub fn reset_uids(&self, account: &str, folder: &str) {
        self.remove(&self.mailbox(account, folder), "dovecot");
    }

    /// Removes the mails of a folder, which has the same UIDVALIDITY after that. Only while it is stopped.
    pub fn empty(&self, account: &str, folder: &str) {
        for part in ["cur", "new"] {
            self.remove(&self.mailbox(account, folder).join(part), "");
        }
    }

    fn remove(&self, folder: &Path, prefix: &str) {
        assert!(self.process.is_none(), "Dovecot still runs");
        for file in fs::read_dir(folder).expect("the folder can be read") {
            let path = file.expect("the folder can be read").path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with(prefix) {
                fs::remove_file(&path).expect("the file can be removed");
            }
        }
    }

    /// Folder of a mailbox, in the layout Maildir++.
    fn mailbox(&self, account: &str, folder: &str) -> PathBuf {
        let inbox = self.file("mail").join(account);
        if folder == "INBOX" { inbox } else { inbox.join(format!(".{folder}")) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        if let Some(process) = self.process.as_ref().filter(|_| std::thread::panicking()) {
            eprintln!("{}", process.tail(30));
        }
    }
}

/// Of a token of an application only its validity is asked: it serves all accounts, as Exchange's do.
fn oauth2(settings: &DovecotSettings) -> String {
    let url = settings.introspection.as_deref().unwrap_or_default();
    let (attribute, format) =
        if settings.personal_tokens { ("username", "%u") } else { ("application", "twinbox") };
    format!(
        "introspection_mode = post\nintrospection_url = {url}\nusername_attribute = {attribute}\n\
         username_format = {format}\nactive_attribute = active\nactive_value = true\n"
    )
}

/// A client that failed to sign in waits up to 15 s for the next attempt from its address (Dovecot's auth penalty).
const CONFIGURATION: &str = "\
base_dir = {base}/run
state_dir = {base}/state
instance_name = twinbox-test
protocols = imap
listen = {ip}
log_path = /dev/stderr
auth_verbose = yes
auth_failure_delay = 0
auth_mechanisms = {mechanisms}
disable_plaintext_auth = no
first_valid_uid = 1
default_process_limit = 1200
default_client_limit = 5000
mail_max_userip_connections = 1200
mail_location = maildir:{base}/mail/%u
mail_plugins = quota
imap_capability = {offered}
mailbox_idle_check_interval = 1 secs
mailbox_list_index = no
namespace inbox {
  inbox = yes
  separator = /
  mailbox Trash {
    auto = create
    special_use = \\Trash
  }
}
service imap-login {
  service_count = 0
  inet_listener imap {
    port = {imap}
  }
  inet_listener imaps {
    port = {imaps}
    ssl = yes
  }
}
service stats {
  chroot =
}
plugin {
  quota = maildir:User
  quota_rule = *:storage=1G
  quota_grace = 0
}
protocol imap {
  mail_plugins = quota imap_quota
}
";
const OAUTH2: &str = "\
passdb {
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {base}/oauth2.conf
}
";
const PASSWORDS: &str = "\
passdb {
  driver = passwd-file
  mechanisms = plain
  master = yes
  args = {base}/masters
}
passdb {
  driver = passwd-file
  mechanisms = plain
  args = {base}/accounts
}
userdb {
  driver = passwd-file
  args = {base}/accounts
  default_fields = uid={owner} gid={owner} home={base}/mail/%u
}
";
