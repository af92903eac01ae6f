//! A relay in front of a server that holds or loses the server's answers at a chosen point, for as long as a test
//! wants: the server carries out a request, and the client gets no answer.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use twinbox_testkit::NetPlace;

use crate::listener::{Connections, Listener};

/// Maximum number of bytes that are relayed at a time.
const PIECE: usize = 4 << 10;

/// A running relay. Dropping it closes all connections.
#[derive(Debug)]
pub struct HoldingRelay {
    listener: Listener,
    flow: Arc<Flow>,
    /// Connections to the server.
    upstream: Connections,
}

/// Treatment of the server's answers on each connection, from its first byte on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Pass,
    /// Up to the piece that exceeds this many bytes.
    HoldAfter(usize),
    /// Up to the piece that has these bytes.
    HoldAt(Vec<u8>),
    CloseAfter(usize),
}

#[derive(Debug)]
struct Flow {
    rule: Mutex<Rule>,
    changed: Condvar,
    /// Connections whose answers are held now.
    held: AtomicUsize,
    /// Connections that their client has not closed.
    open: AtomicUsize,
    /// Connections so far.
    all: AtomicUsize,
}

/// Next act with a piece of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Act {
    Pass,
    Hold,
    Close,
}

impl Rule {
    /// The act with a piece that follows this many bytes.
    fn act(&self, before: usize, piece: &[u8]) -> Act {
        match self {
            Self::HoldAfter(most) if before + piece.len() > *most => Act::Hold,
            Self::HoldAt(marker) if piece.windows(marker.len()).any(|part| part == marker.as_slice()) => Act::Hold,
            Self::CloseAfter(most) if before + piece.len() > *most => Act::Close,
            _ => Act::Pass,
        }
    }
}

impl HoldingRelay {
    /// Relays connections to `place` on to `server`, and holds nothing yet.
    pub fn start(place: &NetPlace, port: u16, server: SocketAddr) -> Self {
        let flow = Arc::new(Flow {
            rule: Mutex::new(Rule::Pass),
            changed: Condvar::new(),
            held: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            all: AtomicUsize::new(0),
        });
        let upstream = Connections::default();
        let (shared, from, opened) = (flow.clone(), place.clone(), upstream.clone());
        let listener = Listener::start(place, port, move |client| {
            if let Ok(server) = from.tcp(server) {
                opened.add(&server);
                shared.relay(client, &server);
            }
        });
        Self { listener, flow, upstream }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Holds the answers of each connection from this number of bytes on.
    pub fn hold_after(&self, bytes: usize) {
        self.flow.set(Rule::HoldAfter(bytes));
    }

    /// Holds the answers of each connection from the first one on that contains `marker`.
    pub fn hold_at(&self, marker: &str) {
        self.flow.set(Rule::HoldAt(marker.as_bytes().to_vec()));
    }

    /// Closes each connection at this number of bytes of its answers.
    pub fn close_after(&self, bytes: usize) {
        self.flow.set(Rule::CloseAfter(bytes));
    }

    /// Lets everything pass from now on, also the held answers.
    pub fn pass(&self) {
        self.flow.set(Rule::Pass);
    }

    /// Number of connections whose answers are held now.
    pub fn held(&self) -> usize {
        self.flow.held.load(Ordering::SeqCst)
    }

    /// Number of connections that their client has not closed.
    pub fn open(&self) -> usize {
        self.flow.open.load(Ordering::SeqCst)
    }

    /// Number of connections so far.
    pub fn connections(&self) -> usize {
        self.flow.all.load(Ordering::SeqCst)
    }
}

impl Drop for HoldingRelay {
    fn drop(&mut self) {
        self.flow.set(Rule::CloseAfter(0));
        self.listener.connections().close();
        self.upstream.close();
    }
}

impl Flow {
    fn rule(&self) -> MutexGuard<'_, Rule> {
        self.rule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, rule: Rule) {
        *self.rule() = rule;
        self.changed.notify_all();
    }

    /// Relays both directions until one ends, then closes both.
    fn relay(&self, client: &TcpStream, server: &TcpStream) {
        let left = AtomicBool::new(false);
        self.all.fetch_add(1, Ordering::SeqCst);
        self.open.fetch_add(1, Ordering::SeqCst);
        thread::scope(|scope| {
            scope.spawn(|| {
                self.answers(client, server, &left);
                close(client, server);
            });
            let _ = io::copy(&mut &*client, &mut &*server);
            self.open.fetch_sub(1, Ordering::SeqCst);
            left.store(true, Ordering::SeqCst);
            // Under the lock, so that a thread that is about to wait for a change sees this one.
            drop(self.rule());
            self.changed.notify_all();
            close(client, server);
        });
    }

    fn answers(&self, mut client: &TcpStream, mut server: &TcpStream, left: &AtomicBool) {
        let (mut piece, mut relayed) = ([0; PIECE], 0);
        loop {
            let read = match server.read(&mut piece) {
                Ok(read) if read > 0 => read,
                _ => return,
            };
            let bytes = piece.get(..read).unwrap_or_default();
            if !self.admits(relayed, bytes, left) || client.write_all(bytes).is_err() {
                return;
            }
            relayed += read;
        }
    }

    /// Waits while the piece is held; false if the connection ends instead.
    fn admits(&self, relayed: usize, piece: &[u8], left: &AtomicBool) -> bool {
        let mut rule = self.rule();
        let mut counted = false;
        loop {
            let act = if left.load(Ordering::SeqCst) { Act::Close } else { rule.act(relayed, piece) };
            match act {
                Act::Hold if !counted => {
                    counted = true;
                    self.held.fetch_add(1, Ordering::SeqCst);
                }
                Act::Hold => {}
                Act::Pass | Act::Close => {
                    if counted {
                        self.held.fetch_sub(1, Ordering::SeqCst);
                    }
                    return act == Act::Pass;
                }
            }
            rule = self.changed.wait(rule).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn close(client: &TcpStream, server: &TcpStream) {
    for stream in [client, server] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piece_is_held_or_lost_at_the_chosen_point_alone() {
        let cases = [
            (Rule::Pass, 0, Act::Pass),
            (Rule::HoldAfter(10), 5, Act::Pass),
            (Rule::HoldAfter(10), 6, Act::Hold),
            (Rule::CloseAfter(10), 5, Act::Pass),
            (Rule::CloseAfter(10), 6, Act::Close),
            (Rule::HoldAt(b"bcd".to_vec()), 0, Act::Hold),
            (Rule::HoldAt(b"bd".to_vec()), 0, Act::Pass),
        ];
        for (rule, before, act) in cases {
            assert_eq!(rule.act(before, b"abcde"), act, "{rule:?} after {before}");
        }
    }
}
