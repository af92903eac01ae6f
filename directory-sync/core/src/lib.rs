//! The pure core of directory sync: from the entries of an LDAP directory to the steps that make its users.
//!
//! ```text
//! settings as text ─► setting, values ─► DirectorySettings
//! entry of a server ─► entry ─► map, template ─► Person
//! people + present users ─► difference (claims) ─► steps ─► guard ─► the store
//!                                                  └─► lines, counts, digest of a dry run
//! ```
//!
//! | module | subject |
//! | --- | --- |
//! | `setting`, `values`, `settings` | the settings of a directory: words and numbers, their texts, their types |
//! | `url`, `dn`, `escape` | LDAP URLs, distinguished names, escaping of what users type |
//! | `entry` | an entry with bounded attributes; its stable id; whether its account is disabled |
//! | `template` | the small language that makes numbers, names and addresses from attributes |
//! | `map`, `person` | the attribute map, and a person as the directory describes it |
//! | `first_pin` | the first PIN of a new user |
//! | `present`, `claims`, `difference`, `plan` | the users of the store, unique values, and the steps between both |
//! | `number_exchange` | steps of users who exchange their numbers |
//! | `step`, `lines` | steps, and their text for the administrator |
//! | `guard` | limits of deletions, disablings and emptied fields |
//!
//! No clock, no socket, no disk: the time is an argument. Decisions and their reasons are in `../DESIGN.md`.

mod claims;
mod difference;
mod dn;
mod entry;
mod escape;
mod first_pin;
mod guard;
mod lines;
mod map;
mod number_exchange;
mod person;
mod plan;
mod present;
mod setting;
mod settings;
mod step;
mod template;
mod url;
mod values;

pub use difference::{AdoptBy, Difference, Scope, difference};
pub use dn::Dn;
pub use entry::{
    Attributes, DISABLED_ATTRIBUTES, Entry, LONGEST_VALUE, MOST_ATTRIBUTES, MOST_BYTES, MOST_VALUES,
    account_disabled, entry_id_of_guid, entry_id_of_uuid, guid_of_entry_id,
};
pub use escape::{dn_value, filter_value, is_filter};
pub use first_pin::{FirstPin, FirstPinError, FirstPinStep};
pub use guard::{GUARD_WINDOW_MS, HeldBack, HeldBackReason, Limits, guard};
pub use map::{AttributeMap, ClassRule, person};
pub use person::{FieldProblem, Person};
pub use present::Present;
pub use setting::{Setting, SettingError};
pub use settings::{DirectorySettings, DisabledCallers, Flavour, SearchSettings, ServerSettings};
pub use step::{DirectoryStep, FieldChange, Notice, RefusedEntry, UserLabel};
pub use template::{Template, TemplateError};
pub use url::{InvalidUrl, LdapUrl};
