//! Symmetric RTP (RFC 4961): source and destination of a session's packets. A pure state machine.
//!
//! A session accepts packets from one source at a time and sends to that source (latching, RFC 7362), so that callers
//! behind NAT receive audio. Sources that can be latched to:
//!
//! | source | condition |
//! | --- | --- |
//! | the address of the SDP | at its first packet; while another source is latched, as soon as it is proven |
//! | another port of its host, the host of the signalling | proven; latched source silent for the required time |
//! | any other host | only if the trunk allows it: as above, after twice that time |
//!
//! A source is proven when it has sent [`PROOF`] packets of one stream in order. A stray packet, or a sprayer that
//! sends from many addresses, therefore has no effect. Once a source is latched, only the stated address can replace
//! it. A re-INVITE restarts this: another address in the SDP clears the latch. With the same address the latch is open
//! again, and the latched source keeps it by sending, so that a session refresh loses no audio.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_rtp::packet::{SeqNo, Ssrc};

/// Required silence at the start of a session: short, since the audio played meanwhile goes to the stated address.
const FIRST_SILENCE: Duration = Duration::from_millis(100);

/// Required silence after a re-INVITE: longer, since packets of the previous media path may still be in transit.
const SILENCE_BEFORE_CHANGE: Duration = Duration::from_millis(500);

/// Number of packets in order that prove a source.
const PROOF: u8 = 4;

/// Maximum step of the sequence number between two packets in order.
const GAP: i16 = 16;

/// Maximum number of sources that can prove themselves concurrently.
const CANDIDATES: usize = 4;

/// Sources that may be latched to, by the last negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Address of the peer's SDP, if it names one.
    stated: Option<SocketAddr>,
    /// Source host of the peer's signalling.
    signalling: Option<IpAddr>,
    /// Every host may be latched to.
    any_host: bool,
}

/// Trust in a source, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Stated,
    OwnHost,
    OtherHost,
}

impl Terms {
    pub(crate) fn new(stated: Option<SocketAddr>, signalling: Option<IpAddr>, any_host: bool) -> Self {
        // Port 0 and 0.0.0.0 mean "no address" in SDP.
        let stated = stated
            .map(|a| SocketAddr::new(a.ip().to_canonical(), a.port()))
            .filter(|a| a.port() != 0 && !a.ip().is_unspecified());
        Self { stated, signalling: signalling.map(|ip| ip.to_canonical()), any_host }
    }

    fn trust(&self, from: SocketAddr) -> Option<Trust> {
        let host = Some(from.ip());
        match () {
            () if self.stated == Some(from) => Some(Trust::Stated),
            () if host == self.stated.map(|a| a.ip()) || host == self.signalling => Some(Trust::OwnHost),
            () if self.any_host => Some(Trust::OtherHost),
            () => None,
        }
    }
}

/// The source of a session's RTP.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RtpSource {
    terms: Terms,
    latched: Option<Latched>,
    /// Set while a source other than the stated one may be latched to.
    open: Option<Open>,
    candidates: [Option<Candidate>; CANDIDATES],
}

#[derive(Debug, Clone, Copy)]
struct Latched {
    address: SocketAddr,
    last_packet: BootInstant,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    since: BootInstant,
    silence: Duration,
}

/// A source that is not yet proven.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    address: SocketAddr,
    ssrc: Ssrc,
    newest: SeqNo,
    in_order: u8,
}

impl RtpSource {
    pub(crate) fn new(terms: Terms, now: BootInstant) -> Self {
        let open = Some(Open { since: now, silence: FIRST_SILENCE });
        Self { terms, latched: None, open, candidates: Default::default() }
    }

    /// State after another negotiation.
    pub(crate) fn renegotiated(self, terms: Terms, now: BootInstant) -> Self {
        let same = terms.stated == self.terms.stated;
        let latched = self.latched.filter(|latched| same && terms.trust(latched.address).is_some());
        let open = Some(Open { since: now, silence: SILENCE_BEFORE_CHANGE });
        Self { terms, latched, open, candidates: Default::default() }
    }

    /// The address to send to: the latched source, else the stated address.
    pub(crate) fn destination(&self) -> Option<SocketAddr> {
        self.latched.map(|latched| latched.address).or(self.terms.stated)
    }

    /// The stated address, from the SDP.
    pub(crate) fn stated(&self) -> Option<SocketAddr> {
        self.terms.stated
    }

    /// Whether a packet from this source is accepted.
    pub(crate) fn admits(&mut self, from: SocketAddr, ssrc: Ssrc, seq: SeqNo, now: BootInstant) -> bool {
        let Some(trust) = self.terms.trust(from) else { return false };
        match &mut self.latched {
            Some(latched) if latched.address == from => {
                latched.last_packet = now;
                if trust == Trust::Stated || self.open.is_some_and(|open| now.since(open.since) > open.silence) {
                    self.open = None;
                }
                return true;
            }
            None if trust == Trust::Stated => return self.latch(from, now),
            _ => {}
        }
        let patient = match (trust, self.open) {
            (Trust::Stated, _) => true,
            (_, None) => return false,
            (Trust::OwnHost, Some(open)) => self.silent_for(open, now) >= open.silence,
            (Trust::OtherHost, Some(open)) => self.silent_for(open, now) >= open.silence * 2,
        };
        self.prove(from, ssrc, seq) && patient && self.latch(from, now)
    }

