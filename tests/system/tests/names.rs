//! Names: a trunk that is one, found by SRV and addresses in order (RFC 3263), the records of the shared name, and the
//! doctor who looks at all of it.

use std::{net::Ipv4Addr, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_testkit::{Cluster, Data, NameServer, Pbx, Spec, leave_message};

const PBX: u16 = 5070;
const DNS: u16 = 5300;

/// The first target of the SRV records is dead, the second is the PBX: lights arrive, and the dead one is not asked
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
        let light = pbx.sees(user.number, new, Duration::from_secs(15));
        let light = light.unwrap_or_else(|| panic!("no light {new}: {:#?}", pbx.lights()));
        let after = light.at.since(deposit.at);
        println!("light {new} after {after:?}; the name server was asked {} times", names.asked());
        assert!(new == 1 || after < Duration::from_secs(2), "the dead target is asked first again: {after:?}");
    }
    assert!(names.asked() > 0);
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

    // The other is dead, and a trunk leads nowhere.
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
