//! Commands of a client, parsed and checked.

use smtp_proto::{
    AUTH_LOGIN, AUTH_PLAIN, Error, MAIL_BODY_7BIT, MAIL_BODY_8BITMIME, MAIL_SMTPUTF8, MailFrom, RcptTo, Request,
};

use crate::{
    dsn::{self, MailRequest, RecipientRequest},
    lookup::POSTMASTER,
    reply::Reply,
};

/// A command of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// `HELO`, `EHLO` or `LHLO` with the name of the client.
    Hello(Hello, String),
    /// `MAIL` with the envelope sender (`None` for `<>`).
    Mail {
        sender: Option<String>,
        size: usize,
        utf8: bool,
        reports: Option<MailRequest>,
    },
    /// `RCPT` with the address of the recipient, and the reports about it.
    Recipient(String, Option<RecipientRequest>),
    Data,
    Reset,
    Noop,
    Quit,
    Help,
    Verify,
    StartTls,
    /// `AUTH` with the initial response, if there is one.
    SignIn(Option<Mechanism>, Option<String>),
    /// `BDAT`: bytes follow that are no commands.
    Chunk,
    /// A command of an extension that this server does not have.
    Unsupported,
}

/// Kind of greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hello {
    /// `HELO`: without extensions.
    Helo,
    /// `EHLO`.
    Ehlo,
    /// `LHLO` of LMTP.
    Lhlo,
}

/// SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    Plain,
    Login,
}

/// Parses a command line without its line end, or returns the reply that refuses it.
pub(crate) fn parse(line: &[u8]) -> Result<Command, Reply> {
    let Ok(text) = str::from_utf8(line) else {
        return Err(Reply::new(500, "5.5.2", "command is not UTF-8"));
    };
    if text.chars().any(char::is_control) {
        return Err(Reply::new(500, "5.5.2", "command has control characters"));
    }
    // A date with a huge month overflows in the parser.
    if text.to_ascii_uppercase().contains("RRVS=") {
        return Err(unsupported("RRVS"));
    }
    let (rest, reports) = dsn::take(text)?;
    let mut bytes = rest.into_bytes();
    bytes.extend_from_slice(b"\r\n");
    Ok(match Request::parse(&mut bytes.iter()).map_err(refusal)? {
        Request::Helo { host } => Command::Hello(Hello::Helo, host.into_owned()),
        Request::Ehlo { host } => Command::Hello(Hello::Ehlo, host.into_owned()),
        Request::Lhlo { host } => Command::Hello(Hello::Lhlo, host.into_owned()),
        Request::Mail { from } => mail(from, text, reports.of_mail())?,
        Request::Rcpt { to } => recipient(to, text, reports.of_recipient())?,
        Request::Data => Command::Data,
        Request::Rset => Command::Reset,
        Request::Noop { .. } => Command::Noop,
        Request::Quit => Command::Quit,
        Request::Help { .. } => Command::Help,
        Request::Vrfy { .. } => Command::Verify,
        Request::StartTls => Command::StartTls,
        Request::Auth { mechanism, initial_response } => {
            let mechanism = match mechanism {
                AUTH_PLAIN => Some(Mechanism::Plain),
                AUTH_LOGIN => Some(Mechanism::Login),
                _ => None,
            };
            Command::SignIn(mechanism, Some(initial_response.into_owned()).filter(|text| !text.is_empty()))
        }
        Request::Bdat { .. } => Command::Chunk,
        Request::Expn { .. } | Request::Etrn { .. } | Request::Atrn { .. } | Request::Burl { .. } => {
            Command::Unsupported
        }
    })
}

fn mail<T: AsRef<str>>(from: MailFrom<T>, line: &str, reports: Option<MailRequest>) -> Result<Command, Reply> {
    let offered = MAIL_BODY_7BIT | MAIL_BODY_8BITMIME | MAIL_SMTPUTF8;
    let others = from.env_id.is_some() || from.solicit.is_some() || from.mtrk.is_some() || from.trans_id.is_some();
    if from.flags & !offered != 0 || others || from.hold_for != 0 || from.hold_until != 0 || from.mt_priority != 0 {
        return Err(unsupported("a parameter of MAIL"));
    }
    let utf8 = from.flags & MAIL_SMTPUTF8 != 0;
    let sender = match address(from.address.as_ref(), line) {
        Ok(sender) => sender.filter(|sender| utf8 || sender.is_ascii()),
        Err(Malformed) => return Err(Reply::new(553, "5.1.7", "sender address not supported")),
    };
    if sender.is_none() && !from.address.as_ref().is_empty() {
        return Err(Reply::new(553, "5.6.7", "address with non-ASCII characters; announce SMTPUTF8"));
    }
    Ok(Command::Mail { sender, size: from.size, utf8, reports })
}

fn recipient<T: AsRef<str>>(
    to: RcptTo<T>,
    line: &str,
    reports: Option<RecipientRequest>,
) -> Result<Command, Reply> {
    if to.flags != 0 || to.orcpt.is_some() || to.rrvs != 0 {
        return Err(unsupported("a parameter of RCPT"));
    }
    match address(to.address.as_ref(), line) {
        Ok(Some(address)) => Ok(Command::Recipient(address, reports)),
        Ok(None) | Err(Malformed) => Err(Reply::new(553, "5.1.3", "recipient address not supported")),
    }
}

/// The parser accepted an address that this server does not.
struct Malformed;

