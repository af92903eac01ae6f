//! Edits: requests of a local writer, and the change that an edit makes of a record as the writer sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use twinbox_ids::{NodeName, Origin, Stamp, Timestamp};

use crate::{Clock, Dots, Field, Member, Members, Record, Tag, Tombstone, Value};

/// One edit of one record.
#[derive(Clone, PartialEq, Eq)]
pub enum Edit {
    /// Writes a register.
    Set(Tag, Value),
    /// Adds to an add-wins set.
    Add(Tag, Vec<u8>),
    /// Removes from an add-wins set. An add that this writer has not seen survives it.
    Remove(Tag, Vec<u8>),
    /// Adds to a remove-wins set. A remove that this writer has not seen survives it.
    Grant(Tag, Vec<u8>),
    /// Removes from a remove-wins set.
    Revoke(Tag, Vec<u8>),
    /// Adds to the cell of a counter that this incarnation of the node's store has.
    Count(Tag, u64),
    /// Raises this node's cell of a counter to a number above all cells. A tag is either counted or raised: the sum of the
    /// cells is the value of the one, their maximum that of the other.
    Raise(Tag, u64),
    /// Claims a name; does nothing if the claimant already claims it, since the earliest claim wins.
    Claim(Tag, Vec<u8>),
    /// Withdraws a claim.
    Unclaim(Tag, Vec<u8>),
    /// Deletes the record as this writer sees it: registers by their stamps, members and claims one by one.
    Delete,
}

/// Cells of one node in a counter. An incarnation beyond that counts in the cell of an earlier one, which a disk that was
/// set back can then lose counts of.
const OWN_CELLS: usize = 64;

impl Edit {
    /// The field that it edits; `None` for a delete.
    fn tag(&self) -> Option<Tag> {
        match self {
            Self::Set(tag, _)
            | Self::Add(tag, _)
            | Self::Remove(tag, _)
            | Self::Grant(tag, _)
            | Self::Revoke(tag, _)
            | Self::Count(tag, _)
            | Self::Raise(tag, _)
            | Self::Claim(tag, _)
            | Self::Unclaim(tag, _) => Some(*tag),
            Self::Delete => None,
        }
    }

    /// The change: merging it into `current` is the edit's effect. Empty when the edit changes nothing.
    ///
    /// `stamp` must be above every stamp in `current` (see [`crate::Clock::tick`]), `current` must be the record as the
    /// writer sees it, and `node` and the origin of the stamp name the writer's cell in counters.
    pub fn delta(&self, current: &Record, stamp: Stamp, node: &NodeName) -> Record {
        let field =
            match self {
                Self::Set(tag, value) => Some((*tag, Field::Register { stamp, value: value.clone() })),
                Self::Add(tag, value) => Some((*tag, Field::AddWins(Members::one(value, marked(stamp))))),
                Self::Remove(tag, value) => undone(current.field(*tag), value)
                    .map(|member| (*tag, Field::AddWins(Members::one(value, member)))),
                Self::Grant(tag, value) => {
                    let granted = current.set(*tag).any(|member| member == value);
                    let seen = undone(current.field(*tag), value).map(|member| member.seen).unwrap_or_default();
                    let member = Member::new(Dots::new(), seen, true);
                    (!granted).then(|| (*tag, Field::RemoveWins(Members::one(value, member))))
                }
                Self::Revoke(tag, value) => Some((*tag, Field::RemoveWins(Members::one(value, marked(stamp))))),
                Self::Count(tag, n) => {
                    let none = BTreeMap::new();
                    let cells = match current.field(*tag) {
                        Some(Field::Counter(cells)) => cells,
                        _ => &none,
                    };
                    let owner = counting_cell(cells, node, stamp.origin);
                    let count = cells.get(&owner).copied().unwrap_or(0).saturating_add(*n);
                    (*n > 0).then(|| (*tag, Field::Counter(BTreeMap::from([(owner, count)]))))
                }
                // A maximum loses nothing in a cell that all incarnations of a node share.
                Self::Raise(tag, to) => (*to > current.highest(*tag))
                    .then(|| (*tag, Field::Counter(BTreeMap::from([((node.clone(), Origin(0)), *to)])))),
                Self::Claim(tag, value) => {
                    let already = undone(current.field(*tag), value).is_some();
                    (!already).then(|| (*tag, Field::Claim(Members::one(value, marked(stamp)))))
                }
                Self::Unclaim(tag, value) => undone(current.field(*tag), value)
                    .map(|member| (*tag, Field::Claim(Members::one(value, member)))),
                Self::Delete => return delete(current, stamp),
            };
        Record::from_parts(field, None)
    }
}

