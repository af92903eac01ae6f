//! The allocator of every process.

use std::ffi::c_char;

/// jemalloc: memory in use stays flat while records enter and leave the caches of the index.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Settings of jemalloc, which finds them by this name; `_RJEM_MALLOC_CONF` in the environment has precedence. jemalloc gives freed
/// memory back to the system after a second, not after ten: a fill and the list of all users free much of it quickly.
// SAFETY: jemalloc declares this name, weakly, for a text like this one; nothing else has it.
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: JemallocConf = JemallocConf(c"dirty_decay_ms:1000".as_ptr());

/// A text that ends with a zero byte.
#[repr(transparent)]
struct JemallocConf(*const c_char);

// SAFETY: it points to a constant.
unsafe impl Sync for JemallocConf {}
