//! RTCP over real sockets: reports to a PBX, and reports from the PBX.

use std::{net::UdpSocket, time::Duration};

use crate::peer::{LOCALHOST, SOON, TestCall, TestPeer, engine, speech};
use bytes::Bytes;
use twinbox_media::{Clip, Codec, Engine, MediaStats, Remote, Session};
use twinbox_rtp::{
    packet::Ssrc,
    rtcp::{Block, Cname, Compound, LONGEST, Ntp, Part, Report, SenderInfo, ShortNtp},
};

/// Socket on the port above the far end's: its RTCP port.
fn rtcp_of(peer: &mut TestPeer) -> UdpSocket {
    loop {
        let mut above = peer.socket.local_addr().unwrap();
        above.set_port(above.port() + 1);
        if let Ok(socket) = UdpSocket::bind(above) {
            socket.set_read_timeout(Some(SOON)).unwrap();
            return socket;
        }
        peer.socket = UdpSocket::bind((LOCALHOST, 0)).unwrap();
        peer.socket.set_read_timeout(Some(SOON)).unwrap();
    }
}

/// A session whose far end has an RTCP socket.
async fn open(engine: &Engine) -> (TestCall, UdpSocket) {
    let mut call = TestCall::open(engine, Codec::Pcmu).await;
    let rtcp = rtcp_of(&mut call.peer);
    call.negotiate(call.remote()).await;
    (call, rtcp)
}

/// Content of a compound packet.
#[derive(Debug)]
struct ReceivedReport {
    from: Ssrc,
    sender: Option<SenderInfo>,
    block: Option<Block>,
    bye: Option<Ssrc>,
    from_port: u16,
}

/// Next compound packet; skips RTP before it.
fn receive_report(socket: &UdpSocket) -> ReceivedReport {
    let mut buffer = [0; 2_000];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).expect("a report in time");
        let Ok(compound) = Compound::parse(&buffer[..length]) else { continue };
        let parts: Vec<_> = compound.parts().collect();
        let Part::Report { from: ssrc, sender, blocks } = parts[0] else { panic!("{parts:?}") };
        assert_eq!(parts[1], Part::Other(202), "SDES follows");
        let bye = parts.iter().find_map(|part| if let Part::Bye(who) = part { *who } else { None });
        return ReceivedReport { from: ssrc, sender, block: blocks.iter().next(), bye, from_port: from.port() };
    }
}

fn write(from: Ssrc, block: Option<Block>) -> Vec<u8> {
    let (cname, mut out) = (Cname::from_random([7; Cname::LENGTH]), [0; LONGEST]);
    let length = Report { from, sender: None, block, cname, bye: false }.write(&mut out);
    out[..length].to_vec()
}

fn play(session: &Session, frames: usize) {
    session.play(1, vec![Clip::Audio { codec: Codec::Pcmu, data: Bytes::from(vec![0x11; frames * 160]) }]);
}

