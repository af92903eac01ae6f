//! Network places: an address on this machine, or in a network namespace.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, FromRawFd},
    path::PathBuf,
    time::Duration,
};

/// An address, and its network namespace, if that is not this process's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetPlace {
    /// The address.
    pub ip: Ipv4Addr,
    /// The file that names the namespace.
    pub namespace: Option<PathBuf>,
}

/// An open file descriptor of a namespace.
#[derive(Debug)]
pub struct Entry(File);

impl Entry {
    /// Moves the calling thread into the namespace. Allocates nothing: callable between fork and exec.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: setns takes an open file descriptor and a flag, and touches no memory.
        match unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl NetPlace {
    /// A place on this machine's loopback.
    pub fn here(ip: Ipv4Addr) -> Self {
        Self { ip, namespace: None }
    }

    /// Another address in the same namespace.
    pub fn at(&self, ip: Ipv4Addr) -> Self {
        Self { ip, namespace: self.namespace.clone() }
    }

    /// An address at this place.
    pub fn port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.ip), port)
    }

    /// The entry into the namespace, if there is one.
    pub fn entry(&self) -> Option<Entry> {
        let path = self.namespace.as_ref()?;
        Some(Entry(File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))))
    }

    /// Runs `f` inside the place. A socket made there stays there.
    pub fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let Some(entry) = self.entry() else { return f() };
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                entry.enter().expect("the namespace can be entered");
                f()
            });
            inside.join().expect("what runs inside a place does not panic")
        })
    }

    /// A UDP socket at this place; port 0 takes any.
    pub fn udp(&self, port: u16) -> UdpSocket {
        let address = self.port(port);
        self.inside(|| UdpSocket::bind(address)).unwrap_or_else(|e| panic!("udp {address}: {e}"))
    }

    /// A TCP connection from this place to `to`; the timeout is 5 s.
    pub fn tcp(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.inside(|| connect_from(self.ip, to))
    }

    /// A TCP listener at this place.
    pub fn listen(&self, port: u16) -> TcpListener {
        let address = self.port(port);
        self.inside(|| TcpListener::bind(address)).unwrap_or_else(|e| panic!("tcp {address}: {e}"))
    }
}

/// Waits for a datagram, at most `limit`; finer than a socket's timeout, which counts in ticks of the system's clock (4
/// ms).
pub fn readable(socket: &UdpSocket, limit: Duration) -> bool {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let limit = libc::timespec { tv_sec: limit.as_secs() as _, tv_nsec: limit.subsec_nanos().into() };
    // SAFETY: one pollfd and one timespec that live across the call, and no signal mask.
    unsafe { libc::ppoll(&mut poll, 1, &limit, std::ptr::null()) > 0 }
}

/// Connects from this address, which the standard library cannot do.
fn connect_from(ip: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let SocketAddr::V4(to) = to else { return TcpStream::connect_timeout(&to, Duration::from_secs(5)) };
    let name = |ip: Ipv4Addr, port: u16| libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(ip).to_be() },
        sin_zero: [0; 8],
    };
    let checked = |result: i32| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: the new descriptor is owned by the stream from the first line on; both addresses are plain data that
    // live across the calls and are as long as stated. SO_SNDTIMEO bounds connect as well.
    unsafe {
        let socket = checked(libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
        let stream = TcpStream::from_raw_fd(socket);
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        checked(libc::bind(socket, std::ptr::from_ref(&name(ip, 0)).cast(), length))?;
        checked(libc::connect(socket, std::ptr::from_ref(&name(*to.ip(), to.port())).cast(), length))?;
        Ok(stream)
    }
}

/// A block of loopback addresses, `127.77.N.0/24`, reserved for one test while it holds this. Concurrent tests
/// therefore never share a port, and all of them use the same ones.
#[derive(Debug)]
pub struct Loopback {
    block: u8,
    _claim: File,
}

impl Loopback {
    /// Claims a block that is free on this machine.
    pub fn claim() -> Self {
        let folder = std::env::temp_dir().join("twinbox-test-addresses");
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let first = (std::process::id() % 250) as u8;
        for n in 0..250_u8 {
            let block = (u16::from(first) + u16::from(n)) as u8 % 250 + 1;
            let file =
                File::options().create(true).truncate(false).write(true).open(folder.join(block.to_string()));
            let file = file.expect("claims can be written");
            if file.try_lock().is_ok() {
                return Self { block, _claim: file };
            }
        }
        panic!("250 tests at once hold all of 127.77.0.0/16")
    }

    /// The place with this last byte.
    pub fn place(&self, last: u8) -> NetPlace {
        NetPlace::here(Ipv4Addr::new(127, 77, self.block, last))
    }
}
