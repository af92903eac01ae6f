//! Delivery reports that a client requests (RFC 3461): parameters of `MAIL` and `RCPT`, taken off their lines.
//!
//! `RET` is checked and has no effect: it is about reports of failure, and a failure is reported by the reply to the command
//! or to the mail. A report of success returns the header alone (section 4.3).

use std::mem;

use crate::reply::Reply;

/// Greatest length of an envelope's identification (section 4.4), in bytes.
const MAX_ENVELOPE_ID: usize = 100;
/// Greatest length of an original recipient (section 4.2), in bytes.
const MAX_ORIGINAL: usize = 500;

/// Request of a `MAIL` command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MailRequest {
    /// Identification of the envelope, decoded.
    pub envelope_id: Option<String>,
}

/// Request of a `RCPT` command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecipientRequest {
    /// A report of success is wanted.
    pub success: bool,
    /// Type and address of the original recipient, separated by a semicolon, decoded.
    pub original: Option<String>,
}

/// Parameters of one line.
#[derive(Debug, Default)]
pub(crate) struct Parameters {
    returns: bool,
    envelope_id: Option<String>,
    /// Whether `NOTIFY` has the word `SUCCESS`.
    success: Option<bool>,
    original: Option<String>,
}

/// Takes the parameters off a command line; returns the rest of the line.
pub(crate) fn take(line: &str) -> Result<(String, Parameters), Reply> {
    let mut taken = Parameters::default();
    let names: [&str; 2] = match line.get(..5).map(str::to_ascii_uppercase).as_deref() {
        Some("MAIL ") => ["RET", "ENVID"],
        Some("RCPT ") => ["NOTIFY", "ORCPT"],
        _ => return Ok((line.to_owned(), taken)),
    };
    let mut rest = Vec::new();
    for word in line.split(' ') {
        let parameter = word.split_once('=').and_then(|(name, value)| {
            let known = names.into_iter().find(|known| known.eq_ignore_ascii_case(name))?;
            Some((known, value))
        });
        match parameter {
            Some((name, value)) if !taken.add(name, value) => {
                return Err(Reply::new(501, "5.5.4", format!("value of {name} malformed, or given twice")));
            }
            Some(_) => {}
            None => rest.push(word),
        }
    }
    Ok((rest.join(" "), taken))
}

impl Parameters {
    /// False if the value is malformed or the parameter was given before.
    fn add(&mut self, name: &str, value: &str) -> bool {
        match name {
            "RET" => is_one_of(value, &["FULL", "HDRS"]) && !mem::replace(&mut self.returns, true),
            "ENVID" => {
                let id = xtext(value).filter(|id| (1..=MAX_ENVELOPE_ID).contains(&id.len()));
                id.is_some() && mem::replace(&mut self.envelope_id, id).is_none()
            }
            "NOTIFY" => {
                let success = notify(value);
                success.is_some() && mem::replace(&mut self.success, success).is_none()
            }
            _ => {
                let original = original(value);
                original.is_some() && mem::replace(&mut self.original, original).is_none()
            }
        }
    }

    /// The request of a `MAIL` command; `None` without one.
    pub(crate) fn of_mail(self) -> Option<MailRequest> {
        let Self { returns, envelope_id, .. } = self;
        (returns || envelope_id.is_some()).then_some(MailRequest { envelope_id })
    }

    /// The request of a `RCPT` command; `None` without one.
    pub(crate) fn of_recipient(self) -> Option<RecipientRequest> {
        let Self { success, original, .. } = self;
        let given = success.is_some() || original.is_some();
        given.then(|| RecipientRequest { success: success.unwrap_or_default(), original })
    }
}

fn is_one_of(value: &str, words: &[&str]) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(value))
}

/// Whether a list of `NOTIFY` has `SUCCESS`; `None` for no list. `NEVER` stands alone.
fn notify(value: &str) -> Option<bool> {
    if is_one_of(value, &["NEVER"]) {
        return Some(false);
    }
    let known = value.split(',').all(|word| is_one_of(word, &["SUCCESS", "FAILURE", "DELAY"]));
    known.then(|| value.split(',').any(|word| is_one_of(word, &["SUCCESS"])))
}

