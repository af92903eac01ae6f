//! `twinbox demo`: two nodes and a witness on this machine, and a call that proves that they work.

mod check;
mod cluster;
mod plan;

pub use plan::{Addresses, Demo, Process, User};

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
};

use twinbox_admin_client::CliError;
use twinbox_wire::admin::{ClusterStatusReply, Member};

use cluster::Cluster;

/// The demo to run.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Ends after the self-check.
    pub once: bool,
    /// Folder for its files.
    pub dir: PathBuf,
    /// Deletes the files of an earlier demo in the folder.
    pub fresh: bool,
    /// First of its ports.
    pub base_port: u16,
}

/// Runs the demo until Ctrl-C, or with `--once` until the self-check is done.
pub async fn run(args: DemoOptions) -> Result<(), CliError> {
    let demo = Demo::prepare(&args.dir, args.base_port, args.fresh)?;
    introduce(&demo, &args);
    let mut cluster = Cluster::start(&args.dir, demo)?;
    let outcome = tokio::select! {
        outcome = serve(&mut cluster, args.once) => outcome,
        signal = interrupted() => match signal {
            Ok(()) if args.once => Err(CliError::Failed("interrupted before the self-check was done".to_owned())),
            signal => signal,
        },
    };
    if !args.once {
        println!("\nstopping ...");
    }
    cluster.stop().await?;
    outcome
}

async fn serve(cluster: &mut Cluster, once: bool) -> Result<(), CliError> {
    check::run(cluster).await?;
    println!("all steps passed");
    if once { Ok(()) } else { show_status(cluster).await }
}

/// Waits for Ctrl-C, or SIGTERM from the parent process.
async fn interrupted() -> Result<(), CliError> {
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(CliError::failed)?;
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => outcome.map_err(CliError::failed),
        _ = terminate.recv() => Ok(()),
    }
}

fn introduce(demo: &Demo, args: &DemoOptions) {
    println!("Twinbox demo in {}", args.dir.display());
    for process in &demo.processes {
        match &process.addresses.sip_udp {
            Some(sip) => println!("  {} {}  sip:{sip} (udp, tcp)", process.kind, process.name),
            None => println!("  {} {}", process.kind, process.name),
        }
    }
    println!("  users and PINs:");
    for five in demo.users.chunks(5) {
        let line: Vec<String> = five.iter().map(|u| format!("{} {}", u.number, u.pin)).collect();
        println!("    {}", line.join("   "));
    }
}

/// Status line that updates itself, below the settings for a softphone.
async fn show_status(cluster: &mut Cluster) -> Result<(), CliError> {
    let [a, b] = [0, 1].map(|i| cluster.process(i).addresses.sip_udp.clone().unwrap_or_default());
    println!(
        "\nIn a softphone on this machine (no registration): call sip:1001@{a} or sip:1001@{b} to leave a message,\n\
         sip:*98@{a} or sip:*98@{b} to hear it (mailbox, PIN, then #).\n\
         From here: twinbox call sip:1001@{a} --play FILE.wav\n\
         Kill one (pids in {}/demo.json: the node, which its supervisor starts again, or both) and call the other.\n\
         Ctrl-C stops all.\n",
        cluster.socket(0)?.ancestors().nth(3).unwrap_or_else(|| std::path::Path::new(".")).display()
    );
    let terminal = std::io::stdout().is_terminal();
    let mut last = String::new();
    loop {
        let mut status = None;
        for i in 0..2 {
            if let Ok(reply) = cluster.status(i).await {
                status = Some(reply);
                break;
            }
        }
        let line = status.map_or_else(|| "no node answers".to_owned(), |status| members(&status));
        if terminal {
            print!("\r\x1b[2K{line}");
            std::io::stdout().flush().map_err(CliError::failed)?;
        } else if line != last {
            println!("{line}");
        }
        last = line;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

/// The members on one line: name, status, role, calls.
fn members(status: &ClusterStatusReply) -> String {
    let member = |m: &Member| {
        let calls = m.info.as_ref().map(|i| format!(", {} calls", i.calls)).unwrap_or_default();
        format!("{} {} ({}{calls})", m.name, m.status, m.role)
    };
    status.members.iter().map(member).collect::<Vec<_>>().join("   ")
}
