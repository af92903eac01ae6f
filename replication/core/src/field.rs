//! The kinds of field, and their merges.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use serde::{Deserialize, Serialize};
use twinbox_ids::{NodeName, Origin, Stamp};

use crate::{Dots, Value};

/// A field. It carries its kind of merge, so that a node which does not know the tag merges and forwards the field all
/// the same (rule D7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Field {
    /// The highest stamp wins. Values that make sense only together are one register (rule D4).
    Register {
        /// Stamp of the write.
        stamp: Stamp,
        /// The written value.
        value: Value,
    },
    /// A set in which an add survives a remove that did not see it. [`Member::marks`] are adds.
    AddWins(Members),
    /// A set in which a remove survives an add that did not see it: for members that grant access. [`Member::marks`]
    /// are removes.
    RemoveWins(Members),
    /// A count per node and incarnation of its store; the sum is the value. A disk that was set back begins a cell of its
    /// own: in the old one it would count below what the others have, and the maximum would lose that (rule D4).
    Counter(BTreeMap<(NodeName, Origin), u64>),
    /// A name held by one claimant: the earliest claim wins, the others are kept (rule D6). [`Member::marks`] are
    /// claims.
    Claim(Members),
}

impl Field {
    /// The join of two fields. Fields of different kinds under one tag are a mistake of the writer; the kind that is
    /// later in [`Field`] wins, so that all nodes agree even then.
    pub fn merge(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Register { stamp, value }, Self::Register { stamp: other_stamp, value: other_value }) => {
                if (*stamp, &*value) < (other_stamp, &other_value) {
                    *stamp = other_stamp;
                    *value = other_value;
                }
            }
            (Self::AddWins(mine), Self::AddWins(other))
            | (Self::RemoveWins(mine), Self::RemoveWins(other))
            | (Self::Claim(mine), Self::Claim(other)) => mine.merge(other),
            (Self::Counter(mine), Self::Counter(other)) => {
                for (owner, count) in other {
                    let cell = mine.entry(owner).or_default();
                    *cell = count.max(*cell);
                }
            }
            (mine, other) => {
                if mine.rank() < other.rank() {
                    *mine = other;
                }
            }
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Register { .. } => 0,
            Self::AddWins(_) => 1,
            Self::RemoveWins(_) => 2,
            Self::Counter(_) => 3,
            Self::Claim(_) => 4,
        }
    }

    /// The members that are in the set, or claim the name; none for a register or counter.
    pub fn present(&self) -> impl Iterator<Item = (&[u8], &Member)> {
        let (members, of_removes) = match self {
            Self::AddWins(members) | Self::Claim(members) => (Some(members), false),
            Self::RemoveWins(members) => (Some(members), true),
            Self::Register { .. } | Self::Counter(_) => (None, false),
        };
        members.into_iter().flat_map(Members::iter).filter(move |(_, member)| {
            if of_removes { member.added && member.marks.is_empty() } else { !member.marks.is_empty() }
        })
    }

    /// The highest stamp in it.
    pub fn latest(&self) -> Option<Stamp> {
        match self {
            Self::Register { stamp, .. } => Some(*stamp),
            Self::AddWins(members) | Self::RemoveWins(members) | Self::Claim(members) => {
                members.iter().flat_map(|(_, member)| [member.marks.latest(), member.seen.latest()]).flatten().max()
            }
            Self::Counter(_) => None,
        }
    }
}

/// The members of a set or the claimants of a name, each with its marks. Their bytes may be private, so they are never
/// printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members(BTreeMap<Vec<u8>, Member>);

impl Members {
    /// No members.
    pub fn new() -> Self {
        Self::default()
    }

    /// One member.
    pub fn one(value: &[u8], member: Member) -> Self {
        Self(BTreeMap::from([(value.to_vec(), member)]))
    }

    /// The marks of `value`.
    pub fn get(&self, value: &[u8]) -> Option<&Member> {
        self.0.get(value)
    }

    /// All members that have an entry, whether in the set or not.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Member)> {
        self.0.iter().map(|(value, member)| (value.as_slice(), member))
    }

    /// True when there is no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn merge(&mut self, other: Self) {
        other.0.into_iter().for_each(|(value, member)| self.insert(value, member));
    }

    fn insert(&mut self, value: Vec<u8>, member: Member) {
        match self.0.entry(value) {
            Entry::Vacant(entry) => {
                entry.insert(member);
            }
            Entry::Occupied(mut entry) => entry.get_mut().merge(member),
        }
    }
}

impl FromIterator<(Vec<u8>, Member)> for Members {
    fn from_iter<I: IntoIterator<Item = (Vec<u8>, Member)>>(iter: I) -> Self {
        let mut members = Self::new();
        iter.into_iter().for_each(|(value, member)| members.insert(value, member));
        members
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.values()).finish()
    }
}

/// The marks of one member. Marks that a later opposite edit saw are dropped: `seen` remembers them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Edits of the winning kind (adds, removes or claims, by kind of field) that no opposite edit saw.
    pub marks: Dots,
    /// Edits of that kind that an opposite edit saw, and so undid.
    pub seen: Dots,
    /// Remove-wins only: the member was added at least once.
    pub added: bool,
}

impl Member {
    /// A member from its parts; marks that are in `seen` are dropped.
    pub fn new(marks: Dots, seen: Dots, added: bool) -> Self {
        let mut member = Self { marks, seen, added };
        member.marks.drop_seen(&member.seen);
        member
    }

    fn merge(&mut self, other: Self) {
        self.marks.merge(other.marks);
        self.seen.merge(other.seen);
        self.marks.drop_seen(&self.seen);
        self.added |= other.added;
    }
}
