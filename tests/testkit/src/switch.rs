//! A switch in user space between TAP devices: delay, jitter and loss for each direction of each link, and counts.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use twinbox_clock::BootInstant;

use crate::NetPlace;

/// Maximum length of a frame: Ethernet with a VLAN tag.
const FRAME: usize = 1_518;
/// Maximum frames in flight; more are dropped, as in any switch.
const QUEUE: usize = 65_536;

/// Properties of one direction between two machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// Delay of a frame.
    pub delay: Duration,
    /// Maximum random extra delay; frames keep their order.
    pub jitter: Duration,
    /// Random loss of frames, 0 to 1000 ‰.
    pub loss_per_mille: u32,
}

impl Link {
    /// A round trip of this many milliseconds, with this loss in each direction.
    pub fn round_trip(ms: u64, loss_per_mille: u32) -> Self {
        Self { delay: Duration::from_micros(ms * 500), jitter: Duration::ZERO, loss_per_mille }
    }
}

/// The running switch. Dropping it removes the devices.
#[derive(Debug)]
pub(crate) struct Switch {
    shared: Arc<Shared>,
    wake: File,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    links: BTreeMap<(usize, usize), Link>,
    bytes: BTreeMap<(usize, usize), u64>,
    ended: bool,
}

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Switch {
    /// A switch with a TAP device `eth0` in each of these places, in this order; `seed` decides the lost frames.
    pub(crate) fn start(places: &[NetPlace], seed: u64) -> Self {
        let ports: Vec<File> = places
            .iter()
            .map(|place| place.inside(tap).unwrap_or_else(|e| panic!("a TAP device in {place:?}: {e}")))
            .collect();
        // SAFETY: eventfd takes two numbers; the descriptor that it returns has no other owner.
        let wake = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        assert!(wake >= 0, "eventfd: {}", io::Error::last_os_error());
        // SAFETY: as above.
        let wake = File::from(unsafe { OwnedFd::from_raw_fd(wake) });
        let shared = Arc::new(Shared::default());
        let mut fabric = Fabric {
            ports,
            wake: wake.try_clone().expect("a descriptor can be duplicated"),
            shared: shared.clone(),
            learned: HashMap::new(),
            on_their_way: BinaryHeap::new(),
            last_due: BTreeMap::new(),
            sequence: 0,
            chance: seed | 1,
        };
        let thread = thread::Builder::new().name("switch".to_owned()).spawn(move || fabric.run());
        Self { shared, wake, thread: Some(thread.expect("a thread can be started")) }
    }

    /// Sets the link from port `from` to port `to` from now on.
    pub(crate) fn set(&self, from: usize, to: usize, link: Link) {
        self.shared.with(|state| state.links.insert((from, to), link));
    }

    /// Bytes of Ethernet frames that port `from` has sent to port `to`, lost ones included.
    pub(crate) fn bytes(&self, from: usize, to: usize) -> u64 {
        self.shared.with(|state| state.bytes.get(&(from, to)).copied().unwrap_or(0))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.with(|state| state.ended = true);
        let _ = self.wake.write_all(&1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A TAP device named eth0 in the namespace of the calling thread.
fn tap() -> io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an all-zero ifreq is a valid value of that plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"eth0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open; TUNSETIFF reads and writes one ifreq, which lives across the call.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open; F_SETFL takes a number.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A frame in flight; the earliest is the greatest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    due: Reverse<BootInstant>,
    sequence: Reverse<u64>,
    to: usize,
    frame: Vec<u8>,
}

struct Fabric {
    ports: Vec<File>,
    wake: File,
    shared: Arc<Shared>,
    /// The port behind which each address was last seen.
    learned: HashMap<[u8; 6], usize>,
    on_their_way: BinaryHeap<Flight>,
    last_due: BTreeMap<(usize, usize), BootInstant>,
    sequence: u64,
    chance: u64,
}

impl Fabric {
    fn run(&mut self) {
        let watched: Vec<libc::pollfd> = self
            .ports
            .iter()
            .chain([&self.wake])
            .map(|file| libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 })
            .collect();
        while !self.shared.with(|state| state.ended) {
            self.deliver();
            let mut polled = watched.clone();
            let wait = self.on_their_way.peek().map(|next| next.due.0.since(BootInstant::now()));
            let wait = wait.map(|w| libc::timespec { tv_sec: w.as_secs() as _, tv_nsec: w.subsec_nanos().into() });
            let limit = wait.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            // SAFETY: as many pollfds as stated and the timespec live across the call; there is no signal mask.
            unsafe { libc::ppoll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, limit, std::ptr::null()) };
            let ready = |(port, polled): (usize, &libc::pollfd)| (polled.revents != 0).then_some(port);
            let ready: Vec<usize> = polled.iter().take(self.ports.len()).enumerate().filter_map(ready).collect();
            ready.into_iter().for_each(|port| self.receive(port));
        }
    }

    fn receive(&mut self, from: usize) {
        let mut frame = [0; FRAME];
        while let Ok(length) = (&self.ports[from]).read(&mut frame) {
            let frame = &frame[..length];
            let Some((to, source)) = frame.first_chunk::<6>().zip(frame.get(6..12)) else { continue };
            if let Ok(source) = source.try_into() {
                self.learned.insert(source, from);
            }
            let one = self.learned.get(to).copied().filter(|_| to[0] & 1 == 0);
            match one {
                Some(to) => self.send(from, to, frame),
                None => (0..self.ports.len()).filter(|to| *to != from).for_each(|to| self.send(from, to, frame)),
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, frame: &[u8]) {
        let link = self.shared.with(|state| {
            *state.bytes.entry((from, to)).or_default() += frame.len() as u64;
            state.links.get(&(from, to)).copied().unwrap_or_default()
        });
        if self.below(1_000) < u64::from(link.loss_per_mille) || self.on_their_way.len() >= QUEUE {
            return;
        }
        let jitter = Duration::from_micros(self.below(link.jitter.as_micros() as u64 + 1));
        let earliest = self.last_due.get(&(from, to)).copied();
        let due = BootInstant::now() + link.delay + jitter;
        let due = earliest.map_or(due, |earliest| due.max(earliest));
        self.last_due.insert((from, to), due);
        self.sequence += 1;
        let flight = Flight { due: Reverse(due), sequence: Reverse(self.sequence), to, frame: frame.to_vec() };
        self.on_their_way.push(flight);
    }

    fn deliver(&mut self) {
        let now = BootInstant::now();
        while self.on_their_way.peek().is_some_and(|next| next.due.0 <= now) {
            let Some(flight) = self.on_their_way.pop() else { return };
            // A device that is down or full loses frames, as hardware does.
            let _ = (&self.ports[flight.to]).write(&flight.frame);
        }
    }

    /// A number below `limit` (xorshift64).
    fn below(&mut self, limit: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % limit
    }
}
