//! A witness: votes in each of its clusters, holds no data.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{runtime::Handle, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use twinbox_ids::Incarnation;
use twinbox_roles::{MemberKind, Roles, RolesError};
use twinbox_wire::admin::{NodeInfoRequest, node_info_client::NodeInfoClient};

use crate::{
    AppError,
    certificates::Care,
    config::{ClusterConfig, WitnessConfig},
    folder::{Folder, Owner},
    knock::{Knocker, Shows},
    learned, logging,
    members::{self, NodeFacts, Others},
    peering::{self, PeerListener},
    stop::StopSignals,
    systemd::Manager,
};

/// Runs a witness until it is told to stop.
pub fn run_witness(config: WitnessConfig) -> Result<(), AppError> {
    logging::start(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(AppError::Runtime)?;
    runtime.block_on(run(config))
}

async fn run(config: WitnessConfig) -> Result<(), AppError> {
    let mut stop = StopSignals::listen(false)?;
    let own = Owner { member: config.name.clone(), cluster: None };
    let _folder = Folder::take("witness.data_dir", &config.data_dir, &own, 0)?;
    // Bind everything before anything runs: a taken port stops the start, not a half-started witness.
    let mut listeners = Vec::new();
    for cluster in &config.clusters {
        listeners.push((cluster, PeerListener::bind(cluster, Handle::current()).await?));
    }
    let mut served = Vec::new();
    let mut servers = JoinSet::new();
    let mut removals = JoinSet::new();
    for (cluster, listener) in listeners {
        let roles = match join(&config, cluster).await {
            // The others are served all the same.
            Err(AppError::Roles(removed @ RolesError::Removed { .. })) if config.clusters.len() > 1 => {
                error!(cluster = cluster.name, "{removed}: take its section out of this witness's file");
                continue;
            }
            roles => roles?,
        };
        removals.spawn({
            let (roles, name) = (roles.clone(), cluster.name.clone());
            async move { error!(cluster = name, "{}: it votes there no more", roles.removed().await) }
        });
        let facts = Arc::new(NodeFacts::of_witness(&config.name));
        let (stop, service) = (listener.stop(), members::Service::new(facts, cluster.tls.clone()));
        let (tls, tls_dir) = (cluster.tls.clone(), cluster.tls_dir.clone());
        let care = Care { tls, tls_dir, signer: None, roles: roles.clone(), alarms: None };
        servers.spawn(care.watch(stop.clone()));
        servers.spawn(learned::watch(cluster.clone(), roles.clone(), |_| {}, stop.clone()));
        let knocker = Knocker {
            own: config.name.clone(),
            roles: roles.clone(),
            timing: cluster.timing,
            others: Arc::new(Others::new(&config.name, &roles, &cluster.tls)),
            shows: Arc::new(Shows::default()),
        };
        servers.spawn(knocker.run(stop.clone()));
        servers.spawn(listener.serve((roles.service(), roles.exits()), None, service));
        served.push((roles, stop));
    }
    info!(name = %config.name, clusters = config.clusters.len(), "the witness runs");
    let manager = Arc::new(Manager::of_environment());
    let ended = CancellationToken::new();
    let watchdog = tokio::spawn({
        let (manager, ended) = (manager.clone(), ended.clone());
        async move { manager.watchdog(|| None, ended).await }
    });
    manager.ready();
    let all_removed = async { while removals.join_next().await.is_some() {} };
    tokio::select! {
        () = stop.next() => info!("stopping"),
        () = all_removed => info!("removed from every cluster: stopping"),
    }
    manager.stopping(Duration::from_secs(15));
    for (roles, stop) in served {
        roles.shutdown().await;
        stop.cancel();
    }
    while servers.join_next().await.is_some() {}
    ended.cancel();
    // It only watches: however it ended, the witness has stopped.
    let _ = watchdog.await;
    Ok(())
}

/// Asks the witness of this configuration, which runs on this machine, whether it lives: each of its listeners must
/// answer its own certificate. The error says which does not.
pub async fn ask_witness(config: &WitnessConfig, within: Duration) -> Result<(), String> {
    for cluster in &config.clusters {
        let mut address = cluster.bind;
        if address.ip().is_unspecified() {
            let local =
                if address.is_ipv4() { IpAddr::from([127, 0, 0, 1]) } else { [0, 0, 0, 0, 0, 0, 0, 1].into() };
            address.set_ip(local);
        }
        let failed = |why: String| format!("cluster {}, {address}: {why}", cluster.name);
        let endpoint =
            cluster.tls.endpoint(&config.name, &address.to_string()).map_err(|error| failed(error.to_string()))?;
        let ask = async {
            let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
            NodeInfoClient::new(channel).show(NodeInfoRequest {}).await.map_err(|error| error.to_string())
        };
        match tokio::time::timeout(within, ask).await {
            Ok(answer) => answer.map_err(failed)?,
            Err(_) => return Err(failed(format!("no answer within {within:?}"))),
        };
    }
    Ok(())
}

async fn join(config: &WitnessConfig, cluster: &ClusterConfig) -> Result<Roles, AppError> {
    peering::start_roles(
        cluster,
        &config.name,
        MemberKind::Witness,
        Incarnation::random(),
        &config.data_dir.join(cluster.id.to_string()),
        false,
        // A witness has no calls that could keep its threads busy.
        &Handle::current(),
    )
    .await
}
