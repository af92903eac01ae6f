//! Arguments of `report`.

use clap::Args;

/// Kinds of reports.
const KINDS: [&str; 5] = ["traffic", "users", "unanswered", "sign-ins", "fail-overs"];

/// `report`
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Calls by hour or day; by mailbox; without a message; with a wrong PIN; moves of duties and calls.
    #[arg(value_name = "REPORT", value_parser = KINDS)]
    pub kind: String,
    /// Begin: a date, or a date and a time, such as '2026-11-01 14:00'.
    #[arg(long, value_name = "TIME", conflicts_with = "last")]
    pub from: Option<String>,
    /// End, not included, as --from. Default: now.
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Length up to the end: a number and m, h, d or w. Default: 7d.
    #[arg(long, value_name = "DURATION")]
    pub last: Option<String>,
    /// Time zone of all times, such as Europe/Berlin. Default: voicemail.timezone of the contacted node.
    #[arg(long)]
    pub zone: Option<String>,
    /// Rows of traffic by hour or by day. Default: by hour up to two days.
    #[arg(long, value_name = "PERIOD", value_parser = ["hour", "day"])]
    pub by: Option<String>,
    /// Print comma-separated values for a spreadsheet.
    #[arg(long)]
    pub csv: bool,
}
