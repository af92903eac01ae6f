//! The trunks of the store, those in force, and the changes that administrators make.

use std::collections::BTreeMap;

use twinbox_replication_core::{Edit, Key as RowKey, Record, Value};

use crate::{Origin, Property, Trunk, TrunkError, schema, trunk::Unread};

/// A row of the store: a trunk, or the fact that an administrator removed it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Removed,
    There { origin: Origin, trunk: Trunk, unread: Unread },
}

/// A trunk of the cluster on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownTrunk<'a> {
    /// The trunk.
    pub trunk: &'a Trunk,
    /// The origin of its values; `None`: this node's file, not offered yet.
    pub origin: Option<Origin>,
}

/// A change by an administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrunkChange {
    /// A new trunk with these properties.
    Add(Vec<(Property, Option<String>)>),
    /// Other values of these properties.
    Set(Vec<(Property, Option<String>)>),
    /// No such trunk any more, whatever the nodes' files say.
    Remove,
}

/// All trunks of the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrunkRows(BTreeMap<String, State>);

impl TrunkRows {
    /// The trunks among these rows.
    pub fn of<'a>(rows: impl IntoIterator<Item = (&'a RowKey, &'a Record)>) -> Self {
        Self(rows.into_iter().filter_map(|(key, record)| read(key, record)).collect())
    }

    /// The trunks that this node knows, in the order of their names: of the store, and of its file as long as they are not
    /// offered. One with a value that this release refuses is not among them: without it, more might be let in.
    pub fn known<'a>(&'a self, file: &'a [Trunk]) -> Vec<KnownTrunk<'a>> {
        let stored = self.0.values().filter_map(|state| match state {
            State::There { origin, trunk, unread } if unread.refused.is_empty() => {
                Some(KnownTrunk { trunk, origin: Some(*origin) })
            }
            _ => None,
        });
        let open = file.iter().filter(|trunk| !self.0.contains_key(trunk.name()));
        let mut known: Vec<_> = stored.chain(open.map(|trunk| KnownTrunk { trunk, origin: None })).collect();
        known.sort_by(|a, b| a.trunk.name().cmp(b.trunk.name()));
        known
    }

    /// Edits that make the file's trunks the cluster's, as far as the cluster never had one of that name.
    pub fn offers(&self, file: &[Trunk]) -> Vec<(RowKey, Vec<Edit>)> {
        let open = file.iter().filter(|trunk| !self.0.contains_key(trunk.name()));
        let edits = |trunk: &Trunk| vec![Edit::Claim(schema::FIRST, trunk.text().into()), granted()];
        open.map(|trunk| (schema::trunk_key(trunk.name()), edits(trunk))).collect()
    }

    /// Trunks of this node's file that have no effect as they are there, each with the remedy.
    pub fn differences(&self, file: &[Trunk]) -> BTreeMap<String, String> {
        let differs = |own: &Trunk| {
            let what = match self.0.get(own.name())? {
                State::Removed => "was removed from the cluster",
                State::There { trunk, .. } if !trunk.is_like(own) => {
                    "has other values in the cluster, which are used"
                }
                State::There { .. } => return None,
            };
            let name = own.name();
            let text = format!(
                "trunk '{name}' of the file {what}: delete its [[trunk]] from the file, or its keys but name, username and \
                 password; to change the cluster's: 'twinbox trunk add|set {name} …'"
            );
            Some((name.to_owned(), text))
        };
        file.iter().filter_map(differs).collect()
    }

    /// Trunks with properties that this release does not know or whose value it refuses, each with the remedy.
    pub fn unread(&self) -> BTreeMap<String, String> {
        let text = |(name, state): (&String, &State)| match state {
            State::There { unread: Unread { unknown, refused }, .. }
                if !(unknown.is_empty() && refused.is_empty()) =>
            {
                let what = match refused.is_empty() {
                    true => format!("has properties that this release does not know ({})", unknown.join(", ")),
                    false => format!("is not used, because this release refuses its {}", refused.join(", ")),
                };
                let remedy = "upgrade this node, or set them again with 'twinbox trunk set'";
                Some((name.clone(), format!("trunk '{name}' {what}: {remedy}")))
            }
            _ => None,
        };
        self.0.iter().filter_map(text).collect()
    }

    /// The trunk as a change makes it; `None`: removed.
    pub fn changed(&self, file: &[Trunk], name: &str, change: &TrunkChange) -> Result<Option<Trunk>, TrunkError> {
        let wanted = Trunk::new(name)?;
        let name = wanted.name();
        let known = self.known(file);
        // One that this release refuses can be repaired and removed, too.
        let stored = match self.0.get(name) {
            Some(State::There { trunk, .. }) => Some(trunk),
            _ => known.iter().map(|known| known.trunk).find(|trunk| trunk.name() == name),
        };
        let (mut trunk, settings) = match (change, stored) {
            (TrunkChange::Add(_), Some(_)) => return Err(TrunkError::Exists(name.to_owned())),
            (TrunkChange::Add(settings), None) => (wanted, settings),
            (_, None) => return Err(TrunkError::no_trunk(name, known.iter().map(|known| known.trunk.name()))),
            (TrunkChange::Set(settings), Some(stored)) => (stored.clone(), settings),
            (TrunkChange::Remove, Some(_)) => return Ok(None),
        };
        for (property, value) in settings {
            trunk.set(*property, value.clone());
        }
        if trunk.get(Property::Addresses).is_none() {
            return Err(TrunkError::NoAddresses(trunk.name().to_owned()));
        }
        let moves = |(property, _): &(Property, _)| matches!(property, Property::Addresses | Property::Transport);
        if settings.iter().any(moves) {
            trunk.rival(known.iter().map(|known| known.trunk))?;
        }
        Ok(Some(trunk))
    }

    /// The row that a change makes, and its edits.
    pub fn change(
        &self,
        file: &[Trunk],
        name: &str,
        change: &TrunkChange,
    ) -> Result<(RowKey, Vec<Edit>), TrunkError> {
        let key = schema::trunk_key(name.trim());
        let Some(trunk) = self.changed(file, name, change)? else { return Ok((key, vec![revoked()])) };
        let mut edits = vec![Edit::Set(schema::VALUE, Value::Bytes(trunk.text().into()))];
        // A change of a trunk that another administrator removes meanwhile does not bring it back (rule D4).
        if matches!(change, TrunkChange::Add(_)) || !self.0.contains_key(trunk.name()) {
            edits.push(granted());
        }
        Ok((key, edits))
    }
}

fn read(key: &RowKey, record: &Record) -> Option<(String, State)> {
    let name = schema::trunk_name(key)?;
    let state = match record.set(schema::GRANTED).next() {
        None => State::Removed,
        Some(_) => {
            let set = record.bytes(schema::VALUE).map(|bytes| (Origin::Administrator, bytes));
            let (origin, bytes) = set.or_else(|| Some((Origin::FirstFile, record.claim(schema::FIRST)?)))?;
            let (trunk, unread) = Trunk::read(&name, &String::from_utf8_lossy(bytes)).ok()?;
            State::There { origin, trunk, unread }
        }
    };
    Some((name, state))
}

fn granted() -> Edit {
    Edit::Grant(schema::GRANTED, schema::GRANT.to_vec())
}

fn revoked() -> Edit {
    Edit::Revoke(schema::GRANTED, schema::GRANT.to_vec())
}
