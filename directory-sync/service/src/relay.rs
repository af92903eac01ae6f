//! Relay between a server and the LDAP library: forwards checked answers to requests that are under way, as fast as
//! their reader takes them.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    sync::Notify,
};

use crate::{
    Bounds, FrameChecker,
    message::{
        self, BIND_REQUEST, BIND_RESPONSE, INTERMEDIATE, SEARCH_DONE, SEARCH_ENTRY, SEARCH_REFERENCE,
        SEARCH_REQUEST,
    },
};

/// Bytes of one read.
const READ_SIZE: usize = 16 << 10;

/// Reason of the end when the server just closes.
const CLOSED: &str = "the server closed the connection";

/// Both ends of a byte stream to a server.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// State that the relay shares with the reader of results.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Results that their reader took.
    taken: AtomicU64,
    wake: Notify,
    ending: Mutex<Option<String>>,
}

impl Shared {
    /// Counts a result as taken.
    pub fn take_result(&self) {
        self.taken.fetch_add(1, Ordering::AcqRel);
        self.wake.notify_one();
    }

    /// Reason why the connection ended.
    pub fn ending(&self) -> String {
        lock(&self.ending).clone().unwrap_or_else(|| CLOSED.to_owned())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kind of a request that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    Bind,
    Search,
}

type Requests = Mutex<HashMap<i32, Pending>>;

/// Runs until either end closes or the server exceeds a bound.
pub(crate) async fn relay(server: Box<dyn Transport>, mut client: UnixStream, shared: &Shared, bounds: Bounds) {
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let (mut from_client, mut to_client) = client.split();
    let pending = Requests::default();
    let ending = tokio::select! {
        ending = requests(&mut from_client, &mut to_server, &pending, bounds) => ending,
        ending = answers(&mut from_server, &mut to_client, &pending, shared, bounds) => ending,
    };
    // Before the sockets close, because the reader asks for the reason as soon as they do.
    lock(&shared.ending).get_or_insert(ending);
}

async fn requests(
    client: &mut (impl AsyncRead + Unpin),
    server: &mut (impl AsyncWrite + Unpin),
    pending: &Requests,
    bounds: Bounds,
) -> String {
    let mut checker = FrameChecker::new(bounds.frames);
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let read = match client.read(&mut buffer).await {
            Ok(read) if read > 0 => read,
            _ => return "the connection is not in use any more".to_owned(),
        };
        let mut input = buffer.get(..read).unwrap_or_default();
        loop {
            let request = match checker.read(&mut input) {
                Ok(Some(request)) => request,
                Ok(None) => break,
                Err(error) => return format!("a request is too large: {error}"),
            };
            match message::request(&request) {
                Ok((id, BIND_REQUEST)) => {
                    lock(pending).insert(id, Pending::Bind);
                }
                Ok((id, SEARCH_REQUEST)) => {
                    lock(pending).insert(id, Pending::Search);
                }
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
            let written = async {
                server.write_all(&request).await?;
                server.flush().await
            };
            if let Err(error) = written.await {
                return described(&error);
            }
        }
    }
}

async fn answers(
    server: &mut (impl AsyncRead + Unpin),
    client: &mut (impl AsyncWrite + Unpin),
    pending: &Requests,
    shared: &Shared,
    bounds: Bounds,
) -> String {
    let mut checker = FrameChecker::new(bounds.frames);
    let mut window = Window::default();
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let read = match server.read(&mut buffer).await {
            Ok(0) => return CLOSED.to_owned(),
            Ok(read) => read,
            Err(error) => return described(&error),
        };
        let mut input = buffer.get(..read).unwrap_or_default();
        loop {
            let answer = match checker.read(&mut input) {
                Ok(Some(answer)) => answer,
                Ok(None) => break,
                Err(error) => return format!("the server sent a message that is not accepted: {error}"),
            };
            match route(&answer, pending) {
                Ok(Route::Drop) => continue,
                Ok(Route::Last) => {}
                Ok(Route::Result) => window.admit(answer.len(), shared, bounds.queued).await,
                Err(reason) => return reason,
            }
            if client.write_all(&answer).await.is_err() {
                return "the connection is not in use any more".to_owned();
            }
        }
    }
}

