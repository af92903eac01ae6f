//! A fake server that follows a transcript, and the permit of the duty.

use std::{
    any::Any,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
    task::JoinHandle,
};
use twinbox_ids::Pii;
use twinbox_imap::{Client, ImapError, Login, Secret, Security, ServerConfig, SocketOwner};

/// The duty may write so often.
pub struct Permits(AtomicUsize);

impl Permits {
    pub fn new(count: usize) -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(count)))
    }
}

impl SocketOwner for Permits {
    fn own(&self, _: BorrowedFd<'_>) -> Option<Box<dyn Any + Send>> {
        (self.0.load(Relaxed) > 0).then(|| Box::new(()) as Box<dyn Any + Send>)
    }

    fn may_write(&self) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// A server for one connection. Lines of its transcript:
///
/// - `C: TEXT` expects a command; its tag is remembered.
/// - `c: TEXT` expects a line without a tag.
/// - `L: 5` expects a literal of 5 bytes.
/// - `S: TEXT` sends a line; a first word `TAG` stands for the tag.
/// - `FLOOD: TEXT` sends a text until the client closes the connection.
/// - `PAUSE: 50` waits for 50 ms.
/// - `SILENCE` waits until the client closes the connection.
///
/// At the end of the transcript the server closes the connection.
pub struct Fake {
    pub config: ServerConfig,
    task: JoinHandle<()>,
}

impl Fake {
    pub async fn new(transcript: impl Into<String>) -> Self {
        let transcript = transcript.into();
        Self::with(move |stream| async move { play(stream, &transcript).await }).await
    }

    /// A server that handles its connection by this function.
    pub async fn with<F>(handle: impl FnOnce(tokio::net::TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = ServerConfig {
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
            security: Security::None,
            ca_file: None,
            insecure: false,
            timeout: Duration::from_secs(10),
        };
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            handle(stream).await;
        });
        Self { config, task }
    }

    /// With this time limit of a step, in milliseconds.
    pub fn impatient(mut self, ms: u64) -> Self {
        self.config.timeout = Duration::from_millis(ms);
        self
    }

    pub async fn connect(&self, login: &Login) -> Result<Client, ImapError> {
        Client::connect(&self.config, login, Permits::new(usize::MAX)).await
    }

    /// Fails if the client did not follow the transcript.
    pub async fn done(self) {
        self.task.await.unwrap();
    }
}

/// Follows a transcript on a stream.
pub async fn play<S: AsyncRead + AsyncWrite + Unpin>(stream: S, transcript: &str) {
    let mut stream = BufReader::new(stream);
    let mut tag = String::new();
    for line in transcript.lines() {
        let (kind, text) = line.split_once(": ").unwrap_or((line.trim_end_matches(':'), ""));
        match kind {
            "C" | "c" => {
                let mut got = String::new();
                stream.read_line(&mut got).await.unwrap();
                let got = got.strip_suffix("\r\n").unwrap_or_else(|| panic!("no line for '{line}': {got:?}"));
                if kind == "c" {
                    assert_eq!(got, text);
                    continue;
                }
                let (got_tag, got) = got.split_once(' ').unwrap();
                assert_eq!(got, text);
                tag = got_tag.to_owned();
            }
            "L" => {
                let mut literal = vec![0; text.parse().unwrap()];
                stream.read_exact(&mut literal).await.unwrap();
            }
            "S" => {
                let text = text.strip_prefix("TAG ").map_or(text.to_owned(), |rest| format!("{tag} {rest}"));
                // A client that gave up is no mistake of the server.
                let _ = stream.write_all(format!("{text}\r\n").as_bytes()).await;
                let _ = stream.flush().await;
            }
            "FLOOD" => {
                let block = text.replace("CRLF", "\r\n").repeat(100);
                while stream.write_all(block.as_bytes()).await.is_ok() {}
            }
            "PAUSE" => tokio::time::sleep(Duration::from_millis(text.parse().unwrap())).await,
            "SILENCE" => {
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
            other => panic!("'{other}' is no kind of line"),
        }
    }
    let _ = stream.flush().await;
}

/// User `u` with password `p`.
pub fn password() -> Login {
    Login::Password { user: Pii::new("u".to_owned()), password: Secret::new("p".to_owned()) }
}

/// User `u` with token `t`.
pub fn token() -> Login {
    Login::XOAuth2 { user: Pii::new("u".to_owned()), token: Secret::new("t".to_owned()) }
}

/// Transcript of a sign-in of [`password`] at a server with these extensions, followed by another.
pub fn signed_in(extensions: &str, then: &str) -> String {
    let capabilities = format!("IMAP4rev1 {extensions}");
    format!(
        "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hello\n\
         C: AUTHENTICATE PLAIN AHUAcA==\n\
         S: TAG OK [CAPABILITY {}] welcome\n\
         {then}",
        capabilities.trim_end()
    )
}

/// Transcript of a `SELECT` of INBOX with these parameters and five mails up to UID 20, with further data.
pub fn select(parameters: &str, data: &str) -> String {
    format!(
        "C: SELECT \"INBOX\"{parameters}\n\
         S: * FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)\n\
         S: * OK [PERMANENTFLAGS (\\Seen \\Deleted \\*)] limited\n\
         S: * 5 EXISTS\n\
         S: * 0 RECENT\n\
         S: * OK [UIDVALIDITY 7] fine\n\
         S: * OK [UIDNEXT 21] next\n\
         {data}\
         S: TAG OK [READ-WRITE] selected\n"
    )
}

/// A client that has selected INBOX of a server with these extensions and no further parameters; the transcript goes on.
pub async fn opened(extensions: &str, then: &str) -> (Fake, Client) {
    let fake = Fake::new(signed_in(extensions, &(select("", "") + then))).await;
    let mut client = fake.connect(&password()).await.unwrap();
    client.select("INBOX", None).await.unwrap();
    (fake, client)
}
