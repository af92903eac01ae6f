//! Commands and their answers.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use imap_codec::imap_types::response::StatusKind;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::{
    ImapError,
    error::shown,
    hidden::Hidden,
    response::{Completion, Received, StatusCode, Untagged, decode},
    wire::Wire,
};

/// Most responses to a command in addition to four for each mail that it asks for.
const SPARE_RESPONSES: usize = 1_000;

/// Largest answer to a command in addition to 2 KiB for each mail that it asks for, in bytes.
const SPARE_BYTES: usize = 1 << 20;

/// Longest time of a command, in time limits of a step.
const STEPS: u32 = 10;

/// Slowest transfer of a literal, in bytes per millisecond.
const SLOWEST: u64 = 4;

/// Longest initial response in the line of AUTHENTICATE, in bytes: servers limit lines before the sign-in.
const MAX_INITIAL: usize = 1_000;

/// Part of a command.
pub(crate) enum Piece<'a> {
    Text(&'a str),
    /// Bytes that are announced first (RFC 3501 §4.3).
    Literal(&'a [u8]),
}

/// Answer to a command.
#[derive(Debug)]
pub(crate) struct Answer {
    pub untagged: Vec<Untagged>,
    pub done: Completion,
}

/// Connection on which one command after the other is exchanged.
pub(crate) struct Session {
    pub wire: Wire,
    tags: u64,
    /// Whether a command is under way; it stays so if the command fails or its future is dropped.
    busy: bool,
    /// Whether the last command began to send a literal.
    literal_begun: bool,
    /// Secrets that no text of the server may show.
    hidden: Arc<Hidden>,
}

impl Session {
    pub fn new(wire: Wire) -> Self {
        Self { wire, tags: 0, busy: false, literal_begun: false, hidden: Arc::default() }
    }

    /// Whether the server may have received all of the last command, which failed.
    pub fn literal_begun(&self) -> bool {
        self.literal_begun
    }

    /// Hides a secret in the texts of the server from now on.
    pub fn hide(&mut self, secret: &str) {
        Arc::make_mut(&mut self.hidden).add(secret);
    }

    /// Forgets the hidden secrets: they are no longer sent.
    pub fn forget_hidden(&mut self) {
        self.hidden = Arc::default();
    }

    /// Time limit of a whole command, without that of its literals.
    pub fn limit(&self) -> Duration {
        self.wire.limit().saturating_mul(STEPS)
    }

    /// Reads the greeting.
    pub async fn greeting(&mut self) -> Result<Completion, ImapError> {
        let step = "greeting";
        let message = self.wire.response(step).await?;
        match decode(&message, &self.hidden) {
            Ok(Received::Untagged(Untagged::Status(status))) if status.is_ok() => Ok(status),
            Ok(Received::Bye(text)) => Err(ImapError::Bye { text }),
            Ok(_) => Err(ImapError::Protocol { step, text: shown(&String::from_utf8_lossy(&message)) }),
            Err(text) => Err(ImapError::Protocol { step, text }),
        }
    }

    /// Exchanges a command that asks for data of `asked` mails at most.
    pub async fn run(
        &mut self,
        step: &'static str,
        pieces: &[Piece<'_>],
        asked: usize,
    ) -> Result<Answer, ImapError> {
        let size: usize = pieces.iter().map(Piece::size).sum();
        let transfer = Duration::from_millis(u64::try_from(size).unwrap_or(u64::MAX) / SLOWEST);
        let limit = self.limit().saturating_add(transfer);
        bounded(step, limit, self.exchange(step, pieces, asked)).await
    }

    async fn exchange(
        &mut self,
        step: &'static str,
        pieces: &[Piece<'_>],
        asked: usize,
    ) -> Result<Answer, ImapError> {
        let tag = self.begin(step)?;
        let mut collector = Collector::new(step, tag, asked, Arc::clone(&self.hidden));
        let mut text = Zeroizing::new(format!("{} ", collector.tag).into_bytes());
        for piece in pieces {
            match piece {
                Piece::Text(part) => text.extend_from_slice(part.as_bytes()),
                Piece::Literal(bytes) => {
                    text.extend_from_slice(format!("{{{}}}\r\n", bytes.len()).as_bytes());
                    self.wire.write(step, &text).await?;
                    text.clear();
                    if let Some(done) = self.await_literal(&mut collector).await? {
                        return Ok(self.finish(collector, done));
                    }
                    self.literal_begun = true;
                    self.wire.write(step, bytes).await?;
                }
            }
        }
        text.extend_from_slice(b"\r\n");
        self.wire.write(step, &text).await?;
        // A server that scans or copies an appended mail answers late. A client that gives up sooner does not know
        // whether the mail arrived.
        let limit = if self.literal_begun && step != SIGN_IN { self.limit() } else { self.wire.limit() };
        loop {
            let message = self.wire.response_within(step, limit).await?;
            match collector.take(&message)? {
                Taken::Data => {}
                Taken::Done(done) => return Ok(self.finish(collector, done)),
                Taken::Continue(_) => return Err(protocol(step, "a request to go on that nothing waits for")),
            }
        }
    }

    /// Waits for the permission to send a literal; otherwise the command ended.
    async fn await_literal(&mut self, collector: &mut Collector) -> Result<Option<Completion>, ImapError> {
        loop {
            let message = self.wire.response(collector.step).await?;
            match collector.take(&message)? {
                Taken::Data => {}
                Taken::Continue(_) => return Ok(None),
                Taken::Done(done) if done.is_ok() => {
                    return Err(protocol(collector.step, "OK before the command was complete"));
                }
                Taken::Done(done) => return Ok(Some(done)),
            }
        }
    }

    /// Exchanges AUTHENTICATE (RFC 3501 §6.2.2) with one message of the client; `ir`: the server takes it in the first
    /// line (RFC 4959). `to_error` answers a challenge that reports an error; its text becomes that of the completion.
    pub async fn authenticate(
        &mut self,
        mechanism: &str,
        message: &[u8],
        ir: bool,
        to_error: &str,
    ) -> Result<Answer, ImapError> {
        let encoded = Zeroizing::new(STANDARD.encode(message));
        self.hide(encoded.trim_end_matches('='));
        let limit = self.limit();
        bounded(SIGN_IN, limit, self.exchange_sasl(mechanism, &encoded, ir, to_error)).await
    }

    /// As `authenticate`, with the message in base64 and without a limit of the total time.
    async fn exchange_sasl(
        &mut self,
        mechanism: &str,
        encoded: &str,
        ir: bool,
        to_error: &str,
    ) -> Result<Answer, ImapError> {
        let step = SIGN_IN;
        let tag = self.begin(step)?;
        let mut collector = Collector::new(step, tag, 0, Arc::clone(&self.hidden));
        let mut line = Zeroizing::new(format!("{} AUTHENTICATE {mechanism}", collector.tag));
        let mut sent = ir && encoded.len() <= MAX_INITIAL;
        if sent {
            line.push(' ');
            line.push_str(encoded);
        }
        line.push_str("\r\n");
        self.wire.write(step, line.as_bytes()).await?;
        let mut report = None;
        loop {
            let message = self.wire.response(step).await?;
            match collector.take(&message)? {
                Taken::Data => {}
                Taken::Continue(_) if !sent => {
                    sent = true;
                    let line = Zeroizing::new(format!("{encoded}\r\n"));
                    self.wire.write(step, line.as_bytes()).await?;
                }
                Taken::Continue(challenge) if report.is_none() => {
                    let text = self.hidden.masked(&String::from_utf8_lossy(&challenge));
                    report = Some(shown(&text));
                    self.wire.write(step, format!("{to_error}\r\n").as_bytes()).await?;
                }
                Taken::Continue(_) => return Err(protocol(step, "too many challenges")),
                Taken::Done(mut done) => {
                    if let Some(report) = report.filter(|report| !done.is_ok() && !report.is_empty()) {
                        done.text = shown(&format!("{} ({report})", done.text));
                    }
                    return Ok(self.finish(collector, done));
                }
            }
        }
    }

    /// Begins IDLE (RFC 2177); returns the collector of its responses.
    pub async fn begin_idle(&mut self, step: &'static str) -> Result<Collector, ImapError> {
        let tag = self.begin(step)?;
        let collector = Collector::new(step, tag, 0, Arc::clone(&self.hidden));
        self.wire.write(step, format!("{} IDLE\r\n", collector.tag).as_bytes()).await?;
        Ok(collector)
    }

    fn begin(&mut self, step: &'static str) -> Result<String, ImapError> {
        if self.busy {
            let reason = "an earlier command failed on it; connect again".to_owned();
            return Err(ImapError::Closed { step, reason });
        }
        self.busy = true;
        self.literal_begun = false;
        self.tags += 1;
        Ok(format!("t{}", self.tags))
    }

    /// Ends a command.
    pub fn finish(&mut self, collector: Collector, done: Completion) -> Answer {
        self.busy = false;
        Answer { untagged: collector.untagged, done }
    }
}

impl Piece<'_> {
    fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Literal(bytes) => bytes.len(),
        }
    }
}

