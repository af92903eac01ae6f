//! Files of new members: who can read them, and the addresses in them.

use std::{fs, net::IpAddr, os::unix::fs::PermissionsExt};

use super::*;

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn folder_and_file_of_a_member_are_for_its_user_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let spec = InitSpec {
        cluster_name: "test".to_owned(),
        members: vec![
            (name("a"), MemberKind::Node, "10.0.0.1:7070".to_owned()),
            (name("b"), MemberKind::Node, "10.0.0.2:7070".to_owned()),
        ],
        sip: SipAddressing::default(),
    };
    let above = dir.path().join("above");
    // A volume keeps its mode; what is made in it is closed.
    let volume = above.join("b");
    fs::create_dir_all(&volume).expect("a folder");
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o755)).expect("its mode");
    fs::set_permissions(&above, fs::Permissions::from_mode(0o755)).expect("its mode");
    let formed = form(&above, &spec).expect("a cluster");
    assert_eq!((mode(&above), mode(&above.join("a")), mode(&volume)), (0o755, 0o700, 0o755));
    for member in &formed.members {
        assert_eq!((mode(&member.config), mode(&member.data_dir)), (0o600, 0o700), "{}", member.name);
    }
}

#[test]
fn member_with_the_name_of_the_ca_folder_or_without_an_address_of_one_host_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let home = dir.path().join("new");
    for (member, address, reason) in [
        ("ca", "10.0.0.1:7070", "give the member another name"),
        ("a", "0.0.0.0:7070", "the address at which the other members reach it"),
        ("a", "10.0.0.1:0", "HOST:PORT"),
        ("a", "a\"b:7070", "HOST:PORT"),
        ("a", "::1:7070", "[2001:db8::1]:7070"),
    ] {
        let spec = InitSpec {
            cluster_name: "test".to_owned(),
            members: vec![(name(member), MemberKind::Node, address.to_owned())],
            sip: SipAddressing::default(),
        };
        let error = form(&home, &spec).expect_err("refused").to_string();
        assert!(error.contains(reason), "{member} {address}: {error}");
        assert!(!home.exists(), "{member} {address}: a folder was left behind");
    }
}

#[test]
fn network_with_a_slip_of_the_prefix_and_address_of_no_machine_are_refused() {
    let pbx = |text: &str| SipAddressing { pbx: vec![text.parse().expect("a network")], ..Default::default() };
    let advertise = |ip: &str| {
        let ip: IpAddr = ip.parse().expect("an address");
        SipAddressing { advertise: [(name("a"), ip)].into(), pbx: Vec::new() }
    };
    for sip in [SipAddressing::default(), pbx("10.0.0.0/8"), pbx("10.0.0.1"), advertise("192.0.2.1")] {
        assert_eq!(sip.check(), Ok(()), "{sip:?}");
    }
    for (sip, reason) in [
        (pbx("10.0.0.1/8"), "write 10.0.0.0/8"),
        (advertise("0.0.0.0"), "that callers reach"),
        (advertise("::"), "that callers reach"),
        (advertise("224.0.0.1"), "that callers reach"),
    ] {
        let error = sip.check().expect_err("refused");
        assert!(error.contains(reason), "{error}");
    }
}

/// `cluster.bind`, the listeners, `rtp.bind` and the addresses of the trunk `local`.
fn addresses(address: &str, sip: SipAddressing) -> (String, Vec<String>, String, usize) {
    let spec = InitSpec {
        cluster_name: "test".to_owned(),
        members: vec![(name("a"), MemberKind::Node, address.to_owned())],
        sip,
    };
    let home = Path::new("/nowhere/a");
    let member = FormedMember {
        name: name("a"),
        kind: MemberKind::Node,
        config: home.join(CONFIG),
        data_dir: home.join("data"),
        tls_dir: home.join("tls"),
        address: address.to_owned(),
    };
    let file: toml::Table = config_text(&spec, ClusterId(7), &member, "").parse().expect("a file");
    let text = |value: &toml::Value| value.as_str().expect("a text").to_owned();
    let listeners = file["sip"]["listener"].as_array().expect("listeners");
    let local = file["trunk"].as_array().and_then(|trunks| trunks.last()).expect("a trunk");
    (
        text(&file["cluster"]["bind"]),
        listeners.iter().map(|listener| text(&listener["bind"])).collect(),
        text(&file["rtp"]["bind"]),
        local["addresses"].as_array().expect("addresses").len(),
    )
}

#[test]
fn member_with_an_ipv6_address_listens_on_ipv6() {
    let advertise = |ip: &str| {
        let ip: IpAddr = ip.parse().expect("an address");
        SipAddressing { advertise: [(name("a"), ip)].into(), pbx: Vec::new() }
    };
    let pbx =
        |network: &str| SipAddressing { pbx: vec![network.parse().expect("a network")], ..Default::default() };
    let v4 = ("0.0.0.0:7070", "0.0.0.0:5060", "0.0.0.0", 1);
    let both = ("0.0.0.0:7070", "[::]:5060", "::", 2);
    for (address, sip, (bind, listener, rtp, local)) in [
        ("10.0.0.1:7070", SipAddressing::default(), v4),
        ("a.example:7070", advertise("192.0.2.1"), v4),
        ("10.0.0.1:7070", advertise("2001:db8::1"), both),
        ("a.example:7070", pbx("2001:db8::/32"), both),
        ("[2001:db8::1]:7070", SipAddressing::default(), ("[::]:7070", "[::]:5060", "::", 2)),
        ("[2001:db8::1]:7070", advertise("192.0.2.1"), ("[::]:7070", "0.0.0.0:5060", "0.0.0.0", 1)),
    ] {
        let expected = (bind.to_owned(), vec![listener.to_owned(), listener.to_owned()], rtp.to_owned(), local);
        assert_eq!(addresses(address, sip.clone()), expected, "{address} {sip:?}");
    }
}
