//! The owner of an account with a mail program: enough of IMAP (RFC 9051) for the acts of a person.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use twinbox_testkit::NetPlace;

/// Time limit of one answer.
const LIMIT: Duration = Duration::from_secs(20);

/// A signed-in mail program. Its connection ends with the server; sign in again after that.
#[derive(Debug)]
pub struct ImapUser {
    stream: BufReader<TcpStream>,
    tag: u32,
}

/// A mail in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountMail {
    /// Its UID.
    pub uid: u32,
    /// Its flags without the backslash, such as `Seen`; without `Recent`, which clients cannot change.
    pub flags: BTreeSet<String>,
    /// Its Message-ID, without angle brackets.
    pub message_id: String,
    /// Its subject, as it was transferred.
    pub subject: String,
    /// Its first sound file.
    pub sound: Option<Vec<u8>>,
}

/// A line of an answer, without its literals.
#[derive(Debug)]
struct Line {
    text: String,
    literals: Vec<Vec<u8>>,
}

impl ImapUser {
    /// Signs in from `place` with a password.
    pub fn sign_in(place: &NetPlace, server: SocketAddr, account: &str, password: &str) -> Self {
        let stream = place.tcp(server).unwrap_or_else(|e| panic!("IMAP server {server}: {e}"));
        stream.set_read_timeout(Some(LIMIT)).expect("a limit can be set");
        let mut user = Self { stream: BufReader::new(stream), tag: 0 };
        user.line();
        user.done(&format!("LOGIN {account} \"{password}\""));
        user
    }

    /// The mails of a folder by UID; none if there is no such folder.
    pub fn mails(&mut self, folder: &str) -> Vec<AccountMail> {
        if self.command(&format!("SELECT {folder}")).is_err() {
            return Vec::new();
        }
        let lines = self.done("UID FETCH 1:* (UID FLAGS BODY.PEEK[])");
        let mut mails: Vec<_> = lines.iter().filter_map(mail).collect();
        mails.sort_by_key(|mail| mail.uid);
        mails
    }

    /// UIDVALIDITY of a folder.
    pub fn uid_validity(&mut self, folder: &str) -> u32 {
        let lines = self.done(&format!("SELECT {folder}"));
        let found = lines.iter().find_map(|line| number_after(&line.text, "[UIDVALIDITY "));
        found.unwrap_or_else(|| panic!("no UIDVALIDITY in {lines:?}"))
    }

    /// Sets flags of a mail, such as `\Seen \Flagged`.
    pub fn set(&mut self, folder: &str, uid: u32, flags: &str) {
        self.store(folder, uid, "+", flags);
    }

    /// Removes flags of a mail.
    pub fn unset(&mut self, folder: &str, uid: u32, flags: &str) {
        self.store(folder, uid, "-", flags);
    }

    fn store(&mut self, folder: &str, uid: u32, sign: &str, flags: &str) {
        self.done(&format!("SELECT {folder}"));
        self.done(&format!("UID STORE {uid} {sign}FLAGS ({flags})"));
    }

    /// Removes a mail for good.
    pub fn expunge(&mut self, folder: &str, uid: u32) {
        self.set(folder, uid, "\\Deleted");
        self.done("EXPUNGE");
    }

    /// Moves a mail to another folder.
    pub fn move_to(&mut self, folder: &str, uid: u32, other: &str) {
        self.done(&format!("SELECT {folder}"));
        // Dovecot carries out MOVE also where it is masked.
        self.done(&format!("UID MOVE {uid} {other}"));
    }

    /// Removes a folder with its mails.
    pub fn delete_folder(&mut self, folder: &str) {
        self.done("UNSELECT");
        self.done(&format!("DELETE {folder}"));
    }

    /// Puts a mail into a folder.
    pub fn append(&mut self, folder: &str, mail: &str) {
        self.done(&format!("APPEND {folder} {{{}+}}\r\n{mail}", mail.len()));
    }

    /// A command that must succeed.
    fn done(&mut self, command: &str) -> Vec<Line> {
        self.command(command)
            .unwrap_or_else(|refusal| panic!("{}: {refusal}", command.lines().next().unwrap_or("")))
    }

