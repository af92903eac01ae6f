//! A provider of access tokens: for applications (client credentials: RFC 6749, section 4.4), as for Exchange's mail
//! accounts, and for persons who confirm a code (device grant: RFC 8628), whose refresh tokens give further access
//! tokens (RFC 6749, section 6), and for service accounts that sign who they act for (RFC 7523), as for Gmail. It also
//! verifies access tokens (RFC 7662), which Dovecot asks for.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use twinbox_clock::{BootInstant, wall};
use twinbox_testkit::{NetPlace, token};

use crate::listener::Listener;

/// Maximum size of a request, in bytes.
const LARGEST: u64 = 64 << 10;
/// Life of an access token, unless the test sets another one.
const LIFE: Duration = Duration::from_secs(3_600);
/// Grant type of a device that asks for the outcome (RFC 8628, section 3.4).
const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// Grant type of a signed assertion (RFC 7523, section 2.1).
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Longest life of an assertion, in seconds.
const LONGEST_ASSERTION: u64 = 3_600;
/// Error of a device grant that its person has not confirmed yet.
const PENDING: &str = "authorization_pending";

/// A running provider with one client. Dropping it ends it.
#[derive(Debug)]
pub struct TokenEndpoint {
    listener: Listener,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Client id and secret.
    client: (String, String),
    /// Life of access tokens that are issued from now on.
    life: Duration,
    access: BTreeMap<String, AccessToken>,
    /// Owners by refresh token.
    refresh: BTreeMap<String, String>,
    /// Device grants that wait, by device code.
    devices: BTreeMap<String, Device>,
    /// The service account that may act for every owner.
    service: Option<ServiceAccount>,
    /// Number of requests for the outcome of a device grant that was not confirmed yet.
    pending: usize,
    refused: usize,
}

#[derive(Debug)]
struct AccessToken {
    /// Account of the person; `None` for an application.
    owner: Option<String>,
    ends: BootInstant,
}

#[derive(Debug)]
struct ServiceAccount {
    email: String,
    /// URL of the endpoint.
    audience: String,
    /// Has `key.pem`, the public key.
    folder: TempDir,
}

#[derive(Debug)]
struct Device {
    user_code: String,
    /// Account of the person who confirmed it.
    owner: Option<String>,
}

/// A request with a form.
struct Request {
    path: String,
    /// Client id and secret of HTTP's authentication.
    basic: Option<(String, String)>,
    form: Vec<(String, String)>,
}

impl Request {
    /// A field of the form; empty without it.
    fn field(&self, name: &str) -> String {
        let found = self.form.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }
}

impl TokenEndpoint {
    /// Starts it at `place` for a client with this secret. Tokens are valid for an hour.
    pub fn start(place: &NetPlace, port: u16, client: &str, secret: &str) -> Self {
        let state = Arc::new(Mutex::new(State::new(client, secret)));
        let shared = state.clone();
        let listener = Listener::start(place, port, move |stream| {
            if let Some(request) = read(stream) {
                let (status, body) = locked(&shared).answer(&request);
                respond(stream, status, &body);
            }
        });
        Self { listener, state }
    }

    /// URL that issues tokens.
    pub fn token_url(&self) -> String {
        self.url("token")
    }

    /// URL that begins a device grant.
    pub fn device_url(&self) -> String {
        self.url("device")
    }

