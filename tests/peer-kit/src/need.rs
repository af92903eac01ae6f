//! Requirements of tests on the machine, as those of the test kit: a test that lacks one passes but prints `not run:
//! needs X`, and fails instead under `CI=true` (rule P7).

use std::{fs::OpenOptions, io::Write, path::Path, process::Command, thread};

/// A requirement on the machine.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    name: &'static str,
    there: fn() -> bool,
}

/// Dovecot 2.3 with its IMAP server, which changes to its own accounts and therefore is started by root. The
/// configuration of version 2.4 has another syntax.
pub const DOVECOT: Need = Need {
    name: "dovecot 2.3 (apt-get install dovecot-imapd, root)",
    there: || {
        let output = Command::new(crate::dovecot::PROGRAM).arg("--version").output();
        let right = output.is_ok_and(|output| output.stdout.starts_with(b"2.3."));
        let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
        right && root && Path::new("/usr/lib/dovecot/imap").exists()
    },
};

/// Samba as an Active Directory, whose ports below 1024 need root, with the clients of LDAP and openssl 3.
pub const SAMBA: Need = Need {
    name: "samba (apt-get install samba-ad-dc samba-ad-provision ldap-utils openssl, root)",
    there: || {
        let answers = |program: &str, word: &str| Command::new(program).arg(word).output().is_ok();
        let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
        let provision = Path::new("/usr/share/samba/setup").is_dir();
        let samba = provision && Path::new(crate::samba::PROGRAM).exists() && answers("samba-tool", "--version");
        root && samba && answers("ldapmodify", "-VV") && answers("openssl", "version")
    },
};

/// Whether all of `needs` are met. Use: `if !need::all(&[need::DOVECOT]) { return; }`
#[must_use]
pub fn all(needs: &[Need]) -> bool {
    let missing: Vec<&str> = needs.iter().filter(|need| !(need.there)()).map(|need| need.name).collect();
    if missing.is_empty() {
        return true;
    }
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("not run: needs {} ({test})", missing.join(", "));
    println!("{line}");
    if let Some(path) = std::env::var_os("TWINBOX_NOT_RUN") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut file| writeln!(file, "{line}"));
        written.expect("TWINBOX_NOT_RUN names a writable file");
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{line}: nothing is left out under CI=true");
    false
}
