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
                "{}: witness '{}' of {} clusters, no mistakes",
                file.display(),
                config.name,
                config.clusters.len()
            )
        }
        Err(error) => {
            let count = error.count();
            let plural = if count == 1 { "mistake" } else { "mistakes" };
            return Err(CliError::Usage(format!("{error}\n{count} {plural}; nothing was started")));
        }
    }
    Ok(())
}
