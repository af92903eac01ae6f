//! The settings of an account as types.

use std::{collections::BTreeMap, path::PathBuf};

use twinbox_ids::Pii;

use crate::{
    AccountSetting as Setting, SettingError,
    values::{self, Spec},
};

/// Treatment of messages that were deleted here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Trash {
    /// They are expunged.
    Expunge,
    /// They are moved to this folder.
    Folder(String),
}

impl Trash {
    pub(crate) fn into_folder(self) -> Option<String> {
        match self {
            Self::Expunge => None,
            Self::Folder(name) => Some(name),
        }
    }
}

/// All settings of an account; `None`: as its server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountSettings {
    /// The account is synchronised.
    pub enabled: bool,
    /// Name by which Twinbox signs in.
    pub account: Option<Pii<String>>,
    /// Folder of voicemail.
    pub folder: Option<String>,
    /// Treatment of messages that were deleted here.
    pub trash: Option<Trash>,
    /// File with the password or the refresh token of the account.
    pub password_file: Option<PathBuf>,
}

impl AccountSettings {
    /// Reads stored settings.
    ///
    /// # Errors
    /// A value is not valid.
    pub fn from_settings(stored: &BTreeMap<u16, String>) -> Result<Self, SettingError> {
        let set = |setting: Setting| Some(setting.text(stored)).filter(|text| *text != "-");
        for (setting, text) in Setting::ALL.into_iter().filter_map(|setting| Some((setting, set(setting)?))) {
            values::check_account(setting, text)?;
        }
        let spec = |setting: Setting| Spec::from(setting);
        Ok(Self {
            enabled: values::switch(spec(Setting::Enabled), Setting::Enabled.text(stored))?,
            account: set(Setting::Account).map(|name| Pii::new(name.to_owned())),
            folder: set(Setting::Folder).map(str::to_owned),
            trash: set(Setting::Trash).map(|text| values::trash(spec(Setting::Trash), text)).transpose()?,
            password_file: set(Setting::PasswordFile).map(PathBuf::from),
        })
    }
}
