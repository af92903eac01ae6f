//! `twinbox mailbox-sync server authorize`: a refresh token by the device grant (RFC 8628).

use std::{path::PathBuf, time::Duration};

use twinbox_oauth::{DeviceClient, DeviceFlow, TokenEndpoint};
use twinbox_wire::mailbox_sync::Server;

use super::server::setting;
use crate::{output, private_file::PrivateFile};
use twinbox_admin_client::CliError;
use twinbox_cli_args::AuthorizeArgs;

/// Timeout of a request, if the server's cannot be read.
const USUAL_TIMEOUT_S: u64 = 30;

/// Shows the code, waits for its confirmation, and writes the refresh token.
pub async fn run(json: bool, server: &Server, args: AuthorizeArgs) -> Result<(), CliError> {
    let (client, endpoint) = client(server, args.device_url)?;
    // First, so that a file that cannot be written is known before the sign-in.
    let file = PrivateFile::create(&args.file)?;
    let flow = DeviceFlow::begin(&client, &endpoint).await.map_err(CliError::failed)?;
    let minutes = flow.expires_in().as_secs() / 60;
    eprintln!(
        "open {} in a browser on any machine, sign in, and enter the code {} within {minutes} minutes",
        flow.verification_url(),
        flow.user_code()
    );
    let token = flow.poll(tokio::time::sleep).await.map_err(CliError::failed)?;
    file.finish(format!("{}\n", token.reveal()).as_bytes())?;
    let path = args.file.display();
    if json {
        return output::json(&serde_json::json!({ "file": path.to_string() }));
    }
    println!(
        "refresh token written to {path}; copy it to every node, as refresh-token-file of server {} or as password-file \
         of an account",
        server.name
    );
    Ok(())
}

/// Client and token endpoint of the server's settings.
fn client(server: &Server, device_url: String) -> Result<(DeviceClient, TokenEndpoint), CliError> {
    let needed = |word: &str| match setting(server, word) {
        "" => Err(CliError::Failed(format!(
            "server {0} has no {word}: give 'twinbox mailbox-sync server set {0} {word}=VALUE'",
            server.name
        ))),
        value => Ok(value.to_owned()),
    };
    let file = |word: &str| Some(setting(server, word)).filter(|path| !path.is_empty()).map(PathBuf::from);
    let client = DeviceClient {
        client_id: needed("client-id")?,
        secret_file: file("client-secret-file"),
        scope: needed("scope")?,
        device_url,
    };
    let timeout = Duration::from_secs(setting(server, "timeout").parse().unwrap_or(USUAL_TIMEOUT_S));
    Ok((client, TokenEndpoint { url: needed("token-url")?, ca_file: file("ca-file"), timeout }))
}

#[cfg(test)]
mod tests {
    use twinbox_wire::mailbox_sync::Setting;

    use super::*;

    fn server(settings: &[(&str, &str)]) -> Server {
        let set = |(word, value): &(&str, &str)| Setting { word: (*word).to_owned(), value: (*value).to_owned() };
        Server { name: "gmail".to_owned(), settings: settings.iter().map(set).collect(), ..Default::default() }
    }

    #[test]
    fn missing_setting_is_named_with_the_command_that_sets_it() {
        let mut settings = vec![("client-secret-file", "-"), ("timeout", "7")];
        for word in ["client-id", "scope", "token-url"] {
            let error = client(&server(&settings), String::new()).expect_err(word).to_string();
            assert!(error.contains(&format!("server set gmail {word}=VALUE")), "{error}");
            settings.push((word, "x"));
        }
        let (client, endpoint) = client(&server(&settings), "https://x.test/device".to_owned()).expect("complete");
        assert_eq!((client.secret_file, endpoint.timeout), (None, Duration::from_secs(7)));
    }
}
