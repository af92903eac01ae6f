//! Two nodes of one machine with conflicting settings, and disks of other nodes: refused with one line that names the
//! setting and the remedy, and nothing changed. Exit code 2 for another member's data, which only an administrator can
//! change; 1 for the rest, which a restart by systemd may find mended.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use tempfile::TempDir;
use twinbox_testkit::{Cluster, Spec, binary, need, wait_until};

const OF_PROCESSES: [&str; 2] = ["node.pid", "last-words"];
/// Exit code of a start that fails, but may succeed later.
const FAILED: i32 = 1;
/// Exit code of a start that fails until an administrator acts: systemd does not repeat it.
const FINAL: i32 = 2;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Two nodes, of which b does not run.
fn pair() -> Cluster {
    let mut cluster = Cluster::start(&Spec { witness: false, raw: true, ..Spec::default() });
    cluster.wait_in_service();
    cluster.stop("b");
    cluster
}

/// The content of a folder, except pid files and exit notices, which every process leaves.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_str().is_some_and(|name| OF_PROCESSES.contains(&name)) {
            continue;
        }
        match path.is_dir() {
            true => found.extend(content(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap_or_default())),
        }
    }
    found
}

/// Starts a node that must end on its own.
fn start(config: &Path) -> Output {
    let mut command = Command::new("timeout");
    command.arg("60").arg(binary()).args(["node", "--config"]).arg(config);
    command.output().expect("it runs")
}

/// Starts b with this file; it must end on its own, with this exit code and one line that has all these words.
fn refused(cluster: &Cluster, config: &str, code: i32, words: &[&str]) {
    let b = cluster.member("b");
    let file = b.home.join("refused.toml");
    fs::write(&file, config).expect("written");
    let before = content(&b.data_dir);
    let output = start(&file);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let lines: Vec<&str> = text.lines().filter(|line| words.iter().all(|word| line.contains(word))).collect();
    assert_eq!(lines.len(), 1, "one line with {words:?} in:\n{text}");
    println!("{}", lines[0]);
    assert!(!text.contains("panicked"), "{text}");
    assert!(content(&b.data_dir) == before, "b's folder is as it was");
    fs::remove_file(&file).expect("removed");
}

#[test]
fn nodes_of_one_machine_share_neither_ports_nor_sockets_nor_folders() {
    let cluster = pair();
    let (a, b) = (cluster.member("a"), cluster.member("b"));
    let pid = a.pid();
    let text = fs::read_to_string(&b.config).expect("b's configuration");
    let (ip_a, ip_b): (IpAddr, IpAddr) = (a.place.ip.into(), b.place.ip.into());
    let with = |from: String, to: String| {
        assert!(text.contains(&from), "no '{from}' in\n{text}");
        text.replace(&from, &to)
    };
    // The member's own address in the list of members comes first: only the last match is its listener.
    let bound = |port: u16| (format!("bind = \"{ip_b}:{port}\""), format!("bind = \"{ip_a}:{port}\""));
    for (port, key) in [(7070, "cluster.bind"), (9090, "metrics.bind"), (5060, "[[sip.listener]]")] {
        let (from, to) = bound(port);
        refused(&cluster, &with(from, to), FAILED, &[key, &format!("{ip_a}:{port}"), "free the port or change"]);
    }
    let range = format!("bind = \"{ip_b}\"\nports = \"10000-12999\"");
    for ports in ["10000-12999", "12998-14999", "10010-12000"] {
        let shared = with(range.clone(), format!("bind = \"{ip_a}\"\nports = \"{ports}\""));
        refused(&cluster, &shared, FAILED, &["rtp.ports: ", ports, "10000-12999", "ports of its own"]);
    }
    let everywhere = with(range, "bind = \"0.0.0.0\"\nports = \"12000-13999\"".to_owned());
    refused(&cluster, &everywhere, FAILED, &["rtp.ports: ", "meets 10000-12999", "ports of its own"]);
    let path = |path: &Path| format!("{path:?}");
    let socket = with(path(&b.home.join("admin.sock")), path(&a.home.join("admin.sock")));
    refused(&cluster, &socket, FAILED, &["admin.sock", "another node answers there", "node.admin_socket"]);
    let folder = with(path(&b.data_dir), path(&a.data_dir));
    refused(&cluster, &folder, FINAL, &["node.data_dir: ", "holds the data of member 'a'", "name another folder"]);
    // The same node a second time.
    let twice = start(&a.config);
    assert_eq!(twice.status.code(), Some(FAILED), "{}", said(&twice));
    assert!(said(&twice).contains("data_dir") && said(&twice).contains("in use"), "{}", said(&twice));

    // a is not affected, and b starts with its own configuration.
    assert_eq!(a.pid(), pid);
    assert!(a.cli().status().is_some(), "{}", a.log());
    let mut cluster = cluster;
    cluster.start_member("b");
    cluster.wait_in_service();
}

