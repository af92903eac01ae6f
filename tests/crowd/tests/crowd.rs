//! A crowd against SIPp, which shares no code with it.

use std::{path::Path, process::Command, time::Duration};

use twinbox_crowd::{Crowd, Driver};
use twinbox_testkit::{Loopback, NetPlace, Process, Speech, need, wait_until};

/// SIPp's own answering scenario, ready to answer.
fn uas(place: &NetPlace, dir: &Path) -> Process {
    let mut command = Command::new("sipp");
    command.args(["-sn", "uas", "-i", &place.ip.to_string(), "-p", "5060", "-mp", "7000", "-t", "u1", "-nostdin"]);
    command.current_dir(dir).env("TERM", "dumb");
    let process = Process::start("sipp-uas", command, place, &dir.join("uas.log"));
    wait_until("SIPp to listen", Duration::from_secs(10), || std::net::UdpSocket::bind((place.ip, 5060)).is_err());
    process
}

#[test]
fn crowd_speaks_sip() {
    if !need::all(&[need::SIPP]) {
        return;
    }
    let (loopback, dir) = (Loopback::claim(), tempfile::tempdir().expect("a temporary folder"));
    let (there, here) = (loopback.place(1), loopback.place(100));
    let (_uas, node) = (uas(&there, dir.path()), there.port(5060));
    let mut crowd = Crowd::open(&here);
    for n in 0..20 {
        crowd.call(node, "1001", &format!("20{n:02}"));
    }
    assert!(crowd.take_until(Duration::from_secs(5), |c| c.answer.is_some()));
    assert_eq!(crowd.answered(200).len(), 20);
    (0..20).for_each(|n| crowd.hang_up(n));
    assert!(crowd.take_until(Duration::from_secs(5), |c| c.bye.is_some_and(|(s, _)| s == 200)));
}

#[test]
fn callers_speak_the_same_from_different_places() {
    let loopback = Loopback::claim();
    let (there, here) = (loopback.place(1), loopback.place(100));
    let (sip, media) = (there.udp(5060), there.udp(0));
    let mut driver = Driver::new(&here);
    let media_port = media.local_addr().expect("bound");
    for n in 0..2 {
        driver.crowd.call(there.port(5060), "1001", "2001");
        driver.crowd.callers[n].media = Some(media_port);
        driver.speak(n, None);
    }
    driver.drive(Duration::from_millis(200), |_| {});
    media.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let (mut heard, mut packet) = (vec![Vec::new(), Vec::new()], [0; 2048]);
    while let Ok(length) = media.recv(&mut packet) {
        // Events have four bytes.
        if length == 172 {
            heard[usize::from(packet[11]) - 1].extend_from_slice(&packet[12..length]);
        }
    }
    let speech = Speech::new(1).bytes(0, 80_000);
    for (n, heard) in heard.iter().enumerate() {
        assert!(heard.len() >= 5 * 160, "caller {n}: {} samples", heard.len());
        let at = speech.windows(heard.len()).position(|part| part == heard).expect("bit for bit");
        // The four packets of `#` come first.
        assert_eq!(at, 4 * 160 + n * 7_979, "caller {n}");
    }
    drop(sip);
}
