//! A minimal mail server in this process: it takes every mail into memory. Postfix would itself be the limit of a
//! measurement, because it makes each mail durable twice.

use std::{
    collections::BTreeSet,
    io::{self, BufRead, BufReader, Write},
    net::TcpStream,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_testkit::{NetPlace, holds};

/// State of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ServerState {
    /// It takes every mail.
    #[default]
    Open,
    /// It accepts connections, and greets the clients when it is open again.
    Held,
    /// It closes each connection at once, as a broken relay does.
    Away,
}

/// A mail that was taken.
#[derive(Debug, Clone)]
pub struct TakenMail {
    /// Time of its last byte.
    pub at: BootInstant,
    /// Message-ID.
    pub id: String,
    /// Size in bytes.
    pub bytes: usize,
}

/// A running server; it ends with the process.
pub struct MailServer(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<ServerState>,
    changed: Condvar,
    mails: Mutex<Vec<TakenMail>>,
}

impl MailServer {
    /// Listens at a place.
    pub fn open(place: &NetPlace, port: u16) -> Self {
        let (listener, shared) = (place.listen(port), Arc::new(Shared::default()));
        let served = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = served.clone();
                // A client that has gone ends its thread.
                thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Self(shared)
    }

    /// Changes the state.
    pub fn set(&self, state: ServerState) {
        *lock(&self.0.state) = state;
        self.0.changed.notify_all();
    }

    /// Forgets the mails so far.
    pub fn forget(&self) {
        lock(&self.0.mails).clear();
    }

    /// Waits until mails with this many different Message-IDs have come; returns all mails in the order of arrival.
    pub fn wait_for(&self, count: usize, limit: Duration) -> Vec<TakenMail> {
        let come = holds(limit, || {
            let mails = lock(&self.0.mails);
            // Cheap while too few have come.
            (mails.len() >= count && distinct(&mails) >= count).then(|| mails.clone())
        });
        come.unwrap_or_else(|| panic!("{} of {count} mails within {limit:?}", lock(&self.0.mails).len()))
    }
}

/// Number of different Message-IDs.
pub fn distinct(mails: &[TakenMail]) -> usize {
    mails.iter().map(|mail| mail.id.as_str()).collect::<BTreeSet<_>>().len()
}

impl Shared {
    /// Waits while the server is held; whether it takes mails then.
    fn admits(&self) -> bool {
        let state = lock(&self.state);
        let state = self.changed.wait_while(state, |state| *state == ServerState::Held);
        *state.unwrap_or_else(PoisonError::into_inner) == ServerState::Open
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        if !self.admits() {
            return Ok(());
        }
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut replies = stream.try_clone()?;
        let mut commands = BufReader::new(stream);
        replies.write_all(b"220 bench.test ESMTP\r\n")?;
        let mut line = Vec::new();
        loop {
            line.clear();
            if commands.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let verb: Vec<u8> = line.iter().take(4).map(u8::to_ascii_uppercase).collect();
            let reply: &[u8] = match verb.as_slice() {
                b"EHLO" => b"250-bench.test\r\n250-8BITMIME\r\n250-SIZE 0\r\n250 DSN\r\n",
                b"DATA" => {
                    replies.write_all(b"354 go on\r\n")?;
                    let mail = read_mail(&mut commands)?;
                    lock(&self.mails).push(mail);
                    b"250 2.0.0 taken\r\n"
                }
                b"QUIT" => return replies.write_all(b"221 2.0.0 bye\r\n"),
                _ => b"250 2.0.0 ok\r\n",
            };
            replies.write_all(reply)?;
        }
    }
}

/// Reads a mail up to the dot alone on its line.
fn read_mail(commands: &mut impl BufRead) -> io::Result<TakenMail> {
    let (mut head, mut in_head, mut bytes, mut line) = (String::new(), true, 0, Vec::new());
    loop {
        line.clear();
        if commands.read_until(b'\n', &mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == b".\r\n" {
            return Ok(TakenMail { at: BootInstant::now(), id: message_id(&head), bytes });
        }
        bytes += line.len();
        in_head &= line != b"\r\n";
        if in_head {
            head.push_str(&String::from_utf8_lossy(&line));
        }
    }
}

/// The Message-ID of a head; empty for none.
fn message_id(head: &str) -> String {
    let lower = head.to_ascii_lowercase();
    let value = lower.find("message-id:").and_then(|at| head.get(at..)?.split_once('<')?.1.split_once('>'));
    value.map_or(String::new(), |(id, _)| id.to_owned())
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_ends_at_the_dot_and_its_id_may_stand_on_the_next_line() {
        let heads =
            ["Subject: x\r\nMessage-ID: <1@a.test>\r\n", "message-id:\r\n <1@a.test>\r\nTo: <b@c.test>\r\n"];
        for head in heads {
            let mail = format!("{head}\r\nMessage-ID: <2@a.test>\r\n..\r\n.\r\nQUIT\r\n");
            let mut commands = BufReader::new(mail.as_bytes());
            let read = read_mail(&mut commands).expect("a mail");
            assert_eq!((read.id.as_str(), read.bytes), ("1@a.test", mail.len() - ".\r\nQUIT\r\n".len()));
            let mut rest = String::new();
            commands.read_line(&mut rest).expect("a line");
            assert_eq!(rest, "QUIT\r\n");
        }
        assert_eq!(message_id("Subject: <x>\r\n"), "");
    }
}
