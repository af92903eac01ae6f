//! Test peer on a real socket: sends exact packets for a test and stores the received ones.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    ops::RangeInclusive,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc;
use twinbox_media::{ChunkSink, Codec, Engine, MediaConfig, MediaEvent, RecordSpec, Remote, Session, StopCause};
use twinbox_rtp::{
    FRAME, dtmf,
    packet::{Header, Packet, RtpTime, SeqNo, Ssrc},
};

pub const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const TELEPHONE_EVENT: u8 = 101;

/// Timeout for immediate reactions, long enough for a busy machine.
pub const SOON: Duration = Duration::from_secs(10);

pub fn engine(ports: RangeInclusive<u16>) -> Engine {
    Engine::start(MediaConfig::new(LOCALHOST, ports)).unwrap()
}

/// A session and its far end.
pub struct TestCall {
    pub session: Session,
    pub events: mpsc::Receiver<MediaEvent>,
    pub peer: TestPeer,
}

pub struct TestPeer {
    pub socket: UdpSocket,
    to: SocketAddr,
    pub codec: Codec,
    seq: SeqNo,
    time: RtpTime,
    pub ssrc: Ssrc,
}

/// Stores the chunks of a recording.
#[derive(Default)]
pub struct Tape(Mutex<Vec<(u64, Bytes)>>);

impl ChunkSink for Tape {
    fn chunk(&self, offset: u64, bytes: Bytes) {
        self.0.lock().unwrap().push((offset, bytes));
    }
}

impl Tape {
    /// The recording; checks that its chunks are contiguous.
    pub fn audio(&self) -> Vec<u8> {
        let mut audio = Vec::new();
        for (offset, bytes) in self.0.lock().unwrap().iter() {
            assert_eq!(*offset, audio.len() as u64, "chunks follow each other");
            assert!(bytes.len() <= 2_000, "a chunk of {}", bytes.len());
            audio.extend_from_slice(bytes);
        }
        audio
    }
}

impl TestCall {
    pub async fn open(engine: &Engine, codec: Codec) -> Self {
        Self::open_with(engine, codec, 64).await
    }

    /// A session with room for this many events.
    pub async fn open_with(engine: &Engine, codec: Codec, room: usize) -> Self {
        let (sender, events) = mpsc::channel(room);
        let session = engine.open(sender).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let to = SocketAddr::new(LOCALHOST, session.local_port());
        let peer =
            TestPeer { socket, to, codec, seq: SeqNo(65_530), time: RtpTime(u32::MAX - 1_000), ssrc: Ssrc(42) };
        let mut call = Self { session, events, peer };
        call.negotiate(call.remote()).await;
        call
    }

    /// Remote with the far end's address, both directions.
    pub fn remote(&self) -> Remote {
        let address = self.peer.socket.local_addr().unwrap();
        Remote { dtmf: Some(TELEPHONE_EVENT), ..Remote::new(Some(address), self.peer.codec) }
    }

    /// Sets the remote and waits until it takes effect.
    pub async fn negotiate(&mut self, remote: Remote) {
        self.session.set_remote(remote);
        self.settle().await;
    }

    /// Waits until all orders so far are executed: until an empty play, sent last, has ended.
    async fn settle(&mut self) {
        self.session.play(u64::MAX, vec![]);
        assert_eq!(self.event().await, MediaEvent::PlayFinished(u64::MAX));
    }

    pub async fn record(&mut self, max: Duration, end_silence: Option<Duration>) -> Arc<Tape> {
        let tape = Arc::new(Tape::default());
        self.session.record(RecordSpec { max, end_silence, sink: tape.clone() });
        self.settle().await;
        tape
    }

    pub async fn event(&mut self) -> MediaEvent {
        tokio::time::timeout(SOON, self.events.recv()).await.expect("an event in time").expect("an open session")
    }

    /// The next event, which must be the end of a recording: cause, length and trailing silence.
    pub async fn stopped(&mut self) -> (StopCause, u64, u64) {
        match self.event().await {
            MediaEvent::RecordStopped { cause, length_bytes, codec, trailing_silence_ms } => {
                assert_eq!(codec, self.peer.codec);
                (cause, length_bytes, trailing_silence_ms)
            }
            other => panic!("{other:?} instead of the recording's end"),
        }
    }

    /// Stops the recording and returns its bytes.
    pub async fn stop(&mut self, tape: &Tape) -> Vec<u8> {
        self.session.stop_record();
        let (cause, length, _) = self.stopped().await;
        let audio = tape.audio();
        assert_eq!((cause, length), (StopCause::Stopped, audio.len() as u64));
        audio
    }

    /// Waits until this many packets were accepted.
    pub async fn taken(&self, packets: u64) {
        let wait = async {
            while self.session.counters().received < packets {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("the packets in time");
    }
}

impl TestPeer {
    /// Next packet of audio, not yet sent.
    pub fn packet(&mut self, payload: &[u8]) -> Vec<u8> {
        let header = self.header(false, self.codec.payload_type());
        self.time = self.time.plus(payload.len() as u32);
        [&header.to_bytes(), payload].concat()
    }

    fn header(&mut self, marker: bool, payload_type: u8) -> Header {
        let seq = self.seq;
        self.seq = seq.plus(1);
        Header { marker, payload_type, seq, time: self.time, ssrc: self.ssrc }
    }

    pub fn send(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.to).unwrap();
    }

    /// Sends audio, 20 ms a packet, without pauses.
    pub fn say(&mut self, audio: &[u8]) {
        for payload in audio.chunks(FRAME) {
            let packet = self.packet(payload);
            self.send(&packet);
        }
    }

    /// Advances the timestamp without sending.
    pub fn skip(&mut self, samples: u32) {
        self.time = self.time.plus(samples);
    }

    /// Presses a key for 100 ms, without pauses.
    pub fn press(&mut self, key: char) {
        for (i, event) in dtmf::press(dtmf::code(key).unwrap(), 800).enumerate() {
            let header = self.header(i == 0, TELEPHONE_EVENT);
            self.send(&[&header.to_bytes()[..], &event.to_bytes()].concat());
        }
        self.skip(1_600);
    }

    /// Next packet received from the engine.
    pub fn hear(&self) -> (Header, Vec<u8>) {
        let mut buffer = [0; 2_000];
        let length = self.socket.recv(&mut buffer).expect("a packet in time");
        let packet = Packet::parse(&buffer[..length]).unwrap();
        (packet.header, packet.payload.to_vec())
    }
}

/// Loud audio without repetition.
pub fn speech(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8 & 0xaf).collect()
}

/// Asserts equality and prints the difference only: thousands of bytes would be unreadable.
pub fn same(got: &[u8], expected: &[u8], what: &str) {
    let at = got.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!((got.len(), at), (expected.len(), None), "{what}: length, first difference");
}

pub fn silence(codec: Codec, length: usize) -> Vec<u8> {
    vec![codec.silence(); length]
}
