//! `twinbox directory …`, and `twinbox user check-password`.

use std::{
    fs,
    io::{BufRead, stdin},
    path::Path,
};

use twinbox_wire::directory::{
    Directory, DirectoryListRequest, DirectoryRequest, DirectoryRun, DirectoryRunsRequest, DirectorySyncReply,
    DirectorySyncRequest, DirectoryTestReply, MappedPerson, RunCounts, UserBindRequest, UserCheckPasswordRequest,
    UserMakeLocalRequest,
};

use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::{AdoptBy, CheckPasswordArgs, DirectoryCommand, DirectorySyncArgs};

/// Sends the request and prints the result.
pub async fn run(socket: &Path, json: bool, command: DirectoryCommand) -> Result<(), CliError> {
    let mut node = client::directories(socket).await?;
    let request = |name: &String, settings| DirectoryRequest { name: name.clone(), settings };
    let (reply, done) = match command {
        DirectoryCommand::List => {
            let reply = node.directory_list(DirectoryListRequest {}).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            println!("{}", table(reply.directories));
            return Ok(());
        }
        DirectoryCommand::Show { name } => {
            let directories = node.directory_list(DirectoryListRequest {}).await?.into_inner().directories;
            let is_it = |directory: &Directory| directory.name.eq_ignore_ascii_case(&name) || directory.id == name;
            let directory = directories.into_iter().find(is_it).ok_or_else(|| {
                CliError::Failed(format!("there is no directory '{name}': see 'twinbox directory list'"))
            })?;
            if json {
                return output::json(&directory);
            }
            let settings = directory.settings.iter().map(|s| vec![s.word.clone(), s.value.clone()]);
            let settings = output::table(&["SETTING", "VALUE"], settings);
            println!("{}\n\n{settings}", table(vec![directory]));
            return Ok(());
        }
        DirectoryCommand::Test { name } => {
            let reply = node.directory_test(request(&name, Vec::new())).await?.into_inner();
            return show_test(json, &name, reply);
        }
        DirectoryCommand::Sync(args) => return sync(&mut node, json, args).await,
        DirectoryCommand::Runs { name } => {
            let reply = node.directory_runs(DirectoryRunsRequest { name }).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            let header = ["RUN", "BEGAN", "KIND", "OUTCOME", "COUNTS"];
            println!("{}", output::table(&header, reply.runs.into_iter().map(run_row)));
            return Ok(());
        }
        DirectoryCommand::Add { name, settings } => {
            let reply = node.directory_add(request(&name, settings)).await?;
            (reply, format!("directory {name} added; next: 'twinbox directory test {name}'"))
        }
        DirectoryCommand::Set { name, settings } => {
            (node.directory_set(request(&name, settings)).await?, format!("directory {name} changed"))
        }
        DirectoryCommand::Remove { name } => {
            let reply = node.directory_remove(request(&name, Vec::new())).await?;
            (reply, format!("directory {name} removed; its users are local users now"))
        }
        DirectoryCommand::MakeLocal { number } => {
            let reply = node.user_make_local(UserMakeLocalRequest { number: number.clone() }).await?;
            (reply, format!("mailbox {number} is a local user now"))
        }
        DirectoryCommand::Bind { number, directory, entry } => {
            let done = format!("mailbox {number} is attached to {entry} of directory {directory}");
            (node.user_bind(UserBindRequest { number, directory, entry }).await?, done)
        }
    };
    let reply = reply.into_inner();
    if json {
        return output::json(&reply);
    }
    println!("{done} ({})", output::acknowledged(&reply.acknowledged));
    Ok(())
}

/// Starts a run on the holder of the duty, and waits for its end.
async fn sync(node: &mut client::Directories, json: bool, args: DirectorySyncArgs) -> Result<(), CliError> {
    let DirectorySyncArgs { name, dry_run, adopt_by, accept_deletions } = args;
    let adopt_by = match adopt_by {
        Some(AdoptBy::Number) => "number",
        Some(AdoptBy::Mail) => "mail",
        None => "",
    };
    let mut request = DirectorySyncRequest {
        name: name.clone(),
        dry_run,
        adopt_by: adopt_by.to_owned(),
        accept_deletions: accept_deletions.unwrap_or_default(),
        run: 0,
    };
    let mut reply = node.directory_sync(request.clone()).await?.into_inner();
    while !reply.ended {
        request.run = reply.run;
        reply = node.directory_sync(request.clone()).await?.into_inner();
    }
    if json {
        output::json(&reply)?;
    } else {
        let DirectorySyncReply { run, outcome, counts, lines, more_lines, .. } = &reply;
        lines.iter().for_each(|line| println!("{line}"));
        if *more_lines > 0 {
            println!("… and {more_lines} more");
        }
        let kind = if dry_run { "dry run" } else { "run" };
        println!("{kind} {run} on {}: {outcome}: {}", reply.node, counted(counts.as_ref()));
    }
    match reply.outcome.as_str() {
        "done" => Ok(()),
        "held-back" if dry_run => Ok(()),
        "held-back" => Err(CliError::Failed(format!(
            "nothing changed: more would be taken away than the settings allow (see the first line); if that is right, give \
             'twinbox directory sync {name} --accept-deletions {}'",
            reply.run
        ))),
        outcome => Err(CliError::Failed(format!("directory {name}: {outcome}"))),
    }
}

