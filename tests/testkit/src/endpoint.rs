//! An RTP endpoint (RFC 3550, RFC 4733): speaks a [`Speech`], presses keys, records received audio.

use std::{
    collections::VecDeque,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use twinbox_clock::BootInstant;

use crate::{Found, NetPlace, Speech, g711::Law, holds, net_place::readable};

/// Samples and duration of one packet.
const PACKET: usize = 160;
const TICK: Duration = Duration::from_millis(20);
/// The payload type of telephone events in [`crate::sdp`].
pub(crate) const EVENTS: u8 = 101;
/// Maximum audio recorded, in samples: ten minutes.
const LONGEST: usize = 10 * 60 * 8000;

#[derive(Default)]
struct State {
    peer: Option<SocketAddr>,
    speech: Option<Speech>,
    mute: bool,
    spoken: usize,
    keys: VecDeque<u8>,
    key: Option<Key>,
    heard: Vec<u8>,
    base: Option<(u32, u32)>,
    packets: u64,
    sources: Vec<SocketAddr>,
    late: Duration,
}

/// A key being pressed.
struct Key {
    event: u8,
    timestamp: u32,
    step: u32,
}

/// A socket with a thread that sends and receives, 20 ms per packet.
pub struct Endpoint {
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    address: SocketAddr,
}

impl Endpoint {
    /// An endpoint at `place` on a free even port. It sends silence to the first sender, unless [`Endpoint::send_to`]
    /// sets another peer.
    pub fn open(place: &NetPlace, law: Law) -> Self {
        let (socket, rtcp) =
            std::iter::repeat_with(|| place.udp(0)).find_map(|s| with_rtcp(place, s)).expect("some are");
        let address = place.port(port(&socket));
        let (state, stop) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (state.clone(), stop.clone());
        let thread = thread::spawn(move || {
            // RTCP reports are ignored; a socket of another test must not get them.
            let _held = rtcp;
            run(&socket, law, &shared, &stopped);
        });
        Self { state, stop, thread: Some(thread), address }
    }

    /// Its address, for an SDP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the endpoint's thread does not panic")
    }

    /// Sends to this peer from now on.
    pub fn send_to(&self, peer: SocketAddr) {
        self.state().peer = Some(peer);
    }

    /// Speaks from now on; continues where it stopped if it is the same speech.
    pub fn speak(&self, speech: Speech) {
        let mut state = self.state();
        (state.speech, state.mute) = (Some(speech), false);
    }

    /// Sends packets of silence from now on, as phones do.
    pub fn stop_speaking(&self) {
        self.state().speech = None;
    }

    /// Sends no packets at all, as on hold.
    pub fn mute(&self) {
        let mut state = self.state();
        (state.speech, state.mute) = (None, true);
    }

    /// Bytes spoken so far.
    pub fn spoken(&self) -> usize {
        self.state().spoken
    }

    /// Waits until this much has been spoken; fails the test otherwise.
    pub fn wait_spoken(&self, seconds: f64) {
        let bytes = (seconds * 8000.0) as usize;
        let limit = Duration::from_secs_f64(seconds + 10.0);
        crate::wait_until("the endpoint to have spoken", limit, || self.spoken() >= bytes);
    }

    /// Presses these keys one after the other as telephone events, each with three end packets.
    pub fn press(&self, keys: &str) {
        let event = |c: char| "0123456789*#ABCD".find(c).unwrap_or_else(|| panic!("no key {c}")) as u8;
        self.state().keys.extend(keys.chars().map(event));
        let limit = Duration::from_millis(2000 + 400 * keys.len() as u64);
        crate::wait_until("the keys to be pressed", limit, || {
            let state = self.state();
            state.keys.is_empty() && state.key.is_none()
        });
    }

    /// All audio heard so far, placed by RTP timestamps; gaps are silence.
    pub fn heard(&self) -> Vec<u8> {
        self.state().heard.clone()
    }

    /// Packets heard so far.
    pub fn packets(&self) -> u64 {
        self.state().packets
    }

    /// Addresses that have sent to it.
    pub fn sources(&self) -> Vec<SocketAddr> {
        self.state().sources.clone()
    }

    /// Waits for the first packet.
    pub fn wait_heard(&self, limit: Duration) {
        crate::wait_until("any audio", limit, || self.packets() > 0);
    }

    /// Waits until a piece of `speech` of at least `seconds` has been heard; `None` after `limit`.
    pub fn hears(&self, speech: &Speech, spoken: usize, seconds: f64, limit: Duration) -> Option<Found> {
        holds(limit, || {
            thread::sleep(Duration::from_millis(200));
            speech.find_in(&self.heard(), spoken).filter(|f| f.seconds() >= seconds)
        })
    }

    /// Maximum lateness of this endpoint itself.
    pub fn late(&self) -> Duration {
        self.state().late
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The socket and the RTCP socket above it, if the port is even and the next is free.
fn with_rtcp(place: &NetPlace, socket: UdpSocket) -> Option<(UdpSocket, UdpSocket)> {
    let above = port(&socket) + 1;
    let free = (above % 2 == 1).then(|| place.inside(|| UdpSocket::bind(place.port(above)).ok())).flatten();
    free.map(|rtcp| (socket, rtcp))
}

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().map(|a| a.port()).expect("a bound socket has an address")
}

fn run(socket: &UdpSocket, law: Law, state: &Mutex<State>, stop: &AtomicBool) {
    let lock = || state.lock().expect("nobody panics with the endpoint's state");
    let ssrc = socket.local_addr().map_or(1, |a| u32::from(a.port()) << 8 | 1);
    let (begun, mut tick, mut sequence) = (BootInstant::now(), 0_u32, 0_u16);
    let mut buffer = [0_u8; 2048];
    while !stop.load(Ordering::Relaxed) {
        let due = begun + TICK * tick;
        let now = BootInstant::now();
        if now < due {
            if readable(socket, due.since(now))
                && let Ok((length, from)) = socket.recv_from(&mut buffer)
            {
                hear(&mut lock(), law, &buffer[..length], from);
            }
            continue;
        }
        let mut state = lock();
        state.late = state.late.max(now.since(due));
        let timestamp = tick.wrapping_mul(PACKET as u32);
        let (peer, packets) = (state.peer, say(&mut state, law, timestamp));
        drop(state);
        for (payload_type, timestamp, payload) in packets {
            let mut packet = vec![0x80, payload_type];
            packet.extend(sequence.to_be_bytes());
            packet.extend(timestamp.to_be_bytes());
            packet.extend(ssrc.to_be_bytes());
            packet.extend(payload);
            sequence = sequence.wrapping_add(1);
            if let Some(peer) = peer {
                // A peer may have vanished: the test checks the stored messages, not this.
                let _ = socket.send_to(&packet, peer);
            }
        }
        tick += 1;
    }
}

/// The packets due at this tick: payload type, timestamp, payload.
fn say(state: &mut State, law: Law, timestamp: u32) -> Vec<(u8, u32, Vec<u8>)> {
    if state.peer.is_none() {
        return Vec::new();
    }
    if state.key.is_none()
        && let Some(event) = state.keys.pop_front()
    {
        state.key = Some(Key { event, timestamp, step: 0 });
    }
    if let Some(key) = &mut state.key {
        key.step += 1;
        // Six packets that grow, three that end the event (RFC 4733, section 2.5.1.4), then 60 ms of pause.
        let (step, event) = (key.step.min(6) as u16, |end: u8, duration: u16| {
            vec![key.event, end << 7 | 10, (duration >> 8) as u8, duration as u8]
        });
        let packets = match key.step {
            1..=6 => vec![(EVENTS | u8::from(key.step == 1) << 7, key.timestamp, event(0, step * PACKET as u16))],
            7 => vec![(EVENTS, key.timestamp, event(1, 7 * PACKET as u16)); 3],
            _ => Vec::new(),
        };
        if key.step >= 10 {
            state.key = None;
        }
        return packets;
    }
    if state.mute {
        return Vec::new();
    }
    let Some(speech) = state.speech else {
        return vec![(law.payload_type(), timestamp, vec![law.silence(); PACKET])];
    };
    let payload = speech.bytes(state.spoken, PACKET);
    state.spoken += PACKET;
    vec![(law.payload_type(), timestamp, payload)]
}

fn hear(state: &mut State, law: Law, packet: &[u8], from: SocketAddr) {
    if !state.sources.contains(&from) {
        state.sources.push(from);
    }
    state.peer.get_or_insert(from);
    let [first, second, _, _, t0, t1, t2, t3, s0, s1, s2, s3, payload @ ..] = packet else { return };
    if first >> 6 != 2 || second & 0x7f != law.payload_type() {
        return;
    }
    state.packets += 1;
    let (timestamp, ssrc) = (u32::from_be_bytes([*t0, *t1, *t2, *t3]), u32::from_be_bytes([*s0, *s1, *s2, *s3]));
    if state.base.is_none_or(|(_, s)| s != ssrc) {
        // A new stream is placed after the audio heard so far.
        state.base = Some((timestamp.wrapping_sub(state.heard.len() as u32), ssrc));
    }
    let base = state.base.map_or(0, |(base, _)| base);
    let at = timestamp.wrapping_sub(base) as usize;
    if at + payload.len() <= LONGEST {
        if state.heard.len() < at + payload.len() {
            state.heard.resize(at + payload.len(), law.silence());
        }
        state.heard[at..at + payload.len()].copy_from_slice(payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Loopback;

    #[test]
    fn two_endpoints_hear_each_other_bit_for_bit() {
        let loopback = Loopback::claim();
        let [one, other] = [1, 2].map(|n| Endpoint::open(&loopback.place(n), Law::Mu));
        one.send_to(other.address());
        let speech = Speech::unique();
        one.speak(speech);
        one.wait_spoken(0.5);
        let found = other.hears(&speech, one.spoken(), 0.4, Duration::from_secs(5)).expect("it is heard");
        assert_eq!(found.from, 0);
        assert_eq!(other.sources(), [one.address()]);
    }

    #[test]
    fn key_press_is_one_event_with_three_end_packets() {
        let loopback = Loopback::claim();
        let (endpoint, ear) = (Endpoint::open(&loopback.place(1), Law::Mu), loopback.place(2).udp(0));
        endpoint.send_to(ear.local_addr().expect("bound"));
        endpoint.press("#");
        ear.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let mut buffer = [0; 2048];
        endpoint.mute();
        let packets = std::iter::from_fn(|| ear.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec()));
        let packets: Vec<Vec<u8>> = packets.filter(|p| p[1] & 0x7f == EVENTS).collect();
        assert_eq!(packets.len(), 9);
        assert!(packets.iter().all(|p| p[1] & 0x7f == EVENTS && p[12] == 11 && p[4..8] == packets[0][4..8]));
        assert_eq!(packets.iter().filter(|p| p[13] & 0x80 != 0).count(), 3);
    }
}
