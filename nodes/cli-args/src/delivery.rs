//! Arguments for notifications and mail out: `device`, `outbox`, `mail`, `notify`, `mwi`.

use std::time::Duration;

use clap::{Args, Subcommand};
use twinbox_ids::MessageId;

/// Kinds of devices.
const KINDS: [&str; 5] = ["mail", "pager", "sms-mail", "sms-http", "webhook"];
/// Channels of the outbox: the kinds of devices, and messages to other voicemail systems.
const CHANNELS: [&str; 8] = ["mail", "pager", "sms-mail", "sms-http", "webhook", "vpim", "report", "system"];

/// A device of a mailbox.
#[derive(Debug, Args)]
pub struct DeviceArg {
    /// The mailbox number.
    pub number: String,
    /// Name of the device; 1 to 63 of a-z, 0-9, '-' and '_'.
    #[arg(value_name = "DEVICE")]
    pub device: String,
}

/// `device`
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// The devices of a mailbox, or of all mailboxes
    List {
        /// The mailbox number.
        number: Option<String>,
    },
    /// Add a device to a mailbox
    Add {
        /// The new device.
        #[command(flatten)]
        device: DeviceArg,
        /// Its kind; it never changes.
        #[arg(value_parser = KINDS)]
        kind: String,
        /// Settings, such as address=anna@example.com audio=yes when='mon-fri 08:00-18:00'
        #[arg(value_name = "SETTING=VALUE")]
        settings: Vec<String>,
    },
    /// Change settings of a device; SETTING=- restores the default
    Set {
        /// The device.
        #[command(flatten)]
        device: DeviceArg,
        /// name, address, number, url, secret, link, link-hours, audio, enabled, language, when, urgent-only, from,
        /// min-seconds, delay, repeat, fallback, per-hour, delete-after
        #[arg(value_name = "SETTING=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Remove a device
    Remove(DeviceArg),
    /// Send a test notification and wait for its outcome; exit code 1 if there is none, or it was given up
    Test {
        /// The device.
        #[command(flatten)]
        device: DeviceArg,
        /// Time limit for the outcome.
        #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = super::seconds)]
        timeout: Duration,
    },
}

/// `outbox`
#[derive(Debug, Subcommand)]
pub enum OutboxCommand {
    /// Notifications that are not done, newest first: they wait, failed, or were given up
    List {
        /// Only those in this state; bounced: taken, and then a report of failure came back.
        #[arg(long, value_parser = ["pending", "failed", "held", "dead", "done", "bounced"])]
        state: Option<String>,
        /// Only those of this channel.
        #[arg(long, value_parser = CHANNELS)]
        channel: Option<String>,
        /// Only those to this mail domain, mail address, host of webhooks, or channel.
        #[arg(long)]
        destination: Option<String>,
        /// At most this number.
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// One notification with its history: attempts, failures, and what followed
    Show {
        /// The id, from 'outbox list'; the first digits are sufficient.
        id: String,
    },
    /// Attempt a notification now, also one that was given up
    Retry {
        /// The id, from 'outbox list'; the first digits are sufficient.
        #[arg(required_unless_present = "all_dead")]
        id: Option<String>,
        /// All that were given up.
        #[arg(long, conflicts_with = "id")]
        all_dead: bool,
    },
    /// Give a notification up: it counts as done
    Drop {
        /// The id, from 'outbox list'; the first digits are sufficient.
        id: String,
        /// Do not ask for confirmation.
        #[arg(long)]
        yes: bool,
    },
    /// Attempt nothing to a destination until it is flushed; nothing is lost
    Hold {
        /// A mail domain, a mail address, the host of webhooks, or a channel, such as mail.
        destination: String,
        /// Reason, shown by 'outbox holds'.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Attempt everything that waits for a destination now; ends its hold, if there is one
    Flush {
        /// The destination, as for 'outbox hold'.
        destination: String,
    },
    /// Destinations on hold
    Holds,
}

/// `mail`
#[derive(Debug, Subcommand)]
pub enum MailCommand {
    /// Test the way of mail to an address, step by step from the contacted node; no mail is sent ('device test' sends one)
    Test {
        /// The mail address.
        address: String,
    },
}

/// `notify`
#[derive(Debug, Subcommand)]
pub enum NotifyCommand {
    /// Subject and text of a notification, with the templates of the contacted node; nothing is sent
    Preview {
        /// The device.
        #[command(flatten)]
        device: DeviceArg,
        /// Language of the text, such as de. Default: that of the device, or of the mailbox.
        #[arg(long, value_name = "LANGUAGE")]
        language: Option<String>,
        /// Id of a message, from 'message list'. Default: one that is made up.
        #[arg(long, value_name = "ID")]
        message: Option<MessageId>,
    },
}

/// `mwi`
#[derive(Debug, Subcommand)]
pub enum MwiCommand {
    /// Send the MWI state of all mailboxes again, at the notifier's pace: for a PBX that lost them
    Resync {
        /// Only this mailbox.
        #[arg(long, value_name = "NUMBER")]
        mailbox: Option<String>,
    },
}
