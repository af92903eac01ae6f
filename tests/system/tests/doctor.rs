//! `twinbox doctor` with real problems: each is found, with a remedy, and nothing else is reported.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::{net::UnixListener, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use twinbox_pki::{CertificateAuthority, MemberKind, Validity};
use twinbox_testkit::{Cluster, Data, NameServer, Spec, binary, need, wait_until};

const DNS: u16 = 5300;

/// The doctor's report: the areas examined, and each finding's area, text and remedy.
#[derive(Debug)]
struct DoctorReport {
    code: Option<i32>,
    checked: Vec<String>,
    findings: Vec<[String; 3]>,
}

impl DoctorReport {
    fn of(output: &Output) -> Self {
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |what: &str| said[what].as_array().cloned().unwrap_or_default();
        Self {
            code: output.status.code(),
            checked: list("checked").iter().map(text).collect(),
            findings: list("findings")
                .iter()
                .map(|f| ["area", "what", "remedy"].map(|key| text(&f[key])))
                .collect(),
        }
    }

    fn has(&self, area: &str, what: &str, remedy: &str) -> bool {
        let all = |[a, w, r]: &[String; 3]| a == area && w.contains(what) && r.contains(remedy);
        self.findings.iter().any(all)
    }

    /// Checks for these findings and no others, with exit code 1.
    fn finds(&self, expected: &[(&str, &str, &str)]) {
        for (area, what, remedy) in expected {
            assert!(self.has(area, what, remedy), "no {area}: '{what}', '{remedy}' in {self:#?}");
        }
        assert_eq!((self.findings.len(), self.code), (expected.len(), Some(1)), "{self:#?}");
    }
}

fn doctor(config: &Path, more: &[&str]) -> DoctorReport {
    examine(Command::new(binary()), config, more)
}

fn examine(mut command: Command, config: &Path, more: &[&str]) -> DoctorReport {
    command.args(["--json", "doctor", "--timeout", "1", "--config"]).arg(config).args(more);
    DoctorReport::of(&command.output().expect("the program runs"))
}

/// A copy of a member's file with a text replaced.
fn changed(cluster: &Cluster, member: &str, from: &str, to: &str) -> PathBuf {
    let member = cluster.member(member);
    let text = fs::read_to_string(&member.config).expect("the configuration");
    assert!(text.contains(from), "no '{from}' in\n{text}");
    let file = member.home.join("changed.toml");
    fs::write(&file, text.replacen(from, to, 1)).expect("written");
    file
}

#[test]
fn faults_of_names_trunks_addresses_and_ranges_are_found() {
    let name = "voicemail.example.test";
    let mut names = None;
    let (mut cluster, ()) = Cluster::start_with(
        |phones| Spec { sip: vec![format!("dns_servers = [\"{}\"]", phones.port(DNS))], ..Spec::default() },
        |phones| names = Some(NameServer::start(phones, DNS, Vec::new())),
    );
    let names = names.expect("a name server");
    let config = cluster.member("a").config.clone();
    let ip = |cluster: &Cluster, node: &str| match cluster.sip(node).ip() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let [a, b] = ["a", "b"].map(|node| (name.to_owned(), Data::A(ip(&cluster, node))));
    let all = ["--name", name];

    names.set(vec![a.clone(), b.clone()]);
    let well = doctor(&config, &all);
    assert_eq!((well.code, well.findings.len()), (Some(0), 0), "{well:#?}");
    for area in [
        "configuration",
        "disk",
        "certificates",
        "limits",
        "rtp",
        "cluster",
        "clock",
        "ports",
        "dns",
        "addresses",
        "trunks",
    ] {
        assert!(well.checked.iter().any(|checked| checked == area), "no {area} in {well:#?}");
    }
    // Without `--json` it is a table, with the same exit codes.
    let spoken = Command::new(binary()).args(["doctor", "--config"]).arg(&config).output().expect("it runs");
    assert!(String::from_utf8_lossy(&spoken.stdout).contains("no problem found"));

    // The shared name lacks a node, or does not exist.
    let lacking = format!("does not lead to b ({}:5060, udp)", ip(&cluster, "b"));
    let zone = "dns records voicemail.example.test";
    names.set(vec![a]);
    doctor(&config, &all).finds(&[("dns", &lacking, zone), ("dns", &lacking.replace("udp", "tcp"), zone)]);
    names.set(vec![]);
    let gone = "the shared name voicemail.example.test";
    doctor(&config, &all).finds(&[("dns", gone, "records to the zone"), ("dns", gone, "records to the zone")]);
    names.set(vec![b]);

    // A trunk that is silent, and one whose name does not resolve.
    let silent = cluster.phones().port(5999).to_string();
    let file = changed(&cluster, "a", "[[trunk]]\n", &format!("[[trunk]]\nproxy = \"{silent}\"\n"));
    doctor(&file, &[]).finds(&[(
        "trunks",
        "trunk 'phones' does not answer OPTIONS at",
        "allow SIP from this node",
    )]);
    let file = changed(&cluster, "a", "[[trunk]]\n", "[[trunk]]\nproxy = \"pbx.example.test\"\n");
    doctor(&file, &[]).finds(&[("dns", "the proxy of trunk 'phones', pbx.example.test", "records to the zone")]);

    // RTP ports for fewer calls than `max_calls`.
    let file = changed(&cluster, "a", "10000-12999", "10000-10099");
    doctor(&file, &[]).finds(&[("rtp", "sip.max_calls: is 500, but rtp.ports has room for 50", "widen the one")]);

    // b is configured with an address that is not its own; a third member has a name that does not resolve.
    cluster.stop("b");
    let listener = format!("transport = \"udp\"\nbind = \"{}\"\n", cluster.sip("b"));
    let nowhere = cluster.phones().at(Ipv4Addr::new(ip(&cluster, "a").octets()[0], 99, 99, 99)).port(5060);
    let file = changed(&cluster, "b", &listener, &format!("{listener}advertise = \"{nowhere}\"\n"));
    fs::copy(&file, &cluster.member("b").config).expect("copied");
    cluster.start_member("b");
    cluster.wait_in_service();
    let said = doctor(&config, &[]);
    let advertised = format!("b advertises {nowhere} (udp)");
    said.finds(&[("addresses", &advertised, "'advertise' of that [[sip.listener]]")]);
    let b_address = format!("address = \"{}\"", cluster.member("b").place.port(7070));
    let file = changed(&cluster, "a", &b_address, "address = \"b.invalid:7070\"");
    let said = doctor(&file, &[]);
    assert!(said.has("dns", "b's address b.invalid:7070 does not resolve", "[[cluster.member]]"), "{said:#?}");
}

