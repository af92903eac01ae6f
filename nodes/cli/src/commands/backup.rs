//! `twinbox backup …`.

use std::{
    io::{IsTerminal, Write, stderr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::json;
use tonic::Streaming;
use twinbox_admin_client::{CliError, client};
use twinbox_backup::{
    Backup, BackupFolder, EntryState, Manifest, MissingAudio, Observer, Progress, Pruned, RestoreTarget, Restored,
    Verified, is_s3, prune, restore, verify,
};
use twinbox_cli_args::{BackupCommand, RestoreArgs};
use twinbox_clock::BootInstant;
use twinbox_config::NodeConfig;
use twinbox_enrollment::init::FOUNDER_MARK;
use twinbox_stopped_node::StoppedBackup;
use twinbox_wire::backup::{
    self as wire, BackupEvent, CreateRequest, ListReply, ListRequest, RestoreMailboxRequest, backup_event::Event,
};

use crate::output::{self, counted};

/// Interval of the lines of progress.
const SHOWN_EVERY: Duration = Duration::from_millis(200);

/// Executes the command: with the node, or on the folder alone.
pub async fn run(socket: &Path, json: bool, command: BackupCommand) -> Result<(), CliError> {
    match command {
        BackupCommand::Create { dir, config: Some(config) } => create_stopped(json, &dir, &config).await,
        BackupCommand::Create { dir, config: None } => create(socket, json, &dir).await,
        BackupCommand::List { dir, config } => {
            let reply = match dir {
                // Without a configuration, only the node has the keys.
                Some(dir) if is_bucket(&dir) && config.is_none() => {
                    let request = ListRequest { dir: text(&dir)?.to_owned() };
                    client::backups(socket).await?.list(request).await?.into_inner()
                }
                Some(dir) => {
                    let folder = open(&dir, config.as_deref())?;
                    aside(move || here(&folder)).await?
                }
                None => client::backups(socket).await?.list(ListRequest::default()).await?.into_inner(),
            };
            if json {
                return output::json(&reply);
            }
            println!("{}", table(reply.backups));
            Ok(())
        }
        BackupCommand::Verify { dir, config, backup } => {
            let folder = open(&dir, config.as_deref())?;
            aside(move || check(json, &folder, backup.as_deref())).await
        }
        BackupCommand::Prune { dir, config, keep } => {
            let folder = open(&dir, config.as_deref())?;
            aside(move || show_pruned(json, &prune(&folder, keep, None).map_err(CliError::failed)?)).await
        }
        BackupCommand::Restore(RestoreArgs { dir, backup, config, mailbox, to }) => match (config, mailbox) {
            (Some(config), _) => whole(json, &dir, backup, &config).await,
            (None, Some(number)) => {
                let (backup, to) = (backup.unwrap_or_default(), to.unwrap_or_default());
                one_mailbox(socket, json, RestoreMailboxRequest { dir: text(&dir)?.to_owned(), backup, number, to })
                    .await
            }
            (None, None) => Err(CliError::Usage("give --config FILE, or --mailbox NUMBER".to_owned())),
        },
    }
}

/// True if the node lists the backups: it alone has the keys of a bucket, if no configuration is given.
pub(crate) fn asks_node(dir: &Option<PathBuf>, config: &Option<PathBuf>) -> bool {
    dir.as_ref().is_none_or(|dir| is_bucket(dir) && config.is_none())
}

fn is_bucket(dir: &Path) -> bool {
    dir.to_str().is_some_and(is_s3)
}

fn text(dir: &Path) -> Result<&str, CliError> {
    dir.to_str().ok_or_else(|| CliError::Usage("the folder's path is not UTF-8".to_owned()))
}

/// The folder, or the bucket, for which the configuration has the keys.
fn open(dir: &Path, config: Option<&Path>) -> Result<BackupFolder, CliError> {
    let Some(destination) = dir.to_str().filter(|dir| is_s3(dir)) else { return Ok(BackupFolder::at(dir)) };
    let file = config.ok_or_else(|| {
        CliError::Usage(format!(
            "{destination} needs --config FILE, the configuration of a node, or a file with a section [backup.s3]"
        ))
    })?;
    let opened = twinbox_stopped_node::open_bucket(destination, file);
    let (folder, settings) = opened.map_err(|error| CliError::Usage(error.to_string()))?;
    eprintln!("settings of the bucket: {settings}");
    Ok(folder)
}

/// Runs work that waits for files or a network on a thread that may block.
async fn aside<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, CliError> + Send + 'static,
) -> Result<R, CliError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(CliError::Failed("the work ended before its time".to_owned())))
}

