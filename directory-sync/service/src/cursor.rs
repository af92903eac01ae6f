//! Cursors: the point up to which the changes of a directory are known.

use twinbox_directory_core::SearchSettings;

/// Version of the encoding.
const VERSION: u8 = 1;
/// Longest part, in bytes.
const LONGEST: usize = 64 << 10;

/// Point up to which the changes of a directory are known, opaque to its keeper. It belongs to one search: with other
/// bases, another filter or other attributes the changes since then would not be all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub(crate) Position);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Position {
    /// The server tells no changes.
    Unknown,
    /// Cookies of RFC 4533, one per base.
    Cookies { search: [u8; 16], cookies: Vec<Vec<u8>> },
    /// Highest `uSNChanged` of one database of Active Directory.
    Usn { search: [u8; 16], invocation: [u8; 16], usn: u64 },
}

/// Bytes are no cursor of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored position in the directory cannot be read: the next run reads the whole directory")]
pub struct InvalidCursor;

impl Cursor {
    /// The bytes to be stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        match &self.0 {
            Position::Unknown => bytes.push(0),
            Position::Cookies { search, cookies } => {
                bytes.push(1);
                bytes.extend(search);
                for cookie in cookies {
                    bytes.extend((cookie.len() as u32).to_be_bytes());
                    bytes.extend(cookie);
                }
            }
            Position::Usn { search, invocation, usn } => {
                bytes.push(2);
                bytes.extend(search);
                bytes.extend(invocation);
                bytes.extend(usn.to_be_bytes());
            }
        }
        bytes
    }

    /// The inverse of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidCursor> {
        let mut rest = Rest(bytes);
        let ([version], [kind]) = (rest.array()?, rest.array()?);
        let position = match (version, kind) {
            (VERSION, 0) => Position::Unknown,
            (VERSION, 1) => {
                let (search, mut cookies) = (rest.array()?, Vec::new());
                while !rest.0.is_empty() {
                    let length = u32::from_be_bytes(rest.array()?) as usize;
                    cookies.push(rest.take(length)?.to_vec());
                }
                Position::Cookies { search, cookies }
            }
            (VERSION, 2) => Position::Usn {
                search: rest.array()?,
                invocation: rest.array()?,
                usn: u64::from_be_bytes(rest.array()?),
            },
            _ => return Err(InvalidCursor),
        };
        if rest.0.is_empty() { Ok(Self(position)) } else { Err(InvalidCursor) }
    }
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], InvalidCursor> {
        let taken = self.0.get(..length).filter(|_| length <= LONGEST).ok_or(InvalidCursor)?;
        self.0 = self.0.get(length..).unwrap_or_default();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], InvalidCursor> {
        self.take(N)?.try_into().map_err(|_| InvalidCursor)
    }
}

/// Digest of the parts of a search that decide its results.
pub(crate) fn digest(search: &SearchSettings) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("twinbox directory search v1");
    let mut add = |kind: u8, text: &str| {
        hasher.update(&[kind]);
        hasher.update(&(text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    };
    search.bases.iter().for_each(|base| add(0, base));
    add(1, &search.filter);
    let mut attributes: Vec<String> = search.attributes.iter().map(|name| name.to_ascii_lowercase()).collect();
    attributes.sort();
    attributes.dedup();
    attributes.iter().for_each(|name| add(2, name));
    let mut digest = [0; 16];
    hasher.finalize_xof().fill(&mut digest);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_back_and_other_bytes_are_refused() {
        for position in [
            Position::Unknown,
            Position::Cookies { search: [1; 16], cookies: vec![b"csn=1".to_vec(), Vec::new()] },
            Position::Usn { search: [2; 16], invocation: [3; 16], usn: u64::MAX },
        ] {
            let cursor = Cursor(position);
            let bytes = cursor.to_bytes();
            assert_eq!(Cursor::from_bytes(&bytes), Ok(cursor));
            assert_eq!(Cursor::from_bytes(&bytes[..bytes.len() - 1]), Err(InvalidCursor));
            assert_eq!(Cursor::from_bytes(&[&bytes[..], &[0]].concat()), Err(InvalidCursor));
        }
        assert_eq!(Cursor::from_bytes(&[9, 0]), Err(InvalidCursor), "a later version");
    }
}
