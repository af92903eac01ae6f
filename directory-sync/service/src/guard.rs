//! Guard of the BER parser: an incremental check of size and structure (X.690, as restricted by RFC 4511 section 5.1).

/// Limits of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// Bytes of a message, its header included.
    pub bytes: usize,
    /// Levels of nested elements.
    pub depth: usize,
    /// Elements of a message, at all levels together.
    pub elements: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self { bytes: 4 << 20, depth: 32, elements: 100_000 }
    }
}

/// Reason why bytes are no acceptable LDAP message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// More bytes than allowed.
    #[error("a message of {bytes} bytes exceeds the bound of {bound} bytes")]
    TooLarge {
        /// Bytes of the message as its header announces them.
        bytes: u64,
        /// The limit.
        bound: usize,
    },
    /// More levels than allowed.
    #[error("a message exceeds the bound of {0} nested levels")]
    TooDeep(usize),
    /// More elements than allowed.
    #[error("a message exceeds the bound of {0} elements")]
    TooMany(usize),
    /// Length form that LDAP forbids.
    #[error("an element has an indefinite length, which LDAP forbids")]
    Indefinite,
    /// Length in more than four bytes.
    #[error("the length of an element has more than 4 bytes")]
    LongLength,
    /// An inner element that ends after the outer one.
    #[error("an element is longer than the element around it")]
    Overrun,
    /// Tag number that LDAP does not use.
    #[error("an element has a tag that LDAP does not use")]
    Tag,
    /// First byte that begins no LDAP message.
    #[error("the first byte of a message is {0:#04x}: this is no LDAP")]
    NotMessage(u8),
}

/// Incremental splitter of a byte stream into checked messages. It keeps only bytes that have arrived, so an announced
/// length costs no memory.
#[derive(Debug)]
pub struct FrameChecker {
    limits: FrameLimits,
    message: Vec<u8>,
    /// Ends of the elements that are not complete, outermost first.
    open: Vec<usize>,
    elements: usize,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Tag,
    Length { constructed: bool },
    LongLength { constructed: bool, left: u8, length: u64 },
    Content { left: usize },
}

impl FrameChecker {
    /// A checker before the first byte.
    pub fn new(limits: FrameLimits) -> Self {
        Self { limits, message: Vec::new(), open: Vec::new(), elements: 0, state: State::Tag }
    }

    /// Takes bytes from the front of `input` up to the end of a message and returns the message; `None` when all bytes
    /// are taken and the message needs more. After an error the stream is of no further use.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, FrameError> {
        loop {
            let bytes = *input;
            let Some((&byte, rest)) = bytes.split_first() else { return Ok(None) };
            if let State::Content { left } = self.state {
                let (content, rest) = bytes.split_at(left.min(bytes.len()));
                *input = rest;
                self.message.extend_from_slice(content);
                let left = left - content.len();
                self.state = if left > 0 { State::Content { left } } else { State::Tag };
            } else {
                *input = rest;
                self.message.push(byte);
                self.header(byte)?;
            }
            if self.is_complete() {
                self.elements = 0;
                return Ok(Some(std::mem::take(&mut self.message)));
            }
        }
    }

    fn header(&mut self, byte: u8) -> Result<(), FrameError> {
        match self.state {
            State::Tag => {
                if self.open.is_empty() && byte != 0x30 {
                    return Err(FrameError::NotMessage(byte));
                }
                // 0 would end an element of indefinite length; number 31 announces a tag of several bytes.
                if byte == 0 || byte & 0x1f == 0x1f {
                    return Err(FrameError::Tag);
                }
                self.elements += 1;
                if self.elements > self.limits.elements {
                    return Err(FrameError::TooMany(self.limits.elements));
                }
                self.state = State::Length { constructed: byte & 0x20 != 0 };
                Ok(())
            }
            State::Length { constructed } => match byte {
                0..=0x7f => self.content(constructed, u64::from(byte)),
                0x80 => Err(FrameError::Indefinite),
                0x81..=0x84 => {
                    self.state = State::LongLength { constructed, left: byte - 0x80, length: 0 };
                    Ok(())
                }
                _ => Err(FrameError::LongLength),
            },
            State::LongLength { constructed, left, length } => {
                let length = (length << 8) | u64::from(byte);
                if left == 1 {
                    return self.content(constructed, length);
                }
                self.state = State::LongLength { constructed, left: left - 1, length };
                Ok(())
            }
            State::Content { .. } => Ok(()),
        }
    }

    /// Begins the content of an element.
    fn content(&mut self, constructed: bool, length: u64) -> Result<(), FrameError> {
        let end = self.message.len() as u64 + length;
        match self.open.last() {
            Some(outer) if end > *outer as u64 => return Err(FrameError::Overrun),
            None if end > self.limits.bytes as u64 => {
                return Err(FrameError::TooLarge { bytes: end, bound: self.limits.bytes });
            }
            _ => {}
        }
        self.state = State::Tag;
        if constructed {
            if self.open.len() >= self.limits.depth {
                return Err(FrameError::TooDeep(self.limits.depth));
            }
            self.open.push(end as usize);
        } else if length > 0 {
            self.state = State::Content { left: length as usize };
        }
        Ok(())
    }

    /// Closes the elements that end here, and tells the end of the outermost one.
    fn is_complete(&mut self) -> bool {
        if !matches!(self.state, State::Tag) {
            return false;
        }
        while self.open.last() == Some(&self.message.len()) {
            self.open.pop();
        }
        self.open.is_empty()
    }
}
