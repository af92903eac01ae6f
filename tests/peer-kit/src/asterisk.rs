//! Asterisk as another voicemail server, for comparisons: each number of the given mailboxes takes messages, by UDP in G.711.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use twinbox_testkit::{NetPlace, Process, wait_until};

/// Its files of configuration: name, and content with places for what differs.
const CONFIGURATION: [(&str, &str); 7] = [
    ("asterisk.conf", include_str!("../../data/asterisk/asterisk.conf")),
    ("modules.conf", include_str!("../../data/asterisk/modules.conf")),
    ("pjsip.conf", include_str!("../../data/asterisk/pjsip.conf")),
    ("extensions.conf", include_str!("../../data/asterisk/extensions.conf")),
    ("voicemail.conf", include_str!("../../data/asterisk/voicemail.conf")),
    ("rtp.conf", include_str!("../../data/asterisk/rtp.conf")),
    ("logger.conf", include_str!("../../data/asterisk/logger.conf")),
];
/// Time limit of a start.
const START: Duration = Duration::from_secs(30);
const SIP: u16 = 5060;

/// A running Asterisk, with files of its own. Dropping it ends it and removes them.
pub struct Asterisk {
    process: Process,
    address: SocketAddr,
    dir: TempDir,
}

impl Asterisk {
    /// Path of the program within a system, as its package has it.
    pub const PROGRAM: &str = "usr/sbin/asterisk";

    /// Starts the program that is installed in the system at `root`, for example one of Debian 11 that debootstrap made, `/` for this
    /// machine's own; waits until it is ready.
    pub fn start(root: &Path, place: &NetPlace, mailboxes: &[String]) -> Self {
        let dir = tempfile::Builder::new().prefix("twinbox-asterisk-").tempdir_in(root.join("tmp"));
        let dir = dir.unwrap_or_else(|e| panic!("{}: {e}", root.join("tmp").display()));
        let inside = PathBuf::from("/tmp").join(dir.path().file_name().expect("a folder has a name"));
        let address = place.port(SIP);
        let etc = dir.path().join("etc");
        fs::create_dir(&etc).expect("the folder of the configuration can be made");
        let lines: String = mailboxes.iter().map(|number| format!("{number} => 602214,\n")).collect();
        for (name, content) in CONFIGURATION {
            let content = content.replace("{dir}", &inside.to_string_lossy());
            let content = content.replace("{address}", &address.to_string()).replace("{mailboxes}", &lines);
            fs::write(etc.join(name), content).expect("the configuration can be written");
        }
        let program = || {
            let mut command = Command::new("chroot");
            command.arg(root).args(["/usr/sbin/asterisk", "-C"]).arg(inside.join("etc/asterisk.conf"));
            command
        };
        let mut command = program();
        command.arg("-f");
        let mut process = Process::start("asterisk", command, place, &dir.path().join("output"));
        wait_until("Asterisk to be ready", START, || {
            assert!(process.runs(), "Asterisk has ended: {}", process.log());
            let mut ask = program();
            ask.args(["-rx", "core waitfullybooted"]).stdout(Stdio::null()).stderr(Stdio::null());
            ask.status().is_ok_and(|status| status.success())
        });
        Self { process, address, dir }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// SIP address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lengths in bytes of all messages that it has filed.
    pub fn messages(&self) -> Vec<u64> {
        let folders = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let mailboxes = folders(self.dir.path().join("voicemail/default"));
        let files = mailboxes.flat_map(|mailbox| folders(mailbox.join("INBOX")));
        let audio = files.filter(|file| file.extension().is_some_and(|it| it == "ulaw"));
        audio.filter_map(|file| Some(fs::metadata(file).ok()?.len())).collect()
    }
}
