//! Memory for hashing PINs, reused from one hash to the next.

use argon2::{
    Argon2, Block,
    password_hash::{Error, Output},
};

/// Memory for hashing PINs. It grows to the largest cost computed in it and keeps that size until it is dropped: a
/// thread that hashes many PINs allocates its tens of megabytes once.
#[derive(Default)]
pub struct HashMemory(Vec<Block>);

impl HashMemory {
    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.0.capacity() * Block::SIZE
    }

    /// Computes a hash of `length` bytes.
    pub(super) fn compute(
        &mut self,
        argon2: &Argon2<'_>,
        pin: &str,
        salt: &[u8],
        length: usize,
    ) -> Result<Output, Error> {
        let blocks = argon2.params().block_count();
        if self.0.len() < blocks {
            self.0.reserve_exact(blocks - self.0.len());
            self.0.resize(blocks, Block::default());
        }
        Output::init_with(length, |out| {
            Ok(argon2.hash_password_into_with_memory(pin.as_bytes(), salt, out, &mut self.0)?)
        })
    }
}