async fn wait_for(engine: &Engine, what: &str, condition: impl Fn(&MediaStats) -> bool) -> MediaStats {
    let wait = async {
        while !condition(&engine.stats()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, wait).await.unwrap_or_else(|_| panic!("never: {what}: {:?}", engine.stats()));
    engine.stats()
}

#[tokio::test]
async fn received_media_is_reported_and_bye_is_sent() {
    let engine = engine(23_300..=23_319);
    let (mut call, rtcp) = open(&engine).await;
    call.peer.say(&speech(160 * 30));
    // Two packets are lost.
    let _ = (call.peer.packet(&[0; 160]), call.peer.packet(&[0; 160]));
    call.peer.say(&speech(160 * 8));
    call.taken(38).await;
    // From 65,530 on, 40 packets later: one wrap.
    let highest = 0x1_0000 + 65_530 + 39 - 65_536;
    let report = std::iter::repeat_with(|| receive_report(&rtcp))
        .find(|report| report.block.is_some_and(|b| b.highest == highest));
    let report = report.expect("reports go on");
    assert_eq!(report.from_port, call.session.local_port() + 1);
    assert!(report.sender.is_none() && report.bye.is_none(), "we have sent nothing: {report:?}");
    assert_eq!(report.block.map(|b| (b.ssrc, b.lost)), Some((42, 2)));
    call.session.close();
    let bye = std::iter::repeat_with(|| receive_report(&rtcp)).find(|report| report.bye.is_some()).expect("a BYE");
    assert_eq!((bye.bye, bye.from), (Some(report.from), report.from));
    let quality = wait_for(&engine, "both are counted", |s| s.quality.reports_sent >= 2).await.quality;
    assert_eq!((quality.inbound.expected, quality.inbound.lost), (40, 2));
    assert!(quality.inbound.jitter.count() >= 1);
}

#[tokio::test]
async fn reports_of_the_peer_give_loss_jitter_and_round_trip() {
    let engine = engine(23_320..=23_339);
    let (call, rtcp) = open(&engine).await;
    play(&call.session, 500);
    let (first, _) = call.peer.hear();
    let ours = receive_report(&rtcp);
    let info = ours.sender.expect("we are a sender");
    assert_eq!((ours.from, ours.block), (first.ssrc, None));
    assert!(info.packets > 10 && info.octets == info.packets * 160, "{info:?}");
    // The timestamp is that of the report's time: near that of the last packet.
    let so_far = info.time.since(first.time);
    assert!((so_far - (info.packets as i32 - 1) * 160).abs() < 8_000, "{so_far} samples, {} packets", info.packets);
    let highest = u32::from(first.seq.plus(9).0);
    let block = Block {
        ssrc: ours.from.0,
        fraction_lost: 51,
        lost: 2,
        highest,
        jitter: 80,
        last_report: info.ntp.middle(),
        since_last_report: ShortNtp(0),
    };
    rtcp.send_to(&write(Ssrc(42), Some(block)), (LOCALHOST, call.session.local_port() + 1)).unwrap();
    let quality = wait_for(&engine, "it is taken", |s| s.quality.reports_received == 1).await.quality;
    assert_eq!((quality.outbound.expected, quality.outbound.lost), (10, 2));
    assert_eq!((quality.outbound.jitter.count(), quality.outbound.jitter.max_us), (1, 10_000));
    assert_eq!(quality.round_trip.count(), 1);
    assert_eq!(quality.reports_refused, 0);
}

#[tokio::test]
async fn sender_report_of_the_peer_is_referenced_by_its_time() {
    let engine = engine(23_340..=23_359);
    let (mut call, rtcp) = open(&engine).await;
    call.peer.say(&speech(320));
    call.taken(2).await;
    let info = SenderInfo {
        ntp: Ntp(0xaaaa_bbbb_cccc_dddd),
        time: twinbox_rtp::packet::RtpTime(0),
        packets: 2,
        octets: 320,
    };
    let (cname, mut out) = (Cname::from_random([7; Cname::LENGTH]), [0; LONGEST]);
    let length = Report { from: Ssrc(42), sender: Some(info), block: None, cname, bye: false }.write(&mut out);
    rtcp.send_to(&out[..length], (LOCALHOST, call.session.local_port() + 1)).unwrap();
    wait_for(&engine, "it is taken", |s| s.quality.reports_received == 1).await;
    call.peer.say(&speech(160));
    call.taken(3).await;
    let block =
        std::iter::repeat_with(|| receive_report(&rtcp).block.expect("a block")).find(|b| b.last_report.0 != 0);
    let block = block.expect("reports go on");
    assert_eq!(block.last_report, ShortNtp(0xbbbb_cccc));
    assert!(block.since_last_report.0 > 0 && block.since_last_report.0 < 10 << 16, "{block:?}");
}

#[tokio::test]
async fn with_mux_reports_share_the_ports_of_rtp() {
    let engine = engine(23_360..=23_379);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    call.negotiate(Remote { rtcp_mux: true, ..call.remote() }).await;
    play(&call.session, 500);
    let ours = receive_report(&call.peer.socket);
    assert_eq!(ours.from_port, call.session.local_port());
    let block = Block { ssrc: ours.from.0, last_report: ours.sender.unwrap().ntp.middle(), ..Block::default() };
    call.peer.send(&write(Ssrc(42), Some(block)));
    wait_for(&engine, "it is taken", |s| s.quality.round_trip.count() == 1).await;
}

#[tokio::test]
async fn reports_go_to_the_port_of_the_peers_reports_only() {
    let engine = engine(23_380..=23_399);
    let (mut call, _stated) = open(&engine).await;
    play(&call.session, 5);
    call.peer.say(&speech(320));
    call.taken(2).await;
    let to = (LOCALHOST, call.session.local_port() + 1);
    let (theirs, stranger, elsewhere) = (
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        UdpSocket::bind("127.0.0.9:0").unwrap(),
    );
    theirs.set_read_timeout(Some(SOON)).unwrap();
    theirs.send_to(&write(Ssrc(42), None), to).unwrap();
    // Unknown stream; host not part of the call; not RTCP.
    stranger.send_to(&write(Ssrc(43), None), to).unwrap();
    elsewhere.send_to(&write(Ssrc(42), None), to).unwrap();
    stranger.send_to(b"hello", to).unwrap();
    wait_for(&engine, "they are looked at", |s| (s.quality.reports_received, s.quality.reports_refused) == (1, 3))
        .await;
    call.session.close();
    let report = std::iter::repeat_with(|| receive_report(&theirs)).find(|report| report.bye.is_some());
    assert!(report.is_some());
}

#[tokio::test]
async fn stated_rtcp_port_is_used_and_silent_session_sends_no_bye() {
    let engine = engine(23_400..=23_419);
    let mut call = TestCall::open(&engine, Codec::Pcmu).await;
    let rtcp = UdpSocket::bind("127.0.0.1:0").unwrap();
    rtcp.set_read_timeout(Some(SOON)).unwrap();
    drop(TestCall::open(&engine, Codec::Pcmu).await);
    call.negotiate(Remote { rtcp: rtcp.local_addr().ok(), ..call.remote() }).await;
    assert_eq!(receive_report(&rtcp).from_port, call.session.local_port() + 1);
    // Counted after it was sent.
    let stats = wait_for(&engine, "the report to be counted", |stats| stats.quality.reports_sent > 0).await;
    assert_eq!(stats.quality.reports_sent, 1, "the other session left without a word");
}
