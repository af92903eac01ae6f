//! From whom packets are taken: learnt once, then locked, so that nobody who sprays ports is heard.

use std::{net::SocketAddr, time::Duration};

use twinbox_clock::BootInstant;

/// When nothing comes from the address in their SDP for this long, another port of the same host is taken: some
/// telephones send from a port that they do not tell. Within the time of the greeting.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    /// As in SDP.
    stated: Option<SocketAddr>,
    locked: Option<SocketAddr>,
    since: BootInstant,
}

impl Source {
    pub(crate) fn new(stated: Option<SocketAddr>, now: BootInstant) -> Self {
        // Port 0 and 0.0.0.0 are SDP's words for nowhere.
        let stated = stated
            .map(|a| SocketAddr::new(a.ip().to_canonical(), a.port()))
            .filter(|a| a.port() != 0 && !a.ip().is_unspecified());
        Self { stated, locked: None, since: now }
    }

    /// The same after another negotiation: what is locked stays so while they state the same.
    pub(crate) fn renegotiated(self, stated: Option<SocketAddr>, now: BootInstant) -> Self {
        let new = Self::new(stated, now);
        if new.stated == self.stated { self } else { new }
    }

    /// Where to send: as stated, else whence packets come.
    pub(crate) fn destination(&self) -> Option<SocketAddr> {
        self.stated.or(self.locked)
    }

    /// Takes or refuses a good packet's sender.
    pub(crate) fn admits(&mut self, from: SocketAddr, now: BootInstant) -> bool {
        if self.locked == Some(from) {
            return true;
        }
        let admitted = match (self.stated, self.locked) {
            (Some(stated), _) if stated == from => true,
            (Some(stated), None) => stated.ip() == from.ip() && now.since(self.since) > PATIENCE,
            (None, None) => true,
            _ => false,
        };
        if admitted {
            self.locked = Some(from);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn at(ms: u64) -> BootInstant {
        BootInstant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn the_stated_address_or_the_first_packet_and_then_no_other() {
        // (stated, [(from, at ms, admitted)])
        type Case<'a> = (Option<&'a str>, &'a [(&'a str, u64, bool)]);
        let cases: [Case; 5] = [
            (None, &[("10.0.0.1:4000", 0, true), ("10.0.0.2:4000", 1, false), ("10.0.0.1:4002", 9_999, false)]),
            (Some("10.0.0.1:4000"), &[("10.0.0.2:4000", 0, false), ("10.0.0.1:4000", 1, true)]),
            (
                Some("10.0.0.1:4000"),
                &[
                    ("10.0.0.1:5000", 400, false),
                    ("10.0.0.2:5000", 600, false),
                    ("10.0.0.1:5000", 600, true),
                    ("10.0.0.1:5002", 700, false),
                    ("10.0.0.1:4000", 800, true),
                    ("10.0.0.1:5000", 900, false),
                ],
            ),
            (Some("0.0.0.0:4000"), &[("10.0.0.9:1", 0, true)]),
            (Some("[::ffff:10.0.0.1]:4000"), &[("10.0.0.1:4000", 0, true)]),
        ];
        for (stated, packets) in cases {
            let mut source = Source::new(stated.map(a), at(0));
            for &(from, ms, admitted) in packets {
                assert_eq!(source.admits(a(from), at(ms)), admitted, "{stated:?}: {from} at {ms}");
            }
        }
    }

    #[test]
    fn a_re_invite_keeps_the_lock_unless_the_address_changes() {
        let mut source = Source::new(None, at(0));
        assert_eq!(source.destination(), None);
        source.admits(a("10.0.0.1:4000"), at(0));
        assert_eq!(source.renegotiated(None, at(1)).destination(), Some(a("10.0.0.1:4000")));
        let mut moved = source.renegotiated(Some(a("10.0.0.7:4000")), at(1));
        assert!(!moved.admits(a("10.0.0.1:4000"), at(2)) && moved.admits(a("10.0.0.7:4000"), at(2)));
    }
}
