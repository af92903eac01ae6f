//! Passwords: that of the directory's own account, and the verdict on that of a user.

use tokio::io::AsyncReadExt;
use twinbox_directory_core::ServerSettings;

use crate::{LdapError, message::OperationResult};

/// Longest content of a password file, in bytes.
const LONGEST: u64 = 4_096;

/// Verdict of a server on the password of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindVerdict {
    /// The password is right.
    Right,
    /// The password is wrong or empty, or the user does not exist (result 49, 32 or 48).
    Wrong,
    /// The account may not be used; with the reason.
    Disabled(&'static str),
    /// The account is locked, usually after wrong passwords; with the reason.
    Locked(&'static str),
}

/// The verdict of a server's answer; `None` if the answer says nothing about the password.
fn verdict(code: u32, text: &str) -> Option<BindVerdict> {
    match code {
        0 => Some(BindVerdict::Right),
        49 => Some(active_directory(text).unwrap_or(BindVerdict::Wrong)),
        // No such entry, no valid name, no password set.
        32 | 34 | 48 => Some(BindVerdict::Wrong),
        53 if text.to_ascii_lowercase().contains("inactivated") => {
            Some(BindVerdict::Disabled("the account is disabled"))
        }
        _ => None,
    }
}

impl BindVerdict {
    pub(crate) fn of(outcome: &OperationResult) -> Option<Self> {
        verdict(outcome.code, &outcome.text)
    }
}

/// The reason in a text of Active Directory such as `80090308: LdapErr: DSID-0C09042A, comment: AcceptSecurityContext
/// error, data 533, v4563`.
fn active_directory(text: &str) -> Option<BindVerdict> {
    let (_, after) = text.split_once(", data ")?;
    let code: String = after.chars().take_while(char::is_ascii_hexdigit).collect();
    match code.as_str() {
        "530" => Some(BindVerdict::Disabled("the account may not sign in at this time")),
        "531" => Some(BindVerdict::Disabled("the account may not sign in from here")),
        "532" => Some(BindVerdict::Disabled("the password has expired")),
        "533" => Some(BindVerdict::Disabled("the account is disabled")),
        "701" => Some(BindVerdict::Disabled("the account has expired")),
        "773" => Some(BindVerdict::Disabled("the password must be changed first")),
        "775" => Some(BindVerdict::Locked("the account is locked after wrong passwords")),
        _ => None,
    }
}

/// Reads the password of the directory's own account; `None` for an anonymous sign-in. The file is read at each use, so
/// that a changed password needs no restart.
pub(crate) async fn own(settings: &ServerSettings) -> Result<Option<String>, LdapError> {
    if settings.bind_dn.is_empty() {
        return Ok(None);
    }
    let path = settings.password_file.as_deref().ok_or(LdapError::NoPassword)?;
    let wrong = |reason: String| LdapError::PasswordFile { path: path.to_owned(), reason };
    let file = tokio::fs::File::open(path).await.map_err(|error| wrong(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).await.map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > LONGEST {
        return Err(wrong(format!("it is longer than {LONGEST} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
    // Editors end the line; further spaces may belong to the password.
    let password = text.trim_end_matches(['\n', '\r']);
    if password.is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    Ok(Some(password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_active_directory_tell_disabled_from_wrong() {
        let text = |data: &str| {
            format!("80090308: LdapErr: DSID-0C09042A, comment: AcceptSecurityContext error, data {data}, v4563")
        };
        for data in ["532", "533", "701", "773"] {
            assert!(matches!(verdict(49, &text(data)), Some(BindVerdict::Disabled(_))), "{data}");
        }
        assert!(matches!(verdict(49, &text("775")), Some(BindVerdict::Locked(_))));
        for data in ["525", "52e", "5330"] {
            assert_eq!(verdict(49, &text(data)), Some(BindVerdict::Wrong), "{data}");
        }
    }

    #[test]
    fn only_answers_about_the_password_are_verdicts() {
        assert_eq!(verdict(0, ""), Some(BindVerdict::Right));
        assert_eq!(verdict(49, ""), Some(BindVerdict::Wrong));
        assert_eq!(verdict(48, ""), Some(BindVerdict::Wrong));
        for code in [1, 8, 13, 51, 52, 80] {
            assert_eq!(verdict(code, ""), None, "{code}");
        }
    }
}
