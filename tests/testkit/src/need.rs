//! Requirements of tests on the machine. A test that lacks one passes but prints `not run: needs X`; where nothing may
//! be skipped (`CI=true`) it fails instead (rule P7).
//!
//! `tests/run` names a file in `TWINBOX_NOT_RUN`, collects the skipped tests there and counts them.

use std::{
    fs::OpenOptions,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::mail_receiver::PYTHON;

/// Whether all of `needs` are met. Use: `if !need::all(&[need::SIPP]) { return; }`
#[must_use]
pub fn all(needs: &[Need]) -> bool {
    let missing: Vec<&str> = needs.iter().filter(|n| !(n.there)()).map(|n| n.name).collect();
    if missing.is_empty() {
        return true;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("not run: needs {} ({test})", missing.join(", "));
    println!("{line}");
    if let Some(path) = std::env::var_os("TWINBOX_NOT_RUN") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut f| writeln!(f, "{line}"));
        written.expect("TWINBOX_NOT_RUN names a writable file");
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{line}: nothing is left out under CI=true");
    false
}

/// A requirement on the machine.
pub struct Need {
    /// Its name, and the package that brings it.
    pub name: &'static str,
    /// Whether it is met.
    pub there: fn() -> bool,
}

/// SIPp, from Debian's `sip-tester`.
pub const SIPP: Need = Need { name: "sipp (apt-get install sip-tester)", there: || found("sipp") };
/// Kamailio, with the privilege to give it a process namespace, in which it ends as a whole.
pub const KAMAILIO: Need = Need {
    name: "kamailio (apt-get install kamailio, root)",
    there: || found("kamailio") && succeeds("unshare", &["--pid", "--fork", "--kill-child", "true"]),
};
/// baresip, from Debian's `baresip-core`.
pub const BARESIP: Need = Need { name: "baresip (apt-get install baresip-core)", there: || found("baresip") };
/// faketime, which gives a program another time of day.
pub const FAKETIME: Need = Need { name: "faketime (apt-get install faketime)", there: || found("faketime") };
/// strace, with the privilege to attach.
pub const STRACE: Need = Need { name: "strace (apt-get install strace)", there: || found("strace") };
/// Network namespaces and iptables in them.
pub const NAMESPACES: Need =
    Need { name: "network namespaces (root, iproute2, iptables)", there: || found("iptables") && namespaces() };
/// TAP devices, for a switch with delay and loss.
pub const TAP: Need =
    Need { name: "TAP devices (root, /dev/net/tun)", there: || Path::new("/dev/net/tun").exists() };
/// The privilege to mount a small file system.
pub const MOUNT: Need = Need { name: "mount (root)", there: mounts };
/// A container engine that answers, and docker-compose 1.29 or docker compose v2.
pub const DOCKER: Need = Need {
    name: "docker and docker-compose (a running engine; apt-get install docker.io docker-compose)",
    there: || {
        let compose = succeeds("docker-compose", &["version"]) || succeeds("docker", &["compose", "version"]);
        compose && succeeds("docker", &["info"])
    },
};
/// The schemas of Kubernetes, without a cluster.
pub const KUBERNETES_VALIDATE: Need = Need {
    name: "kubernetes-validate (pip install kubernetes-validate)",
    there: || succeeds("kubernetes-validate", &["--help"]),
};
/// snmptrapd, a receiver of SNMP traps.
pub const SNMPTRAPD: Need = Need { name: "snmptrapd (apt-get install snmptrapd)", there: || found("snmptrapd") };
/// snmptranslate, which reads MIBs.
pub const SNMPTRANSLATE: Need =
    Need { name: "snmptranslate (apt-get install snmp)", there: || found("snmptranslate") };
/// Postfix, with the privilege to give it a process namespace, in which it ends as a whole.
pub const POSTFIX: Need = Need {
    name: "postfix (apt-get install postfix, root)",
    there: || found("postfix") && succeeds("unshare", &["--pid", "--fork", "--kill-child", "true"]),
};
/// swaks, a mail client.
pub const SWAKS: Need = Need { name: "swaks (apt-get install swaks)", there: || found("swaks") };
/// TLS of swaks.
pub const SWAKS_TLS: Need = Need {
    name: "swaks with TLS (apt-get install swaks libnet-ssleay-perl)",
    there: || found("swaks") && succeeds("perl", &["-MNet::SSLeay", "-e", "1"]),
};
/// slapd, OpenLDAP's directory server, and its command-line clients.
pub const SLAPD: Need = Need {
    name: "slapd and ldapmodify (apt-get install slapd ldap-utils)",
    there: || found("slapd") && found("ldapmodify"),
};
/// Python, for receivers of tests.
pub const PYTHON3: Need =
    Need { name: "python3 (apt-get install python3)", there: || succeeds(PYTHON, &["-c", "import ssl"]) };
/// The privilege to listen on ports below 1024.
pub const LOW_PORTS: Need = Need {
    name: "ports below 1024 (root)",
    // The address may be in use: that is no lack of privilege.
    there: || {
        let bound = std::net::TcpListener::bind(("127.77.255.1", 25));
        !bound.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    },
};
/// aiosmtpd, for the mail receiver of tests.
pub const AIOSMTPD: Need = Need {
    name: "aiosmtpd (apt-get install python3-aiosmtpd)",
    there: || succeeds(PYTHON, &["-c", "import aiosmtpd"]),
};
/// dkimpy, which verifies signatures of mails.
pub const DKIM: Need =
    Need { name: "dkimpy (apt-get install python3-dkim)", there: || succeeds(PYTHON, &["-c", "import dkim"]) };
/// openssl, which makes keys and certificates.
pub const OPENSSL: Need = Need { name: "openssl (apt-get install openssl)", there: || found("openssl") };
/// ffmpeg, which makes sound files of many kinds.
pub const FFMPEG: Need = Need { name: "ffmpeg (apt-get install ffmpeg)", there: || found("ffmpeg") };
/// systemd's own checker of unit files.
pub const SYSTEMD_ANALYZE: Need =
    Need { name: "systemd-analyze (apt-get install systemd)", there: || found("systemd-analyze") };

fn found(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(more).any(|folder| Path::new(&folder).join(program).exists())
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let quiet = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|s| s.success())
}

fn namespaces() -> bool {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("tbneed{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let made = succeeds("ip", &["netns", "add", &name]);
    let filtered = made && succeeds("ip", &["netns", "exec", &name, "iptables", "-w", "-L", "INPUT", "-n"]);
    if made {
        succeeds("ip", &["netns", "del", &name]);
    }
    filtered
}

fn mounts() -> bool {
    let Ok(folder) = tempfile::tempdir() else { return false };
    let path = folder.path().to_string_lossy().into_owned();
    let mounted = succeeds("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", &path]);
    mounted && succeeds("umount", &[&path])
}
