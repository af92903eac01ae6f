//! Files with secrets or recordings.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use twinbox_admin_client::CliError;

/// A new file that only its owner may read; dropped without [`Self::finish`], it leaves an earlier one as it was.
pub(crate) struct PrivateFile {
    file: File,
    draft: PathBuf,
    path: PathBuf,
}

impl PrivateFile {
    pub(crate) fn create(path: &Path) -> Result<Self, CliError> {
        // It would be replaced: /dev/null by a file, for all programs.
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(CliError::Failed(format!("{} is not a regular file: name another one", path.display())));
        }
        let mut draft = path.as_os_str().to_owned();
        draft.push(".twinbox-draft");
        let draft = PathBuf::from(draft);
        // Of a command that was interrupted.
        let _ = fs::remove_file(&draft);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
        let file = file.map_err(|error| CliError::Failed(format!("cannot write {}: {error}", draft.display())))?;
        Ok(Self { file, draft, path: path.to_owned() })
    }

    pub(crate) fn finish(mut self, bytes: &[u8]) -> Result<(), CliError> {
        let written = self.file.write_all(bytes).and_then(|()| self.file.sync_all());
        let written = written.and_then(|()| fs::rename(&self.draft, &self.path));
        written.map_err(|error| CliError::Failed(format!("cannot write {}: {error}", self.path.display())))
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        // After `finish`, there is none.
        let _ = fs::remove_file(&self.draft);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn file_is_for_its_owner_alone_and_replaces_an_earlier_one_only_when_complete() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("token");
        fs::write(&path, "earlier\n").expect("written");
        drop(PrivateFile::create(&path).expect("created"));
        assert_eq!(fs::read_to_string(&path).expect("read"), "earlier\n");
        PrivateFile::create(&path).expect("created").finish(b"later\n").expect("finished");
        assert_eq!(fs::read_to_string(&path).expect("read"), "later\n");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
        assert!(PrivateFile::create(dir.path()).is_err(), "a folder is not replaced");
    }
}
