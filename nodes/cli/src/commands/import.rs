//! `twinbox import …`.

mod mail;

use std::{collections::HashMap, path::Path};

use bytes::Bytes;
use serde::Serialize;
use tokio::task::JoinSet;
use twinbox_asterisk::{
    conf::{self, Conf, Entry},
    spool::{self, SkippedFile},
};
use twinbox_mailbox::{Number, is_timezone};
use twinbox_rtp::Codec;
use twinbox_wire::admin::{GreetingHeader, GreetingPart, MessageHeader, MessagePart, UserImportOptions};

use self::mail::{MailColumns, Texts};
use super::users::{self, ImportResult};
use crate::output;
use twinbox_admin_client::{
    CliError,
    client::{self, Provisioning},
    upload,
};
use twinbox_cli_args::{AsteriskArgs, ImportCommand, Law};

/// Maximum number of mailboxes whose greetings and messages are sent concurrently.
const CONCURRENT: usize = 8;

/// Runs the subcommand.
pub async fn run(socket: &Path, json: bool, command: ImportCommand) -> Result<(), CliError> {
    match command {
        ImportCommand::Asterisk(args) => asterisk(socket, json, args).await,
    }
}

/// Counts of imported greetings and messages.
#[derive(Debug, Default, Serialize)]
struct Counts {
    greetings_taken: u64,
    greetings_known: u64,
    /// Greetings not imported, because the mailbox has another one.
    greetings_kept: u64,
    messages_taken: u64,
    messages_known: u64,
    /// Imported messages acknowledged alone.
    alone: u64,
    /// Files that are not imported, with the reason.
    not_taken: Vec<String>,
}

async fn asterisk(socket: &Path, json: bool, args: AsteriskArgs) -> Result<(), CliError> {
    let text = upload::read(&args.conf)?;
    let mut conf = conf::read(&String::from_utf8_lossy(&text), &args.context);
    let (texts, sender) = (std::mem::take(&mut conf.texts), conf.sender.take());
    let (entries, mut not_taken) = usable(&args, conf)?;
    not_taken.extend(sender.map(|(line, sender)| {
        let hint = "give 'twinbox setting set mail.from=ADDRESS' if mails are to come from there";
        format!("{}:{line}: serveremail={sender}: {hint}", args.conf.display())
    }));
    let table = table(&args, &entries, &mut not_taken);
    let mut node = client::provisioning(socket).await?;
    let options =
        UserImportOptions { dry_run: args.dry_run, keep_pins: true, weak_pins: args.weak_pins.word().to_owned() };
    // The first line of the table contains the column names.
    let line = |line: u64| {
        let at = usize::try_from(line).ok().and_then(|line| line.checked_sub(2));
        at.and_then(|at| entries.get(at)).map_or(0, |entry| entry.line)
    };
    let taken = users::send(&mut node, options, table.into()).await?;
    let taken = taken.map_err(|problems| users::refused(&args.conf, &problems, line))?;
    let mut counts = match &args.spool {
        Some(spool) => import_mailboxes(&node, &args, &spool.join(&args.context), &entries).await?,
        None => Counts::default(),
    };
    let mut texts = mail::write_texts(&args.conf, &texts, args.templates.as_deref(), args.dry_run)?;
    not_taken.append(&mut texts.not_taken);
    not_taken.append(&mut counts.not_taken);
    counts.not_taken = not_taken;
    report(json, &args, &taken, &counts, &texts)?;
    users::missed(&taken.summary, line)
}

