//! A message as it goes over the wire: line ends, dots (RFC 5321 section 4.5.2) and the end of the data.

/// Encodes a message block by block.
///
/// A single CR or LF becomes CR LF: servers disagree on whether it ends a line, so that a message could end early and
/// its rest be read as commands.
#[derive(Debug)]
pub(crate) struct DataEncoder {
    line_start: bool,
    after_cr: bool,
}

impl DataEncoder {
    pub fn new() -> Self {
        Self { line_start: true, after_cr: false }
    }

    /// Encodes the next block of the message.
    pub fn block(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::with_capacity(bytes.len() + bytes.len() / 32 + 2);
        for byte in bytes {
            if *byte == b'\n' {
                if !self.after_cr {
                    encoded.push(b'\r');
                }
                self.end_line(&mut encoded);
                continue;
            }
            if self.after_cr {
                self.end_line(&mut encoded);
            }
            self.after_cr = *byte == b'\r';
            if self.line_start && *byte == b'.' {
                encoded.push(b'.');
            }
            encoded.push(*byte);
            self.line_start = false;
        }
        encoded
    }

    /// Encodes the end of the message.
    pub fn end(mut self) -> Vec<u8> {
        let mut encoded = Vec::new();
        if self.after_cr {
            self.end_line(&mut encoded);
        }
        if !self.line_start {
            encoded.extend_from_slice(b"\r\n");
        }
        encoded.extend_from_slice(b".\r\n");
        encoded
    }

    fn end_line(&mut self, encoded: &mut Vec<u8>) {
        encoded.push(b'\n');
        self.line_start = true;
        self.after_cr = false;
    }
}

/// Text as `xtext` (RFC 3461 section 4), for parameters of commands.
pub(crate) fn xtext(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'+' | b'=' => format!("+{byte:02X}"),
        b'!'..=b'~' => char::from(byte).to_string(),
        _ => format!("+{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(bytes: &[u8], block: usize) -> Vec<u8> {
        let mut encoder = DataEncoder::new();
        let mut encoded: Vec<u8> = bytes.chunks(block).flat_map(|bytes| encoder.block(bytes)).collect();
        encoded.extend(encoder.end());
        encoded
    }

    #[test]
    fn dots_and_line_ends_are_encoded() {
        for (message, expected) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a", b"a\r\n.\r\n"),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b"a\r\n.\r\nb", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"a\n.\nb\n", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"a\r.\rb\r", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"a\n\r\n\r\r\n", b"a\r\n\r\n\r\n\r\n.\r\n"),
            (b"a.b\r\nc.", b"a.b\r\nc.\r\n.\r\n"),
        ] {
            assert_eq!(encode(message, 64), expected, "{message:?}");
        }
    }

    #[test]
    fn xtext_leaves_no_separator() {
        assert_eq!(xtext("a-1@b+c=d e\r\né"), "a-1@b+2Bc+3Dd+20e+0D+0A+C3+A9");
    }

    proptest! {
        #[test]
        fn end_of_data_occurs_once_and_no_line_end_is_single(
            bytes in prop::collection::vec(prop::sample::select(b"\r\n.a".to_vec()), 0..60),
            block in 1..9_usize,
        ) {
            let encoded = encode(&bytes, block);
            prop_assert_eq!(&encoded, &encode(&bytes, 1_000));
            let with_start = [b"\r\n".as_slice(), &encoded].concat();
            let ends = with_start.windows(5).filter(|window| window == b"\r\n.\r\n").count();
            prop_assert_eq!(ends, 1);
            prop_assert!(encoded.ends_with(b".\r\n"));
            let text = String::from_utf8(encoded).expect("ASCII").replace("\r\n", "");
            prop_assert!(!text.contains(['\r', '\n']), "{}", text);
        }

        #[test]
        fn lines_without_dots_pass_unchanged(text in "([a-z]{0,9}\r\n){0,9}") {
            prop_assert_eq!(encode(text.as_bytes(), 7), [text.as_bytes(), b".\r\n"].concat());
        }
    }
}
