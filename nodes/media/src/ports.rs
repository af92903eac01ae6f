//! Which RTP ports are free.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
};

use crate::MediaError;

/// The even ports of the range. The one freed first is taken first, so that what is still under way to an old
/// call rarely meets a new one.
#[derive(Clone)]
pub(crate) struct Ports {
    range: RangeInclusive<u16>,
    free: Arc<Mutex<VecDeque<u16>>>,
    all: usize,
}

/// A port in use; dropping it gives it back.
pub(crate) struct Lease {
    port: u16,
    ports: Ports,
}

impl Ports {
    pub(crate) fn new(range: RangeInclusive<u16>) -> Result<Self, MediaError> {
        let free: VecDeque<u16> = range.clone().filter(|port| port % 2 == 0 && *port > 0).collect();
        if free.is_empty() {
            return Err(MediaError::Config {
                problem: format!("the RTP port range {}-{} has no even port", range.start(), range.end()),
                remedy: "give a range such as 16384-32767",
            });
        }
        let all = free.len();
        Ok(Self { range, free: Arc::new(Mutex::new(free)), all })
    }

    /// Binds a socket to the next free port; ports that other programs hold are passed over.
    pub(crate) fn bind(&self, ip: IpAddr) -> Result<(UdpSocket, Lease), MediaError> {
        let candidates = self.lock().len();
        for _ in 0..candidates {
            let Some(port) = self.lock().pop_front() else { break };
            // From here on dropping the lease gives the port back.
            let lease = Lease { port, ports: self.clone() };
            match UdpSocket::bind(SocketAddr::new(ip, port)) {
                Ok(socket) => return Ok((socket, lease)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(source) => {
                    return Err(MediaError::Io { what: format!("binding RTP port {ip}:{port}"), source });
                }
            }
        }
        Err(MediaError::NoPort { range: self.range.clone(), in_use: self.all - self.lock().len() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<u16>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.ports.lock().push_back(self.port);
    }
}