async fn create(socket: &Path, json: bool, dir: &Path) -> Result<(), CliError> {
    let events =
        client::backups(socket).await?.create(CreateRequest { dir: text(dir)?.to_owned() }).await?.into_inner();
    let Event::Created(backup) = follow(events).await? else { return Err(lost()) };
    show_created(json, &backup)?;
    incomplete(backup.missing.len(), "recordings are on no node that answers, and not in the backup; see --json")
}

/// Backs up the data of a node that does not run.
async fn create_stopped(json: bool, dir: &Path, file: &Path) -> Result<(), CliError> {
    let config = NodeConfig::load(file).map_err(|error| CliError::Usage(error.to_string()))?;
    let line = Arc::new(ProgressLine::new());
    let made =
        twinbox_stopped_node::back_up_stopped(&config, dir, env!("CARGO_PKG_VERSION"), &observer(&line)).await;
    let StoppedBackup { created, location, salvaged } = made.map_err(super::run::report)?;
    line.clear();
    salvaged.iter().for_each(|text| eprintln!("the index was damaged, and set aside: {text}"));
    let named = wire::Backup { dir: location, name: created.name, ..wire::Backup::default() };
    let had_all = created.manifest.has_all_records;
    let backup = complete(named, created.manifest);
    show_created(json, &backup)?;
    if !had_all {
        return Err(CliError::Incomplete(format!(
            "warning: {} had not received all records of the other nodes: never restore this backup as a whole, only mailboxes, \
             with --backup {}",
            config.name, backup.name
        )));
    }
    incomplete(
        backup.missing.len(),
        "recordings are not on the disk of this node, and not in the backup; see --json",
    )
}

fn show_created(json: bool, backup: &wire::Backup) -> Result<(), CliError> {
    let seconds = backup.ended_ms.saturating_sub(backup.began_ms) / 1_000;
    if json {
        output::json(backup)?;
    } else {
        println!(
            "backup {} made in {seconds} s: {}, {}, {} ({}), of which new here: {} ({})",
            backup.name,
            counted(backup.mailboxes, "mailbox"),
            counted(backup.messages, "message"),
            counted(backup.audio, "recording"),
            size(backup.audio_bytes),
            backup.copied,
            size(backup.copied_bytes)
        );
    }
    Ok(())
}

async fn one_mailbox(socket: &Path, json: bool, request: RestoreMailboxRequest) -> Result<(), CliError> {
    let number = request.number.clone();
    let events = client::backups(socket).await?.restore_mailbox(request).await?.into_inner();
    let Event::Restored(restored) = follow(events).await? else { return Err(lost()) };
    if json {
        output::json(&restored)?;
    } else {
        let acknowledged = match restored.messages.is_empty() {
            true => String::new(),
            false => format!(" ({})", output::acknowledged(&restored.acknowledged)),
        };
        println!(
            "mailbox {number}: {} restored from {}{acknowledged}; there already: {}",
            counted(restored.messages.len(), "message"),
            restored.backup,
            restored.present
        );
        for lost in &restored.lost {
            eprintln!("message {}: {}", lost.id, lost.reason);
        }
    }
    incomplete(restored.lost.len(), "messages could not be restored")
}

/// Shows progress until the outcome comes.
async fn follow(mut events: Streaming<BackupEvent>) -> Result<Event, CliError> {
    let line = ProgressLine::new();
    while let Some(event) = events.message().await? {
        match event.event {
            Some(Event::Progress(progress)) => {
                line.show(&progress.phase, progress.done, progress.total, progress.bytes);
            }
            Some(event) => {
                line.clear();
                return Ok(event);
            }
            None => {}
        }
    }
    Err(lost())
}

fn lost() -> CliError {
    CliError::Unreachable("the connection to the node was lost before the end".to_owned())
}

fn incomplete(count: usize, what: &str) -> Result<(), CliError> {
    if count == 0 { Ok(()) } else { Err(CliError::Incomplete(format!("warning: {count} {what}"))) }
}

/// The backups of a destination that this machine reaches.
fn here(folder: &BackupFolder) -> Result<ListReply, CliError> {
    let backups = folder.entries().map_err(CliError::failed)?.into_iter().map(|entry| {
        let dir = folder.location();
        let named = wire::Backup { dir, name: entry.name, ..wire::Backup::default() };
        match entry.state {
            EntryState::Unfinished => wire::Backup { state: "unfinished".to_owned(), ..named },
            EntryState::Unreadable(error) => {
                wire::Backup { state: "unreadable".to_owned(), reason: error.to_string(), ..named }
            }
            EntryState::Complete(manifest) => complete(named, *manifest),
        }
    });
    Ok(ListReply { backups: backups.collect() })
}

