//! Reports to systemd (sd_notify(3)): the process is ready, stops, or lives.

use std::{pin::pin, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::error;
use twinbox_supervisor::ServiceManager;

/// Interval at which a long start asks for more time, and the time that it asks for.
const STARTING_EVERY: Duration = Duration::from_secs(30);
const STARTING_WITHIN: Duration = Duration::from_secs(180);

/// Connection to the service manager, if one started this process.
#[derive(Debug)]
pub struct SystemdNotifier(ServiceManager);

impl SystemdNotifier {
    /// Connection by the environment variables.
    pub fn from_env() -> Self {
        Self(ServiceManager::from_env())
    }

    /// Waits for a part of the start that may take long, such as building a damaged store again, and asks for more time
    /// meanwhile. Without that, systemd would end the process each time before the part is done.
    pub async fn starting<T>(&self, part: impl Future<Output = T>) -> T {
        let mut part = pin!(part);
        loop {
            match tokio::time::timeout(STARTING_EVERY, &mut part).await {
                Ok(done) => return done,
                Err(_) => self.0.report(&format!("EXTEND_TIMEOUT_USEC={}", STARTING_WITHIN.as_micros())),
            }
        }
    }

    /// Reports that the start is complete.
    pub fn ready(&self) {
        self.0.report("READY=1");
    }

    /// Reports that the stop has begun and may take this long.
    pub fn stopping(&self, within: Duration) {
        self.0.report(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", within.as_micros()));
    }

    /// Reports at the requested interval that the process lives, while `why_not` returns `None`, until stopped.
    pub async fn watchdog(&self, why_not: impl Fn() -> Option<String>, stop: CancellationToken) {
        let Some(beat) = self.0.watchdog_interval() else { return };
        let mut beats = tokio::time::interval(beat);
        loop {
            tokio::select! {
                _ = beats.tick() => {}
                () = stop.cancelled() => return,
            }
            match why_not() {
                None => self.0.keep_alive("WATCHDOG=1"),
                Some(why) => error!(why, "the process hangs; systemd gets no keep-alive"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    };

    use super::*;

    /// A socket of a service manager, and its name.
    fn manager(purpose: &str) -> (UnixDatagram, String) {
        let name = format!("twinbox-{purpose}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("a name");
        let heard = UnixDatagram::bind_addr(&address).expect("an abstract socket");
        heard.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
        (heard, format!("@{name}"))
    }

    fn next(heard: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = heard.recv(&mut buffer).expect("a datagram");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn report_waits_for_room_in_the_queue_and_keep_alives_do_not() {
        let (heard, name) = manager("full");
        let at = ServiceManager::at(&name, None).expect("a connection");
        (0..1_000).for_each(|_| at.keep_alive("WATCHDOG=1"));
        SystemdNotifier(at).ready();
        let kept_alive = std::iter::repeat_with(|| next(&heard)).take_while(|message| message != "READY=1").count();
        assert!((1..1_000).contains(&kept_alive), "{kept_alive}");
    }

    #[tokio::test(start_paused = true)]
    async fn long_start_asks_for_more_time_until_it_ends() {
        let (heard, name) = manager("starting");
        let manager = SystemdNotifier(ServiceManager::at(&name, None).expect("a connection"));
        assert_eq!(manager.starting(async { 7 }).await, 7);
        manager.starting(tokio::time::sleep(STARTING_EVERY * 3)).await;
        manager.ready();
        let asked = std::iter::repeat_with(|| next(&heard)).take_while(|message| message != "READY=1");
        let asked: Vec<_> = asked.collect();
        assert!(asked.len() >= 2 && asked.iter().all(|text| text == "EXTEND_TIMEOUT_USEC=180000000"), "{asked:?}");
    }

    #[tokio::test]
    async fn systemd_gets_ready_watchdog_and_stopping_messages() {
        let (heard, name) = manager("systemd");
        let next = || next(&heard);
        let at = ServiceManager::at(&name, Some(Duration::from_millis(1)));
        let manager = SystemdNotifier(at.expect("a connection"));
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
