//! Arguments for bulk operations on users, classes of service, prompts, and imports from other systems.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `user import`
#[derive(Debug, Args)]
#[command(after_help = "\
  number,name,pin,timezone,language,operator,cos,mail,aliases
  1001,Ada Lovelace,284617,Europe/London,en,0,sales,ada@example.com,ada a.lovelace

Fields are separated by , ; or tabs: a table that a spreadsheet saved is taken as
it is. An empty field says nothing; - says none, where there can be none. The
language is that of the texts of the owner's mails. The columns notify_mail,
notify_audio, notify_delete and notify_pager are about the first mail device and the
first pager of a user; no device is removed. Users that are
there are changed where the table differs; who has a PIN keeps it. All mistakes
are reported with their lines, and then nothing is changed. Giving the same table
again changes nothing.

First PINs that must be changed are hashed at a lower cost, so that thousands take
seconds; with --keep-pins each takes what voicemail.pin_hash_kib and
voicemail.pin_hash_passes say.

Exit codes: 0 done, 1 failed, 2 mistakes in the table, 3 no node reachable.")]
pub struct UserImportArgs {
    /// The table, in UTF-8. Its first line names the columns: number, and any of name, pin, timezone, language,
    /// operator, cos, mail, aliases, notify_mail, notify_audio, notify_delete, notify_pager.
    #[arg(value_name = "FILE.csv")]
    pub file: PathBuf,
    /// Only show what would change.
    #[arg(long)]
    pub dry_run: bool,
    /// First PINs stay: owners need not change them.
    #[arg(long)]
    pub keep_pins: bool,
    /// Treatment of PINs that are too easy to guess.
    #[arg(long, value_enum, default_value_t = WeakPins::Refuse)]
    pub weak_pins: WeakPins,
}

/// Treatment of PINs that the rules refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeakPins {
    /// Refuse the table
    Refuse,
    /// Import the user without a PIN, and report that
    LeaveOut,
    /// Accept it, to be changed at the first sign-in
    Accept,
}

impl WeakPins {
    /// The word for it on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::LeaveOut => "leave-out",
            Self::Accept => "accept",
        }
    }
}

/// `user set`
#[derive(Debug, Args)]
pub struct UserSetArgs {
    /// The mailbox number.
    pub number: String,
    /// The owner's name.
    #[arg(long)]
    pub name: Option<String>,
    /// The owner's time zone, such as Europe/Berlin.
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// Number to which 0 leads during the greeting; - for none.
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub operator: Option<String>,
    /// The class of service, from 'cos list'.
    #[arg(long, value_name = "NAME")]
    pub cos: Option<String>,
    /// The owner's mail address; - for none.
    #[arg(long, value_name = "ADDRESS", allow_hyphen_values = true)]
    pub mail: Option<String>,
    /// All other names for mail to the mailbox, each with its own --alias; - for none.
    #[arg(long = "alias", value_name = "ALIAS", allow_hyphen_values = true)]
    pub aliases: Vec<String>,
}

/// `import`
#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// Users, greetings and messages of Asterisk's app_voicemail
    Asterisk(AsteriskArgs),
}

/// `import asterisk`
#[derive(Debug, Args)]
pub struct AsteriskArgs {
    /// Asterisk's voicemail.conf.
    #[arg(long, value_name = "FILE")]
    pub conf: PathBuf,
    /// The folder of all contexts, such as /var/spool/asterisk/voicemail; without it only users are imported.
    #[arg(long, value_name = "DIR")]
    pub spool: Option<PathBuf>,
    /// The voicemail context whose mailboxes are imported.
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub context: String,
    /// The codec for audio that is not in G.711 already; use that of the trunk.
    #[arg(long, value_enum, default_value_t = Law::Ulaw)]
    pub law: Law,
    /// Treatment of PINs that are too easy to guess.
    #[arg(long, value_enum, default_value_t = WeakPins::LeaveOut)]
    pub weak_pins: WeakPins,
    /// Write the texts of Asterisk's mails as templates into this folder, which is named by their language, such as
    /// /etc/twinbox/templates/en; files that are there stay.
    #[arg(long, value_name = "DIR")]
    pub templates: Option<PathBuf>,
    /// Only show what would be imported.
    #[arg(long)]
    pub dry_run: bool,
}

/// Words of `--law`, with their help. The codec itself is `Codec` in `proto/rtp`, which also reads other names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Law {
    /// North America, Japan
    Ulaw,
    /// The rest of the world
    Alaw,
}

/// `cos`
#[derive(Debug, Subcommand)]
pub enum CosCommand {
    /// All classes with their rules; the rules of the default class apply where a class has none
    List,
    /// One class
    Show {
        /// Its name.
        name: String,
    },
    /// Make a class
    Add {
        /// Its name.
        name: String,
        /// Rules, such as message-seconds=120 operator=no
        #[arg(value_name = "RULE=VALUE")]
        rules: Vec<String>,
    },
    /// Change rules of a class; RULE=- removes one
    Set {
        /// Its name; 'default' for the default class.
        name: String,
        /// message-seconds, messages, total-minutes, retention-days, new-days, saved-days, deleted-days, warn-days,
        /// pin-length, pin-tries, easy-pins, operator, sign-in, audio-out
        #[arg(value_name = "RULE=VALUE", required = true)]
        rules: Vec<String>,
    },
    /// Remove a class that no user has
    Remove {
        /// Its name.
        name: String,
    },
}

/// `prompt`
#[derive(Debug, Subcommand)]
pub enum PromptCommand {
    /// Play a WAV file instead of a prompt, on every node
    Set {
        /// The prompt's name in Asterisk's layout, such as vm-intro or digits/7.
        name: String,
        /// 8,000 Hz, mono, 16-bit PCM or G.711.
        #[arg(value_name = "FILE.wav")]
        file: PathBuf,
    },
    /// The prompts that replace standard ones
    List {
        /// Names of all standard prompts instead.
        #[arg(long)]
        all: bool,
    },
    /// Restore the standard prompt
    Remove {
        /// The prompt's name.
        name: String,
    },
}
