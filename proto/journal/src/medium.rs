//! The folder of a journal, as the journal uses it.

use std::io;

/// The blocks of a new file. Its bytes read as zeros in any case, and no later write lacks room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// Zeros are written: a later sync writes content only, however little of it there is.
    Zeroed,
    /// Blocks are reserved, which costs no writing: the first sync of a block also writes metadata. For a file that is
    /// written in large parts. Zeroed where the file system cannot reserve.
    Reserved,
}

/// Files of a journal: real ones come from twinbox-disk, which counts their syncs, simulated ones from tests. All calls
/// block.
pub trait Medium: Send + Sync + 'static {
    /// An open file.
    type File: MediumFile;

    /// Names of the files in the folder.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens an existing file for reading and writing. Reads return the content of the disk as far as possible, not
    /// that of the page cache (rule A4).
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Creates a file of `length` zero bytes, durably (content, size and name), under a name that is not in use. An
    /// interrupted creation leaves at most a file that [`Self::list`] shows and that begins with no segment header.
    fn create(&self, name: &str, length: u64, blocks: Blocks) -> io::Result<Self::File>;

    /// Removes a file. A power cut may undo it.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name, durably; `to` is not in use. An interrupted call leaves one of the two.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
}

/// An open file of a [`Medium`].
pub trait MediumFile: Send + Sync + 'static {
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// The bytes at `offset`, `length` of them or those up to the end of the file, in new memory.
    fn read_new(&self, length: usize, offset: u64) -> io::Result<Vec<u8>> {
        let (mut bytes, mut filled) = (vec![0; length], 0);
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Writes all parts, one behind the other, from `offset` on: one vectored write where the system allows it.
    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()>;

    /// Makes all that was written to this file durable, whichever handle wrote it (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
}
