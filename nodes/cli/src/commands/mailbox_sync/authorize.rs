//! `twinbox mailbox-sync server authorize`: a refresh token by the device grant (RFC 8628).

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use twinbox_oauth::{DeviceClient, DeviceFlow, TokenEndpoint};
use twinbox_wire::mailbox_sync::Server;

use super::server::setting;
use crate::output;
use twinbox_admin_client::CliError;
use twinbox_cli_args::AuthorizeArgs;

/// Timeout of a request, if the server's cannot be read.
const USUAL_TIMEOUT_S: u64 = 30;

/// Shows the code, waits for its confirmation, and writes the refresh token.
pub async fn run(json: bool, server: &Server, args: AuthorizeArgs) -> Result<(), CliError> {
    let (client, endpoint) = client(server, args.device_url)?;
    // First, so that a file that cannot be written is known before the sign-in.
    let file = TokenFile::create(&args.file)?;
    let flow = DeviceFlow::begin(&client, &endpoint).await.map_err(CliError::failed)?;
    let minutes = flow.expires_in().as_secs() / 60;
    eprintln!(
        "open {} in a browser on any machine, sign in, and enter the code {} within {minutes} minutes",
        flow.verification_url(),
        flow.user_code()
    );
    let token = flow.poll(tokio::time::sleep).await.map_err(CliError::failed)?;
    file.finish(token.reveal())?;
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

/// A new file that only its owner may read; dropped without [`Self::finish`], it leaves an earlier one as it was.
struct TokenFile {
    file: File,
    draft: PathBuf,
    path: PathBuf,
}

impl TokenFile {
    fn create(path: &Path) -> Result<Self, CliError> {
        let mut draft = path.as_os_str().to_owned();
        draft.push(".new");
        let draft = PathBuf::from(draft);
        // Of a command that was interrupted.
        let _ = fs::remove_file(&draft);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
        let file = file.map_err(|error| CliError::Failed(format!("{}: {error}", draft.display())))?;
        Ok(Self { file, draft, path: path.to_owned() })
    }

    fn finish(mut self, token: &str) -> Result<(), CliError> {
        let written = self.file.write_all(format!("{token}\n").as_bytes()).and_then(|()| self.file.sync_all());
        let written = written.and_then(|()| fs::rename(&self.draft, &self.path));
        written.map_err(|error| CliError::Failed(format!("{}: {error}", self.path.display())))
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        // After `finish`, there is none.
        let _ = fs::remove_file(&self.draft);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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

    #[test]
    fn token_file_is_for_its_owner_alone_and_replaces_an_earlier_one_only_when_complete() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("token");
        fs::write(&path, "earlier\n").expect("written");
        drop(TokenFile::create(&path).expect("created"));
        assert_eq!(fs::read_to_string(&path).expect("read"), "earlier\n");
        TokenFile::create(&path).expect("created").finish("later").expect("finished");
        assert_eq!(fs::read_to_string(&path).expect("read"), "later\n");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }
}
