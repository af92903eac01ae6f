//! Limits of sizes, numbers and times.

use std::time::Duration;

/// Limits of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest mail, in bytes without dot-stuffing.
    pub mail: usize,
    /// Bytes read beyond [`Self::mail`] before the connection is closed. A mail that ends within is refused, and the
    /// session goes on.
    pub overrun: usize,
    /// Bytes of memory for mails of all connections that are arriving.
    pub memory: usize,
    /// Recipients of one mail. Also the number of refused recipients after which a connection is closed.
    pub recipients: usize,
    /// Longest command line, in bytes with its end.
    pub command_line: usize,
    /// Refused commands in one connection.
    pub bad_commands: usize,
    /// Failed sign-ins in one connection.
    pub failed_sign_ins: usize,
    /// `Received` headers of an arriving mail; more are a loop.
    pub received_headers: usize,
    /// Concurrent connections.
    pub connections: usize,
    /// Concurrent connections from outside the trusted networks; fewer, so that they cannot lock out those networks.
    pub connections_of_strangers: usize,
    /// Concurrent connections from one address (IPv6: one /64) outside the trusted networks.
    pub connections_per_stranger: usize,
    /// Concurrent connections from one address in the trusted networks.
    pub connections_per_trusted: usize,
    /// Time until the first command.
    pub first_command: Duration,
    /// Time between two commands.
    pub command: Duration,
    /// Time between two pieces of a mail.
    pub data_pause: Duration,
    /// Time for a mail in addition to what [`Self::data_rate`] allows for the bytes that came.
    pub data_grace: Duration,
    /// Slowest transfer of a mail, in bytes per second.
    pub data_rate: usize,
    /// Time of a TLS handshake, of sending a reply, and of closing.
    pub transport: Duration,
    /// Time within which the handler answers; then the reply is `451`.
    pub answer: Duration,
    /// Longest duration of a connection. A mail that is arriving may finish.
    pub connection: Duration,
    /// Time that arriving mails have to finish when the gateway stops.
    pub finish: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mail: 25 << 20,
            overrun: 1 << 20,
            memory: 256 << 20,
            recipients: 100,
            command_line: 1000,
            bad_commands: 20,
            failed_sign_ins: 3,
            received_headers: 50,
            connections: 1000,
            connections_of_strangers: 750,
            connections_per_stranger: 20,
            connections_per_trusted: 200,
            first_command: Duration::from_secs(30),
            command: Duration::from_secs(300),
            data_pause: Duration::from_secs(180),
            data_grace: Duration::from_secs(60),
            data_rate: 1000,
            transport: Duration::from_secs(30),
            answer: Duration::from_secs(120),
            connection: Duration::from_secs(3600),
            finish: Duration::from_secs(20),
        }
    }
}

impl Limits {
    /// Time that may have passed since `354` when `received` bytes of the mail have come.
    pub fn data_time(&self, received: usize) -> Duration {
        let rate = u64::try_from(self.data_rate.max(1)).unwrap_or(u64::MAX);
        let received = u64::try_from(received).unwrap_or(u64::MAX);
        self.data_grace.saturating_add(Duration::from_millis(received.saturating_mul(1000) / rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_time_grows_with_the_bytes_received() {
        let limits = Limits { data_grace: Duration::from_secs(10), data_rate: 1000, ..Limits::default() };
        assert_eq!(limits.data_time(0), Duration::from_secs(10));
        assert_eq!(limits.data_time(5_000), Duration::from_secs(15));
        let zero = Limits { data_rate: 0, ..limits };
        assert!(zero.data_time(usize::MAX) > Duration::from_secs(1));
    }
}
