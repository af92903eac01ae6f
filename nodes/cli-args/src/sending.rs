//! Arguments for other voicemail systems and messages to them: `location`, `message send`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use twinbox_ids::MessageId;

/// `location`
#[derive(Debug, Subcommand)]
pub enum LocationCommand {
    /// All locations
    List,
    /// One location
    Show {
        /// Its name.
        name: String,
    },
    /// Add a location
    Add {
        /// Its name; 1 to 63 of a-z, 0-9, '-' and '_'.
        name: String,
        /// Settings: dial-id=DIGITS domain=DOMAIN, and audio=wav for a system that does not take VPIM
        #[arg(value_name = "SETTING=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Change settings of a location
    Set {
        /// Its name.
        name: String,
        /// name, dial-id, domain, audio (vpim or wav), enabled
        #[arg(value_name = "SETTING=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Remove a location; messages on their way to it come back to their senders
    Remove {
        /// Its name.
        name: String,
    },
}

/// `message send`
#[derive(Debug, Args)]
pub struct SendArgs {
    /// The sound file: WAV, MP3 or M4A.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The mailbox number that sends.
    #[arg(long, value_name = "NUMBER")]
    pub from: String,
    /// The recipients: mailbox numbers here, or the dial id of a location and the number there.
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', required = true)]
    pub to: Vec<String>,
    /// Mark the message as urgent.
    #[arg(long)]
    pub urgent: bool,
    /// Mark the message as private.
    #[arg(long)]
    pub private: bool,
    /// The subject, for recipients who read messages as mail.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub subject: String,
    /// Id of the order, 32 hexadecimal digits: the same order given again sends nothing twice. Default: a new one.
    #[arg(long, value_name = "ID")]
    pub order: Option<MessageId>,
}
