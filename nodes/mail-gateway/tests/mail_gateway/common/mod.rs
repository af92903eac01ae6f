//! A fake of the mailboxes: addresses by their local part.

use twinbox_mail_gateway::{Delivery, Mail, PasswordCheck, RecipientError};

/// Recipients `anna`, `boris`, `later` and `refuse` of example.net are known.
pub fn find(address: &str) -> Result<String, RecipientError> {
    match address.split_once('@') {
        Some((local @ ("anna" | "boris" | "later" | "refuse"), "example.net")) => Ok(local.to_owned()),
        Some(("busy", "example.net")) => Err(RecipientError::NotReady),
        Some(("full", "example.net")) => Err(RecipientError::MailboxFull),
        Some((_, "example.net")) => Err(RecipientError::Unknown),
        _ => Err(RecipientError::RelayingDenied),
    }
}

/// `later` gets the mail another time, `refuse` never, all others now.
pub fn file(mail: &Mail<String>) -> Vec<Delivery> {
    let file = |recipient: &String| match recipient.as_str() {
        "later" => Delivery::Later { text: "disk busy".into() },
        "refuse" => Delivery::Refused { code: 550, enhanced: "5.6.1".into(), text: "no audio".into() },
        _ => Delivery::Accepted { detail: format!("filed for {recipient}") },
    };
    mail.recipients.iter().map(file).collect()
}

/// The password of every user is its name backwards; that of `busy` cannot be checked now.
pub fn check_password(user: &str, password: &str) -> PasswordCheck {
    match user.chars().rev().eq(password.chars()) {
        _ if user == "busy" => PasswordCheck::Later,
        true => PasswordCheck::Right,
        false => PasswordCheck::Wrong,
    }
}
