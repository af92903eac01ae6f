//! Why a BYE of ours goes out, for its Reason header (RFC 3326): the SIP status or the cause of Q.850 that a PBX writes
//! into its call records.

/// Why we hang up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The conversation has come to its end.
    Done,
    /// The node is out of service, or stops.
    OutOfService,
    /// Our `200` was never acknowledged.
    NoAck,
    /// The ACK had no usable answer to our offer.
    NoAnswer,
    /// The session was not refreshed (RFC 4028).
    NotRefreshed,
    /// No media came for too long.
    NoMedia,
    /// The call was on hold for too long.
    HeldTooLong,
    /// Something of ours does not work.
    Broken,
}

impl Reason {
    /// The header's value.
    pub(super) fn header(self) -> &'static str {
        match self {
            Self::Done => "Q.850;cause=16;text=\"Normal call clearing\"",
            Self::OutOfService => "SIP;cause=503;text=\"Out of service\"",
            Self::NoAck => "SIP;cause=408;text=\"No ACK\"",
            Self::NoAnswer => "SIP;cause=488;text=\"No usable answer in the ACK\"",
            Self::NotRefreshed => "SIP;cause=408;text=\"Session not refreshed\"",
            Self::NoMedia => "Q.850;cause=102;text=\"No media\"",
            Self::HeldTooLong => "Q.850;cause=102;text=\"On hold for too long\"",
            Self::Broken => "Q.850;cause=41;text=\"Temporary failure\"",
        }
    }
}
