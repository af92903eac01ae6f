//! Replies: code, enhanced status code (RFC 3463) and text.

use std::borrow::Cow;

use crate::handler::{Delivery, RecipientError};

/// Longest text of a reply line, in bytes: a line has at most 512 (RFC 5321 section 4.5.3.1.5).
const MAX_TEXT: usize = 400;

/// One reply to a command or a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    enhanced: Option<Cow<'static, str>>,
    /// Text of the first line, which also ends a reply of one line.
    first: Cow<'static, str>,
    more: Vec<Cow<'static, str>>,
}

impl Reply {
    /// Reply of one line with an enhanced status code.
    pub fn new(code: u16, enhanced: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, enhanced: Some(Cow::Borrowed(enhanced)), first: text.into(), more: Vec::new() }
    }

    /// Reply without an enhanced status code: greeting, `HELO`, `EHLO` and everything that is `3xx`.
    pub(crate) fn plain(code: u16, text: impl Into<Cow<'static, str>>, more: Vec<Cow<'static, str>>) -> Self {
        Self { code, enhanced: None, first: text.into(), more }
    }

    /// Three-digit reply code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Appends the reply as it is sent.
    pub fn write(&self, out: &mut Vec<u8>) {
        let last = self.more.len();
        for (index, text) in std::iter::once(&self.first).chain(&self.more).enumerate() {
            out.extend_from_slice(self.code.to_string().as_bytes());
            out.push(if index == last { b' ' } else { b'-' });
            if let Some(enhanced) = &self.enhanced {
                out.extend_from_slice(enhanced.as_bytes());
                out.push(b' ');
            }
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// A text of the handler as one line of bounded length.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if line.len() + c.len_utf8() > MAX_TEXT {
            break;
        }
        line.push(c);
    }
    line
}

/// `class.subject.detail` with a class that fits the code.
fn is_enhanced(text: &str, class: char) -> bool {
    let mut parts = text.split('.');
    let number = |part: Option<&str>| {
        part.is_some_and(|digits| matches!(digits.len(), 1..=3) && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    text.starts_with(class)
        && number(parts.next())
        && number(parts.next())
        && number(parts.next())
        && parts.next().is_none()
}

impl From<&Delivery> for Reply {
    fn from(delivery: &Delivery) -> Self {
        match delivery {
            Delivery::Accepted { detail } => Self::new(250, "2.0.0", one_line(detail)),
            Delivery::Later { text } => Self::new(451, "4.3.0", one_line(text)),
            Delivery::Refused { code, enhanced, text } => {
                let code = if (500..600).contains(code) { *code } else { 554 };
                let enhanced = if is_enhanced(enhanced, '5') { enhanced.clone() } else { "5.0.0".to_owned() };
                let text = one_line(text).into();
                Self { code, enhanced: Some(enhanced.into()), first: text, more: Vec::new() }
            }
        }
    }
}

impl From<RecipientError> for Reply {
    fn from(error: RecipientError) -> Self {
        let (code, enhanced) = match error {
            RecipientError::Unknown | RecipientError::NoPostmaster => (550, "5.1.1"),
            RecipientError::NotReady => (451, "4.3.2"),
            RecipientError::MailboxFull => (452, "4.2.2"),
            RecipientError::Disabled => (550, "5.2.1"),
            RecipientError::RelayingDenied => (550, "5.7.1"),
        };
        Self::new(code, enhanced, error.to_string())
    }
}

/// The result that decides about the one reply of SMTP: `451` if a repeat may deliver more, else `250` if any recipient
/// has the mail.
pub(crate) fn deciding(deliveries: &[Delivery]) -> Option<&Delivery> {
    let later = deliveries.iter().find(|delivery| matches!(delivery, Delivery::Later { .. }));
    let accepted = deliveries.iter().find(|delivery| matches!(delivery, Delivery::Accepted { .. }));
    later.or(accepted).or(deliveries.first())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn refused(code: u16, enhanced: &str) -> Delivery {
        Delivery::Refused { code, enhanced: enhanced.into(), text: "no".into() }
    }

    #[test]
    fn each_line_has_the_code_and_only_the_last_a_space() {
        let reply = Reply::plain(250, "here", vec!["SIZE 5".into(), "HELP".into()]);
        assert_eq!(written(&reply), "250-here\r\n250-SIZE 5\r\n250 HELP\r\n");
        assert_eq!(written(&Reply::new(550, "5.1.1", "no")), "550 5.1.1 no\r\n");
        assert_eq!(written(&RecipientError::Disabled.into()), "550 5.2.1 mailbox disabled\r\n");
        let postmaster = written(&RecipientError::NoPostmaster.into());
        assert!(postmaster.starts_with("550 5.1.1 ") && postmaster.len() < 512, "{postmaster}");
    }

    #[test]
    fn text_of_the_handler_stays_one_short_line() {
        let detail = format!("id 7\r\n221 bye\n{}", "ä".repeat(1000));
        let line = written(&Reply::from(&Delivery::Accepted { detail }));
        assert!(line.starts_with("250 2.0.0 id 7  221 bye ää") && line.len() < 512, "{line}");
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn refusal_with_an_impossible_code_becomes_a_general_one() {
        let table = [
            (550, "5.6.0", "550 5.6.0 no\r\n"),
            (250, "2.0.0", "554 5.0.0 no\r\n"),
            (552, "4.2.2", "552 5.0.0 no\r\n"),
            (552, "5.2", "552 5.0.0 no\r\n"),
            (552, "5.2.2.2", "552 5.0.0 no\r\n"),
            (552, "5.\r\n.2", "552 5.0.0 no\r\n"),
        ];
        for (code, enhanced, expected) in table {
            assert_eq!(written(&Reply::from(&refused(code, enhanced))), expected);
        }
    }

    #[test]
    fn one_reply_for_all_recipients_prefers_later_then_accepted() {
        let accepted = Delivery::Accepted { detail: "ok".into() };
        let later = Delivery::Later { text: "wait".into() };
        let no = refused(550, "5.6.0");
        assert_eq!(deciding(&[no.clone(), accepted.clone(), later.clone()]), Some(&later));
        assert_eq!(deciding(&[no.clone(), accepted.clone()]), Some(&accepted));
        assert_eq!(deciding(&[no.clone(), refused(551, "5.7.1")]), Some(&no));
        assert_eq!(deciding(&[]), None);
    }
}
