//! Services of the nodes: list and restart.

use std::sync::Arc;

use tonic::{Response, Status};
use twinbox_config::nearest;
use twinbox_ids::NodeName;
use twinbox_roles::{MemberKind, RolesView};
use twinbox_wire::admin::{Done, NodeServices, ServiceListReply, ServiceRestartRequest};

use crate::{AdminHandles, node_info::NodeFacts};

/// Services of one node, or of all nodes.
pub async fn list(
    node: &AdminHandles,
    facts: &NodeFacts,
    wanted: &str,
) -> Result<Response<ServiceListReply>, Status> {
    let names = nodes(node);
    let wanted = if wanted.is_empty() { names } else { vec![named(&names, wanted)?] };
    let mut infos =
        if wanted.iter().all(|name| *name == node.name) { Default::default() } else { node.members.ask().await };
    infos.insert(node.name.clone(), facts.show());
    let nodes = wanted
        .into_iter()
        .map(|name| {
            let services = infos.remove(&name).map(|info| info.services);
            let problem = match &services {
                None => "it does not answer".to_owned(),
                Some(services) if services.is_empty() => "it has no results yet".to_owned(),
                Some(_) => String::new(),
            };
            NodeServices { node: name.to_string(), services: services.unwrap_or_default(), problem }
        })
        .collect();
    Ok(Response::new(ServiceListReply { nodes }))
}

/// Restarts a service here or on another node.
pub async fn restart(
    node: &AdminHandles,
    facts: &NodeFacts,
    request: ServiceRestartRequest,
) -> Result<Response<Done>, Status> {
    let ServiceRestartRequest { node: at, service, force } = request;
    let at = if at.is_empty() { node.name.clone() } else { named(&nodes(node), &at)? };
    if at == node.name {
        return facts.restart(&service, force).await;
    }
    node.members.restart_service(&at, &service, force).await?;
    Ok(Response::new(Done {}))
}

/// All nodes, including this one even before a cluster is known.
fn nodes(node: &AdminHandles) -> Vec<NodeName> {
    let view: Arc<RolesView> = node.roles.watch().borrow().clone();
    let members = view.members.iter().filter(|member| member.kind == MemberKind::Node);
    let mut names: Vec<NodeName> = members.map(|member| member.name.clone()).collect();
    if !names.contains(&node.name) {
        names.push(node.name.clone());
    }
    names
}

fn named(names: &[NodeName], wanted: &str) -> Result<NodeName, Status> {
    if let Some(found) = names.iter().find(|name| name.as_str() == wanted) {
        return Ok(found.clone());
    }
    let known: Vec<&str> = names.iter().map(NodeName::as_str).collect();
    let near = nearest(wanted, &known).map(|near| format!(" (did you mean '{near}'?)")).unwrap_or_default();
    Err(Status::not_found(format!("there is no node '{wanted}'{near}: nodes are {}", known.join(", "))))
}
