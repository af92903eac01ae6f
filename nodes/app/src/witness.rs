//! A witness: votes in each of its clusters, holds no data.

use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::info;
use twinbox_ids::Incarnation;
use twinbox_roles::{MemberKind, Roles};

use crate::{
    AppError,
    config::{ClusterConfig, WitnessConfig},
    logging,
    members::{self, NodeFacts},
    peering::{self, PeerListener},
    stop::StopSignals,
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
    let mut stop = StopSignals::listen()?;
    // Bind everything before anything runs: a taken port stops the start, not a half-started witness.
    let mut listeners = Vec::new();
    for cluster in &config.clusters {
        listeners.push((cluster, PeerListener::bind(cluster).await?));
    }
    let mut served = Vec::new();
    let mut servers = JoinSet::new();
    for (cluster, listener) in listeners {
        let roles = join(&config, cluster).await?;
        let facts = Arc::new(NodeFacts::of_witness(&config.name));
        let (stop, service) = (listener.stop(), members::Service::new(facts, cluster.tls.clone()));
        servers.spawn(listener.serve(roles.service(), None, service));
        served.push((roles, stop));
    }
    info!(name = %config.name, clusters = config.clusters.len(), "the witness runs");
    stop.next().await;
    info!("stopping");
    for (roles, stop) in served {
        roles.shutdown().await;
        stop.cancel();
    }
    while servers.join_next().await.is_some() {}
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
    )
    .await
}
