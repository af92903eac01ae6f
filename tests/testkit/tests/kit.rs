//! Tests of the kit itself, against the system's own tools: a wrong tool makes every test that uses it wrong.

use std::{process::Command, thread::sleep, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_testkit::{
    Call, Invite, Lab, Link, Loopback, MailFault, MailReceiver, NetPlace, Pbx, Postfix, Process, Strace, Swaks,
    Transport, http_get, media_of, need, wait_until,
};

/// SIPp's own answering scenario.
fn uas(place: &NetPlace, dir: &std::path::Path, transport: &str) -> Process {
    let mut command = Command::new("sipp");
    command.args([
        "-sn",
        "uas",
        "-i",
        &place.ip.to_string(),
        "-p",
        "5060",
        "-mp",
        "7000",
        "-t",
        transport,
        "-nostdin",
    ]);
    command.current_dir(dir).env("TERM", "dumb");
    let process = Process::start("sipp-uas", command, place, &dir.join("uas.log"));
    sleep(Duration::from_millis(500));
    process
}

#[test]
fn caller_speaks_sip() {
    if !need::all(&[need::SIPP]) {
        return;
    }
    let (loopback, dir) = (Loopback::claim(), tempfile::tempdir().expect("a temporary folder"));
    let (there, here) = (loopback.place(1), loopback.place(100));
    let node = there.port(5060);
    for (name, transport) in [("u1", Transport::Udp), ("t1", Transport::Tcp)] {
        let _uas = uas(&there, dir.path(), name);
        for late_offer in [false, true] {
            let mut invite = Invite::new("1001", "2001", here.port(9000));
            invite.late_offer = late_offer;
            let call = Call::place_within(&here, node, transport, &invite, Duration::from_secs(5));
            let call = call.unwrap_or_else(|r| panic!("{name}: {r:?}"));
            assert_eq!(Some(call.media), media_of(&call.answer.body), "{name}");
            let bye = call.bye();
            assert_eq!(bye.status, 200, "{name}: {bye:?}");
        }
    }
}

#[test]
fn lab_links_can_be_cut_both_ways_or_one_way_and_healed() {
    if !need::all(&[need::NAMESPACES]) {
        return;
    }
    let lab = Lab::new(&["a", "b"]);
    let [a, b] = ["a", "b"].map(|n| lab.place(n));
    let (of_a, of_b) = (a.udp(5000), b.udp(5000));
    for socket in [&of_a, &of_b] {
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    }
    let heard = |from: &std::net::UdpSocket, to: &std::net::UdpSocket| {
        let address = to.local_addr().expect("bound");
        from.send_to(b"x", address).expect("it can be sent");
        to.recv(&mut [0; 8]).is_ok()
    };
    // A bridge needs some time before it forwards.
    wait_until("the bridge to forward", Duration::from_secs(10), || heard(&of_a, &of_b) && heard(&of_b, &of_a));
    while of_a.recv(&mut [0; 8]).is_ok() || of_b.recv(&mut [0; 8]).is_ok() {}
    lab.cut("a", "b");
    assert_eq!((heard(&of_a, &of_b), heard(&of_b, &of_a)), (false, false));
    lab.heal();
    lab.cut_one_way("a", "b");
    assert_eq!((heard(&of_a, &of_b), heard(&of_b, &of_a)), (false, true));
    lab.heal();
    assert_eq!((heard(&of_a, &of_b), heard(&of_b, &of_a)), (true, true));
    // A phone at the bridge reaches both, and a second lab of the same addresses is isolated.
    let phone = lab.phones().udp(0);
    phone.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    assert!(heard(&phone, &of_b));
    let other = Lab::new(&["a", "b"]);
    let outside = other.phones().udp(0);
    assert!(!heard(&outside, &of_a));
}

#[test]
fn switch_delays_loses_and_counts_packets() {
    if !need::all(&[need::NAMESPACES, need::TAP]) {
        return;
    }
    let lab = Lab::switched(&["a", "b"], 7);
    let (of_a, of_b) = (lab.place("a").udp(5000), lab.place("b").udp(5000));
    of_b.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let address = of_b.local_addr().expect("bound");
    let trip = || {
        let sent = BootInstant::now();
        of_a.send_to(b"x", address).expect("it can be sent");
        of_b.recv(&mut [0; 8]).ok().map(|_| sent.elapsed())
    };
    wait_until("the switch to forward", Duration::from_secs(10), || trip().is_some());
    let before = lab.bytes_between("a", "b");
    lab.set_link("a", "b", Link { delay: Duration::from_millis(75), ..Link::default() });
    let took = trip().expect("it arrives");
    assert!((75..400).contains(&took.as_millis()), "{took:?}");
    assert!(lab.bytes_between("a", "b") > before);
    lab.set_link("a", "b", Link { loss_per_mille: 500, ..Link::default() });
    of_b.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    let arrived = (0..100).filter(|_| trip().is_some()).count();
    assert!((20..80).contains(&arrived), "{arrived} of 100 arrived");
    lab.set_link("a", "b", Link { loss_per_mille: 1_000, ..Link::default() });
    assert!((0..10).all(|_| trip().is_none()));
}

#[test]
fn processes_start_in_their_namespace_and_die_with_their_owner() {
    if !need::all(&[need::NAMESPACES]) {
        return;
    }
    let (lab, dir) = (Lab::new(&["a"]), tempfile::tempdir().expect("a temporary folder"));
    let log = dir.path().join("log");
    let mut command = Command::new("ip");
    command.args(["-4", "-o", "addr", "show", "eth0"]);
    let mut shown = Process::start("ip", command, &lab.place("a"), &log);
    assert!(shown.wait(Duration::from_secs(5)).is_some_and(|s| s.success()));
    assert!(shown.log().contains("10.77.0.1/24"), "{}", shown.log());
    let mut command = Command::new("sleep");
    command.arg("60");
    let sleeper = Process::start("sleep", command, &lab.place("a"), &log);
    let proc = std::path::PathBuf::from(format!("/proc/{}", sleeper.pid()));
    assert!(proc.exists());
    drop(sleeper);
    assert!(!proc.exists());
}

#[test]
fn strace_sees_the_syncs_of_a_running_process() {
    if !need::all(&[need::STRACE]) {
        return;
    }
    let (loopback, dir) = (Loopback::claim(), tempfile::tempdir().expect("a temporary folder"));
    let mut command = Command::new("perl");
    let script =
        "open F, '>synced'; while (1) { print F 'x'; F->flush; F->sync; select undef, undef, undef, 0.05 }";
    command.args(["-MIO::Handle", "-e", script]).current_dir(dir.path());
    let process = Process::start("writer", command, &loopback.place(1), &dir.path().join("log"));
    let strace = Strace::attach(&[("writer", process.pid())], &["trace=fdatasync,fsync"], dir.path());
    let output = dir.path().join("strace.out");
    wait_until("a sync to be seen", Duration::from_secs(10), || {
        std::fs::read_to_string(&output).is_ok_and(|t| t.contains("fsync(") && t.contains("= 0"))
    });
    assert!(strace.finish().iter().any(|e| e.text.starts_with("fsync(") && e.text.ends_with("= 0")));
}

#[test]
fn pbx_reads_message_summaries() {
    let loopback = Loopback::claim();
    let pbx = Pbx::open(&loopback.place(1), 5070);
    let node = loopback.place(2).udp(5060);
    let body = "Messages-Waiting: yes\r\nMessage-Account: sip:1001@x\r\nVoice-Message: 2/8 (0/0)\r\n";
    let text = format!(
        "NOTIFY sip:1001@{} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bKx\r\nFrom: <sip:x@y>;tag=1\r\n\
         To: <sip:1001@x>\r\nCall-ID: 1\r\nCSeq: 7 NOTIFY\r\nContent-Length: {}\r\n\r\n{body}",
        pbx.address(),
        node.local_addr().expect("bound"),
        body.len(),
    );
    node.send_to(text.as_bytes(), pbx.address()).expect("it can be sent");
    let light = pbx.wait_for_mwi("1001", 2, Duration::from_secs(2)).expect("it is seen");
    assert_eq!((light.counts, light.waiting, light.subscribed, light.cseq), (Some((2, 8)), true, false, 7));
    let mut answer = [0; 500];
    let length = node.recv(&mut answer).expect("it is answered");
    assert!(answer[..length].starts_with(b"SIP/2.0 200 OK\r\n"));
    assert_eq!(http_get(&loopback.place(1), loopback.place(3).port(80), "/"), None);
}

#[test]
fn swaks_and_postfix_hand_a_mail_to_a_receiver_that_fails_where_it_is_to() {
    if !need::all(&[need::SWAKS, need::POSTFIX, need::AIOSMTPD]) {
        return;
    }
    let (loopback, limit) = (Loopback::claim(), Duration::from_secs(20));
    let here = loopback.place(100);
    let receiver = MailReceiver::start(&here, 2525);
    let settings = [format!("relayhost = [{}]:2525", here.ip)];
    let postfix = Postfix::start(&Postfix::place(&here), 2525, &settings);
    let mail =
        |server| Swaks::new(server, "anna@sender.test", "bert@out.test").header("Message-Id", "<one@sender.test>");
    let sent = mail(postfix.address()).send();
    assert!(sent.taken && sent.receipt().contains("queued as"), "{}", sent.transcript);
    receiver.wait_for_mails(1, limit);
    receiver.fail_once(MailFault::Refuse);
    let refused = mail(receiver.address()).send();
    assert_eq!((refused.taken, refused.refusal()), (false, "550 5.7.1 not wanted here"), "{}", refused.transcript);
    assert!(mail(receiver.address()).send().taken);
    let mails = receiver.mails();
    let seen: Vec<_> = mails.iter().map(|mail| (mail.message_id.as_str(), mail.outcome.as_str())).collect();
    let id = "one@sender.test";
    assert_eq!(seen, [(id, "accepted"), (id, "refuse"), (id, "accepted")]);
    assert_eq!(mails[0].hello, "mail.sender.test");
    assert_eq!(receiver.read(&mails[1], None).header("to"), "bert@out.test");
    let ended = || receiver.sessions().iter().all(|session| session.ended.is_some());
    wait_until("its connections to end", limit, ended);
}
