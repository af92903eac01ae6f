//! Reports made of call records and events.

use tonic::{Request, Response, Status};
use twinbox_admin_kit::{Part, part};
use twinbox_call_records::{Period, Query, RangeError, Report, ReportKind, ReportRange, UnknownKind, range_start};
use twinbox_clock::wall;
use twinbox_ids::{CallId, Timestamp};
use twinbox_reports::ReportSource;
use twinbox_wire::reports::{
    ReportColumn, ReportReply, ReportRequest, ReportRow,
    reports_server::{Reports, ReportsServer},
};

use crate::{AdminHandles, admin::all_records};

/// Maximum number of calls in a page of a list.
const PAGE: usize = 4_000;
/// Range of a report that names none.
const USUAL_LAST: &str = "7d";

/// Serves administrators' requests for reports.
pub(crate) struct ReportsService(AdminHandles);

impl ReportsService {
    /// Creates the service for this node.
    pub(crate) fn new(node: AdminHandles) -> Self {
        Self(node)
    }

    /// Converts it into a service of the administrators' socket.
    pub(crate) fn server(self) -> ReportsServer<Self> {
        ReportsServer::new(self)
    }
}

#[tonic::async_trait]
impl Reports for ReportsService {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportReply>, Status> {
        let node = &self.0;
        all_records(node)?;
        let request = request.into_inner();
        let (query, range) = read(&request, &node.mailstore.live().usual.timezone, wall())?;
        let listed = matches!(query.kind, ReportKind::Unanswered | ReportKind::SignIns);
        let after = if listed { call_of(&request.after)? } else { None };
        let source = ReportSource { mailstore: node.mailstore.clone(), alarms: node.alarms.clone() };
        let report = source.make(query, range, after).await.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(page(report, range, if listed { "" } else { &request.after })?))
    }
}

/// Query and range of a request.
fn read(request: &ReportRequest, usual_zone: &str, now: Timestamp) -> Result<(Query, ReportRange), Status> {
    let kind = request.kind.parse::<ReportKind>().map_err(unknown)?;
    let zone = if request.zone.is_empty() { usual_zone } else { &request.zone };
    let zone = twinbox_call_records::zone(zone).map_err(wrong)?;
    let time = |text: &str| twinbox_call_records::time(text, &zone).map_err(wrong);
    let range = if request.to_ms > 0 {
        (Timestamp(request.from_ms), Timestamp(request.to_ms))
    } else {
        let to = if request.to.is_empty() { now } else { time(&request.to)? };
        let last = match (request.from.as_str(), request.last.as_str()) {
            ("", "") => USUAL_LAST,
            ("", last) => last,
            (_, "") => "",
            _ => return Err(Status::invalid_argument("give --from or --last, not both")),
        };
        let from = match last {
            "" => time(&request.from)?,
            last => range_start(to, last, &zone).map_err(wrong)?,
        };
        (from, to)
    };
    let range = ReportRange::new(range.0, range.1).map_err(wrong)?;
    let period = match request.by.as_str() {
        "" => range.period(),
        by => by.parse::<Period>().map_err(unknown)?,
    };
    Ok((Query { kind, period, zone, most: PAGE }, range))
}

/// A page of a report: a list is one page already; of another report, the rows behind the cursor.
fn page(report: Report, range: ReportRange, after: &str) -> Result<ReportReply, Status> {
    let Report { columns, rows, next, truncated } = report;
    let rows = rows.into_iter().enumerate().map(|(number, cells)| (format!("{number:08}"), cells));
    let show = |cells| Ok::<_, Status>(ReportRow { cells });
    let Part { items, next: behind } = part(Some(0), after, rows, show)?;
    let columns = columns.into_iter().map(|column| ReportColumn { name: column.name, number: column.number });
    Ok(ReportReply {
        columns: columns.collect(),
        rows: items,
        next: next.map_or(behind, |(began, call)| format!("{:016x}{call}", began.0)),
        truncated,
        from_ms: range.from.0,
        to_ms: range.to.0,
    })
}

