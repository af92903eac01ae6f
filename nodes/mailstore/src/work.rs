//! Work that must not hold up the threads which serve calls.

use crate::MailError;

/// Runs work that computes long or reads much on a separate thread.
pub async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Result<R, MailError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| MailError::Ending)
}

/// Runs work to its end even if the future is dropped: a caller's patience must not decide whether a message is filed
/// (rule A1).
pub(crate) async fn run_to_end<R, E>(work: impl Future<Output = Result<R, E>> + Send + 'static) -> Result<R, E>
where
    R: Send + 'static,
    E: From<MailError> + Send + 'static,
{
    tokio::spawn(work).await.unwrap_or_else(|_| Err(E::from(MailError::Ending)))
}
