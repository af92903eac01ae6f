//! Shape of whole LDAP messages (RFC 4511 section 4). The parser behind the relay panics at any other.

use crate::ber::{BOOLEAN, ENUMERATED, INTEGER, Malformed, OCTETS, Reader, SEQUENCE, number, text};

pub(crate) const BIND_REQUEST: u8 = 0x60;
pub(crate) const BIND_RESPONSE: u8 = 0x61;
pub(crate) const SEARCH_REQUEST: u8 = 0x63;
pub(crate) const SEARCH_ENTRY: u8 = 0x64;
pub(crate) const SEARCH_DONE: u8 = 0x65;
pub(crate) const SEARCH_REFERENCE: u8 = 0x73;
pub(crate) const EXTENDED_REQUEST: u8 = 0x77;
pub(crate) const EXTENDED_RESPONSE: u8 = 0x78;
pub(crate) const INTERMEDIATE: u8 = 0x79;

/// Longest text of a server that errors repeat, in characters.
const LONGEST_TEXT: usize = 300;

/// A message of a server whose shape is checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope<'a> {
    /// Id of the request that it answers; 0 for a notification.
    pub id: i32,
    /// Tag of the operation.
    pub operation: u8,
    /// Content of the operation.
    pub content: &'a [u8],
}

/// Code and text of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OperationResult {
    pub code: u32,
    pub text: String,
}

/// Checks a message of a server.
pub(crate) fn envelope(message: &[u8]) -> Result<Envelope<'_>, Malformed> {
    let mut outer = Reader::new(message);
    let mut parts = Reader::new(outer.expect(SEQUENCE, "a message")?);
    outer.end("a message")?;
    let id = number(parts.expect(INTEGER, "a message id")?, "a message id")?;
    let (operation, content) = parts.element("an operation")?;
    match operation {
        BIND_RESPONSE | SEARCH_DONE | EXTENDED_RESPONSE => {
            outcome(content)?;
        }
        SEARCH_ENTRY | SEARCH_REFERENCE | INTERMEDIATE => {}
        _ => return Err(Malformed("an operation")),
    }
    // Active Directory puts the name of a notification there.
    if id == 0 {
        parts.optional(0x8a, "a notification")?;
    }
    if let Some(controls) = parts.optional(0xa0, "the controls")? {
        check_controls(controls)?;
    }
    parts.end("a message")?;
    Ok(Envelope { id, operation, content })
}

/// Id and operation of a request of our own.
pub(crate) fn request(message: &[u8]) -> Result<(i32, u8), Malformed> {
    let mut parts = Reader::new(Reader::new(message).expect(SEQUENCE, "a request")?);
    let id = number(parts.expect(INTEGER, "a request's id")?, "a request's id")?;
    Ok((id, parts.element("a request")?.0))
}

/// Checks the components of an LDAPResult.
pub(crate) fn outcome(content: &[u8]) -> Result<OperationResult, Malformed> {
    let mut parts = Reader::new(content);
    let code = number(parts.expect(ENUMERATED, "a result code")?, "a result code")?;
    text(parts.expect(OCTETS, "a matched name")?, "a matched name")?;
    let diagnostic = text(parts.expect(OCTETS, "a diagnostic text")?, "a diagnostic text")?;
    while !parts.is_empty() {
        let (tag, content) = parts.element("a result")?;
        match (tag, tag & 0x1f) {
            (0xa3, _) => {
                let mut addresses = Reader::new(content);
                while !addresses.is_empty() {
                    text(addresses.expect(OCTETS, "a referral")?, "a referral")?;
                }
            }
            (0x87 | 0x8b, _) => {}
            (0x8a, _) => {
                text(content, "the name of a response")?;
            }
            // The parser recognizes these by number alone.
            (_, 3 | 7 | 10 | 11) => return Err(Malformed("a result")),
            _ => {}
        }
    }
    Ok(OperationResult { code: code.unsigned_abs(), text: shown(diagnostic) })
}

fn check_controls(content: &[u8]) -> Result<(), Malformed> {
    const PART: &str = "a control";
    let mut controls = Reader::new(content);
    while !controls.is_empty() {
        let mut parts = Reader::new(controls.expect(SEQUENCE, PART)?);
        text(parts.expect(OCTETS, PART)?, PART)?;
        if parts.optional(BOOLEAN, PART)?.is_some_and(|truth| truth.len() != 1) {
            return Err(Malformed(PART));
        }
        parts.optional(OCTETS, PART)?;
        parts.end(PART)?;
    }
    Ok(())
}

/// Text of a server without control characters, cut to a length for error messages.
pub(crate) fn shown(text: &str) -> String {
    text.trim_end_matches('\0').chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ber::write;

    fn message(id: u8, operation: u8, content: &[u8], controls: Option<&[u8]>) -> Vec<u8> {
        let mut parts = vec![INTEGER, 1, id];
        write(&mut parts, operation, content);
        if let Some(controls) = controls {
            write(&mut parts, 0xa0, controls);
        }
        let mut out = Vec::new();
        write(&mut out, SEQUENCE, &parts);
        out
    }

    #[test]
    fn results_of_the_defined_shape_pass() {
        let content = [0x0a, 1, 49, 4, 0, 4, 4, b'b', b'a', b'd', 0];
        let bytes = message(2, BIND_RESPONSE, &content, None);
        let envelope = envelope(&bytes).expect("a result");
        assert_eq!((envelope.id, envelope.operation), (2, BIND_RESPONSE));
        assert_eq!(outcome(envelope.content), Ok(OperationResult { code: 49, text: "bad".to_owned() }));
    }

    #[test]
    fn shapes_at_which_the_parser_would_panic_are_refused() {
        let good = [0x0a, 1, 0, 4, 0, 4, 0];
        for (operation, content, controls) in [
            (BIND_RESPONSE, &[][..], None),
            (BIND_RESPONSE, &[0x02, 1, 0, 4, 0, 4, 0][..], None),
            (SEARCH_DONE, &[0x0a, 1, 0, 4, 1, 0xff, 4, 0][..], None),
            (SEARCH_DONE, &[0x0a, 1, 0, 4, 0, 4, 0, 0x83, 0][..], None),
            (SEARCH_DONE, &[0x0a, 1, 0, 4, 0, 4, 0, 0x0a, 1, 0xff][..], None),
            (SEARCH_DONE, &[0x0a, 1, 0, 4, 0, 4, 0, 0xa7, 0][..], None),
            (0x6b, &good[..], None),
            (SEARCH_DONE, &good[..], Some(&[0x30, 0][..])),
            (SEARCH_DONE, &good[..], Some(&[0x30, 4, 4, 0, 1, 0][..])),
            (SEARCH_DONE, &good[..], Some(&[0x30, 4, 4, 0, 2, 0][..])),
            (SEARCH_DONE, &good[..], Some(&[0x04, 0][..])),
        ] {
            let bytes = message(1, operation, content, controls);
            assert!(envelope(&bytes).is_err(), "{bytes:02x?}");
        }
        assert!(envelope(&message(1, SEARCH_DONE, &good, Some(&[0x30, 2, 4, 0]))).is_ok());
        assert!(envelope(&[0x30, 0]).is_err());
    }
}
