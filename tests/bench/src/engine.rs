//! Concurrent recordings on the media engine alone.
//!
//! Method: the real engine with one media thread, pinned to one core, in this process; N sessions record into a counting sink. The
//! generator, on the other core, sends each session a 172-byte packet every 20 ms from its own socket, in four groups 5 ms apart. Each
//! step is measured from its first packet on: processor time of the media thread, and the engine's own histogram of packet lateness by
//! the RTP clock. The same generator then feeds a bare receiving loop ([`crate::bare`]) on the same core, for the ratio.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::sleep,
    time::Duration,
};

use bytes::Bytes;
use serde_json::json;
use twinbox_clock::BootInstant;
use twinbox_media::{ChunkSink, Engine, MediaConfig, RecordSpec, Remote, Session};
use twinbox_rtp::Codec;
use twinbox_testkit::{Loopback, NetPlace, Speech};

use crate::{
    bare::Bare,
    load::LATE,
    machine,
    report::{Report, ms},
};

/// A step with a later packet is the last.
const TOO_LATE_MS: u64 = 20;
/// Number of sending sockets: one socket can carry many calls, since each session has its own port.
const SENDERS: usize = 16;

struct Count(AtomicU64);

impl ChunkSink for Count {
    fn chunk(&self, _offset: u64, bytes: Bytes) {
        self.0.fetch_add(bytes.len() as u64, Relaxed);
    }
}

/// Runs the steps.
pub fn run(report: &mut Report, steps: &[usize], seconds: u64) {
    machine::prefer();
    let loopback = Loopback::claim();
    let place = loopback.place(1);
    let mut table = report.table(
        "media engine alone: recording at once on one core",
        &[
            "calls",
            "core %",
            "% a call",
            "late p99 ms",
            "late max ms",
            "over 20 ms",
            "lost",
            "bare core %",
            "bare / ours",
        ],
    );
    for &calls in steps {
        let (cpu, late, lost, generator) = engine_step(&place, calls, seconds);
        let (bare, bare_generator) = bare_step(&place, calls, seconds.min(5));
        if generator.max(bare_generator) > LATE {
            table.generator_bound(json!(calls), generator.max(bare_generator));
            break;
        }
        let over = late.over_ms(TOO_LATE_MS);
        table.row(&[
            json!(calls),
            json!(cpu),
            json!(cpu / calls as f64),
            json!(late.p99().map_or(0.0, ms)),
            json!(late.max_us as f64 / 1000.0),
            json!(over),
            json!(lost),
            json!(bare),
            json!(bare / cpu),
        ]);
        if over > 0 {
            break;
        }
    }
}

/// The sending sockets: stream `n` uses socket `n % SENDERS`.
fn senders(place: &NetPlace) -> Vec<UdpSocket> {
    (0..SENDERS).map(|_| place.udp(0)).collect()
}

/// Sends to `ports` for `time`, a packet each every 20 ms; returns its maximum lateness and the number of packets.
fn send(sockets: &[UdpSocket], ports: &[SocketAddr], time: Duration) -> (Duration, u64) {
    let speech = Speech::new(1);
    let (begun, mut step, mut late, mut sent) = (BootInstant::now(), 0_u32, Duration::ZERO, 0);
    let mut packet = [0_u8; 172];
    packet[0] = 0x80;
    while begun.elapsed() < time {
        let due = begun + Duration::from_millis(5) * step;
        let now = BootInstant::now();
        if now < due {
            sleep(due.since(now));
            continue;
        }
        late = late.max(now.since(due));
        let tick = step / 4;
        packet[2..4].copy_from_slice(&(tick as u16).to_be_bytes());
        packet[4..8].copy_from_slice(&tick.wrapping_mul(160).to_be_bytes());
        packet[12..].copy_from_slice(&speech.bytes(tick as usize * 160 % 80_000, 160));
        for (n, port) in ports.iter().enumerate().skip((step % 4) as usize).step_by(4) {
            packet[8..12].copy_from_slice(&(n as u32 + 1).to_be_bytes());
            sent += u64::from(sockets[n % SENDERS].send_to(&packet, port).is_ok());
        }
        step += 1;
    }
    (late, sent)
}

fn engine_step(place: &NetPlace, calls: usize, seconds: u64) -> (f64, twinbox_media::Lateness, u64, Duration) {
    let before = machine::threads(std::process::id());
    machine::pin(0, machine::UNDER_TEST);
    let engine = Engine::start(MediaConfig::new(IpAddr::V4(place.ip), 10_000..=60_000)).expect("the engine starts");
    let sink = Arc::new(Count(AtomicU64::new(0)));
    let (events, mut ignored) = tokio::sync::mpsc::channel(64);
    let sessions: Vec<Session> = (0..calls).map(|_| engine.open(events.clone()).expect("a port is free")).collect();
    let sockets = senders(place);
    for (n, session) in sessions.iter().enumerate() {
        let address = sockets[n % SENDERS].local_addr().ok();
        session.set_remote(Remote { dtmf: Some(101), ..Remote::new(address, Codec::Pcmu) });
        session.record(RecordSpec { max: Duration::from_secs(3600), end_silence: None, sink: sink.clone() });
    }
    machine::pin(0, machine::ELSEWHERE);
    let media: Vec<u32> =
        machine::threads(std::process::id()).into_iter().filter(|t| !before.contains(t)).collect();
    let cpu = || media.iter().map(|t| machine::cpu_time(&format!("/proc/self/task/{t}/stat"))).sum::<Duration>();

    sleep(Duration::from_millis(200));
    let ports: Vec<SocketAddr> = sessions.iter().map(|s| place.port(s.local_port())).collect();
    let (stats, used, begun) = (engine.stats(), cpu(), BootInstant::now());
    let (late, sent) = send(&sockets, &ports, Duration::from_secs(seconds));
    sleep(Duration::from_millis(100));
    let (after, used, wall) = (engine.stats(), cpu() - used, begun.elapsed());
    while ignored.try_recv().is_ok() {}
    let lost = sent.saturating_sub(after.received - stats.received);
    (used.as_secs_f64() / wall.as_secs_f64() * 100.0, after.lateness.since(&stats.lateness), lost, late)
}

fn bare_step(place: &NetPlace, calls: usize, seconds: u64) -> (f64, Duration) {
    let bare = Bare::start(place, calls);
    machine::pin(0, machine::ELSEWHERE);
    let ((_, used), begun) = (bare.so_far(), BootInstant::now());
    let (late, _) = send(&senders(place), &bare.ports, Duration::from_secs(seconds));
    let (_, after) = bare.so_far();
    ((after - used).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0, late)
}
