//! The part of the kernel's FUSE protocol (version 7.31, `linux/fuse.h`) that one regular file needs: it is the root of
//! its file system, so that there are no folders and no names.

use std::io;

/// Maximum length of a write, as agreed with the kernel.
pub const MAX_WRITE: usize = 1 << 20;
/// Length of the buffer for a request: the longest write and its headers.
pub const BUFFER: usize = MAX_WRITE + 4096;

const HEADER: usize = 40;
const MINOR: u32 = 31;
/// FUSE_BIG_WRITES and FUSE_MAX_PAGES.
const FLAGS: u32 = 1 << 5 | 1 << 22;
/// FOPEN_DIRECT_IO: the kernel keeps no pages of the file, each read comes here.
const DIRECT: u32 = 1;
/// Seconds for which the kernel may keep the file's attributes.
const VALID: u64 = 60;

/// A request of the kernel.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The first of all.
    Init {
        /// The kernel's major version of the protocol.
        major: u32,
    },
    /// The file's attributes are read, or set, which has no effect.
    Attributes,
    /// The file is opened.
    Open,
    /// Bytes are read.
    Read {
        /// The first of them.
        offset: u64,
        /// Their number.
        length: usize,
    },
    /// Bytes are written.
    Write {
        /// Place of the first of them.
        offset: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// All that was written is to be made durable.
    Flush,
    /// Size and use of the file system.
    Space,
    /// A descriptor is closed, or the file system unmounted.
    Close,
    /// The kernel expects no answer.
    Silent,
    /// A request that this file system does not know.
    Unknown,
}

/// The number of a request, and the request; `None` if it is no message of the protocol.
pub fn parse(message: &[u8]) -> Option<(u64, Request<'_>)> {
    let (header, body) = message.split_at_checked(HEADER)?;
    let request = match u32_at(header, 4)? {
        26 => Request::Init { major: u32_at(body, 0)? },
        3 | 4 => Request::Attributes,
        14 => Request::Open,
        15 => Request::Read { offset: u64_at(body, 8)?, length: u32_at(body, 16)? as usize },
        16 => {
            let length = u32_at(body, 16)? as usize;
            Request::Write { offset: u64_at(body, 8)?, bytes: body.get(40..40_usize.checked_add(length)?)? }
        }
        17 => Request::Space,
        // RELEASE, FLUSH (a descriptor is closed, which makes nothing durable), DESTROY.
        18 | 25 | 38 => Request::Close,
        20 => Request::Flush,
        // FORGET, INTERRUPT, BATCH_FORGET.
        2 | 36 | 42 => Request::Silent,
        _ => Request::Unknown,
    };
    Some((u64_at(header, 8)?, request))
}

/// The message that answers request `unique`.
pub fn answer(unique: u64, result: io::Result<Vec<u8>>) -> Vec<u8> {
    let (error, body) = match result {
        Ok(body) => (0, body),
        Err(error) => (-error.raw_os_error().unwrap_or(libc::EINVAL), Vec::new()),
    };
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend(((16 + body.len()) as u32).to_ne_bytes());
    message.extend(error.to_ne_bytes());
    message.extend(unique.to_ne_bytes());
    message.extend(body);
    message
}

/// Body of the answer to `Init`.
pub fn init() -> Vec<u8> {
    let mut body = Fields::default();
    body.u32s(&[7, MINOR, MAX_WRITE as u32, FLAGS]);
    // Maximum of background requests and congestion threshold, 16 bits each.
    body.u32s(&[u32::from_ne_bytes([16, 0, 12, 0]), MAX_WRITE as u32, 1]);
    // Pages of the longest write, and no alignment; the rest is unused.
    let pages = ((MAX_WRITE / 4096) as u16).to_ne_bytes();
    body.u32s(&[u32::from_ne_bytes([pages[0], pages[1], 0, 0])]);
    body.u32s(&[0; 8]);
    body.0
}

/// Body of the answer to `Attributes`.
pub fn attributes(length: u64) -> Vec<u8> {
    let mut body = Fields::default();
    body.u64s(&[VALID]);
    body.u32s(&[0; 2]);
    // Inode, size, blocks; three times with their fractions; mode, links, user, group, device, block size, flags.
    body.u64s(&[1, length, length / 512, 0, 0, 0]);
    body.u32s(&[0, 0, 0, libc::S_IFREG | 0o600, 1, 0, 0, 0, 4096, 0]);
    body.0
}

/// Body of the answer to `Open`.
pub fn opened() -> Vec<u8> {
    let mut body = Fields::default();
    body.u64s(&[0]);
    body.u32s(&[DIRECT, 0]);
    body.0
}

/// Body of the answer to a `Write`.
pub fn written(length: usize) -> Vec<u8> {
    let mut body = Fields::default();
    body.u32s(&[length as u32, 0]);
    body.0
}

/// Body of the answer to `Space`.
pub fn space(length: u64) -> Vec<u8> {
    let mut body = Fields::default();
    body.u64s(&[length / 4096, 0, 0, 1, 0]);
    body.u32s(&[4096, 255, 4096, 0]);
    body.u32s(&[0; 6]);
    body.0
}

#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn u32s(&mut self, values: &[u32]) {
        self.0.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
    }

    fn u64s(&mut self, values: &[u64]) {
        self.0.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|field| u32::from_ne_bytes(*field))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|field| u64::from_ne_bytes(*field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_lengths_of_the_protocol() {
        // fuse_init_out, fuse_attr_out, fuse_open_out, fuse_write_out, fuse_statfs_out.
        let lengths = [init(), attributes(1), opened(), written(1), space(1)].map(|body| body.len());
        assert_eq!(lengths, [64, 104, 16, 8, 80]);
    }

    #[test]
    fn a_write_has_its_bytes_and_one_cut_short_is_refused() {
        let mut message = Fields::default();
        message.u32s(&[0, 16]);
        message.u64s(&[77, 1, 0, 0]);
        message.u64s(&[0, 4096]);
        message.u32s(&[3, 0]);
        message.u64s(&[0, 0]);
        message.0.extend([7, 8, 9]);
        let expected = Request::Write { offset: 4096, bytes: &[7, 8, 9] };
        assert_eq!(parse(&message.0), Some((77, expected)));
        for length in 0..message.0.len() {
            assert_eq!(parse(&message.0[..length]), None, "{length} bytes");
        }
    }
}
