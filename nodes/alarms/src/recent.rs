//! Number of recent raises per alarm on this node, for alarm rules.

use std::{collections::VecDeque, time::Duration};

use twinbox_clock::BootInstant;

use crate::Code;

/// Number of raises that are remembered: more than any rule counts.
const REMEMBERED: usize = 1_024;

/// Latest raises of this incarnation, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Recent(VecDeque<(Code, BootInstant)>);

impl Recent {
    /// Records that an alarm changed from not raised to raised.
    pub(crate) fn note(&mut self, code: Code, at: BootInstant) {
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((code, at));
    }

    /// Number of raises of this code in the period `within` before `now`.
    pub(crate) fn count(&self, code: Code, within: Duration, now: BootInstant) -> u32 {
        let lately = self.0.iter().filter(|(other, at)| *other == code && now.since(*at) < within);
        u32::try_from(lately.count()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_raises_are_counted_per_code_and_bounded() {
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
