//! Uploads of files to a node, in parts.

use std::path::Path;

use bytes::Bytes;
use tokio_stream::Stream;

use crate::CliError;

/// Size of one part, in bytes.
const PART: usize = 64 * 1024;

/// A first part with the description, then the bytes in pieces.
pub fn parts<P: Send + 'static>(
    first: P,
    bytes: Bytes,
    piece: impl Fn(Bytes) -> P + Send + 'static,
) -> impl Stream<Item = P> + Send + 'static {
    let pieces = (0..bytes.len())
        .step_by(PART)
        .map(move |at| piece(bytes.slice(at..bytes.len().min(at.saturating_add(PART)))));
    tokio_stream::iter(std::iter::once(first).chain(pieces))
}

/// Content of a file.
pub fn read(file: &Path) -> Result<Bytes, CliError> {
    let bytes = std::fs::read(file).map_err(|e| CliError::Usage(format!("cannot read {}: {e}", file.display())))?;
    Ok(bytes.into())
}

/// Error of a node about a file, with the file's name.
pub fn of_file(file: &Path, status: tonic::Status) -> CliError {
    match CliError::from(status) {
        CliError::Failed(text) => CliError::Failed(format!("{}: {text}", file.display())),
        CliError::Usage(text) => CliError::Usage(format!("{}: {text}", file.display())),
        error => error,
    }
}
