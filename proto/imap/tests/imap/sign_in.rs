//! Sign-in by each mechanism.

use twinbox_ids::Pii;
use twinbox_imap::{Client, ImapError, Login, Secret};

use crate::support::{Fake, Permits, password, signed_in, token};

/// Result of a sign-in as text.
fn outcome(result: Result<Client, ImapError>) -> String {
    match result {
        Ok(client) => format!("idle {}", client.capabilities().idle),
        Err(error) => error.to_string(),
    }
}

fn master() -> Login {
    Login::MasterUser {
        user: Pii::new("u".to_owned()),
        master: "m".to_owned(),
        password: Secret::new("p".to_owned()),
    }
}

fn odd_password() -> Login {
    Login::Password { user: Pii::new("u\"".to_owned()), password: Secret::new("pä".to_owned()) }
}

#[tokio::test]
async fn each_way_to_sign_in_follows_its_transcript() {
    let tables: [(&str, Login, &str, &str); 13] = [
        (
            "capabilities are asked for when no response contains them",
            password(),
            "S: * OK hello\n\
             C: CAPABILITY\n\
             S: * CAPABILITY IMAP4rev1 AUTH=PLAIN\n\
             S: TAG OK done\n\
             C: AUTHENTICATE PLAIN\n\
             S: + \n\
             c: AHUAcA==\n\
             S: TAG OK done\n\
             C: CAPABILITY\n\
             S: * CAPABILITY IMAP4rev1 IDLE\n\
             S: TAG OK done",
            "idle true",
        ),
        (
            "refused password",
            password(),
            "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hello\n\
             C: AUTHENTICATE PLAIN AHUAcA==\n\
             S: TAG NO [AUTHENTICATIONFAILED] wrong password",
            "sign-in refused: wrong password",
        ),
        (
            "server with a failure of its own",
            password(),
            "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hello\n\
             C: AUTHENTICATE PLAIN AHUAcA==\n\
             S: TAG NO [UNAVAILABLE] user database is down",
            "refused sign-in: user database",
        ),
        (
            "LOGIN without SASL",
            password(),
            "S: * OK [CAPABILITY IMAP4rev1] hello\n\
             C: LOGIN \"u\" \"p\"\n\
             S: * CAPABILITY IMAP4rev1 IDLE\n\
             S: TAG OK done",
            "idle true",
        ),
        (
            "LOGIN with a password that cannot be quoted",
            odd_password(),
            "S: * OK [CAPABILITY IMAP4rev1] hello\n\
             C: LOGIN \"u\\\"\" {3}\n\
             S: + go on\n\
             L: 3\n\
             c: \n\
             S: TAG OK [CAPABILITY IMAP4rev1 IDLE] done",
            "idle true",
        ),
        (
            "LOGIN disabled",
            password(),
            "S: * OK [CAPABILITY IMAP4rev1 LOGINDISABLED] hello",
            "no usable way to sign in (LOGINDISABLED)",
        ),
        (
            "master user",
            master(),
            "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hello\n\
             C: AUTHENTICATE PLAIN dQBtAHA=\n\
             S: TAG OK [CAPABILITY IMAP4rev1] done",
            "idle false",
        ),
        (
            "master user without SASL PLAIN",
            master(),
            "S: * OK [CAPABILITY IMAP4rev1 AUTH=GSSAPI] hello",
            "no usable way to sign in (GSSAPI)",
        ),
        (
            "XOAUTH2",
            token(),
            "S: * OK [CAPABILITY IMAP4rev1 AUTH=XOAUTH2 AUTH=OAUTHBEARER SASL-IR] hello\n\
             C: AUTHENTICATE XOAUTH2 dXNlcj11AWF1dGg9QmVhcmVyIHQBAQ==\n\
             S: TAG OK [CAPABILITY IMAP4rev1 IDLE] done",
            "idle true",
        ),
        (
            "XOAUTH2 with an error as a challenge",
            token(),
            "S: * OK [CAPABILITY IMAP4rev1 AUTH=XOAUTH2] hello\n\
             C: AUTHENTICATE XOAUTH2\n\
             S: + \n\
             c: dXNlcj11AWF1dGg9QmVhcmVyIHQBAQ==\n\
             S: + eyJzdGF0dXMiOiI0MDEifQ==\n\
             c: \n\
             S: TAG NO no",
            "sign-in refused: no ({\"status\":\"401\"})",
        ),
        (
            "OAUTHBEARER with an error as a challenge",
            Login::XOAuth2 { user: Pii::new("a=b,c".to_owned()), token: Secret::new("t".to_owned()) },
            "S: * OK [CAPABILITY IMAP4rev1 AUTH=OAUTHBEARER SASL-IR] hello\n\
             C: AUTHENTICATE OAUTHBEARER BEARER\n\
             S: + eyJzdGF0dXMiOiI0MDEifQ==\n\
             c: AQ==\n\
             S: TAG NO no",
            "sign-in refused: no ({\"status\":\"401\"})",
        ),
        ("server that says goodbye", password(), "S: * BYE too many connections", "too many connections"),
        ("server that claims a sign-in", password(), "S: * PREAUTH hello", "does not follow IMAP"),
    ];
    for (what, login, transcript, expected) in tables {
        let transcript = transcript.to_owned();
        let fake = Fake::with(move |stream| async move {
            let port = stream.local_addr().unwrap().port();
            let message = format!("n,a=a=3Db=2Cc,\u{1}host=127.0.0.1\u{1}port={port}\u{1}auth=Bearer t\u{1}\u{1}");
            let transcript = transcript.replace("OAUTHBEARER BEARER", &format!("OAUTHBEARER {}", base64(&message)));
            crate::support::play(stream, &transcript).await;
        })
        .await;
        let got = outcome(fake.connect(&login).await);
        assert!(got.contains(expected), "{what}: {got}");
        fake.done().await;
    }
}

