//! `twinbox demo`: tests itself, prints its data for scripts, and names a taken port.

use std::{
    fs,
    net::UdpSocket,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;
use twinbox_testkit::{NetPlace, Process, binary, wait_for};

/// Limit of both calls of the demo together, in seconds: the callers skip the greetings by `#`.
const CALLS_SECONDS: f64 = 20.0;

/// Ports that another test's demo on this machine is unlikely to use; the demo uses 1,100 from there.
fn base_port(n: u16) -> u16 {
    2_000 + (std::process::id() % 9) as u16 * 3_000 + n * 1_200
}

fn demo_once(dir: &Path, port: u16) -> Output {
    let mut command = Command::new(binary());
    command.args(["demo", "--once", "--fresh", "--dir"]).arg(dir).args(["--base-port", &port.to_string()]);
    command.output().expect("the twinbox binary runs")
}

/// Duration in seconds of the step that contains these words.
fn seconds_of(said: &str, step: &str) -> f64 {
    let line = said.lines().find(|line| line.contains(step)).unwrap_or_else(|| panic!("no step '{step}': {said}"));
    let seconds = line.split_whitespace().nth(1).and_then(|seconds| seconds.parse().ok());
    seconds.unwrap_or_else(|| panic!("no duration: {line}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn once_proves_itself_and_leaves_nothing_running() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = demo_once(&dir.path().join("demo"), base_port(0));
    let said = text(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{}\n{}\n{}", output.status, text(&output.stderr), logs(dir.path()));
    // Every step with its duration.
    assert!(said.lines().filter(|l| l.contains(" s ") && l.contains("ok")).count() >= 5, "{said}");
    let mode = fs::metadata(dir.path().join("demo")).expect("the folder").permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "it has recordings and PINs");
    let calls = seconds_of(&said, "leaves a message for 1001") + seconds_of(&said, "plays the message");
    assert!(calls < CALLS_SECONDS, "both calls took {calls} s: {said}");

    let demo: Value =
        serde_json::from_slice(&fs::read(dir.path().join("demo/demo.json")).expect("demo.json")).expect("JSON");
    let processes = demo["processes"].as_array().expect("processes");
    let names: Vec<(&str, &str)> =
        processes.iter().map(|p| (p["name"].as_str().unwrap_or(""), p["kind"].as_str().unwrap_or(""))).collect();
    assert_eq!(names, [("a", "node"), ("b", "node"), ("w", "witness")]);
    for process in processes {
        for key in ["config", "log"] {
            let path = process[key].as_str().unwrap_or_else(|| panic!("{key} of {process}"));
            assert!(Path::new(path).is_file(), "{key} {path} is a file");
        }
        let addresses = process["addresses"].as_object().expect("addresses");
        let wanted: &[&str] =
            if process["kind"] == "node" { &["sip_udp", "sip_tcp", "metrics", "admin", "peer"] } else { &["peer"] };
        for key in wanted {
            assert!(addresses.get(*key).is_some_and(Value::is_string), "{key} of {process}");
        }
    }
    let users = demo["users"].as_array().expect("users");
    assert_eq!(users.len(), 10);
    assert_eq!((&users[0]["number"], &users[9]["number"]), (&Value::from("1001"), &Value::from("1010")));
    for user in users {
        let pin = user["pin"].as_str().unwrap_or_default();
        assert!(pin.len() >= 4 && said.contains(pin), "the PIN of {user} is printed");
    }
    let left = text(
        &Command::new("pgrep").args(["-f", &dir.path().to_string_lossy()]).output().expect("pgrep runs").stdout,
    );
    assert_eq!(left.trim(), "", "nothing is left running");
}

/// The ends of the demo's logs, for a failure.
fn logs(dir: &Path) -> String {
    let mut text = String::new();
    for name in ["a", "b", "w"] {
        for file in fs::read_dir(dir.join("demo").join(name)).into_iter().flatten().flatten() {
            if file.path().to_string_lossy().ends_with("log") {
                let log = fs::read_to_string(file.path()).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(30).collect();
                text += &format!("--- {name} ---\n{}\n", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
    }
    text
}

#[test]
fn a_taken_port_is_named_with_its_option() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let port = base_port(1);
    let _taken = UdpSocket::bind(("127.0.0.1", port)).expect("the port is free");
    let output = demo_once(dir.path(), port);
    let said = text(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{}: {said}", output.status);
    assert!(said.contains(&port.to_string()) && said.contains("--base-port"), "{said}");
}

/// Without `--once` the demo runs until Ctrl-C, which stops all its processes cleanly.
#[test]
fn demo_runs_until_ctrl_c() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(binary());
    command.args(["demo", "--fresh", "--dir"]).arg(dir.path().join("demo"));
    command.args(["--base-port", &base_port(2).to_string()]);
    let here = NetPlace::here(std::net::Ipv4Addr::LOCALHOST);
    let mut demo = Process::start("demo", command, &here, &dir.path().join("log"));
    wait_for("the self-check to pass", Duration::from_secs(120), || {
        assert!(demo.runs(), "the demo ended: {}", demo.log());
        demo.log().contains("Ctrl-C").then_some(())
    });
    let json: Value =
        serde_json::from_slice(&fs::read(dir.path().join("demo/demo.json")).expect("demo.json")).expect("JSON");
    let pids: Vec<u64> =
        json["processes"].as_array().into_iter().flatten().filter_map(|p| p["pid"].as_u64()).collect();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| Path::new(&format!("/proc/{pid}")).exists()), "{pids:?} run");
    demo.signal(libc::SIGINT);
    let status = demo.wait(Duration::from_secs(45)).unwrap_or_else(|| panic!("it does not stop: {}", demo.log()));
    assert!(status.success(), "{status}: {}", demo.log());
    assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()), "{pids:?} have ended");
}
