//! The socket of administrators.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

/// The socket of administrators cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the administrators' socket {path}: {source}")]
pub struct SocketError {
    /// Path of the socket.
    pub path: PathBuf,
    /// Reason of the failure.
    pub source: io::Error,
}

/// Bound socket of administrators.
pub struct AdminSocket {
    pub(crate) listener: UnixListener,
    pub(crate) path: PathBuf,
}

impl AdminSocket {
    /// Binds the socket. A socket left by a killed process is replaced; a socket that answers is not.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError { path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        if UnixStream::connect(path).is_ok() {
            return Err(failed(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another node answers there: give each its own node.admin_socket",
            )));
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }
}
