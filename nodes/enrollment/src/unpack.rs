//! Unpacks a member's folder, for systems that provide files with flat names, such as a Kubernetes Secret.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use twinbox_ids::NodeName;

use crate::{folders, init::CONFIG};

/// Replacement for `/` in a flat name: `a__tls__node.pem` is `tls/node.pem` of member `a`.
const SEPARATOR: &str = "__";

/// Reason why a folder was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// There are no files of the member.
    #[error("{from} has no {name}: form the cluster with this member first")]
    NoMember {
        /// Folder that was searched.
        from: PathBuf,
        /// File that every member has.
        name: String,
    },
    /// The name leads out of the folder.
    #[error("'{0}' is no flat name of a file: write MEMBER__FOLDER__FILE")]
    Name(String),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Reason of the failure.
        source: io::Error,
    },
}

/// Copies the files of `member` from `from` into the folder `to`, the configuration last, each readable only by
/// this user, and makes the data folder. A folder with a configuration stays unchanged: false.
pub fn unpack(from: &Path, member: &NodeName, to: &Path) -> Result<bool, UnpackError> {
    if to.join(CONFIG).exists() {
        return Ok(false);
    }
    let prefix = format!("{member}{SEPARATOR}");
    let mut names = Vec::new();
    for entry in fs::read_dir(from).map_err(failed(from))? {
        let name = entry.map_err(failed(from))?.file_name();
        names.extend(name.to_str().and_then(|name| name.strip_prefix(&prefix)).map(str::to_owned));
    }
    let Some(config) = names.iter().position(|name| name == CONFIG) else {
        return Err(UnpackError::NoMember { from: from.to_owned(), name: prefix + CONFIG });
    };
    let config = names.swap_remove(config);
    names.push(config);
    let data = to.join("data");
    folders::make_folder(&data).map_err(failed(&data))?;
    for name in names {
        let parts: Vec<&str> = name.split(SEPARATOR).collect();
        if parts.iter().any(|part| matches!(*part, "" | "." | "..") || part.contains('/')) {
            return Err(UnpackError::Name(prefix + &name));
        }
        copy(&from.join(format!("{prefix}{name}")), &to.join(parts.iter().collect::<PathBuf>()))?;
    }
    Ok(true)
}

fn copy(from: &Path, to: &Path) -> Result<(), UnpackError> {
    let bytes = fs::read(from).map_err(failed(from))?;
    if let Some(folder) = to.parent() {
        folders::make_folder(folder).map_err(failed(folder))?;
    }
    twinbox_pki::write_private(to, &bytes).map_err(failed(to))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> UnpackError {
    let path = path.to_owned();
    move |source| UnpackError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().expect("a name")
    }

    #[test]
    fn a_member_gets_its_own_files_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).expect("a folder");
        for (name, text) in [
            ("a__twinbox.toml", "one"),
            ("a__tls__node.key", "secret"),
            ("a__data__may-found", "id"),
            ("a-2__twinbox.toml", "another's"),
            ("b__tls__node.key", "another's"),
        ] {
            fs::write(from.join(name), text).expect("written");
        }
        assert!(unpack(&from, &name("a"), &to).expect("unpacked"));
        let read = |path: &str| fs::read_to_string(to.join(path)).expect(path);
        assert_eq!((read("twinbox.toml"), read("data/may-found")), ("one".to_owned(), "id".to_owned()));
        let key = fs::metadata(to.join("tls/node.key")).expect("the key");
        assert_eq!((key.len(), key.permissions().mode() & 0o777), (6, 0o600));
        assert!(to.join("data").is_dir());
        assert_eq!(fs::read_dir(&to).expect("a folder").count(), 3, "nothing of another member");
        // Later files of the member stay, and it may not found a second cluster.
        fs::remove_file(to.join("data/may-found")).expect("removed");
        assert!(!unpack(&from, &name("a"), &to).expect("left alone"));
        assert!(!to.join("data/may-found").exists());
    }

    #[test]
    fn nothing_is_unpacked_for_a_stranger_or_outside_the_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        let from = dir.path();
        fs::write(from.join("a__twinbox.toml"), "").expect("written");
        fs::write(from.join("a__..__x"), "").expect("written");
        let to = from.join("to");
        assert!(matches!(unpack(from, &name("c"), &to), Err(UnpackError::NoMember { .. })));
        assert!(matches!(unpack(from, &name("a"), &to), Err(UnpackError::Name(_))));
        assert!(!to.join("twinbox.toml").exists());
    }
}
