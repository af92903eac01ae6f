//! Counters for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// An event that a gateway counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// A connection was accepted.
    Connections,
    /// A connection was refused at a limit.
    ConnectionsRefused,
    /// A connection was closed at a time limit outside of a mail.
    ConnectionsExpired,
    /// A TLS handshake failed.
    TlsFailed,
    /// A user signed in.
    SignIns,
    /// A sign-in was refused.
    SignInsRefused,
    /// A recipient was refused.
    RecipientsRefused,
    /// A mail was accepted for at least one recipient.
    MailsAccepted,
    /// A mail was put off; its sender repeats it.
    MailsDeferred,
    /// A mail was refused by the handler.
    MailsRefused,
    /// A mail was refused because its sender is neither in a trusted network nor signed in.
    MailsUntrusted,
    /// A mail was refused because of its size.
    MailsTooBig,
    /// A mail was put off because the memory for arriving mails was used up.
    MailsWithoutRoom,
    /// A connection was closed because of a bare line feed or carriage return.
    MailsSmuggled,
    /// A mail was refused because of a loop.
    MailsLooping,
    /// A mail arrived too slowly.
    MailsTooSlow,
}

impl Counter {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Connections,
        Self::ConnectionsRefused,
        Self::ConnectionsExpired,
        Self::TlsFailed,
        Self::SignIns,
        Self::SignInsRefused,
        Self::RecipientsRefused,
        Self::MailsAccepted,
        Self::MailsDeferred,
        Self::MailsRefused,
        Self::MailsUntrusted,
        Self::MailsTooBig,
        Self::MailsWithoutRoom,
        Self::MailsSmuggled,
        Self::MailsLooping,
        Self::MailsTooSlow,
    ];

    /// The word for it in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsRefused => "connections-refused",
            Self::ConnectionsExpired => "connections-expired",
            Self::TlsFailed => "tls-failed",
            Self::SignIns => "sign-ins",
            Self::SignInsRefused => "sign-ins-refused",
            Self::RecipientsRefused => "recipients-refused",
            Self::MailsAccepted => "mails-accepted",
            Self::MailsDeferred => "mails-deferred",
            Self::MailsRefused => "mails-refused",
            Self::MailsUntrusted => "mails-untrusted",
            Self::MailsTooBig => "mails-too-big",
            Self::MailsWithoutRoom => "mails-without-room",
            Self::MailsSmuggled => "mails-smuggled",
            Self::MailsLooping => "mails-looping",
            Self::MailsTooSlow => "mails-too-slow",
        }
    }
}

/// Counts of one gateway since its start.
#[derive(Debug, Default)]
pub struct GatewayCounts([AtomicU64; Counter::ALL.len()]);

impl GatewayCounts {
    /// Number of these events.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Relaxed)
    }

    pub(crate) fn count(&self, counter: Counter) {
        self.0[counter as usize].fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_a_place_and_a_word_of_its_own() {
        let counts = GatewayCounts::default();
        for (index, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, index);
            counts.count(counter);
            assert_eq!(counts.get(counter), 1);
            assert_eq!(Counter::ALL.iter().filter(|other| other.word() == counter.word()).count(), 1);
        }
    }
}
