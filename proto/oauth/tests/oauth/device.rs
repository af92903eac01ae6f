//! The device grant, against an endpoint of the test.

use std::{
    future::ready,
    sync::{Arc, Mutex},
    time::Duration,
};

use twinbox_oauth::{DeviceClient, DeviceFlow, RefreshToken, TokenError};

use crate::server::{Form, Reply, TokenServer, refusal};

const CODES: &str = r#"{"device_code":"device-1","user_code":"ABCD-EFGH","expires_in":900,"interval":5,
    "verification_uri":"https://login.example.com/device"}"#;
const GRANTED: &str = r#"{"access_token":"a","token_type":"Bearer","expires_in":3600,"refresh_token":"refresh-1"}"#;

fn client(server: &TokenServer) -> DeviceClient {
    DeviceClient {
        client_id: "twinbox".to_owned(),
        secret_file: None,
        scope: "https://outlook.office.com/IMAP.AccessAsUser.All offline_access".to_owned(),
        device_url: format!("{}/device", server.base),
    }
}

/// An endpoint that gives codes and then these answers, one for each poll.
async fn server(codes: &'static str, polls: Vec<Reply>) -> TokenServer {
    let polls = Mutex::new(polls.into_iter());
    TokenServer::start(move |_, form: &Form| match form[":path"].as_str() {
        "/device" => Reply::Json(200, codes.to_owned()),
        _ => polls.lock().unwrap().next().unwrap_or(Reply::Silence),
    })
    .await
}

/// Polls to the end; the waits between two polls.
async fn poll(flow: &DeviceFlow) -> (Result<RefreshToken, TokenError>, Vec<u64>) {
    let waits = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&waits);
    let result = flow
        .poll(|wait: Duration| {
            noted.lock().unwrap().push(wait.as_secs());
            ready(())
        })
        .await;
    let waits = waits.lock().unwrap().clone();
    (result, waits)
}

#[tokio::test]
async fn polls_wait_as_the_endpoint_asks_until_the_user_confirms() {
    let polls = vec![
        refusal("authorization_pending", "wait"),
        refusal("slow_down", "too fast"),
        refusal("authorization_pending", "wait"),
        Reply::Json(200, GRANTED.to_owned()),
    ];
    let server = server(CODES, polls).await;
    let flow = DeviceFlow::begin(&client(&server), &server.endpoint()).await.unwrap();
    assert_eq!(flow.user_code(), "ABCD-EFGH");
    assert_eq!(flow.verification_url(), "https://login.example.com/device");
    assert_eq!(flow.expires_in(), Duration::from_secs(900));
    let (result, waits) = poll(&flow).await;
    let token = result.unwrap();
    assert_eq!(token.reveal(), "refresh-1");
    assert!(!format!("{flow:?} {token:?}").contains("-1"));
    assert_eq!(waits, [5, 10, 10]);
    let requests = server.requests();
    assert_eq!(requests[0]["scope"], "https://outlook.office.com/IMAP.AccessAsUser.All offline_access");
    for form in &requests[1..] {
        assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:device_code");
        assert_eq!(form["device_code"], "device-1");
        assert_eq!(form["client_id"], "twinbox");
    }
}

#[tokio::test]
async fn refusal_of_the_user_and_an_answer_without_a_refresh_token_end_the_flow() {
    let granted = r#"{"access_token":"a","token_type":"Bearer"}"#.to_owned();
    for (answer, expected) in [
        (refusal("access_denied", "no"), "access_denied"),
        (refusal("expired_token", "late"), "expired_token"),
        (Reply::Json(200, granted), "offline_access"),
    ] {
        let server = server(CODES, vec![answer]).await;
        let flow = DeviceFlow::begin(&client(&server), &server.endpoint()).await.unwrap();
        let error = poll(&flow).await.0.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn hostile_codes_are_refused() {
    for codes in [
        r#"{"device_code":"d","user_code":"A","expires_in":900,"interval":18446744073709551615,
            "verification_uri":"https://login.example.com/device"}"#,
        r#"{"device_code":"d","user_code":"A\u001b[2J","expires_in":900,
            "verification_uri":"https://login.example.com/device"}"#,
        r#"{"device_code":"d","user_code":"A","expires_in":900,"verification_uri":"no URL"}"#,
        "{}",
    ] {
        let server = server(codes, Vec::new()).await;
        let error = DeviceFlow::begin(&client(&server), &server.endpoint()).await.unwrap_err();
        assert!(matches!(error, TokenError::Answer { .. }), "{codes}: {error}");
    }
}

#[tokio::test]
async fn code_that_never_expires_is_polled_for_an_hour_at_most() {
    let codes = r#"{"device_code":"d","user_code":"A","expires_in":18446744073709551615,
        "verification_uri":"https://login.example.com/device"}"#;
    let server = server(codes, Vec::new()).await;
    let flow = DeviceFlow::begin(&client(&server), &server.endpoint()).await.unwrap();
    assert_eq!(flow.expires_in(), Duration::from_secs(3_600));
}
