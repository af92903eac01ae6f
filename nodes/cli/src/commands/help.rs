//! `twinbox completion`, `twinbox man`: both are generated from the command line's definitions.

use std::io::{self, Write};

use clap::CommandFactory;

use twinbox_admin_client::CliError;
use twinbox_cli_args::{Cli, CompletionArgs, ManArgs};

/// Prints a completion script.
pub fn completion(args: &CompletionArgs) -> Result<(), CliError> {
    let mut script: Vec<u8> = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "twinbox", &mut script);
    io::stdout().write_all(&script).map_err(|e| CliError::Failed(format!("cannot write the output: {e}")))
}

/// Writes a manual page for the program and for each of its commands.
pub fn man(args: &ManArgs) -> Result<(), CliError> {
    let failed =
        |e: io::Error| CliError::Failed(format!("cannot write manual pages to {}: {e}", args.dir.display()));
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap_complete::Shell;

    #[test]
    fn every_command_has_a_page_and_completes() {
        let dir = tempfile::tempdir().expect("a folder");
        man(&ManArgs { dir: dir.path().join("man1") }).expect("written");
        let nested = ["twinbox-cluster-status.1", "twinbox-device-test.1", "twinbox-mailbox-sync-server-test.1"];
        for page in ["twinbox.1", "twinbox-doctor.1"].into_iter().chain(nested) {
            let text = std::fs::read_to_string(dir.path().join("man1").join(page)).unwrap_or_default();
            assert!(text.contains(".SH NAME"), "{page}: {text}");
        }
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "twinbox", &mut script);
            let script = String::from_utf8(script).expect("text");
            assert!(script.contains("make-publisher") && script.contains("doctor"), "{shell}");
        }
    }
}
