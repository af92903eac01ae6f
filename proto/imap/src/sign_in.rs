//! Connection and sign-in.

use std::sync::Arc;

use imap_codec::imap_types::response::StatusKind;
use zeroize::Zeroizing;

use crate::{
    ImapError, Login, Secret, Security, ServerConfig, SocketOwner,
    capabilities::Offered,
    folder::quoted,
    response::{Completion, StatusCode, Untagged},
    session::{Answer, Piece, SIGN_IN, Session, protocol, refusal},
    wire::Wire,
};

/// Response codes of a sign-in that fails now and may succeed later with the same credentials (RFC 5530).
const LATER: [&str; 5] = ["UNAVAILABLE", "INUSE", "LIMIT", "SERVERBUG", "CONTACTADMIN"];

/// Connects and signs in.
pub(crate) async fn open(
    config: &ServerConfig,
    login: &Login,
    owner: Arc<dyn SocketOwner>,
) -> Result<(Session, Offered), ImapError> {
    let mut session = Session::new(Wire::open(config, owner).await?);
    let greeting = session.greeting().await?;
    let mut offered = from_status(&greeting);
    if config.security == Security::StartTls {
        let before = known(&mut session, offered.take()).await?;
        if !before.has("STARTTLS") {
            return Err(ImapError::NoStartTls);
        }
        let answer = session.run("STARTTLS", &[Piece::Text("STARTTLS")], 0).await?;
        if !answer.done.is_ok() {
            return Err(refusal("STARTTLS", None, answer.done));
        }
        // The capabilities before TLS may have been written by anybody (RFC 3501 §6.2.1).
        session = Session::new(session.wire.secure(config).await?);
    }
    let before = known(&mut session, offered.take()).await?;
    match login {
        Login::Password { password, .. } | Login::MasterUser { password, .. } => session.hide(password.reveal()),
        Login::XOAuth2 { token, .. } => session.hide(token.reveal()),
    }
    let answer = match login {
        Login::Password { user, password } if before.has("AUTH=PLAIN") => {
            plain(&mut session, &before, "", user.reveal(), password).await?
        }
        Login::Password { user, password } if !before.has("LOGINDISABLED") => {
            by_login(&mut session, user.reveal(), password).await?
        }
        Login::MasterUser { user, master, password } if before.has("AUTH=PLAIN") => {
            plain(&mut session, &before, user.reveal(), master, password).await?
        }
        Login::XOAuth2 { user, token } if before.has("AUTH=XOAUTH2") || before.has("AUTH=OAUTHBEARER") => {
            bearer(&mut session, &before, config, user.reveal(), token).await?
        }
        _ => return Err(ImapError::NoMechanism { offered: before.mechanisms() }),
    };
    if !answer.done.is_ok() {
        return Err(refused(answer.done));
    }
    // The capabilities usually differ from those before the sign-in.
    let after = from_status(&answer.done).or_else(|| from_data(&answer.untagged));
    let after = known(&mut session, after).await?;
    session.forget_hidden();
    Ok((session, after))
}

fn refused(done: Completion) -> ImapError {
    if done.kind == StatusKind::Bad || done.is_named(&LATER) {
        refusal(SIGN_IN, None, done)
    } else {
        ImapError::Refused { text: done.text }
    }
}

fn from_status(status: &Completion) -> Option<Offered> {
    match &status.code {
        Some(StatusCode::Capability(names)) => Some(Offered::new(names.iter().cloned())),
        _ => None,
    }
}

fn from_data(untagged: &[Untagged]) -> Option<Offered> {
    untagged.iter().rev().find_map(|data| match data {
        Untagged::Capability(names) => Some(Offered::new(names.iter().cloned())),
        Untagged::Status(status) => from_status(status),
        _ => None,
    })
}

/// Capabilities that the server sent, else those it is asked for.
async fn known(session: &mut Session, sent: Option<Offered>) -> Result<Offered, ImapError> {
    if let Some(offered) = sent {
        return Ok(offered);
    }
    let answer = session.run("CAPABILITY", &[Piece::Text("CAPABILITY")], 0).await?;
    if !answer.done.is_ok() {
        return Err(refusal("CAPABILITY", None, answer.done));
    }
    from_data(&answer.untagged).ok_or_else(|| protocol("CAPABILITY", "it names no capability"))
}

/// SASL PLAIN (RFC 4616). `authorization` is the account that a master user acts for; empty: that of `user`.
async fn plain(
    session: &mut Session,
    offered: &Offered,
    authorization: &str,
    user: &str,
    password: &Secret,
) -> Result<Answer, ImapError> {
    if [authorization, user, password.reveal()].iter().any(|text| text.contains('\0')) {
        return Err(ImapError::NotSendable { what: "user name or password" });
    }
    let message = Zeroizing::new(format!("{authorization}\0{user}\0{}", password.reveal()));
    session.authenticate("PLAIN", message.as_bytes(), offered.has("SASL-IR"), "*").await
}

/// Command LOGIN (RFC 3501 §6.2.3), for servers without SASL PLAIN.
async fn by_login(session: &mut Session, user: &str, password: &Secret) -> Result<Answer, ImapError> {
    if user.contains('\0') || password.reveal().contains('\0') {
        return Err(ImapError::NotSendable { what: "user name or password" });
    }
    let (quoted_user, quoted_password) = (quoted(user), quoted(password.reveal()).map(Zeroizing::new));
    let pieces = [
        Piece::Text("LOGIN "),
        quoted_user.as_deref().map_or(Piece::Literal(user.as_bytes()), Piece::Text),
        Piece::Text(" "),
        quoted_password
            .as_ref()
            .map_or(Piece::Literal(password.reveal().as_bytes()), |password| Piece::Text(password.as_str())),
    ];
    session.run(SIGN_IN, &pieces, 0).await
}

/// XOAUTH2, else OAUTHBEARER (RFC 7628 §3.1). Both report a refused token as a challenge that the client must answer
/// before the server ends the command.
async fn bearer(
    session: &mut Session,
    offered: &Offered,
    config: &ServerConfig,
    user: &str,
    token: &Secret,
) -> Result<Answer, ImapError> {
    if user.contains(['\0', '\u{1}']) || !token.reveal().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ImapError::NotSendable { what: "user name or access token" });
    }
    let ir = offered.has("SASL-IR");
    let token = token.reveal();
    if offered.has("AUTH=XOAUTH2") {
        let message = Zeroizing::new(format!("user={user}\u{1}auth=Bearer {token}\u{1}\u{1}"));
        return session.authenticate("XOAUTH2", message.as_bytes(), ir, "").await;
    }
    let user = user.replace('=', "=3D").replace(',', "=2C");
    let (host, port) = (&config.host, config.port);
    let message =
        Zeroizing::new(format!("n,a={user},\u{1}host={host}\u{1}port={port}\u{1}auth=Bearer {token}\u{1}\u{1}"));
    // A single 0x01 in base64 (RFC 7628 §3.2.3).
    session.authenticate("OAUTHBEARER", message.as_bytes(), ir, "AQ==").await
}