/// Checks a password as a sign-in does.
pub async fn check_password(socket: &Path, json: bool, args: CheckPasswordArgs) -> Result<(), CliError> {
    let CheckPasswordArgs { user, password_file } = args;
    let password = match password_file {
        Some(file) => {
            let text = fs::read_to_string(&file);
            let text = text.map_err(|error| CliError::Failed(format!("{}: {error}", file.display())))?;
            text.lines().next().unwrap_or_default().to_owned()
        }
        None => {
            let mut line = String::new();
            stdin().lock().read_line(&mut line).map_err(CliError::failed)?;
            line.trim_end_matches(['\r', '\n']).to_owned()
        }
    };
    let request = UserCheckPasswordRequest { user: user.clone(), password };
    let reply = client::directories(socket).await?.user_check_password(request).await?.into_inner();
    let right = reply.verdict == "right";
    if json {
        output::json(&reply)?;
    } else if right {
        println!("the password of {user} is right (decided by {}, on {})", reply.decided_by, reply.node);
    }
    match right {
        true => Ok(()),
        false => Err(CliError::Failed(format!("{user}: {}: {}", reply.verdict, reply.detail))),
    }
}

fn show_test(json: bool, name: &str, reply: DirectoryTestReply) -> Result<(), CliError> {
    if json {
        output::json(&reply)?;
    } else {
        let result = |ok: bool| if ok { "ok" } else { "FAILED" }.to_owned();
        let rows = reply.steps.into_iter().map(|step| vec![step.step, result(step.ok), step.detail]);
        println!("{}", output::table(&["STEP", "RESULT", "DETAIL"], rows));
        if !reply.people.is_empty() {
            let header = ["NUMBER", "NAME", "MAIL", "CLASS", "ENTRY", "PROBLEMS"];
            println!("\n{}", output::table(&header, reply.people.into_iter().map(person_row)));
        }
    }
    match reply.ok {
        true => Ok(()),
        false => Err(CliError::Failed(format!("{} cannot read directory {name} now", reply.node))),
    }
}

fn person_row(person: MappedPerson) -> Vec<String> {
    let mut problems = person.problems;
    if person.disabled {
        problems.push("disabled".to_owned());
    }
    vec![person.number, person.name, person.mail, person.class, person.dn, problems.join("; ")]
}

fn table(directories: Vec<Directory>) -> String {
    let time = |ms: u64| if ms == 0 { "never".to_owned() } else { output::time(ms) };
    let rows = directories.into_iter().map(|directory| {
        let enabled = if directory.enabled { "yes" } else { "no" }.to_owned();
        let (full, success) = (time(directory.full_ms), time(directory.success_ms));
        vec![directory.name, enabled, directory.users.to_string(), full, success, directory.error]
    });
    output::table(&["DIRECTORY", "ENABLED", "USERS", "FULL SEARCH", "LAST SUCCESS", "ERROR"], rows)
}

fn run_row(run: DirectoryRun) -> Vec<String> {
    let kind = match (run.dry, run.accepted) {
        (true, _) => "dry run",
        (false, true) => "deletions accepted",
        (false, false) => "run",
    };
    let outcome = if run.ended_ms == 0 { "not ended".to_owned() } else { run.outcome };
    let counts = counted(run.counts.as_ref());
    vec![run.run.to_string(), output::time(run.began_ms), kind.to_owned(), outcome, counts]
}

fn counted(counts: Option<&RunCounts>) -> String {
    let RunCounts { new, changed, disabled, gone, returned, refused, unchanged } =
        counts.copied().unwrap_or_default();
    format!(
        "{new} new, {changed} changed, {disabled} disabled, {gone} gone, {returned} returned, {refused} refused, \
         {unchanged} unchanged"
    )
}