/// Meaning of a response for the command under way.
pub(crate) enum Taken {
    /// Data, which the collector has.
    Data,
    Continue(Vec<u8>),
    Done(Completion),
}

/// Bounded responses to one command.
pub(crate) struct Collector {
    step: &'static str,
    tag: String,
    responses: usize,
    bytes: usize,
    hidden: Arc<Hidden>,
    pub untagged: Vec<Untagged>,
}

impl Collector {
    fn new(step: &'static str, tag: String, asked: usize, hidden: Arc<Hidden>) -> Self {
        let responses = asked.saturating_mul(4).saturating_add(SPARE_RESPONSES);
        let bytes = asked.saturating_mul(2_048).saturating_add(SPARE_BYTES);
        Self { step, tag, responses, bytes, hidden, untagged: Vec::new() }
    }

    /// Allows as many responses as at the begin of a command that asks for no mail.
    pub fn renew(&mut self) {
        (self.responses, self.bytes) = (SPARE_RESPONSES, SPARE_BYTES);
    }

    /// Takes a complete response.
    pub fn take(&mut self, message: &[u8]) -> Result<Taken, ImapError> {
        let step = self.step;
        let (Some(responses), Some(bytes)) = (self.responses.checked_sub(1), self.bytes.checked_sub(message.len()))
        else {
            return Err(ImapError::TooLarge { step });
        };
        (self.responses, self.bytes) = (responses, bytes);
        match decode(message, &self.hidden).map_err(|text| ImapError::Protocol { step, text })? {
            Received::Untagged(untagged) => {
                if untagged != Untagged::Other {
                    self.untagged.push(untagged);
                }
                Ok(Taken::Data)
            }
            Received::Tagged(tag, done) if tag == self.tag => Ok(Taken::Done(done)),
            Received::Tagged(..) => Err(protocol(step, "the end of another command")),
            Received::Continue(challenge) => Ok(Taken::Continue(challenge)),
            // The server says goodbye before it ends LOGOUT.
            Received::Bye(_) if step == LOGOUT => Ok(Taken::Data),
            Received::Bye(text) => Err(ImapError::Bye { text }),
        }
    }
}

