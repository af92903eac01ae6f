//! `twinbox cluster operator-cert` and `twinbox cluster operator-revoke`.

use std::path::Path;

use twinbox_ids::NodeName;
use twinbox_pki::{OperatorKey, PkiError};
use twinbox_wire::join::{OperatorName, OperatorRequest};

use super::ca;
use crate::output;
use twinbox_admin_client::{CliError, client};
use twinbox_cli_args::OperatorCertArgs;

/// Makes a key here, obtains a certificate from a node, and writes both into a folder.
pub async fn make(socket: &Path, json: bool, args: OperatorCertArgs) -> Result<(), CliError> {
    let OperatorCertArgs { name, valid, out } = args;
    OperatorKey::fits(&out).map_err(usage)?;
    let key = OperatorKey::make().map_err(CliError::failed)?;
    let request = OperatorRequest {
        name: name.to_string(),
        public_key: key.public_key().into(),
        valid_ms: u64::try_from(valid.as_millis()).unwrap_or(u64::MAX),
    };
    let made = client::authorities(socket).await?.make_operator(request).await?.into_inner();
    key.save(&out, &made.certificate, &made.authorities).map_err(CliError::failed)?;
    let (folder, until) = (out.display(), ca::day(made.ends_ms));
    if json {
        return output::json(&serde_json::json!({
            "name": name.to_string(),
            "identity": folder.to_string(),
            "ends_ms": made.ends_ms,
            "nodes": made.nodes,
        }));
    }
    let node = made.nodes.first().map_or("HOST:PORT", String::as_str);
    println!(
        "{name} may administrate this cluster until {until}, as may anyone who has {folder}. Move that folder to the \
         operator's machine and run there:\n  twinbox --node {node} --identity {folder} cluster status"
    );
    Ok(())
}

/// Revokes the access of an operator.
pub async fn revoke(socket: &Path, json: bool, name: NodeName) -> Result<(), CliError> {
    let status =
        client::authorities(socket).await?.revoke_operator(OperatorName { name: name.to_string() }).await?;
    if json {
        return output::json(&status.into_inner());
    }
    println!("access of {name} is revoked on every node as soon as it learns of this");
    Ok(())
}

fn usage(error: PkiError) -> CliError {
    CliError::Usage(error.to_string())
}
