//! Makes reports of the records in the store and of the events.

use twinbox_alarms::{Alarms, FollowError, Item, Kind, Since};
use twinbox_call_records::{FailOver, Query, Report, ReportKind, ReportRange, fail_overs, report};
use twinbox_ids::{CallId, Timestamp};
use twinbox_mailstore::{MailError, Mailstore};

/// Events in the report of fail-overs.
const MOVES: [Kind; 6] = [
    Kind::RoleMoved,
    Kind::DutyMoved,
    Kind::CallsInherited,
    Kind::MajorityLost,
    Kind::MajorityBack,
    Kind::WentAlone,
];

/// Reason why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The records cannot be read.
    #[error("the call records cannot be read: {0}")]
    Records(#[from] MailError),
    /// The events cannot be read.
    #[error(transparent)]
    Events(#[from] FollowError),
    /// The process ends.
    #[error("the node is stopping: use another node")]
    Stopping,
}

/// Sources of reports.
#[derive(Clone)]
pub struct ReportSource {
    /// Source of the call records.
    pub mailstore: Mailstore,
    /// Source of the events.
    pub alarms: Alarms,
}

impl ReportSource {
    /// Makes a report of a range; `after`: of a list only the calls behind this one. Reads on a thread of its own.
    pub async fn make(
        &self,
        query: Query,
        range: ReportRange,
        after: Option<(Timestamp, CallId)>,
    ) -> Result<Report, ReportError> {
        let source = self.clone();
        let made = tokio::task::spawn_blocking(move || match query.kind {
            ReportKind::FailOvers => Ok(fail_overs(source.moves(range)?, &query.zone)),
            _ => source.of_calls(&query, range, after),
        });
        made.await.map_err(|_| ReportError::Stopping)?
    }

    fn of_calls(
        &self,
        query: &Query,
        range: ReportRange,
        after: Option<(Timestamp, CallId)>,
    ) -> Result<Report, ReportError> {
        let (mut skipped, mut failed) = (0_u64, None);
        let records = self.mailstore.call_records(range, after).map_while(|row| match row {
            Ok(record) => Some(Some(record)),
            Err(MailError::View(_)) => {
                skipped += 1;
                Some(None)
            }
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        let made = report(query, records.flatten());
        if skipped > 0 {
            tracing::warn!(count = skipped, "report lacks call records of a later release: upgrade this node");
        }
        failed.map_or(Ok(made), |error| Err(error.into()))
    }

    /// Moves in a range, in order of time.
    fn moves(&self, range: ReportRange) -> Result<Vec<FailOver>, FollowError> {
        let mut follower = self.alarms.follow(&Since::Start)?;
        let mut moves = Vec::new();
        while let Some(item) = follower.try_next() {
            let Item::Event(event) = item else { continue };
            let wanted = MOVES.iter().any(|kind| kind.word() == event.kind);
            if wanted && (range.from..range.to).contains(&event.at) {
                moves.push(FailOver {
                    at: event.at,
                    node: event.node,
                    event: event.kind,
                    subject: event.subject,
                    detail: event.detail,
                });
            }
        }
        moves.sort_by_key(|event| event.at);
        Ok(moves)
    }
}
