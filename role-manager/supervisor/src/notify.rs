//! The service manager (sd_notify(3)): one datagram per message to the socket named by `NOTIFY_SOCKET`. Without it,
//! nothing is sent.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    thread,
    time::Duration,
};

use tracing::warn;

/// Maximum wait of a report for room in the queue of the service manager.
const ROOM_WITHIN: Duration = Duration::from_secs(30);

/// Socket to the service manager, if one started this process or its parent.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<(SocketAddr, UnixDatagram)>,
    watchdog_interval: Option<Duration>,
}

impl ServiceManager {
    /// From the environment variables.
    pub fn from_env() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let socket = text("NOTIFY_SOCKET").and_then(|path| match connect(&path) {
            Ok(socket) => Some(socket),
            Err(error) => {
                warn!(%error, "cannot connect to NOTIFY_SOCKET; the service manager gets no notifications");
                None
            }
        });
        let (usec, pid) = (text("WATCHDOG_USEC"), text("WATCHDOG_PID"));
        let watchdog_interval = watchdog_interval(usec.as_deref(), pid.as_deref(), std::process::id());
        Self { socket, watchdog_interval }
    }

    /// Uses the socket at this path (`@` begins an abstract name), with this watchdog interval.
    pub fn at(path: &str, watchdog_interval: Option<Duration>) -> io::Result<Self> {
        Ok(Self { socket: Some(connect(path)?), watchdog_interval })
    }

    /// Interval of the watchdog messages; half of `WatchdogSec`.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog_interval.filter(|_| self.socket.is_some())
    }

    /// Sends a keep-alive, in the format of sd_notify. One that finds the queue of the service manager full is not sent:
    /// another follows.
    pub fn keep_alive(&self, state: &str) {
        // A failed notification must not stop calls.
        if let Some(Err(error)) = self.socket.as_ref().map(|(_, socket)| socket.send(state.as_bytes())) {
            warn!(%error, "cannot notify the service manager");
        }
    }

    /// Sends a report that does not come again, such as that of the start, in the same format. The queue holds ten
    /// messages of all services of the machine: a report that finds it full is sent by a thread of its own, which waits.
    pub fn report(&self, state: &str) {
        let Some((address, socket)) = &self.socket else { return };
        match socket.send(state.as_bytes()) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let (address, state) = (address.clone(), state.to_owned());
                let waiting = move || {
                    if let Err(error) = send_waiting(&address, &state) {
                        warn!(%error, state, "cannot notify the service manager");
                    }
                };
                if let Err(error) = thread::Builder::new().name("notify".to_owned()).spawn(waiting) {
                    warn!(%error, "cannot notify the service manager");
                }
            }
            Err(error) => warn!(%error, state, "cannot notify the service manager"),
        }
    }
}

fn send_waiting(address: &SocketAddr, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(address)?;
    socket.set_write_timeout(Some(ROOM_WITHIN))?;
    socket.send(state.as_bytes()).map(drop)
}

fn connect(path: &str) -> io::Result<(SocketAddr, UnixDatagram)> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name.as_bytes())?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok((address, socket))
}

/// Half of the watchdog timeout, if `WATCHDOG_PID` names this process or none.
fn watchdog_interval(usec: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    let usec: u64 = usec?.parse().ok()?;
    let is_for_us = pid.is_none_or(|pid| pid.parse() == Ok(own));
    (is_for_us && usec > 1).then(|| Duration::from_micros(usec / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_applies_only_to_the_process_named_by_its_pid() {
        for (usec, pid, expected) in [
            (None, None, None),
            (Some("30000000"), None, Some(Duration::from_secs(15))),
            (Some("30000000"), Some("7"), Some(Duration::from_secs(15))),
            (Some("30000000"), Some("8"), None),
            (Some("0"), None, None),
            (Some("soon"), None, None),
        ] {
            assert_eq!(watchdog_interval(usec, pid, 7), expected, "{usec:?} {pid:?}");
        }
    }
}
