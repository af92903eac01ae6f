//! A fake mail server that follows a script.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::Served;

/// Answer of a server at one point.
#[derive(Clone)]
pub enum Answer {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The end of the connection.
    Close,
    /// Nothing.
    Silence,
    /// These bytes, then nothing; the server reads no more.
    Stall(Vec<u8>),
    /// These bytes for ever.
    Endless(Vec<u8>),
    /// One of these bytes every 50 ms, for ever.
    Slow(Vec<u8>),
}

/// Behaviour of a server. Points are `connect`, the verbs of commands, `message` for the end of the data, `handshake`
/// for the reply to STARTTLS being followed by this answer in place of TLS.
#[derive(Clone, Default)]
pub struct Script {
    answers: BTreeMap<&'static str, Answer>,
    extensions: Vec<&'static str>,
    tls: Option<Served>,
    implicit: bool,
}

impl Script {
    pub fn offering(extensions: &[&'static str]) -> Self {
        Self { extensions: extensions.to_vec(), ..Self::default() }
    }

    /// Offers STARTTLS.
    pub fn starttls(self, tls: Served) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Begins with TLS.
    pub fn implicit(self, tls: Served) -> Self {
        Self { tls: Some(tls), implicit: true, ..self }
    }

    pub fn at(mut self, point: &'static str, answer: Answer) -> Self {
        self.answers.insert(point, answer);
        self
    }

    /// Replies with this line.
    pub fn says(self, point: &'static str, line: &str) -> Self {
        self.at(point, Answer::Bytes(format!("{line}\r\n").into_bytes()))
    }
}

/// A running mail server; ends with the test.
pub struct Fake {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Fake {
    pub async fn start(script: Script) -> Self {
        Self::bind("127.0.0.1:0", script).await
    }

    pub async fn bind(address: &str, script: Script) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let record = heard.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let talk = Talk { script: script.clone(), heard: record.clone() };
                talk.note("(connection)");
                tokio::spawn(talk.run(stream));
            }
        });
        Self { address, heard }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Lines that the server received, and `(connection)` and `(tls)`.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("whole").clone()
    }

    /// Number of lines that begin with this text.
    pub fn count(&self, start: &str) -> usize {
        self.heard().iter().filter(|line| line.starts_with(start)).count()
    }
}

struct Talk {
    script: Script,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Talk {
    fn note(&self, line: &str) {
        self.heard.lock().expect("whole").push(line.to_owned());
    }

    /// The result only ends the conversation early.
    async fn run(self, stream: TcpStream) -> Option<()> {
        let mut secure = false;
        let mut stream: BufReader<Box<dyn Duplex>> = BufReader::new(Box::new(stream));
        if let Some(tls) = self.script.tls.as_ref().filter(|_| self.script.implicit) {
            stream = BufReader::new(Box::new(tls.accept(stream).await.ok()?));
            secure = true;
        }
        self.answer(&mut stream, "connect", "220 fake ESMTP\r\n".to_owned()).await?;
        loop {
            let line = self.line(&mut stream).await?;
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    let mut lines = vec!["fake"];
                    lines.extend(&self.script.extensions);
                    if self.script.tls.is_some() && !secure {
                        lines.push("STARTTLS");
                    }
                    let last = lines.len() - 1;
                    let line =
                        |(i, line): (usize, &str)| format!("250{}{line}\r\n", if i == last { ' ' } else { '-' });
                    let usual = lines.into_iter().enumerate().map(line).collect();
                    self.answer(&mut stream, "EHLO", usual).await?;
                }
                "HELO" => self.answer(&mut stream, "HELO", "250 fake\r\n".to_owned()).await?,
                "STARTTLS" => {
                    self.answer(&mut stream, "STARTTLS", "220 go ahead\r\n".to_owned()).await?;
                    if self.script.answers.contains_key("STARTTLS") {
                        continue;
                    }
                    if self.script.answers.contains_key("handshake") {
                        self.answer(&mut stream, "handshake", String::new()).await?;
                        continue;
                    }
                    let tls = self.script.tls.as_ref()?;
                    stream = BufReader::new(Box::new(tls.accept(stream).await.ok()?));
                    self.note("(tls)");
                    secure = true;
                }
                "AUTH" => self.answer(&mut stream, "AUTH", "235 welcome\r\n".to_owned()).await?,
                "MAIL" => self.answer(&mut stream, "MAIL", "250 sender\r\n".to_owned()).await?,
                "RCPT" => self.answer(&mut stream, "RCPT", "250 recipient\r\n".to_owned()).await?,
                "DATA" => {
                    self.answer(&mut stream, "DATA", "354 go ahead\r\n".to_owned()).await?;
                    if !self.script.answers.contains_key("DATA") {
                        while self.line(&mut stream).await? != "." {}
                        self.answer(&mut stream, "message", "250 2.0.0 queued as 1\r\n".to_owned()).await?;
                    }
                }
                "QUIT" => {
                    self.answer(&mut stream, "QUIT", "221 bye\r\n".to_owned()).await?;
                    return None;
                }
                _ => stream.write_all(b"500 what\r\n").await.ok()?,
            }
        }
    }

    async fn line(&self, stream: &mut BufReader<Box<dyn Duplex>>) -> Option<String> {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await.ok()? == 0 {
            return None;
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        // Every line must end in CR LF.
        let line = line.strip_suffix("\r\n").map_or(format!("(bad line end) {line}"), str::to_owned);
        self.note(&line);
        Some(line)
    }

    async fn answer(&self, stream: &mut BufReader<Box<dyn Duplex>>, point: &str, usual: String) -> Option<()> {
        let answer = self.script.answers.get(point).cloned().unwrap_or(Answer::Bytes(usual.into_bytes()));
        match answer {
            Answer::Bytes(bytes) => stream.write_all(&bytes).await.ok()?,
            Answer::Close => return None,
            Answer::Silence => sleep(Duration::from_secs(60)).await,
            Answer::Stall(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                stream.flush().await.ok()?;
                sleep(Duration::from_secs(60)).await;
            }
            Answer::Endless(bytes) => loop {
                stream.write_all(&bytes).await.ok()?;
            },
            Answer::Slow(bytes) => {
                for byte in bytes.iter().cycle() {
                    stream.write_all(&[*byte]).await.ok()?;
                    stream.flush().await.ok()?;
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
        stream.flush().await.ok()
    }
}
