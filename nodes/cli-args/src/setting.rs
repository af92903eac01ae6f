//! Arguments of `setting`.

use clap::Subcommand;

/// `setting`
#[derive(Debug, Subcommand)]
pub enum SettingCommand {
    /// All settings: value, its origin, and the time at which a change takes effect
    List,
    /// One setting
    Show {
        /// Its key, as in the file, such as voicemail.pin_tries.
        key: String,
    },
    /// Change settings on all nodes, all or none; needs no majority
    Set {
        /// Settings, such as voicemail.pin_tries=5
        #[arg(value_name = "KEY=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Give settings their defaults on all nodes, whatever the nodes' files say
    Unset {
        /// Keys, such as voicemail.pin_tries
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
    },
}
