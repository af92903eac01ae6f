//! The notification devices of a voicemail user: mail, pager, SMS and webhook, each with its own times and conditions.
//!
//! ```text
//! record ─► Device ─► decide::first ─► (outbox sends) ─► decide::after ─► repeat, fallback, nothing
//!              ▲              │ still_wanted, digest
//!        DeviceChange     Templates, webhook
//! ```
//!
//! Pure: no clock, no socket, no disk. Views are read from a [`Record`](twinbox_replication_core::Record), changes are
//! lists of [`Edit`](twinbox_replication_core::Edit), one register for each setting. Edits of different settings by two
//! administrators thus both count after a merge.

mod change;
pub mod decide;
mod device;
mod fallbacks;
mod filter;
mod kind;
pub mod link;
mod notification;
mod schedule;
pub mod schema;
mod setting;
pub mod template;
mod value;
pub mod webhook;

pub use change::DeviceChange;
pub use decide::{
    Attempt, MessageFacts, Next, NotBefore, NotificationOutcome, after, digest, first, opens, still_wanted,
};
pub use device::{Device, DeviceError, Repeat};
pub use fallbacks::{check_fallbacks, notified_first};
pub use filter::{CallerPattern, CallerPatternError, Filter};
pub use kind::{Form, Kind, KindName};
pub use link::{DEFAULT_LINK_HOURS, LinkBase, LinkBaseError, LinkKey, RecordingLink};
pub use notification::{MessageText, Notification};
pub use schedule::{Schedule, ScheduleError, Window};
pub use setting::{Hint, Setting, SettingError};
pub use template::{File, TemplateError, Templates, Text};
pub use twinbox_ids::DeviceId;