/// Mailboxes that can be imported, and the reasons why others cannot.
fn usable(args: &AsteriskArgs, conf: Conf) -> Result<(Vec<Entry>, Vec<String>), CliError> {
    let at = |line: &u64| format!("{}:{line}", args.conf.display());
    if !conf.errors.is_empty() {
        let errors: Vec<_> = conf.errors.iter().map(|(line, what)| format!("{}: {what}", at(line))).collect();
        return Err(CliError::Usage(format!("{}\nnothing was changed", errors.join("\n"))));
    }
    if conf.entries.is_empty() {
        return Err(CliError::Usage(format!(
            "{} has no mailboxes in the context '{}': it has {}; choose one with --context",
            args.conf.display(),
            args.context,
            if conf.contexts.is_empty() { "none".to_owned() } else { conf.contexts.join(", ") }
        )));
    }
    let mut not_taken: Vec<_> = conf.notes.iter().map(|(line, what)| format!("{}: {what}", at(line))).collect();
    let mut seen = HashMap::<Number, u64>::new();
    let mut entries = Vec::new();
    for mut entry in conf.entries {
        let number = match Number::normalise(&entry.mailbox) {
            Ok(number) => number,
            Err(error) => {
                not_taken.push(format!("{}: mailbox '{}': {error}", at(&entry.line), entry.mailbox));
                continue;
            }
        };
        // As in Asterisk, the first entry counts.
        if let Some(first) = seen.insert(number, entry.line) {
            not_taken.push(format!("{}: mailbox {} is already on line {first}", at(&entry.line), entry.mailbox));
            continue;
        }
        if let Some(spool) = args.spool.as_ref().filter(|_| conf.pins_in_spool) {
            let dir = spool.join(&args.context).join(&entry.mailbox);
            entry.pin = spool::pin(&dir).unwrap_or(entry.pin);
        }
        entries.push(entry);
    }
    Ok((entries, not_taken))
}

/// Mailboxes as a table of users.
fn table(args: &AsteriskArgs, entries: &[Entry], not_taken: &mut Vec<String>) -> String {
    let quoted = |text: &str| {
        let text: String = text.chars().filter(|c| !c.is_control()).take(128).collect();
        format!("\"{}\"", text.replace('"', "\"\""))
    };
    let mut table = format!("number,name,pin,timezone,language,{}\n", mail::COLUMNS);
    let mut mail = MailColumns::default();
    for entry in entries {
        let digits = entry.pin.bytes().all(|b| b.is_ascii_digit()) && entry.pin.len() <= 32;
        if !digits {
            not_taken.push(format!(
                "{}:{}: the PIN of mailbox {}: a PIN has digits only, at most 32",
                args.conf.display(),
                entry.line,
                entry.mailbox
            ));
        }
        if let Some(zone) = entry.timezone.as_deref().filter(|zone| !is_timezone(zone)) {
            not_taken.push(format!(
                "{}:{}: '{zone}' is not a time zone: mailbox {} gets the default",
                args.conf.display(),
                entry.line,
                entry.mailbox
            ));
        }
        let zone = entry.timezone.as_deref().filter(|zone| is_timezone(zone)).unwrap_or_default();
        table += &format!(
            "{},{},{},{},{},{}\n",
            quoted(&entry.mailbox),
            quoted(&entry.name),
            quoted(if digits { &entry.pin } else { "" }),
            quoted(zone),
            quoted(entry.language.as_deref().unwrap_or_default()),
            mail.of(entry, |text| not_taken.push(format!("{}:{}: {text}", args.conf.display(), entry.line)))
        );
    }
    table
}

/// Imports greetings and messages of several mailboxes concurrently.
async fn import_mailboxes(
    node: &Provisioning,
    args: &AsteriskArgs,
    context: &Path,
    entries: &[Entry],
) -> Result<Counts, CliError> {
    if !context.is_dir() {
        return Err(CliError::Usage(format!(
            "{} is not a folder: --spool must be the folder of all contexts, such as /var/spool/asterisk/voicemail",
            context.display()
        )));
    }
    let law = match args.law {
        Law::Ulaw => Codec::Pcmu,
        Law::Alaw => Codec::Pcma,
    };
    let mut total = Counts::default();
    let mut running = JoinSet::new();
    let mut entries = entries.iter();
    loop {
        while running.len() < CONCURRENT {
            let Some(entry) = entries.next() else { break };
            let dir = context.join(&entry.mailbox);
            if dir.is_dir() {
                let node = if args.dry_run { None } else { Some(node.clone()) };
                let number = entry.mailbox.clone();
                running.spawn(async move { import_mailbox(node, number, &dir, law).await });
            }
        }
        let Some(done) = running.join_next().await else { return Ok(total) };
        total.add(done.map_err(CliError::failed)??);
    }
}

