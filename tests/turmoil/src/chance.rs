//! All randomness of this process comes from one seed: requests to the operating system for random bytes are answered
//! by [`getrandom`] below, which the linker prefers over the C library's. So `HashMap`s, tokio's `select!`, identifiers
//! and Raft's election timeouts are the same in every process with that seed.

use std::{
    ffi::{c_int, c_uint, c_void},
    slice,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

static STATE: AtomicU64 = AtomicU64::new(0);

/// Starts again with this seed.
pub fn seed(seed: u64) {
    STATE.store(seed, Relaxed);
}

/// SplitMix64.
fn next() -> u64 {
    let mut z = STATE.fetch_add(0x9E37_79B9_7F4A_7C15, Relaxed).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Replaces the C library's function.
///
/// # Safety
/// As for the C library's: `buffer` points to `length` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, _flags: c_uint) -> isize {
    if length > 0 {
        // SAFETY: the caller guarantees it.
        let bytes = unsafe { slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&next().to_le_bytes()[..chunk.len()]));
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}

/// The same for callers that use this name.
///
/// # Safety
/// As for the C library's: `buffer` points to `length` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getentropy(buffer: *mut c_void, length: usize) -> c_int {
    // SAFETY: the caller vouches for it.
    unsafe { getrandom(buffer, length, 0) };
    0
}