/// The address as the parser left it, checked: `None` for `<>`.
///
/// The parser unquotes local parts, so that `"a@b"@c` and `"a>"@c` come as `a@b@c` and `a>@c`. No address here needs
/// quotes.
fn address(parsed: &str, line: &str) -> Result<Option<String>, Malformed> {
    if parsed.is_empty() {
        // The one address without a domain (RFC 5321 section 4.5.1), for which the parser returns an empty one.
        let postmaster = line.to_ascii_lowercase().contains("<postmaster>");
        return Ok(postmaster.then(|| POSTMASTER.to_owned()));
    }
    let special = |c: char| c.is_control() || c.is_whitespace() || "\"\\()<>[],;:".contains(c);
    let Some((local, domain)) = parsed.split_once('@') else { return Err(Malformed) };
    let literal = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let sound = !local.is_empty() && !local.contains(special) && !parsed.contains(char::REPLACEMENT_CHARACTER);
    let domain_sound = match literal {
        Some(literal) => literal.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-')),
        None => !domain.is_empty() && !domain.contains(special) && !domain.contains('@'),
    };
    if sound && domain_sound { Ok(Some(parsed.to_owned())) } else { Err(Malformed) }
}

fn unsupported(name: &str) -> Reply {
    Reply::new(555, "5.5.4", format!("{name} is not supported; leave it out"))
}

fn refusal(error: Error) -> Reply {
    match error {
        Error::UnknownCommand => Reply::new(500, "5.5.1", "command unknown; try HELP"),
        Error::InvalidSenderAddress => Reply::new(553, "5.1.7", "sender address malformed"),
        Error::InvalidRecipientAddress => Reply::new(553, "5.1.3", "recipient address malformed"),
        Error::SyntaxError { syntax } => Reply::new(501, "5.5.4", format!("write {syntax}")),
        Error::InvalidParameter { param } => Reply::new(501, "5.5.4", format!("value of {param} malformed")),
        Error::UnsupportedParameter { .. } => unsupported("a parameter"),
        _ => Reply::new(500, "5.5.2", "command malformed; try HELP"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &str) -> u16 {
        parse(line.as_bytes()).expect_err(line).code()
    }

    fn mail(sender: Option<&str>, size: usize, utf8: bool) -> Result<Command, Reply> {
        Ok(Command::Mail { sender: sender.map(str::to_owned), size, utf8, reports: None })
    }

    #[test]
    fn commands_are_parsed_in_any_case() {
        let table = [
            ("EHLO a.example", Command::Hello(Hello::Ehlo, "a.example".into())),
            ("helo [192.0.2.1]", Command::Hello(Hello::Helo, "[192.0.2.1]".into())),
            ("LHLO a", Command::Hello(Hello::Lhlo, "a".into())),
            ("rcpt to:<100@example.net>", Command::Recipient("100@example.net".into(), None)),
            ("RCPT TO:<Postmaster>", Command::Recipient("postmaster".into(), None)),
            ("rcpt to:<POSTMASTER@a.example>", Command::Recipient("POSTMASTER@a.example".into(), None)),
            ("DATA", Command::Data),
            ("rset", Command::Reset),
            ("NOOP x", Command::Noop),
            ("QUIT", Command::Quit),
            ("HELP", Command::Help),
            ("VRFY 100", Command::Verify),
            ("EXPN all", Command::Unsupported),
            ("STARTTLS", Command::StartTls),
            ("BDAT 100 LAST", Command::Chunk),
            ("AUTH PLAIN =", Command::SignIn(Some(Mechanism::Plain), Some("=".into()))),
            ("auth login", Command::SignIn(Some(Mechanism::Login), None)),
            ("AUTH CRAM-MD5", Command::SignIn(None, None)),
        ];
        for (line, command) in table {
            assert_eq!(parse(line.as_bytes()), Ok(command), "{line}");
        }
    }

    #[test]
    fn parameters_of_mail_are_those_that_are_offered() {
        assert_eq!(parse(b"MAIL FROM:<>"), mail(None, 0, false));
        assert_eq!(parse(b"MAIL FROM:<a@b> SIZE=77 BODY=8BITMIME AUTH=<>"), mail(Some("a@b"), 77, false));
        assert_eq!(parse("MAIL FROM:<ä@b> SMTPUTF8".as_bytes()), mail(Some("ä@b"), 0, true));
        assert_eq!(code("MAIL FROM:<ä@b>"), 553);
        for parameter in ["BODY=BINARYMIME", "NOTIFY=NEVER", "HOLDFOR=7", "REQUIRETLS", "X=y", "BY=1;R"] {
            assert_eq!(code(&format!("MAIL FROM:<a@b> {parameter}")), 555, "{parameter}");
        }
        for parameter in ["RET=FULL", "ENVID=x", "RRVS=2014-99999999-03T23:01:00Z", "X=y"] {
            assert_eq!(code(&format!("RCPT TO:<a@b> {parameter}")), 555, "{parameter}");
        }
    }

    #[test]
    fn malformed_commands_are_refused_with_a_fitting_code() {
        let table = [
            ("", 500),
            ("HTTP/1.1", 500),
            ("EHLO", 501),
            ("EHLO a\u{7}b", 500),
            ("MAIL", 501),
            ("MAIL FROM:a@b", 501),
            ("MAIL FROM:<a@b", 501),
            ("MAIL FROM:<a>", 553),
            ("RCPT TO:<>", 553),
            ("RCPT TO:<a@b@c>", 553),
            ("RCPT TO:<\"a@b\"@c>", 553),
            ("RCPT TO:<\"a b\"@c>", 553),
            ("RCPT TO:<\"a>\"@c>", 553),
            ("RCPT TO:<a@b;c>", 553),
            ("MAIL FROM:<a@b> SIZE=x", 501),
        ];
        for (line, expected) in table {
            assert_eq!(code(line), expected, "{line}");
        }
        assert_eq!(parse(b"EHLO \xff").expect_err("not UTF-8").code(), 500);
    }
}
