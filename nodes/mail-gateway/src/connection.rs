//! One connection: its socket, its time limits and the handler around a [`Session`].

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use rustls::ServerConfig;
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use twinbox_clock::{BootInstant, wall};

use crate::{
    counts::{Counter, GatewayCounts},
    data::Discard,
    handler::{MailHandler, PasswordCheck, RecipientError},
    limits::Limits,
    lines::next_line,
    session::{Action, Answer, Reads, Session},
    slots::{Share, Slot},
    tls::{self, Stream},
};

/// Bytes read at a time between mails; small, because most connections wait.
const LINE_ROOM: usize = 512;
/// Bytes read at a time within a mail.
const DATA_ROOM: usize = 16 * 1024;
/// Time for the client to read the last reply before the connection is reset.
const LINGER: Duration = Duration::from_secs(1);

/// Actions of the session with a handler.
type Actions<H> = Vec<Action<<H as MailHandler>::Recipient>>;

/// One connection with all that it needs.
pub(crate) struct Connection<H: MailHandler> {
    pub(crate) handler: H,
    pub(crate) limits: Arc<Limits>,
    pub(crate) counts: Arc<GatewayCounts>,
    pub(crate) session: Session<H::Recipient>,
    pub(crate) stream: Stream,
    /// Certificate for `STARTTLS`.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) share: Share,
    /// Counts the connection while it is open.
    pub(crate) slot: Slot,
    pub(crate) stop: CancellationToken,
    pub(crate) opened: BootInstant,
    pub(crate) transfer: Transfer,
    /// Received and not yet used.
    pub(crate) input: BytesMut,
    /// Replies that are not yet sent: those to pipelined commands go together.
    pub(crate) output: Vec<u8>,
}

/// Progress of the mail that is arriving.
pub(crate) struct Transfer {
    pub(crate) since: BootInstant,
    pub(crate) received: usize,
}

/// End of a connection.
#[derive(Debug, Error)]
enum End {
    #[error("closed by this server")]
    Ours,
    #[error("closed by the client")]
    Theirs,
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
}

impl<H: MailHandler> Connection<H> {
    /// Serves the connection until it ends.
    pub(crate) async fn run(mut self) {
        let end = match self.converse().await {
            Ok(()) => End::Ours,
            Err(end) => end,
        };
        debug!(client = %self.session.sender().address, %end, "connection ended");
        if matches!(end, End::Ours) {
            self.linger().await;
        }
        drop(self.slot);
    }

    async fn converse(&mut self) -> Result<(), End> {
        let greeting = self.session.greeting(self.handler.ready());
        self.perform(greeting).await?;
        let mut limit = self.limits.first_command;
        loop {
            let actions = match self.session.reads() {
                Reads::Line => self.line(limit).await?,
                Reads::Data => self.data().await?,
                Reads::Nothing => return Ok(()),
            };
            limit = self.limits.command;
            self.perform(actions).await?;
        }
    }

