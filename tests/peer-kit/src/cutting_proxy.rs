//! A relay in front of an IMAP server that loses the connection at a chosen command.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use twinbox_testkit::NetPlace;

use crate::{
    client_stream::{Begin, ClientStream, Piece},
    listener::{Connections, Listener},
};

/// Maximum length of a line of the server, in bytes; a longer one is relayed in parts.
const LONGEST: u64 = 64 << 10;

/// Parameter of a SELECT that resumes.
const RESUMES: &[u8] = b"(QRESYNC (";

/// Point at which a connection is lost. Commands are counted on their connection; 0 is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// This command does not reach the server.
    Before(usize),
    /// Half of the first literal that the client sends reaches the server.
    InLiteral,
    /// The server carries out this command, and its answer is lost.
    After(usize),
}

/// A running relay. Dropping it closes all connections.
#[derive(Debug)]
pub struct CuttingProxy {
    listener: Listener,
    plan: Arc<Mutex<Plan>>,
    /// Folders that were opened from the last state seen.
    resumed: Arc<AtomicUsize>,
    /// Connections to the server.
    upstream: Connections,
}

#[derive(Debug, Default)]
struct Plan {
    /// Connections are closed before their first byte.
    refuses: bool,
    cut: Option<Cut>,
    done: Option<String>,
}

impl CuttingProxy {
    /// Relays connections to `place` on to `server`, and loses none until [`Self::cut`].
    pub fn start(place: &NetPlace, port: u16, server: SocketAddr) -> Self {
        let (plan, upstream) = (Arc::new(Mutex::new(Plan::default())), Connections::default());
        let resumed = Arc::new(AtomicUsize::new(0));
        let (shared, from, opened, counted) = (plan.clone(), place.clone(), upstream.clone(), resumed.clone());
        let listener = Listener::start(place, port, move |client| {
            if locked(&shared).refuses {
                return;
            }
            if let Ok(server) = from.tcp(server) {
                opened.add(&server);
                relay(client, &server, &shared, &counted);
            }
        });
        Self { listener, plan, resumed, upstream }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Loses all connections, and takes none until [`Self::cut`] or [`Self::pass`].
    pub fn refuse(&self) {
        *self.plan() = Plan { refuses: true, cut: None, done: None };
        self.listener.connections().close();
        self.upstream.close();
    }

    /// Loses the next connection that comes so far at this point. Connections after that pass.
    pub fn cut(&self, cut: Cut) {
        *self.plan() = Plan { refuses: false, cut: Some(cut), done: None };
    }

    /// Lets everything pass from now on.
    pub fn pass(&self) {
        *self.plan() = Plan::default();
    }

    /// The command at which a connection was lost since the last [`Self::cut`].
    pub fn was_cut(&self) -> Option<String> {
        self.plan().done.clone()
    }

    /// Number of times that a client opened a folder from the last state seen (QRESYNC, RFC 7162 section 3.2.5).
    pub fn resumed(&self) -> usize {
        self.resumed.load(Ordering::SeqCst)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        locked(&self.plan)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the planned cut, if it is at this command.
fn take(plan: &Mutex<Plan>, command: usize, begin: &Begin, has_literal: bool) -> Option<Cut> {
    let mut plan = locked(plan);
    let cut = plan.cut.take_if(|cut| match cut {
        Cut::Before(chosen) | Cut::After(chosen) => *chosen == command,
        Cut::InLiteral => has_literal,
    })?;
    plan.done = Some(begin.name.clone());
    Some(cut)
}

/// Relays both directions until one ends or the connection is cut, then closes both.
fn relay(client: &TcpStream, server: &TcpStream, plan: &Mutex<Plan>, resumed: &AtomicUsize) {
    // Tag of the command whose answer is lost.
    let lost = Mutex::new(None);
    thread::scope(|scope| {
        scope.spawn(|| {
            answers(client, server, &lost);
            close(client, server);
        });
        commands(client, server, plan, &lost, resumed);
        close(client, server);
    });
}

fn close(client: &TcpStream, server: &TcpStream) {
    for stream in [client, server] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// Relays commands until the connection ends, or up to the cut. If an answer is lost, the other direction ends the
/// connection when it has come.
fn commands(
    client: &TcpStream,
    mut server: &TcpStream,
    plan: &Mutex<Plan>,
    lost: &Mutex<Option<String>>,
    resumed: &AtomicUsize,
) {
    let mut stream = ClientStream::new(BufReader::new(client));
    let (mut count, mut in_literal) = (0, false);
    while let Ok(Some(Piece { bytes, begins, literal })) = stream.next() {
        if in_literal {
            let _ = server.write_all(bytes.get(..bytes.len() / 2).unwrap_or_default());
            return;
        }
        if let Some(begin) = begins {
            if begin.name == "SELECT" && bytes.windows(RESUMES.len()).any(|part| part == RESUMES) {
                resumed.fetch_add(1, Ordering::SeqCst);
            }
            match take(plan, count, &begin, literal.is_some()) {
                Some(Cut::Before(_)) => return,
                Some(Cut::InLiteral) => in_literal = true,
                Some(Cut::After(_)) => *locked(lost) = Some(begin.tag),
                None => {}
            }
            count += 1;
        }
        if server.write_all(&bytes).is_err() {
            return;
        }
    }
}

/// Relays answers until the connection ends, or up to the answer that is lost.
fn answers(mut client: &TcpStream, server: &TcpStream, lost: &Mutex<Option<String>>) {
    let mut server = BufReader::new(server);
    loop {
        let mut line = Vec::new();
        match server.by_ref().take(LONGEST).read_until(b'\n', &mut line) {
            Ok(1..) => {}
            _ => return,
        }
        let tag = locked(lost).clone();
        let Some(tag) = tag else {
            match client.write_all(&line) {
                Ok(()) => continue,
                Err(_) => return,
            }
        };
        // Of IDLE, the answer is a request to continue. A request for a literal passes.
        let text = String::from_utf8_lossy(&line);
        let is_answer = text.strip_prefix(tag.as_str()).is_some_and(|rest| rest.starts_with(' '));
        if is_answer || text.starts_with("+ idling") {
            return;
        }
        if text.starts_with('+') && client.write_all(&line).is_err() {
            return;
        }
    }
}
