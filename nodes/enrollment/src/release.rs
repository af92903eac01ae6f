//! Feature levels that this program announces, so that adjacent releases work together.
//!
//! Builds with debug assertions (never a release) have a test hook: with `TWINBOX_TEST_RELEASE=next` in its
//! environment a program acts as the next release. It announces one feature level more, and as a node it writes
//! records and fields that this release does not know.

use twinbox_roles::{FeatureLevels, SUPPORTED_LEVELS};

/// Feature levels that this program supports.
pub fn speaks() -> FeatureLevels {
    let next = u32::from(acts_as_next());
    FeatureLevels { max: SUPPORTED_LEVELS.max + next, ..SUPPORTED_LEVELS }
}

/// Whether this program acts as the next release, for a test.
#[cfg(debug_assertions)]
pub fn acts_as_next() -> bool {
    std::env::var_os("TWINBOX_TEST_RELEASE").is_some_and(|release| release == "next")
}

/// Whether this program acts as the next release: never in a release build.
#[cfg(not(debug_assertions))]
pub const fn acts_as_next() -> bool {
    false
}
