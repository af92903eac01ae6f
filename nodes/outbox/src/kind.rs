//! Kinds of effects: the event that causes one, and its way out of the cluster.

use std::fmt;

/// Event that causes an effect, usually the transition of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transition {
    /// The message was filed in its mailbox.
    Filed,
    /// An administrator requested a test of a device; there is no message.
    Test,
    /// The message was sent to a mailbox of another voicemail system.
    Sent,
    /// The message came by mail, whose sender wants a report.
    Received,
    /// A directory's new user has a first PIN; there is no message.
    FirstPin,
    /// The mailbox is nearly full, or full; there is no message.
    Quota,
    /// Messages of the mailbox are about to be deleted by their age; the effect names none of them.
    Ageing,
    /// A job of the timetable ordered a report of calls; there is no message, and no mailbox.
    CallReport,
}

/// Way out of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// A mail, with or without the audio.
    Mail,
    /// A short mail to a pager.
    Pager,
    /// A short mail to an SMS gateway.
    SmsMail,
    /// A request to an SMS gateway.
    SmsHttp,
    /// A request to a URL of the user.
    Webhook,
    /// A voice message to another voicemail system.
    Vpim,
    /// A report of delivery to the sender of a mail.
    Report,
    /// A mail of the system to a user or administrator: a first PIN, a warning, a report of calls.
    System,
}

impl Transition {
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Filed => 1,
            Self::Test => 2,
            Self::Sent => 3,
            Self::Received => 4,
            Self::FirstPin => 5,
            Self::Quota => 6,
            Self::Ageing => 7,
            Self::CallReport => 8,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        let of_messages = [Self::Filed, Self::Test, Self::Sent, Self::Received];
        let of_system = [Self::FirstPin, Self::Quota, Self::Ageing, Self::CallReport];
        of_messages.into_iter().chain(of_system).find(|transition| transition.byte() == byte)
    }
}

impl Channel {
    /// All channels.
    pub const ALL: [Self; 8] = [
        Self::Mail,
        Self::Pager,
        Self::SmsMail,
        Self::SmsHttp,
        Self::Webhook,
        Self::Vpim,
        Self::Report,
        Self::System,
    ];

    /// The word for people and in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::Pager => "pager",
            Self::SmsMail => "sms-mail",
            Self::SmsHttp => "sms-http",
            Self::Webhook => "webhook",
            Self::Vpim => "vpim",
            Self::Report => "report",
            Self::System => "system",
        }
    }

    /// Whether it leaves by SMTP, hence under the duty `mta`; the others belong to the notifier.
    pub const fn is_mail(self) -> bool {
        matches!(self, Self::Mail | Self::Pager | Self::SmsMail | Self::Vpim | Self::Report | Self::System)
    }

    /// Whether an attempt of unknown result is not repeated, because the receiver could not tell the repeat: a text
    /// message has no id. Mails repeat their Message-ID, webhooks their idempotency key.
    pub const fn at_most_once(self) -> bool {
        matches!(self, Self::SmsHttp)
    }

    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Mail => 1,
            Self::Pager => 2,
            Self::SmsMail => 3,
            Self::SmsHttp => 4,
            Self::Webhook => 5,
            Self::Vpim => 6,
            Self::Report => 7,
            Self::System => 8,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.byte() == byte)
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
