//! Malformed SIP, floods: a clear answer or none, the node continues, memory stays bounded, a good call works.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use twinbox_crowd::Crowd;
use twinbox_system_tests::{assert_kept, wait_for_no_calls};
use twinbox_testkit::{Cluster, NetPlace, Spec, leave_message, parameter, resident_bytes, token};

/// The files of `tests/data/sip`, with real addresses and SIP line ends.
fn messages(node: SocketAddr, me: SocketAddr) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/sip");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("tests/data/sip").flatten().map(|f| f.path()).collect();
    files.sort();
    let fill = |text: String| {
        let text = text.replace("{node}", &node.to_string()).replace("{me}", &me.to_string());
        text.replace("{token}", &token()).replace('\n', "\r\n").into_bytes()
    };
    files.into_iter().map(|f| (f.clone(), fill(fs::read_to_string(&f).expect("a readable file")))).collect()
}

/// A small source of randomness, whose state is its seed (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Cuts, repeats, overwrites.
fn mutate(message: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = message.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.next() as u8),
            2 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            3 if !bytes.is_empty() => drop(bytes.remove(at)),
            4 => bytes.splice(at..at, b"\r\n".iter().copied()).for_each(drop),
            _ => {
                let piece = bytes[at..(at + random.below(200)).min(bytes.len())].repeat(1 + random.below(8));
                bytes.splice(at..at, piece).for_each(drop);
            }
        }
    }
    bytes.truncate(60_000);
    bytes
}

fn a_good_call_works(cluster: &Cluster, mailbox: &str) {
    let deposit = leave_message(cluster.phones(), cluster.sip("a"), mailbox, 1.5);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    println!("a good call is answered in {:?}", deposit.answered_in);
    assert!(deposit.answered_in < Duration::from_secs(2), "{:?}", deposit.answered_in);
    assert_kept(cluster, "b", mailbox, &deposit, 1.0, Duration::from_secs(2));
}

fn spray(from: &NetPlace, node: SocketAddr, rounds: u64) {
    let socket = from.udp(0);
    let me = socket.local_addr().expect("a bound socket has an address");
    socket.set_nonblocking(true).expect("a socket can be non-blocking");
    let seed = parameter("TWINBOX_SEED", 0x7477_696e_626f_7831);
    println!("TWINBOX_SEED={seed} replays this");
    let mut random = Random(seed);
    let corpus = messages(node, me);
    for (n, bytes) in (0..rounds).flat_map(|n| corpus.iter().map(move |(_, b)| (n, b))) {
        let bytes = if n == 0 { bytes.clone() } else { mutate(bytes, &mut random) };
        let _ = socket.send_to(&bytes, node);
        let mut sink = [0; 2048];
        while socket.recv(&mut sink).is_ok() {}
    }
    // The same over TCP connections: whole, cut off, and left open.
    let mut hanging = Vec::new();
    for (n, (_, bytes)) in corpus.iter().enumerate() {
        let Ok(mut stream) = from.tcp(node) else { continue };
        let half = if n % 2 == 0 { bytes.len() } else { bytes.len() / 2 };
        let _ = stream.write_all(&bytes[..half]);
        if n % 3 == 0 {
            hanging.push(stream);
        }
    }
    let Ok(mut endless) = from.tcp(node) else { return };
    let _ = endless.write_all(b"INVITE sip:1001@x SIP/2.0\r\n");
    for _ in 0..rounds.min(2000) {
        if endless.write_all(b"X-More: and more and more and more and more and more and more\r\n").is_err() {
            return;
        }
    }
}

#[test]
fn garbage_is_survived_and_memory_stays_bounded() {
    let cluster = Cluster::start(&Spec::default());
    let [one, two] = Cluster::USERS;
    a_good_call_works(&cluster, one.number);
    let pid = cluster.member("a").pid();
    let before = resident_bytes(pid);
    // Mostly from an address outside all trunks; a few from a trunk, whose calls are admitted.
    let octets = cluster.phones().ip.octets();
    let stranger = cluster.phones().at([127, 78, octets[2], 9].into());
    spray(&stranger, cluster.sip("a"), parameter("TWINBOX_SPRAY_ROUNDS", 150));
    spray(cluster.phones(), cluster.sip("a"), 2);
    assert_eq!(cluster.member("a").pid(), pid);
    a_good_call_works(&cluster, two.number);
    let grown = resident_bytes(pid).saturating_sub(before);
    println!("resident memory grew by {} KiB", grown >> 10);
    assert!(grown < 96 << 20, "resident memory grew by {} MiB", grown >> 20);
    assert!(!cluster.member("a").log().contains("panicked at"), "something panicked");
    wait_for_no_calls(&cluster, "a", Duration::from_secs(90));
}

