//! The rows of the store, and the values in force.

use std::collections::BTreeMap;

use twinbox_replication_core::{Edit, Key as RowKey, Record, Value};

use crate::{Entries, FileValues, GroupError, Key, Register, Values, schema};

/// Origin of a register's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An administrator set them.
    Administrator,
    /// The first file that named them.
    FirstFile,
}

impl Origin {
    /// The origin as text.
    pub fn text(self) -> &'static str {
        match self {
            Self::Administrator => "cluster",
            Self::FirstFile => "first file",
        }
    }
}

/// A register of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Origin of its values.
    pub origin: Origin,
    /// The values.
    pub entries: Entries,
    /// Keys of another release, or with a value that this release refuses: they have their defaults.
    pub unknown: Vec<String>,
}

impl Row {
    /// Reads a row; `None`: it has no value, or is a register of another release.
    pub fn read(key: &RowKey, record: &Record) -> Option<(Register, Self)> {
        let register = Register::named(&key.id).filter(|_| schema::is_setting(key))?;
        let set = record.bytes(schema::VALUE).map(|bytes| (Origin::Administrator, bytes));
        let (origin, bytes) = set.or_else(|| Some((Origin::FirstFile, record.claim(schema::FIRST)?)))?;
        let (mut entries, mut unknown) = Entries::read(register, &String::from_utf8_lossy(bytes));
        if entries.check(register).is_err() {
            unknown.extend(entries.iter().map(|(key, _)| key.name().to_owned()));
            entries = Entries::default();
        }
        Some((register, Self { origin, entries, unknown }))
    }
}

/// A value of a node's file that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: Key,
    /// The value of the file.
    pub file: String,
    /// The cluster's value.
    pub cluster: String,
}

impl Difference {
    /// The difference for people, with the remedy.
    pub fn text(&self) -> String {
        let Self { key, file, cluster } = self;
        let name = key.name();
        let cluster =
            Some(key.shown(cluster)).filter(|value| !value.is_empty()).unwrap_or_else(|| "none".to_owned());
        format!(
            "the file has {name} = {}, the cluster's value {cluster} is used: delete the key from the file; to change \
             the cluster's value: 'twinbox setting set {name}=VALUE'",
            key.shown(file)
        )
    }
}

/// All registers of the store that have a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows(BTreeMap<Register, Row>);

impl Rows {
    /// The readable rows among these.
    pub fn of<'a>(rows: impl IntoIterator<Item = (&'a RowKey, &'a Record)>) -> Self {
        Self(rows.into_iter().filter_map(|(key, record)| Row::read(key, record)).collect())
    }

    /// A register; `None` while the cluster has no value.
    pub fn get(&self, register: Register) -> Option<&Row> {
        self.0.get(&register)
    }

    /// Keys of all rows that this release does not know.
    pub fn unknown(&self) -> Vec<&str> {
        self.0.values().flat_map(|row| &row.unknown).map(String::as_str).collect()
    }

    /// The values of a register that are in force: of the store, else of this node's file.
    pub fn entries(&self, register: Register, file: &FileValues) -> Entries {
        self.get(register).map_or_else(|| file.entries(register), |row| row.entries.clone())
    }

    /// The values in force.
    pub fn values(&self, file: &FileValues, wan: bool) -> Values {
        self.values_with(&[], file, wan)
    }

    /// The values in force once these registers have changed.
    pub fn values_with(&self, changed: &[(Register, Entries)], file: &FileValues, wan: bool) -> Values {
        let entries = |register| match changed.iter().find(|(of, _)| *of == register) {
            Some((_, entries)) => entries.clone(),
            None => self.entries(register, file),
        };
        let all = Register::ALL.map(entries);
        Values::of(all.iter().flat_map(Entries::iter), wan)
    }

    /// The registers that the cluster has no value of and this node's file has: the offers of this node.
    pub fn offers(&self, file: &FileValues) -> Vec<(Register, Vec<Edit>)> {
        let open = Register::ALL.into_iter().filter(|register| self.get(*register).is_none());
        let offer = open.map(|register| (register, file.entries(register)));
        let offers = offer.filter(|(register, entries)| !entries.is_empty() && entries.check(*register).is_ok());
        offers
            .map(|(register, entries)| (register, vec![Edit::Claim(schema::FIRST, entries.text().into())]))
            .collect()
    }

    /// The values of this node's file that do not count, because the cluster has others.
    pub fn differences(&self, file: &FileValues, wan: bool) -> Vec<Difference> {
        let values = self.values(file, wan);
        let differs = |(key, own): (Key, &str)| {
            self.get(key.register())?;
            let cluster = values.text(key);
            (cluster != own).then(|| Difference { key, file: own.to_owned(), cluster: cluster.to_owned() })
        };
        file.iter().filter_map(differs).collect()
    }

    /// The rows that change when an administrator sets keys, and unsets those without a value. Values must have passed
    /// [`Key::check`]. Keys of another release in such a row are lost: they would not have been checked together.
    pub fn changed(
        &self,
        file: &FileValues,
        changes: &[(Key, Option<String>)],
    ) -> Result<Vec<(Register, Entries)>, GroupError> {
        let mut rows: BTreeMap<Register, Entries> = BTreeMap::new();
        for (key, value) in changes {
            let register = key.register();
            let entries = rows.entry(register).or_insert_with(|| self.entries(register, file));
            match value {
                Some(value) => entries.set(*key, value.clone()),
                None => entries.unset(*key),
            }
        }
        for (register, entries) in &rows {
            entries.check(*register)?;
        }
        Ok(rows.into_iter().collect())
    }
}

/// The edit that makes these the values of a register.
pub fn set_edit(entries: &Entries) -> Edit {
    Edit::Set(schema::VALUE, Value::Bytes(entries.text().into()))
}
