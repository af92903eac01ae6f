//! Pool of free RTP ports.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{MediaError, socket::Socket};

/// Receive buffer for RTCP, in bytes: a dozen reports between two polls, which are one second apart. Bounds a flood.
const RTCP_BUFFER: i32 = 8 * 1024;

/// The even ports of the range whose next port is also in the range: RTP uses the even port, RTCP the next (RFC 3550
/// section 11). The pair freed first is reused first, so that late packets of an old call rarely reach a new one.
#[derive(Clone)]
pub(crate) struct Ports {
    range: RangeInclusive<u16>,
    free: Arc<Mutex<VecDeque<u16>>>,
    all: usize,
}

/// A pair of ports in use; dropping it returns the ports.
pub(crate) struct ReservedPort {
    port: u16,
    ports: Ports,
}

/// The sockets of a session. Declared before the reservation, so that they are closed when the ports become free.
pub(crate) struct Pair {
    /// RTP, on an even port.
    pub(crate) rtp: Socket,
    /// RTCP, on the port above.
    pub(crate) rtcp: Socket,
    /// Reservation of both ports.
    pub(crate) reserved: ReservedPort,
}

impl Ports {
    pub(crate) fn new(range: RangeInclusive<u16>) -> Result<Self, MediaError> {
        let free: VecDeque<u16> =
            range.clone().filter(|port| port % 2 == 0 && *port > 0 && port < range.end()).collect();
        if free.is_empty() {
            return Err(MediaError::Config {
                problem: format!(
                    "the RTP port range {}-{} has no even port with the next one",
                    range.start(),
                    range.end()
                ),
                remedy: "give a range such as 16384-32767",
            });
        }
        let all = free.len();
        Ok(Self { range, free: Arc::new(Mutex::new(free)), all })
    }

    /// Binds sockets to the next free pair of ports and marks their packets with `dscp`. Skips a pair if another
    /// program holds one of its ports.
    pub(crate) fn bind(&self, ip: IpAddr, dscp: u8) -> Result<Pair, MediaError> {
        let candidates = self.lock().len();
        for _ in 0..candidates {
            let Some(port) = self.lock().pop_front() else { break };
            // From here on, dropping the reservation returns the port.
            let reserved = ReservedPort { port, ports: self.clone() };
            let rtp = Socket::open(SocketAddr::new(ip, port), dscp, None);
            let pair = rtp
                .and_then(|rtp| Ok((rtp, Socket::open(SocketAddr::new(ip, port + 1), dscp, Some(RTCP_BUFFER))?)));
            match pair {
                Ok((rtp, rtcp)) => return Ok(Pair { rtp, rtcp, reserved }),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(source) => {
                    return Err(MediaError::Io { what: format!("opening RTP port {ip}:{port}"), source });
                }
            }
        }
        Err(MediaError::NoPort { range: self.range.clone(), in_use: self.all - self.lock().len() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<u16>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReservedPort {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for ReservedPort {
    fn drop(&mut self) {
        self.ports.lock().push_back(self.port);
    }
}
