//! Feature levels that this program announces, so that adjacent releases work together.
//!
//! Builds with debug assertions (never a release) have a test hook: with `TWINBOX_TEST_RELEASE=next` in its
//! environment a program acts as the next release. It announces one feature level more, and as a node it writes
//! records and fields that this release does not know.

use twinbox_roles::{SPEAKS, Speaks};

/// Feature levels that this program supports.
pub(crate) fn speaks() -> Speaks {
    let next = u32::from(is_next());
    Speaks { max: SPEAKS.max + next, ..SPEAKS }
}

#[cfg(debug_assertions)]
fn is_next() -> bool {
    std::env::var_os("TWINBOX_TEST_RELEASE").is_some_and(|release| release == "next")
}

#[cfg(not(debug_assertions))]
const fn is_next() -> bool {
    false
}

/// Writes the records of the next release if this program acts as that release, until stopped.
#[cfg(debug_assertions)]
pub(crate) async fn write(mailstore: twinbox_mailstore::Mailstore, stop: tokio_util::sync::CancellationToken) {
    const LOOK: std::time::Duration = std::time::Duration::from_millis(200);
    if !is_next() {
        return;
    }
    tracing::warn!("this node passes itself off as the next release, for a test");
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
        match mailstore.write_as_a_later_release().await {
            Ok(true) => tracing::info!("what only the next release knows is written"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "what only the next release knows is not written yet"),
        }
    }
}