/// Name of the sign-in in errors.
pub(crate) const SIGN_IN: &str = "sign-in";

/// Name of the command that ends a connection.
pub(crate) const LOGOUT: &str = "LOGOUT";

/// Limits the total time of an exchange: each of its responses may come in time and none of them may be the last.
pub(crate) async fn bounded<T>(
    step: &'static str,
    limit: Duration,
    exchange: impl Future<Output = Result<T, ImapError>>,
) -> Result<T, ImapError> {
    timeout(limit, exchange).await.map_err(|_| ImapError::TimedOut { step, limit })?
}

pub(crate) fn protocol(step: &'static str, text: &str) -> ImapError {
    ImapError::Protocol { step, text: text.to_owned() }
}

/// Error of a command that the server refused. `folder` is the one that the command names.
pub(crate) fn refusal(command: &'static str, folder: Option<&str>, done: Completion) -> ImapError {
    let missing = matches!(done.code, Some(StatusCode::TryCreate)) || done.is_named(&["NONEXISTENT"]);
    let text = done.text;
    match (done.code, folder) {
        (Some(StatusCode::OverQuota), _) => ImapError::Quota { text },
        (_, Some(folder)) if missing && done.kind == StatusKind::No => {
            ImapError::NoFolder { folder: folder.to_owned(), text }
        }
        _ => ImapError::No { command, text },
    }
}