/// Imports the greetings and messages of a mailbox; without a node only counts them.
async fn import_mailbox(
    node: Option<Provisioning>,
    number: String,
    dir: &Path,
    law: Codec,
) -> Result<Counts, CliError> {
    let mut counts = Counts::default();
    let mailbox = spool::read(dir, law)
        .map_err(|error| CliError::Failed(format!("cannot read {}: {error}", dir.display())))?;
    counts.not_taken.extend(mailbox.not_taken.iter().map(describe));
    for greeting in mailbox.greetings {
        let header = GreetingHeader {
            number: number.clone(),
            kind: greeting.kind.to_owned(),
            codec: greeting.audio.codec.name().to_lowercase(),
        };
        let Some(mut node) = node.clone() else {
            counts.greetings_taken += 1;
            continue;
        };
        let first = GreetingPart { header: Some(header), ..Default::default() };
        let piece = |audio: Bytes| GreetingPart { audio, ..Default::default() };
        let reply = node.greeting_import(upload::parts(first, greeting.audio.bytes, piece)).await?.into_inner();
        match reply.outcome.as_str() {
            "taken" => counts.greetings_taken += 1,
            "kept" => counts.greetings_kept += 1,
            _ => counts.greetings_known += 1,
        }
        counts.alone += u64::from(reply.acknowledged == "alone");
    }
    for message in mailbox.messages {
        let why = match spool::audio(&message.base, law) {
            Ok(Some(audio)) => {
                counts.message(node.clone(), &number, &message, audio).await?;
                continue;
            }
            Ok(None) => "no audio file".to_owned(),
            Err(why) => why,
        };
        counts.not_taken.push(describe(&SkippedFile { path: message.base, why }));
    }
    Ok(counts)
}

fn describe(not_taken: &SkippedFile) -> String {
    format!("{}: {}", not_taken.path.display(), not_taken.why)
}

impl Counts {
    async fn message(
        &mut self,
        node: Option<Provisioning>,
        number: &str,
        message: &spool::Message,
        audio: spool::Audio,
    ) -> Result<(), CliError> {
        let Some(mut node) = node else {
            self.messages_taken += 1;
            return Ok(());
        };
        let header = MessageHeader {
            number: number.to_owned(),
            received_ms: message.received_ms,
            caller: message.caller.clone(),
            caller_name: message.caller_name.clone(),
            state: message.state.to_owned(),
            codec: audio.codec.name().to_lowercase(),
            cause: message.msg_id.clone(),
        };
        let first = MessagePart { header: Some(header), ..Default::default() };
        let piece = |audio: Bytes| MessagePart { audio, ..Default::default() };
        let reply = node.message_import(upload::parts(first, audio.bytes, piece)).await?.into_inner();
        if reply.outcome == "taken" {
            self.messages_taken += 1;
        } else {
            self.messages_known += 1;
        }
        self.alone += u64::from(reply.acknowledged == "alone");
        Ok(())
    }

    fn add(&mut self, other: Self) {
        self.greetings_taken += other.greetings_taken;
        self.greetings_known += other.greetings_known;
        self.greetings_kept += other.greetings_kept;
        self.messages_taken += other.messages_taken;
        self.messages_known += other.messages_known;
        self.alone += other.alone;
        self.not_taken.extend(other.not_taken);
    }
}

fn report(
    json: bool,
    args: &AsteriskArgs,
    taken: &ImportResult,
    counts: &Counts,
    texts: &Texts,
) -> Result<(), CliError> {
    if json {
        return output::json(&serde_json::json!({ "users": taken, "mail": counts, "templates": texts }));
    }
    if args.dry_run {
        println!("{}", users::rows(&taken.rows));
    } else {
        users::without_pins(&taken.rows);
    }
    println!("{}", users::summary(&taken.summary));
    let Counts { greetings_taken, greetings_known, greetings_kept, messages_taken, messages_known, alone, .. } =
        counts;
    if args.dry_run {
        println!(
            "to be imported, except those that exist already: greetings {greetings_taken}, messages {messages_taken}"
        );
    } else if args.spool.is_some() {
        println!(
            "greetings: {greetings_taken} imported, {greetings_known} existed already, {greetings_kept} skipped because the \
             mailbox has another\nmessages: {messages_taken} imported, {messages_known} existed already"
        );
    }
    if *alone > 0 {
        println!("{alone} of them {}", output::acknowledged("alone"));
    }
    for path in &texts.written {
        println!("template {}: {path}", if args.dry_run { "would be written" } else { "written" });
    }
    if !counts.not_taken.is_empty() {
        println!("not imported:\n  {}", counts.not_taken.join("\n  "));
    }
    Ok(())
}
