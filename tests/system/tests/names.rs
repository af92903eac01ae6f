//! Names: a trunk by name, found by SRV and addresses in order (RFC 3263), the records of the shared name with the
//! phones that follow them, and the doctor's checks of all of it.

use std::{collections::BTreeSet, net::Ipv4Addr, process::Command, time::Duration};

use serde_json::Value;
use twinbox_clock::BootInstant;
use twinbox_testkit::{
    Cluster, Data, Endpoint, Lab, NameServer, Pbx, Spec, binary, g711::Law, http_get, leave_message, metric, need,
    sipp::Sipp, wait_for,
};

const PBX: u16 = 5070;
const DNS: u16 = 5300;

/// The first target of the SRV records is dead, the second is the PBX: NOTIFYs arrive, and the dead one is not tried
/// first again.
#[test]
fn a_trunk_by_name_is_tried_in_the_order_of_its_records() {
    let (cluster, (pbx, names)) = Cluster::start_with(
        |phones| Spec {
            sip: vec![format!("dns_servers = [\"{}\"]", phones.port(DNS))],
            trunk: vec![
                "mwi = \"sip:{mailbox}@pbx.example.test\"".to_owned(),
                "proxy = \"pbx.example.test\"".to_owned(),
            ],
            ..Spec::default()
        },
        |phones| {
            let [a, b, c, _] = phones.ip.octets();
            let service = "_sip._udp.pbx.example.test".to_owned();
            let records = vec![
                (service.clone(), Data::Srv(10, 0, PBX, "dead.example.test".to_owned())),
                (service, Data::Srv(20, 0, PBX, "alive.example.test".to_owned())),
                ("dead.example.test".to_owned(), Data::A(Ipv4Addr::new(a, b, c, 99))),
                ("alive.example.test".to_owned(), Data::A(phones.ip)),
            ];
            (Pbx::open(phones, PBX), NameServer::start(phones, DNS, records))
        },
    );
    let user = Cluster::USERS[0];
    for new in 1..=3 {
        let deposit = leave_message(cluster.phones(), cluster.sip("a"), user.number, 1.2);
        assert!(deposit.acknowledged());
        let notify = pbx.wait_for_mwi(user.number, new, Duration::from_secs(15));
        let notify = notify.unwrap_or_else(|| panic!("no MWI {new}: {:#?}", pbx.notifies()));
        let after = notify.at.since(deposit.at);
        println!("MWI {new} after {after:?}; the name server was asked {} times", names.asked());
        assert!(new == 1 || after < Duration::from_secs(2), "the dead target is asked first again: {after:?}");
    }
    assert!(names.asked() > 0);
}

const NAME: &str = "voicemail.example.test";

/// The output of `twinbox dns records`, as a zone.
fn zone(printed: &Value) -> Vec<(String, Data)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let read = |r: &Value| {
        let data = Data::read(&text(&r["type"]), &text(&r["data"]));
        (text(&r["name"]).trim_end_matches('.').to_owned(), data.unwrap_or_else(|| panic!("no record: {r}")))
    };
    printed["records"].as_array().into_iter().flatten().map(read).collect()
}

/// `twinbox call` to the shared name; returns the answering node.
fn call_by_name(cluster: &Cluster, lab: &Lab, transport: &[&str]) -> (String, Duration) {
    let uri = format!("sip:{}@{NAME}", Cluster::USERS[0].number);
    let bind = cluster.phones().ip.to_string();
    let mut command: Command = lab.command(&binary());
    command.args(["--json", "call", &uri, "--bind", &bind, "--duration", "0.3"]).args(transport);
    let begun = BootInstant::now();
    let output = command.output().expect("the program runs");
    let took = begun.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let by = said["answered_by"].as_str().expect("who answered").to_owned();
    let node = ["a", "b"].into_iter().find(|node| by == cluster.sip(node).to_string());
    (node.unwrap_or_else(|| panic!("neither node: {by}")).to_owned(), took)
}

/// SIPp calls the shared name once, resolving its addresses itself.
fn sipp_by_name(cluster: &Cluster, lab: &Lab, media: &Endpoint) {
    let (to, hold) = (Cluster::USERS[0].number, Duration::from_millis(100));
    let sipp = Sipp::new("call-early", cluster.sip("a"), to, media.address(), hold).at(NAME, lab);
    sipp.start(cluster.phones(), cluster.dir()).finish();
}

/// Number of calls that this node has answered.
fn answered(cluster: &Cluster, node: &str) -> u64 {
    wait_for("the metrics", Duration::from_secs(5), || {
        let (_, page) = http_get(cluster.phones(), cluster.member(node).metrics(), "/metrics")?;
        Some(metric(&page, "twinbox_sip_total", "\"calls_answered\"").unwrap_or(0.0) as u64)
    })
}