    /// URL that verifies tokens.
    pub fn introspection_url(&self) -> String {
        self.url("introspect")
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.listener.address())
    }

    /// Access tokens that are issued from now on are valid for this many seconds.
    pub fn live_for(&self, seconds: u64) {
        locked(&self.state).life = Duration::from_secs(seconds);
    }

    /// A service account of this name may act for every owner from now on, by assertions that this private key (PEM)
    /// signs. Needs openssl.
    pub fn trust(&self, email: &str, private_key: &Path) {
        let folder = TempDir::new().expect("a folder");
        let mut command = Command::new("openssl");
        command.args(["pkey", "-pubout", "-in"]).arg(private_key).arg("-out").arg(folder.path().join("key.pem"));
        let output = command.output().expect("openssl runs");
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        let service = ServiceAccount { email: email.to_owned(), audience: self.token_url(), folder };
        locked(&self.state).service = Some(service);
    }

    /// The owner of an account types in the code of a device grant, and agrees.
    pub fn confirm(&self, user_code: &str, owner: &str) {
        let mut state = locked(&self.state);
        let device = state.devices.values_mut().find(|device| device.user_code == user_code);
        device.unwrap_or_else(|| panic!("no device grant has the code {user_code}")).owner = Some(owner.to_owned());
    }

    /// The owner of an account takes the access back: the refresh tokens are refused. Access tokens are valid until
    /// their end.
    pub fn revoke(&self, owner: &str) {
        locked(&self.state).refresh.retain(|_, of| of != owner);
    }

    /// Number of access tokens of an owner that are valid now.
    pub fn valid_of(&self, owner: &str) -> usize {
        let now = BootInstant::now();
        let state = locked(&self.state);
        state.access.values().filter(|access| access.owner.as_deref() == Some(owner) && now < access.ends).count()
    }

    /// Number of access tokens that were issued.
    pub fn issued(&self) -> usize {
        locked(&self.state).access.len()
    }

    /// Number of requests for the outcome of a device grant that was not confirmed yet.
    pub fn pending(&self) -> usize {
        locked(&self.state).pending
    }

    /// Number of requests for tokens that were refused.
    pub fn refused(&self) -> usize {
        locked(&self.state).refused
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unguessable() -> String {
    format!("{}{}", token(), token())
}

impl State {
    fn new(client: &str, secret: &str) -> Self {
        Self {
            client: (client.to_owned(), secret.to_owned()),
            life: LIFE,
            access: BTreeMap::new(),
            refresh: BTreeMap::new(),
            devices: BTreeMap::new(),
            service: None,
            pending: 0,
            refused: 0,
        }
    }

    fn answer(&mut self, request: &Request) -> (&'static str, Value) {
        let answer = match request.path.as_str() {
            "/introspect" => return ("200 OK", self.introspection(&request.field("token"))),
            "/device" => self.begin_device(request),
            "/token" => self.grant(request),
            _ => return ("404 Not Found", json!({ "error": "not_found" })),
        };
        let code = match answer {
            Ok(answer) => return ("200 OK", answer),
            Err(PENDING) => {
                self.pending += 1;
                PENDING
            }
            Err(code) => {
                self.refused += 1;
                code
            }
        };
        let status = if code == "invalid_client" { "401 Unauthorized" } else { "400 Bad Request" };
        (status, json!({ "error": code, "error_description": format!("refused: {code}") }))
    }

    fn introspection(&self, token: &str) -> Value {
        let known = self.access.get(token);
        let active = known.is_some_and(|access| BootInstant::now() < access.ends);
        let owner = known.and_then(|access| access.owner.clone()).unwrap_or_default();
        json!({ "active": active, "application": "twinbox", "username": owner })
    }

    fn begin_device(&mut self, request: &Request) -> Result<Value, &'static str> {
        self.check_client(request)?;
        let device_code = unguessable();
        let user_code = format!("CODE-{}", self.devices.len() + self.access.len());
        self.devices.insert(device_code.clone(), Device { user_code: user_code.clone(), owner: None });
        Ok(json!({
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": "https://login.example.test/device",
            "expires_in": 600,
            "interval": 1,
        }))
    }

    fn grant(&mut self, request: &Request) -> Result<Value, &'static str> {
        if request.field("grant_type") == JWT_BEARER {
            let service = self.service.as_ref().ok_or("invalid_grant")?;
            let owner = service.acts_for(&request.field("assertion")).ok_or("invalid_grant")?;
            return Ok(self.issue(Some(owner)));
        }
        self.check_client(request)?;
        match request.field("grant_type").as_str() {
            "client_credentials" => Ok(self.issue(None)),
            "refresh_token" => {
                let owner = self.refresh.get(&request.field("refresh_token")).cloned().ok_or("invalid_grant")?;
                Ok(self.issue(Some(owner)))
            }
            DEVICE_CODE => {
                let code = request.field("device_code");
                let owner = self.devices.get(&code).ok_or("expired_token")?.owner.clone().ok_or(PENDING)?;
                self.devices.remove(&code);
                let refresh = unguessable();
                self.refresh.insert(refresh.clone(), owner.clone());
                let mut answer = self.issue(Some(owner));
                answer["refresh_token"] = json!(refresh);
                Ok(answer)
            }
            _ => Err("unsupported_grant_type"),
        }
    }

    /// The client is named in the form or in HTTP's authentication. A device grant may begin without the secret.
    fn check_client(&self, request: &Request) -> Result<(), &'static str> {
        let named = || (request.field("client_id"), request.field("client_secret"));
        let (id, secret) = request.basic.clone().unwrap_or_else(named);
        let begins = request.path == "/device" && secret.is_empty();
        if id == self.client.0 && (begins || secret == self.client.1) { Ok(()) } else { Err("invalid_client") }
    }

    fn issue(&mut self, owner: Option<String>) -> Value {
        let access = unguessable();
        self.access.insert(access.clone(), AccessToken { owner, ends: BootInstant::now() + self.life });
        json!({ "access_token": access, "token_type": "Bearer", "expires_in": self.life.as_secs() })
    }
}

