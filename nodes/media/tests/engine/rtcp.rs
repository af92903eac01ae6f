//! RTCP over real sockets: reports to a PBX, and reports from the PBX.

use std::{net::UdpSocket, time::Duration};

use crate::far::{Far, LOCALHOST, Line, SOON, engine, speech};
use bytes::Bytes;
use twinbox_media::{Clip, Codec, Engine, MediaStats, Remote, Session};
use twinbox_rtp::{
    packet::Ssrc,
    rtcp::{Block, Cname, Compound, LONGEST, Ntp, Part, Report, SenderInfo, ShortNtp},
};

/// Socket on the port above the far end's: its RTCP port.
fn rtcp_of(far: &mut Far) -> UdpSocket {
    loop {
        let mut above = far.socket.local_addr().unwrap();
        above.set_port(above.port() + 1);
        if let Ok(socket) = UdpSocket::bind(above) {
            socket.set_read_timeout(Some(SOON)).unwrap();
            return socket;
        }
        far.socket = UdpSocket::bind((LOCALHOST, 0)).unwrap();
        far.socket.set_read_timeout(Some(SOON)).unwrap();
    }
}

/// A session whose far end has an RTCP socket.
async fn open(engine: &Engine) -> (Line, UdpSocket) {
    let mut line = Line::open(engine, Codec::Pcmu).await;
    let rtcp = rtcp_of(&mut line.far);
    line.negotiate(line.remote()).await;
    (line, rtcp)
}

/// Content of a compound packet.
#[derive(Debug)]
struct Told {
    from: Ssrc,
    sender: Option<SenderInfo>,
    block: Option<Block>,
    bye: Option<Ssrc>,
    from_port: u16,
}

/// Next compound packet; skips RTP before it.
fn hear(socket: &UdpSocket) -> Told {
    let mut buffer = [0; 2_000];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).expect("a report in time");
        let Ok(compound) = Compound::parse(&buffer[..length]) else { continue };
        let parts: Vec<_> = compound.parts().collect();
        let Part::Report { from: ssrc, sender, blocks } = parts[0] else { panic!("{parts:?}") };
        assert_eq!(parts[1], Part::Other(202), "SDES follows");
        let bye = parts.iter().find_map(|part| if let Part::Bye(who) = part { *who } else { None });
        return Told { from: ssrc, sender, block: blocks.iter().next(), bye, from_port: from.port() };
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
async fn what_is_received_is_reported_and_the_end_is_told() {
    let engine = engine(23_300..=23_319);
    let (mut line, rtcp) = open(&engine).await;
    line.far.say(&speech(160 * 30));
    // Two packets are lost.
    let _ = (line.far.packet(&[0; 160]), line.far.packet(&[0; 160]));
    line.far.say(&speech(160 * 8));
    line.taken(38).await;
    // From 65,530 on, 40 packets later: one wrap.
    let highest = 0x1_0000 + 65_530 + 39 - 65_536;
    let told = std::iter::repeat_with(|| hear(&rtcp)).find(|told| told.block.is_some_and(|b| b.highest == highest));
    let told = told.expect("reports go on");
    assert_eq!(told.from_port, line.session.local_port() + 1);
    assert!(told.sender.is_none() && told.bye.is_none(), "we have sent nothing: {told:?}");
    assert_eq!(told.block.map(|b| (b.ssrc, b.lost)), Some((42, 2)));
    line.session.close();
    let bye = std::iter::repeat_with(|| hear(&rtcp)).find(|told| told.bye.is_some()).expect("a farewell");
    assert_eq!((bye.bye, bye.from), (Some(told.from), told.from));
    let quality = wait_for(&engine, "both are counted", |s| s.quality.reports_sent >= 2).await.quality;
    assert_eq!((quality.inbound.expected, quality.inbound.lost), (40, 2));
    assert!(quality.inbound.jitter.count() >= 1);
}

