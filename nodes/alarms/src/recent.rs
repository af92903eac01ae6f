//! How often an alarm was raised lately on this node: what an alarm rule counts.

use std::{collections::VecDeque, time::Duration};

use twinbox_clock::BootInstant;

use crate::Code;

/// So many raisings are remembered: more than any rule need count.
const REMEMBERED: usize = 1_024;

/// The last raisings of this life, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Recent(VecDeque<(Code, BootInstant)>);

impl Recent {
    /// An alarm that was not raised before is.
    pub(crate) fn note(&mut self, code: Code, at: BootInstant) {
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((code, at));
    }

    /// How often that one was raised in the time before `now`.
    pub(crate) fn count(&self, code: Code, within: Duration, now: BootInstant) -> u32 {
        let lately = self.0.iter().filter(|(other, at)| *other == code && now.since(*at) < within);
        u32::try_from(lately.count()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raisings_of_one_code_are_counted_as_long_as_they_are_recent_and_are_bounded() {
        let (mut recent, second) = (Recent::default(), Duration::from_secs(1));
        let at = |n: u32| BootInstant::from_nanos(0) + second * n;
        (0..5).for_each(|n| recent.note(Code::Overload, at(n)));
        recent.note(Code::Cpu, at(4));
        let counts = [(Code::Overload, 60), (Code::Overload, 2), (Code::Cpu, 60), (Code::Clock, 60)];
        let counted = counts.map(|(code, seconds)| recent.count(code, second * seconds, at(4)));
        assert_eq!(counted, [5, 2, 1, 0]);
        (0..5_000).for_each(|_| recent.note(Code::Overload, at(5)));
        assert_eq!(recent.count(Code::Overload, second * 60, at(5)) as usize, REMEMBERED);
    }
}
