//! `AUTH` with the SASL mechanisms PLAIN (RFC 4616) and LOGIN, over TLS only.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Action, Phase, Session};
use crate::{
    command::{Hello, Mechanism},
    counts::Counter,
    handler::PasswordCheck,
    reply::Reply,
};

/// User name and password that a client gave.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Name of the user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Response that an exchange waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SignInStep {
    /// Name and password of PLAIN.
    Plain,
    /// Name of LOGIN.
    User,
    /// Password of LOGIN, of this user.
    Password(String),
}

impl<R: Clone> Session<R> {
    pub(super) fn sign_in(&mut self, mechanism: Option<Mechanism>, initial: Option<String>) -> Vec<Action<R>> {
        if !self.sender.tls {
            return self.bad(Reply::new(538, "5.7.11", "encryption required; send STARTTLS first"));
        }
        if !matches!(self.hello, Some(Hello::Ehlo | Hello::Lhlo)) || self.transaction.is_some() {
            return self.bad(Reply::new(503, "5.5.1", "AUTH follows EHLO or LHLO and comes before MAIL"));
        }
        if self.sender.user.is_some() {
            return self.bad(Reply::new(503, "5.5.1", "signed in already"));
        }
        let step = match mechanism {
            Some(Mechanism::Plain) => SignInStep::Plain,
            Some(Mechanism::Login) => SignInStep::User,
            None => return self.bad(Reply::new(504, "5.5.4", "mechanism not supported; use PLAIN or LOGIN")),
        };
        match initial.as_deref() {
            // `=` stands for an empty response.
            Some("=") => self.on_response(step, b""),
            Some(response) => self.on_response(step, response.as_bytes()),
            None => self.challenge(step),
        }
    }

    fn challenge(&mut self, step: SignInStep) -> Vec<Action<R>> {
        let challenge = match step {
            SignInStep::Plain => "",
            SignInStep::User => "VXNlcm5hbWU6",
            SignInStep::Password(_) => "UGFzc3dvcmQ6",
        };
        self.phase = Phase::SignIn(step);
        vec![Action::Reply(Reply::plain(334, challenge, Vec::new()))]
    }

    /// Takes a response of the client in base64.
    pub(super) fn on_response(&mut self, step: SignInStep, line: &[u8]) -> Vec<Action<R>> {
        if line == b"*" {
            return self.bad(Reply::new(501, "5.7.0", "sign-in cancelled"));
        }
        let response = STANDARD.decode(line).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let credentials = match (step, response) {
            (SignInStep::Plain, Some(response)) => plain(&response),
            (SignInStep::User, Some(user)) => return self.challenge(SignInStep::Password(user)),
            (SignInStep::Password(user), Some(password)) => Some(Credentials { user, password }),
            (_, None) => None,
        };
        match credentials {
            Some(credentials) if !credentials.user.is_empty() => {
                self.phase = Phase::Password(credentials.user.clone());
                vec![Action::AskPassword { given: credentials, client: self.sender.address }]
            }
            _ => self.bad(Reply::new(501, "5.5.2", "response malformed")),
        }
    }

    pub(super) fn password_checked(&mut self, user: String, checked: PasswordCheck) -> Vec<Action<R>> {
        if checked == PasswordCheck::Right {
            self.sender.user = Some(user);
            return vec![Action::Count(Counter::SignIns), Action::Reply(Reply::new(235, "2.7.0", "signed in"))];
        }
        self.failed_sign_ins += 1;
        let mut actions = vec![Action::Count(Counter::SignInsRefused)];
        match self.failed_sign_ins >= self.limits.failed_sign_ins {
            true => actions.extend(self.closing(Reply::new(421, "4.7.0", "too many failed sign-ins"))),
            false if checked == PasswordCheck::Later => {
                actions.push(Action::Reply(Reply::new(454, "4.7.0", "sign-in not possible now; try again later")));
            }
            false => actions.push(Action::Reply(Reply::new(535, "5.7.8", "user or password wrong"))),
        }
        actions
    }
}

/// `authorization NUL user NUL password`; a user acts for no other user.
fn plain(response: &str) -> Option<Credentials> {
    let mut parts = response.split('\0');
    let (acts_for, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    let sound = parts.next().is_none() && (acts_for.is_empty() || acts_for == user);
    sound.then(|| Credentials { user: user.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_response_names_a_user_that_acts_for_itself() {
        let anna = Some(Credentials { user: "anna".into(), password: "pw".into() });
        assert_eq!(plain("\0anna\0pw"), anna);
        assert_eq!(plain("anna\0anna\0pw"), anna);
        for response in ["", "anna", "anna\0pw", "boss\0anna\0pw", "\0anna\0pw\0x"] {
            assert_eq!(plain(response), None, "{response:?}");
        }
    }

    #[test]
    fn password_does_not_show_in_debug_output() {
        let credentials = Credentials { user: "anna".into(), password: "secret".into() };
        let action = Action::<u8>::AskPassword { given: credentials, client: [127, 0, 0, 1].into() };
        assert!(!format!("{action:?}").contains("secret"));
    }
}
