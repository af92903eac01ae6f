//! What can be wrong with certificates and keys, in words that name the file and the remedy.

use std::{io, path::PathBuf};

/// Certificates or keys could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read.
    #[error("cannot read {}: {source}; `twinbox cluster init` makes it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{} is no usable {what}: {detail}; make it again with `twinbox cluster init`", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// Making a certificate failed.
    #[error("cannot make the {what}: {detail}")]
    Make {
        /// What was to be made.
        what: &'static str,
        /// Why not.
        detail: String,
    },
    /// An operator's file could not be read.
    #[error("cannot read {}: {source}; 'twinbox cluster operator-cert' on a node makes it", path.display())]
    ReadOperator {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An operator's file holds something else than it should.
    #[error("{} is no usable {what}: {detail}; 'twinbox cluster operator-cert' on a node makes one", path.display())]
    UnusableOperator {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A new authority is not what it should be.
    #[error("the cluster's next authority is not taken: {detail}")]
    Appointment {
        /// What is wrong with it.
        detail: String,
    },
    /// An address of a peer is none.
    #[error("'{address}' is no address of a peer: {detail}; write host:port")]
    Address {
        /// As configured.
        address: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl PkiError {
    pub(crate) fn make(what: &'static str) -> impl Fn(rcgen::Error) -> Self {
        move |error| Self::Make { what, detail: error.to_string() }
    }
}
