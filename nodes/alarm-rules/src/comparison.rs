//! Alarms of comparisons that found damage. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use twinbox_alarms::Code;
use twinbox_ids::{NodeName, Timestamp};
use twinbox_replication_peer::{ComparisonReport, DifferenceOutcome, Subject};

use crate::roles::Report;

/// Reports each comparison once.
#[derive(Debug, Default)]
pub(crate) struct ComparisonRule {
    looked_at: BTreeMap<NodeName, Timestamp>,
}

impl ComparisonRule {
    /// Polls the last comparisons.
    pub(crate) fn look(&mut self, last: Vec<(NodeName, Option<Arc<ComparisonReport>>, u64)>) -> Vec<Report> {
        let mut reports = Vec::new();
        for (peer, report, _) in last {
            let Some(report) = report else { continue };
            if self.looked_at.insert(peer.clone(), report.began) == Some(report.began) {
                continue;
            }
            if let Some(detail) = detail(&report) {
                reports.push(Report::Raise(Code::ReplicationRepaired, peer.to_string(), detail));
            }
        }
        reports
    }
}

/// The detail of the alarm; `None` if nothing was lost. A row that is not decided may be equal.
fn detail(report: &ComparisonReport) -> Option<String> {
    let found =
        || report.differences.iter().filter(|difference| difference.outcome != DifferenceOutcome::Undecided);
    let nodes: BTreeSet<&str> = found().map(|difference| difference.node.as_str()).collect();
    if nodes.is_empty() {
        return None;
    }
    let rows =
        found().filter(|difference| matches!(difference.subject, Subject::Row(_))).count() as u64 + report.more;
    let audio = found().filter(|difference| matches!(difference.subject, Subject::Audio(_))).count();
    let left = found().filter(|difference| difference.outcome == DifferenceOutcome::NotRepaired).count();
    let nodes: Vec<&str> = nodes.into_iter().collect();
    let left = if left > 0 { format!("; {left} of them could not be repaired") } else { String::new() };
    Some(format!("{} lacked {rows} records and {audio} recordings{left}", nodes.join(" and ")))
}

#[cfg(test)]
mod tests {
    use twinbox_ids::BlobHash;
    use twinbox_replication_core::{Key, Lack, Table};
    use twinbox_replication_peer::Difference;
    use twinbox_replication_store::RowFault;

    use super::*;

    fn report(began: u64, outcomes: &[DifferenceOutcome]) -> Vec<(NodeName, Option<Arc<ComparisonReport>>, u64)> {
        let peer: NodeName = "b".parse().expect("a name");
        let difference = |subject: Subject, outcome: DifferenceOutcome| Difference {
            subject,
            node: peer.clone(),
            fault: RowFault::Missing,
            lacked: Lack::default(),
            outcome,
        };
        let mut differences: Vec<_> =
            outcomes.iter().map(|outcome| difference(Subject::Row(Key::new(Table(2), "x")), *outcome)).collect();
        if outcomes.contains(&DifferenceOutcome::NotRepaired) {
            differences.push(difference(Subject::Audio(BlobHash([1; 32])), DifferenceOutcome::Repaired));
        }
        let report = ComparisonReport {
            peer: peer.clone(),
            began: Timestamp(began),
            took_ms: 1,
            rows: 9,
            differences,
            more: 0,
            problem: None,
        };
        vec![(peer, Some(Arc::new(report)), 0)]
    }

    #[test]
    fn each_comparison_with_damage_is_one_alarm() {
        let mut rule = ComparisonRule::default();
        assert_eq!(rule.look(vec![("b".parse().expect("a name"), None, 0)]), []);
        assert_eq!(rule.look(report(1, &[])), []);
        let raised = |detail: &str| [Report::Raise(Code::ReplicationRepaired, "b".to_owned(), detail.to_owned())];
        assert_eq!(
            rule.look(report(2, &[DifferenceOutcome::Repaired; 2])),
            raised("b lacked 2 records and 0 recordings")
        );
        assert_eq!(rule.look(report(2, &[DifferenceOutcome::Repaired; 2])), [], "the same one");
        assert_eq!(rule.look(report(3, &[DifferenceOutcome::Undecided])), [], "changes on their way");
        assert_eq!(
            rule.look(report(4, &[DifferenceOutcome::Repaired, DifferenceOutcome::NotRepaired])),
            raised("b lacked 2 records and 1 recordings; 1 of them could not be repaired")
        );
    }
}
