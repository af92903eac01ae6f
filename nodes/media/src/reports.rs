//! RTCP of one session (RFC 3550 section 6): reports to the peer, and the peer's reports about the sent stream.
//!
//! The visits of the media thread send a report every 2 to 6 s, from the port above the RTP port to the port named by
//! SDP or the one above the peer's RTP port. With rtcp-mux (RFC 5761) both use the RTP ports. If the peer's RTCP comes
//! from another port, reports go to that port (RFC 4961). The kernel timestamps arrivals, so polling once a second is
//! enough. A poll takes one batch: more than a batch is a flood. RTCP never ends or changes a call.

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

/// Poll interval for reports.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Larger jitter values are implausible and capped.
const LONGEST_JITTER: Duration = Duration::from_secs(10);

pub(crate) struct Reports {
    socket: Socket,
    cname: Cname,
    /// RTCP address of the peer by SDP.
    stated: Option<SocketAddr>,
    mux: bool,
    /// Observed source address of the peer's RTCP.
    learned: Option<SocketAddr>,
    polled: BootInstant,
    /// Time of the next report; `None` before the first negotiation.
    due: Option<BootInstant>,
    /// At least one report has been sent.
    begun: bool,
    /// Packets sent until the last report, and until the one before.
    sent: [u64; 2],
    reception: Reception,
    transmission: Transmission,
}

/// Data of the session needed for a report.
pub(crate) struct Media<'a> {
    socket: &'a Socket,
    out: &'a Outgoing,
    /// Received stream.
    extent: Option<Extent>,
    /// Destination of RTP.
    to: Option<SocketAddr>,
    /// RTP address of the peer by SDP.
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
            polled: now,
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

    /// Counts an audio packet that is not a duplicate.
    pub(crate) fn received(&mut self, arrived: Duration, header: &Header) {
        self.reception.packet(arrived, header.ssrc, header.time);
    }

    /// Returns the socket if a poll for reports is due.
    pub(crate) fn poll(&mut self, now: BootInstant) -> Option<&Socket> {
        let due = now.since(self.polled) >= POLL_INTERVAL;
        if due {
            self.polled = now;
        }
        due.then_some(&self.socket)
    }

    /// Takes a datagram from the peer.
    pub(crate) fn take(&mut self, datagram: &Datagram<'_>, media: &Media<'_>, quality: &mut Quality) {
        match self.check_report(datagram, media, quality) {
            Some(()) => quality.reports_received += 1,
            None => quality.reports_refused += 1,
        }
    }

    fn check_report(&mut self, datagram: &Datagram<'_>, media: &Media<'_>, quality: &mut Quality) -> Option<()> {
        let host = Some(datagram.from.ip());
        let known = host == media.to.map(|a| a.ip()) || host == self.stated.map(|a| a.ip());
        let compound = Compound::parse(datagram.bytes).ok().filter(|_| known)?;
        let Some(Part::Report { from, sender, blocks }) = compound.parts().next() else { return None };
        let ours = blocks.iter().find(|block| block.ssrc == media.out.ssrc.0);
        // A third party knows neither of the two streams.
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

    /// Sends BYE, if anything was sent before (RFC 3550 section 6.3.7).
    pub(crate) fn send_bye(&mut self, now: BootInstant, media: &Media<'_>, quality: &mut Quality) {
        if self.begun || media.out.begun {
            self.send(now, true, media, quality);
        }
    }

    fn send(&mut self, now: BootInstant, bye: bool, media: &Media<'_>, quality: &mut Quality) {
        let Some(to) = self.destination(media) else { return };
        let wall = since_epoch();
        let [last, before_last] = self.sent;
        // A participant is a sender if it has sent since the report before the last (RFC 3550 section 6.4).
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

    /// Destination of reports. Behind NAT the stated port may be wrong: RTP port + 1 until the peer's RTCP arrives.
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
