//! The first fill of a store without another node as its source (rule D13). Pure.

use twinbox_ids::Incarnation;

/// Facts of one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillFacts {
    /// Incarnation of this node in the agreed state.
    pub agreed: Option<Incarnation>,
    /// Another node is a member in the agreed state.
    pub has_others: bool,
    /// The store has all records: its first fill has ended.
    pub has_records: bool,
    /// The fill has ended without a node that has all records.
    pub had_no_source: bool,
}

/// Steps that one look leads to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct FillSteps {
    /// Raise the alarm for a fill without a source.
    pub report: bool,
    /// End the fill, since no other node is left as its source.
    pub end: bool,
}

/// Follows the first fill. Each step is taken once.
#[derive(Debug)]
pub struct FillWatch {
    /// Incarnation of this process.
    incarnation: Incarnation,
    store_rebuilt: bool,
    /// Another node was a member since the start.
    had_others: bool,
    taken: FillSteps,
}

impl FillWatch {
    /// Follows the fill of a store; `store_rebuilt`: it was damaged and built again, so that without another node this one
    /// cannot know which data it lacks.
    pub fn new(incarnation: Incarnation, store_rebuilt: bool) -> Self {
        Self { incarnation, store_rebuilt, had_others: false, taken: FillSteps::default() }
    }

    /// Steps to take now.
    pub fn look(&mut self, facts: FillFacts) -> FillSteps {
        let FillFacts { agreed, has_others, has_records, had_no_source } = facts;
        // A state without this incarnation may be one of the past: during log replay the founder is the only member at first.
        let is_member = agreed == Some(self.incarnation);
        self.had_others |= is_member && has_others;
        // A store that was built again serves without a source only by an order: the removal of the last other node, or
        // the mark of the founder at a start.
        let may_end = self.had_others || !self.store_rebuilt;
        let report = had_no_source && !self.taken.report;
        let end = is_member && !has_others && may_end && !has_records && !self.taken.end;
        self.taken = FillSteps { report: self.taken.report || report, end: self.taken.end || end };
        FillSteps { report, end }
    }
}
