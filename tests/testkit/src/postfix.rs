//! Postfix as a mail server of its own: nothing of it is shared with the machine's.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::{NetPlace, Process, keys::folder, wait_until};

/// A running Postfix, which relays for all of loopback. Dropping it ends all of its processes.
#[derive(Debug)]
pub struct Postfix {
    process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Postfix {
    /// Its place: next to the phones, with a separate address.
    pub fn place(phones: &NetPlace) -> NetPlace {
        let [a, b, c, _] = phones.ip.octets();
        phones.at(Ipv4Addr::new(a, b, c, 60))
    }

    /// Starts it at `place` under the name `mail.sender.test`, with these lines in `main.cf`.
    pub fn start(place: &NetPlace, port: u16, settings: &[String]) -> Self {
        let folder = folder();
        let of = |name: &str| folder.path().join(name);
        // Postfix makes its data folder itself, under its own account.
        for name in ["config", "queue"] {
            fs::create_dir(of(name)).expect("a folder can be made");
        }
        let (queue, data, settings) = (of("queue"), of("data"), settings.join("\n"));
        // The listener has its own line in master.cf: inet_interfaces takes only addresses that an interface lists.
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {}\ndata_directory = {}\nmaillog_file = /dev/stdout\n\
             inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmyhostname = mail.sender.test\nmydestination =\n\
             local_recipient_maps =\nalias_maps =\nalias_database =\nmynetworks = 127.0.0.0/8\n\
             smtpd_relay_restrictions = permit_mynetworks, reject\nsmtpd_peername_lookup = no\n\
             smtp_dns_support_level = disabled\n{settings}\n",
            queue.display(),
            data.display(),
        );
        fs::write(of("config/main.cf"), main).expect("main.cf can be written");
        // One connection per process: each reads the certificate again.
        let listener = format!("{} inet n - n - - smtpd -o max_use=1\n", place.port(port));
        fs::write(of("config/master.cf"), listener + SERVICES).expect("master.cf can be written");
        // In a separate process namespace: its services end with it, however it is killed.
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "/usr/sbin/postfix", "-c"]).arg(of("config"));
        command.arg("start-fg").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let process = Process::start("Postfix", command, place, &of("log"));
        let postfix = Self { process, address: place.port(port), _folder: folder };
        wait_until("Postfix to listen", Duration::from_secs(30), || {
            assert!(!postfix.process.is_dead(), "Postfix has ended:\n{}", postfix.process.tail(30));
            place.tcp(postfix.address).is_ok()
        });
        postfix
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.process.tail(30));
        }
    }
}

/// The services that relaying and reports of failure need, none in a chroot.
const SERVICES: &str = "\
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
lmtp unix - - n - - lmtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
";
