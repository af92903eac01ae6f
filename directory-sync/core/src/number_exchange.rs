//! Users who exchange their numbers: no order of their steps is right, so all of them are applied together.

use std::ops::Range;

use crate::DirectoryStep;

/// The steps of the users of one ring.
#[derive(Debug, Default)]
pub(crate) struct NumberExchange {
    before: Vec<DirectoryStep>,
    together: Vec<DirectoryStep>,
    after: Vec<DirectoryStep>,
}

impl NumberExchange {
    /// Adds the steps of one user. A disabling takes effect also if the exchange is refused.
    pub(crate) fn add(&mut self, steps: Vec<DirectoryStep>) {
        let mut changed = false;
        for step in steps {
            match step {
                DirectoryStep::Adopt { .. } | DirectoryStep::Change { .. } => {
                    changed = true;
                    self.together.push(step);
                }
                // An adopted user returns only once it is bound.
                _ if changed => self.after.push(step),
                _ => self.before.push(step),
            }
        }
    }

    /// Appends the steps to those of a run. Returns the indices of those that are applied together.
    pub(crate) fn write(self, steps: &mut Vec<DirectoryStep>) -> Range<usize> {
        steps.extend(self.before);
        let begin = steps.len();
        steps.extend(self.together);
        let together = begin..steps.len();
        steps.extend(self.after);
        together
    }
}
