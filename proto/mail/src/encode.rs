//! Encodings of what is sent: base64 and quoted-printable bodies, encoded words, parameters.
//!
//! Every result is ASCII without bare CR or LF, so nothing in a text can begin a header or a boundary.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::text;

/// Bytes of a base64 line: 76 characters.
const BASE64_LINE: usize = 57;
/// Bytes in one encoded word: 60 characters of base64, 72 with its frame (RFC 2047 allows 75).
const WORD_BYTES: usize = 45;
/// Characters of a quoted-printable line before its soft line break (RFC 2045 allows 76 with it).
const QUOTED_LINE: usize = 75;

/// Base64 in lines of 76 characters with CRLF ends.
pub(crate) fn base64_lines(bytes: &[u8]) -> String {
    let mut lines = String::with_capacity(bytes.len() / BASE64_LINE * 78 + 80);
    for chunk in bytes.chunks(BASE64_LINE) {
        STANDARD.encode_string(chunk, &mut lines);
        lines.push_str("\r\n");
    }
    lines
}

/// A text body and its transfer encoding: base64 if most of it is beyond ASCII, else quoted-printable.
pub(crate) fn text_body(text: &str) -> (&'static str, String) {
    let mut lines = text::lines(text);
    if !lines.ends_with('\n') {
        lines.push('\n');
    }
    let beyond_ascii = lines.bytes().filter(|b| !b.is_ascii()).count();
    if beyond_ascii * 3 > lines.len() {
        return ("base64", base64_lines(lines.replace('\n', "\r\n").as_bytes()));
    }
    let mut body = String::with_capacity(lines.len() + beyond_ascii * 2);
    for line in lines.lines() {
        quoted_line(line.as_bytes(), &mut body);
        body.push_str("\r\n");
    }
    ("quoted-printable", body)
}

fn quoted_line(line: &[u8], body: &mut String) {
    let mut column = 0;
    for (at, &byte) in line.iter().enumerate() {
        let last = at + 1 == line.len();
        let plain = matches!(byte, b'!'..=b'<' | b'>'..=b'~') || matches!(byte, b' ' | b'\t') && !last;
        let width = if plain { 1 } else { 3 };
        if column + width > QUOTED_LINE {
            body.push_str("=\r\n");
            column = 0;
        }
        match plain {
            true => body.push(char::from(byte)),
            false => body.push_str(&format!("={byte:02X}")),
        }
        column += width;
    }
}

/// Whether a header may carry this line as it is, folded at its single spaces.
pub(crate) fn is_plain(line: &str) -> bool {
    let word = |word: &str| (1..=60).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_graphic());
    !line.contains("=?") && line.split(' ').all(word)
}

/// The line as encoded words (RFC 2047), each at most 75 characters.
pub(crate) fn encoded_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let word = text::cut(rest, WORD_BYTES);
        words.push(format!("=?utf-8?B?{}?=", STANDARD.encode(word)));
        rest = rest.get(word.len()..).unwrap_or_default();
    }
    words
}

/// A parameter of Content-Type or Content-Disposition: quoted, or percent-encoded (RFC 2231) beyond ASCII and where some
/// readers would decode an encoded word.
pub(crate) fn parameter(name: &str, value: &str) -> String {
    let value = text::one_line(value, 240);
    let value = text::cut(&value, 240);
    let mut parameter = String::from(name);
    if value.is_ascii() && !value.contains("=?") {
        parameter.push_str("=\"");
        for c in value.chars() {
            if matches!(c, '"' | '\\') {
                parameter.push('\\');
            }
            parameter.push(c);
        }
        parameter.push('"');
    } else {
        parameter.push_str("*=utf-8''");
        for byte in value.bytes() {
            match byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') {
                true => parameter.push(char::from(byte)),
                false => parameter.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    parameter
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode;

    proptest! {
        #[test]
        fn text_bodies_have_short_ascii_lines_and_decode_to_the_same_lines(text in "(\\PC|[=. \t\r\n]){0,300}") {
            let (encoding, body) = text_body(&text);
            prop_assert!(body.is_ascii() && body.ends_with("\r\n"));
            prop_assert!(body.split("\r\n").all(|line| line.len() <= 76 && !line.contains(['\r', '\n'])));
            let decoded = String::from_utf8(decode::transfer(body.as_bytes(), encoding)).unwrap();
            let mut expected = text::lines(&text);
            if !expected.ends_with('\n') {
                expected.push('\n');
            }
            prop_assert_eq!(decoded.replace("\r\n", "\n"), expected);
        }

        #[test]
        fn base64_lines_decode_to_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let lines = base64_lines(&bytes);
            prop_assert!(lines.split("\r\n").all(|line| line.len() <= 76));
            prop_assert_eq!(decode::transfer(lines.as_bytes(), "base64"), bytes);
        }

        #[test]
        fn encoded_words_are_short_and_printable(line in "\\PC{1,200}") {
            for word in encoded_words(&line) {
                prop_assert!(word.len() <= 75 && word.bytes().all(|b| b.is_ascii_graphic()), "{}", word);
            }
        }
    }

    #[test]
    fn parameters_are_quoted_or_percent_encoded() {
        assert_eq!(parameter("filename", "a\"b\\c.wav"), "filename=\"a\\\"b\\\\c.wav\"");
        assert_eq!(parameter("filename", "é\r\n.wav"), "filename*=utf-8''%C3%A9%20.wav");
        assert_eq!(parameter("filename", "=?x"), "filename*=utf-8''%3D%3Fx");
    }
}