/// Makes edits of `record` one after the other, and returns the change: merging it is the effect of all of them.
///
/// They have one stamp together, which takes little room in the record. An edit of a field that was edited before has a
/// stamp of its own, and so has one after a delete: the later edit must win.
pub fn make_edits(
    record: &mut Record,
    edits: impl IntoIterator<Item = Edit>,
    clock: &mut Clock,
    now: Timestamp,
    node: &NodeName,
) -> Record {
    let (mut delta, mut common, mut edited, mut deleted) = (Record::new(), None, BTreeSet::new(), false);
    for edit in edits {
        let tag = edit.tag();
        let again = tag.is_some_and(|tag| !edited.insert(tag));
        if again || deleted {
            common = None;
            edited = tag.into_iter().collect();
        }
        deleted = tag.is_none();
        let stamp = *common.get_or_insert_with(|| clock.tick(now, record.latest()));
        let part = edit.delta(record, stamp, node);
        record.merge(part.clone());
        delta.merge(part);
    }
    delta
}

/// The cell in which an incarnation of a node's store counts: its own, or, when the node has [`OWN_CELLS`] others, the
/// last of them, so that a record does not grow for ever. No two incarnations count at the same time.
fn counting_cell(cells: &BTreeMap<(NodeName, Origin), u64>, node: &NodeName, origin: Origin) -> (NodeName, Origin) {
    let own = (node.clone(), origin);
    let mut others = cells.keys().filter(|(of, _)| of == node);
    match others.clone().count() >= OWN_CELLS && !cells.contains_key(&own) {
        true => others.next_back().cloned().unwrap_or(own),
        false => own,
    }
}

fn marked(stamp: Stamp) -> Member {
    Member::new(Dots::from_iter([stamp]), Dots::new(), false)
}

/// The member that undoes the live marks of `value` in `field`; `None` if it has none.
fn undone(field: Option<&Field>, value: &[u8]) -> Option<Member> {
    let members = match field? {
        Field::AddWins(members) | Field::RemoveWins(members) | Field::Claim(members) => members,
        Field::Register { .. } | Field::Counter(_) => return None,
    };
    let member = members.get(value).filter(|member| !member.marks.is_empty())?;
    Some(Member::new(Dots::new(), member.marks.clone(), false))
}

fn delete(current: &Record, stamp: Stamp) -> Record {
    let mut saw = BTreeMap::new();
    let mut fields = Vec::new();
    for (tag, field) in current.fields() {
        let each = |take_out: &dyn Fn(&Member) -> Member| -> Members {
            field.present().map(|(value, member)| (value.to_vec(), take_out(member))).collect()
        };
        let undo = |member: &Member| Member::new(Dots::new(), member.marks.clone(), false);
        match field {
            Field::Register { stamp, .. } => {
                saw.insert(tag, *stamp);
            }
            Field::AddWins(_) => fields.push((tag, Field::AddWins(each(&undo)))),
            Field::Claim(_) => fields.push((tag, Field::Claim(each(&undo)))),
            Field::RemoveWins(_) => fields.push((tag, Field::RemoveWins(each(&|_| marked(stamp))))),
            Field::Counter(_) => {}
        }
    }
    fields.retain(|(_, field)| match field {
        Field::AddWins(members) | Field::RemoveWins(members) | Field::Claim(members) => !members.is_empty(),
        Field::Register { .. } | Field::Counter(_) => true,
    });
    Record::from_parts(fields, Some(Tombstone { stamp, saw }))
}

/// Values may be private: only the kind and the tag are printed.
impl fmt::Debug for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, tag) = match self {
            Self::Set(tag, _) => ("Set", tag),
            Self::Add(tag, _) => ("Add", tag),
            Self::Remove(tag, _) => ("Remove", tag),
            Self::Grant(tag, _) => ("Grant", tag),
            Self::Revoke(tag, _) => ("Revoke", tag),
            Self::Count(tag, _) => ("Count", tag),
            Self::Raise(tag, _) => ("Raise", tag),
            Self::Claim(tag, _) => ("Claim", tag),
            Self::Unclaim(tag, _) => ("Unclaim", tag),
            Self::Delete => return f.write_str("Delete"),
        };
        write!(f, "{kind}({tag})")
    }
}