#[test]
fn a_node_that_does_not_run_is_examined_all_the_same() {
    let mut cluster = Cluster::start(&Spec { raw: true, ..Spec::default() });
    cluster.wait_in_service();
    cluster.stop("b");
    let (config, data_dir) = (cluster.member("b").config.clone(), cluster.member("b").data_dir.clone());
    let stopped = ("node", "no node answers at", "start it");
    let said = doctor(&config, &[]);
    said.finds(&[stopped]);
    for area in ["disk", "certificates", "limits", "rtp", "clock", "ports", "dns", "addresses", "trunks"] {
        assert!(said.checked.iter().any(|checked| checked == area), "no {area} in {said:#?}");
    }

    // Its ports are taken by another process.
    let taken = cluster.member("b").place.udp(5060);
    let listening = cluster.member("b").place.listen(9090);
    doctor(&config, &[]).finds(&[
        stopped,
        ("ports", "[[sip.listener]] bind: udp", "ss -lpn sport = :5060"),
        ("ports", "metrics.bind: tcp", "ss -lpn sport = :9090"),
    ]);
    drop((taken, listening));

    // Its folder is missing, or belongs to another user.
    let away = data_dir.with_extension("away");
    fs::rename(&data_dir, &away).expect("the disk is taken out");
    doctor(&config, &[]).finds(&[stopped, ("disk", "node.data_dir: there is no folder", "mount its disk")]);
    fs::rename(&away, &data_dir).expect("and put back");
    let mark = data_dir.join("owner.toml");
    let own = fs::read_to_string(&mark).expect("the mark");
    fs::write(&mark, own.replace("\"b\"", "\"a\"")).expect("written");
    doctor(&config, &[]).finds(&[stopped, ("disk", "holds the data of member 'a'", "the right disk")]);
    fs::write(&mark, own).expect("written");
    // A reserve larger than the disk.
    let file = changed(&cluster, "b", "reserve_mb = 16", "reserve_mb = 1048576");
    doctor(&file, &[]).finds(&[stopped, ("disk", "MB are reserved", "free space")]);

    // Another member is stopped too.
    cluster.stop("a");
    doctor(&config, &[]).finds(&[stopped, ("ports", "a is not reachable at", "firewall")]);
    // A witness is examined as well.
    let witness = cluster.member("w").config.clone();
    let said = doctor(&witness, &[]);
    assert!(
        said.findings.iter().all(|[area, what, _]| area == "ports" && what.contains("is not reachable")),
        "{said:#?}"
    );
    assert_eq!(said.findings.len(), 2, "a and b are off: {said:#?}");
}

#[test]
fn a_disk_that_cannot_be_written_is_found() {
    if !need::all(&[need::MOUNT]) {
        return;
    }
    let mut cluster = Cluster::start(&Spec { witness: false, raw: true, ..Spec::default() });
    cluster.wait_in_service();
    cluster.stop("b");
    let data_dir = cluster.member("b").data_dir.clone();
    let mount = |arguments: &[&str]| {
        let status = Command::new("mount").args(arguments).arg(&data_dir).status();
        assert!(status.is_ok_and(|status| status.success()), "mount {arguments:?}");
    };
    mount(&["-t", "tmpfs", "-o", "size=64m,ro", "tmpfs"]);
    let said = doctor(&cluster.member("b").config.clone(), &[]);
    let unmounted = Command::new("umount").arg("-l").arg(&data_dir).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    assert!(said.has("disk", "cannot be written: Read-only", "mount it for writing"), "{said:#?}");
}