/// Destination of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    /// To the reader of a search's results.
    Result,
    /// To the requester: the last answer.
    Last,
    /// Nowhere: its request is not under way.
    Drop,
}

fn route(answer: &[u8], pending: &Requests) -> Result<Route, String> {
    let envelope = message::envelope(answer)
        .map_err(|error| format!("the server sent a message that is not accepted: {error}"))?;
    if envelope.id == 0 {
        let text = message::outcome(envelope.content).map(|outcome| outcome.text).unwrap_or_default();
        return Err(format!("the server ended the connection: {text}"));
    }
    let mut pending = lock(pending);
    match (pending.get(&envelope.id), envelope.operation) {
        (None, _) => Ok(Route::Drop),
        (Some(Pending::Search), SEARCH_ENTRY | SEARCH_REFERENCE | INTERMEDIATE) => Ok(Route::Result),
        (Some(Pending::Search), SEARCH_DONE) | (Some(Pending::Bind), BIND_RESPONSE) => {
            pending.remove(&envelope.id);
            Ok(Route::Last)
        }
        _ => Err("the server answered a request with an answer of another kind".to_owned()),
    }
}

/// Sizes of the results that wait for their reader.
#[derive(Debug, Default)]
struct Window {
    sizes: VecDeque<usize>,
    queued: usize,
    counted: u64,
}

impl Window {
    /// Waits until a result of this size fits.
    async fn admit(&mut self, size: usize, shared: &Shared, bound: usize) {
        loop {
            let taken = shared.taken.load(Ordering::Acquire);
            while self.counted < taken {
                let Some(size) = self.sizes.pop_front() else { break };
                self.queued = self.queued.saturating_sub(size);
                self.counted += 1;
            }
            if self.queued == 0 || self.queued + size <= bound {
                break;
            }
            shared.wake.notified().await;
        }
        self.sizes.push_back(size);
        self.queued += size;
    }
}

fn described(error: &io::Error) -> String {
    match error.kind() {
        // The end of a TLS connection without a goodbye is an end like any other.
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            CLOSED.to_owned()
        }
        _ => format!("the connection broke: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ber::{INTEGER, SEQUENCE, write};

    fn answer(id: u8, operation: u8) -> Vec<u8> {
        let mut parts = vec![INTEGER, 1, id];
        write(&mut parts, operation, &[0x0a, 1, 52, 4, 0, 4, 3, b'b', b'y', b'e']);
        let mut out = Vec::new();
        write(&mut out, SEQUENCE, &parts);
        out
    }

    #[test]
    fn answers_reach_only_requests_of_their_kind() {
        let pending = Requests::default();
        lock(&pending).extend([(1, Pending::Bind), (2, Pending::Search)]);
        assert_eq!(route(&answer(3, SEARCH_ENTRY), &pending), Ok(Route::Drop));
        assert!(route(&answer(1, SEARCH_ENTRY), &pending).is_err(), "an entry answers no bind");
        assert!(route(&answer(2, BIND_RESPONSE), &pending).is_err(), "a sign-in answers no search");
        assert_eq!(route(&answer(2, SEARCH_ENTRY), &pending), Ok(Route::Result));
        assert_eq!(route(&answer(2, SEARCH_DONE), &pending), Ok(Route::Last));
        assert_eq!(route(&answer(2, SEARCH_DONE), &pending), Ok(Route::Drop), "it was the last answer");
        let notice = route(&answer(0, message::EXTENDED_RESPONSE), &pending);
        assert_eq!(notice, Err("the server ended the connection: bye".to_owned()));
    }

    #[tokio::test]
    async fn results_wait_until_their_reader_takes_earlier_ones() {
        let (shared, mut window) = (Shared::default(), Window::default());
        window.admit(200, &shared, 100).await;
        let mut next = Box::pin(window.admit(50, &shared, 100));
        assert!(futures::poll!(&mut next).is_pending(), "the first fills the queue");
        shared.take_result();
        assert!(futures::poll!(&mut next).is_ready());
    }
}
