//! The allocator of every process.

use std::ffi::c_char;

/// jemalloc: memory in use stays flat while records enter and leave the caches of the index.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Settings of jemalloc, which finds them by this name; the environment's `_RJEM_MALLOC_CONF` comes after them. Freed memory goes
/// back to the system after a second, not after ten: what a list or a fill used once counts for less long.
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: Settings = Settings(c"dirty_decay_ms:1000".as_ptr());

/// A text of C.
#[repr(transparent)]
struct Settings(*const c_char);

// SAFETY: it points to a constant.
unsafe impl Sync for Settings {}
