//! Pairs of a range that are read in parts, from both of its ends.

use std::collections::VecDeque;

use crate::{DiskError, Pair, range::ReadFrom};

/// A range that is read part by part.
pub(crate) trait Parts {
    /// The next part from this end, in the order in which it is read; `None` when nothing is left, or after an error.
    fn next_part(&mut self, from: ReadFrom) -> Result<Option<Vec<Pair>>, DiskError>;
}

/// The pairs of a range in order; an error is the last item.
pub(crate) struct BothEnds<P> {
    parts: P,
    /// Pairs read from the start and from the end, both ascending.
    front: VecDeque<Pair>,
    back: VecDeque<Pair>,
}

impl<P: Parts> BothEnds<P> {
    pub(crate) fn of(parts: P) -> Self {
        Self { parts, front: VecDeque::new(), back: VecDeque::new() }
    }
}

impl<P: Parts> Iterator for BothEnds<P> {
    type Item = Result<Pair, DiskError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.front.is_empty() {
            match self.parts.next_part(ReadFrom::Start) {
                Ok(Some(part)) => self.front.extend(part),
                // The two ends have met.
                Ok(None) => return self.back.pop_front().map(Ok),
                Err(error) => return Some(Err(error)),
            }
        }
        self.front.pop_front().map(Ok)
    }
}

impl<P: Parts> DoubleEndedIterator for BothEnds<P> {
    fn next_back(&mut self) -> Option<Self::Item> {
        while self.back.is_empty() {
            match self.parts.next_part(ReadFrom::End) {
                Ok(Some(part)) => part.into_iter().for_each(|pair| self.back.push_front(pair)),
                Ok(None) => return self.front.pop_back().map(Ok),
                Err(error) => return Some(Err(error)),
            }
        }
        self.back.pop_back().map(Ok)
    }
}
