//! Reads TOML tables and finds *all* mistakes in one pass, each with its key and remedy.
//!
//! A [`Section`] returns values by key and collects mistakes; a key that was never read is unknown. The caller gets
//! defaults meanwhile and checks the mistakes once, at the end.

use std::{
    cell::RefCell,
    fmt,
    path::{Path, PathBuf},
    rc::Rc,
    str::FromStr,
};

use toml::{Table, Value};
use twinbox_cluster_settings::Key;
use twinbox_mailbox::nearest;

/// One mistake in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Full key, such as `sip.listener[0].bind`; empty for the file as a whole.
    pub key: String,
    /// Mistake and remedy.
    pub what: String,
    /// The file may be right, and usable at another time.
    pub may_pass: bool,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { f.write_str(&self.what) } else { write!(f, "{}: {}", self.key, self.what) }
    }
}

/// The collected mistakes of one file.
#[derive(Debug, Clone, Default)]
pub struct Mistakes(Rc<RefCell<Vec<Mistake>>>);

impl Mistakes {
    /// Adds a mistake.
    pub fn add(&self, key: impl Into<String>, what: impl Into<String>) {
        self.0.borrow_mut().push(Mistake { key: key.into(), what: what.into(), may_pass: false });
    }

    /// All mistakes, in the order in which they were found.
    pub fn take(&self) -> Vec<Mistake> {
        self.0.take()
    }
}

/// A table of the file, with the keys that were not read yet.
#[derive(Debug)]
pub struct Section {
    path: String,
    /// Folder of the file, the base of relative paths.
    base: Rc<Path>,
    table: Table,
    asked: Vec<&'static str>,
    mistakes: Mistakes,
}

impl Section {
    /// The root table of `file`.
    pub fn root(file: &Path, table: Table, mistakes: Mistakes) -> Self {
        let base = file.parent().unwrap_or_else(|| Path::new("")).into();
        Self { path: String::new(), base, table, asked: Vec::new(), mistakes }
    }

    fn below(&self, path: String, table: Table) -> Self {
        Self { path, base: self.base.clone(), table, asked: Vec::new(), mistakes: self.mistakes.clone() }
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.table.remove(key)
    }

    /// True if the section is absent, or has no keys.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Records that what `key` names is not usable at present.
    pub fn unusable_now(&self, key: &str, what: impl Into<String>) {
        let mistake = Mistake { key: self.key(key), what: what.into(), may_pass: true };
        self.mistakes.0.borrow_mut().push(mistake);
    }

    /// Records a mistake about `key`.
    pub fn wrong(&self, key: &str, what: impl Into<String>) {
        self.mistakes.add(self.key(key), what);
    }