/// An address with its type, decoded. Those of the type `utf-8` (RFC 6533) have an encoding of their own, which reports
/// repeat.
fn original(value: &str) -> Option<String> {
    let (kind, address) = value.split_once(';').filter(|_| value.len() <= MAX_ORIGINAL)?;
    let is_atom = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let address = match kind.eq_ignore_ascii_case("utf-8") {
        true => Some(address.to_owned()).filter(|address| !address.contains(['+', '='])),
        false => xtext(address),
    };
    let address = address.filter(|address| is_atom && !address.is_empty())?;
    Some(format!("{kind};{address}"))
}

/// Text of the form `xtext` (section 4), decoded to printable ASCII.
fn xtext(text: &str) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'+' => (hex(rest.next()?)? << 4) | hex(rest.next()?)?,
            b'=' => return None,
            other => other,
        };
        (b' '..=b'~').contains(&byte).then(|| decoded.push(char::from(byte)))?;
    }
    Some(decoded)
}

/// A digit of `xtext`; small letters are none.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_mail(line: &str) -> (String, Option<Option<String>>) {
        let (rest, taken) = take(line).unwrap_or_else(|reply| panic!("{line}: {reply:?}"));
        (rest, taken.of_mail().map(|request| request.envelope_id))
    }

    fn of_recipient(line: &str) -> Option<RecipientRequest> {
        let (rest, taken) = take(line).unwrap_or_else(|reply| panic!("{line}: {reply:?}"));
        assert_eq!(rest, "RCPT TO:<a@b>");
        taken.of_recipient()
    }

    #[test]
    fn parameters_are_taken_off_the_line_and_decoded() {
        assert_eq!(of_mail("MAIL FROM:<a@b> SIZE=7"), ("MAIL FROM:<a@b> SIZE=7".into(), None));
        assert_eq!(of_mail("mail FROM:<a@b> ret=Full SIZE=7"), ("mail FROM:<a@b> SIZE=7".into(), Some(None)));
        let (rest, id) = of_mail("MAIL FROM:<a@b> ENVID=hi+20there+2B1 RET=HDRS");
        assert_eq!((rest.as_str(), id), ("MAIL FROM:<a@b>", Some(Some("hi there+1".into()))));
        assert_eq!(of_mail("NOOP ENVID=x"), ("NOOP ENVID=x".into(), None));

        assert_eq!(of_recipient("RCPT TO:<a@b>"), None);
        for (parameters, success, original) in [
            ("NOTIFY=NEVER", false, None),
            ("NOTIFY=delay,failure", false, None),
            ("NOTIFY=FAILURE,Success", true, None),
            ("ORCPT=rfc822;Bob+2B1@Example.COM", false, Some("rfc822;Bob+1@Example.COM")),
            ("ORCPT=utf-8;j\u{f6}rg@b NOTIFY=SUCCESS", true, Some("utf-8;j\u{f6}rg@b")),
        ] {
            let expected = RecipientRequest { success, original: original.map(str::to_owned) };
            assert_eq!(of_recipient(&format!("RCPT TO:<a@b> {parameters}")), Some(expected), "{parameters}");
        }
    }

    #[test]
    fn malformed_and_repeated_parameters_are_refused() {
        let long = format!("ENVID={}", "x".repeat(101));
        for parameters in [
            "RET=",
            "RET=ALL",
            "ENVID=",
            "ENVID=a+2",
            "ENVID=a+2g",
            "ENVID=a=b",
            "ENVID=+0D+0A",
            "RET=FULL RET=FULL",
            long.as_str(),
        ] {
            let reply = take(&format!("MAIL FROM:<a@b> {parameters}")).expect_err(parameters);
            assert_eq!(reply.code(), 501, "{parameters}");
        }
        for parameters in [
            "NOTIFY=",
            "NOTIFY=NEVER,SUCCESS",
            "NOTIFY=SUCCESS,",
            "NOTIFY=X",
            "NOTIFY=NEVER NOTIFY=DELAY",
            "ORCPT=a@b",
            "ORCPT=;a@b",
            "ORCPT=rfc822;",
            "ORCPT=rfc822;\u{f6}@b",
            "ORCPT=rfc822;+0Ax",
        ] {
            let reply = take(&format!("RCPT TO:<a@b> {parameters}")).expect_err(parameters);
            assert_eq!(reply.code(), 501, "{parameters}");
        }
    }
}
