//! Folder names and strings in commands.

use base64::{
    Engine,
    alphabet::IMAP_MUTF7,
    engine::{GeneralPurpose, general_purpose::NO_PAD},
};

/// Base64 of folder names: `,` in place of `/`, without padding.
const ENGINE: GeneralPurpose = GeneralPurpose::new(&IMAP_MUTF7, NO_PAD);

/// Folder name as a quoted string in modified UTF-7 (RFC 3501 §5.1.3).
pub(crate) fn folder(name: &str) -> String {
    let mut encoded = String::from("\"");
    let mut other: Vec<u8> = Vec::new();
    for c in name.chars() {
        if !matches!(c, ' '..='~') {
            let mut units = [0; 2];
            other.extend(c.encode_utf16(&mut units).iter().flat_map(|unit| unit.to_be_bytes()));
            continue;
        }
        flush(&mut encoded, &mut other);
        match c {
            '&' => encoded.push_str("&-"),
            '"' | '\\' => encoded.extend(['\\', c]),
            c => encoded.push(c),
        }
    }
    flush(&mut encoded, &mut other);
    encoded.push('"');
    encoded
}

fn flush(encoded: &mut String, other: &mut Vec<u8>) {
    if !other.is_empty() {
        encoded.push('&');
        encoded.push_str(&ENGINE.encode(&*other));
        encoded.push('-');
        other.clear();
    }
}

/// Quoted string (RFC 3501 §4.3); `None`: the text needs a literal.
pub(crate) fn quoted(text: &str) -> Option<String> {
    if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return None;
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    Some(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_are_encoded_as_the_rfc_shows() {
        for (name, encoded) in [
            ("INBOX", "\"INBOX\""),
            ("Voice mail", "\"Voice mail\""),
            ("a&b", "\"a&-b\""),
            ("Entwürfe", "\"Entw&APw-rfe\""),
            ("~peter/mail/台北/日本語", "\"~peter/mail/&U,BTFw-/&ZeVnLIqe-\""),
            ("🦀", "\"&2D7dgA-\""),
            ("say \"\\\"", "\"say \\\"\\\\\\\"\""),
            ("a\r\nb", "\"a&AA0ACg-b\""),
        ] {
            assert_eq!(folder(name), encoded);
        }
    }

    #[test]
    fn text_beyond_printable_ascii_cannot_be_quoted() {
        assert_eq!(quoted("a\"b\\").as_deref(), Some("\"a\\\"b\\\\\""));
        assert_eq!(quoted("a\r\nb"), None);
        assert_eq!(quoted("ü"), None);
    }
}