    /// The lines of an answer; the error is the refusal.
    fn command(&mut self, command: &str) -> Result<Vec<Line>, String> {
        self.tag += 1;
        let tag = format!("u{} ", self.tag);
        self.stream.get_mut().write_all(format!("{tag}{command}\r\n").as_bytes()).expect("the server reads");
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            match line.text.strip_prefix(&tag) {
                Some(end) if end.starts_with("OK") => return Ok(lines),
                Some(end) => return Err(end.to_owned()),
                None => lines.push(line),
            }
        }
    }

    fn line(&mut self) -> Line {
        let (mut text, mut literals) = (String::new(), Vec::new());
        loop {
            let mut part = Vec::new();
            self.stream.read_until(b'\n', &mut part).expect("the server answers");
            assert!(part.ends_with(b"\n"), "the server closed the connection after {text:?}");
            text.push_str(String::from_utf8_lossy(&part).trim_end());
            let length: Option<usize> =
                text.strip_suffix('}').and_then(|text| text.rsplit_once('{')?.1.parse().ok());
            let Some(length) = length else { return Line { text, literals } };
            let mut literal = vec![0; length];
            self.stream.read_exact(&mut literal).expect("the literal comes");
            literals.push(literal);
        }
    }
}

impl AccountMail {
    /// Whether it has exactly these flags.
    pub fn has_only(&self, flags: &[&str]) -> bool {
        self.flags.len() == flags.len() && flags.iter().all(|flag| self.flags.contains(*flag))
    }
}

/// The number that follows a word.
fn number_after(text: &str, word: &str) -> Option<u32> {
    let (_, rest) = text.split_once(word)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The mail of a FETCH response with a body.
fn mail(line: &Line) -> Option<AccountMail> {
    let uid = number_after(&line.text, "UID ")?;
    let (_, flags) = line.text.split_once("FLAGS (")?;
    let (flags, _) = flags.split_once(')')?;
    let flags = flags.split_ascii_whitespace().map(|flag| flag.trim_start_matches('\\').to_owned());
    let text = String::from_utf8_lossy(line.literals.first()?).into_owned();
    Some(AccountMail {
        uid,
        flags: flags.filter(|flag| flag != "Recent").collect(),
        message_id: header(&text, "message-id").trim_matches(['<', '>']).to_owned(),
        subject: header(&text, "subject"),
        sound: sound(&text),
    })
}

/// A header of a mail; empty if there is none. Folded lines are joined.
fn header(mail: &str, name: &str) -> String {
    let (head, _) = mail.split_once("\r\n\r\n").unwrap_or((mail, ""));
    let unfolded = head.replace("\r\n ", " ").replace("\r\n\t", " ");
    let mut headers = unfolded.lines().filter_map(|line| line.split_once(':'));
    let found = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

/// The first part of a mail whose type is a sound in base64.
fn sound(mail: &str) -> Option<Vec<u8>> {
    let lower = mail.to_ascii_lowercase();
    let at = lower.find("\r\ncontent-type: audio/")?;
    let body = at + mail.get(at..)?.find("\r\n\r\n")? + 4;
    let text = mail.get(body..)?;
    let end = text.find("\r\n--").unwrap_or(text.len());
    let text: String = text.get(..end)?.split_ascii_whitespace().collect();
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_is_read_from_a_fetch_response() {
        let text = "Subject: Voice\r\n message\r\nMessage-ID: <1@test>\r\nContent-Type: multipart/mixed\r\n\r\n\
                    --x\r\nContent-Type: text/plain\r\n\r\nhello\r\n--x\r\nContent-Type: audio/wav\r\n\
                    Content-Transfer-Encoding: base64\r\n\r\nUklG\r\nRg==\r\n--x--\r\n";
        let line = Line {
            text: "* 1 FETCH (UID 7 FLAGS (\\Seen \\Recent) BODY[] {199})".to_owned(),
            literals: vec![text.as_bytes().to_vec()],
        };
        let mail = mail(&line).expect("a mail");
        assert!(mail.uid == 7 && mail.has_only(&["Seen"]) && mail.message_id == "1@test", "{mail:?}");
        assert_eq!((mail.subject.as_str(), mail.sound.as_deref()), ("Voice message", Some(&b"RIFF"[..])));
    }
}
