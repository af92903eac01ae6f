//! What systemd wants to hear (sd_notify(3)): that the process is ready, that it stops, that it lives. One datagram
//! each to the socket named by `NOTIFY_SOCKET`; without that, nothing is said.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// The way to the service manager, if one started this process.
#[derive(Debug)]
pub struct Manager {
    socket: Option<UnixDatagram>,
    /// How often it wants to hear that the process lives; half of `WatchdogSec`.
    beat: Option<Duration>,
}

impl Manager {
    /// As the environment says.
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

    /// The start is complete.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The stop has begun and may take so long.
    pub fn stopping(&self, within: Duration) {
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", within.as_micros()));
    }

    /// Says that the process lives, as often as wanted, while `why_not` has no objection, until stopped.
    pub async fn watchdog(&self, why_not: impl Fn() -> Option<String>, stop: CancellationToken) {
        let Some(beat) = self.beat.filter(|_| self.socket.is_some()) else { return };
        let mut beats = tokio::time::interval(beat);
        loop {
            tokio::select! {
                _ = beats.tick() => {}
                () = stop.cancelled() => return,
            }
            match why_not() {
                None => self.tell("WATCHDOG=1"),
                Some(why) => error!(why, "the watchdog is not told that this process lives"),
            }
        }
    }

    fn tell(&self, state: &str) {
        // A manager that does not listen any more is no reason to stop taking calls.
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

/// Half of the time after which the manager loses patience, if it is this process that it means.
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

    #[tokio::test]
    async fn the_manager_hears_ready_alive_and_stopping_in_the_words_of_sd_notify() {
        let name = format!("twinbox-systemd-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("a name");
        let heard = UnixDatagram::bind_addr(&address).expect("an abstract socket");
        heard.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
        let next = || {
            let mut buffer = [0; 256];
            let length = heard.recv(&mut buffer).expect("a datagram");
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        let socket = connect(&format!("@{name}")).expect("a connection");
        let manager = Manager { socket: Some(socket), beat: Some(Duration::from_millis(1)) };
        manager.ready();
        assert_eq!(next(), "READY=1");
        let stop = CancellationToken::new();
        let quiet = tokio::time::timeout(
            Duration::from_millis(30),
            manager.watchdog(|| Some("stuck".to_owned()), stop.clone()),
        );
        assert!(quiet.await.is_err(), "it goes on for as long as the process does");
        manager.stopping(Duration::from_secs(2));
        assert_eq!(next(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=2000000", "nothing was said while it was stuck");
        tokio::join!(manager.watchdog(|| None, stop.clone()), async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            stop.cancel();
        });
        assert_eq!(next(), "WATCHDOG=1");
    }
}