/// A backup as the node would describe it.
fn complete(named: wire::Backup, manifest: Manifest) -> wire::Backup {
    let missing =
        |lost: MissingAudio| wire::MissingAudio { hash: lost.hash, bytes: lost.bytes, reason: lost.reason };
    wire::Backup {
        state: "complete".to_owned(),
        reason: manifest.lack().to_owned(),
        mailboxes: manifest.mailboxes(),
        messages: manifest.messages(),
        records: manifest.records(),
        cluster: manifest.cluster,
        node: manifest.node.to_string(),
        release: manifest.release,
        began_ms: manifest.began_ms,
        ended_ms: manifest.ended_ms,
        audio: manifest.audio.count,
        audio_bytes: manifest.audio.bytes,
        copied: manifest.audio.copied,
        copied_bytes: manifest.audio.copied_bytes,
        missing: manifest.audio.missing.into_iter().map(missing).collect(),
        ..named
    }
}

fn table(backups: Vec<wire::Backup>) -> String {
    let rows = backups.into_iter().map(|backup| {
        let mut state = match backup.missing.len() {
            0 => backup.state,
            missing => format!("{}, {} missing", backup.state, counted(missing, "recording")),
        };
        if !backup.reason.is_empty() {
            state = format!("{state}: {}", backup.reason);
        }
        let began = output::local(backup.began_ms, "%Y-%m-%d %H:%M:%S").filter(|_| backup.began_ms > 0);
        vec![
            backup.name,
            began.unwrap_or_else(|| "-".to_owned()),
            backup.node,
            backup.mailboxes.to_string(),
            backup.messages.to_string(),
            size(backup.audio_bytes),
            size(backup.copied_bytes),
            state,
            backup.dir,
        ]
    });
    output::table(&["BACKUP", "BEGAN", "NODE", "MAILBOXES", "MESSAGES", "AUDIO", "NEW", "STATE", "FOLDER"], rows)
}

fn check(json: bool, folder: &BackupFolder, name: Option<&str>) -> Result<(), CliError> {
    let entries = folder.entries().map_err(CliError::failed)?;
    let unreadable: Vec<String> = entries
        .into_iter()
        .filter(|entry| name.is_none_or(|name| name == entry.name))
        .filter_map(|entry| match entry.state {
            EntryState::Unreadable(error) => Some(format!("{}: {error}", entry.name)),
            EntryState::Complete(_) | EntryState::Unfinished => None,
        })
        .collect();
    let backups: Vec<Backup> = match name {
        _ if !unreadable.is_empty() && name.is_some() => Vec::new(),
        Some(name) => vec![folder.find(Some(name), None).map_err(CliError::failed)?],
        None => folder.backups_by_age().map_err(CliError::failed)?,
    };
    let line = Arc::new(ProgressLine::new());
    let verified = verify(folder, &backups, &observer(&line)).map_err(CliError::failed)?;
    line.clear();
    let faults = |verified: &Verified| verified.faults.len() as u64 + verified.more_faults;
    if json {
        let shown = verified.iter().map(|verified| {
            json!({
                "name": verified.name,
                "records": verified.records,
                "audio": verified.audio,
                "audio_bytes": verified.bytes,
                "missing": verified.missing,
                "faults": verified.faults,
                "more_faults": verified.more_faults,
            })
        });
        output::json(&json!({ "backups": shown.collect::<Vec<_>>(), "unreadable": unreadable }))?;
    } else {
        for verified in &verified {
            let Verified { name, records, audio, bytes, missing, more_faults, .. } = verified;
            let state = match faults(verified) {
                0 if *missing == 0 => "whole".to_owned(),
                0 => format!("as it was made: {} missing then", counted(*missing, "recording")),
                faults => format!("DAMAGED, {}", counted(faults, "fault")),
            };
            let (records, audio) = (counted(*records, "record"), counted(*audio, "recording"));
            println!("{name}: {records}, {audio} ({}): {state}", size(*bytes));
            verified.faults.iter().for_each(|fault| println!("  {fault}"));
            if *more_faults > 0 {
                println!("  and {more_faults} more");
            }
        }
        unreadable.iter().for_each(|reason| println!("{reason}"));
    }
    let all = verified.iter().map(faults).sum::<u64>() + unreadable.len() as u64;
    match all {
        0 if verified.is_empty() => Err(CliError::Failed("there is no complete backup to verify".to_owned())),
        0 => incomplete(
            verified.iter().filter(|verified| !verified.is_whole()).count(),
            "backups lack recordings that no node had when they were made",
        ),
        all => Err(CliError::Failed(format!("{all} faults: make a new backup"))),
    }
}