impl ServiceAccount {
    /// The owner that an assertion names; `None` unless it is complete, valid now, and signed by the account's key.
    fn acts_for(&self, assertion: &str) -> Option<String> {
        let (signed, signature) = assertion.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let read = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let (header, claims) = (read(header)?, read(claims)?);
        let (issued, ends, now) = (claims["iat"].as_u64()?, claims["exp"].as_u64()?, wall().0 / 1_000);
        let is_now = issued <= now && now < ends && ends <= issued + LONGEST_ASSERTION;
        let is_its_own = claims["iss"] == self.email.as_str() && claims["aud"] == self.audience.as_str();
        if header["alg"] != "RS256" || !is_now || !is_its_own {
            return None;
        }
        let file = |name: &str| self.folder.path().join(name);
        fs::write(file("signature"), URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        fs::write(file("signed"), signed).ok()?;
        let mut command = Command::new("openssl");
        command.args(["dgst", "-sha256", "-verify"]).arg(file("key.pem"));
        let verified = command.arg("-signature").arg(file("signature")).arg(file("signed")).output().ok()?;
        let owner = claims["sub"].as_str()?.to_owned();
        verified.status.success().then_some(owner)
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

    fn request(path: &str, basic: Option<&str>, form: &[(&str, &str)]) -> Request {
        Request {
            path: path.to_owned(),
            basic: basic.and_then(|text| credentials(&format!("Basic {}", STANDARD.encode(text)))),
            form: form.iter().map(|(name, value)| (decoded(name), decoded(value))).collect(),
        }
    }

    fn text(answer: &Value, name: &str) -> String {
        answer[name].as_str().unwrap_or_else(|| panic!("no {name} in {answer}")).to_owned()
    }

    #[test]
    fn client_is_named_in_the_form_or_the_header_and_only_the_right_secret_gets_a_token_that_verifies() {
        let mut state = State::new("app", "s p%");
        let grant = ("grant_type", "client_credentials");
        let (status, issued) = state.answer(&request("/token", Some("app:s+p%25"), &[grant]));
        assert_eq!(status, "200 OK");
        let token = text(&issued, "access_token");
        let wrong = request("/token", None, &[grant, ("client_id", "app"), ("client_secret", "other")]);
        assert_eq!(state.answer(&wrong).0, "401 Unauthorized");
        for (token, active) in [(token.as_str(), true), ("other", false)] {
            let (_, verified) = state.answer(&request("/introspect", None, &[("token", token)]));
            assert_eq!(verified["active"], active, "{token}");
        }
        assert_eq!((state.access.len(), state.refused), (1, 1));
    }

    #[test]
    fn confirmed_device_grant_gives_a_refresh_token_that_gives_tokens_of_its_owner_until_they_end() {
        let mut state = State::new("app", "secret");
        let client = [("client_id", "app"), ("client_secret", "secret")];
        let (_, begun) = state.answer(&request("/device", None, &client));
        let code = text(&begun, "device_code");
        let poll = [&client[..], &[("grant_type", DEVICE_CODE), ("device_code", code.as_str())]].concat();
        assert_eq!(state.answer(&request("/token", None, &poll)).1["error"], PENDING);
        let device = state.devices.get_mut(&code).expect("it waits");
        assert_eq!(device.user_code, text(&begun, "user_code"));
        device.owner = Some("anna".to_owned());
        let (_, granted) = state.answer(&request("/token", None, &poll));
        let refresh = text(&granted, "refresh_token");
        state.life = Duration::ZERO;
        let again = [&client[..], &[("grant_type", "refresh_token"), ("refresh_token", refresh.as_str())]].concat();
        let (_, ended) = state.answer(&request("/token", None, &again));
        for (answer, active) in [(&granted, true), (&ended, false)] {
            let token = text(answer, "access_token");
            let (_, verified) = state.answer(&request("/introspect", None, &[("token", &token)]));
            assert_eq!((&verified["active"], &verified["username"]), (&json!(active), &json!("anna")));
        }
        state.refresh.clear();
        assert_eq!(state.answer(&request("/token", None, &again)).1["error"], "invalid_grant");
        assert_eq!((state.pending, state.refused), (1, 1));
    }
}
