//! The phone's session descriptions.

use std::{fmt::Write, net::SocketAddr};

use twinbox_rtp::Codec;
use twinbox_sip::sdp::{self, Sdp, Stream};

use crate::{CallError, Direction};

impl Direction {
    fn attribute(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    /// The phone's direction for the peer's stated direction.
    fn facing(theirs: sdp::Direction) -> Self {
        match theirs {
            sdp::Direction::SendRecv => Self::SendRecv,
            sdp::Direction::SendOnly => Self::RecvOnly,
            sdp::Direction::RecvOnly => Self::SendOnly,
            sdp::Direction::Inactive => Self::Inactive,
        }
    }

    pub(crate) fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }
}

/// The phone's session description.
#[derive(Debug, Clone)]
pub(crate) struct Description {
    pub(crate) address: SocketAddr,
    pub(crate) session: u32,
    pub(crate) version: u32,
    /// Payload type and codec, best first.
    pub(crate) codecs: Vec<(u8, Codec)>,
    pub(crate) dtmf: Option<u8>,
    pub(crate) direction: Direction,
}

impl Description {
    /// The body; each call increments the version.
    pub(crate) fn write(&mut self) -> String {
        self.version += 1;
        let Self { address, session, version, codecs, dtmf, direction } = self;
        let family = if address.is_ipv4() { "IP4" } else { "IP6" };
        let (ip, port) = (address.ip(), address.port());
        let types = codecs.iter().map(|(pt, _)| *pt).chain(*dtmf).fold(String::new(), |t, pt| format!("{t} {pt}"));
        let mut out = format!(
            "v=0\r\no=phone {session} {version} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\n\
             m=audio {port} RTP/AVP{types}\r\n"
        );
        // Writing to a string does not fail.
        for (pt, codec) in codecs {
            let _ = write!(out, "a=rtpmap:{pt} {codec}/8000\r\n");
        }
        if let Some(pt) = dtmf {
            let _ = write!(out, "a=rtpmap:{pt} telephone-event/8000\r\na=fmtp:{pt} 0-15\r\n");
        }
        let _ = write!(out, "a=ptime:20\r\na={}\r\n", direction.attribute());
        out
    }

    /// Accepts the peer's offer: its first codec, its payload types, the matching direction.
    pub(crate) fn agree(&mut self, stream: &Stream) {
        self.codecs = vec![(stream.payload_type, stream.codec)];
        self.dtmf = stream.dtmf;
        self.direction = Direction::facing(stream.direction);
    }
}

/// Parses the peer's description.
pub(crate) fn read(body: &[u8]) -> Result<Stream, CallError> {
    Sdp::parse(body).and_then(|sdp| sdp.audio()).map_err(|e| CallError::new(488, e.to_string()))
}
