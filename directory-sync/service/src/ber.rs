//! Reading and writing of single BER elements, without recursion and without panics.

/// Bytes that are not what the protocol says; the text names the part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is malformed")]
pub(crate) struct Malformed(pub &'static str);

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTETS: u8 = 0x04;
pub(crate) const ENUMERATED: u8 = 0x0a;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// The elements at one level.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tag of the next element.
    pub fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element: tag and content.
    pub fn element(&mut self, part: &'static str) -> Result<(u8, &'a [u8]), Malformed> {
        let (&tag, rest) = self.0.split_first().ok_or(Malformed(part))?;
        let (&first, mut rest) = rest.split_first().ok_or(Malformed(part))?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            let count = usize::from(first - 0x80);
            if !(1..=4).contains(&count) || rest.len() < count {
                return Err(Malformed(part));
            }
            let (digits, after) = rest.split_at(count);
            length = digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit));
            rest = after;
        }
        if rest.len() < length {
            return Err(Malformed(part));
        }
        let (content, rest) = rest.split_at(length);
        self.0 = rest;
        Ok((tag, content))
    }

    /// The content of the next element, which must have this tag.
    pub fn expect(&mut self, tag: u8, part: &'static str) -> Result<&'a [u8], Malformed> {
        match self.element(part)? {
            (found, content) if found == tag => Ok(content),
            _ => Err(Malformed(part)),
        }
    }

    /// The content of the next element if it has this tag.
    pub fn optional(&mut self, tag: u8, part: &'static str) -> Result<Option<&'a [u8]>, Malformed> {
        if self.peek() == Some(tag) { self.expect(tag, part).map(Some) } else { Ok(None) }
    }

    /// Refuses further elements.
    pub fn end(self, part: &'static str) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed(part)) }
    }
}

/// The content as text.
pub(crate) fn text<'a>(content: &'a [u8], part: &'static str) -> Result<&'a str, Malformed> {
    std::str::from_utf8(content).map_err(|_| Malformed(part))
}

/// A number from 0 to 2^31 - 1, as all numbers of LDAP are.
pub(crate) fn number(content: &[u8], part: &'static str) -> Result<i32, Malformed> {
    if !(1..=4).contains(&content.len()) {
        return Err(Malformed(part));
    }
    let number = content.iter().fold(0_u32, |number, byte| (number << 8) | u32::from(*byte));
    i32::try_from(number).map_err(|_| Malformed(part))
}

/// A truth value.
pub(crate) fn truth(content: &[u8], part: &'static str) -> Result<bool, Malformed> {
    match content {
        [byte] => Ok(*byte != 0),
        _ => Err(Malformed(part)),
    }
}

/// Appends an element.
pub(crate) fn write(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let length = content.len();
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let digits = length.to_be_bytes();
        let leading = digits.iter().take_while(|digit| **digit == 0).count();
        out.push(0x80 | (digits.len() - leading) as u8);
        out.extend(digits.iter().skip(leading));
    }
    out.extend_from_slice(content);
}

/// Appends a number that is not negative.
pub(crate) fn write_number(out: &mut Vec<u8>, tag: u8, number: u32) {
    // A leading zero byte keeps the sign.
    let digits = u64::from(number).to_be_bytes();
    let leading = digits.iter().take_while(|digit| **digit == 0).count().min(digits.len() - 1);
    let mut content: Vec<u8> = digits.iter().skip(leading).copied().collect();
    if content.first().is_some_and(|first| first & 0x80 != 0) {
        content.insert(0, 0);
    }
    write(out, tag, &content);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_elements_are_read_back() {
        for length in [0, 1, 127, 128, 255, 256, 70_000] {
            let content = vec![7; length];
            let mut out = Vec::new();
            write(&mut out, OCTETS, &content);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.expect(OCTETS, "value"), Ok(content.as_slice()));
            assert!(reader.is_empty());
        }
        for value in [0, 1, 127, 128, 255, 256, 65_535, 0x7fff_ffff] {
            let mut out = Vec::new();
            write_number(&mut out, INTEGER, value);
            let content = Reader::new(&out).expect(INTEGER, "number").expect("a number");
            assert_eq!(number(content, "number"), Ok(value as i32));
        }
    }

    #[test]
    fn cut_and_oversized_elements_are_malformed() {
        let long = &[4, 0x84, 0xff, 0xff, 0xff, 0xff][..];
        for bytes in [&[][..], &[4], &[4, 2, 1], &[4, 0x80], &[4, 0x85, 0, 0, 0, 0, 0], long] {
            assert_eq!(Reader::new(bytes).element("value"), Err(Malformed("value")), "{bytes:?}");
        }
        assert_eq!(number(&[0x80, 0, 0, 0], "number"), Err(Malformed("number")));
    }
}
