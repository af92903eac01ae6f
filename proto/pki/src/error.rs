//! Errors of certificates and keys, with texts that name the file and the remedy.

use std::{io, path::PathBuf};

/// Certificates or keys could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read.
    #[error("cannot read {}: {source}; {}", path.display(), remedy(.source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file does not hold the expected content.
    #[error("{} is not a usable {what}: {detail}; take it from a backup of the member's folder, or get a new one with 'twinbox cluster ca reissue' on a node", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The expected content.
        what: &'static str,
        /// The problem.
        detail: String,
    },
    /// A certificate is not valid at the time of this machine: the same file may be usable later.
    #[error(
        "{} is not valid at the time of this machine ({detail}): set its clock if that is wrong, otherwise get a new certificate \
         with 'twinbox cluster ca reissue' on a node",
        path.display()
    )]
    NotNow {
        /// The file.
        path: PathBuf,
        /// The problem.
        detail: String,
    },
    /// Making a certificate failed.
    #[error("cannot create the {what}: {detail}")]
    Make {
        /// The item to be made.
        what: &'static str,
        /// The cause.
        detail: String,
    },
    /// An operator's file could not be read.
    #[error("cannot read {}: {source}; create it with 'twinbox cluster operator-cert' on a node", path.display())]
    ReadOperator {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// An operator's file does not hold the expected content.
    #[error("{} is not a usable {what}: {detail}; create one with 'twinbox cluster operator-cert' on a node", path.display())]
    UnusableOperator {
        /// The file.
        path: PathBuf,
        /// The expected content.
        what: &'static str,
        /// The problem.
        detail: String,
    },
    /// A new authority is not acceptable.
    #[error("the cluster's next authority is not accepted: {detail}")]
    CrossSignedCa {
        /// The problem.
        detail: String,
    },
    /// An address of a peer is not valid.
    #[error("'{address}' is not a peer address: {detail}; write host:port")]
    Address {
        /// As configured.
        address: String,
        /// The problem.
        detail: String,
    },
}

/// The remedy for a member's file that cannot be read.
fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "make the member's user its owner, and give the command as that user",
        _ => {
            "take it from a backup of the member's folder; a new member gets it from 'twinbox cluster init' or \
             'twinbox cluster join'"
        }
    }
}

impl PkiError {
    pub(crate) fn make(what: &'static str) -> impl Fn(rcgen::Error) -> Self {
        move |error| Self::Make { what, detail: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_of_another_user_is_told_from_a_missing_one() {
        let text =
            |kind: io::ErrorKind| PkiError::Read { path: "/x/node.key".into(), source: kind.into() }.to_string();
        for (kind, remedy) in [
            (io::ErrorKind::PermissionDenied, "; make the member's user its owner"),
            (io::ErrorKind::NotFound, "; take it from a backup of the member's folder; a new member"),
        ] {
            let text = text(kind);
            assert!(text.starts_with("cannot read /x/node.key: ") && text.contains(remedy), "{text}");
        }
    }
}
