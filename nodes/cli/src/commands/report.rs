//! `twinbox report …`.

use std::path::Path;

use twinbox_call_records::{Column, Report, csv, headings, json as as_json};
use twinbox_wire::reports::{ReportReply, ReportRequest};

use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::ReportArgs;

/// Requests all pages of a report and prints it.
pub async fn run(socket: &Path, json: bool, args: ReportArgs) -> Result<(), CliError> {
    let ReportArgs { kind, from, to, last, zone, by, csv: as_csv } = args;
    let text = |given: Option<String>| given.unwrap_or_default();
    let mut request = ReportRequest {
        kind,
        from: text(from),
        to: text(to),
        last: text(last),
        zone: text(zone),
        by: text(by),
        ..ReportRequest::default()
    };
    let mut node = client::reports(socket).await?;
    let mut report = Report { columns: Vec::new(), rows: Vec::new(), next: None, truncated: false };
    loop {
        let reply = node.report(request.clone()).await?.into_inner();
        let (next, from_ms, to_ms) = (reply.next.clone(), reply.from_ms, reply.to_ms);
        add(&mut report, reply);
        if next.is_empty() {
            break;
        }
        request = ReportRequest { after: next, from_ms, to_ms, ..request };
    }
    if report.truncated {
        eprintln!("the report is too large, and some rows are left out: give a shorter range");
    }
    match (json, as_csv) {
        (true, _) => return output::json(&as_json(&report)),
        (false, true) => print!("{}", csv(&report)),
        (false, false) => {
            let header = headings(&report);
            let header: Vec<&str> = header.iter().map(String::as_str).collect();
            let rows = report.rows.into_iter().map(|row| row.into_iter().map(or_dash).collect());
            println!("{}", output::table(&header, rows));
        }
    }
    Ok(())
}

/// Adds a page.
fn add(report: &mut Report, reply: ReportReply) {
    report.columns =
        reply.columns.into_iter().map(|column| Column { name: column.name, number: column.number }).collect();
    report.rows.extend(reply.rows.into_iter().map(|row| row.cells));
    report.truncated |= reply.truncated;
}

fn or_dash(cell: String) -> String {
    if cell.is_empty() { "-".to_owned() } else { cell }
}
