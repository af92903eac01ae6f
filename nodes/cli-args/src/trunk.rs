//! Arguments of `trunk`.

use clap::Subcommand;

/// `trunk`
#[derive(Debug, Subcommand)]
pub enum TrunkCommand {
    /// All trunks, and what has no effect on the node that is contacted
    List,
    /// One trunk
    Show {
        /// Its name.
        name: String,
    },
    /// Let another peer call, on all nodes; needs no majority and no restart
    Add {
        /// Its name, for logs and metrics.
        name: String,
        /// Settings, such as addresses=10.0.0.10,10.0.1.0/24 transport=udp: docs/settings.md
        #[arg(value_name = "SETTING=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Change a trunk; SETTING=- restores the default; calls in progress continue
    Set {
        /// Its name.
        name: String,
        /// Settings, as for 'trunk add'.
        #[arg(value_name = "SETTING=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Take no more calls from a trunk, whatever the nodes' files say; calls in progress continue
    Remove {
        /// Its name.
        name: String,
    },
}
