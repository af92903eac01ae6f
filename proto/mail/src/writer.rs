//! Mails that are sent: header fields, parts, and their assembly with CRLF line ends.

use mail_parser::DateTime;

use crate::{
    address::Address,
    encode,
    incoming::{Importance, Sensitivity},
    text,
};

/// Column after which a header field is folded.
const COLUMN: usize = 76;
/// Greatest length of a subject, a name or another text in a header, in characters.
const TEXT_CHARS: usize = 500;
/// The last second of the year 9999, in seconds since 1970.
const LAST_DATE: i64 = 253_402_300_799;

/// Header fields, each ended by CRLF. Values lose line breaks and control characters.
#[derive(Debug, Default)]
pub(crate) struct Headers(String);

impl Headers {
    /// A field of these tokens, which have no spaces outside quoted strings; it is folded between tokens.
    pub(crate) fn tokens<T: AsRef<str>>(&mut self, name: &str, tokens: &[T]) {
        self.0.push_str(name);
        self.0.push(':');
        let mut column = name.len() + 1;
        for (at, token) in tokens.iter().enumerate() {
            let token = token.as_ref();
            if at > 0 && column + 1 + token.len() > COLUMN {
                self.0.push_str("\r\n");
                column = 0;
            }
            self.0.push(' ');
            self.0.push_str(token);
            column += 1 + token.len();
        }
        self.0.push_str("\r\n");
    }

    /// A field of free text, such as a subject: as it is if it is plain ASCII, else as encoded words.
    pub(crate) fn text(&mut self, name: &str, value: &str) {
        let line = text::one_line(value, TEXT_CHARS);
        match encode::is_plain(&line) {
            true => self.tokens(name, &line.split(' ').collect::<Vec<_>>()),
            false => self.tokens(name, &encode::encoded_words(&line)),
        }
    }

    /// A field of addresses with display names, which may be empty.
    pub(crate) fn mailboxes(&mut self, name: &str, mailboxes: &[(&str, &Address)]) {
        let mut tokens = Vec::new();
        for (at, (display, address)) in mailboxes.iter().enumerate() {
            tokens.append(&mut phrase(display));
            let comma = if at + 1 < mailboxes.len() { "," } else { "" };
            tokens.push(format!("<{address}>{comma}"));
        }
        self.tokens(name, &tokens);
    }

    /// The field `Date`, in UTC; seconds since 1970, limited to the years 1970 to 9999.
    pub(crate) fn date(&mut self, unix: i64) {
        self.time("Date", unix);
    }

    /// A field with a time like that of [`Self::date`].
    pub(crate) fn time(&mut self, name: &str, unix: i64) {
        let date = DateTime::from_timestamp(unix.clamp(0, LAST_DATE)).to_rfc822();
        self.tokens(name, &[date]);
    }

    /// A field with one message id, without its angle brackets in `id`; no field if nothing printable is left of it.
    pub(crate) fn id(&mut self, name: &str, id: &str) {
        let id = message_id(id);
        if !id.is_empty() {
            self.tokens(name, &[format!("<{id}>")]);
        }
    }

    /// The field `Importance`; none for the normal one.
    pub(crate) fn importance(&mut self, importance: Importance) {
        match importance {
            Importance::High => self.tokens("Importance", &["High"]),
            Importance::Low => self.tokens("Importance", &["Low"]),
            Importance::Normal => {}
        }
    }

    /// The field `Sensitivity`; none without a restriction.
    pub(crate) fn sensitivity(&mut self, sensitivity: Sensitivity) {
        match sensitivity {
            Sensitivity::None => {}
            Sensitivity::Private => self.tokens("Sensitivity", &["Private"]),
            Sensitivity::Personal => self.tokens("Sensitivity", &["Personal"]),
            Sensitivity::CompanyConfidential => self.tokens("Sensitivity", &["Company-Confidential"]),
        }
    }

    /// The fields, each ended by CRLF.
    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

/// A display name as atoms, as a quoted string, or as encoded words.
fn phrase(display: &str) -> Vec<String> {
    let line = text::one_line(display, TEXT_CHARS);
    let atoms = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-' | '+' | '_' | '\'');
    if line.is_empty() {
        Vec::new()
    } else if encode::is_plain(&line) && line.chars().all(atoms) {
        line.split(' ').map(str::to_owned).collect()
    } else if encode::is_plain(&line) && line.len() <= 60 {
        vec![format!("\"{}\"", line.replace('\\', "\\\\").replace('"', "\\\""))]
    } else {
        encode::encoded_words(&line)
    }
}

/// Type and parameters as tokens, separated by semicolons.
fn with_semicolons(values: &[&str]) -> Vec<String> {
    let end = |at: usize| if at + 1 < values.len() { ";" } else { "" };
    values.iter().enumerate().map(|(at, value)| format!("{value}{}", end(at))).collect()
}

/// A message id without brackets, white space and characters beyond ASCII, at most 250 bytes.
pub(crate) fn message_id(id: &str) -> String {
    id.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '<' | '>')).take(250).collect()
}

/// A part of a mail, or a whole one: header fields and an encoded body.
#[derive(Debug)]
pub(crate) struct Part {
    headers: Headers,
    body: String,
}

impl Part {
    /// A part of text with further parameters of its type.
    pub(crate) fn text(content_type: &str, parameters: &[&str], text: &str) -> Self {
        let (encoding, body) = encode::text_body(text);
        let mut headers = Headers::default();
        headers
            .tokens("Content-Type", &with_semicolons(&[&[content_type, "charset=utf-8"][..], parameters].concat()));
        headers.tokens("Content-Transfer-Encoding", &[encoding]);
        Self { headers, body }
    }