/// The answer to each malformed message that still names its sender; no answer is right for a message that cannot be
/// answered.
#[test]
fn each_mistake_draws_a_clear_answer() {
    let cluster = Cluster::start(&Spec::default());
    let node = cluster.sip("a");
    for (file, expected) in [
        ("unknown-require.sip", &["420"][..]),
        ("unknown-method.sip", &["405", "501"]),
        ("wrong-version.sip", &["505", "400"]),
        ("no-such-dialog.sip", &["481"]),
        ("missing-to.sip", &["400", ""]),
        ("bad-content-length.sip", &["400", ""]),
        ("cseq-method-mismatch.sip", &["400"]),
        ("unknown-scheme.sip", &["416", "400", "404"]),
        ("options.sip", &["200"]),
    ] {
        let socket = cluster.phones().udp(0);
        let me = socket.local_addr().expect("a bound socket has an address");
        let corpus = messages(node, me);
        let (_, bytes) = corpus.iter().find(|(f, _)| f.ends_with(file)).unwrap_or_else(|| panic!("no {file}"));
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        socket.send_to(bytes, node).expect("it can be sent");
        let mut buffer = [0; 4096];
        // A provisional answer does not count.
        let answers = std::iter::from_fn(|| {
            socket.recv(&mut buffer).ok().map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned())
        });
        let status =
            answers.map(|a| a.split(' ').nth(1).unwrap_or_default().to_owned()).find(|s| !s.starts_with('1'));
        let status = status.unwrap_or_default();
        assert!(expected.contains(&status.as_str()), "{file}: answered '{status}', expected one of {expected:?}");
    }
    a_good_call_works(&cluster, Cluster::USERS[0].number);
}

/// 500 INVITEs in one second to a node with a limit of 40 calls: it accepts 40, refuses the others with a retry time,
/// and works normally afterwards.
#[test]
fn a_flood_of_invites_is_answered_with_503_beyond_max_calls() {
    const TAKES: u32 = 40;
    let cluster = Cluster::start(&Spec { max_calls: TAKES, ..Spec::default() });
    let (pid, before) = (cluster.member("a").pid(), resident_bytes(cluster.member("a").pid()));
    let mut crowd = Crowd::open(cluster.phones());
    let begun = twinbox_clock::BootInstant::now();
    for n in 0..500_u32 {
        crowd.call(cluster.sip("a"), Cluster::USERS[0].number, &format!("2{n:03}"));
        while begun.elapsed() < Duration::from_millis(2) * (n + 1) {
            crowd.take(Duration::from_micros(300));
        }
    }
    assert!(crowd.take_until(Duration::from_secs(10), |c| c.answer.is_some()), "every INVITE is answered");
    let (taken, refused) = (crowd.answered(200), crowd.answered(503));
    println!("{} taken, {} refused", taken.len(), refused.len());
    assert_eq!(taken.len() + refused.len(), 500, "200 or 503, nothing else");
    // A call that ended meanwhile would make room for another; no caller hung up, so none did.
    assert_eq!(taken.len(), TAKES as usize);
    assert!(refused.iter().all(|n| crowd.callers[*n].retry_after), "every 503 says when to come back");
    taken.iter().for_each(|n| crowd.hang_up(*n));
    assert!(
        crowd.take_until(Duration::from_secs(10), |c| c.left.is_none() || c.bye.is_some()),
        "every BYE is answered"
    );
    wait_for_no_calls(&cluster, "a", Duration::from_secs(10));
    a_good_call_works(&cluster, Cluster::USERS[1].number);
    let grown = resident_bytes(pid).saturating_sub(before);
    println!("resident memory grew by {} KiB", grown >> 10);
    assert!(grown < 96 << 20, "resident memory grew by {} MiB", grown >> 20);
}
