//! The works that need nothing but the mail store, the outbox and the folders of backups.

mod age;
mod backup;
mod owners;
mod quota;

pub use age::ageing;
pub use backup::backup;
pub use quota::quota_warnings;
