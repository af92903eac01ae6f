//! Command lines in the bytes of a connection.

use bytes::BytesMut;
use thiserror::Error;

/// Reason why the bytes are no command line. The connection is closed: what follows cannot be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LineError {
    /// No line end within the limit.
    #[error("line too long; send shorter commands")]
    TooLong,
    /// A carriage return or line feed stands alone.
    #[error("bare CR or LF; end lines with CR LF")]
    BareLineEnd,
}

/// Takes the next line off the buffer, without its CR LF. `None` until one is complete.
pub fn next_line(buffer: &mut BytesMut, max: usize) -> Option<Result<BytesMut, LineError>> {
    let Some(feed) = buffer.iter().take(max).position(|&byte| byte == b'\n') else {
        return (buffer.len() >= max).then_some(Err(LineError::TooLong));
    };
    let mut line = buffer.split_to(feed + 1);
    line.truncate(feed);
    let Some((b'\r', text)) = line.split_last() else { return Some(Err(LineError::BareLineEnd)) };
    if text.contains(&b'\r') {
        return Some(Err(LineError::BareLineEnd));
    }
    line.truncate(text.len());
    Some(Ok(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8]) -> Vec<Result<Vec<u8>, LineError>> {
        let mut buffer = BytesMut::from(input);
        std::iter::from_fn(|| next_line(&mut buffer, 10)).take(5).map(|line| line.map(|l| l.to_vec())).collect()
    }

    #[test]
    fn lines_end_with_cr_lf_only() {
        assert_eq!(lines(b"a\r\n\r\nbc\r\nd"), [Ok(b"a".to_vec()), Ok(Vec::new()), Ok(b"bc".to_vec())]);
        assert!(lines(b"").is_empty() && lines(b"a\r").is_empty());
        for input in [b"a\n".as_slice(), b"\n", b"a\rb\r\n", b"a\r\r\n", b"\n\r\n"] {
            assert_eq!(lines(input).first(), Some(&Err(LineError::BareLineEnd)), "{input:?}");
        }
    }

    #[test]
    fn line_beyond_the_limit_is_refused_with_or_without_its_end() {
        assert_eq!(lines(b"12345678\r\n"), [Ok(b"12345678".to_vec())]);
        for input in [b"123456789\r\n".as_slice(), b"1234567890", b"12345678901234567890\r\n"] {
            assert_eq!(lines(input).first(), Some(&Err(LineError::TooLong)), "{input:?}");
        }
        assert!(lines(b"123456789").is_empty());
    }
}