    /// Subtable; empty if it is absent.
    pub fn section(&mut self, key: &'static str) -> Section {
        let path = self.key(key);
        let table = match self.take(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                self.wrong(key, format!("is {}, expected a table: write [{path}]", kind(&other)));
                Table::new()
            }
        };
        self.below(path, table)
    }

    /// List of tables (`[[key]]`).
    pub fn sections(&mut self, key: &'static str) -> Vec<Section> {
        let path = self.key(key);
        let items = match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.wrong(key, format!("is {}, expected a list of tables: write [[{path}]]", kind(&other)));
                Vec::new()
            }
        };
        let mut sections = Vec::new();
        for (i, item) in items.into_iter().enumerate() {
            let path = format!("{path}[{i}]");
            match item {
                Value::Table(table) => sections.push(self.below(path, table)),
                other => self.mistakes.add(path, format!("is {}, expected a table", kind(&other))),
            }
        }
        sections
    }

    /// Text that parses as `T`, if present.
    pub fn parse<T: FromStr>(&mut self, key: &'static str, expected: &str) -> Option<T>
    where
        T::Err: fmt::Display,
    {
        let text = self.text(key)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(key, format!("'{text}' will not do ({error}): write {expected}"));
                None
            }
        }
    }

    /// Required text that parses as `T`.
    pub fn require<T: FromStr>(&mut self, key: &'static str, expected: &str) -> Option<T>
    where
        T::Err: fmt::Display,
    {
        if !self.table.contains_key(key) {
            self.asked.push(key);
            self.wrong(key, format!("is missing: write {expected}"));
            return None;
        }
        self.parse(key, expected)
    }

    /// Text, if present.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            // The environment has no quotes: TWINBOX_NODE__NAME=1001 is also a text.
            Value::Integer(number) => Some(number.to_string()),
            other => {
                self.wrong(key, format!("is {}, expected a text in quotes", kind(&other)));
                None
            }
        }
    }

    /// A value of any kind as text, a list with commas, if present.
    pub fn plain(&mut self, key: &'static str) -> Option<String> {
        Some(match self.take(key)? {
            Value::String(text) => text,
            Value::Array(items) => {
                let items = items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
                items.collect::<Vec<_>>().join(",")
            }
            other => other.to_string(),
        })
    }

    /// Absolute path that the text of a key names, if present; the key may be read again.
    pub fn absolute(&self, key: &str) -> Option<String> {
        let path = self.base.join(self.table.get(key)?.as_str()?);
        Some(std::path::absolute(&path).unwrap_or(path).display().to_string())
    }

    /// Path, if present; relative to the folder of the configuration file.
    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let text = self.text(key)?;
        self.below_base(key, &text, "a path, or leave the key out")
    }

    /// Required path.
    pub fn require_path(&mut self, key: &'static str, expected: &str) -> Option<PathBuf> {
        let text = self.require::<String>(key, expected)?;
        self.below_base(key, &text, expected)
    }

    /// The path; an empty one would be the folder of the configuration file.
    fn below_base(&self, key: &str, text: &str, expected: &str) -> Option<PathBuf> {
        if text.trim().is_empty() {
            self.wrong(key, format!("is empty: write {expected}"));
            return None;
        }
        Some(self.base.join(text))
    }

    /// One of the listed words, or `default`.
    pub fn word<'a>(&mut self, key: &'static str, words: &[&'a str], default: &'a str) -> &'a str {
        let Some(text) = self.text(key) else { return default };
        match words.iter().find(|word| **word == text) {
            Some(word) => word,
            None => {
                self.wrong(key, format!("'{text}' is not one of {}", words.join(", ")));
                default
            }
        }
    }

    /// Integer within `range`, or `default`.
    pub fn number(&mut self, key: &'static str, range: std::ops::RangeInclusive<i64>, default: i64) -> i64 {
        match self.take(key) {
            None => default,
            Some(Value::Integer(n)) if range.contains(&n) => n,
            Some(other) => {
                let (low, high) = (range.start(), range.end());
                self.wrong(key, format!("is {other}, expected a whole number from {low} to {high}"));
                default
            }
        }
    }

    /// `true` or `false`, or `default`.
    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Boolean(flag)) => flag,
            Some(other) => {
                self.wrong(key, format!("is {}, expected true or false", kind(&other)));
                default
            }
        }
    }

    /// List of texts that each parse as `T`.
    pub fn list<T: FromStr>(&mut self, key: &'static str, expected: &str) -> Vec<T>
    where
        T::Err: fmt::Display,
    {
        let items = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.wrong(key, format!("is {}, expected a list of {expected}", kind(&other)));
                return Vec::new();
            }
        };
        let mut values = Vec::new();
        for item in items {
            let text = item.as_str().map_or_else(|| item.to_string(), str::to_owned);
            match text.parse() {
                Ok(value) => values.push(value),
                Err(error) => self.wrong(key, format!("'{text}' will not do ({error}): write {expected}")),
            }
        }
        values
    }

    /// Secret: the text of `key`, or the content of the file named by `key_file`; not both.
    pub fn secret(&mut self, key: &'static str, key_file: &'static str) -> Option<String> {
        let direct = self.text(key);
        let file = self.text(key_file);
        match (direct, file) {
            (Some(_), Some(_)) => {
                self.wrong(key, format!("is given twice: keep either {key} or {key_file}"));
                None
            }
            (direct, None) => direct,
            (None, Some(path)) => match std::fs::read_to_string(self.base.join(&path)) {
                Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
                Err(error) => {
                    self.wrong(key_file, format!("cannot read '{path}': {error}"));
                    None
                }
            },
        }
    }

    /// Reports unknown keys, each with a similar known key if there is one.
    pub fn finish(self) {
        // Settings that all nodes share were taken out before.
        let taken = Key::ALL.into_iter().filter_map(|key| key.name().strip_prefix(&self.path)?.strip_prefix('.'));
        let known: Vec<&str> = self.asked.iter().copied().chain(taken.filter(|key| !key.contains('.'))).collect();
        for key in self.table.keys() {
            let near = nearest(key, &known).map(|k| format!("; did you mean '{k}'?")).unwrap_or_default();
            self.mistakes.add(self.key(key), format!("is not a key of this section{near}"));
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
