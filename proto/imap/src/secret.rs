//! Passwords and tokens: read from files, zeroed when dropped, never shown.

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// Largest file of a secret, in bytes.
const MAX_SIZE: u64 = 65_536;

/// Reason why a file of a secret cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the secret in '{path}': {reason}")]
pub struct SecretError {
    /// Path of the file.
    pub path: PathBuf,
    /// Reason of the failure, with the remedy.
    pub reason: String,
}

/// Password or token.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Secret with this text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Reads a secret from a file; line breaks at its end do not belong to the secret. Fails if the file cannot be read,
    /// is empty, is not UTF-8 or is larger than 64 KiB.
    pub fn read_file(path: &Path) -> Result<Self, SecretError> {
        let failure = |reason: String| SecretError { path: path.to_owned(), reason };
        let file = File::open(path).map_err(|error| failure(error.to_string()))?;
        let mut text = Zeroizing::new(String::new());
        file.take(MAX_SIZE + 1).read_to_string(&mut text).map_err(|error| failure(error.to_string()))?;
        if text.len() as u64 > MAX_SIZE {
            return Err(failure(format!("the file is larger than {MAX_SIZE} bytes: write only the secret to it")));
        }
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() {
            return Err(failure("the file is empty: write the secret to it".to_owned()));
        }
        Ok(Self::new(secret.to_owned()))
    }

    /// The secret itself: to send it, never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Shows that a secret exists, never its text.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("•••")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn secret_file_ends_without_line_breaks_and_must_not_be_empty() {
        for (content, expected) in [
            ("pass word\n", Some("pass word")),
            ("a\r\n\r\n", Some("a")),
            (" b ", Some(" b ")),
            ("\n", None),
            ("", None),
        ] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(content.as_bytes()).unwrap();
            let read = Secret::read_file(file.path());
            assert_eq!(read.as_ref().ok().map(Secret::reveal), expected, "{content:?}: {read:?}");
        }
        let mut large = tempfile::NamedTempFile::new().unwrap();
        large.write_all(&vec![b'x'; 70_000]).unwrap();
        assert!(Secret::read_file(large.path()).unwrap_err().reason.contains("larger"));
        let missing = Secret::read_file(Path::new("/nowhere/secret")).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/secret"), "{missing}");
        assert_eq!(format!("{:?}", Secret::new("hunter2".to_owned())), "•••");
    }
}
