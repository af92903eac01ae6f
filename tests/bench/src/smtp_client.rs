//! A plain SMTP client (RFC 5321): one command after the other, no pipelining; and mails with a sound file.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_testkit::{
    NetPlace, Speech,
    g711::{self, Law},
    token,
};

/// Timeout of a reply, beyond that of the node's own filing.
const PATIENCE: Duration = Duration::from_secs(150);
/// Bytes in a line of base64 (76 characters).
const LINE: usize = 57;
/// The line of the sound that differs from mail to mail: behind the head of the file.
const OWN_LINE: usize = 10;
/// Boundary between text and sound.
const BOUNDARY: &str = "between-text-and-sound";

/// Answer to a mail: the time from its last byte to `250`, or the reply that refused it.
pub type MailAnswer = Result<Duration, String>;

/// Mails from one sender, each with its own Message-ID and its own sound.
pub struct Mails {
    run: String,
    sound: String,
    serial: AtomicUsize,
}

impl Mails {
    /// Mails with this many seconds of sound: WAV, 8 kHz, 16 bits.
    pub fn new(seconds: usize) -> Self {
        let wav = g711::to_wav(&Speech::new(1).bytes(0, seconds.max(1) * 8_000), Law::Mu);
        Self { run: token(), sound: base64(&wav), serial: AtomicUsize::new(0) }
    }

    /// The next mail, to this mailbox.
    fn next(&self, number: &str) -> Vec<u8> {
        let (run, serial) = (&self.run, self.serial.fetch_add(1, Relaxed));
        let head = [
            "From: Carol <carol@sender.test>".to_owned(),
            format!("To: <{number}@voicemail.test>"),
            "Subject: A message".to_owned(),
            "Date: Sat, 21 Nov 2026 12:00:00 +0000".to_owned(),
            format!("Message-ID: <{run}.{serial}@sender.test>"),
            "MIME-Version: 1.0".to_owned(),
            format!("Content-Type: multipart/mixed; boundary=\"{BOUNDARY}\""),
            String::new(),
            format!("--{BOUNDARY}"),
            "Content-Type: text/plain".to_owned(),
            String::new(),
            "A message.".to_owned(),
            format!("--{BOUNDARY}"),
            "Content-Type: audio/wav".to_owned(),
            "Content-Disposition: attachment; filename=\"message.wav\"".to_owned(),
            "Content-Transfer-Encoding: base64".to_owned(),
            "\r\n".to_owned(),
        ]
        .join("\r\n");
        // Other bytes at the same place: equal sounds would be stored once.
        let own = OWN_LINE * (LINE / 3 * 4 + 2);
        let differs = format!("{:0>76}", format!("{run}{serial}"));
        let (before, after) = (&self.sound[..own], &self.sound[own + differs.len()..]);
        format!("{head}{before}{differs}{after}--{BOUNDARY}--\r\n").into_bytes()
    }

    /// Sends this many to the mailboxes in turn over this many connections; returns the answer to each.
    pub fn deliver(
        &self,
        place: &NetPlace,
        node: SocketAddr,
        numbers: &[String],
        count: usize,
        connections: usize,
    ) -> Vec<MailAnswer> {
        let next = AtomicUsize::new(0);
        let work = || {
            let (mut client, mut answers) = (Client::connect(place, node), Vec::new());
            loop {
                let n = next.fetch_add(1, Relaxed);
                if n >= count {
                    return answers;
                }
                let number = &numbers[n % numbers.len()];
                answers.push(client.send(number, &self.next(number)));
            }
        };
        thread::scope(|scope| {
            let clients: Vec<_> = (0..connections.max(1)).map(|_| scope.spawn(work)).collect();
            clients.into_iter().flat_map(|client| client.join().expect("a client does not panic")).collect()
        })
    }

    /// As [`Self::deliver`] over some connections; each mail must be taken.
    pub fn fill(&self, place: &NetPlace, node: SocketAddr, numbers: &[String], count: usize) {
        let answers = self.deliver(place, node, numbers, count, 4);
        let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
        assert!(refused.is_empty(), "{} mails were not taken, the first: {}", refused.len(), refused[0]);
    }
}

/// A connection.
struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects, up to the reply to EHLO.
    fn connect(place: &NetPlace, node: SocketAddr) -> Self {
        let stream = place.tcp(node).unwrap_or_else(|e| panic!("{node} takes no mail: {e}"));
        stream.set_nodelay(true).expect("the option can be set");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit can be set");
        let mut client = Self(BufReader::new(stream));
        let greeting = client.reply();
        assert!(greeting.starts_with("220"), "{greeting}");
        let hello = client.command("EHLO client.test");
        assert!(hello.starts_with("250"), "{hello}");
        client
    }

    /// Sends a mail to a mailbox.
    fn send(&mut self, number: &str, mail: &[u8]) -> MailAnswer {
        let recipient = format!("RCPT TO:<{number}@voicemail.test>");
        let steps = [("MAIL FROM:<carol@sender.test>", "250"), (recipient.as_str(), "250"), ("DATA", "354")];
        for (command, expected) in steps {
            let reply = self.command(command);
            if !reply.starts_with(expected) {
                self.command("RSET");
                return Err(reply);
            }
        }
        self.0.get_mut().write_all(mail).expect("the mail can be sent");
        let sent = BootInstant::now();
        let reply = self.command(".");
        if reply.starts_with("250") { Ok(sent.elapsed()) } else { Err(reply) }
    }

    fn command(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).expect("a command can be sent");
        self.reply()
    }

    /// The last line of the next reply.
    fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read = self.0.read_line(&mut line).expect("a reply arrives");
            assert!(read > 0, "the node closed the connection");
            if line.as_bytes().get(3) != Some(&b'-') {
                return line.trim_end().to_owned();
            }
        }
    }
}

/// Base64 in lines of 76 characters (RFC 2045).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len() / 3 * 4 + bytes.len() / LINE * 2 + 8);
    for line in bytes.chunks(LINE) {
        for group in line.chunks(3) {
            let byte = |n: usize| u32::from(group.get(n).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for n in 0..4 {
                let character = ALPHABET[(bits >> (18 - 6 * n)) as usize & 63];
                text.push(if n <= group.len() { char::from(character) } else { '=' });
            }
        }
        text.push_str("\r\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, expected) in [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), format!("{expected}\r\n"), "{bytes}");
        }
        let long = base64(&[0xff; LINE + 1]);
        assert_eq!(long.lines().map(str::len).collect::<Vec<_>>(), [76, 4]);
    }

    #[test]
    fn mails_differ_in_their_id_and_in_one_line_of_their_sound() {
        let mails = Mails::new(1);
        let [first, second] = [(); 2].map(|()| String::from_utf8(mails.next("1001")).expect("ASCII"));
        assert_eq!(first.lines().count(), second.lines().count());
        let differ: Vec<_> = first.lines().zip(second.lines()).filter(|(a, b)| a != b).collect();
        assert_eq!(differ.len(), 2, "{differ:?}");
        assert!(differ[0].0.starts_with("Message-ID: <"), "{differ:?}");
        assert!(differ.iter().skip(1).all(|(a, b)| a.len() == 76 && b.len() == 76), "{differ:?}");
        assert!(first.lines().all(|line| line.len() <= 76) && first.ends_with("--\r\n"));
    }
}