/// A name server has the output of `dns records`. Our phone follows the SRV records, SIPp the addresses, each to both
/// nodes. When one is dead our phone tries the other automatically; SIPp, which tries no second address, succeeds once
/// the administrator has published the records of the remaining nodes.
#[test]
fn the_shared_name_leads_to_both_nodes_and_to_the_one_that_is_left() {
    if !need::all(&[need::NAMESPACES, need::SIPP]) {
        return;
    }
    let lab = Lab::new(&["a", "b", "w", "ns"]);
    let mut cluster = Cluster::start_in(&lab, &Spec::default());
    let place = lab.place("ns");
    lab.name_server(place.ip);
    let server = NameServer::start(&place, 53, zone(&cluster.cli("a").json(&["dns", "records", NAME])));
    let both: BTreeSet<String> = ["a", "b"].map(str::to_owned).into();

    for transport in [&[][..], &["--tcp"]] {
        let mut reached = BTreeSet::new();
        // Random, as their weights are the same: the same one twenty times is one in half a million.
        for _ in 0..20 {
            reached.insert(call_by_name(&cluster, &lab, transport).0);
            if reached == both {
                break;
            }
        }
        assert_eq!(reached, both, "{transport:?}");
    }
    let media = Endpoint::open(cluster.phones(), Law::Mu);
    let before = ["a", "b"].map(|node| answered(&cluster, node));
    wait_for("SIPp to reach both nodes", Duration::from_secs(30), || {
        sipp_by_name(&cluster, &lab, &media);
        let now = ["a", "b"].map(|node| answered(&cluster, node));
        (now[0] > before[0] && now[1] > before[1]).then_some(())
    });

    cluster.kill("b");
    for transport in [&[][..], &["--tcp"]] {
        let calls: Vec<_> = (0..4).map(|_| call_by_name(&cluster, &lab, transport)).collect();
        assert!(calls.iter().all(|(node, _)| node == "a"), "{calls:?}");
        let longest = calls.iter().map(|(_, took)| *took).max();
        println!("with b dead, a call by name {transport:?} took at most {longest:?}");
    }
    let left = cluster.cli("a").run(&["--json", "dns", "records", NAME]);
    let left: Value = serde_json::from_slice(&left.stdout).expect("JSON");
    server.set(zone(&left));
    let before = answered(&cluster, "a");
    for _ in 0..4 {
        sipp_by_name(&cluster, &lab, &media);
    }
    assert_eq!(answered(&cluster, "a"), before + 4, "{left}");
}

/// Both nodes are in the records of the shared name, and the doctor reaches them there.
#[test]
fn the_shared_name_has_both_nodes_and_the_doctor_finds_what_is_wrong() {
    let mut cluster = Cluster::start(&Spec::default());
    let cli = cluster.cli("a");
    let records = cli.json(&["dns", "records", "voicemail.example.com"]);
    let has = |kind: &str, name: &str, data: &str| {
        let mut list = records["records"].as_array().into_iter().flatten();
        list.any(|r| r["type"] == kind && r["name"] == name && r["data"] == data)
    };
    for node in ["a", "b"] {
        let address = cluster.sip(node).ip().to_string();
        assert!(has("A", "voicemail.example.com.", &address), "{records}");
        let service = format!("10 50 5060 {node}.voicemail.example.com.");
        for transport in ["udp", "tcp"] {
            assert!(has("SRV", &format!("_sip._{transport}.voicemail.example.com."), &service), "{records}");
        }
    }

    let config = cluster.member("a").config.to_string_lossy().into_owned();
    let well = cli.run(&["doctor", "--config", &config]);
    let said = String::from_utf8_lossy(&well.stdout).into_owned();
    assert!(well.status.success(), "{said}{}", String::from_utf8_lossy(&well.stderr));

    // The other is dead, and the name of a trunk does not resolve.
    let text = std::fs::read_to_string(&config).expect("the configuration");
    let dead = cluster.phones().port(5999);
    let wrong = text.replace("[[trunk]]\n", &format!("[[trunk]]\nproxy = \"{dead}\"\n"));
    let wrong_file = cluster.dir().join("wrong.toml");
    std::fs::write(&wrong_file, wrong).expect("written");
    cluster.kill("b");
    let begun = BootInstant::now();
    let file = wrong_file.to_string_lossy().into_owned();
    twinbox_testkit::wait_until("the doctor to find both", Duration::from_secs(20), || {
        let output = cli.run(&["--json", "doctor", "--timeout", "1", "--config", &file]);
        assert_eq!(output.status.code(), Some(1));
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let has = |area: &str, part: &str| {
            let mut all = found["findings"].as_array().into_iter().flatten();
            all.any(|f| f["area"] == area && f["what"].as_str().is_some_and(|w| w.contains(part)))
        };
        has("trunks", "does not answer OPTIONS") && has("cluster", "b is ")
    });
    println!("both found after {:?}", begun.elapsed());
}
