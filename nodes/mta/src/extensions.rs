//! Extensions that a server offers in its reply to EHLO.

use crate::reply::Reply;

/// Offered extensions that this crate uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// TLS can begin (RFC 3207).
    pub starttls: bool,
    /// Bodies may have bytes above 127 (RFC 6152).
    pub eight_bit_mime: bool,
    /// Delivery reports can be chosen (RFC 3461).
    pub dsn: bool,
    /// Addresses may have characters above ASCII (RFC 6531).
    pub smtp_utf8: bool,
    /// The MAIL command may name the size (RFC 1870).
    pub size: bool,
    /// Maximum size of a message in bytes, if the server has one.
    pub max_size: Option<u64>,
    /// Authentication by `PLAIN` (RFC 4616).
    pub plain: bool,
    /// Authentication by `LOGIN`.
    pub login: bool,
}

impl Extensions {
    /// Reads the lines after the first, which names the server. Unknown extensions are skipped.
    pub fn read(reply: &Reply) -> Self {
        let mut offered = Self::default();
        for line in reply.lines.iter().skip(1) {
            // `AUTH=LOGIN` is an old spelling.
            let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            match keyword.as_str() {
                "STARTTLS" => offered.starttls = true,
                "8BITMIME" => offered.eight_bit_mime = true,
                "DSN" => offered.dsn = true,
                "SMTPUTF8" => offered.smtp_utf8 = true,
                "SIZE" => {
                    offered.size = true;
                    offered.max_size = words.next().and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
                }
                "AUTH" => {
                    for mechanism in words {
                        offered.plain |= mechanism.eq_ignore_ascii_case("PLAIN");
                        offered.login |= mechanism.eq_ignore_ascii_case("LOGIN");
                    }
                }
                _ => {}
            }
        }
        offered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Extensions {
        Extensions::read(&Reply { code: 250, lines: lines.iter().map(|line| (*line).to_owned()).collect() })
    }

    #[test]
    fn offered_extensions_are_read_in_any_case_and_spelling() {
        assert_eq!(read(&["STARTTLS"]), Extensions::default());
        let all =
            read(&["mail", "StartTLS", "8bitmime", "DSN", "SMTPUTF8", "SIZE 1000", "AUTH plain LOGIN", "X-1"]);
        let expected = Extensions {
            starttls: true,
            eight_bit_mime: true,
            dsn: true,
            smtp_utf8: true,
            size: true,
            max_size: Some(1_000),
            plain: true,
            login: true,
        };
        assert_eq!(all, expected);
        assert!(read(&["mail", "AUTH=LOGIN"]).login);
    }

    #[test]
    fn size_without_a_usable_limit_is_no_limit() {
        for line in ["SIZE", "SIZE 0", "SIZE x", "SIZE 99999999999999999999999"] {
            let offered = read(&["mail", line]);
            assert!(offered.size && offered.max_size.is_none(), "{line}");
        }
    }
}
