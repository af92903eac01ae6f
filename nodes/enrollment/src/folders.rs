//! Folders of a member: for its user alone. `twinbox_pki::write_private` writes the files.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::Path,
};

/// Makes the folder of a member for its user alone; folders above it get the usual mode. An existing folder, which may
/// be a volume, stays as it is.
pub(crate) fn make_home(home: &Path) -> io::Result<()> {
    if let Some(above) = home.parent() {
        fs::create_dir_all(above)?;
    }
    make_folder(home)
}

/// Makes a folder in that of a member, for its user alone.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