    /// A part of bytes in base64.
    pub(crate) fn bytes(content_type: &str, bytes: &[u8]) -> Self {
        let mut headers = Headers::default();
        headers.tokens("Content-Type", &[content_type]);
        headers.tokens("Content-Transfer-Encoding", &["base64"]);
        Self { headers, body: encode::base64_lines(bytes) }
    }

    /// A part that is blocks of fields, such as the status of a delivery (RFC 3464).
    pub(crate) fn fields(content_type: &str, blocks: Vec<Headers>) -> Self {
        let mut headers = Headers::default();
        headers.tokens("Content-Type", &[content_type]);
        headers.tokens("Content-Transfer-Encoding", &["7bit"]);
        let blocks: Vec<String> = blocks.into_iter().map(Headers::into_string).collect();
        Self { headers, body: blocks.join("\r\n") }
    }

    /// A multipart of `parts`. No line of encoded parts begins like its boundary, which depends on
    /// `seed` alone.
    pub(crate) fn multipart(content_type: &str, parameters: &[&str], seed: &str, parts: Vec<Self>) -> Self {
        let hash = blake3::hash(seed.as_bytes()).to_hex();
        let boundary = format!("=_{}", text::cut(&hash, 32));
        let quoted = format!("boundary=\"{boundary}\"");
        let tokens = with_semicolons(&[&[content_type][..], parameters, &[&quoted]].concat());
        let encoding = if parts.iter().all(|part| part.body.is_ascii()) { "7bit" } else { "8bit" };
        let mut headers = Headers::default();
        headers.tokens("Content-Type", &tokens);
        headers.tokens("Content-Transfer-Encoding", &[encoding]);
        let mut body = String::with_capacity(parts.iter().map(|part| part.body.len() + 500).sum());
        for part in parts {
            body.push_str(&format!("--{boundary}\r\n{}\r\n", part.headers.into_string()));
            body.push_str(&part.body);
            body.push_str("\r\n");
        }
        body.push_str(&format!("--{boundary}--\r\n"));
        Self { headers, body }
    }

    /// The part with a Content-Disposition of these tokens.
    pub(crate) fn disposition<T: AsRef<str>>(mut self, tokens: &[T]) -> Self {
        self.headers.tokens("Content-Disposition", tokens);
        self
    }

    /// The part with a further field.
    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.headers.tokens(name, &[value]);
        self
    }

    /// The whole mail: `headers` before those of this part.
    pub(crate) fn into_mail(self, headers: Headers) -> Vec<u8> {
        let mut mail = headers.into_string();
        mail.push_str(&self.headers.into_string());
        mail.push_str("\r\n");
        mail.push_str(&self.body);
        mail.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fields::Fields;

    fn read_back(headers: Headers) -> Fields {
        let bytes = headers.into_string();
        assert!(bytes.ends_with("\r\n"));
        assert!(bytes.split("\r\n").all(|line| line.len() < 998 && !line.contains(['\r', '\n'])), "{bytes:?}");
        Fields::split(format!("{bytes}\r\n").as_bytes()).unwrap().0
    }

    proptest! {
        #[test]
        fn header_texts_are_read_back_as_one_line(subject in "(\\PC|[\r\n\0 =?\"\\\\]){0,120}", name in "(\\PC|[\r\n\0 <>@,]){0,60}") {
            let address = Address::parse("a@example.org").unwrap();
            let mut headers = Headers::default();
            headers.text("Subject", &subject);
            headers.mailboxes("From", &[(name.as_str(), &address)]);
            let fields = read_back(headers);
            prop_assert_eq!(fields.len(), 2);
            prop_assert_eq!(fields.subject(), text::one_line(&subject, TEXT_CHARS));
            prop_assert_eq!(fields.addresses("from"), vec![(text::one_line(&name, TEXT_CHARS), address)]);
        }
    }

    #[test]
    fn white_space_behind_a_leading_control_character_is_left_out() {
        let mut headers = Headers::default();
        headers.text("Subject", "\0\u{a0}\u{5d0}");
        assert_eq!(read_back(headers).subject(), "\u{5d0}");
    }

    #[test]
    fn long_plain_text_is_folded_at_spaces() {
        let mut headers = Headers::default();
        headers.text("Subject", &"word ".repeat(60));
        let bytes = headers.into_string();
        assert!(bytes.split("\r\n").count() > 3 && bytes.split("\r\n").all(|line| line.len() <= 76), "{bytes}");
    }

    #[test]
    fn dates_are_written_in_utc_within_four_digit_years() {
        for (unix, date) in [
            (0, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (1_057_982_437, "Sat, 12 Jul 2003 04:00:37 +0000"),
            (i64::MAX, "Fri, 31 Dec 9999 23:59:59 +0000"),
            (i64::MIN, "Thu, 1 Jan 1970 00:00:00 +0000"),
        ] {
            let mut headers = Headers::default();
            headers.date(unix);
            assert_eq!(headers.into_string(), format!("Date: {date}\r\n"));
        }
    }

    #[test]
    fn message_id_loses_brackets_and_line_breaks() {
        let mut headers = Headers::default();
        headers.id("Message-ID", "<a@b>\r\nBcc: c");
        headers.id("Message-ID", "\r\n");
        assert_eq!(headers.into_string(), "Message-ID: <a@bBcc:c>\r\n");
    }
}
