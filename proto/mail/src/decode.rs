//! Decodings of what is received. All are lenient: damage results in fewer bytes, never in an error.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use mail_parser::decoders::{charsets::map::charset_decoder, html::html_to_text};

use crate::text;

/// Base64 without padding, and with any bits in its last character.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A body without its transfer encoding (lower case); an unknown encoding leaves it unchanged.
pub(crate) fn transfer(body: &[u8], encoding: &str) -> Vec<u8> {
    match encoding {
        "base64" => base64(body),
        "quoted-printable" => quoted_printable(body),
        _ => body.to_vec(),
    }
}

/// Some mailers join several base64 texts, each with its own padding.
fn base64(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() / 4 * 3);
    for run in body.split(|&b| b == b'=') {
        let mut run: Vec<u8> =
            run.iter().copied().filter(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/')).collect();
        if run.len() % 4 == 1 {
            run.pop();
        }
        bytes.extend(LENIENT.decode(run).unwrap_or_default());
    }
    bytes
}

fn quoted_printable(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len());
    for whole in body.split_inclusive(|&b| b == b'\n') {
        let line = whole.strip_suffix(b"\n").unwrap_or(whole);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line_end = whole.get(line.len()..).unwrap_or_default();
        // White space before a line's end was added on the way.
        let spaces = line.iter().rev().take_while(|b| matches!(b, b' ' | b'\t')).count();
        let line = line.get(..line.len() - spaces).unwrap_or_default();
        match line.strip_suffix(b"=") {
            Some(line) => unescape(line, &mut bytes),
            None => {
                unescape(line, &mut bytes);
                bytes.extend_from_slice(line_end);
            }
        }
    }
    bytes
}

fn unescape(mut line: &[u8], bytes: &mut Vec<u8>) {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some((&first, rest)) = line.split_first() {
        line = rest;
        if let (b'=', [high, low, after @ ..]) = (first, rest)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            bytes.push(high << 4 | low);
            line = after;
        } else {
            bytes.push(first);
        }
    }
}

/// The text of bytes in a character set; an unknown one counts as UTF-8.
pub(crate) fn charset(bytes: &[u8], name: Option<&str>) -> String {
    match name.and_then(|name| charset_decoder(name.as_bytes())) {
        Some(decoder) => decoder(bytes),
        None => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// The text of an HTML page of at most 1 MiB; the rest is ignored.
pub(crate) fn html(page: &str) -> String {
    html_to_text(text::cut(page, 1 << 20))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn damaged_encodings_decode_to_what_is_left() {
        for (encoding, body, expected) in [
            ("base64", "aGVsbG8=", "hello"),
            ("base64", "aGVs\r\nbG8", "hello"),
            ("base64", "aGVsbG8=aGVsbG8=", "hellohello"),
            ("base64", "aGVs*bG8=!", "hello"),
            ("base64", "a", ""),
            ("quoted-printable", "a=3Db=\r\nc  \r\nd", "a=bc\r\nd"),
            ("quoted-printable", "100=% =4", "100=% =4"),
            ("quoted-printable", "a=c3=A9 = \nb", "aé b"),
            ("8bit", "a=3D", "a=3D"),
        ] {
            assert_eq!(transfer(body.as_bytes(), encoding), expected.as_bytes(), "{encoding} {body:?}");
        }
    }

    #[test]
    fn latin1_is_decoded_and_unknown_sets_count_as_utf8() {
        assert_eq!(charset(b"J\xf6rg", Some("ISO-8859-1")), "Jörg");
        assert_eq!(charset("Jörg".as_bytes(), Some("x-none")), "Jörg");
        assert_eq!(charset("Jörg".as_bytes(), None), "Jörg");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), html_text in "(<[a-z/!-]{0,5}>?|&#?x?[0-9a-f]{0,9};?|\\PC){0,60}") {
            transfer(&bytes, "base64");
            transfer(&bytes, "quoted-printable");
            for name in ["utf-7", "utf-16", "utf-16le", "iso-8859-5", "iso-2022-jp", "gbk", "us-ascii"] {
                charset(&bytes, Some(name));
            }
            html(&html_text);
            html(&String::from_utf8_lossy(&bytes));
        }
    }
}
