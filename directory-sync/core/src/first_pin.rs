//! The first PIN of a new user.

use twinbox_ids::Pii;
use twinbox_mailbox::pin::{PinRefused, typable};

use crate::{Person, Template};

/// Policy for the first PIN of a new user. The first sign-in with it asks for a new PIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPin {
    /// No PIN: an administrator sets one before the owner can sign in by telephone.
    None,
    /// A random PIN, sent to the mail address of the user.
    Mail,
    /// A PIN by a template, in which `{number}` is the number of the user.
    Pattern(Template),
}

/// Work for the first PIN of one new user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPinStep {
    /// Nothing.
    None,
    /// Set this PIN.
    Set(Pii<String>),
    /// Set a random PIN and send it to this address.
    Mail(Pii<String>),
}

/// A new user gets no first PIN. The texts name the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FirstPinError {
    /// The entry has no mail address to which a PIN could be sent.
    #[error("no first PIN: the entry has no mail address; add one, or set a PIN with `twinbox user set-pin`")]
    NoAddress,
    /// Mail out is not configured.
    #[error(
        "no first PIN: mail out is not configured; set mail.domain and mail.smarthost, or set a PIN with \
         `twinbox user set-pin`"
    )]
    NoMailOut,
    /// The template gives nothing for this entry.
    #[error("no first PIN: no value of the entry fits first-pin={0}; set a PIN with `twinbox user set-pin`")]
    NoValue(String),
    /// The template gives a PIN that is refused.
    #[error("no first PIN: first-pin={0} gives an unusable one: {1}")]
    Refused(String, PinRefused),
}

impl FirstPin {
    /// The work for a new user. `min_length` is the minimum length of PINs, in digits. The easy PINs that a pattern
    /// makes are accepted, since the first sign-in replaces them.
    pub fn step(&self, person: &Person, min_length: u8) -> Result<FirstPinStep, FirstPinError> {
        match self {
            Self::None => Ok(FirstPinStep::None),
            Self::Mail => match &person.mail {
                Some(mail) => Ok(FirstPinStep::Mail(Pii::new(mail.clone()))),
                None => Err(FirstPinError::NoAddress),
            },
            Self::Pattern(template) => {
                let text = || template.as_str().to_owned();
                let pin = person.pin.as_ref().ok_or_else(|| FirstPinError::NoValue(text()))?;
                typable(pin.reveal(), min_length).map_err(|refused| FirstPinError::Refused(text(), refused))?;
                Ok(FirstPinStep::Set(pin.clone()))
            }
        }
    }
}
