//! The section `[backup]`: access to the S3-compatible store that takes backups.

use std::{path::Path, time::Duration};

use twinbox_backup::S3Settings;

use super::{Config, ConfigError, checked, read, reader::Section};

/// Time of one request, in seconds, unless the file gives another.
const USUAL_TIMEOUT: i64 = 60;

/// Reads the section; `None` if it is empty.
pub(super) fn read_s3(root: &mut Section) -> Option<S3Settings> {
    let mut backup = root.section("backup");
    let mut section = backup.section("s3");
    backup.finish();
    if section.is_empty() {
        return None;
    }
    let endpoint = section.text("endpoint");
    let region = section.text("region").unwrap_or_else(|| "us-east-1".to_owned());
    let access_key = section.secret("access_key", "access_key_file");
    let secret_key = section.secret("secret_key", "secret_key_file");
    let ca_file = section.path("ca_file");
    let allow_http = section.flag("allow_http", false);
    let virtual_host = section.flag("virtual_host", false);
    let seconds = section.number("timeout_seconds", 1..=300, USUAL_TIMEOUT);
    for (key, value) in [("access_key", &access_key), ("secret_key", &secret_key)] {
        if value.is_none() {
            section.wrong(key, format!("is missing: write {key}_file with the path of a file that has it"));
        }
    }
    let has_keys = access_key.is_some() && secret_key.is_some();
    let settings = S3Settings {
        endpoint,
        region,
        access_key: access_key.unwrap_or_default(),
        secret_key: secret_key.unwrap_or_default(),
        ca_file,
        allow_http,
        virtual_host,
        timeout: Duration::from_secs(seconds.unsigned_abs()),
    };
    let checked = settings.check();
    // A missing key was reported above.
    if let Err(error) = &checked
        && (has_keys || !error.key.ends_with("_key"))
    {
        section.wrong(error.key, error.what.clone());
    }
    section.finish();
    checked.ok().map(|()| settings)
}

impl Config {
    /// Access to the S3-compatible store, from the section `[backup.s3]` of a file. Reads no other section: the file of
    /// a node of which nothing else is on this machine will do, and so will one with this section alone.
    ///
    /// # Errors
    /// The file cannot be read, or the section has mistakes.
    pub fn backup_s3(file: &Path) -> Result<Option<S3Settings>, ConfigError> {
        let mut table = read(file, std::env::vars())?;
        table.retain(|key, _| key == "backup");
        checked(file, table, |root| Some(read_s3(root)))
    }
}
