//! Alarm of the overload control. Pure.

use std::time::Duration;

use twinbox_alarms::Code;
use twinbox_calls::{LoadSignal, LoadView};
use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;

use crate::roles::Report;

/// Minimum duration of refusals before the alarm: a burst at the start of a shift is shorter.
const LASTS: Duration = Duration::from_secs(15);
/// The alarm ends after this time without a refusal.
const OVER: Duration = Duration::from_secs(60);

/// Whether the node refuses calls, and the start of the refusals.
#[derive(Debug)]
pub struct LoadRule {
    node: NodeName,
    since: Option<BootInstant>,
    last: Option<BootInstant>,
    raised: bool,
}

impl LoadRule {
    /// Initial state of a node that refuses no calls.
    pub fn new(node: &NodeName) -> Self {
        Self { node: node.clone(), since: None, last: None, raised: false }
    }

    /// Applies the present state of the overload control.
    pub fn look(&mut self, view: &LoadView, now: BootInstant) -> Vec<Report> {
        let own = self.node.to_string();
        if view.refusing {
            self.last = Some(now);
            let since = *self.since.get_or_insert(now);
            if !self.raised && now.since(since) >= LASTS {
                self.raised = true;
                let detail =
                    format!("it takes {:.0} new calls a second, limited by {}", view.limit, limited_by(view));
                return vec![Report::Raise(Code::CallsRefused, own, detail)];
            }
            return Vec::new();
        }
        self.since = None;
        // Also reported at the start: an alarm of an earlier incarnation has ended.
        if self.last.is_none_or(|last| now.since(last) >= OVER) {
            self.raised = false;
            return vec![Report::Clear(Code::CallsRefused, own)];
        }
        Vec::new()
    }
}

fn limited_by(view: &LoadView) -> &'static str {
    match view.worst {
        LoadSignal::Commit => "the time that the disk of data_dir takes to store messages",
        LoadSignal::Loop => "the processor: its event loop runs late",
        LoadSignal::Media => "the processor: its media threads run late",
        LoadSignal::Processor => "the processor",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(refusing: bool) -> LoadView {
        LoadView {
            limit: 41.7,
            closed: false,
            refusing,
            pressure: LoadSignal::ALL.map(|signal| (signal, 0.5)),
            worst: LoadSignal::Commit,
            sustained: 0.0,
        }
    }

    #[test]
    fn refusals_that_last_are_an_alarm_until_there_are_none_for_a_minute() {
        let mut load = LoadRule::new(&"a".parse().unwrap());
        let at = |seconds| BootInstant::from_nanos(0) + Duration::from_secs(seconds);
        let mut look = |seconds, refusing| load.look(&view(refusing), at(seconds));
        let clear = || vec![Report::Clear(Code::CallsRefused, "a".to_owned())];
        assert_eq!(look(0, false), clear(), "of a former run");
        assert_eq!(look(1, true), vec![]);
        assert_eq!(look(10, false), vec![], "a burst");
        assert_eq!(look(20, true), vec![]);
        let detail =
            "it takes 42 new calls a second, limited by the time that the disk of data_dir takes to store messages";
        assert_eq!(look(36, true), vec![Report::Raise(Code::CallsRefused, "a".to_owned(), detail.to_owned())]);
        assert_eq!(look(40, true), vec![], "reports once");
        assert_eq!(look(50, false), vec![]);
        assert_eq!(look(99, false), vec![]);
        assert_eq!(look(100, false), clear());
    }
}
