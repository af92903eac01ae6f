//! `twinbox user import`, `user export` and `user set`.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write},
    path::Path,
};

use bytes::Bytes;
use serde::Serialize;
use twinbox_wire::admin::{
    UserExportRequest, UserImportOptions, UserImportPart, UserImportProblem, UserImportRow, UserImportSummary,
    UserRequest,
};

use crate::output::{self, counted};
use twinbox_admin_client::{
    CliError,
    client::{self, Provisioning},
    upload,
};
use twinbox_cli_args::{UserImportArgs, UserSetArgs};

/// Maximum number of printed problems.
const SHOWN: usize = 100;

/// Result of an import.
#[derive(Debug, Default, Serialize)]
pub struct ImportResult {
    /// New and changed users, in their new state.
    pub rows: Vec<UserImportRow>,
    /// Counts of users.
    pub summary: UserImportSummary,
}

/// Sends a table. The inner error contains the problems of the table, if any.
pub async fn send(
    node: &mut Provisioning,
    options: UserImportOptions,
    table: Bytes,
) -> Result<Result<ImportResult, Vec<UserImportProblem>>, CliError> {
    let first = UserImportPart { options: Some(options), ..Default::default() };
    let parts = upload::parts(first, table, |csv| UserImportPart { csv, ..Default::default() });
    let mut events = node.user_import(parts).await?.into_inner();
    let (mut taken, mut problems, mut ended) = (ImportResult::default(), Vec::new(), false);
    let watched = std::io::stderr().is_terminal();
    while let Some(event) = events.message().await? {
        problems.extend(event.problems);
        taken.rows.extend(event.rows);
        if watched && event.done > 0 {
            eprint!("\r{} done ", counted(event.done, "user"));
        }
        if let Some(summary) = event.summary {
            (taken.summary, ended) = (summary, true);
        }
    }
    if watched {
        eprint!("\r\x1b[K");
    }
    if !problems.is_empty() {
        return Ok(Err(problems));
    }
    if !ended {
        return Err(CliError::Failed(
            "the node ended the import early: run it again, it continues where it stopped".into(),
        ));
    }
    Ok(Ok(taken))
}

/// `user import`
pub async fn import(socket: &Path, json: bool, args: UserImportArgs) -> Result<(), CliError> {
    let table = upload::read(&args.file)?;
    let mut node = client::provisioning(socket).await?;
    let options = UserImportOptions {
        dry_run: args.dry_run,
        keep_pins: args.keep_pins,
        weak_pins: args.weak_pins.word().to_owned(),
    };
    let sent = send(&mut node, options, table).await.map_err(|error| match error {
        CliError::Usage(text) => CliError::Usage(format!("{}: {text}", args.file.display())),
        error => error,
    })?;
    if json && let Err(problems) = &sent {
        output::json(&serde_json::json!({ "problems": problems }))?;
    }
    let taken = sent.map_err(|problems| refused(&args.file, &problems, |line| line))?;
    if json {
        output::json(&taken)?;
        return missed(&taken.summary, |line| line);
    }
    if args.dry_run {
        println!("{}", rows(&taken.rows));
    } else {
        without_pins(&taken.rows);
    }
    println!("{}", summary(&taken.summary));
    missed(&taken.summary, |line| line)
}

/// Error with all problems of a table, by line of the source file.
pub fn refused(file: &Path, problems: &[UserImportProblem], line: impl Fn(u64) -> u64) -> CliError {
    let mut text = String::new();
    for problem in problems.iter().take(SHOWN) {
        let _ = writeln!(text, "{}:{}: {}", file.display(), line(problem.line), problem.what);
    }
    if problems.len() > SHOWN {
        let _ = writeln!(text, "… and {} more", problems.len() - SHOWN);
    }
    CliError::Usage(format!("{text}nothing was changed"))
}

/// Table of the changes.
pub fn rows(rows: &[UserImportRow]) -> String {
    let cells = rows.iter().map(|row| {
        let mut changes = row.changes.clone();
        changes.extend(row.without_pin.then(|| "its PIN is too easy and was left out".to_owned()));
        vec![row.number.clone(), row.state.clone(), changes.join(", ")]
    });
    output::table(&["NUMBER", "STATE", "CHANGES"], cells)
}

/// Lists users whose PIN was left out.
pub fn without_pins(rows: &[UserImportRow]) {
    let numbers: Vec<_> = rows.iter().filter(|row| row.without_pin).map(|row| row.number.as_str()).collect();
    if !numbers.is_empty() {
        println!(
            "{} without a PIN, because their PIN is too easy to guess (set one with twinbox user set-pin): {}",
            numbers.len(),
            numbers.join(", ")
        );
    }
}

