//! A token endpoint of the tests: HTTP/1.1 without TLS, its answers made by the test.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use twinbox_oauth::TokenEndpoint;

/// Fields of a request, and its path under `:path`.
pub type Form = BTreeMap<String, String>;

/// Answer to a request.
pub enum Reply {
    /// Status and JSON.
    Json(u16, String),
    /// These bytes as the whole answer.
    Raw(String),
    /// A head, then the same bytes for ever.
    Endless(&'static str, &'static str),
    /// No answer.
    Silence,
}

/// A running endpoint.
pub struct TokenServer {
    /// Address of the endpoint, without a path.
    pub base: String,
    requests: Arc<Mutex<Vec<Form>>>,
}

impl TokenServer {
    /// Starts an endpoint; `answer` is given the number of the request, from 1, and its fields.
    pub async fn start(answer: impl Fn(usize, &Form) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (requests, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let received = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (received, answer) = (Arc::clone(&received), Arc::clone(&answer));
                tokio::spawn(async move {
                    let Some((stream, form)) = request(stream).await else { return };
                    let number = {
                        let mut received = received.lock().unwrap();
                        received.push(form.clone());
                        received.len()
                    };
                    respond(stream, answer(number, &form)).await;
                });
            }
        });
        Self { base, requests }
    }

    /// The endpoint for a client.
    pub fn endpoint(&self) -> TokenEndpoint {
        TokenEndpoint { url: format!("{}/token", self.base), ca_file: None, timeout: Duration::from_secs(20) }
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Form> {
        self.requests.lock().unwrap().clone()
    }
}

/// A token that is valid for this many seconds.
pub fn token(text: &str, seconds: u64) -> Reply {
    Reply::Json(200, format!(r#"{{"access_token":"{text}","token_type":"Bearer","expires_in":{seconds}}}"#))
}

/// A refusal (RFC 6749 §5.2).
pub fn refusal(code: &str, description: &str) -> Reply {
    Reply::Json(400, format!(r#"{{"error":"{code}","error_description":"{description}"}}"#))
}

/// Writes a file; its path.
pub fn file(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

async fn request(mut stream: TcpStream) -> Option<(TcpStream, Form)> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let length = text
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse::<usize>()))
        .map_or(0, Result::unwrap);
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(bytes[head..].to_vec()).unwrap();
    let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
    let mut form: Form = pairs.map(|(name, value)| (decoded(name), decoded(value))).collect();
    form.insert(":path".to_owned(), text.split(' ').nth(1).unwrap().to_owned());
    Some((stream, form))
}

async fn respond(mut stream: TcpStream, reply: Reply) {
    match reply {
        Reply::Json(status, json) => {
            let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n");
            let answer = format!("{head}content-length: {}\r\n\r\n{json}", json.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        Reply::Raw(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
        Reply::Endless(head, piece) => {
            stream.write_all(head.as_bytes()).await.unwrap();
            // Until the client closes the connection.
            while stream.write_all(piece.repeat(1_000).as_bytes()).await.is_ok() {}
        }
        Reply::Silence => std::future::pending().await,
    }
}

/// Text of a form (application/x-www-form-urlencoded).
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}
