//! Reason header of a sent BYE (RFC 3326): the SIP status or Q.850 cause that a PBX writes into its call records.

/// Reason for hanging up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The conversation has ended.
    Done,
    /// The node is out of service, or shuts down.
    OutOfService,
    /// The `200` was never acknowledged.
    NoAck,
    /// The ACK contained no usable answer to the offer.
    NoAnswer,
    /// The session was not refreshed (RFC 4028).
    NotRefreshed,
    /// No media for too long.
    NoMedia,
    /// The call was on hold for too long.
    HeldTooLong,
    /// Internal fault.
    Broken,
}

impl Reason {
    /// Value of the header.
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

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn each_reason_has_its_protocol_cause_and_text() {
        let table = [
            (Reason::Done, "Q.850", 16, "Normal call clearing"),
            (Reason::OutOfService, "SIP", 503, "Out of service"),
            (Reason::NoAck, "SIP", 408, "No ACK"),
            (Reason::NoAnswer, "SIP", 488, "No usable answer in the ACK"),
            (Reason::NotRefreshed, "SIP", 408, "Session not refreshed"),
            (Reason::NoMedia, "Q.850", 102, "No media"),
            (Reason::HeldTooLong, "Q.850", 102, "On hold for too long"),
            (Reason::Broken, "Q.850", 41, "Temporary failure"),
        ];
        for (reason, protocol, cause, text) in table {
            // RFC 3326: protocol, then parameters; the text is a quoted string.
            assert_eq!(reason.header(), format!("{protocol};cause={cause};text=\"{text}\""));
        }
    }
}
