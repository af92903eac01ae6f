//! The memory in which PINs are hashed, kept from one hash to the next.

use argon2::{
    Argon2, Block,
    password_hash::{Error, Output},
};

/// Memory for hashing PINs. It grows to the largest cost that was computed in it and keeps that until it is dropped: a
/// thread that hashes many PINs takes its tens of megabytes from the system once.
#[derive(Default)]
pub struct HashMemory(Vec<Block>);

impl HashMemory {
    /// Bytes that it has.
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