/// The call of a list's cursor.
fn call_of(cursor: &str) -> Result<Option<(Timestamp, CallId)>, Status> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let parts = cursor.split_at_checked(16);
    let call = parts.and_then(|(began, call)| {
        Some((Timestamp(u64::from_str_radix(began, 16).ok()?), call.parse::<CallId>().ok()?))
    });
    call.map(Some).ok_or_else(|| Status::invalid_argument("the cursor is of no list: ask for the report again"))
}

fn unknown(error: UnknownKind) -> Status {
    Status::invalid_argument(error.to_string())
}

fn wrong(error: RangeError) -> Status {
    Status::invalid_argument(error.to_string())
}

#[cfg(test)]
mod tests {
    use twinbox_call_records::Column;

    use super::*;

    /// 2026-11-02 12:00 UTC.
    const NOW: Timestamp = Timestamp(1_793_620_800_000);
    const HOUR: u64 = 3_600_000;

    fn request(change: impl FnOnce(&mut ReportRequest)) -> ReportRequest {
        let mut request = ReportRequest { kind: "traffic".to_owned(), ..ReportRequest::default() };
        change(&mut request);
        request
    }

    #[test]
    fn range_is_read_in_the_zone_and_is_the_last_seven_days_by_default() {
        let (query, range) = read(&request(|_| {}), "UTC", NOW).expect("a report");
        assert_eq!((range.from.0, range.to, query.period), (NOW.0 - 7 * 24 * HOUR, NOW, Period::Day));
        let berlin = request(|request| {
            request.zone = "Europe/Berlin".to_owned();
            request.from = "2026-11-02".to_owned();
            request.by = "hour".to_owned();
        });
        let (query, range) = read(&berlin, "UTC", NOW).expect("a report");
        assert_eq!((range.from.0, query.period), (NOW.0 - 13 * HOUR, Period::Hour));
        // The clock of Berlin goes back on 25 October 2026: the same time of day, 14 days before.
        for (last, hours) in [("14d", 14 * 24 + 1), ("2w", 14 * 24 + 1), ("336h", 336)] {
            let long =
                request(|request| (request.zone, request.last) = ("Europe/Berlin".to_owned(), last.to_owned()));
            let (_, range) = read(&long, "UTC", NOW).expect("a report");
            assert_eq!((NOW.0 - range.from.0) / HOUR, hours, "{last}");
        }
        let later = request(|request| (request.from_ms, request.to_ms) = (5, 9));
        let (_, range) = read(&later, "UTC", NOW).expect("a page");
        assert_eq!((range.from, range.to), (Timestamp(5), Timestamp(9)));
    }

    #[test]
    fn wrong_request_is_refused_with_its_input() {
        type Change = fn(&mut ReportRequest);
        let changes: [(Change, &str); 7] = [
            (|request| request.kind = "trafic".to_owned(), "'trafic'"),
            (|request| request.zone = "Nowhere/Atall".to_owned(), "'Nowhere/Atall'"),
            (|request| request.from = "yesterday".to_owned(), "'yesterday'"),
            (|request| request.last = "7".to_owned(), "'7'"),
            (|request| request.by = "week".to_owned(), "'week'"),
            (|request| request.from = "2027-01-01".to_owned(), "ends before it begins"),
            (|request| (request.from, request.last) = ("2026-11-01".to_owned(), "1d".to_owned()), "not both"),
        ];
        for (change, part) in changes {
            let refused = read(&request(change), "UTC", NOW).expect_err(part);
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(part), "{}", refused.message());
        }
    }

    #[test]
    fn cursor_of_a_list_leads_behind_its_last_call_and_a_damaged_one_is_refused() {
        let range = ReportRange { from: Timestamp(1), to: Timestamp(9) };
        let columns = vec![Column { name: "time".to_owned(), number: false }];
        let next = Some((Timestamp(7), CallId(8)));
        let report = Report { columns, rows: vec![vec!["x".to_owned()]], next, truncated: false };
        let reply = page(report, range, "").expect("a page");
        assert_eq!((reply.rows.len(), reply.to_ms), (1, 9));
        assert_eq!(call_of(&reply.next).expect("a cursor"), next);
        assert_eq!(call_of("").expect("the first page"), None);
        for damaged in ["7", "zz", "000000000000000é", &"x".repeat(48)] {
            assert!(call_of(damaged).is_err(), "{damaged}");
        }
    }
}
