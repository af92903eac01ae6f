//! Administrators' requests about replication and the store: status, comparison, conflicts, check, statistics.

mod convert;
mod member;
mod service;
mod store;
mod tables;

pub use convert::row_text;
pub use member::MemberStorageService;
pub use service::{StorageParts, StorageService};
pub use tables::table_name;
