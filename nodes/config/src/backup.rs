//! The section `[backup]`: access to the S3-compatible store that takes backups.

use std::{path::Path, time::Duration};

use twinbox_backup::{BackupError, BackupFolder, S3Settings, is_s3};
use twinbox_cluster_settings::{Key, Values};
use twinbox_ids::Pii;

use super::{
    Config, ConfigError, Services, SettingMistake, checked, read,
    reader::{Mistake, Mistakes, Section},
    services::secret,
    shared_settings,
};

/// The part of this node's file about the store: its keys.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnS3 {
    pub(super) access_key: Option<Pii<String>>,
    pub(super) secret_key: Option<Pii<String>>,
}

impl OwnS3 {
    pub(super) fn read(root: &mut Section) -> Self {
        let mut backup = root.section("backup");
        let mut section = backup.section("s3");
        backup.finish();
        let (access_key, secret_key) = (section.text("access_key"), section.text("secret_key"));
        section.finish();
        Self { access_key: access_key.map(Pii::new), secret_key: secret_key.map(Pii::new) }
    }

    /// Access to the store; `None`: nothing tells where it is.
    pub(super) fn settings(&self, values: &Values) -> Result<Option<S3Settings>, SettingMistake> {
        let given = [Key::S3Endpoint, Key::S3AccessKeyFile, Key::S3SecretKeyFile].map(|key| values.given(key));
        if given.iter().all(Option::is_none) && self.access_key.is_none() && self.secret_key.is_none() {
            return Ok(None);
        }
        let settings = S3Settings {
            endpoint: values.given(Key::S3Endpoint).map(str::to_owned),
            region: values.text(Key::S3Region).to_owned(),
            access_key: secret(&self.access_key, values, Key::S3AccessKeyFile, "the id of the access key")?,
            secret_key: secret(&self.secret_key, values, Key::S3SecretKeyFile, "the secret access key")?,
            ca_file: values.given(Key::S3CaFile).map(Into::into),
            allow_http: values.flag(Key::S3AllowHttp),
            virtual_host: values.flag(Key::S3VirtualHost),
            timeout: Duration::from_secs(values.number(Key::S3TimeoutSeconds)),
        };
        let wrong = |key: &str, what: String| Err(SettingMistake::new(&format!("backup.s3.{key}"), what));
        match settings.check() {
            Ok(()) => Ok(Some(settings)),
            Err(error) => wrong(error.key, error.what),
        }
    }
}

impl Services {
    /// The directory or bucket of this name, with the access to buckets of the moment.
    ///
    /// # Errors
    /// A bucket without settings, or with wrong ones.
    pub fn backup_folder(&self, destination: &str) -> Result<BackupFolder, BackupError> {
        match &self.s3 {
            Err(mistake) if is_s3(destination) => Err(BackupError::S3Setup(mistake.to_string())),
            s3 => BackupFolder::open(destination, s3.as_ref().ok().and_then(Option::as_ref)),
        }
    }
}

impl Config {
    /// Access to the S3-compatible store, from the section `[backup.s3]` of a file. Reads no other section: the file of
    /// a node of which nothing else is on this machine will do, and so will one with this section alone.
    ///
    /// # Errors
    /// The file cannot be read, or the section has mistakes.
    pub fn backup_s3(file: &Path) -> Result<Option<S3Settings>, ConfigError> {
        let mut table = read(file, std::env::vars_os())?;
        table.retain(|key, _| key == "backup");
        let taken = Mistakes::default();
        let shared = shared_settings::take(&mut table, file.parent().unwrap_or_else(|| Path::new("")), &taken);
        checked(file, table, |root| {
            taken.take().into_iter().for_each(|Mistake { key, what, .. }| root.wrong(&key, what));
            let settings = OwnS3::read(root).settings(&Values::of(shared.iter(), false));
            Some(settings.unwrap_or_else(|mistake| {
                root.wrong(&mistake.key, mistake.what);
                None
            }))
        })
    }
}
