//! The files of `deploy/` for systemd and Kubernetes, and the probes of both.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use twinbox_testkit::{Loopback, NetPlace, Process, binary, need, wait_for};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The members' Secrets as `deploy/kubernetes/form` prints them, and the manifests, checked by the schema of
/// Kubernetes.
#[test]
fn kubernetes_takes_the_manifests() {
    if !need::all(&[need::KUBERNETES_VALIDATE]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let secrets = form_for_kubernetes(&dir.path().join("ca"));
    let file = dir.path().join("secrets.yaml");
    fs::write(&file, &secrets).expect("written");
    for version in ["1.30", "1.33"] {
        let mut command = Command::new("kubernetes-validate");
        command.args(["--strict", "--kubernetes-version", version]);
        command.arg(repository().join("deploy/kubernetes/twinbox.yaml")).arg(&file);
        let output = command.output().expect("kubernetes-validate runs");
        assert!(output.status.success(), "{version}: {}", said(&output));
        assert_eq!(said(&output).matches("passed").count(), 6, "{}", said(&output));
    }
}

fn form_for_kubernetes(ca: &Path) -> String {
    let mut command = Command::new(repository().join("deploy/kubernetes/form"));
    command.env("TWINBOX", binary()).arg("--ca").arg(ca).args(["--namespace", "test", "--pbx", "10.0.0.0/24"]);
    let output = command.output().expect("the script runs");
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// From the Secrets the init container makes a member's folder with a valid configuration.
#[test]
fn a_member_is_placed_from_the_secrets() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let secrets = form_for_kubernetes(&dir.path().join("ca"));
    assert!(dir.path().join("ca").is_dir(), "the authority stays with the administrator");
    let formed = dir.path().join("formed");
    fs::create_dir(&formed).expect("a folder");
    for (key, data) in secrets.lines().filter_map(|line| line.trim().split_once(": ")) {
        if key.contains("__") {
            let decode = format!("printf %s '{data}' | base64 -d > '{}'", formed.join(key).display());
            assert!(Command::new("sh").args(["-c", &decode]).status().is_ok_and(|s| s.success()), "{key}");
        }
    }
    let place = |member: &str| {
        let to = dir.path().join(member);
        let mut command = Command::new(binary());
        command.args(["cluster", "place", "--member", member, "--from"]).arg(&formed).arg("--to").arg(&to);
        (to, command.output().expect("the program runs"))
    };
    for (member, founds) in [("twinbox-0", true), ("twinbox-1", false), ("twinbox-2", false)] {
        let (to, output) = place(member);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(to.join("data/may-found").exists(), founds, "{member}");
        let check = Command::new(binary()).args(["config", "check"]).arg(to.join("twinbox.toml")).output();
        let check = check.expect("the program runs");
        assert!(check.status.success(), "{}", said(&check));
        let text = fs::read_to_string(to.join("twinbox.toml")).expect("the configuration");
        assert!(text.contains("twinbox-2.twinbox.test.svc:7070") && text.contains("10.0.0.0/24"), "{text}");
    }
    assert!(said(&place("twinbox-0").1).contains("nothing was changed"), "placed once");
    assert!(!place("twinbox-3").1.status.success(), "no member of this cluster");
}

/// systemd reads the units without a complaint, and rates them as confined.
#[test]
fn systemd_takes_the_units() {
    if !need::all(&[need::SYSTEMD_ANALYZE]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    for unit in ["twinbox.service", "twinbox-witness.service"] {
        let text = fs::read_to_string(repository().join("deploy/systemd").join(unit)).expect("the unit");
        for line in [
            "Type=notify",
            "KillMode=process",
            "WatchdogSec=20",
            "NoNewPrivileges=yes",
            "StartLimitIntervalSec=0",
            "RestartPreventExitStatus=2",
        ] {
            assert!(text.lines().any(|l| l == line), "{unit} has no {line}");
        }
        let file = dir.path().join(unit);
        let here = text.replace("ExecStart=/usr/bin/twinbox", &format!("ExecStart={}", binary().display()));
        fs::write(&file, here).expect("written");
        let verify = Command::new("systemd-analyze").arg("verify").arg(&file).output().expect("it runs");
        assert!(verify.status.success() && said(&verify).trim().is_empty(), "{}", said(&verify));
        // Of 100; systemd calls a value below 30 "ok" with a margin.
        let mut security = Command::new("systemd-analyze");
        security.args(["security", "--offline=true", "--threshold=30", "--no-pager"]).arg(&file);
        let security = security.output().expect("it runs");
        assert!(security.status.success(), "{}", said(&security));
    }
}

/// One node alone, as `cluster init` makes it, at a separate address.
fn lone_node(dir: &Path, place: &NetPlace) -> PathBuf {
    let mut command = Command::new(binary());
    command.args(["cluster", "init", "--name", "test", "--dir"]).arg(dir.join("cluster"));
    command.arg(format!("--node=a={}", place.port(7070)));
    command.arg(format!("--sip-advertise=a={}", place.ip)).args(["--pbx", "127.0.0.0/8", "--pbx", "10.1.2.3"]);
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{}", said(&output));
    let config = dir.join("cluster/a/twinbox.toml");
    let text = fs::read_to_string(&config).expect("the configuration");
    assert!(text.contains(&format!("advertise = \"{}:5060\"", place.ip)), "{text}");
    assert!(text.contains("addresses = [\"127.0.0.0/8\", \"10.1.2.3/32\"]"), "{text}");
    let own = text
        .replace("\"0.0.0.0", &format!("\"{}", place.ip))
        .replace("127.0.0.1:9090", &place.port(9090).to_string());
    fs::write(&config, own).expect("written");
    config
}

fn health(config: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(["health", "--timeout", "1", "--config"]).arg(config).args(more);
    command.output().expect("the program runs")
}

/// Notifications to systemd: ready once, alive repeatedly, stopping at SIGTERM. The probe: alive while the node runs,
/// and not while it is stopped.
#[test]
fn the_manager_and_the_probes_are_told_the_truth() {
    let (dir, loopback) = (tempfile::tempdir().expect("a temporary folder"), Loopback::claim());
    let place = loopback.place(1);
    let config = lone_node(dir.path(), &place);
    let down = health(&config, &[]);
    assert_eq!(down.status.code(), Some(1), "nobody runs: {}", said(&down));

    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    let next = || {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).expect("the node says something");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let mut command = Command::new(binary());
    command.arg("node").arg("--config").arg(&config).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let mut node = Process::start("a", command, &place, &dir.path().join("log"));
    assert_eq!(next(), "READY=1", "{}", node.log());
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1");
    }
    let alive = health(&config, &[]);
    assert!(alive.status.success(), "{}", said(&alive));
    wait_for("the node to take calls", Duration::from_secs(20), || {
        health(&config, &["--ready"]).status.success().then_some(())
    });

    node.signal_child(libc::SIGSTOP);
    let still = health(&config, &[]);
    assert_eq!(still.status.code(), Some(1), "it stands still: {}", said(&still));
    node.signal_child(libc::SIGCONT);
    wait_for("the node to be alive again", Duration::from_secs(20), || {
        health(&config, &[]).status.success().then_some(())
    });

    node.signal(libc::SIGTERM);
    let stopping = wait_for("the node to say that it stops", Duration::from_secs(20), || {
        Some(next()).filter(|s| s != "WATCHDOG=1")
    });
    assert!(stopping.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC="), "{stopping}");
    assert!(node.wait(Duration::from_secs(20)).is_some_and(|status| status.success()), "{}", node.log());
}

/// A node's supervisor answers on the port after the node's own: on one host no other member may use it.
#[test]
fn members_of_one_host_leave_the_ports_of_supervisors_free() {
    for (members, expected) in [
        (&["--node=a=h:7070", "--node=b=h:7071"][..], "b at port 7071 of h is where the supervisor of a answers"),
        (&["--node=a=h:7071", "--node=b=h:7070"], "a at port 7071 of h is where the supervisor of b answers"),
        (&["--node=a=h:7070", "--node=b=i:7070", "--witness=w=h:7071"], "w at port 7071 of h"),
        (&["--node=a=h:7070", "--node=b=i:65535"], "b at i:65535: its supervisor needs the port after that"),
        // A witness has none; other hosts and other ports are free.
        (&["--node=a=h:7070", "--node=b=i:7070", "--witness=w=h:7069"], ""),
        (&["--node=a=h:7070", "--node=b=h:7072", "--witness=w=i:7071"], ""),
    ] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let home = dir.path().join("cluster");
        let mut command = Command::new(binary());
        command.args(["cluster", "init", "--name", "test", "--dir"]).arg(&home).args(members);
        let output = command.output().expect("the program runs");
        match expected {
            "" => assert!(output.status.success(), "{members:?}: {}", said(&output)),
            words => {
                assert_eq!(output.status.code(), Some(2), "{members:?}: {}", said(&output));
                assert!(said(&output).contains(words), "{members:?}: {}", said(&output));
                assert!(!home.exists(), "{members:?}: nothing is made");
            }
        }
    }
}

/// Start scripts and init containers run repeatedly.
#[test]
fn a_cluster_is_formed_once() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // Volumes exist before the cluster.
    for folder in ["ca", "a", "b", "w"] {
        fs::create_dir(dir.path().join(folder)).expect("a folder");
    }
    let init = |more: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["cluster", "init", "--name", "test", "--dir"]).arg(dir.path());
        command.args(["--node=a=10.0.0.1:7070", "--node=b=10.0.0.2:7070", "--witness=w=10.0.0.3:7070"]);
        command.args(more).output().expect("the program runs")
    };
    let unknown = init(&["--sip-advertise=c=10.0.0.1"]);
    assert_eq!(unknown.status.code(), Some(2), "{}", said(&unknown));
    assert!(init(&["--if-absent"]).status.success());
    let config = fs::read(dir.path().join("a/twinbox.toml")).expect("made");
    let again = init(&["--if-absent"]);
    assert!(again.status.success() && said(&again).contains("nothing was changed"), "{}", said(&again));
    assert_eq!(fs::read(dir.path().join("a/twinbox.toml")).expect("there"), config);
    assert_eq!(init(&[]).status.code(), Some(1), "not over what is there");

    // A member with an empty folder is made again, for the same cluster, and may not found another, not even the first.
    let text = |member: &str| fs::read_to_string(dir.path().join(member).join("twinbox.toml")).expect("made");
    let empty = |member: &str| {
        fs::remove_dir_all(dir.path().join(member)).expect("removed");
        fs::create_dir(dir.path().join(member)).expect("a folder");
    };
    for member in ["b", "a"] {
        let before = text(member);
        empty(member);
        let made = init(&["--if-absent"]);
        assert!(made.status.success() && said(&made).contains("is created again"), "{}", said(&made));
        assert_eq!(text(member), before, "{member}");
        assert!(!dir.path().join(member).join("data/may-found").exists(), "{member} founds nothing");
        let mut check = Command::new(binary());
        check.args(["config", "check"]).arg(dir.path().join(member).join("twinbox.toml"));
        assert!(check.status().is_ok_and(|s| s.success()), "{member}");
    }
    // Without the authority it cannot be signed for, and a folder that is not empty is left alone.
    empty("b");
    fs::rename(dir.path().join("ca"), dir.path().join("elsewhere")).expect("moved");
    fs::create_dir(dir.path().join("ca")).expect("a folder");
    let refused = init(&["--if-absent"]);
    let words = said(&refused);
    assert!(!refused.status.success() && words.contains("b has no folder any more"), "{words}");
    assert!(words.contains("put it back there"), "{words}");
    fs::remove_dir(dir.path().join("ca")).expect("removed");
    fs::rename(dir.path().join("elsewhere"), dir.path().join("ca")).expect("moved back");
    fs::write(dir.path().join("b/mail"), "someone's").expect("written");
    let refused = init(&["--if-absent"]);
    assert!(!refused.status.success() && said(&refused).contains("is not empty"), "{}", said(&refused));
}
