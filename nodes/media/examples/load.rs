//! CPU use of recording: `cargo run --release -p twinbox-media --example load -- CALLS SECONDS`.
//!
//! Opens CALLS sessions, all recording into a counting sink, and sends each of them 50 packets a second from one
//! thread, spread evenly over 20 ms. Prints the CPU time of the media threads, the share of a core per call, and the
//! lateness histogram; prints `generator-bound` instead if the sender itself was late.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc;
use twinbox_clock::BootInstant;
use twinbox_media::{BOUNDS_US, ChunkSink, Codec, Engine, MediaConfig, RecordSpec, Remote};
use twinbox_rtp::packet::{Header, RtpTime, SeqNo, Ssrc};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[derive(Default)]
struct Count(AtomicU64);

impl ChunkSink for Count {
    fn chunk(&self, _: u64, bytes: Bytes) {
        self.0.fetch_add(bytes.len() as u64, Relaxed);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let calls: u16 = args.next().map_or(Ok(500), |a| a.parse())?;
    let seconds: u32 = args.next().map_or(Ok(10), |a| a.parse())?;
    let engine = Engine::start(MediaConfig::new(LOCALHOST, 10_000..=65_000))?;
    let count = Arc::new(Count::default());
    let (events, _received) = mpsc::channel(1);
    let sessions: Vec<_> = (0..calls).map(|_| engine.open(events.clone())).collect::<Result<_, _>>()?;
    let sender = UdpSocket::bind((LOCALHOST, 0))?;
    let address = Some(sender.local_addr()?);
    for session in &sessions {
        session.set_remote(Remote { dtmf: Some(101), ..Remote::new(address, Codec::Pcmu) });
        let max = Duration::from_secs(3_600);
        session.record(RecordSpec { max, end_silence: Some(Duration::from_secs(10)), sink: count.clone() });
    }
    std::thread::sleep(Duration::from_millis(500));

    let (start, cpu_start) = (BootInstant::now(), media_cpu()?);
    let mut latest = Duration::ZERO;
    let mut packet = [0x12; 172];
    for round in 0..seconds * 50 {
        for (i, session) in sessions.iter().enumerate() {
            let due = Duration::from_millis(20) * round + Duration::from_millis(20) * i as u32 / u32::from(calls);
            let now = start.elapsed();
            if due > now + Duration::from_micros(200) {
                std::thread::sleep(due - now);
            }
            latest = latest.max(start.elapsed().saturating_sub(due));
            let header = Header {
                marker: round == 0,
                payload_type: 0,
                seq: SeqNo(round as u16),
                time: RtpTime(round * 160),
                ssrc: Ssrc(i as u32),
            };
            packet[..Header::LENGTH].copy_from_slice(&header.to_bytes());
            sender.send_to(&packet, (LOCALHOST, session.local_port()))?;
        }
    }
    let (elapsed, cpu) = (start.elapsed(), media_cpu()? - cpu_start);
    std::thread::sleep(Duration::from_millis(50));

    let stats = engine.stats();
    let packets = u64::from(calls) * u64::from(seconds) * 50;
    println!("{calls} calls, {seconds} s: {} of {packets} packets taken, {} sent", stats.received, stats.sent);
    println!("recorded: {} bytes in chunks so far", count.0.load(Relaxed));
    if latest > Duration::from_millis(5) {
        println!("generator-bound: it ran {latest:?} late at worst");
    }
    let share = cpu.as_secs_f64() / elapsed.as_secs_f64() * 100.0;
    println!("media threads: {share:.2} % of a core, {:.4} % a call", share / f64::from(calls));
    println!("a packet: {:.2} us", cpu.as_secs_f64() * 1e6 / stats.received.max(1) as f64);
    println!(
        "late: p50 {:?}, p99 {:?}, max {} us",
        stats.lateness.p50(),
        stats.lateness.p99(),
        stats.lateness.max_us
    );
    for (bound, packets) in BOUNDS_US.iter().zip(stats.lateness.buckets).filter(|(_, packets)| *packets > 0) {
        println!("  up to {:>6.1} ms: {packets}", *bound as f64 / 1_000.0);
    }
    Ok(())
}

/// CPU time of the media threads so far.
fn media_cpu() -> Result<Duration, Box<dyn std::error::Error>> {
    let mut total = Duration::ZERO;
    for task in fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        if fs::read_to_string(path.join("comm"))?.starts_with("media-") {
            let stat = fs::read_to_string(path.join("schedstat"))?;
            let nanos = stat.split_whitespace().next().unwrap_or("0").parse()?;
            total += Duration::from_nanos(nanos);
        }
    }
    Ok(total)
}
