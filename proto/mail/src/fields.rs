//! Header fields of received mails. mail-parser reads one field at a time, and none of more than 32 kB: some of its
//! loops take the square of a field's length.

use std::borrow::Cow;

use mail_parser::{HeaderValue, MessageParser};

use crate::{address::Address, structure::ReadError, text, writer};

/// Greatest size of the header of one part, in bytes.
pub(crate) const HEADER_BYTES: usize = 512 * 1024;
/// Fields of a header that are kept; the rest is ignored.
const FIELDS: usize = 1_000;
/// Greatest size of a field that is kept, in bytes.
const FIELD_BYTES: usize = 32 * 1024;
/// Bytes of a Content-Type or Content-Disposition that are read: each part of a mail has both, and mail-parser looks for
/// an encoded word up to the end of the field wherever one may begin.
const KIND_BYTES: usize = 4 * 1024;
/// Greatest length of a name, in bytes; a longer one is no field.
const NAME_BYTES: usize = 80;
/// Greatest length of a subject or a display name, in characters.
const TEXT_CHARS: usize = 1_000;
/// Addresses of one field that are read.
const ADDRESSES: usize = 500;

/// The fields of a header, in order.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<Field>);

#[derive(Debug)]
struct Field {
    /// In lower case.
    name: String,
    /// Unfolded: without line breaks, otherwise as received.
    value: Vec<u8>,
}

/// A Content-Type or Content-Disposition: `type/subtype` in lower case, and parameters.
#[derive(Debug)]
pub(crate) struct Kind {
    /// `text/plain`, or `attachment` for a disposition.
    pub(crate) name: String,
    parameters: Vec<(String, String)>,
}

impl Kind {
    /// A type without parameters.
    pub(crate) fn plain(name: &str) -> Self {
        Self { name: name.to_owned(), parameters: Vec::new() }
    }

    /// The value of a parameter, by its name in lower case.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter has this value in any case.
    pub(crate) fn is(&self, name: &str, value: &str) -> bool {
        self.parameter(name).is_some_and(|v| v.trim().eq_ignore_ascii_case(value))
    }
}

impl Fields {
    /// The header at the beginning of `bytes`, and the body after its empty line.
    pub(crate) fn split(bytes: &[u8]) -> Result<(Self, &[u8]), ReadError> {
        let mut fields: Vec<Field> = Vec::new();
        let mut used = 0;
        // Lines that continue a field that is not kept are not kept either.
        let mut kept = false;
        for whole in bytes.split_inclusive(|&b| b == b'\n') {
            used += whole.len();
            let line = whole.trim_ascii_end();
            if line.is_empty() && !matches!(whole.first(), Some(b' ' | b'\t')) {
                break;
            }
            if used > HEADER_BYTES {
                return Err(ReadError::HeaderTooLarge { limit: HEADER_BYTES });
            }
            if matches!(whole.first(), Some(b' ' | b'\t')) {
                if let Some(field) = fields.last_mut().filter(|_| kept) {
                    field.value.extend_from_slice(line);
                }
                continue;
            }
            let name = line.iter().position(|&b| b == b':').and_then(|colon| line.split_at_checked(colon));
            kept = false;
            if let Some((name, value)) = name {
                let name = name.trim_ascii();
                let is_name = (1..=NAME_BYTES).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic);
                if is_name && fields.len() < FIELDS {
                    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                    let value = value.strip_prefix(b":").unwrap_or(value).to_vec();
                    fields.push(Field { name, value });
                    kept = true;
                }
            }
        }
        fields.retain(|field| field.value.len() <= FIELD_BYTES);
        Ok((Self(fields), bytes.get(used..).unwrap_or_default()))
    }

    /// Number of fields.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn raw(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|field| field.name == name).map(|field| field.value.as_slice())
    }

    /// The first field of this name (lower case) as one line.
    pub(crate) fn line(&self, name: &str) -> Option<String> {
        self.raw(name).map(|raw| text::one_line(&String::from_utf8_lossy(raw), FIELD_BYTES))
    }

    /// The first field of this name as a word in lower case, without parameters and comments.
    pub(crate) fn word(&self, name: &str) -> Option<String> {
        let line = self.line(name)?;
        let word = line.split([';', '(']).next().unwrap_or_default();
        Some(word.trim().to_ascii_lowercase())
    }

    /// The first field of this name, read as mail-parser reads the field `like`.
    fn parsed(&self, name: &str, like: &str) -> Option<HeaderValue<'static>> {
        parsed(self.raw(name)?, like)
    }

    /// The subject as one line with its encoded words decoded; empty without one.
    pub(crate) fn subject(&self) -> String {
        let subject = self.parsed("subject", "subject");
        text::one_line(subject.as_ref().and_then(HeaderValue::as_text).unwrap_or_default(), TEXT_CHARS)
    }

    /// Display names and addresses of a field; what is no address is left out.
    pub(crate) fn addresses(&self, name: &str) -> Vec<(String, Address)> {
        let Some(HeaderValue::Address(addresses)) = self.parsed(name, "to") else { return Vec::new() };
        let mailbox = |addr: &mail_parser::Addr<'_>| {
            let address = Address::parse(addr.address.as_deref()?.trim()).ok()?;
            Some((text::one_line(addr.name.as_deref().unwrap_or_default(), TEXT_CHARS), address))
        };
        addresses.iter().take(ADDRESSES).filter_map(mailbox).collect()
    }

    /// The date in seconds since 1970, if it is a valid one.
    pub(crate) fn date(&self) -> Option<i64> {
        let value = self.parsed("date", "date")?;
        value.as_datetime().filter(|date| date.is_valid()).map(|date| date.to_timestamp())
    }

    /// The message id without angle brackets.
    pub(crate) fn message_id(&self) -> Option<String> {
        let value = self.parsed("message-id", "message-id")?;
        Some(writer::message_id(value.as_text()?)).filter(|id| !id.is_empty())
    }

    /// The Content-Type or Content-Disposition in the field of this name. Of a long one, the end is ignored.
    pub(crate) fn kind(&self, name: &str) -> Option<Kind> {
        let raw = self.raw(name)?;
        let raw = raw.get(..KIND_BYTES).unwrap_or(raw);
        let Some(HeaderValue::ContentType(value)) = parsed(raw, "content-type") else { return None };
        let mut kind = Kind::plain(value.c_type.trim());
        if let Some(sub) = &value.c_subtype {
            kind.name = format!("{}/{}", kind.name, sub.trim());
        }
        kind.name = text::one_line(&kind.name, 100).to_lowercase();
        let parameters = value.attributes.unwrap_or_default();
        kind.parameters =
            parameters.into_iter().map(|p| (p.name.to_lowercase(), p.value.into_owned())).take(50).collect();
        Some(kind)
    }
}