#[test]
fn certificates_that_end_and_those_of_others_are_found() {
    let mut cluster = Cluster::start(&Spec { witness: false, raw: true, ..Spec::default() });
    cluster.wait_in_service();
    let config = cluster.member("b").config.clone();
    let tls = cluster.member("b").home.join("tls");
    let authority = CertificateAuthority::load(&cluster.dir().join("cluster/ca")).expect("the authority");
    let b = "b".parse().expect("a name");
    let issue = |life: Duration| {
        let validity = Validity::lasting(life, twinbox_clock::wall());
        let issued = authority.issue_for(&b, MemberKind::Node, validity).expect("issued");
        issued.save(&tls).expect("saved");
    };
    // b runs with the certificate that it loaded; it would start with the one on disk.
    issue(Duration::from_secs(10 * 86_400 + 60));
    doctor(&config, &[]).finds(&[(
        "certificates",
        "this member's certificate expires in 10 days",
        "is renewed automatically",
    )]);
    issue(Duration::ZERO);
    wait_until("it has ended", Duration::from_secs(10), || {
        doctor(&config, &[]).has("certificates", "expired", "set its clock")
    });
    // Another member's folder.
    for file in ["node.pem", "node.key"] {
        fs::copy(cluster.member("a").home.join("tls").join(file), tls.join(file)).expect("copied");
    }
    doctor(&config, &[]).finds(&[("certificates", "holds the certificate of a", "copy this member's folder")]);
    // Another member answers at b's address: a has it.
    cluster.stop("b");
    let (a, b) = (cluster.member("a").place.port(7070), cluster.member("b").place.port(7070));
    let file = changed(
        &cluster,
        "a",
        &format!("name = \"b\"\nkind = \"node\"\naddress = \"{b}\""),
        &format!("name = \"b\"\nkind = \"node\"\naddress = \"{a}\""),
    );
    let said = doctor(&file, &[]);
    assert!(said.has("certificates", "does not prove to be b", "the right folder"), "{said:#?}");
}

/// The doctor's clock is moved, so that every member's clock differs from it.
#[test]
fn clocks_that_differ_are_found_whether_the_node_runs_or_not() {
    if !need::all(&[need::FAKETIME]) {
        return;
    }
    let mut cluster = Cluster::start(&Spec { raw: true, ..Spec::default() });
    cluster.wait_in_service();
    let shifted = |config: &Path, by: &str| {
        let mut command = Command::new("faketime");
        command.args(["-f", by]).arg(binary());
        examine(command, config, &[])
    };
    let remedy = "time servers";
    let config = cluster.member("b").config.clone();
    // Leadership leaves the publisher soon after a start, and is vacant for a moment.
    let settled =
        || cluster.cli("b").status().is_some_and(|s| s["quorum"] == true && s["leader"] != s["publisher"]);
    wait_until("leadership to have moved", Duration::from_secs(20), settled);
    shifted(&config, "+90s").finds(&[("clock", "a's clock is 90.", remedy), ("clock", "w's clock is 90.", remedy)]);
    cluster.stop("b");
    let said = shifted(&config, "-90s");
    assert!(said.has("clock", "s ahead of this machine's", remedy) && said.findings.len() == 3, "{said:#?}");
}

/// A connection that the other side closes is an error with a text; only a closed output ends a command silently.
#[test]
fn a_node_that_hangs_up_is_told_and_a_reader_who_leaves_is_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    std::thread::spawn(move || listener.incoming().for_each(drop));
    for _ in 0..30 {
        let mut command = Command::new(binary());
        let output = command.arg("--socket").arg(&socket).args(["user", "list"]).output().expect("it runs");
        assert!(matches!(output.status.code(), Some(1 | 3)) && !output.stderr.is_empty(), "{output:?}");
    }
    let mut command = Command::new(binary());
    command.args(["completion", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!((ended.status.signal(), ended.stderr.len()), (Some(libc::SIGPIPE), 0), "{ended:?}");
}

#[test]
fn command_whose_output_does_not_fit_on_the_disk_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("x.toml");
    fs::write(&file, "").expect("a file");
    let file = file.display().to_string();
    for arguments in [vec!["completion", "bash"], vec!["--json", "doctor", "--config", &file]] {
        let full = fs::File::options().write(true).open("/dev/full").expect("the full device");
        let mut command = Command::new(binary());
        let ended = command.args(&arguments).stdout(full).output().expect("it runs");
        let text = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}: {text}");
        assert_eq!(text, "cannot write the output: No space left on device (os error 28)\n", "{arguments:?}");
    }
}
