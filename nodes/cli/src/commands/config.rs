//! `twinbox config check`.

use twinbox_config::Config;

use twinbox_admin_client::CliError;
use twinbox_cli_args::ConfigCommand;

/// Checks a file and starts nothing.
pub fn run(command: ConfigCommand) -> Result<(), CliError> {
    let ConfigCommand::Check { file } = command;
    match Config::load(&file) {
        Ok(Config::Node(config)) => println!("{}: node '{}', no mistakes", file.display(), config.name),
        Ok(Config::Witness(config)) => {
            println!(
                "{}: witness '{}' of {}, no mistakes",
                file.display(),
                config.name,
                twinbox_ids::counted(config.clusters.len(), "cluster")
            )
        }
        Err(error) => {
            let mistakes = twinbox_ids::counted(error.count(), "mistake");
            return Err(CliError::Usage(format!("{error}\n{mistakes}; nothing was started")));
        }
    }
    Ok(())
}