#[test]
fn a_disk_with_another_s_data_is_refused_and_left_alone() {
    let mut cluster = pair();
    cluster.stop("a");
    let (a, b) = (cluster.member("a").data_dir.clone(), cluster.member("b").data_dir.clone());
    let text = fs::read_to_string(&cluster.member("b").config).expect("b's configuration");
    let mark = b.join("owner.toml");
    let own = fs::read_to_string(&mark).expect("b's mark");
    // A disk of another node, of another cluster.
    fs::write(&mark, own.replace("\"b\"", "\"a\"")).expect("written");
    refused(
        &cluster,
        &text,
        FINAL,
        &["node.data_dir: ", "member 'a' of cluster", "this is member 'b'", "the right disk"],
    );
    let id = own.lines().find_map(|line| line.strip_prefix("cluster = ")).expect("a cluster").to_owned();
    fs::write(&mark, own.replace(&id, "\"00112233445566778899aabbccddeeff\"")).expect("written");
    refused(&cluster, &text, FINAL, &["node.data_dir: ", "00112233445566778899aabbccddeeff", "the right disk"]);

    // The disk of an earlier release has no mark; the store knows its node.
    let kept = b.with_extension("kept");
    fs::rename(&b, &kept).expect("b's disk is taken out");
    assert!(Command::new("cp").arg("-a").arg(&a).arg(&b).status().is_ok_and(|status| status.success()));
    fs::remove_file(b.join("owner.toml")).expect("a's mark");
    let output = start(&cluster.member("b").config);
    assert_eq!(output.status.code(), Some(FINAL), "{}", said(&output));
    assert!(said(&output).contains("data_dir") && said(&output).contains("'a'"), "{}", said(&output));

    // Its own disk is put back, and it starts.
    fs::remove_dir_all(&b).expect("a's copy");
    fs::rename(&kept, &b).expect("b's disk");
    fs::write(&mark, own).expect("written");
    cluster.start_all();
    cluster.wait_in_service();
}

/// A small file system that is unmounted at the end.
struct Mounted(TempDir);

impl Mounted {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mounted = Self(folder);
        mounted.mount(&["-t", "tmpfs", "-o", "size=64m", "tmpfs"]);
        mounted
    }

    fn mount(&self, arguments: &[&str]) {
        let status = Command::new("mount").args(arguments).arg(self.0.path()).status();
        assert!(status.is_ok_and(|status| status.success()), "mount {arguments:?}");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_folder_that_is_missing_read_only_or_full_is_refused() {
    if !need::all(&[need::MOUNT]) {
        return;
    }
    let disk = Mounted::new();
    let data_dir = disk.0.path().join("data");
    let spec = Spec {
        witness: false,
        raw: true,
        reserve_mb: 16,
        data_dirs: vec![("b".to_owned(), data_dir.clone())],
        ..Spec::default()
    };
    let mut cluster = Cluster::start(&spec);
    cluster.wait_in_service();
    cluster.stop("b");
    let text = fs::read_to_string(&cluster.member("b").config).expect("b's configuration");
    let none = disk.0.path().join("none");
    let missing = text.replace(&format!("{data_dir:?}"), &format!("{none:?}"));
    refused(&cluster, &missing, FAILED, &["node.data_dir: ", "there is no folder", "mount its disk"]);
    assert!(!none.exists(), "a disk that is not mounted is no reason to make a folder");

    disk.mount(&["-o", "remount,ro"]);
    refused(&cluster, &text, FAILED, &["node.data_dir: ", "Read-only", "mount it for writing"]);
    disk.mount(&["-o", "remount,rw"]);

    let filler = disk.0.path().join("filler");
    // All free space; the last write fails.
    let _ = fs::write(&filler, vec![0_u8; 64 << 20]);
    refused(&cluster, &text, FAILED, &["node.data_dir: ", "MB free", "make room"]);
    fs::remove_file(&filler).expect("removed");
    cluster.start_member("b");
    wait_until("b is in service on its own disk", Duration::from_secs(60), || {
        cluster.cli("b").status_of("b").as_deref() == Some("in-service")
    });
}
