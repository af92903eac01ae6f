use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use twinbox_rtp::packet::{RtpTime, SeqNo, Ssrc};

use super::*;
use crate::ports::Ports;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Nothing;

impl ChunkSink for Nothing {
    fn chunk(&self, _: u64, _: Bytes) {}
}

struct Call {
    session: RtpSession,
    context: ThreadContext,
    peer: UdpSocket,
    to: (IpAddr, u16),
    sent: u16,
    remote: Remote,
    _events: mpsc::Receiver<MediaEvent>,
}

impl Call {
    fn new(port: u16) -> Self {
        let pair = Ports::new(port..=port + 1).unwrap().bind(LOCALHOST, 0).unwrap();
        let peer = UdpSocket::bind((LOCALHOST, 0)).unwrap();
        let (events, _events) = mpsc::channel(8);
        let now = BootInstant::now();
        let mut session = RtpSession::new(pair, events, Arc::default(), now);
        let remote = Remote::new(Some(peer.local_addr().unwrap()), Codec::Pcmu);
        session.set_remote(now, remote);
        let context =
            ThreadContext { batch: Batch::new(), stats: MediaStats::default(), media_timeout: Duration::ZERO };
        Self { session, context, peer, to: (LOCALHOST, port), sent: 0, remote, _events }
    }

    fn record(&mut self) {
        let spec = RecordSpec { max: Duration::from_secs(600), end_silence: None, sink: Arc::new(Nothing) };
        self.session.record(BootInstant::now(), spec, &mut self.context.stats);
    }

    fn send(&mut self, packets: u16) {
        for _ in 0..packets {
            let header = Header {
                marker: false,
                payload_type: 0,
                seq: SeqNo(self.sent),
                time: RtpTime(u32::from(self.sent) * 160),
                ssrc: Ssrc(7),
            };
            self.peer.send_to(&[&header.to_bytes()[..], &[0x55; 160]].concat(), self.to).unwrap();
            self.sent += 1;
        }
    }

    /// Slots until the next visit.
    fn visit(&mut self) -> usize {
        self.session.visit(BootInstant::now(), &mut self.context)
    }
}

#[test]
fn session_that_only_records_is_visited_once_in_a_turn_of_the_wheel() {
    let mut call = Call::new(24_000);
    call.send(1);
    assert!(call.visit() <= FRAME_SLOTS, "a key may come");
    call.record();
    for _ in 0..100 {
        call.send(4);
        assert_eq!(call.visit(), SLOTS);
    }
    assert_eq!(call.context.stats.received, 401);
    call.session.play(1, vec![Clip::Silence(1_000)]);
    assert!(call.visit() <= FRAME_SLOTS, "a key ends the play");
    call.session.stop_play();
    assert_eq!(call.visit(), SLOTS);
    call.session.set_remote(BootInstant::now(), Remote { receive: false, ..call.remote });
    assert!(call.visit() <= FRAME_SLOTS, "on hold");
    call.session.set_remote(BootInstant::now(), call.remote);
    assert_eq!(call.visit(), SLOTS);
    call.session.stop_record(&mut call.context.stats);
    assert!(call.visit() <= FRAME_SLOTS, "recorded");
}

/// As much as comes in 80 ms must fit into the socket's buffer.
#[test]
fn visit_that_finds_many_packets_of_a_recording_is_followed_by_an_early_one() {
    let mut call = Call::new(24_002);
    call.record();
    call.send(BATCH as u16 - 1);
    assert_eq!(call.visit(), SLOTS);
    call.send(BATCH as u16);
    assert!(call.visit() <= FRAME_SLOTS);
    assert_eq!(call.visit(), SLOTS);
    call.send((BATCH * ROUNDS) as u16 + 1);
    assert!(call.visit() <= FRAME_SLOTS);
    assert_eq!(usize::from(call.sent) - 1, call.context.stats.received as usize, "the others are served first");
}

/// The node is late only by what is beyond the plan.
#[test]
fn wait_between_two_planned_visits_is_no_lateness() {
    let mut call = Call::new(24_004);
    call.record();
    assert_eq!(call.visit(), SLOTS);
    let began = BootInstant::now();
    call.send(1);
    std::thread::sleep(Duration::from_millis(60));
    call.visit();
    let (lateness, beyond) = (&call.context.stats.lateness, began.elapsed().saturating_sub(SLOT * SLOTS as u32));
    assert!(lateness.count() == 1 && u128::from(lateness.max_us) <= beyond.as_micros(), "{lateness:?}");
    call.send(1);
    std::thread::sleep(Duration::from_millis(140));
    call.visit();
    assert!(call.context.stats.lateness.max_us >= 60_000, "{:?}", call.context.stats.lateness);
    call.session.stop_record(&mut call.context.stats);
    call.visit();
    call.send(1);
    std::thread::sleep(Duration::from_millis(140));
    call.visit();
    let longest = call.context.stats.lateness.max_us;
    assert!(longest >= 140_000, "without a recording nothing is planned: {longest}");
}