/// The value of a field as mail-parser reads that of the field `like`.
fn parsed(raw: &[u8], like: &str) -> Option<HeaderValue<'static>> {
    // Only the parser would take a lone CR inside for a line end.
    let raw: Cow<'_, [u8]> = match raw.contains(&b'\r') {
        true => raw.iter().copied().filter(|&b| b != b'\r').collect::<Vec<_>>().into(),
        false => raw.into(),
    };
    let field = [like.as_bytes(), b": ", &raw, b"\r\n\r\n"].concat();
    let message = MessageParser::default().parse_headers(&field)?;
    let header = message.parts.into_iter().next()?.headers.into_iter().next()?;
    Some(header.value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_damaged_and_large_fields_are_bounded() {
        let long = "x".repeat(FIELD_BYTES);
        let mail = format!(
            "From me\nSubject: a\r\n\tb\r\nX-Long: {long}\r\nnonsense\r\n more\r\nTO : c@d.example\r\n\r\nbody"
        );
        let (fields, body) = Fields::split(mail.as_bytes()).unwrap();
        assert_eq!(body, b"body");
        assert_eq!(fields.len(), 2);
        assert_eq!(fields.subject(), "a b");
        assert_eq!(fields.addresses("to"), [(String::new(), Address::parse("c@d.example").unwrap())]);
    }

    #[test]
    fn header_without_end_is_refused_above_its_limit() {
        let mail = "a: b\r\n".repeat(HEADER_BYTES / 6 + 1);
        assert!(matches!(Fields::split(mail.as_bytes()), Err(ReadError::HeaderTooLarge { .. })));
    }

    #[test]
    fn values_are_read_by_their_kind() {
        let mail = b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\nMessage-ID: <a@b>\r\nSensitivity: Private (x)\r\n\
            Content-Type: Multipart/Mixed; Boundary=\"x y\"\r\nContent-Disposition: inline; voice=Voice-Message\r\n\r\n";
        let (fields, _) = Fields::split(mail).unwrap();
        assert_eq!(fields.date(), Some(1_057_982_437));
        assert_eq!(fields.message_id().as_deref(), Some("a@b"));
        assert_eq!(fields.word("sensitivity").as_deref(), Some("private"));
        let kind = fields.kind("content-type").unwrap();
        assert_eq!((kind.name.as_str(), kind.parameter("boundary")), ("multipart/mixed", Some("x y")));
        assert!(fields.kind("content-disposition").unwrap().is("voice", "voice-message"));
    }
}
