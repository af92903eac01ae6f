//! RTCP of one session (RFC 3550 section 6): reports to the peer, and what the peer reports of our stream.
//!
//! Reports go out by the visits of the media thread, every 2 to 6 s, from the port above that of RTP to the port that SDP
//! names or the one above the peer's; with rtcp-mux (RFC 5761) both from and to the ports of RTP. Where the peer's RTCP
//! comes from another port than that, ours follows it (RFC 4961). The kernel stamps what arrives, so that it is enough to
//! look once a second, and to take a batch: more than a batch is a flood. RTCP ends no call and changes nothing about it.

use std::{net::SocketAddr, time::Duration};

use twinbox_clock::{BootInstant, since_epoch};
use twinbox_rtp::{
    packet::Header,
    rtcp::{self, Cname, Compound, Ntp, Part, Reception, Report, Transmission},
    sequence::{Extent, Sequence},
};

use crate::{
    Remote,
    outgoing::Outgoing,
    quality::Quality,
    socket::{Datagram, Socket},
    source::RtpSource,
};

/// How often we look for reports.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Jitter beyond this is made up.
const LONGEST_JITTER: Duration = Duration::from_secs(10);

pub(crate) struct Reports {
    socket: Socket,
    cname: Cname,
    /// Where their RTCP is by SDP.
    stated: Option<SocketAddr>,
    mux: bool,
    /// Where their RTCP came from.
    learned: Option<SocketAddr>,
    looked: BootInstant,
    /// When the next report is due; `None` before the first negotiation.
    due: Option<BootInstant>,
    /// A report has been sent.
    begun: bool,
    /// Packets that had been sent at the last report, and at the one before.
    sent: [u64; 2],
    reception: Reception,
    transmission: Transmission,
}

/// What the session's line lends for a report.
pub(crate) struct Media<'a> {
    socket: &'a Socket,
    out: &'a Outgoing,
    /// The stream that is received.
    extent: Option<Extent>,
    /// Where RTP goes.
    to: Option<SocketAddr>,
    /// Where SDP says that it should.
    stated: Option<SocketAddr>,
}

impl<'a> Media<'a> {
    pub(crate) fn of(socket: &'a Socket, out: &'a Outgoing, sequence: &Sequence, source: &RtpSource) -> Self {
        Self { socket, out, extent: sequence.extent(), to: source.destination(), stated: source.stated() }
    }
}

fn above(address: SocketAddr) -> Option<SocketAddr> {
    Some(SocketAddr::new(address.ip(), address.port().checked_add(1)?))
}

impl Reports {
    pub(crate) fn new(socket: Socket, now: BootInstant) -> Self {
        Self {
            socket,
            cname: Cname::from_random(rand::random()),
            stated: None,
            mux: false,
            learned: None,
            looked: now,
            due: None,
            begun: false,
            sent: [0; 2],
            reception: Reception::default(),
            transmission: Transmission::default(),
        }
    }

    pub(crate) fn negotiated(&mut self, now: BootInstant, remote: &Remote) {
        let stated = remote
            .rtcp
            .or_else(|| above(remote.address?))
            .map(|a| SocketAddr::new(a.ip().to_canonical(), a.port()));
        if (stated, remote.rtcp_mux) != (self.stated, self.mux) {
            (self.stated, self.mux, self.learned) = (stated, remote.rtcp_mux, None);
        }
        self.due.get_or_insert_with(|| now + rtcp::interval(true, rand::random()));
    }

    /// A packet of audio that is no duplicate.
    pub(crate) fn received(&mut self, arrived: Duration, header: &Header) {
        self.reception.packet(arrived, header.ssrc, header.time);
    }

    /// Whether it is time to look for reports.
    pub(crate) fn look(&mut self, now: BootInstant) -> Option<&Socket> {
        let look = now.since(self.looked) >= LOOK_EVERY;
        if look {
            self.looked = now;
        }
        look.then_some(&self.socket)
    }

    /// Takes a datagram of the peer's.
    pub(crate) fn take(&mut self, datagram: &Datagram<'_>, media: &Media<'_>, quality: &mut Quality) {
        match self.judge(datagram, media, quality) {
            Some(()) => quality.reports_received += 1,
            None => quality.reports_refused += 1,
        }
    }

    fn judge(&mut self, datagram: &Datagram<'_>, media: &Media<'_>, quality: &mut Quality) -> Option<()> {
        let host = Some(datagram.from.ip());
        let known = host == media.to.map(|a| a.ip()) || host == self.stated.map(|a| a.ip());
        let compound = Compound::parse(datagram.bytes).ok().filter(|_| known)?;
        let Some(Part::Report { from, sender, blocks }) = compound.parts().next() else { return None };
        let ours = blocks.iter().find(|block| block.ssrc == media.out.ssrc.0);
        // A stranger knows neither of the two streams.
        if ours.is_none() && self.reception.ssrc() != Some(from) {
            return None;
        }
        self.learned = Some(datagram.from);
        if let Some(info) = sender {
            self.reception.sender_report(datagram.arrived, from, info.ntp);
        }
        if let Some(block) = ours {
            if let Some(interval) = self.transmission.report(&block, media.out.first, media.out.sent) {
                let jitter = block.jitter_time().min(LONGEST_JITTER);
                quality.outbound.add(interval, jitter);
            }
            if let Some(round_trip) = block.round_trip(Ntp::from_unix(datagram.arrived)) {
                quality.round_trip.add(round_trip);
            }
        }
        Some(())
    }

    /// Sends a report when it is due.
    pub(crate) fn visit(&mut self, now: BootInstant, media: &Media<'_>, quality: &mut Quality) {
        if self.due.is_some_and(|due| due <= now) {
            self.send(now, false, media, quality);
            self.due = Some(now + rtcp::interval(false, rand::random()));
        }
    }

    /// Takes leave, if we have ever spoken (RFC 3550 section 6.3.7).
    pub(crate) fn leave(&mut self, now: BootInstant, media: &Media<'_>, quality: &mut Quality) {
        if self.begun || media.out.begun {
            self.send(now, true, media, quality);
        }
    }

    fn send(&mut self, now: BootInstant, bye: bool, media: &Media<'_>, quality: &mut Quality) {
        let Some(to) = self.destination(media) else { return };
        let wall = since_epoch();
        let [last, before_last] = self.sent;
        // A sender is who has sent since the report before the last (RFC 3550 section 6.4).
        let sender = (media.out.sent > before_last).then(|| media.out.info(now, wall));
        self.sent = [media.out.sent, last];
        let block = self.reception.report(wall, media.extent).map(|(block, interval)| {
            quality.inbound.add(interval, self.reception.jitter());
            block
        });
        let mut packet = [0; rtcp::LONGEST];
        let length = Report { from: media.out.ssrc, sender, block, cname: self.cname, bye }.write(&mut packet);
        let socket = if self.mux { media.socket } else { &self.socket };
        if socket.send_to(&packet[..length], to).is_ok() {
            self.begun = true;
            quality.reports_sent += 1;
        }
    }

    /// Where reports go. Behind NAT the stated port says nothing: until theirs come, the port above that of RTP is tried.
    fn destination(&self, media: &Media<'_>) -> Option<SocketAddr> {
        let rtp = media.to?;
        if self.mux {
            return Some(rtp);
        }
        let hosts = [Some(rtp.ip()), self.stated.map(|a| a.ip())];
        let learned = self.learned.filter(|a| hosts.contains(&Some(a.ip())));
        learned.or_else(|| if media.to == media.stated { self.stated } else { above(rtp) })
    }
}
