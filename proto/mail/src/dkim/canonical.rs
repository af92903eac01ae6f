//! Relaxed canonicalization (RFC 6376 section 3.4): relays may fold header fields and change white space without breaking
//! the signature.

/// The fields of a mail in order, each with its lines but without its last line end; and the body.
pub(super) fn split(mail: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut fields = Vec::new();
    let (mut begin, mut at) = (0, 0);
    for line in mail.split_inclusive(|&b| b == b'\n') {
        let continues = matches!(line.first(), Some(b' ' | b'\t'));
        if at > begin && !continues {
            fields.push(trim_end(mail.get(begin..at).unwrap_or_default()));
            begin = at;
        }
        at += line.len();
        if matches!(line, b"\r\n" | b"\n") {
            return (fields, mail.get(at..).unwrap_or_default());
        }
    }
    fields.push(trim_end(mail.get(begin..).unwrap_or_default()));
    (fields, &[])
}

fn trim_end(field: &[u8]) -> &[u8] {
    let field = field.strip_suffix(b"\n").unwrap_or(field);
    field.strip_suffix(b"\r").unwrap_or(field)
}

/// The name of a field in lower case.
pub(super) fn name(field: &[u8]) -> Vec<u8> {
    let name = field.split(|&b| b == b':').next().unwrap_or_default();
    name.trim_ascii().to_ascii_lowercase()
}

/// A field as it is signed, without a line end (RFC 6376 section 3.4.2).
pub(super) fn relaxed_field(field: &[u8]) -> Vec<u8> {
    let mut signed = name(field);
    signed.push(b':');
    let colon = field.iter().position(|&b| b == b':').unwrap_or(field.len());
    let value = field.get(colon + 1..).unwrap_or_default();
    let begin = signed.len();
    for word in value.split(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')).filter(|word| !word.is_empty()) {
        if signed.len() > begin {
            signed.push(b' ');
        }
        signed.extend_from_slice(word);
    }
    signed
}

/// A body as it is signed (RFC 6376 section 3.4.4).
pub(super) fn relaxed_body(body: &[u8]) -> Vec<u8> {
    let mut signed = Vec::with_capacity(body.len());
    // Length up to the last line that is not empty.
    let mut filled = 0;
    for line in body.split_inclusive(|&b| b == b'\n') {
        let mut space = false;
        let begin = signed.len();
        for &byte in trim_end(line) {
            if matches!(byte, b' ' | b'\t') {
                space = true;
                continue;
            }
            if space {
                signed.push(b' ');
                space = false;
            }
            signed.push(byte);
        }
        let is_filled = signed.len() > begin;
        signed.extend_from_slice(b"\r\n");
        if is_filled {
            filled = signed.len();
        }
    }
    signed.truncate(filled);
    signed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_rfc_6376_section_3_4_5_are_canonicalized() {
        let mail = b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n C \r\nD \t E\r\n\r\n\r\n";
        let (fields, body) = split(mail);
        let fields: Vec<_> = fields.into_iter().map(relaxed_field).collect();
        assert_eq!(fields, [b"a:X".to_vec(), b"b:Y Z".to_vec()]);
        assert_eq!(relaxed_body(body), b" C\r\nD E\r\n");
    }

    #[test]
    fn empty_body_stays_empty_and_missing_line_end_is_added() {
        assert_eq!(relaxed_body(b""), b"");
        assert_eq!(relaxed_body(b"\r\n \t\r\n"), b"");
        assert_eq!(relaxed_body(b"a"), b"a\r\n");
        assert_eq!(relaxed_body(b"a\n\nb\n"), b"a\r\n\r\nb\r\n");
    }

    #[test]
    fn mail_without_body_or_header_is_split() {
        assert_eq!(split(b"A: b\r\n"), (vec![&b"A: b"[..]], &b""[..]));
        assert_eq!(split(b"\r\nbody"), (vec![], &b"body"[..]));
        assert_eq!(name(b" Subject\t: x"), b"subject");
        assert_eq!(relaxed_field(b"nothing"), b"nothing:");
    }
}
