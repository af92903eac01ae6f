//! Kinds of devices, each with its target.

use twinbox_ids::Pii;

use crate::{DEFAULT_LINK_HOURS, Setting};

/// Kind of a device, with the settings that only this kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A mail for each message.
    Mail {
        /// Mail address.
        address: Pii<String>,
        /// The recording is attached as WAV.
        audio: bool,
    },
    /// A short mail of at most 160 characters, without an attachment.
    Pager {
        /// Mail address.
        address: Pii<String>,
    },
    /// An SMS through a mail gateway: a short mail like that of a pager.
    SmsMail {
        /// Mail address at the gateway.
        address: Pii<String>,
    },
    /// An SMS through the HTTP gateway in the node's configuration.
    SmsHttp {
        /// Telephone number: digits, possibly after `+`.
        number: Pii<String>,
    },
    /// An HTTP request with a JSON body.
    Webhook {
        /// URL, `https` or `http`.
        url: Pii<String>,
        /// Key of the signatures.
        secret: Pii<String>,
        /// Notifications have a link to the recording.
        link: bool,
        /// Validity of the links, in hours.
        link_hours: u32,
    },
}

/// Kind of a device without its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KindName {
    /// [`Kind::Mail`].
    Mail,
    /// [`Kind::Pager`].
    Pager,
    /// [`Kind::SmsMail`].
    SmsMail,
    /// [`Kind::SmsHttp`].
    SmsHttp,
    /// [`Kind::Webhook`].
    Webhook,
}

/// Form of a text notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Mail with a subject.
    Mail,
    /// Short mail.
    Pager,
    /// SMS.
    Sms,
}

impl Kind {
    /// The kind alone.
    pub fn name(&self) -> KindName {
        match self {
            Self::Mail { .. } => KindName::Mail,
            Self::Pager { .. } => KindName::Pager,
            Self::SmsMail { .. } => KindName::SmsMail,
            Self::SmsHttp { .. } => KindName::SmsHttp,
            Self::Webhook { .. } => KindName::Webhook,
        }
    }

    /// Mail address, telephone number or URL.
    pub fn target(&self) -> &Pii<String> {
        match self {
            Self::Mail { address, .. } | Self::Pager { address } | Self::SmsMail { address } => address,
            Self::SmsHttp { number } => number,
            Self::Webhook { url, .. } => url,
        }
    }
}

impl KindName {
    /// All kinds, in display order.
    pub const ALL: [Self; 5] = [Self::Mail, Self::Pager, Self::SmsMail, Self::SmsHttp, Self::Webhook];

    /// Name of the kind on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::Pager => "pager",
            Self::SmsMail => "sms-mail",
            Self::SmsHttp => "sms-http",
            Self::Webhook => "webhook",
        }
    }

    /// The kind of a word of the command line.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Form of its texts; `None`: it gets JSON.
    pub fn form(self) -> Option<Form> {
        match self {
            Self::Mail => Some(Form::Mail),
            Self::Pager => Some(Form::Pager),
            Self::SmsMail | Self::SmsHttp => Some(Form::Sms),
            Self::Webhook => None,
        }
    }

    /// Settings that a device of this kind cannot do without.
    pub fn required(self) -> &'static [Setting] {
        match self {
            Self::Mail | Self::Pager | Self::SmsMail => &[Setting::Address],
            Self::SmsHttp => &[Setting::Number],
            Self::Webhook => &[Setting::Url, Setting::Secret],
        }
    }

    /// The byte in the record.
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Mail => 1,
            Self::Pager => 2,
            Self::SmsMail => 3,
            Self::SmsHttp => 4,
            Self::Webhook => 5,
        }
    }

    /// The inverse of [`Self::to_byte`].
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_byte() == byte)
    }

    /// The kind with empty settings.
    pub(crate) fn blank(self) -> Kind {
        match self {
            Self::Mail => Kind::Mail { address: Pii::default(), audio: false },
            Self::Pager => Kind::Pager { address: Pii::default() },
            Self::SmsMail => Kind::SmsMail { address: Pii::default() },
            Self::SmsHttp => Kind::SmsHttp { number: Pii::default() },
            Self::Webhook => Kind::Webhook {
                url: Pii::default(),
                secret: Pii::default(),
                link: false,
                link_hours: DEFAULT_LINK_HOURS,
            },
        }
    }
}
