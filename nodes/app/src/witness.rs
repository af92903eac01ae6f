//! A witness: votes in each of its clusters, holds no data.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{runtime::Handle, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use twinbox_admin_api::{NodeFacts, NodeInfoService};
use twinbox_config::{ClusterConfig, WitnessConfig, members_file};
use twinbox_diagnostics::{
    ProbedMembers, SipProber,
    folder::{Folder, Owner},
};
use twinbox_enrollment::certificates::{CertificateRenewer, MemberCluster, RenewerParts};
use twinbox_health::failed_store;
use twinbox_ids::Incarnation;
use twinbox_members::MemberClients;
use twinbox_roles::{MemberKind, Roles, RolesError, StoreError};
use twinbox_supervisor::EXIT_DISK_FAILED;
use twinbox_wire::admin::{NodeInfoRequest, node_info_client::NodeInfoClient};

use twinbox_runtime::{StopSignals, SystemdNotifier};

use crate::{
    AppError,
    peering::{self, PeerListener},
};

/// Time limit of a stop.
const CLOSING: Duration = Duration::from_secs(15);

/// Runs a witness until it gets a stop signal.
pub fn run_witness(config: WitnessConfig) -> Result<(), AppError> {
    config.log.start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(AppError::Runtime)?;
    runtime.block_on(run(config))
}

async fn run(config: WitnessConfig) -> Result<(), AppError> {
    let mut stop = StopSignals::listen(false).map_err(AppError::Runtime)?;
    let own = Owner { member: config.name.clone(), cluster: None };
    let _folder = Folder::take("witness.data_dir", &config.data_dir, &own, 0)?;
    // Bind everything before anything runs: a port in use must prevent the start, not leave a half-started witness.
    let mut listeners = Vec::new();
    for cluster in &config.clusters {
        listeners.push((cluster, PeerListener::bind(cluster, Handle::current()).await?));
    }
    let (mut served, mut stops) = (Vec::new(), Vec::new());
    let mut servers = JoinSet::new();
    let mut removals = JoinSet::new();
    let mut unreadable = None;
    for (cluster, listener) in listeners {
        // The other clusters are served nevertheless.
        let shared = config.clusters.len() > 1;
        let roles = match join(&config, cluster).await {
            Err(AppError::Roles(removed @ RolesError::Store(StoreError::Removed { .. }))) if shared => {
                error!(cluster = cluster.name, "{removed}: take its section out of this witness's file");
                continue;
            }
            Err(AppError::Roles(broken)) if shared && broken.is_of_store() => {
                error!(cluster = cluster.name, "this witness does not vote in the cluster: {broken}");
                let facts = NodeFacts::of_witness_without_store(&config.name, broken.to_string());
                stops.push(listener.stop());
                servers.spawn(listener.serve_facts(NodeInfoService::new(Arc::new(facts), cluster.tls.clone())));
                unreadable.get_or_insert(broken);
                continue;
            }
            roles => roles?,
        };
        removals.spawn({
            let (roles, name) = (roles.clone(), cluster.name.clone());
            async move { error!(cluster = name, "{}: it votes there no more", roles.removed().await) }
        });
        let facts = Arc::new(NodeFacts::of_witness(&config.name));
        let (stop, service) = (listener.stop(), NodeInfoService::new(facts, cluster.tls.clone()));
        let (tls, tls_dir) = (cluster.tls.clone(), cluster.tls_dir.clone());
        let group = MemberCluster { roles: roles.clone(), tls: tls.clone() };
        let renewer =
            CertificateRenewer::new(RenewerParts { tls, tls_dir, signer: None, cluster: group, alarms: None });
        servers.spawn(renewer.watch(stop.clone()));
        servers.spawn(members_file::watch(cluster.clone(), roles.clone(), |_| {}, stop.clone()));
        let members = Arc::new(MemberClients::new(&config.name, &roles, &cluster.tls));
        let probed = ProbedMembers { roles: roles.clone(), timing: cluster.timing, members };
        let prober = SipProber { own: config.name.clone(), cluster: Arc::new(probed), counts: Arc::default() };
        servers.spawn(prober.run(stop.clone()));
        servers.spawn(listener.serve((roles.service(), roles.exits()), None, service));
        served.push(roles);
        stops.push(stop);
    }
    if let Some(broken) = unreadable.take_if(|_| served.is_empty()) {
        return Err(broken.into());
    }
    info!(name = %config.name, clusters = config.clusters.len(), "the witness runs");
    let systemd = Arc::new(SystemdNotifier::from_env());
    systemd.ready();
    let ended = CancellationToken::new();
    let watchdog = tokio::spawn({
        let (systemd, ended) = (systemd.clone(), ended.clone());
        async move { systemd.watchdog(|| None, ended).await }
    });
    let all_removed = async { while removals.join_next().await.is_some() {} };
    tokio::select! {
        () = stop.next() => {
            info!("stopping");
            unreadable = None;
        }
        () = all_removed => info!("removed from every cluster: stopping"),
        reason = failed_store::of_witness(&served) => {
            error!("{reason}; this process ends, and the next one reads from the disk");
            // A disk that hangs must not hold up the next process.
            let _in_time = tokio::time::timeout(CLOSING, shut_down(&served)).await.is_ok();
            std::process::exit(EXIT_DISK_FAILED)
        }
    }
    systemd.stopping(CLOSING);
    shut_down(&served).await;
    stops.iter().for_each(CancellationToken::cancel);
    while servers.join_next().await.is_some() {}
    ended.cancel();
    // The result of the watchdog does not matter: the witness has stopped.
    let _ = watchdog.await;
    unreadable.map_or(Ok(()), |broken| Err(broken.into()))
}

async fn shut_down(served: &[Roles]) {
    for roles in served {
        roles.shutdown().await;
    }
}

/// Checks whether the witness of this configuration lives on this machine: each listener must answer with its own
/// certificate, and its store must be readable. The error names the cluster that fails.
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
        let facts = match tokio::time::timeout(within, ask).await {
            Ok(answer) => answer.map_err(failed)?.into_inner(),
            Err(_) => return Err(failed(format!("no answer within {within:?}"))),
        };
        if let Some(broken) = facts.services.into_iter().find(|service| !service.ok) {
            return Err(failed(format!("{} does not work: {}", broken.name, broken.detail)));
        }
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
        // A witness has no calls that could block its threads.
        &Handle::current(),
    )
    .await
}
