//! A directory server whose answers are made up byte by byte (X.690, RFC 4511): as many people, and attributes as
//! large, as a test wants. It accepts every sign-in.

use std::{
    io::{BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use twinbox_testkit::NetPlace;

use crate::listener::Listener;

/// Maximum size of a request, in bytes.
const LARGEST: usize = 1 << 20;
/// Answers are written in blocks of about this size, in bytes.
const BLOCK: usize = 64 << 10;
const SUFFIX: &str = "dc=example,dc=org";

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const UNBIND: u8 = 0x42;
const BIND: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const SEARCH: u8 = 0x63;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
const EXTENDED: u8 = 0x77;
const EXTENDED_RESPONSE: u8 = 0x78;

/// Answer of a [`MadeUpDirectory`] to a search for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeopleAnswer {
    /// People, each with the same number of bytes in `jpegPhoto`.
    People {
        /// Number of people.
        count: usize,
        /// Size of each photo, in bytes.
        photo: usize,
    },
    /// One person, then another one whose `jpegPhoto` has this many bytes, sent as far as the client reads.
    HugePhoto(usize),
    /// One person after each such pause, without an end.
    Drip(Duration),
    /// Nothing, with an open connection.
    Silence,
}

/// A running server. Dropping it closes all connections.
#[derive(Debug)]
pub struct MadeUpDirectory {
    listener: Listener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    answer: Mutex<PeopleAnswer>,
    connections: AtomicU64,
    sent: AtomicU64,
}

impl MadeUpDirectory {
    /// Base of its people.
    pub const BASE: &'static str = SUFFIX;
    /// Telephone number of its first person; the others follow.
    pub const FIRST: usize = 2_000_000;

    /// Starts it at `place`.
    pub fn start(place: &NetPlace, port: u16, answer: PeopleAnswer) -> Self {
        let shared = Arc::new(Shared {
            answer: Mutex::new(answer),
            connections: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        let serving = shared.clone();
        let listener = Listener::start(place, port, move |stream| {
            serving.connections.fetch_add(1, Ordering::SeqCst);
            serving.serve(stream);
        });
        Self { listener, shared }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Gives this answer from the next search on.
    pub fn answer(&self, answer: PeopleAnswer) {
        *self.shared.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// Number of connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Bytes of huge attributes that clients took.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Serves one client until its connection ends.
    fn serve(&self, mut client: &TcpStream) {
        let mut reader = BufReader::new(client);
        while let Some(request) = message(&mut reader) {
            let Some((id, operation, content)) = parts(&request) else { return };
            let done = match operation {
                BIND => client.write_all(&result(&id, BIND_RESPONSE, 0)),
                EXTENDED => client.write_all(&result(&id, EXTENDED_RESPONSE, 2)),
                SEARCH if is_for_root(&content) => {
                    let root = [("objectClass", "top"), ("vendorName", "Made up"), ("namingContexts", SUFFIX)];
                    let found = entry(&id, "", &attributes(&root));
                    client.write_all(&[found, result(&id, SEARCH_DONE, 0)].concat())
                }
                SEARCH => self.people(client, &id),
                UNBIND => return,
                _ => Ok(()),
            };
            if done.is_err() {
                return;
            }
        }
    }

    fn people(&self, mut client: &TcpStream, id: &[u8]) -> std::io::Result<()> {
        let answer = *self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, photo) = match answer {
            PeopleAnswer::People { count, photo } => (count, photo),
            PeopleAnswer::HugePhoto(bytes) => {
                client.write_all(&person(id, 0, 0))?;
                return self.huge(client, id, bytes);
            }
            PeopleAnswer::Drip(pause) => {
                let mut all = 0..usize::MAX;
                return all.try_for_each(|n| {
                    thread::sleep(pause);
                    client.write_all(&person(id, n, 0))
                });
            }
            PeopleAnswer::Silence => return std::io::copy(&mut client, &mut std::io::sink()).map(drop),
        };
        let mut block = Vec::new();
        for n in 0..count {
            block.extend(person(id, n, photo));
            if block.len() >= BLOCK {
                client.write_all(&block)?;
                block.clear();
            }
        }
        block.extend(result(id, SEARCH_DONE, 0));
        client.write_all(&block)
    }

    /// Sends a person with a photo of this size, and the end of the search.
    fn huge(&self, mut client: &TcpStream, id: &[u8], bytes: usize) -> std::io::Result<()> {
        client.write_all(&huge_head(id, bytes))?;
        let block = [b'x'; BLOCK];
        let mut left = bytes;
        while left > 0 {
            let part = block.get(..left.min(BLOCK)).unwrap_or_default();
            client.write_all(part)?;
            self.sent.fetch_add(part.len() as u64, Ordering::SeqCst);
            left -= part.len();
        }
        client.write_all(&result(id, SEARCH_DONE, 0))
    }
}

/// The head of an element with a content of this length.
fn head(tag: u8, length: usize) -> Vec<u8> {
    let mut out = vec![tag, 0x84];
    out.extend((length as u32).to_be_bytes());
    out
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    [&head(tag, content.len())[..], content].concat()
}

/// `id` is the content of the message id, as the client sent it.
fn wrapped(id: &[u8], operation: u8, content: &[u8]) -> Vec<u8> {
    element(SEQUENCE, &[element(INTEGER, id), element(operation, content)].concat())
}

fn result(id: &[u8], operation: u8, code: u8) -> Vec<u8> {
    wrapped(id, operation, &[element(ENUMERATED, &[code]), element(OCTETS, b""), element(OCTETS, b"")].concat())
}

fn attribute(name: &str, value: &[u8]) -> Vec<u8> {
    element(SEQUENCE, &[element(OCTETS, name.as_bytes()), element(SET, &element(OCTETS, value))].concat())
}

fn attributes(values: &[(&str, &str)]) -> Vec<u8> {
    values.iter().flat_map(|(name, value)| attribute(name, value.as_bytes())).collect()
}

fn entry(id: &[u8], dn: &str, attributes: &[u8]) -> Vec<u8> {
    wrapped(id, SEARCH_ENTRY, &[element(OCTETS, dn.as_bytes()), element(SEQUENCE, attributes)].concat())
}

fn dn(n: usize) -> String {
    format!("uid=u{n},{SUFFIX}")
}

/// The attributes of a person without the photo.
fn texts(n: usize) -> Vec<u8> {
    let (uuid, number) = (format!("{n:08x}-0000-4000-8000-{n:012x}"), (MadeUpDirectory::FIRST + n).to_string());
    let (uid, name) = (format!("u{n}"), format!("User {n}"));
    attributes(&[
        ("objectClass", "person"),
        ("entryUUID", uuid.as_str()),
        ("uid", uid.as_str()),
        ("displayName", name.as_str()),
        ("telephoneNumber", number.as_str()),
    ])
}

fn person(id: &[u8], n: usize, photo: usize) -> Vec<u8> {
    let mut attributes = texts(n);
    if photo > 0 {
        attributes.extend(attribute("jpegPhoto", &vec![b'x'; photo]));
    }
    entry(id, &dn(n), &attributes)
}

/// The bytes of a person up to the photo, which has this many bytes and is the last part.
fn huge_head(id: &[u8], bytes: usize) -> Vec<u8> {
    let before = [
        (SET, Vec::new()),
        (SEQUENCE, element(OCTETS, b"jpegPhoto")),
        (SEQUENCE, texts(1)),
        (SEARCH_ENTRY, element(OCTETS, dn(1).as_bytes())),
        (SEQUENCE, element(INTEGER, id)),
    ];
    before.into_iter().fold(head(OCTETS, bytes), |inner, (tag, before)| {
        let content = [before, inner].concat();
        [head(tag, content.len() + bytes), content].concat()
    })
}

/// The content of the next message of a client; `None` at the end of the connection.
fn message(reader: &mut impl Read) -> Option<Vec<u8>> {
    let mut start = [0; 2];
    reader.read_exact(&mut start).ok()?;
    let [tag, first] = start;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let mut bytes = vec![0; usize::from(first & 0x7f)];
        reader.read_exact(&mut bytes).ok()?;
        length = bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte));
    }
    if tag != SEQUENCE || length > LARGEST {
        return None;
    }
    let mut content = vec![0; length];
    reader.read_exact(&mut content).ok()?;
    Some(content)
}

/// Tag and content of the first element, and the bytes after it.
fn first(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        _ => {
            let (long, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (long.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Id, operation and its content of a request.
fn parts(request: &[u8]) -> Option<(Vec<u8>, u8, Vec<u8>)> {
    let (_, id, rest) = first(request)?;
    let (operation, content, _) = first(rest)?;
    Some((id.to_vec(), operation, content.to_vec()))
}

/// A search whose base is empty asks for the server's description of itself.
fn is_for_root(search: &[u8]) -> bool {
    first(search).is_some_and(|(_, base, _)| base.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_of_a_huge_person_is_that_of_a_whole_one() {
        let (id, bytes) = ([0x12, 0x34], 70_000);
        let huge = [huge_head(&id, bytes), vec![b'x'; bytes]].concat();
        assert_eq!(huge, person(&id, 1, bytes));
    }

    #[test]
    fn requests_are_read_in_short_and_long_lengths() {
        let search = element(SEARCH, &[element(OCTETS, b""), element(ENUMERATED, &[0])].concat());
        let request = element(SEQUENCE, &[&[INTEGER, 1, 7][..], &search].concat());
        let content = message(&mut &request[..]).expect("a message");
        let (id, operation, content) = parts(&content).expect("a request");
        assert_eq!((id.as_slice(), operation, is_for_root(&content)), (&[7][..], SEARCH, true));
        assert_eq!(message(&mut &request[..10]), None);
        assert!(!is_for_root(&element(OCTETS, b"dc=org")));
    }
}
