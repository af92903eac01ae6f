//! The content of a mail as it arrives after `DATA`: end, dot-stuffing, size, and line ends.
//!
//! Only CR LF ends a line. Servers that disagree about other line ends let a sender hide a second mail in a first one
//! (SMTP smuggling); therefore a bare CR or LF ends the connection.

/// End of reading a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataOutcome {
    /// The mail is complete: the prefix and the content without dot-stuffing.
    Complete(Vec<u8>),
    /// The mail was thrown away while it arrived.
    Discarded {
        /// Reason.
        reason: Discard,
        /// The end of the mail did not come within the overrun: close the connection.
        endless: bool,
    },
    /// A carriage return or line feed stands alone: close the connection.
    BareLineEnd,
}

/// Reason for throwing a mail away while it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// It is larger than the limit.
    TooBig,
    /// The memory for arriving mails is used up.
    NoRoom,
}

/// Place in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineState {
    LineStart,
    Line,
    /// After a carriage return.
    Return,
    /// After a dot at the start of a line.
    Dot,
    /// After a dot and a carriage return.
    DotReturn,
    /// An outcome was returned.
    End,
}

/// Reads the content of one mail in chunks of any size.
#[derive(Debug)]
pub struct DataReader {
    place: LineState,
    out: Vec<u8>,
    /// Bytes of content so far, also those that were thrown away.
    size: usize,
    limit: usize,
    overrun: usize,
    discarded: Option<Discard>,
}

impl DataReader {
    /// A reader of a mail of at most `limit` bytes, which is returned behind `prefix`. Up to `overrun` more bytes are
    /// read, but not kept.
    pub fn new(prefix: Vec<u8>, limit: usize, overrun: usize) -> Self {
        Self { place: LineState::LineStart, out: prefix, size: 0, limit, overrun, discarded: None }
    }

    /// Takes a chunk. Returns the number of bytes that belong to this mail, and the outcome once it is known.
    pub fn push(&mut self, chunk: &[u8]) -> (usize, Option<DataOutcome>) {
        let mut taken = 0;
        while let Some(&byte) = chunk.get(taken) {
            taken += match (self.place, byte) {
                (LineState::End, _) => return (taken, None),
                (LineState::DotReturn, b'\n') => {
                    let out = std::mem::take(&mut self.out);
                    let outcome = match self.discarded {
                        Some(reason) => DataOutcome::Discarded { reason, endless: false },
                        None => DataOutcome::Complete(out),
                    };
                    return self.end(taken + 1, outcome);
                }
                (LineState::Return, b'\n') => {
                    self.keep(b"\r\n");
                    self.place = LineState::LineStart;
                    1
                }
                (LineState::Return | LineState::DotReturn, _) | (_, b'\n') => {
                    return self.end(taken, DataOutcome::BareLineEnd);
                }
                (LineState::Dot, b'\r') => {
                    self.place = LineState::DotReturn;
                    1
                }
                (LineState::LineStart | LineState::Line, b'\r') => {
                    self.place = LineState::Return;
                    1
                }
                (LineState::LineStart, b'.') => {
                    self.place = LineState::Dot;
                    1
                }
                (LineState::LineStart | LineState::Line | LineState::Dot, _) => {
                    self.place = LineState::Line;
                    self.keep_run(chunk.get(taken..).unwrap_or_default())
                }
            };
            if self.size > self.most() {
                let reason = self.discarded.unwrap_or(Discard::TooBig);
                return self.end(taken, DataOutcome::Discarded { reason, endless: true });
            }
        }
        (taken, None)
    }

    /// Throws away what came and what will come of this mail.
    pub fn discard(&mut self, reason: Discard) {
        self.discarded.get_or_insert(reason);
        self.out = Vec::new();
    }

    /// Bytes held in memory.
    pub fn buffered(&self) -> usize {
        self.out.len()
    }

    /// Content bytes read before the connection is closed.
    fn most(&self) -> usize {
        self.limit.saturating_add(self.overrun)
    }

    /// Keeps the bytes up to the next line end, or up to the first one beyond the overrun.
    fn keep_run(&mut self, bytes: &[u8]) -> usize {
        let room = self.most().saturating_sub(self.size).saturating_add(1);
        let run = bytes.get(..room.min(bytes.len())).unwrap_or(bytes);
        let end = run.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(run.len());
        let run = run.get(..end).unwrap_or(run);
        self.keep(run);
        run.len()
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.size = self.size.saturating_add(bytes.len());
        if self.size > self.limit {
            self.discard(Discard::TooBig);
        }
        if self.discarded.is_none() {
            self.out.extend_from_slice(bytes);
        }
    }

