//! The `Received` header (RFC 5321 section 4.4).

use std::net::IpAddr;

/// Names of the days, from the first one of the epoch.
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Contents of a `Received` header.
pub(crate) struct Received<'a> {
    /// Name that the client gave itself.
    pub(crate) helo: &'a str,
    /// Address of the client.
    pub(crate) address: IpAddr,
    /// Name of this server.
    pub(crate) hostname: &'a str,
    /// Keyword of the protocol, such as `ESMTPS`.
    pub(crate) with: String,
    /// Id of the mail on this server.
    pub(crate) id: String,
    /// Recipient, if there is only one: the others must not learn of each other.
    pub(crate) recipient: Option<&'a str>,
    /// Wall clock in milliseconds since the Unix epoch.
    pub(crate) wall_ms: u64,
}

impl Received<'_> {
    /// The header with its line end.
    pub(crate) fn header(&self) -> String {
        let Self { helo, hostname, with, id, .. } = self;
        let address = match self.address.to_canonical() {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("IPv6:{v6}"),
        };
        let recipient = self.recipient.map(|address| format!("\r\n\tfor <{address}>")).unwrap_or_default();
        let date = date(self.wall_ms / 1000);
        format!(
            "Received: from {helo} ([{address}])\r\n\tby {hostname} with {with} id {id}{recipient};\r\n\t{date}\r\n"
        )
    }
}

/// The name of a client with every character that is none of a host name or address literal replaced.
pub(crate) fn sanitized(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    name.chars().take(255).map(|c| if allowed(c) { c } else { '?' }).collect()
}

/// Date and time as in a mail header, in UTC.
fn date(seconds: u64) -> String {
    let days = seconds / 86_400;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = civil(days);
    let name = |names: &[&'static str], index: u64| {
        usize::try_from(index).ok().and_then(|index| names.get(index).copied()).unwrap_or_default()
    };
    let (weekday, month) = (name(&DAYS, days % 7), name(&MONTHS, month - 1));
    format!("{weekday}, {day} {month} {year:04} {hour:02}:{minute:02}:{second:02} +0000")
}

/// Year, month from 1 and day from 1 of a number of days since the Unix epoch.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years are counted from 1 March of the year 0: then the leap day is the last one of its year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year, if month < 10 { month + 3 } else { month - 9 });
    (year + u64::from(month <= 2), month, day)
}

/// Number of `Received` headers of a mail.
pub(crate) fn count_received(mail: &[u8]) -> usize {
    let name = b"received:";
    let is_received = |line: &&[u8]| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    mail.split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .take_while(|line| !line.is_empty())
        .filter(is_received)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_client_server_protocol_and_time() {
        let mut received = Received {
            helo: "client.example.org",
            address: "192.0.2.1".parse().unwrap(),
            hostname: "a.example.net",
            with: "ESMTPS".into(),
            id: "7-1".into(),
            recipient: Some("100@example.net"),
            wall_ms: 1_795_270_615_123,
        };
        assert_eq!(
            received.header(),
            "Received: from client.example.org ([192.0.2.1])\r\n\tby a.example.net with ESMTPS id 7-1\r\n\tfor \
             <100@example.net>;\r\n\tSat, 21 Nov 2026 14:16:55 +0000\r\n"
        );
        (received.recipient, received.address) = (None, "2001:db8::1".parse().unwrap());
        let header = received.header();
        assert!(header.contains("([IPv6:2001:db8::1])") && !header.contains("for <"), "{header}");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let table = [
            (0, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (951_827_696, "Tue, 29 Feb 2000 12:34:56 +0000"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 +0000"),
            (1_709_251_200, "Fri, 1 Mar 2024 00:00:00 +0000"),
            (4_107_542_400, "Mon, 1 Mar 2100 00:00:00 +0000"),
            (4_102_444_799, "Thu, 31 Dec 2099 23:59:59 +0000"),
        ];
        for (seconds, text) in table {
            assert_eq!(date(seconds), text);
        }
        assert!(!date(u64::MAX).is_empty());
    }

    #[test]
    fn name_of_a_client_keeps_no_character_that_could_end_the_header() {
        assert_eq!(sanitized("[IPv6:2001:db8::1]"), "[IPv6:2001:db8::1]");
        assert_eq!(sanitized("a b;(c)\r\nX: <y>\u{e4}"), "a?b??c???X:??y??");
        assert_eq!(sanitized(&"x".repeat(1000)).len(), 255);
    }

    #[test]
    fn only_headers_before_the_body_are_counted() {
        assert_eq!(count_received(b""), 0);
        assert_eq!(
            count_received(b"Received: a\r\n\tb\r\nSubject: Received: x\r\nRECEIVED: c\r\n\r\nReceived: d\r\n"),
            2
        );
    }
}
