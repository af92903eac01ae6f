//! The works that need nothing but the mail store and the outbox.

mod age;
mod owners;
mod quota;

pub use age::ageing;
pub use quota::quota_warnings;