    fn end(&mut self, taken: usize, outcome: DataOutcome) -> (usize, Option<DataOutcome>) {
        self.place = LineState::End;
        self.out = Vec::new();
        (taken, Some(outcome))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 40;
    const OVERRUN: usize = 20;

    /// Pushes the chunks until an outcome. Returns all bytes taken.
    fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (usize, Option<DataOutcome>) {
        let mut reader = DataReader::new(b"P:".to_vec(), LIMIT, OVERRUN);
        let mut all = 0;
        for chunk in chunks {
            let (taken, outcome) = reader.push(chunk);
            all += taken;
            assert!(reader.buffered() <= LIMIT + 2);
            if outcome.is_some() {
                return (all, outcome);
            }
            assert_eq!(taken, chunk.len());
        }
        (all, None)
    }

    fn complete(content: &str) -> Option<DataOutcome> {
        Some(DataOutcome::Complete(format!("P:{content}").into_bytes()))
    }

    #[test]
    fn mail_ends_at_a_dot_alone_and_loses_its_stuffing() {
        let table = [
            (".\r\n", ""),
            ("a\r\n.\r\n", "a\r\n"),
            ("..\r\n.\r\n", ".\r\n"),
            ("...a\r\n.\r\n", "..a\r\n"),
            (".a\r\n.\r\n", "a\r\n"),
            ("a.\r\n.b\r\n\r\n.\r\n", "a.\r\nb\r\n\r\n"),
            ("a\0\u{e4}\r\n.\r\n", "a\0\u{e4}\r\n"),
        ];
        for (input, content) in table {
            assert_eq!(read([input.as_bytes()]), (input.len(), complete(content)), "{input:?}");
        }
    }

    #[test]
    fn bytes_behind_the_end_are_left() {
        let input = b"a\r\n.\r\nMAIL FROM:<>\r\n";
        assert_eq!(read([input.as_slice()]), (6, complete("a\r\n")));
        let mut reader = DataReader::new(Vec::new(), 9, 9);
        assert!(reader.push(b".\r\n").1.is_some());
        assert_eq!(reader.push(b"more"), (0, None));
    }

    #[test]
    fn every_other_line_end_is_refused() {
        let variants = [
            "a\n.\r\n",
            "a\r\n.\n",
            "a\n.\n",
            "a\r.\r\n",
            "a\r\n.\r.\r\n",
            "a\r.\r",
            "a\r\r\n.\r\n",
            "a\r\n.\r\r\n",
            "a\r\n\r.\r\n",
            "a\n\r\n.\r\n",
            "\n",
            "\rx",
            "a\r\n.\0\n",
            "a\r\n\0\n.\r\n",
            "a\nb\r\n.\r\n",
            "a\rb\r\n.\r\n",
            ".\n",
            ".\rx",
        ];
        for input in variants {
            let (_, outcome) = read([input.as_bytes()]);
            assert_eq!(outcome, Some(DataOutcome::BareLineEnd), "{input:?}");
            let (_, outcome) = read(input.as_bytes().chunks(1));
            assert_eq!(outcome, Some(DataOutcome::BareLineEnd), "{input:?} bytewise");
        }
    }

    #[test]
    fn mail_beyond_the_limit_is_discarded_and_closed_beyond_the_overrun() {
        let exact = format!("{}\r\n.\r\n", "a".repeat(LIMIT - 2));
        assert!(matches!(read([exact.as_bytes()]).1, Some(DataOutcome::Complete(_))));
        let reason = Discard::TooBig;
        let over = format!("{}\r\n.\r\n", "a".repeat(LIMIT - 1));
        assert_eq!(read([over.as_bytes()]).1, Some(DataOutcome::Discarded { reason, endless: false }));
        let endless = "a".repeat(1000);
        let outcome = Some(DataOutcome::Discarded { reason, endless: true });
        assert_eq!(read([endless.as_bytes()]), (LIMIT + OVERRUN + 1, outcome.clone()));
        let lines = "\r\n".repeat(500);
        assert_eq!(read([lines.as_bytes()]).1, outcome);
    }

    #[test]
    fn discarded_mail_is_read_to_its_end_without_being_kept() {
        let mut reader = DataReader::new(b"P:".to_vec(), 100, 100);
        assert_eq!(reader.push(b"abc"), (3, None));
        reader.discard(Discard::NoRoom);
        assert_eq!(reader.buffered(), 0);
        let outcome = DataOutcome::Discarded { reason: Discard::NoRoom, endless: false };
        assert_eq!(reader.push(b"def\r\n.\r\n"), (8, Some(outcome)));
    }

    proptest! {
        #[test]
        fn chunk_boundaries_do_not_matter(
            input in prop::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'a'), any::<u8>()], 0..120),
            lines in prop::collection::vec("\\.{0,2}[a.]{0,6}", 0..10),
            random in any::<bool>(),
            cuts in prop::collection::vec(1usize..9, 1..20),
        ) {
            let text = format!("{}\r\n.\r\nNOOP\r\n", lines.join("\r\n"));
            let input = if random { input } else { text.into_bytes() };
            let mut chunks = Vec::new();
            let mut rest = input.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, tail) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = tail;
            }
            prop_assert_eq!(read(chunks), read([input.as_slice()]));
        }

        #[test]
        fn stuffed_mail_comes_out_as_it_was(lines in prop::collection::vec("[a.]{0,3}", 0..8)) {
            let mail: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let stuffed: String = lines
                .iter()
                .map(|line| if line.starts_with('.') { format!(".{line}\r\n") } else { format!("{line}\r\n") })
                .collect();
            let input = format!("{stuffed}.\r\n");
            prop_assert_eq!(read([input.as_bytes()]), (input.len(), complete(&mail)));
        }
    }
}