/// Number of new, changed and unchanged users.
pub fn summary(summary: &UserImportSummary) -> String {
    let UserImportSummary { created, changed, unchanged, .. } = summary;
    if summary.dry_run {
        return format!("{} would be new, {changed} changed, {unchanged} unchanged", counted(*created, "user"));
    }
    let how = match summary.acknowledged.as_str() {
        "" => String::new(),
        how => format!(" ({})", output::acknowledged(how)),
    };
    format!("{} new, {changed} changed, {unchanged} unchanged{how}", counted(*created, "user"))
}

/// Error with the users that were changed concurrently, by line of the source file.
pub fn missed(summary: &UserImportSummary, line: impl Fn(u64) -> u64) -> Result<(), CliError> {
    if summary.missed.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = summary.missed.iter().map(|missed| line(*missed).to_string()).collect();
    Err(CliError::Failed(format!(
        "the users of these lines were changed concurrently; run the import again: {}",
        lines.join(", ")
    )))
}

/// `user export`
pub async fn export(socket: &Path, json: bool, path: &Path) -> Result<(), CliError> {
    let printed = path == Path::new("-");
    if json && printed {
        let what =
            "with --json the table must go into a file: use --output FILE ('user list' prints users as JSON)";
        return Err(CliError::Usage(what.to_owned()));
    }
    let mut parts = client::provisioning(socket).await?.user_export(UserExportRequest {}).await?.into_inner();
    let mut table = Vec::new();
    while let Some(part) = parts.message().await? {
        table.extend_from_slice(&part.data);
    }
    let failed = |e| CliError::Failed(format!("cannot write {}: {e}", path.display()));
    if printed {
        return std::io::stdout().write_all(&table).map_err(failed);
    }
    std::fs::write(path, &table).map_err(failed)?;
    match json {
        true => output::json(&serde_json::json!({ "file": path.display().to_string(), "bytes": table.len() })),
        false => Ok(()),
    }
}

/// `user set`: a table of one line, for an existing user.
pub async fn set(socket: &Path, json: bool, args: UserSetArgs) -> Result<(), CliError> {
    let number = args.number.clone();
    let (columns, values) = columns_of(args)?;
    let user = client::connect(socket).await?.user_show(UserRequest { number }).await?.into_inner();
    let table = format!("number{columns}\n{}{values}\n", user.number);
    let options = UserImportOptions::default();
    let mut node = client::provisioning(socket).await?;
    let taken = send(&mut node, options, table.into()).await?.map_err(|problems| {
        CliError::Usage(problems.into_iter().map(|problem| problem.what).collect::<Vec<_>>().join("\n"))
    })?;
    if json {
        output::json(&taken)?;
        return missed(&taken.summary, |line| line);
    }
    match taken.rows.first() {
        None => println!("mailbox {} unchanged: it has these values already", user.number),
        Some(row) => println!(
            "mailbox {}: {} ({})",
            user.number,
            row.changes.join(", "),
            output::acknowledged(&taken.summary.acknowledged)
        ),
    }
    missed(&taken.summary, |line| line)
}

/// The columns of a table and their values, each after a comma. The table leaves a value as it is where a field is empty, so
/// that an empty one is refused.
fn columns_of(args: UserSetArgs) -> Result<(String, String), CliError> {
    let UserSetArgs { number: _, name, timezone, operator, cos, mail, aliases } = args;
    let aliases: Vec<_> = aliases.into_iter().map(Some).collect();
    let given = [
        ("name", "name", "", vec![name]),
        ("timezone", "timezone", "", vec![timezone]),
        ("operator", "operator", " or '-' for none", vec![operator]),
        ("cos", "cos", " or '-' for the default class", vec![cos]),
        ("mail", "mail", " or '-' for none", vec![mail]),
        ("alias", "aliases", " or '-' for none", aliases),
    ];
    let (mut columns, mut line) = (String::new(), String::new());
    for (option, column, none, values) in given {
        let values: Vec<String> = values.into_iter().flatten().collect();
        if values.iter().any(|value| value.trim().is_empty()) {
            return Err(CliError::Usage(format!("--{option} is empty: write a value{none}")));
        }
        if !values.is_empty() {
            let _ = write!(columns, ",{column}");
            let _ = write!(line, ",\"{}\"", values.join(" ").replace('"', "\"\""));
        }
    }
    if columns.is_empty() {
        let what = "nothing to set: use --name, --timezone, --operator, --cos, --mail or --alias";
        return Err(CliError::Usage(what.to_owned()));
    }
    Ok((columns, line))
}

#[cfg(test)]
#[path = "../../tests/unit/users.rs"]
mod tests;
