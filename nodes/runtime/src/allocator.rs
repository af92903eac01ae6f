//! The allocator of every process.

/// jemalloc: memory in use stays flat while records enter and leave the caches of the index.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
