//! Configuration files: a node's and a witness's. TOML, `TWINBOX_…` overrides, secrets in `_file` twins.
//!
//! Loading starts nothing and reports all mistakes together, each with file, key and remedy.

mod alarms;
mod backup;
mod calls;
mod links;
mod logging;
mod mail;
pub mod members_file;
mod node;
mod ports;
mod reader;
mod services;
mod shared;
mod shared_settings;
#[cfg(test)]
mod tests;
mod trunks;
mod witness;

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

pub use alarms::{AlarmReceivers, AlarmSecrets, AlarmsConfig};
pub use links::LinksConfig;
pub use mail::{MailConfig, MailInConfig};
pub use node::{LogKeep, NodeConfig, RtpConfig, SEAL_SECRET};
pub use services::{OwnServices, Services, SettingMistake};
pub use shared::{ClusterConfig, LogConfig, LogFormat, Member};
pub use shared_settings::{apply_to_calls, usual_mailbox};
pub use trunks::{FileTrunks, TrunksInForce};
pub use twinbox_mailbox::nearest;
pub use witness::WitnessConfig;

use reader::{Mistake, Mistakes, Section};

/// Mistakes in a configuration file. Displays one line per mistake: `FILE: KEY: mistake and remedy`.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError {
    file: PathBuf,
    mistakes: Vec<Mistake>,
}

impl ConfigError {
    /// Number of mistakes.
    pub fn count(&self) -> usize {
        self.mistakes.len()
    }

    /// Whether another try with the same file may succeed: nothing in it is wrong, but a certificate is not valid at the time of
    /// this machine.
    pub fn may_pass(&self) -> bool {
        self.mistakes.iter().all(|mistake| mistake.may_pass)
    }

    /// Mistakes: the key, empty for the file as a whole, and the text.
    pub fn mistakes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.mistakes.iter().map(|mistake| (mistake.key.as_str(), mistake.what.as_str()))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.mistakes.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {mistake}", self.file.display())?;
        }
        Ok(())
    }
}

/// Content of a configuration file.
#[derive(Debug)]
pub enum Config {
    /// `twinbox node`
    Node(Box<NodeConfig>),
    /// `twinbox witness`
    Witness(WitnessConfig),
}

impl Config {
    /// Reads the file of a node or witness: a witness's file has a `[witness]` section.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let table = read(file, std::env::vars_os())?;
        if table.contains_key("witness") {
            WitnessConfig::from_table(file, table).map(Self::Witness)
        } else {
            NodeConfig::from_table(file, table).map(|config| Self::Node(Box::new(config)))
        }
    }

    /// Path of a node's administrators' socket; `None` for a witness's file. Reads no other keys: a mistake in
    /// them, or an expired certificate, must not make a running node look dead.
    pub fn admin_socket(file: &Path) -> Result<Option<PathBuf>, ConfigError> {
        let table = read(file, std::env::vars_os())?;
        let witness = table.contains_key("witness");
        let mut root = Section::root(file, table, Mistakes::default());
        Ok((!witness).then(|| node::read_admin_socket(&mut root.section("node"))))
    }
}

impl NodeConfig {
    /// Reads a node's file.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::from_table(file, read(file, std::env::vars_os())?)
    }
}

impl WitnessConfig {
    /// Reads a witness's file.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::from_table(file, read(file, std::env::vars_os())?)
    }
}

/// Prefix of environment variables that override keys: `TWINBOX_SIP__MAX_CALLS=200` sets `max_calls` of `[sip]`.
const ENV_PREFIX: &str = "TWINBOX_";

/// Parses the file and applies the overrides. Only variables with `__` are overrides: others, such as
/// `TWINBOX_SOCKET`, belong to the command line.
fn read(file: &Path, env: impl Iterator<Item = (OsString, OsString)>) -> Result<toml::Table, ConfigError> {
    let failed = |what: String| ConfigError {
        file: file.to_owned(),
        mistakes: vec![Mistake { key: String::new(), what, may_pass: false }],
    };
    let text = std::fs::read_to_string(file).map_err(|e| failed(format!("cannot be read: {e}")))?;
    let mut table: toml::Table = text.parse().map_err(|e| failed(format!("is not TOML: {e}")))?;
    for (name, value) in env {
        // Variables of other programs may be any bytes.
        let Ok(name) = name.into_string() else { continue };
        let Some(path) = name.strip_prefix(ENV_PREFIX).filter(|path| path.contains("__")) else { continue };
        let value = value.into_string().map_err(|_| failed(format!("the variable {name} is not UTF-8")))?;
        let keys: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
        if set(&mut table, &keys, override_value(&value)).is_err() {
            // Inserted as an unknown key, so that it is reported with all other mistakes.
            table.insert(name, toml::Value::String(value));
        }
    }
    Ok(table)
}

/// Parses `200`, `true` and `["a"]` as TOML; any other value is text.
fn override_value(text: &str) -> toml::Value {
    format!("v = {text}")
        .parse::<toml::Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

fn set(table: &mut toml::Table, keys: &[String], value: toml::Value) -> Result<(), ()> {
    match keys {
        [] => Err(()),
        [key] => {
            table.insert(key.clone(), value);
            Ok(())
        }
        [key, rest @ ..] => table
            .entry(key.clone())
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or(())
            .and_then(|table| set(table, rest, value)),
    }
}

/// Runs `read` over the root of the file; returns its value only if there were no mistakes.
fn checked<T>(
    file: &Path,
    table: toml::Table,
    read: impl FnOnce(&mut Section) -> Option<T>,
) -> Result<T, ConfigError> {
    let mistakes = Mistakes::default();
    let mut root = Section::root(file, table, mistakes.clone());
    let value = read(&mut root);
    root.finish();
    let mistakes = mistakes.take();
    match value {
        Some(value) if mistakes.is_empty() => Ok(value),
        _ => Err(ConfigError { file: file.to_owned(), mistakes }),
    }
}