fn base64(text: &str) -> String {
    use ::base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(text)
}

#[tokio::test]
async fn values_that_would_change_the_command_are_not_sent() {
    for login in [
        Login::Password { user: Pii::new("u\0v".to_owned()), password: Secret::new("p".to_owned()) },
        Login::XOAuth2 { user: Pii::new("u".to_owned()), token: Secret::new("t\u{1}auth=x".to_owned()) },
    ] {
        let fake = Fake::new("S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2] hello\nSILENCE").await;
        let error = fake.connect(&login).await.unwrap_err();
        assert!(matches!(error, ImapError::NotSendable { .. }) && error.is_permanent(), "{error}");
        fake.done().await;
    }
}

#[tokio::test]
async fn refused_credentials_and_failures_of_the_server_are_told_apart() {
    for (answer, refused) in [("NO wrong", true), ("NO [UNAVAILABLE] later", false), ("BAD what", false)] {
        let greeting = "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hello\nC: AUTHENTICATE PLAIN AHUAcA==\n";
        let fake = Fake::new(format!("{greeting}S: TAG {answer}")).await;
        let error = fake.connect(&password()).await.unwrap_err();
        assert_eq!((error.is_login_refused(), error.is_permanent()), (refused, refused), "{error}");
        fake.done().await;
    }
}

#[tokio::test]
async fn secrets_that_a_server_repeats_are_hidden() {
    let login = |password: &str| Login::Password {
        user: Pii::new("u".to_owned()),
        password: Secret::new(password.to_owned()),
    };
    let bearer = "x7".repeat(150);
    let token = Login::XOAuth2 { user: Pii::new("u".to_owned()), token: Secret::new(bearer.clone()) };
    let message = base64(&format!("user=u\u{1}auth=Bearer {bearer}\u{1}\u{1}"));
    let (sasl, plain) = ("S: * OK [CAPABILITY AUTH=PLAIN AUTH=XOAUTH2 SASL-IR] hello\n", base64("\0u\0hunter2"));
    let no_sasl = "S: * OK [CAPABILITY IMAP4rev1] hello\n";
    for (what, login, transcript, expected) in [
        (
            "LOGIN",
            login("hunter2"),
            format!("{no_sasl}C: LOGIN \"u\" \"hunter2\"\nS: TAG BAD what is LOGIN \"u\" \"hunter2\""),
            "refused sign-in: what is LOGIN \"u\" \"•••\"",
        ),
        (
            "password that is quoted",
            login("hunt\"2"),
            format!("{no_sasl}C: LOGIN \"u\" \"hunt\\\"2\"\nS: TAG NO not \"hunt\\\"2\""),
            "sign-in refused: not \"•••\"",
        ),
        (
            "initial response",
            login("hunter2"),
            format!("{sasl}C: AUTHENTICATE PLAIN {plain}\nS: TAG BAD what is PLAIN {plain}"),
            "refused sign-in: what is PLAIN •••",
        ),
        (
            "goodbye",
            login("hunter2"),
            format!("{sasl}C: AUTHENTICATE PLAIN {plain}\nS: * BYE no hunter2, {plain}"),
            "ended the connection: no •••, •••",
        ),
        (
            "response that cannot be read",
            login("hunter2"),
            format!("{sasl}C: AUTHENTICATE PLAIN {plain}\nS: hunter2 {plain}"),
            "sign-in: ••• •••",
        ),
        (
            "token longer than the text of an error",
            token,
            format!(
                "{sasl}C: AUTHENTICATE XOAUTH2 {message}\nS: + {}\nc: \nS: TAG NO not {message}",
                base64(&format!("expired: {bearer}"))
            ),
            "sign-in refused: not ••• (expired: •••)",
        ),
    ] {
        let fake = Fake::new(transcript).await;
        let error = fake.connect(&login).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{what}: {error}");
        for secret in ["hunt", "x7x7", &plain[..8], &message[..8]] {
            assert!(!error.contains(secret), "{what}: {error}");
        }
        fake.done().await;
    }
}

#[tokio::test]
async fn nothing_is_written_after_the_duty_is_lost() {
    // Connecting and AUTHENTICATE need one permit each.
    for permits in 0..3 {
        let fake = Fake::new(signed_in("IDLE", "SILENCE")).await;
        let connected = Client::connect(&fake.config, &password(), Permits::new(permits)).await;
        match connected {
            Err(error) => assert_eq!((error, permits < 2), (ImapError::NotHolder, true)),
            Ok(mut client) => {
                assert_eq!(permits, 2);
                let selected = client.select("INBOX", None).await;
                assert_eq!(selected, Err(ImapError::NotHolder));
            }
        }
    }
}

#[tokio::test]
async fn passwords_are_in_no_debug_text() {
    for login in [password(), master(), token(), odd_password()] {
        let text = format!("{login:?}");
        assert!(!text.contains("\"p") && !text.contains("\"t\"") && !text.contains("\"u"), "{text}");
    }
}
