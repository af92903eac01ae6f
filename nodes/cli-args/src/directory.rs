//! Arguments for users from LDAP directories: `directory`, `user check-password`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `directory`
#[derive(Debug, Subcommand)]
pub enum DirectoryCommand {
    /// All directories and their state
    List,
    /// One directory with its settings
    Show {
        /// Its name.
        name: String,
    },
    /// Add a directory; no user is made before 'directory sync' or 'enabled=yes'
    Add {
        /// Its name; 1 to 63 of a-z, 0-9, '-' and '_'.
        name: String,
        /// Settings, such as url=ldaps://dc1.example.com base=dc=example,dc=com: docs/directory.md
        #[arg(value_name = "SETTING=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Change settings of a directory; SETTING=- restores the default
    Set {
        /// Its name.
        name: String,
        /// Settings, as for 'directory add'.
        #[arg(value_name = "SETTING=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Remove a directory; its users stay, as local users
    Remove {
        /// Its name.
        name: String,
    },
    /// Connect from this node and show how a few entries become users; changes nothing
    Test {
        /// Its name.
        name: String,
    },
    /// Search the whole directory now
    Sync(DirectorySyncArgs),
    /// The latest runs and dry runs, with their numbers
    Runs {
        /// Its name.
        name: String,
    },
    /// Detach a user from the directory: later runs leave the user alone
    MakeLocal {
        /// The mailbox number.
        number: String,
    },
    /// Attach a user to an entry of a directory
    Bind {
        /// The mailbox number.
        number: String,
        /// The directory's name.
        directory: String,
        /// entryUUID or objectGUID of the entry.
        #[arg(value_name = "UUID")]
        entry: String,
    },
}

/// `directory sync`
#[derive(Debug, Args)]
pub struct DirectorySyncArgs {
    /// The directory's name.
    pub name: String,
    /// Only show what would change.
    #[arg(long)]
    pub dry_run: bool,
    /// Attach local users to entries with the same number or mail address.
    #[arg(long, value_enum, value_name = "FIELD")]
    pub adopt_by: Option<AdoptBy>,
    /// Delete and disable what this run was stopped for, or this dry run shows, and nothing else.
    #[arg(long, value_name = "RUN")]
    pub accept_deletions: Option<u64>,
}

/// Field by which local users are attached to entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AdoptBy {
    /// The mailbox number
    Number,
    /// The mail address
    Mail,
}

/// `user check-password`
#[derive(Debug, Args)]
pub struct CheckPasswordArgs {
    /// The mailbox number, or the login in the directory.
    #[arg(value_name = "NUMBER")]
    pub user: String,
    /// File with the password in its first line. Default: standard input.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}
