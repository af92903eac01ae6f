//! A bound on slow readers: a recording is in memory until its client has taken it.

use std::{
    io::{self, ErrorKind::TimedOut, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Time for which a client may keep the node waiting.
const PATIENCE: Duration = Duration::from_secs(30);
/// Waiting time in microseconds that a client gains back by each byte that it takes: 4 kB/s, half of what a telephone's
/// sound needs, suffice.
const GAINED_PER_BYTE_US: u64 = 250;

/// A stream that fails when its client takes nothing for [`PATIENCE`], or keeps taking less than 4 kB/s.
pub(crate) struct MinimumRate<S> {
    stream: S,
    /// Time for which the client may still keep the node waiting, at most [`PATIENCE`].
    left: Duration,
    /// Runs while the client keeps the node waiting; ends when nothing is left.
    wait: Option<Pin<Box<Sleep>>>,
}

impl<S> MinimumRate<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, left: PATIENCE, wait: None }
    }

    /// Returns the outcome of a write, or an error if the client has kept the node waiting for too long.
    fn bounded(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let left = self.left;
        let Poll::Ready(written) = written else {
            let wait = self.wait.get_or_insert_with(|| Box::pin(sleep(left)));
            ready!(wait.as_mut().poll(context));
            (self.wait, self.left) = (None, Duration::ZERO);
            return Poll::Ready(Err(io::Error::new(TimedOut, "the client reads too slowly")));
        };
        if let Some(wait) = self.wait.take() {
            let begun = wait.deadline() - left;
            self.left = left.saturating_sub(begun.elapsed());
        }
        if let Ok(bytes) = &written {
            let gained = Duration::from_micros(GAINED_PER_BYTE_US.saturating_mul(*bytes as u64));
            self.left = PATIENCE.min(self.left.saturating_add(gained));
        }
        Poll::Ready(written)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MinimumRate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MinimumRate<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.bounded(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Bytes between node and client.
    const BUFFER: usize = 16 * 1024;
    /// Two minutes of a telephone's sound.
    const RECORDING: usize = 960_000;

    /// Writes a recording to a client that takes this many bytes after each pause: the outcome, and its time in seconds.
    async fn write(taken: usize, pause_s: u64) -> (io::Result<()>, u64) {
        let (ours, mut theirs) = duplex(BUFFER);
        let reading = tokio::spawn(async move {
            let mut buffer = vec![0; taken];
            loop {
                sleep(Duration::from_secs(pause_s)).await;
                if taken > 0 && theirs.read_exact(&mut buffer).await.is_err() {
                    break;
                }
            }
        });
        let begun = sleep(Duration::ZERO).deadline();
        let written = MinimumRate::new(ours).write_all(&vec![0; RECORDING]).await;
        let seconds = begun.elapsed().as_secs();
        reading.abort();
        (written, seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_takes_nothing_is_given_up_in_time() {
        let (written, seconds) = write(0, 1).await;
        assert_eq!(written.expect_err("given up").kind(), TimedOut);
        assert!((30..32).contains(&seconds), "{seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_takes_too_little_is_given_up_although_it_takes_something_each_second() {
        let (written, seconds) = write(2_000, 1).await;
        assert_eq!(written.expect_err("given up").kind(), TimedOut);
        assert!((58..64).contains(&seconds), "{seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn slow_client_gets_all_of_it_even_if_it_pauses() {
        for (taken, pause_s) in [(4_500, 1), (16_000, 1), (100_000, 25)] {
            let (written, seconds) = write(taken, pause_s).await;
            assert!(written.is_ok(), "{taken} bytes each {pause_s} s: given up after {seconds} s");
        }
    }
}
