//! Tokens of a source, against an endpoint of the test.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_rustls::rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use twinbox_oauth::{Grant, TokenEndpoint, TokenError, TokenSource};

use crate::server::{Reply, TokenServer, file, refusal, token};

const KEY: &str = include_str!("keys/service-account.pem");

fn client_credentials(dir: &TempDir) -> Grant {
    Grant::ClientCredentials {
        client_id: "twinbox".to_owned(),
        secret_file: file(dir, "client.secret", "geheim&1\n"),
        scope: "https://outlook.office365.com/.default".to_owned(),
    }
}

fn service_account(dir: &TempDir) -> Grant {
    let key = json!({
        "type": "service_account",
        "client_email": "voicemail@example.iam.gserviceaccount.com",
        "private_key": KEY,
        "private_key_id": "key-1",
    });
    let key_file = file(dir, "key.json", &key.to_string());
    Grant::ServiceAccount { key_file, scope: "https://mail.google.com/".to_owned() }
}

fn source(grant: Grant, server: &TokenServer) -> TokenSource {
    TokenSource::new(grant, &server.endpoint()).unwrap()
}

#[tokio::test]
async fn client_credentials_are_asked_once_for_all_users_until_the_token_expires() {
    let dir = TempDir::new().unwrap();
    let server = TokenServer::start(|n, _| token(&format!("token-{n}"), 3_600)).await;
    let tokens = source(client_credentials(&dir), &server);
    for user in ["anna@example.com", "bert@example.com", "anna@example.com"] {
        assert_eq!(tokens.token(user).await.unwrap().reveal(), "token-1");
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    for (name, value) in [
        (":path", "/token"),
        ("grant_type", "client_credentials"),
        ("client_id", "twinbox"),
        ("client_secret", "geheim&1"),
        ("scope", "https://outlook.office365.com/.default"),
    ] {
        assert_eq!(requests[0][name], value);
    }
    let shown = format!("{tokens:?} {:?}", tokens.token("anna@example.com").await);
    assert!(!shown.contains("token-1") && !shown.contains("geheim"), "{shown}");
}

#[tokio::test]
async fn expired_token_is_asked_for_again_with_the_secret_that_the_file_has_then() {
    let dir = TempDir::new().unwrap();
    let server = TokenServer::start(|n, _| token(&format!("token-{n}"), 0)).await;
    let tokens = source(client_credentials(&dir), &server);
    assert_eq!(tokens.token("anna").await.unwrap().reveal(), "token-1");
    file(&dir, "client.secret", "new");
    assert_eq!(tokens.token("anna").await.unwrap().reveal(), "token-2");
    assert_eq!(server.requests()[1]["client_secret"], "new");
}

#[tokio::test]
async fn accounts_that_refuse_a_new_token_cause_no_further_requests() {
    let dir = TempDir::new().unwrap();
    let server = TokenServer::start(|n, _| token(&format!("token-{n}"), 3_600)).await;
    let tokens = source(client_credentials(&dir), &server);
    for n in 0..100 {
        let user = format!("user-{n}@example.com");
        let token = tokens.token(&user).await.unwrap();
        tokens.discard(&user, &token).await;
    }
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn concurrent_callers_share_one_request() {
    let dir = TempDir::new().unwrap();
    let server = TokenServer::start(|n, _| token(&format!("token-{n}"), 3_600)).await;
    let tokens = source(service_account(&dir), &server);
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let tokens = tokens.clone();
        callers.spawn(async move { tokens.token("anna").await.unwrap().reveal().to_owned() });
    }
    let answers = callers.join_all().await;
    assert!(answers.iter().all(|answer| answer == "token-1"), "{answers:?}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn user_whose_request_is_not_answered_holds_up_no_other() {
    let dir = TempDir::new().unwrap();
    let server = TokenServer::start(|n, _| match n {
        1 => Reply::Silence,
        n => token(&format!("token-{n}"), 3_600),
    })
    .await;
    let tokens = source(service_account(&dir), &server);
    let silent = tokens.clone();
    let silent = tokio::spawn(async move { silent.token("anna").await });
    while server.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(tokens.token("bert").await.unwrap().reveal(), "token-2");
    assert!(!silent.is_finished());
    silent.abort();
}

#[tokio::test]
async fn refused_client_is_asked_once_for_a_thousand_accounts() {
    let dir = TempDir::new().unwrap();
    let server = TokenServer::start(|_, _| refusal("invalid_client", "no such client")).await;
    let tokens = source(service_account(&dir), &server);
    for n in 0..1_000 {
        let error = tokens.token(&format!("user-{n}@example.com")).await.unwrap_err();
        assert!(error.is_refused() && error.to_string().contains("no such client"), "{error}");
    }
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn refused_users_pause_alone_until_three_in_a_row_are_refused() {
    let dir = TempDir::new().unwrap();
    let server = TokenServer::start(|n, _| match n {
        1 | 2 | 4.. => refusal("invalid_grant", "no such user"),
        _ => token("token", 3_600),
    })
    .await;
    let tokens = source(service_account(&dir), &server);
    for _ in 0..5 {
        tokens.token("nobody").await.unwrap_err();
    }
    tokens.token("noone").await.unwrap_err();
    assert_eq!(server.requests().len(), 2);
    assert_eq!(tokens.token("anna").await.unwrap().reveal(), "token");
    for n in 0..1_000 {
        tokens.token(&format!("user-{n}@example.com")).await.unwrap_err();
    }
    assert_eq!(server.requests().len(), 6);
    assert_eq!(tokens.token("anna").await.unwrap().reveal(), "token");
}

#[tokio::test]
async fn rotated_refresh_token_is_used_until_the_file_changes() {
    let dir = TempDir::new().unwrap();
    let server = TokenServer::start(|n, form| {
        let rotated = format!("{}+{n}", form["refresh_token"]);
        let json = json!({
            "access_token": format!("token-{n}"), "token_type": "bearer", "expires_in": 0, "refresh_token": rotated,
        });
        Reply::Json(200, json.to_string())
    })
    .await;
    let grant = Grant::RefreshToken {
        client_id: "twinbox".to_owned(),
        secret_file: None,
        token_file: file(&dir, "refresh", "first\n"),
        scope: None,
    };
    let tokens = source(grant, &server);
    assert!(!tokens.has_rotated());
    tokens.token("anna").await.unwrap();
    assert!(tokens.has_rotated());
    tokens.token("anna").await.unwrap();
    file(&dir, "refresh", "second\n");
    tokens.token("anna").await.unwrap();
    let requests = server.requests();
    let sent: Vec<&str> = requests.iter().map(|form| form["refresh_token"].as_str()).collect();
    assert_eq!(sent, ["first", "first+1", "second"]);
    assert!(requests.iter().all(|form| form["grant_type"] == "refresh_token" && form["client_id"] == "twinbox"));
    assert!(requests.iter().all(|form| !form.contains_key("client_secret") && !form.contains_key("scope")));
}

#[tokio::test]
async fn service_account_sends_an_assertion_signed_for_each_user() {
    let dir = TempDir::new().unwrap();
    let server = TokenServer::start(|n, _| token(&format!("token-{n}"), 3_600)).await;
    let tokens = source(service_account(&dir), &server);
    for (user, expected) in [("anna@example.com", "token-1"), ("bert@example.com", "token-2")] {
        assert_eq!(tokens.token(user).await.unwrap().reveal(), expected);
        assert_eq!(tokens.token(user).await.unwrap().reveal(), expected);
    }
    let der = PrivatePkcs8KeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    for (form, user) in requests.iter().zip(["anna@example.com", "bert@example.com"]) {
        assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
        let (signed, signature) = form["assertion"].rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
        public.verify(signed.as_bytes(), &signature).expect("a valid signature");
        let parts: Vec<Value> = signed
            .split('.')
            .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
            .collect();
        assert_eq!(parts[0], json!({ "alg": "RS256", "typ": "JWT", "kid": "key-1" }));
        let claims = &parts[1];
        assert_eq!(claims["iss"], "voicemail@example.iam.gserviceaccount.com");
        assert_eq!(claims["sub"], user);
        assert_eq!(claims["scope"], "https://mail.google.com/");
        assert_eq!(claims["aud"], server.endpoint().url);
        let (issued, now) = (claims["iat"].as_u64().unwrap(), twinbox_clock::wall().0 / 1_000);
        assert!((now - 90..=now).contains(&issued), "{issued} at {now}");
        assert_eq!(claims["exp"], issued + 600);
    }
}

#[tokio::test]
async fn answers_that_cannot_be_used_are_errors_that_show_no_secret() {
    for (reply, expected) in [
        (refusal("invalid_scope", "geheim&1 is wrong"), "refuses with invalid_scope: ••• is wrong"),
        (Reply::Json(200, r#"{"access_token":"geheim&1"}"#.to_owned()), "not that of a token endpoint"),
        (Reply::Json(200, r#"{"access_token":"a","token_type":"mac"}"#.to_owned()), "type Bearer"),
        (Reply::Json(200, r#"{"access_token":"a\u0001b","token_type":"bearer"}"#.to_owned()), "characters"),
        (Reply::Json(200, "[".repeat(50_000)), "not that of a token endpoint"),
        (Reply::Json(503, "{}".to_owned()), "503"),
        (Reply::Json(429, "{}".to_owned()), "429"),
        (Reply::Json(400, "geheim".to_owned()), "not that of a token endpoint"),
        (Reply::Raw("HTTP/1.1 302 Found\r\nlocation: http://x/\r\ncontent-length: 0\r\n\r\n".to_owned()), "empty"),
        (Reply::Raw("220 mail.example.com ESMTP\r\n".to_owned()), "token endpoint 127.0.0.1"),
        (Reply::Raw(String::new()), "token endpoint 127.0.0.1"),
        (Reply::Endless("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n", "[[[[[["), "cannot be read"),
        (Reply::Endless("HTTP/1.1 200 OK\r\n", "x: y\r\n"), "token endpoint 127.0.0.1"),
        (Reply::Endless("HTTP/1.1 200 OK\r\nx: ", "y"), "token endpoint 127.0.0.1"),
    ] {
        let dir = TempDir::new().unwrap();
        let reply = std::sync::Mutex::new(Some(reply));
        let server = TokenServer::start(move |_, _| reply.lock().unwrap().take().unwrap_or(Reply::Silence)).await;
        let error = source(client_credentials(&dir), &server).token("anna").await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected) && !text.contains("geheim"), "{expected}: {text}");
    }
}

#[tokio::test]
async fn silent_endpoint_ends_the_request_after_its_timeout() {
    let dir = TempDir::new().unwrap();
    let server = TokenServer::start(|_, _| Reply::Silence).await;
    let endpoint = TokenEndpoint { timeout: Duration::from_millis(100), ..server.endpoint() };
    let tokens = TokenSource::new(client_credentials(&dir), &endpoint).unwrap();
    let error = tokens.token("anna").await.unwrap_err();
    assert!(error.to_string().contains("no answer within 100ms"), "{error}");
}

#[tokio::test]
async fn missing_secret_file_is_named() {
    let dir = TempDir::new().unwrap();
    let server = TokenServer::start(|_, _| Reply::Silence).await;
    let grant = client_credentials(&dir);
    std::fs::remove_file(dir.path().join("client.secret")).unwrap();
    let error = source(grant, &server).token("anna").await.unwrap_err();
    assert!(matches!(&error, TokenError::SecretFile { .. }), "{error}");
    assert!(error.to_string().contains("client.secret"), "{error}");
}
