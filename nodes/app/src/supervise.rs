//! The start of a node's supervisor (rule R1).

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use twinbox_config::{NodeConfig, members_file};
use twinbox_diagnostics::folder::{Folder, Owner};
use twinbox_supervisor::{Member, Spec};

use crate::AppError;

/// Time limit of a stop in addition to the end of the calls: less than the node requests from the service manager.
const CLOSING: Duration = Duration::from_secs(12);

/// Runs the supervisor of the node in `file`, from which `config` was read; returns the exit code.
pub fn supervise_node(config: NodeConfig, file: &Path) -> Result<u8, AppError> {
    config.log.start();
    // The supervisor writes into the folder before the node does.
    let owner = Owner { member: config.name.clone(), cluster: Some(config.cluster.id) };
    Folder::suits("node.data_dir", &config.data_dir, &owner, config.reserve_bytes / 4)?;
    let (cluster, own) = (config.cluster, config.name.clone());
    let spec = Spec {
        node: config.name,
        data_dir: config.data_dir,
        program: own_program().map_err(AppError::Runtime)?,
        arguments: ["node".into(), "--config".into(), file.into(), "--child".into()].to_vec(),
        tls: cluster.tls.clone(),
        bind: config.supervisor,
        members: Box::new(move || {
            let others = members_file::known(&cluster).into_iter().filter(|member| member.name != own);
            others.map(|member| Member { name: member.name, address: member.address }).collect()
        }),
        patience: config.drain + CLOSING,
    };
    Ok(twinbox_supervisor::run(spec)?)
}

/// Path by which this program was started; `/proc/self/exe` if that path no longer exists.
fn own_program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    Ok(if path.exists() { path } else { PathBuf::from("/proc/self/exe") })
}
