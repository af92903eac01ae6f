//! The service manager (sd_notify(3)): one datagram per message to the socket named by `NOTIFY_SOCKET`. Without it,
//! nothing is sent.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

use tracing::warn;

/// Socket to the service manager, if one started this process or its parent.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<UnixDatagram>,
    beat: Option<Duration>,
}

impl ServiceManager {
    /// From the environment variables.
    pub fn of_environment() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let socket = text("NOTIFY_SOCKET").and_then(|path| match connect(&path) {
            Ok(socket) => Some(socket),
            Err(error) => {
                warn!(%error, "NOTIFY_SOCKET is set, but nobody is told there");
                None
            }
        });
        let beat = beat(text("WATCHDOG_USEC").as_deref(), text("WATCHDOG_PID").as_deref(), std::process::id());
        Self { socket, beat }
    }

    /// Uses the socket at this path (`@` begins an abstract name), with this watchdog interval.
    pub fn at(path: &str, beat: Option<Duration>) -> io::Result<Self> {
        Ok(Self { socket: Some(connect(path)?), beat })
    }

    /// Interval of the watchdog messages; half of `WatchdogSec`.
    pub fn beat(&self) -> Option<Duration> {
        self.beat.filter(|_| self.socket.is_some())
    }

    /// Sends this message, in the format of sd_notify.
    pub fn tell(&self, state: &str) {
        // A failed notification must not stop calls.
        if let Some(Err(error)) = self.socket.as_ref().map(|socket| socket.send(state.as_bytes())) {
            warn!(%error, "the service manager could not be told");
        }
    }
}

fn connect(path: &str) -> io::Result<UnixDatagram> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name.as_bytes())?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Half of the watchdog timeout, if it is meant for this process.
fn beat(usec: Option<&str>, meant: Option<&str>, own: u32) -> Option<Duration> {
    let usec: u64 = usec?.parse().ok()?;
    let us = meant.is_none_or(|pid| pid.parse() == Ok(own));
    (us && usec > 1).then(|| Duration::from_micros(usec / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_for_the_process_that_is_meant() {
        for (usec, pid, expected) in [
            (None, None, None),
            (Some("30000000"), None, Some(Duration::from_secs(15))),
            (Some("30000000"), Some("7"), Some(Duration::from_secs(15))),
            (Some("30000000"), Some("8"), None),
            (Some("0"), None, None),
            (Some("soon"), None, None),
        ] {
            assert_eq!(beat(usec, pid, 7), expected, "{usec:?} {pid:?}");
        }
    }
}
