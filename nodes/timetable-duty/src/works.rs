//! The works that need nothing but the mail store.

mod age;
mod quota;

pub use age::ageing;
pub use quota::quota_warnings;
