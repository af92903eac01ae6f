//! The settings that all nodes share, on a running node.
//!
//! ```text
//! rows of the store ─► SharedSettings ─► values and trunks in force ─► calls, mailstore, replication, receivers of alarms
//! the node's file  ─►       │        └─► values of the file without effect: log, alarm, `setting list`, `doctor`
//!                           └─► offers the file's values once, when this node has all records
//! ```

mod follow;
mod service;
mod shared;
mod trunks;

pub use service::SettingsService;
pub use shared::{SettingsParts, SharedSettings};
