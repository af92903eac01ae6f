//! An IMAP server that breaks the protocol, to exhaust a client or to make it delete messages.

use std::{
    fmt::Write as _,
    io::{BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use twinbox_testkit::NetPlace;

use crate::{
    client_stream::{Begin, ClientStream},
    listener::Listener,
};

/// Behaviour of a [`HostileImap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hostility {
    /// It takes connections and never says a word.
    Silence,
    /// It announces a literal of 4 GiB when a folder is opened, and sends it as long as the client reads.
    HugeLiteral,
    /// It names UIDs that no mail has, the same one for several mails, and another UIDVALIDITY each time.
    LyingUids,
    /// Its folder is empty under another UIDVALIDITY at each SELECT, and takes every mail.
    ChangingUids,
}

/// A running server. Dropping it closes all connections.
#[derive(Debug)]
pub struct HostileImap {
    listener: Listener,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    mails: AtomicU64,
    sent: AtomicU64,
    /// Number of times that a folder was opened.
    looks: AtomicU64,
}

impl HostileImap {
    /// Starts it at `place`.
    pub fn start(place: &NetPlace, port: u16, hostility: Hostility) -> Self {
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        let listener = Listener::start(place, port, move |stream| {
            shared.connections.fetch_add(1, Ordering::Relaxed);
            match hostility {
                Hostility::Silence => drop(std::io::copy(&mut &*stream, &mut std::io::sink())),
                _ => session(stream, hostility, &shared),
            }
        });
        Self { listener, counts }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Number of connections so far.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Number of mails that were appended.
    pub fn mails(&self) -> u64 {
        self.counts.mails.load(Ordering::Relaxed)
    }

    /// Bytes of huge literals that clients took.
    pub fn sent(&self) -> u64 {
        self.counts.sent.load(Ordering::Relaxed)
    }
}

/// Serves one client: sign-in is as usual, everything else is not.
fn session(mut client: &TcpStream, hostility: Hostility, counts: &Counts) {
    let mut stream = ClientStream::new(BufReader::new(client));
    if client.write_all(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\r\n").is_err() {
        return;
    }
    let mut current: Option<Begin> = None;
    while let Ok(Some(piece)) = stream.next() {
        if piece.begins.is_some() {
            current = piece.begins;
        }
        if piece.literal.is_some() && client.write_all(b"+ go on\r\n").is_err() {
            return;
        }
        // A literal has no line end; the line after it ends the command.
        if piece.literal.is_some() || !piece.bytes.ends_with(b"\r\n") {
            continue;
        }
        let Some(Begin { tag, name }) = current.take() else { continue };
        if name == "SELECT" && hostility == Hostility::HugeLiteral {
            return flood(client, counts);
        }
        let answer = match hostility {
            Hostility::ChangingUids => changes(&tag, &name, counts),
            _ => lies(&tag, &name, counts),
        };
        if client.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Sends a literal of 4 GiB until the client closes the connection.
fn flood(mut client: &TcpStream, counts: &Counts) {
    let block = [b'x'; 64 << 10];
    let mut length = client.write_all(b"* 1 FETCH (UID 1 BODY[] {4294967295}\r\n").map(|()| 0);
    while let Ok(sent) = length {
        counts.sent.fetch_add(sent, Ordering::Relaxed);
        length = client.write_all(&block).map(|()| block.len() as u64);
    }
}

/// An answer of a folder that is another one at each SELECT.
fn changes(tag: &str, name: &str, counts: &Counts) -> String {
    let looks = || counts.looks.load(Ordering::Relaxed);
    let (text, end) = match name {
        "SELECT" => {
            counts.looks.fetch_add(1, Ordering::Relaxed);
            let flags = "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)\r\n* 0 EXISTS\r\n* 0 RECENT\r\n";
            let uids = format!("* OK [UIDVALIDITY {}] another\r\n* OK [UIDNEXT 1] first\r\n", looks());
            (flags.to_owned() + &uids, "OK [READ-WRITE] selected".to_owned())
        }
        "APPEND" => {
            counts.mails.fetch_add(1, Ordering::Relaxed);
            (String::new(), format!("OK [APPENDUID {} 1] appended", looks()))
        }
        // It is there, as far as the client can know.
        "UID FETCH" => (String::new(), "NO not now".to_owned()),
        "UID SEARCH" => ("* SEARCH\r\n".to_owned(), "OK none".to_owned()),
        "CAPABILITY" => ("* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN UIDPLUS\r\n".to_owned(), "OK done".to_owned()),
        "AUTHENTICATE" | "LOGIN" => (String::new(), "OK [CAPABILITY IMAP4rev1 SASL-IR UIDPLUS] welcome".to_owned()),
        _ => (String::new(), "OK done".to_owned()),
    };
    format!("{text}{tag} {end}\r\n")
}

/// An answer with UIDs that are not true.
fn lies(tag: &str, name: &str, counts: &Counts) -> String {
    let mut text = String::new();
    let mut end = "done".to_owned();
    match name {
        "CAPABILITY" => {
            text += "* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN ENABLE UIDPLUS MOVE CONDSTORE QRESYNC\r\n"
        }
        "AUTHENTICATE" | "LOGIN" => {
            end = "[CAPABILITY IMAP4rev1 SASL-IR ENABLE UIDPLUS MOVE CONDSTORE QRESYNC] welcome".to_owned();
        }
        "ENABLE" => text += "* ENABLED QRESYNC CONDSTORE\r\n",
        "SELECT" => {
            let validity = counts.connections.load(Ordering::Relaxed);
            text +=
                "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)\r\n* 4294967295 EXISTS\r\n* 0 RECENT\r\n";
            let _ = write!(text, "* OK [UIDVALIDITY {validity}] changes\r\n* OK [UIDNEXT 4294967295] large\r\n");
            text += "* OK [HIGHESTMODSEQ 9223372036854775807] largest\r\n* VANISHED (EARLIER) 1:4294967295\r\n";
            end = "[READ-WRITE] selected".to_owned();
        }
        "APPEND" => {
            counts.mails.fetch_add(1, Ordering::Relaxed);
            end = "[APPENDUID 4294967295 4294967295] appended".to_owned();
        }
        "UID SEARCH" | "SEARCH" => {
            text += "* SEARCH";
            for uid in 0..100_000_u32 {
                let _ = write!(text, " {}", u32::MAX - uid);
            }
            text += "\r\n";
        }
        "UID FETCH" | "FETCH" => {
            for (at, uid) in [4_294_967_295_u32, 4_294_967_295, 77, 77].iter().enumerate() {
                let _ = write!(text, "* {} FETCH (UID {uid} FLAGS (\\Seen \\Deleted) MODSEQ (1))\r\n", at + 1);
            }
            text += "* 4294967295 EXPUNGE\r\n* VANISHED 1:4294967295\r\n";
        }
        _ => {}
    }
    text + &format!("{tag} OK {end}\r\n")
}