    /// Reads a line within the time limit and hands it to the session.
    async fn line(&mut self, limit: Duration) -> Result<Actions<H>, End> {
        let began = BootInstant::now();
        loop {
            match next_line(&mut self.input, self.limits.command_line) {
                Some(Ok(line)) => return Ok(self.session.on_line(&line, wall().0)),
                Some(Err(error)) => return Ok(self.session.on_line_error(error)),
                None => {}
            }
            self.flush().await?;
            if self.input.is_empty() && self.input.capacity() > LINE_ROOM {
                self.input = BytesMut::new();
            }
            // Bytes that come do not extend the limit.
            let whole = self.limits.connection.saturating_sub(self.opened.elapsed());
            let left = limit.saturating_sub(began.elapsed()).min(whole);
            let read = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(self.session.on_stop()),
                read = timeout(left, receive(&mut self.stream, &mut self.input, LINE_ROOM)) => read,
            };
            match read {
                Ok(read) => read?,
                Err(_) => return Ok(self.session.on_timeout()),
            }
        }
    }

    /// Reads a piece of a mail and hands it to the session.
    async fn data(&mut self) -> Result<Actions<H>, End> {
        if self.input.is_empty() {
            self.flush().await?;
            let Transfer { since, received } = self.transfer;
            let left = self.limits.data_time(received).saturating_sub(since.elapsed());
            let left = left.min(self.limits.data_pause);
            match timeout(left, receive(&mut self.stream, &mut self.input, DATA_ROOM)).await {
                Ok(read) => read?,
                Err(_) => return Ok(self.session.on_timeout()),
            }
        }
        let (taken, actions) = self.session.on_data_chunk(&self.input);
        self.input.advance(taken);
        self.transfer.received = self.transfer.received.saturating_add(taken);
        // A complete mail holds its memory until the handler has answered.
        if actions.is_empty() && !self.share.hold(self.session.buffered()) {
            self.session.discard(Discard::NoRoom);
            self.share.hold(0);
        }
        Ok(actions)
    }

    async fn perform(&mut self, actions: Actions<H>) -> Result<(), End> {
        let mut actions = VecDeque::from(actions);
        let limit = self.limits.answer;
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Reply(reply) => reply.write(&mut self.output),
                Action::Count(counter) => self.counts.count(counter),
                Action::StartTls => self.start_tls().await?,
                Action::AskRecipient { address, sender } => {
                    let answer = timeout(limit, self.handler.recipient(&address, &sender)).await;
                    let answer = Answer::Recipient(answer.unwrap_or(Err(RecipientError::NotReady)));
                    actions.extend(self.session.on_answer(answer));
                }
                Action::AskPassword { given, client } => {
                    let check = self.handler.check_password(&given.user, &given.password, client);
                    let answer = timeout(limit, check).await.unwrap_or(PasswordCheck::Later);
                    actions.extend(self.session.on_answer(Answer::Password(answer)));
                }
                Action::ReadData { .. } => {
                    self.transfer = Transfer { since: BootInstant::now(), received: 0 };
                }
                Action::Deliver(mail) => {
                    let deliveries = timeout(limit, self.handler.deliver(mail)).await.unwrap_or_default();
                    actions.extend(self.session.on_answer(Answer::Deliveries(deliveries)));
                }
                Action::Close => {
                    self.flush().await?;
                    return Err(End::Ours);
                }
            }
        }
        if self.session.reads() != Reads::Data {
            self.share.hold(0);
        }
        Ok(())
    }

    async fn start_tls(&mut self) -> Result<(), End> {
        self.flush().await?;
        // Bytes that came in clear may come from an attacker between client and server.
        self.input.clear();
        let Some(config) = self.tls.clone() else { return Err(End::Ours) };
        let clear = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        // On the heap: most connections never get here.
        let handshake = Box::pin(timeout(self.limits.transport, tls::accept(clear, config)));
        let encrypted = handshake.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        self.stream = encrypted.inspect_err(|_| self.counts.count(Counter::TlsFailed))?;
        self.session.on_tls();
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.output.is_empty() {
            return Ok(());
        }
        let send = async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        };
        timeout(self.limits.transport, send).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        self.output = Vec::new();
        Ok(())
    }

    /// Closes after the client had time to read: closing while bytes come in resets the connection, and the last reply
    /// is lost.
    async fn linger(&mut self) {
        let mut left = self.limits.overrun;
        let drain = async {
            self.stream.shutdown().await?;
            while left > 0 {
                self.input.clear();
                match receive(&mut self.stream, &mut self.input, DATA_ROOM).await {
                    Ok(()) => left = left.saturating_sub(self.input.len()),
                    Err(_) => break,
                }
            }
            io::Result::Ok(())
        };
        // A failure leaves nothing to do: the connection ends in any case.
        drop(timeout(LINGER, drain).await);
    }
}

/// Receives at least one byte.
async fn receive(stream: &mut Stream, input: &mut BytesMut, room: usize) -> Result<(), End> {
    input.reserve(room);
    match stream.read_buf(input).await? {
        0 => Err(End::Theirs),
        _ => Ok(()),
    }
}
