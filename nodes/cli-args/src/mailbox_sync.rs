//! Arguments of `mailbox-sync`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `mailbox-sync`
#[derive(Debug, Subcommand)]
pub enum MailboxSyncCommand {
    /// All mailboxes with a mail account: state, last error, messages held back, time of the last sync
    List {
        /// Only those that fail, hold messages back, or are left out.
        #[arg(long)]
        failing: bool,
    },
    /// One mailbox: its account, its settings, and the numbers of messages by state
    Show {
        /// The mailbox number.
        number: String,
    },
    /// Keep mailboxes in accounts of a server
    Add {
        /// Mailbox numbers, and settings for all of them, such as account=anna@example.com folder=Voicemail
        #[arg(value_name = "NUMBER|SETTING=VALUE", required = true)]
        words: Vec<String>,
        /// The server, from 'mailbox-sync server list'.
        #[arg(long, value_name = "NAME")]
        server: String,
    },
    /// Change settings of a mailbox; SETTING=- restores the server's
    Set {
        /// The mailbox number.
        number: String,
        /// Another server; the messages are appended there.
        #[arg(long, value_name = "NAME")]
        server: Option<String>,
        /// enabled, account, folder, trash, password-file
        #[arg(value_name = "SETTING=VALUE", required_unless_present = "server")]
        settings: Vec<String>,
    },
    /// Keep a mailbox in its account no longer; the messages stay, here and there
    Remove {
        /// The mailbox number.
        number: String,
    },
    /// Synchronise a mailbox now, wait for the end and print the outcome; exit code 1 if it failed
    Run(MailboxSyncRunArgs),
    /// IMAP servers
    #[command(subcommand)]
    Server(MailServerCommand),
}

/// `mailbox-sync run`
#[derive(Debug, Args)]
pub struct MailboxSyncRunArgs {
    /// The mailbox number.
    pub number: String,
    /// The account is empty on purpose: delete here what was held back.
    #[arg(long)]
    pub accept_deletions: bool,
}

/// `mailbox-sync server`
#[derive(Debug, Subcommand)]
pub enum MailServerCommand {
    /// All servers, with the number of their accounts
    List,
    /// One server with its settings
    Show {
        /// Its name.
        name: String,
    },
    /// Add a server; it is contacted when a mailbox is added, or 'users' is set
    Add {
        /// Its name; 1 to 63 of a-z, 0-9, '-' and '_'.
        name: String,
        /// Settings, such as host=imap.example.com auth=master-user: docs/mailbox-sync.md
        #[arg(value_name = "SETTING=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Change settings of a server; SETTING=- restores the default
    Set {
        /// Its name.
        name: String,
        /// Settings, as for 'mailbox-sync server add'.
        #[arg(value_name = "SETTING=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Remove a server and its accounts; the messages stay, here and there
    Remove {
        /// Its name.
        name: String,
    },
    /// Connect from the contacted node, sign in and open the folder; changes nothing
    Test {
        /// Its name.
        name: String,
        /// Mailbox whose account signs in. Default: the first account of the server.
        #[arg(long, value_name = "NUMBER")]
        user: Option<String>,
    },
    /// Get a refresh token: a person signs in at the provider with a code, on any machine; give the command on a node
    Authorize(AuthorizeArgs),
}

/// `mailbox-sync server authorize`
#[derive(Debug, Args)]
pub struct AuthorizeArgs {
    /// Name of the server, which has client-id, scope and token-url, and client-secret-file if the provider requires
    /// one.
    pub name: String,
    /// Output file for the refresh token; copy it to every node, as refresh-token-file of the server or password-file of an
    /// account.
    #[arg(long, value_name = "PATH")]
    pub file: PathBuf,
    /// The provider's device authorization endpoint, such as https://login.microsoftonline.com/TENANT/oauth2/v2.0/devicecode
    #[arg(long, value_name = "URL")]
    pub device_url: String,
}