    /// Time without a packet from the latched source, counted from the negotiation at the earliest.
    fn silent_for(&self, open: Open, now: BootInstant) -> Duration {
        now.since(self.latched.map_or(open.since, |latched| latched.last_packet.max(open.since)))
    }

    fn latch(&mut self, address: SocketAddr, now: BootInstant) -> bool {
        self.latched = Some(Latched { address, last_packet: now });
        self.open = None;
        self.candidates = Default::default();
        true
    }

    /// Counts a packet of a candidate. Returns true when the source is proven.
    fn prove(&mut self, address: SocketAddr, ssrc: Ssrc, seq: SeqNo) -> bool {
        let found = self.candidates.iter().position(|c| c.is_some_and(|c| c.address == address));
        // The candidate with the fewest packets in order is replaced.
        let least = || (0..CANDIDATES).min_by_key(|&i| self.candidates[i].map_or(0, |c| c.in_order));
        let Some(slot) = found.or_else(least) else { return false };
        let known = found.and(self.candidates[slot]).filter(|c| c.ssrc == ssrc);
        let in_order = match known.map(|c| (c.in_order, seq.since(c.newest))) {
            Some((in_order, 1..=GAP)) => in_order.saturating_add(1),
            // Duplicate packet.
            Some((_, 0)) => return false,
            _ => 1,
        };
        self.candidates[slot] = Some(Candidate { address, ssrc, newest: seq, in_order });
        in_order >= PROOF
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATED: &str = "10.0.0.1:4000";
    const SAME_HOST: &str = "10.0.0.1:5000";
    const SIGNALLING: &str = "10.0.0.5:9000";
    const OTHER: &str = "203.0.113.9:7000";

    fn a(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn at(ms: u64) -> BootInstant {
        BootInstant::from_nanos(ms * 1_000_000)
    }

    fn terms(any_host: bool) -> Terms {
        Terms::new(Some(a(STATED)), Some(a(SIGNALLING).ip()), any_host)
    }

    /// Sources that each send their own stream, one packet every 20 ms. `run` returns the number accepted per source.
    struct Wire {
        source: RtpSource,
        ms: u64,
    }

    impl Wire {
        fn new(terms: Terms) -> Self {
            Self { source: RtpSource::new(terms, at(0)), ms: 0 }
        }

        fn run(&mut self, ms: u64, senders: &[&str]) -> Vec<usize> {
            let mut taken = vec![0; senders.len()];
            for _ in 0..ms / 20 {
                self.ms += 20;
                for (n, sender) in senders.iter().enumerate() {
                    let ssrc = Ssrc(u32::from(a(sender).port()));
                    let seq = SeqNo((self.ms / 20) as u16);
                    taken[n] += usize::from(self.source.admits(a(sender), ssrc, seq, at(self.ms)));
                }
            }
            taken
        }

        fn renegotiate(&mut self, terms: Terms) {
            self.source = self.source.renegotiated(terms, at(self.ms));
        }

        fn sends_to(&self, to: &str) -> bool {
            self.source.destination() == Some(a(to))
        }
    }

    #[test]
    fn source_is_latched_by_its_trust() {
        let nowhere = |signalling: Option<&str>, any| Terms::new(None, signalling.map(|s| a(s).ip()), any);
        let hidden = Some(SIGNALLING);
        // (terms, sender, packets taken of 50 in a second)
        let cases = [
            (terms(false), STATED, 50),
            (terms(false), SAME_HOST, 46),
            (terms(false), SIGNALLING, 46),
            (terms(false), OTHER, 0),
            (terms(true), OTHER, 41),
            (nowhere(hidden, false), SIGNALLING, 46),
            (nowhere(hidden, false), OTHER, 0),
            (nowhere(None, true), OTHER, 41),
            (nowhere(None, false), OTHER, 0),
            (Terms::new(Some(a("0.0.0.0:4000")), Some(a(SIGNALLING).ip()), false), SIGNALLING, 46),
            (Terms::new(Some(a("[::ffff:10.0.0.1]:4000")), None, false), STATED, 50),
        ];
        for (terms, sender, taken) in cases {
            let mut wire = Wire::new(terms);
            assert_eq!(wire.run(1_000, &[sender]), [taken], "{terms:?} {sender}");
            assert_eq!(wire.sends_to(sender), taken > 0, "{terms:?} {sender}");
        }
    }

    #[test]
    fn destination_is_the_stated_address_until_a_source_is_latched() {
        let mut wire = Wire::new(terms(false));
        assert!(wire.sends_to(STATED));
        wire.run(80, &[SAME_HOST]);
        assert!(wire.sends_to(STATED), "silence is not over");
        wire.run(40, &[SAME_HOST]);
        assert!(wire.sends_to(SAME_HOST));
        assert_eq!(Wire::new(Terms::new(None, None, true)).source.destination(), None);
    }

    #[test]
    fn stated_address_regains_and_keeps_the_latch() {
        for latched in [SAME_HOST, SIGNALLING, OTHER] {
            let mut wire = Wire::new(terms(true));
            wire.run(1_000, &[latched]);
            assert!(wire.sends_to(latched));
            let [stated, other] = wire.run(200, &[STATED, latched])[..] else { unreachable!() };
            assert_eq!((stated, other), (7, 3), "after four packets in order");
            assert!(wire.sends_to(STATED));
            assert_eq!(wire.run(5_000, &[latched]), [0], "silence does not open the latch");
        }
    }

    #[test]
    fn single_forged_packet_of_the_stated_address_changes_nothing() {
        let mut wire = Wire::new(terms(false));
        wire.run(1_000, &[SAME_HOST]);
        for n in 0..100_u16 {
            wire.run(20, &[SAME_HOST]);
            wire.source.admits(a(STATED), Ssrc(1), SeqNo(n.wrapping_mul(977)), at(wire.ms));
        }
        assert!(wire.sends_to(SAME_HOST));
    }

    #[test]
    fn packets_from_many_addresses_latch_nothing() {
        // Latched: from every kind of source, a proper stream.
        for latched in [STATED, SAME_HOST, OTHER] {
            let mut wire = Wire::new(terms(true));
            wire.run(400, &[latched]);
            let senders = ["10.0.0.1:6000", "10.0.0.5:6000", "198.51.100.1:6000"];
            assert_eq!(wire.run(10_000, &senders), [0, 0, 0], "{latched}");
            assert!(wire.sends_to(latched));
        }
        // Not latched yet: packets from changing addresses prove nothing, and do not lock the caller out.
        let mut wire = Wire::new(terms(true));
        for n in 0..20_u16 {
            for port in 0..3 {
                let sprayed = SocketAddr::new([198, 51, 100, 1].into(), 1_000 + n * 3 + port);
                assert!(!wire.source.admits(sprayed, Ssrc(7), SeqNo(n), at(wire.ms)), "{sprayed}");
            }
            wire.run(20, &[OTHER]);
        }
        assert!(wire.sends_to(OTHER));
        // One address, but not one stream.
        let mut wire = Wire::new(terms(true));
        for n in 0..1_000_u16 {
            let taken = wire.source.admits(a(OTHER), Ssrc(7), SeqNo(n.wrapping_mul(977)), at(u64::from(n) * 20));
            assert!(!taken, "packet {n}");
        }
    }

    #[test]
    fn nearer_host_is_preferred_to_another_one() {
        let mut wire = Wire::new(terms(true));
        wire.run(1_000, &[OTHER, SAME_HOST]);
        assert!(wire.sends_to(SAME_HOST));
    }

    #[test]
    fn lost_doubled_and_reordered_packets_do_not_keep_a_source_out() {
        let mut source = RtpSource::new(terms(false), at(0));
        let seqs = [65_530_u16, 65_531, 65_531, 65_535, 2, 4];
        let taken: Vec<bool> =
            seqs.iter().map(|&seq| source.admits(a(SAME_HOST), Ssrc(1), SeqNo(seq), at(200))).collect();
        assert_eq!(taken, [false, false, false, false, true, true]);
    }

    #[test]
    fn re_invite_with_the_same_address_keeps_an_active_source() {
        let mut wire = Wire::new(terms(false));
        wire.run(1_000, &[SAME_HOST]);
        wire.renegotiate(terms(false));
        assert!(wire.sends_to(SAME_HOST));
        assert_eq!(wire.run(1_000, &[SAME_HOST, SIGNALLING]), [50, 0], "not a packet is lost");
        assert_eq!(wire.run(5_000, &[SIGNALLING]), [0], "closed again");
    }

    #[test]
    fn re_invite_with_the_same_address_lets_another_source_follow_a_silent_one() {
        let mut wire = Wire::new(terms(false));
        wire.run(1_000, &[SAME_HOST]);
        wire.renegotiate(terms(false));
        wire.run(200, &[SAME_HOST]);
        assert_eq!(wire.run(480, &[SIGNALLING]), [0], "silence counts from the last packet");
        wire.run(60, &[SIGNALLING]);
        assert!(wire.sends_to(SIGNALLING));
    }

    #[test]
    fn re_invite_with_another_address_clears_the_latch() {
        let moved = Terms::new(Some(a("10.0.0.7:4000")), Some(a(SIGNALLING).ip()), false);
        let mut wire = Wire::new(terms(false));
        wire.run(1_000, &[SAME_HOST]);
        wire.renegotiate(moved);
        assert!(wire.sends_to("10.0.0.7:4000"));
        assert_eq!(wire.run(400, &[SAME_HOST, "10.0.0.7:4000"]), [0, 20]);
        // A source that is no longer allowed loses the latch, too.
        let mut wire = Wire::new(terms(true));
        wire.run(1_000, &[OTHER]);
        wire.renegotiate(terms(false));
        assert!(wire.sends_to(STATED));
    }
}
