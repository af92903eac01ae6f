//! A provider of access tokens for applications (client credentials: RFC 6749, section 4.4), as for Exchange's mail
//! accounts, and the verification of such a token (RFC 7662), which Dovecot asks for.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use twinbox_testkit::{Place, token};

use crate::listener::Listener;

/// Maximum size of a request, in bytes.
const LARGEST: u64 = 64 << 10;

/// A running provider with one client. Dropping it ends it.
#[derive(Debug)]
pub struct TokenEndpoint {
    listener: Listener,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Client id and secret.
    client: (String, String),
    tokens: BTreeSet<String>,
    refused: usize,
}

/// A request with a form.
struct Request {
    path: String,
    /// Client id and secret of HTTP's authentication.
    basic: Option<(String, String)>,
    form: Vec<(String, String)>,
}

impl TokenEndpoint {
    /// Starts it at `place` for a client with this secret. Tokens are valid for an hour.
    pub fn start(place: &Place, port: u16, client: &str, secret: &str) -> Self {
        let client = (client.to_owned(), secret.to_owned());
        let state = Arc::new(Mutex::new(State { client, ..State::default() }));
        let shared = state.clone();
        let listener = Listener::start(place, port, move |stream| {
            if let Some(request) = read(stream) {
                let (status, body) = answer(&request, &mut locked(&shared));
                respond(stream, status, &body);
            }
        });
        Self { listener, state }
    }

    /// URL that issues tokens.
    pub fn token_url(&self) -> String {
        format!("http://{}/token", self.listener.address())
    }

    /// URL that verifies tokens.
    pub fn introspection_url(&self) -> String {
        format!("http://{}/introspect", self.listener.address())
    }

    /// Number of tokens that were issued.
    pub fn issued(&self) -> usize {
        locked(&self.state).tokens.len()
    }

    /// Number of requests for tokens that were refused.
    pub fn refused(&self) -> usize {
        locked(&self.state).refused
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(request: &Request, state: &mut State) -> (&'static str, Value) {
    let field = |name: &str| {
        let found = request.form.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    match request.path.as_str() {
        "/introspect" => {
            let active = state.tokens.contains(&field("token"));
            ("200 OK", json!({ "active": active, "application": "twinbox" }))
        }
        "/token" => {
            let client = request.basic.clone().unwrap_or_else(|| (field("client_id"), field("client_secret")));
            if client != state.client {
                state.refused += 1;
                let text = "the client secret is wrong";
                return ("401 Unauthorized", json!({ "error": "invalid_client", "error_description": text }));
            }
            if field("grant_type") != "client_credentials" {
                state.refused += 1;
                return ("400 Bad Request", json!({ "error": "unsupported_grant_type" }));
            }
            let token = format!("{}{}", token(), token());
            state.tokens.insert(token.clone());
            ("200 OK", json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3600 }))
        }
        _ => ("404 Not Found", json!({ "error": "not_found" })),
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream.take(LARGEST));
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut basic, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "authorization" => basic = credentials(value),
            _ => {}
        }
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body).ok()?;
    let body = String::from_utf8(body).ok()?;
    let form = body.split('&').filter_map(|pair| pair.split_once('='));
    let form = form.map(|(name, value)| (decoded(name), decoded(value))).collect();
    Some(Request { path, basic, form })
}

/// Client id and secret of `Basic`, each encoded as in a form (RFC 6749, section 2.3.1).
fn credentials(header: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(header.trim().strip_prefix("Basic ")?).ok()?).ok()?;
    let (client, secret) = text.split_once(':')?;
    Some((decoded(client), decoded(secret)))
}

/// A value of a form: `%20` and `+` are spaces.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        rest = after;
        let hex = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                bytes.extend(hex(&[*high, *low]));
                rest = after;
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn respond(mut stream: &TcpStream, status: &str, body: &Value) {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all((head + &body).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_is_named_in_the_form_or_the_header_and_only_the_right_secret_gets_a_token_that_verifies() {
        let client = ("app".to_owned(), "s p%".to_owned());
        let mut state = State { client, ..State::default() };
        let request = |path: &str, basic: Option<&str>, form: &[(&str, &str)]| Request {
            path: path.to_owned(),
            basic: basic.and_then(|text| credentials(&format!("Basic {}", STANDARD.encode(text)))),
            form: form.iter().map(|(name, value)| (decoded(name), decoded(value))).collect(),
        };
        let grant = ("grant_type", "client_credentials");
        let right = request("/token", Some("app:s+p%25"), &[grant]);
        let (status, issued) = answer(&right, &mut state);
        let token = issued["access_token"].as_str().expect("a token").to_owned();
        assert_eq!(status, "200 OK");
        let wrong = request("/token", None, &[grant, ("client_id", "app"), ("client_secret", "other")]);
        assert_eq!(answer(&wrong, &mut state).0, "401 Unauthorized");
        for (token, active) in [(token.as_str(), true), ("other", false)] {
            let (_, verified) = answer(&request("/introspect", None, &[("token", token)]), &mut state);
            assert_eq!(verified["active"], active, "{token}");
        }
        assert_eq!((state.tokens.len(), state.refused), (1, 1));
    }
}