#[tokio::test]
async fn peers_reports_become_loss_jitter_and_round_trip() {
    let engine = engine(23_320..=23_339);
    let (line, rtcp) = open(&engine).await;
    play(&line.session, 500);
    let (first, _) = line.far.hear();
    let ours = hear(&rtcp);
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
    rtcp.send_to(&write(Ssrc(42), Some(block)), (LOCALHOST, line.session.local_port() + 1)).unwrap();
    let quality = wait_for(&engine, "it is taken", |s| s.quality.reports_received == 1).await.quality;
    assert_eq!((quality.outbound.expected, quality.outbound.lost), (10, 2));
    assert_eq!((quality.outbound.jitter.count(), quality.outbound.jitter.max_us), (1, 10_000));
    assert_eq!(quality.round_trip.count(), 1);
    assert_eq!(quality.reports_refused, 0);
}

#[tokio::test]
async fn their_sender_report_is_answered_by_its_time() {
    let engine = engine(23_340..=23_359);
    let (mut line, rtcp) = open(&engine).await;
    line.far.say(&speech(320));
    line.taken(2).await;
    let info = SenderInfo {
        ntp: Ntp(0xaaaa_bbbb_cccc_dddd),
        time: twinbox_rtp::packet::RtpTime(0),
        packets: 2,
        octets: 320,
    };
    let (cname, mut out) = (Cname::from_random([7; Cname::LENGTH]), [0; LONGEST]);
    let length = Report { from: Ssrc(42), sender: Some(info), block: None, cname, bye: false }.write(&mut out);
    rtcp.send_to(&out[..length], (LOCALHOST, line.session.local_port() + 1)).unwrap();
    wait_for(&engine, "it is taken", |s| s.quality.reports_received == 1).await;
    line.far.say(&speech(160));
    line.taken(3).await;
    let block = std::iter::repeat_with(|| hear(&rtcp).block.expect("a block")).find(|b| b.last_report.0 != 0);
    let block = block.expect("reports go on");
    assert_eq!(block.last_report, ShortNtp(0xbbbb_cccc));
    assert!(block.since_last_report.0 > 0 && block.since_last_report.0 < 10 << 16, "{block:?}");
}

#[tokio::test]
async fn with_mux_reports_share_the_ports_of_rtp() {
    let engine = engine(23_360..=23_379);
    let mut line = Line::open(&engine, Codec::Pcmu).await;
    line.negotiate(Remote { rtcp_mux: true, ..line.remote() }).await;
    play(&line.session, 500);
    let ours = hear(&line.far.socket);
    assert_eq!(ours.from_port, line.session.local_port());
    let block = Block { ssrc: ours.from.0, last_report: ours.sender.unwrap().ntp.middle(), ..Block::default() };
    line.far.send(&write(Ssrc(42), Some(block)));
    wait_for(&engine, "it is taken", |s| s.quality.round_trip.count() == 1).await;
}

#[tokio::test]
async fn reports_follow_the_port_that_theirs_come_from_and_no_stranger() {
    let engine = engine(23_380..=23_399);
    let (mut line, _stated) = open(&engine).await;
    play(&line.session, 5);
    line.far.say(&speech(320));
    line.taken(2).await;
    let to = (LOCALHOST, line.session.local_port() + 1);
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
    line.session.close();
    let told = std::iter::repeat_with(|| hear(&theirs)).find(|told| told.bye.is_some());
    assert!(told.is_some());
}

#[tokio::test]
async fn stated_port_is_used_and_who_never_spoke_does_not_take_leave() {
    let engine = engine(23_400..=23_419);
    let mut line = Line::open(&engine, Codec::Pcmu).await;
    let rtcp = UdpSocket::bind("127.0.0.1:0").unwrap();
    rtcp.set_read_timeout(Some(SOON)).unwrap();
    drop(Line::open(&engine, Codec::Pcmu).await);
    line.negotiate(Remote { rtcp: rtcp.local_addr().ok(), ..line.remote() }).await;
    assert_eq!(hear(&rtcp).from_port, line.session.local_port() + 1);
    assert_eq!(engine.stats().quality.reports_sent, 1, "the other session left without a word");
}