fn show_pruned(json: bool, pruned: &Pruned) -> Result<(), CliError> {
    if json {
        output::json(&json!({
            "kept": pruned.kept,
            "removed": pruned.removed,
            "unfinished": pruned.unfinished,
            "audio": pruned.audio,
            "audio_bytes": pruned.bytes,
            "audio_stays": pruned.audio_stays,
        }))?;
    } else {
        println!(
            "{} removed, {} kept; also removed: {} interrupted, {} ({})",
            counted(pruned.removed.len(), "backup"),
            pruned.kept.len(),
            pruned.unfinished.len(),
            counted(pruned.audio, "recording"),
            size(pruned.bytes)
        );
    }
    match &pruned.audio_stays {
        None => Ok(()),
        Some(reason) => Err(CliError::Failed(format!(
            "no recordings were removed: {reason}; prune again when that backup can be read, or without its folder if it is \
             lost"
        ))),
    }
}

/// Restores all data into the store of a node that does not run.
async fn whole(json: bool, dir: &Path, name: Option<String>, file: &Path) -> Result<(), CliError> {
    let config = NodeConfig::load(file).map_err(|error| CliError::Usage(error.to_string()))?;
    let folder = open(dir, Some(file))?;
    let from = folder.clone();
    let backup = aside(move || from.find(name.as_deref(), None).map_err(CliError::failed)).await?;
    let target = RestoreTarget {
        founds: config.data_dir.join(FOUNDER_MARK).exists(),
        data_dir: config.data_dir,
        node: config.name,
        cluster: config.cluster.id,
        reserve_bytes: config.reserve_bytes,
    };
    let line = Arc::new(ProgressLine::new());
    let restored = restore(&target, &folder, &backup, &observer(&line)).await.map_err(CliError::failed)?;
    line.clear();
    let Restored { name, records, left, unreadable, expired, audio, missing } = restored;
    let left: u64 = left.values().sum();
    if json {
        output::json(&json!({
            "backup": name,
            "cluster": target.cluster.to_string(),
            "records": records,
            "left_out": left,
            "unreadable": unreadable,
            "expired": expired,
            "audio": audio,
            "missing": missing,
        }))?;
    } else {
        println!(
            "backup {name} restored into cluster {}: {records} records, {audio} recordings; {expired} notifications and \
             jobs under way were ended, {left} records about nodes of the old cluster were left out",
            target.cluster
        );
        missing.iter().for_each(|lost| eprintln!("{lost}"));
        if unreadable > 0 {
            eprintln!(
                "{unreadable} records cannot be read or stored by this release, and were left out, as a whole or in part"
            );
        }
    }
    let lost = missing.len() + usize::try_from(unreadable).unwrap_or(usize::MAX - missing.len());
    incomplete(lost, "recordings or records could not be restored")
}

/// One line on the terminal that shows how far the work is.
pub(super) struct ProgressLine {
    began: BootInstant,
    shown: AtomicU64,
    on_terminal: bool,
}

impl ProgressLine {
    pub(super) fn new() -> Self {
        Self { began: BootInstant::now(), shown: AtomicU64::new(0), on_terminal: stderr().is_terminal() }
    }

    pub(super) fn show(&self, phase: &str, done: u64, total: u64, bytes: u64) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let every = u64::try_from(SHOWN_EVERY.as_millis()).unwrap_or(u64::MAX);
        if !self.on_terminal || now < self.shown.load(Relaxed).saturating_add(every) {
            return;
        }
        self.shown.store(now, Relaxed);
        let of = if total > 0 { format!(" of {total}") } else { String::new() };
        let bytes = if bytes > 0 { format!(", {}", size(bytes)) } else { String::new() };
        // Progress is a courtesy: a terminal that has gone ends no work.
        let _ = write!(stderr(), "\r\x1b[K{phase}: {done}{of}{bytes}");
    }

    pub(super) fn clear(&self) {
        if self.on_terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

fn observer(line: &Arc<ProgressLine>) -> Observer {
    let line = Arc::clone(line);
    Arc::new(move |progress: Progress| {
        line.show(progress.phase.word(), progress.done, progress.total, progress.bytes)
    })
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let (mut tenths, mut unit) = (bytes / 100, 0);
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1_000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
#[path = "../../tests/unit/backup.rs"]
mod tests;
